//! Configuration, roles and their supervision, command line.

mod cli;
pub mod version;
