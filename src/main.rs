//! The kumquat binary.
fn main() {}
