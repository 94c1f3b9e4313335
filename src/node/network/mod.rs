//! A board's network: what it hears of services and boards, and what it makes of it.

pub mod dns;
pub mod health_check;
pub mod proxy;
mod state;
mod state_file;

pub(crate) use state::NetHeld;
pub(crate) use state_file::NetFiles;
