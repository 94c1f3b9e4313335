//! Answers what is known, and brings together those who wait for the same answer from upstream.
//!
//! ```text
//!  query ─▶ zone ─▶ answer                    (cluster names: here, at once)
//!             └───▶ cache ─▶ answer
//!                     └────▶ flight ─▶ upstream ─▶ cache, all who wait
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use logic::dns::{
    Answer, Cache, Judged, Kept, Name, Outcome, Query, Question, Ranges, Reply, Servers, Zone,
    judge, rcode,
};
use model::limits::{DNS_QUESTIONS_MAX, DNS_WAITERS_MAX};
use model::network::NetState;
use tokio::task::JoinSet;

use super::DnsOptions;
use super::clients::Client;
use super::host::HostFile;
use super::journey::{Journey, travel};
use crate::io::dns::ask;
use crate::io::seldom::Seldom;

/// TTL of an answer that is kept beyond its time (RFC 8767 section 4).
const STALE_TTL: u32 = 30;
/// How long a server is given to show that it asks us.
const PROBE: Duration = Duration::from_secs(2);
/// Host information: what nobody asks for.
const HINFO: u16 = 13;
/// Where DNS servers are.
const DNS_PORT: u16 = 53;

/// A client that waits, and its query.
#[derive(Debug)]
struct Waiter {
    message: Box<[u8]>,
    client: Client,
}

/// Those who wait for an answer from upstream.
#[derive(Debug)]
struct Flight {
    question: Question,
    waiters: Vec<Waiter>,
}

/// What a task has found out.
#[derive(Debug)]
enum Landed {
    Answer(Box<[u8]>, Journey),
    Probe(Name),
}

/// What a board's DNS knows.
#[derive(Debug)]
pub(super) struct Resolver {
    zone: Zone,
    ranges: Ranges,
    host: HostFile,
    /// Search domains of the host.
    searches: Vec<Name>,
    /// Addresses at which we are.
    ours: [IpAddr; 2],
    servers: Servers,
    cache: Cache,
    flights: HashMap<Box<[u8]>, Flight>,
    tasks: JoinSet<Landed>,
    /// Names that a server was asked for to see whether it asks us.
    probes: HashMap<Name, SocketAddr>,
    begun: Instant,
    dice: u32,
    out: Vec<u8>,
    complaints: Seldom,
}

impl Resolver {
    pub(super) fn new(options: &DnsOptions, held: IpAddr) -> Self {
        let ranges = options.ranges;
        Self {
            zone: Zone::new(Arc::clone(&options.state.borrow()), ranges),
            ranges,
            host: HostFile::new(options.resolv_conf.clone()),
            searches: Vec::new(),
            ours: [held, ranges.dns_address().into()],
            servers: Servers::default(),
            cache: Cache::default(),
            flights: HashMap::new(),
            tasks: JoinSet::new(),
            probes: HashMap::new(),
            begun: Instant::now(),
            dice: 0,
            out: Vec::new(),
            complaints: Seldom::new(Duration::from_secs(60)),
        }
    }

    /// The network is another.
    pub(super) fn set_state(&mut self, state: Arc<NetState>) {
        self.zone = Zone::new(state, self.ranges);
    }

    /// Answers a message, now or when the answer is there.
    pub(super) fn take(&mut self, message: &[u8], client: Client) {
        let mut out = std::mem::take(&mut self.out);
        match judge(message) {
            Judged::Noise => {}
            Judged::Refused(refusal) => {
                refusal.write(&mut out);
                client.send(&out);
            }
            Judged::Query(query) => self.query(&query, message, client, &mut out),
        }
        self.out = out;
    }

    fn query(&mut self, query: &Query<'_>, message: &[u8], client: Client, out: &mut Vec<u8>) {
        // Numerical Recipes' generator: its high bits do not depend on how clients pair their queries.
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let question = match self.zone.answer(query, client.limit(query), self.dice >> 8, out) {
            Outcome::Answered => return client.send(out),
            Outcome::Forward => Question::of(query),
            Outcome::Chase(name) => Question { name, ..Question::of(query) },
        };
        if let Some(server) = self.probes.get(&question.name).copied() {
            return self.found_ourselves(server);
        }
        if self.is_search(&question.name) {
            Reply::begin(out, query, client.limit(query)).finish(rcode::NO_SUCH_NAME, false);
            return client.send(out);
        }
        let kept = self.cache.get(&question, self.millis() / 1_000);
        match kept {
            Some(kept) if !kept.stale => {
                self.complete(query, &question, &kept, client.limit(query), out);
                client.send(out);
            }
            _ if !query.recursion => {
                Reply::begin(out, query, client.limit(query)).finish(rcode::REFUSED, false);
                client.send(out);
            }
            _ => self.wait(question, message, client, out),
        }
    }

    /// A name of the cluster with a search domain of the host behind it: it is asked for on the way to
    /// the name itself, which must not wait for an upstream server.
    fn is_search(&self, name: &Name) -> bool {
        self.searches.iter().any(|search| {
            let above = search.labels().count();
            let inner = name.labels().count().checked_sub(above);
            inner.is_some_and(|inner| {
                name.suffix(above) == *search
                    && Name::of(name.labels().take(inner))
                        .is_some_and(|inner| self.zone.is_ours(&inner))
            })
        })
    }

    /// Joins those who wait for this answer, or is the first of them.
    fn wait(&mut self, question: Question, message: &[u8], client: Client, out: &mut Vec<u8>) {
        let key = question.key();
        let waiter = Waiter { message: message.into(), client };
        if let Some(flight) = self.flights.get_mut(key.as_bytes()) {
            // Whoever is too much asks again.
            if flight.waiters.len() < DNS_WAITERS_MAX {
                flight.waiters.push(waiter);
            }
            return;
        }
        self.look_at_host();
        let servers = match self.flights.len() < DNS_QUESTIONS_MAX {
            true => self.servers.order(self.millis()),
            false => Vec::new(),
        };
        if servers.is_empty() {
            return self.fail(&question, waiter, out);
        }
        let key: Box<[u8]> = key.as_bytes().into();
        let flight = Flight { question: question.clone(), waiters: vec![waiter] };
        self.flights.insert(key.clone(), flight);
        self.tasks.spawn(async move { Landed::Answer(key, travel(&question, &servers).await) });
    }

    /// What a task has found out, when one has. Pending while there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub(super) async fn landed(&mut self) -> io::Result<()> {
        let Some(ended) = self.tasks.join_next().await else { return std::future::pending().await };
        match ended.map_err(io::Error::other)? {
            Landed::Probe(name) => drop(self.probes.remove(&name)),
            Landed::Answer(key, journey) => self.arrived(&key, journey),
        }
        Ok(())
    }

    fn arrived(&mut self, key: &[u8], journey: Journey) {
        let now = self.millis();
        for server in journey.failed {
            if self.servers.failed(server, now)
                && let Some(more) = self.complaints.line()
            {
                tracing::warn!(%server, more, "an upstream DNS server does not answer");
            }
        }
        if let Some(server) = journey.answered {
            self.servers.answered(server);
        }
        let Some(Flight { question, waiters }) = self.flights.remove(key) else { return };
        let mut out = std::mem::take(&mut self.out);
        match journey.packet {
            None => waiters.into_iter().for_each(|waiter| self.fail(&question, waiter, &mut out)),
            Some(packet) => {
                let packet = Arc::new(packet);
                self.cache.put(&question, &packet, now / 1_000);
                let fresh = Kept { packet, age: 0, stale: false };
                for Waiter { message, client } in waiters {
                    let Judged::Query(query) = judge(&message) else { continue };
                    self.complete(&query, &question, &fresh, client.limit(&query), &mut out);
                    client.send(&out);
                }
            }
        }
        self.out = out;
    }

    /// Writes the answer to a query from what upstream has said.
    fn complete(
        &self,
        query: &Query<'_>,
        question: &Question,
        kept: &Kept,
        limit: u16,
        out: &mut Vec<u8>,
    ) {
        let stale = kept.stale.then_some(STALE_TTL);
        if query.name == question.name {
            return kept.packet.answer(query, limit, kept.age, stale, out);
        }
        match self.zone.begin(query, limit, self.dice, out) {
            Answer::Chase(mut reply, _) => {
                let rcode = kept.packet.append(&mut reply, kept.age);
                reply.finish(rcode, false);
            }
            // The service has changed meanwhile.
            Answer::Complete(reply, rcode) => reply.finish(rcode, true),
            Answer::Forward => {
                Reply::begin(out, query, limit).finish(rcode::SERVER_FAILURE, false);
            }
        }
    }

    /// Nobody answers: an old answer is better than none.
    fn fail(&mut self, question: &Question, waiter: Waiter, out: &mut Vec<u8>) {
        let Judged::Query(query) = judge(&waiter.message) else { return };
        let limit = waiter.client.limit(&query);
        match self.cache.get(question, self.millis() / 1_000) {
            Some(kept) => self.complete(&query, question, &kept, limit, out),
            None => match self.zone.begin(&query, limit, self.dice, out) {
                Answer::Chase(reply, _) => reply.finish(rcode::SERVER_FAILURE, false),
                _ => Reply::begin(out, &query, limit).finish(rcode::SERVER_FAILURE, false),
            },
        }
        waiter.client.send(out);
    }

    /// Follows the host's configuration.
    fn look_at_host(&mut self) {
        let Some(resolv) = self.host.look() else { return };
        self.searches = resolv.searches.iter().filter_map(|search| Name::parse(search)).collect();
        let others = resolv.servers().into_iter().filter(|server| !self.ours.contains(server));
        let servers: Vec<SocketAddr> = others.map(|server| (server, DNS_PORT).into()).collect();
        if servers == self.servers.addresses() {
            return;
        }
        tracing::info!(?servers, "upstream DNS servers");
        self.servers.replace(&servers);
        self.cache.clear();
        let on_board = |server: &SocketAddr| match server.ip() {
            IpAddr::V4(address) => address.is_loopback() || self.zone.is_board(address),
            IpAddr::V6(address) => address.is_loopback(),
        };
        let near: Vec<SocketAddr> = servers.into_iter().filter(on_board).collect();
        for server in near {
            self.probe(server);
        }
    }

    /// A server on this board may ask us what we ask it. It is asked for a name that nobody else can
    /// know: should the question come in here, it came from there.
    fn probe(&mut self, server: SocketAddr) {
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_err() {
            return;
        }
        let [high, low] = [&random[..8], &random[8..]]
            .map(|half| half.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let Some(name) = Name::parse(&format!("{high}.{low}")) else { return };
        let question =
            Question { name: name.clone(), kind: HINFO, dnssec: false, checking_disabled: false };
        self.probes.insert(name.clone(), server);
        self.tasks.spawn(async move {
            // What the server says to it does not matter.
            let _ = ask(server, &question, PROBE).await;
            Landed::Probe(name)
        });
    }

    fn found_ourselves(&mut self, server: SocketAddr) {
        tracing::warn!(
            %server,
            "the host's resolver asks this board's DNS, which asks it: name another server in its \
             configuration; it is not asked any more"
        );
        let others = self.servers.addresses().into_iter().filter(|other| *other != server);
        self.servers.replace(&others.collect::<Vec<_>>());
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
