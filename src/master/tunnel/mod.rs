//! The master's side of the tunnels: streams that it opens to boards, and images for boards.
//!
//! In: requests for a stream of a board (logs, blobs), and the boards' requests over their
//! connections. Out: chunks. Invariant: a board gets and answers only what is its own; every count,
//! queue and wait is bounded. Back-pressure goes from end to end: a slow client makes the board wait.

mod images;
mod routes;
mod streams;

pub use images::{BINARY_NAME, Images, Relay};
pub use routes::Routes;
pub use streams::{NotYours, Requests, Streams, Taken};
