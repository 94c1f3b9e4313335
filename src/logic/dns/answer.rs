//! Answers a query about the cluster, or says that somebody else has to be asked.

use std::net::Ipv4Addr;

use model::limits::DNS_ALIASES_MAX;
use model::network::{NetEndpoint, NetService};

use super::name::Name;
use super::query::{Query, rcode};
use super::reply::{Data, Reply, Section};
use super::types;
use super::zone::{CLUSTER_DOMAIN, Found, Zone, apex_of, published};

/// Seconds that an answer, or that there is none, may be kept: CoreDNS's default.
pub const TTL_SECONDS: u32 = 5;
/// Version of the schema (Kubernetes DNS-based service discovery, section 2.2).
const SCHEMA_VERSION: &[u8] = b"\x051.1.0";

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives for one query, which a box would allocate for"
)]
pub enum Outcome {
    /// The answer is written.
    Answered,
    /// The name is not of this cluster; nothing is written.
    Forward,
    /// The answer so far is an alias; what it means has to be asked elsewhere and appended.
    Chase(Name),
}

/// An answer that is complete, or waits for what an alias means.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives for one query, which a box would allocate for"
)]
pub enum Answer<'b> {
    /// To be finished with this code.
    Complete(Reply<'b>, u16),
    /// Not about this cluster.
    Forward,
    /// To be completed by the records of this name.
    Chase(Reply<'b>, Name),
}

impl Zone {
    /// Answers a query into `out`; `dice` is any number, by which endpoints are turned.
    pub fn answer(&self, query: &Query<'_>, limit: u16, dice: u32, out: &mut Vec<u8>) -> Outcome {
        match self.begin(query, limit, dice, out) {
            Answer::Forward => Outcome::Forward,
            Answer::Chase(_, name) => Outcome::Chase(name),
            Answer::Complete(reply, rcode) => {
                reply.finish(rcode, rcode != rcode::SERVER_FAILURE);
                Outcome::Answered
            }
        }
    }

    /// The same, with the answer still open.
    pub fn begin<'b>(
        &self,
        query: &Query<'_>,
        limit: u16,
        dice: u32,
        out: &'b mut Vec<u8>,
    ) -> Answer<'b> {
        if matches!(self.find(&query.name), Found::Outside) {
            return Answer::Forward;
        }
        let mut reply = Reply::begin(out, query, limit);
        let mut name = query.name.clone();
        for _ in 0..=DNS_ALIASES_MAX {
            let mut writer = Writer { zone: self, owner: &name, kind: query.kind, dice, reply };
            let rcode = match self.find(&name) {
                Found::Outside => return Answer::Chase(writer.reply, name),
                Found::Alias(target) => {
                    let Some(target) = Name::parse(target) else {
                        return Answer::Complete(writer.reply, rcode::SERVER_FAILURE);
                    };
                    writer.add(types::CNAME, Data::Name(&target));
                    reply = writer.reply;
                    if query.kind == types::CNAME {
                        return Answer::Complete(reply, rcode::NO_ERROR);
                    }
                    name = target;
                    continue;
                }
                found => writer.write(&found),
            };
            return Answer::Complete(writer.reply, rcode);
        }
        Answer::Complete(reply, rcode::SERVER_FAILURE)
    }
}

/// Writes what lies at one name.
struct Writer<'z, 'b> {
    zone: &'z Zone,
    owner: &'z Name,
    kind: u16,
    dice: u32,
    reply: Reply<'b>,
}

impl Writer<'_, '_> {
    fn add(&mut self, kind: u16, data: Data<'_>) -> bool {
        self.reply.record(Section::Answer, self.owner, kind, TTL_SECONDS, data)
    }

    fn asked(&self, kind: u16) -> bool {
        self.kind == kind || self.kind == types::ANY
    }

    /// Writes the records asked for, or the SOA record when there are none; gives the code.
    fn write(&mut self, found: &Found<'_>) -> u16 {
        let any = match found {
            Found::Unknown => return rcode::SERVER_FAILURE,
            Found::Nothing => {
                self.authority();
                return rcode::NO_SUCH_NAME;
            }
            Found::Apex => self.apex(),
            Found::Version if self.asked(types::TXT) => {
                self.add(types::TXT, Data::Raw(SCHEMA_VERSION))
            }
            Found::Address(address) if self.asked(types::A) => {
                self.add(types::A, Data::Address(*address))
            }
            Found::Service(service) if self.asked(types::A) => self.service(service),
            Found::Service(service) if self.kind == types::SRV => {
                self.ports(service, 0..service.ports.len())
            }
            Found::Port(service, place) if self.asked(types::SRV) => {
                self.ports(service, *place..place + 1)
            }
            Found::Endpoint(service, name) if self.asked(types::A) => {
                self.endpoints(service, |endpoint| name.is_of(endpoint))
            }
            Found::Pointers(address) if self.asked(types::PTR) => self.pointers(*address),
            _ => false,
        };
        if !any {
            self.authority();
        }
        rcode::NO_ERROR
    }

    fn service(&mut self, service: &NetService) -> bool {
        match service.cluster_ip {
            Some(address) => self.add(types::A, Data::Address(address)),
            None => self.endpoints(service, |_| true),
        }
    }

    /// The addresses of endpoints, beginning anywhere, so that clients that take the first spread.
    fn endpoints(&mut self, service: &NetService, is_of: impl Fn(&NetEndpoint) -> bool) -> bool {
        let found = published(service).filter(|(_, endpoint)| is_of(endpoint));
        let mut addresses: Vec<Ipv4Addr> = found.map(|(_, endpoint)| endpoint.address).collect();
        addresses.dedup();
        self.turn(&mut addresses);
        // Those behind the first that does not fit do not either.
        let count = addresses.len();
        addresses.into_iter().take_while(|a| self.add(types::A, Data::Address(*a))).count();
        count > 0
    }

    fn turn<T>(&self, items: &mut [T]) {
        if !items.is_empty() {
            let by = self.dice as usize % items.len();
            items.rotate_left(by);
        }
    }

    /// SRV records of some ports: one with the service's name, or one per endpoint.
    fn ports(&mut self, service: &NetService, places: std::ops::Range<usize>) -> bool {
        let Some(name) = service_name(service) else { return false };
        let mut targets: Vec<(Name, Ipv4Addr)> = Vec::new();
        let (mut any, mut fits) = (false, true);
        for place in places {
            let mut records = match service.cluster_ip {
                Some(address) => {
                    let port = service.ports.get(place).map(|port| port.port);
                    port.map(|port| (name.clone(), port, address)).into_iter().collect()
                }
                None => endpoint_ports(service, &name, place),
            };
            self.turn(&mut records);
            let weight = u16::try_from(100 / records.len().max(1)).unwrap_or(1).max(1);
            any |= !records.is_empty();
            for (target, port, address) in records {
                fits =
                    fits && self.add(types::SRV, Data::Service { weight, port, target: &target });
                if fits && !targets.iter().any(|(known, _)| *known == target) {
                    targets.push((target, address));
                }
            }
        }
        for (target, address) in &targets {
            self.additional(target, *address);
        }
        any
    }

    fn additional(&mut self, owner: &Name, address: Ipv4Addr) {
        let data = Data::Address(address);
        self.reply.record(Section::Additional, owner, types::A, TTL_SECONDS, data);
    }

    fn pointers(&mut self, address: Ipv4Addr) -> bool {
        let mut any = false;
        for service in self.zone.pointers(address) {
            let Some(name) = service_name(service) else { continue };
            if service.cluster_ip == Some(address) {
                return self.add(types::PTR, Data::Name(&name));
            }
            let mut names: Vec<Name> = published(service)
                .filter(|(_, endpoint)| endpoint.address == address)
                .filter_map(|(_, endpoint)| endpoint_name(endpoint, &name))
                .collect();
            names.dedup();
            any |= !names.is_empty();
            if !names.iter().all(|name| self.add(types::PTR, Data::Name(name))) {
                break;
            }
        }
        any
    }

    fn apex(&mut self) -> bool {
        let server = Name::parse("ns.dns.cluster.local").expect("a name");
        match self.kind {
            types::SOA | types::ANY => self.start_of_authority(Section::Answer, self.owner),
            types::NS => {
                let any = self.add(types::NS, Data::Name(&server));
                self.additional(&server, self.zone.ranges().dns_address());
                any
            }
            _ => false,
        }
    }

    /// Says who knows that there is nothing, and for how long that may be believed.
    fn authority(&mut self) {
        let apex = apex_of(self.owner, self.zone.ranges());
        self.start_of_authority(Section::Authority, &apex);
    }

    fn start_of_authority(&mut self, section: Section, owner: &Name) -> bool {
        let domain = Name::parse(CLUSTER_DOMAIN).expect("a name");
        let [server, person] = [&b"ns"[..], b"hostmaster"].map(|label| match label {
            b"ns" => domain.below(b"dns").and_then(|dns| dns.below(label)),
            _ => domain.below(label),
        });
        let (Some(server), Some(person)) = (server, person) else { return false };
        // The serial number matters to zone transfers only, which there are none of.
        let numbers = [1, 7_200, 1_800, 86_400, TTL_SECONDS];
        let data = Data::Authority(&server, &person, numbers);
        self.reply.record(section, owner, types::SOA, TTL_SECONDS, data)
    }
}

/// The endpoints that have a port, with their names and numbers of it.
fn endpoint_ports(service: &NetService, name: &Name, place: usize) -> Vec<(Name, u16, Ipv4Addr)> {
    let of = |endpoint: &NetEndpoint| {
        let port = *endpoint.ports.get(place).filter(|port| **port != 0)?;
        Some((endpoint_name(endpoint, name)?, port, endpoint.address))
    };
    published(service).filter_map(|(_, endpoint)| of(endpoint)).collect()
}

/// `service.namespace.svc.cluster.local`.
fn service_name(service: &NetService) -> Option<Name> {
    let labels = [&service.name, &service.namespace, "svc", "cluster", "local"];
    Name::of(labels.map(str::as_bytes))
}

fn endpoint_name(endpoint: &NetEndpoint, service: &Name) -> Option<Name> {
    match endpoint.hostname.as_str() {
        "" => service.below(endpoint.address.to_string().replace('.', "-").as_bytes()),
        hostname => service.below(hostname.as_bytes()),
    }
}
