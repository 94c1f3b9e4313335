//! Sockets of a board's DNS: those that clients ask, and those on which upstream servers are asked.
//!
//! In: bytes. Out: bytes. What they mean is `logic::dns`'s; nothing is decided here.

mod exchange;
mod held;
mod stream;

pub use exchange::{ask, ask_over_tcp};
pub use held::Held;
pub use stream::{read_message, write_message};
