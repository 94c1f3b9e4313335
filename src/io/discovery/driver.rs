//! The task that owns the library's daemon: one *life* of it after the other.
//!
//! ```text
//! open -> listening -- announce, withdraw, ask, judge, events
//!   ^         | cache too large, too much to judge, events lost, daemon dead
//!   +- pause -+          (records heard stay until the next life has had time to hear them again)
//! ```
//! The library keeps every record that strangers send for as long as these say, without bound, and
//! tells removals but not what it could not tell. So a life whose cache has grown past
//! `MDNS_CACHE_RECORDS_MAX` ends without a goodbye, and its memory with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mdns_sd::{
    DaemonStatus, IfKind, IfPredicate, Metrics, Receiver, ResolvedService, ServiceDaemon,
    ServiceEvent, ServiceInfo,
};
use model::interfaces;
use model::leader::SignedRecord;
use model::limits::MDNS_CACHE_RECORDS_MAX;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, sleep, timeout};

use super::Judge;
use super::fresh::Fresh;
use super::heard::Heard;
use super::judging::Allowance;
use super::members::Company;
use super::names::{Announced, Names};

/// The service type of leader records.
pub(super) const SERVICE: &str = "_kumquat._tcp.local.";
/// How often the library looks for interfaces that came or went.
const INTERFACES_EVERY_SECONDS: u32 = 2;
/// How often the size of the cache is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Least time between two questions to the link.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The library asks less and less often, in the end once an hour: too seldom while nobody is heard.
const ASK_UNHEARD_EVERY: Duration = Duration::from_secs(30);
/// Pause between two lives: a flood keeps this board deaf, not busy.
const PAUSE: Duration = Duration::from_secs(2);
/// Time in which a new life has heard everybody who is there.
const HEARD_WITHIN: Duration = Duration::from_secs(6);
/// How long the daemon may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Counters of the library that stand for memory that strangers can fill.
const CACHE_COUNTERS: [&str; 6] =
    ["cached-ptr", "cached-srv", "cached-addr", "cached-txt", "cached-nsec", "cached-subtype"];
/// Timers are kept for every record heard, repeated ones too.
const TIMER_COUNTER: &str = "timer";

/// Why a life ended.
#[derive(Debug, thiserror::Error)]
enum End {
    /// Nobody needs discovery any more.
    #[error("stopped")]
    Stopped,
    /// More than any honest link sends.
    #[error("the link is flooded with mDNS records")]
    Flooded,
    /// The library failed.
    #[error("the mDNS responder does not answer")]
    Dead,
    /// The library refused.
    #[error("the mDNS responder refused")]
    Refused(#[from] mdns_sd::Error),
}

/// Owns the daemon and the table of records heard.
pub(super) struct Driver {
    interface: Option<String>,
    announced: watch::Receiver<Option<SignedRecord>>,
    names: watch::Receiver<Names>,
    judge: watch::Receiver<Judge>,
    publish: watch::Sender<Vec<SignedRecord>>,
    asked: Arc<Notify>,
    heard: Heard,
    fresh: Fresh,
    company: Company,
}

/// One daemon.
struct Life {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    began: Instant,
    asked: Instant,
    allowance: Allowance,
    /// Name of the instance that this daemon announces.
    own: Option<String>,
    /// The same, of a board without a cluster.
    genesis: Option<String>,
    /// The same, of a member of the group of masters.
    member: Option<String>,
    /// Names of the site that it announces.
    names: Announced,
}

impl Driver {
    pub(super) fn new(
        interface: Option<String>,
        (announced, names): (watch::Receiver<Option<SignedRecord>>, watch::Receiver<Names>),
        judge: watch::Receiver<Judge>,
        publish: watch::Sender<Vec<SignedRecord>>,
        asked: Arc<Notify>,
        fresh: Fresh,
        company: Company,
    ) -> Self {
        let heard = Heard::default();
        Self { interface, announced, names, judge, publish, asked, heard, fresh, company }
    }

    /// Runs until the other side is gone.
    pub(super) async fn run(mut self) {
        let mut is_told = false;
        loop {
            let end = match Life::begin(self.interface.as_deref()) {
                Ok(mut life) => {
                    self.heard.begin_life();
                    let end = self.live(&mut life).await;
                    life.finish(matches!(end, End::Stopped)).await;
                    end
                }
                Err(error) => End::Refused(error),
            };
            if matches!(end, End::Stopped) {
                return;
            }
            if !is_told {
                tracing::warn!(why = %end, "discovery starts anew; said once");
                is_told = true;
            }
            // Cancel safety: both lose nothing when dropped.
            tokio::select! {
                () = sleep(PAUSE) => (),
                () = self.orphaned() => return,
            }
        }
    }

    /// Waits until nobody is there to announce anything.
    async fn orphaned(&mut self) {
        while self.judge.changed().await.is_ok() {}
    }

    async fn live(&mut self, life: &mut Life) -> End {
        self.announced.mark_changed();
        self.names.mark_changed();
        self.fresh.mark_changed();
        self.company.mark_changed();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Cancel safety: every arm loses nothing when dropped.
            let done = tokio::select! {
                event = life.events.recv_async() => match event {
                    Ok(event) => self.note(life, event),
                    // The library drops a listener that does not keep up.
                    Err(_) => Err(End::Flooded),
                },
                changed = self.announced.changed() => match changed {
                    Ok(()) => self.announce(life),
                    Err(_) => Err(End::Stopped),
                },
                changed = self.names.changed() => match changed {
                    Ok(()) => {
                        let wanted = self.names.borrow_and_update();
                        life.names.change(&life.daemon, &wanted).map_err(End::from)
                    }
                    Err(_) => Err(End::Stopped),
                },
                changed = self.fresh.changed() => match changed {
                    true => self.announce_genesis(life),
                    false => Err(End::Stopped),
                },
                () = self.company.changed() => {
                    let announced = self.company.announce(&life.daemon, life.member.take());
                    announced.map(|name| life.member = name).map_err(End::from)
                }
                changed = self.judge.changed() => match changed {
                    Ok(()) => self.judge_anew(life),
                    Err(_) => Err(End::Stopped),
                },
                () = self.asked.notified() => life.ask(ASK_EVERY),
                _ = look.tick() => self.look(life).await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    fn note(&mut self, life: &mut Life, event: ServiceEvent) -> Result<(), End> {
        let changed = match event {
            ServiceEvent::ServiceResolved(service) => self.hear(life, &service)?,
            ServiceEvent::ServiceRemoved(_, instance) => {
                self.fresh.remove(&instance);
                self.heard.remove(&instance)
            }
            _ => false,
        };
        if changed {
            self.publish.send_replace(self.heard.records());
        }
        Ok(())
    }

    fn hear(&mut self, life: &mut Life, service: &ResolvedService) -> Result<bool, End> {
        let instance = service.get_fullname();
        let read = SignedRecord::from_pairs(|key| service.get_property_val_str(key));
        let Ok(record) = read else {
            let value = |key: &str| service.get_property_val_str(key);
            if !self.fresh.hear(instance, value)
                && let Some((member, hear)) = self.company.read(value)
            {
                if !life.allowance.take(Instant::now()) {
                    return Err(End::Flooded);
                }
                hear(&member);
            }
            return Ok(false);
        };
        let is_own = self.announced.borrow().as_ref().is_some_and(|own| is_of(own, &record));
        if is_own || self.heard.knows(instance, &record) {
            return Ok(false);
        }
        if !life.allowance.take(Instant::now()) {
            return Err(End::Flooded);
        }
        let judge = Arc::clone(&self.judge.borrow());
        Ok(judge(&record) && self.heard.insert(instance, record))
    }

    fn judge_anew(&mut self, life: &mut Life) -> Result<(), End> {
        let judge = Arc::clone(&self.judge.borrow_and_update());
        if self.heard.judge(|record| judge(record)) {
            self.publish.send_replace(self.heard.records());
        }
        // What was refused before comes from the library's cache.
        life.listen()
    }

    fn announce(&mut self, life: &mut Life) -> Result<(), End> {
        let record = self.announced.borrow_and_update().clone();
        let service = match &record {
            Some(record) => Some(service(record)?),
            None => None,
        };
        let name = service.as_ref().map(|service| service.get_fullname().to_owned());
        if let Some(before) = life.own.take()
            && name.as_ref() != Some(&before)
        {
            life.daemon.unregister(&before)?;
        }
        if let Some(service) = service {
            life.daemon.register(service)?;
        }
        life.own = name;
        Ok(())
    }

    fn announce_genesis(&mut self, life: &mut Life) -> Result<(), End> {
        life.genesis = self.fresh.announce(&life.daemon, life.genesis.take())?;
        // Those that were heard before there was anything to announce.
        life.listen()
    }

    async fn look(&mut self, life: &mut Life) -> Result<(), End> {
        let metrics = life.daemon.get_metrics()?;
        let metrics = match timeout(ANSWER_WITHIN, metrics.recv_async()).await {
            Ok(Ok(metrics)) => metrics,
            _ => return Err(End::Dead),
        };
        if is_flooded(&metrics) {
            return Err(End::Flooded);
        }
        if life.began.elapsed() > HEARD_WITHIN && self.heard.forget_earlier_lives() {
            self.publish.send_replace(self.heard.records());
        }
        // A leader that announces has no need of others.
        if self.publish.borrow().is_empty() && life.own.is_none() {
            life.ask(ASK_UNHEARD_EVERY)?;
        }
        Ok(())
    }
}

/// Whether a record is this one, or one that its board announced before: the library may tell of that
/// when there is a newer one already.
fn is_of(own: &SignedRecord, heard: &SignedRecord) -> bool {
    let (old, new) = (heard.record(), own.record());
    let same_board = (&old.cluster, &old.name, old.ca) == (&new.cluster, &new.name, new.ca);
    own == heard || same_board && old.rank() < new.rank()
}

impl Life {
    fn begin(interface: Option<&str>) -> Result<Self, mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        let named = interface.map(str::to_owned);
        let is_wanted = IfPredicate::new(move |interface| {
            interface.ip().is_ipv4()
                && !interface.is_loopback()
                && interfaces::is_shared(&interface.name, named.as_deref())
        });
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(IfKind::Predicate(is_wanted))?;
        daemon.set_ip_check_interval(INTERFACES_EVERY_SECONDS)?;
        let events = daemon.browse(SERVICE)?;
        let now = Instant::now();
        let allowance = Allowance::new(now);
        Ok(Self {
            daemon,
            events,
            began: now,
            asked: now,
            allowance,
            own: None,
            genesis: None,
            member: None,
            names: Announced::default(),
        })
    }

    /// Asks the link, unless that was done just before.
    fn ask(&mut self, every: Duration) -> Result<(), End> {
        if self.asked.elapsed() < every {
            return Ok(());
        }
        self.listen()
    }

    /// Gets what the library knows told anew, and asks the link.
    fn listen(&mut self) -> Result<(), End> {
        self.asked = Instant::now();
        self.events = self.daemon.browse(SERVICE)?;
        Ok(())
    }

    /// Ends the daemon; `goodbye` tells others that the announced record does not hold any more.
    async fn finish(self, goodbye: bool) {
        if !goodbye {
            // Without interfaces there is nobody to say goodbye to. A queue that is full belongs to a
            // daemon that does not read it.
            let _full = self.daemon.disable_interface(IfKind::All);
        }
        drop(self.events);
        if let Ok(ended) = self.daemon.shutdown() {
            let ended: Receiver<DaemonStatus> = ended;
            let _late = timeout(ANSWER_WITHIN, ended.recv_async()).await;
        }
    }
}

fn is_flooded(metrics: &Metrics) -> bool {
    let count = |name: &str| metrics.get(name).copied().unwrap_or_default();
    let records: i64 = CACHE_COUNTERS.into_iter().map(count).sum();
    records > MDNS_CACHE_RECORDS_MAX || count(TIMER_COUNTER) > 4 * MDNS_CACHE_RECORDS_MAX
}

/// The record as a service of its own name, unique to board and cluster.
fn service(record: &SignedRecord) -> Result<ServiceInfo, mdns_sd::Error> {
    // A DNS label has 63 bytes: 46 of the board's name, a dash and 16 of the authority.
    const NAME_BYTES_MAX: usize = 46;
    let leader = record.record();
    let name: String = leader.name.chars().take(NAME_BYTES_MAX).collect();
    let authority: String = leader.ca[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let instance = format!("{name}-{authority}");
    let host = format!("{instance}.local.");
    let pairs = record.pairs();
    let (no_address, port) = ("", leader.peer_port);
    let service = ServiceInfo::new(SERVICE, &instance, &host, no_address, port, &pairs[..])?;
    // The library announces on each interface the addresses that lie there; our own are in the record.
    let mut service = service.enable_addr_auto();
    // A probe waits for about a second; the name cannot be anybody else's.
    service.set_requires_probe(false);
    Ok(service)
}
