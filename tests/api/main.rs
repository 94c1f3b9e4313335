//! The API over real TLS with the real store: recorded answers, access, watches, bad input.

#[path = "../harness/api.rs"]
mod harness;

mod access;
mod audit;
mod bad_input;
mod boards;
mod discovery;
mod exchanges;
mod logs;
mod objects;
mod replay;
mod roles;
mod watching;
