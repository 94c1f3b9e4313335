//! The bus between masters and boards: MQTT 3.1.1 over mutual TLS on port 8883.
//!
//! ```text
//!  master                                                        board
//!  master::boards ── broker ── server (TLS, who may connect) ~~~ client ── io::link ── agent
//! ```
//! The bus carries the very bytes of the in-memory link, as QoS 0 (docs/adr/0002-bus-delivery.md):
//! any message may be lost, the versions in the beats reveal it. A message larger than one payload
//! comes down as a pointer ([`model::wire::FetchV1`]) and is fetched elsewhere.
//!
//! TLS settings and names of peers come from outside: this adapter knows no certificates.

pub mod client;
pub mod external;
mod gated;
mod master;
mod server;
mod topics;

pub use gated::Gated;
pub use master::{BusEvent, BusEvents, Embedded, EmbeddedEvents, MasterBus, Waiting};
pub use server::{Identify, Server, limits};
pub use topics::Topics;

/// The protocol that both ends name in their handshake.
pub const ALPN: &[u8] = b"mqtt";
