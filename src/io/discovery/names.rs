//! Names of the site that this board announces: an address record each (RFC 6762), probed for first,
//! so that a machine that has the name already keeps it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use mdns_sd::{ServiceDaemon, ServiceInfo};

/// The service type under which the names can be browsed.
const SERVICE: &str = "_kumquat-svc._tcp.local.";

/// Names, without `.local`, and their addresses.
pub type Names = BTreeMap<String, Vec<Ipv4Addr>>;

/// What one daemon announces.
#[derive(Debug, Default)]
pub(super) struct Announced(Names);

impl Announced {
    /// Announces what is new or changed, and says goodbye to what is gone. A name that the library
    /// refuses is passed over.
    ///
    /// # Errors
    /// The daemon is gone.
    pub(super) fn change(
        &mut self,
        daemon: &ServiceDaemon,
        wanted: &Names,
    ) -> Result<(), mdns_sd::Error> {
        let gone: Vec<String> =
            self.0.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            daemon.unregister(&format!("{name}.{SERVICE}"))?;
            self.0.remove(&name);
        }
        for (name, addresses) in wanted {
            if self.0.get(name) == Some(addresses) {
                continue;
            }
            match service(name, addresses) {
                Ok(service) => daemon.register(service)?,
                Err(error) => tracing::warn!(name, %error, "cannot be announced on the site"),
            }
            self.0.insert(name.clone(), addresses.clone());
        }
        Ok(())
    }
}

fn service(name: &str, addresses: &[Ipv4Addr]) -> Result<ServiceInfo, mdns_sd::Error> {
    let addresses: Vec<IpAddr> = addresses.iter().copied().map(IpAddr::V4).collect();
    let host = format!("{name}.local.");
    let (no_port, nothing): (u16, &[(&str, &str)]) = (0, &[]);
    ServiceInfo::new(SERVICE, name, &host, &addresses[..], no_port, nothing)
}
