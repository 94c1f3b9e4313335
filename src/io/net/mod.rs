//! The network of the host: links, addresses, routes and neighbours by netlink, network namespaces,
//! those of pods made beforehand, echoes of other boards.
//!
//! Own small netlink encoder, no external programs. It knows nothing of pods or services; `nft` carries
//! out rules that were made from them.

mod changes;
mod echo;
mod links;
mod namespace;
mod netlink;
pub mod nft;
mod prepared;
mod routes;
pub mod sysctl;
pub mod trial;

pub use changes::AddressChanges;
pub use echo::Echo;
pub use links::{Link, LinkAddress, Links, Mac, VethEnd};
pub use namespace::{create, inside, remove};
pub use prepared::{Prepared, is_pod_link};
pub use routes::{Lookup, NextHop, PROTOCOL, Route, Routes};
