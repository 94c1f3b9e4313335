//! Access control where objects are written: the first roles, and what a client's write may make of an
//! object. Who may do what at all is `logic::access`; the API asks it.

pub mod bootstrap;
mod guard;

pub(super) use guard::of_write;
