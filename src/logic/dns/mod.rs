//! DNS of a board: what a query is answered with.
//!
//! ```text
//!  bytes ─ judge ─▶ noise | refusal | query ─ Zone ─▶ answer
//!                                         │     ├──▶ alias: its target is asked for, then appended
//!                                         │     └──▶ not of this cluster: Cache ─▶ answer
//!                                         │                                └─▶ Servers: whom to ask
//! ```
//! In: bytes, the network state, time, dice. Out: bytes, or whom to ask. Invariant: whatever comes in,
//! an answer is within its transport's size and nothing panics; names of the cluster are answered from
//! the state alone, so no other server can delay or forge them. It opens no socket and reads no file.

mod answer;
mod cache;
mod name;
mod packet;
mod query;
mod reply;
mod resolv;
#[cfg(test)]
mod tests;
pub mod types;
mod upstream;
mod zone;

pub use answer::{Answer, Outcome, TTL_SECONDS};
pub use cache::{Cache, Kept};
pub use name::{NAME_WIRE_BYTES_MAX, Name};
pub use packet::{Key, Packet, Question};
pub use query::{Edns, Judged, Query, Refusal, judge, rcode};
pub use reply::{Data, Reply, Section};
pub use resolv::{PodDns, PodResolv, Resolv, for_pod};
pub use upstream::Servers;
pub use zone::{CLUSTER_DOMAIN, Ranges, Zone};
