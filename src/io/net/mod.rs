//! The network of the host: links and addresses by netlink, network namespaces.
//!
//! Own small netlink encoder, no external programs. It knows nothing of pods or services.

mod changes;
mod links;
mod namespace;
mod netlink;

pub use changes::AddressChanges;
pub use links::Links;
pub use namespace::{create, inside, remove};
