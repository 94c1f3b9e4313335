//! What a name of the cluster means: looked up in the network state as it is, nothing is copied.
//!
//! ```text
//! cluster.local                                  SOA, NS
//!   dns-version                                  TXT
//!   ns.dns                                       A of the DNS service
//!   svc.<ns>.<service>                           A (one, or one per endpoint), CNAME, SRV of all ports
//!            <service>._tcp._<port>              SRV
//!            <service>.<hostname or a-b-c-d>     A of an endpoint
//!   pod.<ns>.a-b-c-d                             A
//! <reverse of the service and pod ranges>        PTR
//! ```
//! (Kubernetes DNS-based service discovery 1.1; CoreDNS for what it leaves open.)

use std::net::Ipv4Addr;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use model::network::{Ipv4Block, NetEndpoint, NetService, NetState, Protocol};

use super::name::Name;

/// The domain of every cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Labels looked at: `_port._proto.service.ns.svc.cluster.local` has seven.
const TAIL: usize = 8;

/// The addresses that this cluster gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// To pods.
    pub pods: Ipv4Block,
    /// To services; DNS is the tenth.
    pub services: Ipv4Block,
}

impl Ranges {
    /// The address of the API's service, the first one.
    pub fn api_address(&self) -> Ipv4Addr {
        self.services.nth(1).unwrap_or(self.services.network)
    }

    /// The address of the DNS service.
    pub fn dns_address(&self) -> Ipv4Addr {
        self.services.nth(10).unwrap_or(self.services.network)
    }
}

/// The names of a cluster in one state of its network.
#[derive(Debug)]
pub struct Zone {
    state: Arc<NetState>,
    ranges: Ranges,
    /// Made when the first pointer is asked for.
    reverse: OnceLock<Vec<(Ipv4Addr, Arc<NetService>)>>,
}

/// What lies at a name.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// The name is not of this cluster.
    Outside,
    /// Nothing is known yet.
    Unknown,
    /// Nothing.
    Nothing,
    /// Only names below it, or records of types that nobody asks for.
    Empty,
    /// The domain itself.
    Apex,
    /// `dns-version`.
    Version,
    /// An address that has one name.
    Address(Ipv4Addr),
    /// A service.
    Service(&'a NetService),
    /// `ExternalName`.
    Alias(&'a str),
    /// A port of a service, by its place among [`NetService::ports`].
    Port(&'a NetService, usize),
    /// The endpoints of one host name.
    Endpoint(&'a NetService, EndpointName<'a>),
    /// The names of an address.
    Pointers(Ipv4Addr),
}

/// How an endpoint is called below its service.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndpointName<'a> {
    label: &'a [u8],
    address: Option<Ipv4Addr>,
}

impl EndpointName<'_> {
    /// Whether an endpoint has this name.
    pub(super) fn is_of(&self, endpoint: &NetEndpoint) -> bool {
        match endpoint.hostname.is_empty() {
            true => self.address == Some(endpoint.address),
            false => endpoint.hostname.as_bytes().eq_ignore_ascii_case(self.label),
        }
    }
}

/// Which zone a name lies in, as the owner of its SOA record.
pub(super) fn apex_of(name: &Name, ranges: &Ranges) -> Name {
    match reverse_of(name) {
        Some((address, given)) => {
            let ours = [ranges.services, ranges.pods].into_iter().find(|r| r.contains(address));
            let octets = ours.map_or(given, |range| usize::from(range.prefix / 8).min(given));
            name.suffix(2 + octets)
        }
        None => name.suffix(2),
    }
}

impl Zone {
    /// The names of a state.
    pub fn new(state: Arc<NetState>, ranges: Ranges) -> Self {
        Self { state, ranges, reverse: OnceLock::new() }
    }

    /// The addresses that the cluster gives out.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Whether a board has this address.
    pub fn is_board(&self, address: Ipv4Addr) -> bool {
        self.state.boards.values().any(|board| board.address == Some(address))
    }

    /// Whether a name is answered here or nowhere.
    pub fn is_ours(&self, name: &Name) -> bool {
        !matches!(self.find(name), Found::Outside)
    }

    pub(super) fn find<'a>(&'a self, name: &'a Name) -> Found<'a> {
        let (labels, count) = name.tail::<TAIL>();
        match labels {
            [b"local", b"cluster", ..] => match self.state.revision {
                0 if count > 2 => Found::Unknown,
                _ => self.find_below(&labels, count),
            },
            [b"arpa", b"in-addr", ..] => self.find_reverse(name),
            _ => Found::Outside,
        }
    }

    fn find_below<'a>(&'a self, labels: &[&'a [u8]; TAIL], count: usize) -> Found<'a> {
        let [_, _, first, second, third, ..] = *labels;
        match (first, count) {
            (_, 2) => Found::Apex,
            (b"dns-version", 3) => Found::Version,
            (b"svc" | b"pod" | b"dns", 3) => Found::Empty,
            (b"dns", 4) if second == b"ns" => Found::Address(self.ranges.dns_address()),
            (b"pod", 4) => self.namespace(second),
            (b"pod", 5) => match dashed(third).filter(|address| self.is_pod(*address)) {
                Some(address) => Found::Address(address),
                None => Found::Nothing,
            },
            (b"svc", 4) => self.namespace(second),
            (b"svc", 5..=7) => match self.service(second, third) {
                Some(service) => find_in(service, labels, count),
                None => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }

    /// A namespace is known by its services: one without any has no names.
    fn namespace(&self, namespace: &[u8]) -> Found<'_> {
        let mut key = Key::default();
        let from = key.write(namespace, b"");
        let Some(from) = from else { return Found::Nothing };
        let bounds = (Bound::Included(from), Bound::Unbounded);
        match self.state.services.range::<str, _>(bounds).next() {
            Some((first, _)) if first.starts_with(from) => Found::Empty,
            _ => Found::Nothing,
        }
    }

    fn service(&self, namespace: &[u8], name: &[u8]) -> Option<&NetService> {
        let mut key = Key::default();
        self.state.services.get(key.write(namespace, name)?).map(Arc::as_ref)
    }

    fn is_pod(&self, address: Ipv4Addr) -> bool {
        self.ranges.pods.contains(address) || self.is_board(address)
    }

    fn find_reverse(&self, name: &Name) -> Found<'_> {
        let Some((address, given)) = reverse_of(name) else { return Found::Outside };
        let block = Ipv4Block::new(address, u8::try_from(given * 8).unwrap_or(32));
        let Ranges { pods, services } = &self.ranges;
        let ours = services.covers(&block) || pods.covers(&block);
        match given {
            4 if self.state.revision == 0 && ours => Found::Unknown,
            4 if self.pointers(address).next().is_some() => Found::Pointers(address),
            4 if ours => Found::Nothing,
            _ if ours => Found::Empty,
            _ => Found::Outside,
        }
    }

    /// The services that an address belongs to: its own, else those it is an endpoint of.
    pub(super) fn pointers(&self, address: Ipv4Addr) -> impl Iterator<Item = &NetService> {
        let index = self.reverse.get_or_init(|| index(&self.state));
        let start = index.partition_point(|(known, _)| *known < address);
        let found = index[start..].iter().take_while(move |(known, _)| *known == address);
        found.map(|(_, service)| service.as_ref())
    }
}

/// Addresses that have a pointer: service addresses, and endpoints of headless services.
fn index(state: &NetState) -> Vec<(Ipv4Addr, Arc<NetService>)> {
    let mut index = Vec::with_capacity(state.services.len());
    for service in state.services.values() {
        match service.cluster_ip {
            Some(address) => index.push((address, Arc::clone(service))),
            None => {
                let addresses = published(service).map(|(_, endpoint)| endpoint.address);
                index.extend(addresses.map(|address| (address, Arc::clone(service))));
            }
        }
    }
    index.shrink_to_fit();
    index.sort_by_key(|(address, service)| (*address, service.cluster_ip.is_none()));
    index.dedup_by(|a, b| a.0 == b.0 && Arc::ptr_eq(&a.1, &b.1));
    index
}

fn find_in<'a>(service: &'a NetService, labels: &[&'a [u8]; TAIL], count: usize) -> Found<'a> {
    let [.., fourth, fifth, _] = *labels;
    if let Some(target) = &service.external_name {
        return if count == 5 { Found::Alias(target) } else { Found::Nothing };
    }
    let is_empty = service.cluster_ip.is_none() && published(service).next().is_none();
    if is_empty {
        return Found::Nothing;
    }
    let protocol = match fourth {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        b"_sctp" => Some(Protocol::Sctp),
        _ => None,
    };
    let named = |wanted: Protocol| {
        let ports = service.ports.iter().enumerate();
        ports.filter(move |(_, port)| port.protocol == wanted && !port.name.is_empty())
    };
    match (count, protocol) {
        (5, _) => Found::Service(service),
        (6, Some(protocol)) => match named(protocol).next() {
            Some(_) => Found::Empty,
            None => Found::Nothing,
        },
        (6, None) => {
            let name = EndpointName { label: fourth, address: dashed(fourth) };
            match published(service).any(|(_, endpoint)| name.is_of(endpoint)) {
                true => Found::Endpoint(service, name),
                false => Found::Nothing,
            }
        }
        (7, Some(protocol)) => {
            let wanted = fifth.strip_prefix(b"_");
            let mut found = named(protocol);
            let found = found.find(|(_, port)| {
                wanted.is_some_and(|wanted| port.name.as_bytes().eq_ignore_ascii_case(wanted))
            });
            found.map_or(Found::Nothing, |(place, _)| Found::Port(service, place))
        }
        _ => Found::Nothing,
    }
}

/// Endpoints that DNS tells of, each address once, with their places.
pub(super) fn published(service: &NetService) -> impl Iterator<Item = (usize, &NetEndpoint)> {
    let all = service.endpoints.iter().enumerate();
    all.filter(|(_, endpoint)| endpoint.ready || service.publish_not_ready)
}

/// `a-b-c-d` as an address.
fn dashed(label: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = label.split(|byte| *byte == b'-');
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// An octet as it is written: no signs, no leading zeros.
fn decimal(text: &[u8]) -> Option<u8> {
    let plain = matches!(text.len(), 1..=3) && (text[0] != b'0' || text.len() == 1);
    if !plain || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The address that a name under in-addr.arpa means, unknown octets zero, and how many octets it has.
fn reverse_of(name: &Name) -> Option<(Ipv4Addr, usize)> {
    let (labels, count) = name.tail::<6>();
    let given = count.checked_sub(2).filter(|given| *given <= 4)?;
    if labels[..2] != [&b"arpa"[..], b"in-addr"] {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, label) in octets.iter_mut().zip(&labels[2..2 + given]) {
        *octet = decimal(label)?;
    }
    Some((Ipv4Addr::from(octets), given))
}

/// A key of the state, made without allocating.
struct Key {
    bytes: [u8; 2 * 63 + 1],
}

impl Default for Key {
    fn default() -> Self {
        Self { bytes: [0; 2 * 63 + 1] }
    }
}

impl Key {
    /// `namespace/name`; `None` for what no key can be.
    fn write(&mut self, namespace: &[u8], name: &[u8]) -> Option<&str> {
        let length = namespace.len() + 1 + name.len();
        let bytes = self.bytes.get_mut(..length)?;
        bytes[..namespace.len()].copy_from_slice(namespace);
        bytes[namespace.len()] = b'/';
        bytes[namespace.len() + 1..].copy_from_slice(name);
        std::str::from_utf8(bytes).ok()
    }
}
