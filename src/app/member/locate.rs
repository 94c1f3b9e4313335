//! Where the leader is: the newest record that the cluster's authority has signed.
//!
//! In: what is heard over mDNS, the record on disk, the boards that the user named. Out: the record on
//! a watch channel, for the bus and the tunnel, and on disk. While the leader does not answer, the
//! known addresses and the named boards are asked in turn, which is how a board finds its cluster where
//! multicast is filtered. Invariant: epoch and term of the record never go back, and only a signature
//! makes a record count; a forged one costs a line in the log. A leader of an earlier epoch than that of the
//! log which this board holds, or has lost, was fenced and is none.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::leader::{LeaderRecord, SignedRecord};
use model::masters::MasterAtV1;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::dial::{self, Told};
use crate::app::authority::Certifying;
use crate::app::config::Peer;
use crate::app::dirs::Dirs;
use crate::app::membership::Membership;
use crate::io::bus::client::BusState;
use crate::io::discovery::{Discovery, Judge};
use crate::io::tls::{self, Credentials};

/// How long the leader may be away before others are asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two rounds of asking, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How often a search that finds nothing says so.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How often forged records are told of.
const FORGED_EVERY: Duration = Duration::from_secs(60);

/// Finds the leader.
pub(super) struct Locator {
    /// Where the record is kept.
    pub(super) dirs: Dirs,
    /// The board's certificate and its cluster's authority.
    pub(super) credentials: Credentials,
    /// Name of the cluster.
    pub(super) cluster: String,
    /// Boards that the user named.
    pub(super) peers: Vec<Peer>,
    /// Hears leaders.
    pub(super) discovery: Discovery,
    /// How the bus fares.
    pub(super) bus: watch::Receiver<BusState>,
    /// The record that the leader keeps on the bus; its signature is not checked yet.
    pub(super) on_bus: watch::Receiver<Option<SignedRecord>>,
    /// Records that masters tell, by an open question; their signatures are not checked yet.
    pub(super) told: watch::Receiver<Option<SignedRecord>>,
    /// Everybody who holds the log.
    pub(super) masters: watch::Receiver<Arc<Vec<MasterAtV1>>>,
    /// The newest record.
    pub(super) found: watch::Sender<Option<LeaderRecord>>,
    /// The same with its signature, to be told to others.
    pub(super) signed: watch::Sender<Option<SignedRecord>>,
    /// What is on disk.
    pub(super) known: Membership,
    /// Epoch of the log that this board holds or has lost; zero where there is none.
    pub(super) since: u64,
    /// Asks for a certificate where the cluster has another authority; masters have their own way.
    pub(super) certifying: Option<Certifying>,
}

impl Locator {
    /// Looks until `stop`.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let known = self.known.leader.take();
        let counts = |record: &SignedRecord| {
            record.record().epoch >= self.since && is_ours(record, &self.credentials, &self.cluster)
        };
        if let Some(record) = known.filter(counts) {
            self.found.send_replace(Some(record.record().clone()));
            self.signed.send_replace(Some(record.clone()));
            self.known.leader = Some(record);
        }
        // Cancel safety: what a search is dropped in is begun anew at the next start.
        tokio::select! {
            () = self.search() => (),
            // An error means that nobody can ask any more.
            _ = stop.wait_for(|stop| *stop) => (),
        }
        self.discovery.stop().await;
        Ok(())
    }

    async fn search(&mut self) {
        let mut heard = self.discovery.heard();
        let (mut bus, mut on_bus) = (self.bus.clone(), self.on_bus.clone());
        let (mut told, mut masters) = (self.told.clone(), self.masters.clone());
        let mut round = Round::new();
        let book = masters.borrow().to_vec();
        if !book.is_empty() {
            self.known.masters = book;
        }
        self.take_heard(&mut heard).await;
        loop {
            let away = bus.borrow_and_update().connected_to.is_none();
            // Cancel safety: all of them lose nothing when dropped. A channel whose sender is gone is
            // not asked any more: the role is about to end.
            tokio::select! {
                Ok(()) = heard.changed() => self.take_heard(&mut heard).await,
                Ok(()) = on_bus.changed() => {
                    let record = on_bus.borrow_and_update().clone();
                    self.take_unless_forged(record).await;
                }
                Ok(()) = told.changed() => {
                    let record = told.borrow_and_update().clone();
                    self.take_unless_forged(record).await;
                }
                Ok(()) = masters.changed() => {
                    self.known.masters = masters.borrow_and_update().to_vec();
                    self.keep().await;
                }
                Ok(()) = bus.changed() => {
                    if away != bus.borrow().connected_to.is_none() {
                        round = Round::new();
                    }
                }
                () = tokio::time::sleep_until(round.at), if away => {
                    self.discovery.ask();
                    let tried = self.ask_around().await;
                    if round.ended() {
                        self.say(&tried);
                    }
                }
                else => return std::future::pending().await,
            }
        }
    }

    async fn take_heard(&mut self, heard: &mut watch::Receiver<Vec<SignedRecord>>) {
        let best = heard.borrow_and_update().first().cloned();
        if let Some(record) = best {
            self.take(record).await;
        }
    }

    /// Takes over a record whose signature has been checked, unless a newer one is known.
    async fn take(&mut self, record: SignedRecord) {
        let known = self.known.leader.as_ref().map(SignedRecord::record);
        if !is_news(known, self.since, record.record()) {
            return;
        }
        let leader = record.record().clone();
        let at = leader.addresses.first().map(ToString::to_string).unwrap_or_default();
        let (epoch, term) = leader.rank();
        tracing::info!(leader = %leader.name, %at, epoch, term, "the cluster is led by");
        self.found.send_replace(Some(leader));
        self.signed.send_replace(Some(record.clone()));
        self.known.leader = Some(record);
        self.keep().await;
    }

    /// Makes what is known durable.
    async fn keep(&self) {
        let (known, dirs) = (self.known.clone(), self.dirs.clone());
        match tokio::task::spawn_blocking(move || known.save(&dirs)).await {
            Ok(Ok(())) => {}
            // The board works without it until its next start.
            Ok(Err(error)) => tracing::warn!(%error, "the leader's address is not kept"),
            Err(error) => tracing::warn!(%error, "the leader's address is not kept"),
        }
    }

    async fn take_unless_forged(&mut self, record: Option<SignedRecord>) {
        if let Some(record) = record
            && is_ours(&record, &self.credentials, &self.cluster)
        {
            self.take(record).await;
        }
    }

    /// Asks every known master and every named board who leads, all at once; gives who was asked.
    async fn ask_around(&mut self) -> Vec<SocketAddr> {
        let mut candidates: Vec<SocketAddr> = Vec::new();
        if let Some(known) = &self.known.leader {
            candidates.extend(dial::addresses(known.record()));
        }
        for master in &self.known.masters {
            let at = |address: &Ipv4Addr| SocketAddr::from((*address, master.peer_port));
            candidates.extend(master.addresses.iter().map(at));
        }
        candidates.extend(dial::resolve(&self.peers).await);
        let mut seen = HashSet::new();
        candidates.retain(|address| seen.insert(*address));
        let mut asking = JoinSet::new();
        for address in candidates.clone() {
            let credentials = self.credentials.clone();
            asking.spawn(async move { (address, dial::asked(address, &credentials).await) });
        }
        while let Some(asked) = asking.join_next().await {
            match asked {
                Ok((_, Ok(told))) if is_ours(&told.record, &self.credentials, &self.cluster) => {
                    self.take(told.record).await;
                }
                Ok((address, Ok(told))) => {
                    tracing::debug!(%address, "a board tells of a leader that nobody signed");
                    self.follow_authority(address, &told).await;
                }
                Ok((address, Err(error))) => {
                    tracing::debug!(%address, error, "nobody tells who leads");
                }
                Err(error) => tracing::warn!(%error, "a board could not be asked who leads"),
            }
        }
        candidates
    }

    /// The leader that a master names may have another authority by now, and be known by its key.
    async fn follow_authority(&self, address: SocketAddr, told: &Told) {
        let is_under_another = is_under_another(told, &self.credentials, &self.cluster);
        let leader = told.record.record();
        if leader.epoch < self.since {
            return;
        }
        if let Some(certifying) = &self.certifying
            && is_under_another
            && let Err(why) = certifying.meet(address, &leader.name).await
        {
            tracing::debug!(%address, why, "nobody tells the key of who leads");
        }
        if let Some(certifying) = self.certifying.as_ref().filter(|it| it.may_ask()) {
            for address in dial::addresses(leader) {
                match certifying.ask_at(address).await {
                    Ok(()) => return,
                    Err(why) => tracing::debug!(%address, why, "no certificate"),
                }
            }
        } else if is_under_another {
            // A board with keys of the cluster is told by the leader what it is by now. The record counts
            // for that alone: nothing of it is kept or told to others.
            self.found.send_if_modified(|found| lead_there(found, leader));
        }
    }

    fn say(&self, tried: &[SocketAddr]) {
        let tried: Vec<String> = tried.iter().map(ToString::to_string).collect();
        let leader = self.known.leader.as_ref().map(|known| known.record().name.clone());
        tracing::warn!(
            cluster = %self.cluster,
            leader,
            tried = tried.join(", "),
            "the master does not answer; pods go on. Start it, or name a board that reaches it with \
             --peers HOST"
        );
    }
}

/// When others are asked while the leader is away.
struct Round {
    at: tokio::time::Instant,
    pause: Duration,
    said: Option<Instant>,
}

impl Round {
    fn new() -> Self {
        Self { at: tokio::time::Instant::now() + PATIENCE, pause: PAUSE.0, said: None }
    }

    /// Plans the next one; whether it is time to tell that the leader is away.
    fn ended(&mut self) -> bool {
        self.at = tokio::time::Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE.1);
        let tell = self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        if tell {
            self.said = Some(Instant::now());
        }
        tell
    }
}

/// Whether the authority of this cluster signed the record.
pub(in crate::app) fn is_ours(
    record: &SignedRecord,
    credentials: &Credentials,
    cluster: &str,
) -> bool {
    let said = record.record();
    said.cluster == cluster
        && credentials.pin().starts_with(&said.ca)
        && tls::verify(credentials.authority(), &said.signed_bytes(), record.signature())
}

/// Whether a master that this board knows by its key says who leads under another authority: that one came
/// while this board was away, so that it cannot check the signature.
fn is_under_another(told: &Told, credentials: &Credentials, cluster: &str) -> bool {
    let said = told.record.record();
    let is_another = |pin: [u8; 32]| pin != credentials.pin() && pin.starts_with(&said.ca);
    said.cluster == cluster
        && told.authority.is_some_and(is_another)
        && credentials.pins_master(&told.board)
}

/// Whether that word says who leads this cluster, under its authority or another one.
pub(in crate::app) fn counts(told: &Told, credentials: &Credentials, cluster: &str) -> bool {
    is_ours(&told.record, credentials, cluster) || is_under_another(told, credentials, cluster)
}

/// Whether a leader is another one than is known, and no earlier one; `since` is the epoch of this board's log.
fn is_news(known: Option<&LeaderRecord>, since: u64, leader: &LeaderRecord) -> bool {
    leader.epoch >= since
        && known.is_none_or(|known| known.rank() <= leader.rank() && known != leader)
}

/// Makes that leader the one that is found, unless an earlier one is meant; whether it was another.
fn lead_there(found: &mut Option<LeaderRecord>, leader: &LeaderRecord) -> bool {
    let is_news = is_news(found.as_ref(), 0, leader);
    if is_news {
        *found = Some(leader.clone());
    }
    is_news
}

/// Lets records of this cluster pass; one that pretends to be of it is told of now and then.
pub(in crate::app) fn judge(credentials: &Credentials, cluster: &str) -> Judge {
    let (credentials, cluster) = (credentials.clone(), cluster.to_owned());
    let told: Mutex<Option<Instant>> = Mutex::new(None);
    Arc::new(move |record| {
        let genuine = is_ours(record, &credentials, &cluster);
        let pretends = credentials.pin().starts_with(&record.record().ca);
        if !genuine && pretends {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_none_or(|at| at.elapsed() >= FORGED_EVERY) {
                *told = Some(Instant::now());
                let at = record.record().addresses.first().map(ToString::to_string);
                tracing::warn!(
                    cluster = %record.record().cluster,
                    board = %record.record().name,
                    at,
                    "a forged leader record is on this network; it is ignored"
                );
            }
        }
        genuine
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::authority::tests::Authority;

    #[test]
    fn a_master_is_led_to_whoever_leads_under_another_authority() {
        let authority = Authority::new("lead-there");
        let record = |name: &str, epoch| authority.record(name, epoch).record().clone();
        let mut found = None;
        assert!(lead_there(&mut found, &record("pi-1", 2)));
        assert!(!lead_there(&mut found, &record("pi-1", 2)), "nothing new");
        assert!(!lead_there(&mut found, &record("pi-2", 1)), "an earlier one");
        assert!(lead_there(&mut found, &record("pi-2", 3)));
        let moved = LeaderRecord { addresses: Vec::new(), ..record("pi-2", 3) };
        assert!(lead_there(&mut found, &moved), "elsewhere");
        assert_eq!(found, Some(moved));
    }

    #[test]
    fn a_leader_that_was_fenced_leads_nobody_who_knows_of_a_later_epoch() {
        let authority = Authority::new("fenced-leader");
        let record = |name: &str, epoch| authority.record(name, epoch).record().clone();
        let (fenced, later) = (record("pi-1", 1), record("pi-2", 2));
        assert!(is_news(None, 0, &fenced), "a worker knows nothing");
        assert!(is_news(None, 1, &fenced), "the epoch of its own log");
        assert!(!is_news(None, 2, &fenced), "the board was promoted, or was in a group that was");
        assert!(is_news(None, 2, &later) && is_news(Some(&fenced), 2, &later));
        assert!(!is_news(Some(&later), 0, &fenced) && !is_news(Some(&later), 2, &later));
    }
}
