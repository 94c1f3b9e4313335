//! An embedded MQTT 3.1.1 broker: small, bounded in everything, over any byte stream.
//!
//! ```text
//! stream ── connection ── conversation ── hub ── session ── outbox
//!            bytes, time    packets        who gets what     what waits
//! ```
//!
//! Offers QoS 0 and 1, retained messages, wills, clean and persistent sessions, take-over, local
//! subscriptions and publishing, and rules of its owner ([`Access`]). A subscription of QoS 2 is
//! granted as 1. Who does not take its messages is cut off; nobody waits longer for it than
//! [`Limits::stall`].
//!
//! Deliberately absent: QoS 2, sessions on disk, bridges, its own TLS, sockets and log lines. The
//! owner accepts streams, and logs the [`Ended`] of each.

mod access;
mod broker;
mod codec;
mod connection;
mod conversation;
mod ended;
mod hub;
mod judge;
mod limits;
mod local;
mod message;
mod outbox;
mod presence;
mod retained;
mod session;
mod subscriber;
mod topic;
mod tree;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use access::{Access, AllowAll, Connecting, Peer, Refusal};
pub use broker::{Broker, Counts};
pub use ended::Ended;
pub use judge::judge;
pub use limits::Limits;
pub use local::Local;
pub use message::Message;
pub use presence::{Presence, PresenceEvents};

/// A panic in one connection must not end all others, and no state here is left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
