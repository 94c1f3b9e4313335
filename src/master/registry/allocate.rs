//! ClusterIPs and node ports: each belongs to at most one Service.
//!
//! What is taken is derived from the stored Services at start and kept as two small sets. A write of
//! a Service holds the allocator (one at a time); what it takes is given back unless the write is
//! committed, and what the Service had before is free only after the commit.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use model::network::Ipv4Block;
use model::resource::{self, Resource};
use model::status::ApiError;
use model::validation::{FieldError, invalid};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::errors::invalid_field;
use super::metadata;
use super::object::{child_mut, parse};
use super::service::unserved_families;
use crate::io::store::{ListRange, Store, StoreError};

/// Node ports of a cluster.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// The address that belongs to cluster DNS is the tenth of the range.
const DNS_OFFSET: u32 = 10;
/// What a dry run answers for a node port (`portallocator` counts up from 32768 there).
const DRY_RUN_PORT: u16 = 32_769;
/// Services read from the store at a time.
const SCAN_RECORDS: usize = 500;

/// A range of IPv4 addresses that ClusterIPs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    base: u32,
    prefix: u8,
}

impl ServiceRange {
    /// The range `address/prefix`; `None` when it is not between /12 and /28 or has host bits set.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let base = u32::from(address);
        let range = Self { base, prefix };
        ((12..=28).contains(&prefix) && base & (range.size() - 1) == 0).then_some(range)
    }

    /// Reads `10.43.0.0/16`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        Self::new(address.parse().ok()?, prefix.parse().ok()?)
    }

    /// The address of the `kubernetes` Service: the first after the network's own.
    pub fn api_address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// The address of the `kube-dns` Service: the tenth.
    pub fn dns_address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + DNS_OFFSET)
    }

    fn size(self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    /// Offsets of usable addresses: not the network's and not the broadcast address.
    fn usable(self) -> RangeInclusive<u32> {
        1..=self.size() - 2
    }

    /// The lower addresses are left to those who choose their own
    /// (`calculateRangeOffset` of upstream's ipallocator).
    fn band(self) -> u32 {
        if self.size() <= 16 { 0 } else { (self.size() / 16).clamp(16, 256) }
    }

    fn offset(self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(self.base)?;
        self.usable().contains(&offset).then_some(offset)
    }
}

impl From<ServiceRange> for Ipv4Block {
    fn from(range: ServiceRange) -> Self {
        Self::new(Ipv4Addr::from(range.base), range.prefix)
    }
}

impl std::fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// What is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allocator {
    range: ServiceRange,
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u16>,
}

/// Addresses and ports of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holding {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u16>,
}

impl Holding {
    fn of(range: ServiceRange, service: &Value) -> Self {
        let mut holding = Self::default();
        let spec = &service["spec"];
        let listed = spec["clusterIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
        for text in listed.iter().chain([&spec["clusterIP"]]).filter_map(Value::as_str) {
            holding.addresses.extend(text.parse().ok().and_then(|ip| range.offset(ip)));
        }
        let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let node_ports = ports.iter().map(|port| &port["nodePort"]);
        for port in node_ports.chain([&spec["healthCheckNodePort"]]).filter_map(Value::as_u64) {
            holding.ports.extend(u16::try_from(port).ok().filter(|port| *port != 0));
        }
        holding
    }
}

impl Allocator {
    /// What the stored Services hold.
    pub(super) fn from_store(store: &Store, range: ServiceRange) -> Result<Self, StoreError> {
        let mut allocator = Self { range, addresses: BTreeSet::new(), ports: BTreeSet::new() };
        let kind = services();
        let mut after = None;
        loop {
            let page = store.list(&ListRange {
                kind: kind.kind_key(),
                namespace: None,
                after: after.take(),
                limit: SCAN_RECORDS,
            })?;
            for record in &page.records {
                let mut holding = Holding::of(range, &parse(&record.body));
                allocator.addresses.append(&mut holding.addresses);
                allocator.ports.append(&mut holding.ports);
            }
            match page.records.last() {
                Some(last) if page.more => {
                    after = Some((last.key.namespace.clone(), last.key.name.clone()));
                }
                _ => return Ok(allocator),
            }
        }
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.addresses.len(), self.ports.len())
    }
}

/// The allocator while one write of Services is being made.
pub(super) struct Lease {
    allocator: OwnedMutexGuard<Allocator>,
    taken: Holding,
    released: Holding,
    dry_run: bool,
}

impl Lease {
    pub(super) fn new(allocator: OwnedMutexGuard<Allocator>, dry_run: bool) -> Self {
        Self { allocator, taken: Holding::default(), released: Holding::default(), dry_run }
    }

    /// The write happened: what was taken stays taken, what was released is free.
    pub(super) fn commit(mut self) {
        for offset in std::mem::take(&mut self.released.addresses) {
            self.allocator.addresses.remove(&offset);
        }
        for port in std::mem::take(&mut self.released.ports) {
            self.allocator.ports.remove(&port);
        }
        self.taken = Holding::default();
    }

    /// Whether the write happened is unknown: what was taken stays taken and what was released is not
    /// free, until the allocator is made anew in the next reign.
    pub(super) fn keep(&mut self) {
        self.taken = Holding::default();
        self.released = Holding::default();
    }

    /// Fills in and takes what `service` needs; `old` is the stored Service that it replaces.
    ///
    /// # Errors
    /// 422 for an address or port that is outside its range or taken, 500 when a range is full.
    pub(super) fn allocate(
        &mut self,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let unserved = unserved_families(service);
        if !unserved.is_empty() {
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            return Err(invalid(services(), name, &unserved));
        }
        let before = old.map(|old| Holding::of(self.allocator.range, old)).unwrap_or_default();
        self.allocate_address(service, &before)?;
        self.allocate_ports(service, &before)?;
        let after = Holding::of(self.allocator.range, service);
        self.released.addresses.extend(before.addresses.difference(&after.addresses));
        self.released.ports.extend(before.ports.difference(&after.ports));
        Ok(())
    }

    /// Gives back what a deleted Service held, once the delete is committed.
    pub(super) fn release(&mut self, service: &Value) {
        let mut holding = Holding::of(self.allocator.range, service);
        self.released.addresses.append(&mut holding.addresses);
        self.released.ports.append(&mut holding.ports);
    }

    fn allocate_address(&mut self, service: &mut Value, before: &Holding) -> Result<(), ApiError> {
        if service["spec"]["type"] == "ExternalName" {
            return Ok(());
        }
        let address = match service["spec"]["clusterIP"].as_str().unwrap_or_default() {
            "None" => "None".to_owned(),
            "" => self.next_address()?.to_string(),
            asked => {
                let asked = asked.to_owned();
                self.take_address(service, &asked, before)?;
                asked
            }
        };
        let spec = child_mut(service, "spec");
        spec.insert("clusterIPs".into(), json!([address]));
        spec.insert("clusterIP".into(), address.into());
        Ok(())
    }

    fn take_address(
        &mut self,
        service: &Value,
        asked: &str,
        before: &Holding,
    ) -> Result<(), ApiError> {
        let refuse = |why: &str| {
            let text = format!("failed to allocate IP {asked}: {why}");
            Err(service_error(
                service,
                FieldError::invalid("spec.clusterIPs", json!([asked]), text),
            ))
        };
        // Text that is no address at all was refused by validation.
        let Ok(address) = asked.parse() else { return Ok(()) };
        let range = self.allocator.range;
        let Some(offset) = range.offset(address) else {
            return refuse(&format!(
                "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {range}"
            ));
        };
        if before.addresses.contains(&offset) {
            return Ok(());
        }
        let meta = &service["metadata"];
        let is_api = meta["namespace"] == "default" && meta["name"] == "kubernetes";
        let reserved = address == range.api_address() && !is_api;
        if reserved || self.allocator.addresses.contains(&offset) {
            return refuse("provided IP is already allocated");
        }
        self.hold_address(offset);
        Ok(())
    }

    fn hold_address(&mut self, offset: u32) {
        if !self.dry_run {
            self.allocator.addresses.insert(offset);
            self.taken.addresses.insert(offset);
        }
    }

    /// A free address: from a random place in the upper band on, then from the lower band.
    fn next_address(&mut self) -> Result<Ipv4Addr, ApiError> {
        let range = self.allocator.range;
        if self.dry_run {
            return Ok(Ipv4Addr::from(range.base));
        }
        let (first, last) = range.usable().into_inner();
        let upper = first.max(range.band());
        let start = upper + random()? % (last - upper + 1);
        let candidates = (start..=last).chain(upper..start).chain(first..upper);
        let free = candidates
            .filter(|offset| *offset != 1 && *offset != DNS_OFFSET)
            .find(|offset| !self.allocator.addresses.contains(offset));
        let Some(offset) = free else {
            return Err(ApiError::internal(
                "Internal error occurred: failed to allocate a serviceIP: range is full",
            ));
        };
        self.hold_address(offset);
        Ok(Ipv4Addr::from(range.base + offset))
    }

    fn allocate_ports(&mut self, service: &mut Value, before: &Holding) -> Result<(), ApiError> {
        let spec = &service["spec"];
        let balanced = spec["type"] == "LoadBalancer";
        let wanted = spec["type"] == "NodePort"
            || balanced && spec["allocateLoadBalancerNodePorts"] != json!(false);
        if !wanted && !balanced {
            return Ok(());
        }
        let count = spec["ports"].as_array().map_or(0, Vec::len);
        // Ports that are asked for come first, so that a random one does not take them away. The
        // same number may serve two protocols.
        let mut own = BTreeSet::new();
        for index in 0..count {
            let asked = service["spec"]["ports"][index]["nodePort"].as_i64().unwrap_or(0);
            if asked != 0 {
                let field = format!("spec.ports[{index}].nodePort");
                own.extend(self.take_port(service, &field, asked, before, &own)?);
            }
        }
        for index in 0..count {
            if wanted && service["spec"]["ports"][index]["nodePort"].as_i64().unwrap_or(0) == 0 {
                let port = self.next_port(own.len())?;
                own.insert(port);
                service["spec"]["ports"][index]["nodePort"] = port.into();
            }
        }
        let local = service["spec"]["externalTrafficPolicy"] == "Local";
        if balanced && local {
            let asked = service["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0);
            if asked == 0 {
                service["spec"]["healthCheckNodePort"] = self.next_port(own.len())?.into();
            } else {
                self.take_port(service, "spec.healthCheckNodePort", asked, before, &own)?;
            }
        }
        Ok(())
    }

    fn take_port(
        &mut self,
        service: &Value,
        field: &str,
        asked: i64,
        before: &Holding,
        own: &BTreeSet<u16>,
    ) -> Result<Option<u16>, ApiError> {
        let refuse =
            |why: String| Err(service_error(service, FieldError::invalid(field, asked, why)));
        let port = u16::try_from(asked).ok();
        if port.is_some_and(|port| before.ports.contains(&port) || own.contains(&port)) {
            return Ok(port);
        }
        // A real server does not look at node ports in a dry run.
        if self.dry_run {
            return Ok(port);
        }
        let Some(port) = port.filter(|port| NODE_PORTS.contains(port)) else {
            let (first, last) = NODE_PORTS.into_inner();
            return refuse(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            ));
        };
        if !self.allocator.ports.insert(port) {
            return refuse("provided port is already allocated".into());
        }
        self.taken.ports.insert(port);
        Ok(Some(port))
    }

    fn next_port(&mut self, own: usize) -> Result<u16, ApiError> {
        if self.dry_run {
            return Ok(DRY_RUN_PORT.saturating_add(u16::try_from(own).unwrap_or(u16::MAX)));
        }
        let (first, last) = NODE_PORTS.into_inner();
        let span = u32::from(last - first) + 1;
        let start = first + u16::try_from(random()? % span).expect("the span fits in 16 bits");
        let free =
            (start..=last).chain(first..start).find(|port| !self.allocator.ports.contains(port));
        let Some(port) = free else {
            return Err(ApiError::internal(
                "Internal error occurred: failed to allocate a nodePort: range is full",
            ));
        };
        self.allocator.ports.insert(port);
        self.taken.ports.insert(port);
        Ok(port)
    }
}

impl Drop for Lease {
    /// The write did not happen: what was taken is free again.
    fn drop(&mut self) {
        for offset in std::mem::take(&mut self.taken.addresses) {
            self.allocator.addresses.remove(&offset);
        }
        for port in std::mem::take(&mut self.taken.ports) {
            self.allocator.ports.remove(&port);
        }
    }
}

fn services() -> &'static Resource {
    resource::by_kind_key("/services").expect("services are in the table")
}

fn service_error(service: &Value, error: FieldError) -> ApiError {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    invalid_field(services(), name, error)
}

fn random() -> Result<u32, ApiError> {
    let mut bytes = [0; 4];
    metadata::fill(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
