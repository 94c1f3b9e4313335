//! Real stores with real engines in one process, over a network that loses, doubles, delays and cuts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::ids::Version;
use model::masters::{GroupAnswerV1, GroupAskV1, MemberId, MemberV1, Part};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::io::store::file::Faults;
use crate::io::store::group::{
    BoxFuture, Group, GroupHealth, GroupOptions, GroupWire, MemberChange, SnapshotFile, Timing,
    WireTrouble, seam::GroupRequest,
};
use crate::io::store::tests::{Dir, Random, key, put};
use crate::io::store::{Base, Mandate, Options, ProposeError, Store};

/// How the network treats messages.
#[derive(Clone, Copy, Default)]
pub(super) struct Weather {
    /// Lost, of a thousand, either way.
    pub(super) lost: u64,
    /// Delivered twice, of a thousand.
    pub(super) doubled: u64,
    /// Longest delay, each way.
    pub(super) delay_ms: u64,
}

/// The network.
pub(super) struct Net {
    groups: RwLock<HashMap<MemberId, (Group, PathBuf)>>,
    /// From whom to whom nothing passes.
    cuts: Mutex<HashSet<(MemberId, MemberId)>>,
    /// Nobody is asked for its vote.
    voteless: AtomicBool,
    weather: Mutex<Weather>,
    random: Mutex<Random>,
    runtime: tokio::runtime::Handle,
    snapshots: AtomicUsize,
    asks: AtomicUsize,
    /// Who asked whom for its standing.
    called: Mutex<HashSet<(MemberId, MemberId)>>,
}

impl Net {
    fn roll(&self, bound: u64) -> u64 {
        self.random.lock().expect("whole").below(bound.max(1))
    }

    pub(super) fn weather(&self, weather: Weather) {
        *self.weather.lock().expect("whole") = weather;
    }

    /// Cuts one direction.
    pub(super) fn cut(&self, from: MemberId, to: MemberId) {
        self.cuts.lock().expect("whole").insert((from, to));
    }

    /// Heals everything.
    pub(super) fn heal(&self) {
        self.cuts.lock().expect("whole").clear();
    }

    /// Whether asks for votes are lost: whoever leads is not followed by another.
    pub(super) fn voteless(&self, voteless: bool) {
        self.voteless.store(voteless, Ordering::SeqCst);
    }

    /// Messages so far.
    pub(super) fn asks(&self) -> usize {
        self.asks.load(Ordering::SeqCst)
    }

    /// Who has asked whom for its standing since the last look.
    pub(super) fn called(&self) -> HashSet<(MemberId, MemberId)> {
        std::mem::take(&mut *self.called.lock().expect("whole"))
    }

    pub(super) fn snapshots(&self) -> usize {
        self.snapshots.load(Ordering::SeqCst)
    }

    /// Whether a message passes; waits as long as it takes.
    async fn passes(&self, from: MemberId, to: MemberId) -> bool {
        let weather = *self.weather.lock().expect("whole");
        let delay_ms = self.roll(weather.delay_ms + 1);
        if delay_ms > 0 {
            sleep(Duration::from_millis(delay_ms)).await;
        }
        let is_cut = self.cuts.lock().expect("whole").contains(&(from, to));
        !is_cut && self.roll(1000) >= weather.lost
    }

    fn group(&self, of: MemberId) -> Option<(Group, PathBuf)> {
        self.groups.read().expect("whole").get(&of).cloned()
    }
}

/// One member's way to the others.
struct Wire {
    own: MemberId,
    net: Arc<Net>,
}

fn gone() -> WireTrouble {
    WireTrouble::Unreachable("lost".into())
}

/// What TCP takes to give up a connection.
const GIVES_UP: Duration = Duration::from_millis(300);

impl GroupWire for Wire {
    fn ask(
        &self,
        to: MemberId,
        ask: GroupAskV1,
        within: Duration,
    ) -> BoxFuture<'_, Result<GroupAnswerV1, WireTrouble>> {
        let (net, own) = (self.net.clone(), self.own);
        net.asks.fetch_add(1, Ordering::SeqCst);
        if ask == GroupAskV1::Standing {
            net.called.lock().expect("whole").insert((own, to));
        }
        let doubled = {
            let weather = *net.weather.lock().expect("whole");
            net.roll(1000) < weather.doubled
        };
        let once = move |ask: GroupAskV1| {
            let net = net.clone();
            async move {
                let is_vote = matches!(ask, GroupAskV1::Vote { .. } | GroupAskV1::PreVote { .. });
                if is_vote && net.voteless.load(Ordering::SeqCst) {
                    return None;
                }
                if !net.passes(own, to).await {
                    return None;
                }
                let (group, _) = net.group(to)?;
                let answer = group.answer(ask).await;
                net.passes(to, own).await.then_some(answer)
            }
        };
        let runtime = self.net.runtime.clone();
        Box::pin(async move {
            if doubled {
                runtime.spawn(once(ask.clone()));
            }
            // On another runtime: a message that is on its way arrives although its sender dies.
            match runtime.spawn(once(ask)).await {
                Ok(Some(answer)) => Ok(answer),
                _ => {
                    sleep(GIVES_UP.min(within)).await;
                    Err(gone())
                }
            }
        })
    }

    fn send_snapshot(
        &self,
        to: MemberId,
        mut file: SnapshotFile,
    ) -> BoxFuture<'_, Result<GroupAnswerV1, WireTrouble>> {
        Box::pin(async move {
            if !self.net.passes(self.own, to).await {
                return Err(gone());
            }
            let (group, incoming) = self.net.group(to).ok_or_else(gone)?;
            std::fs::create_dir_all(&incoming).expect("made");
            let path = incoming.join(format!("{}.part", self.own));
            std::fs::copy(&file.path, &path).expect("copied");
            file.path = path;
            self.net.snapshots.fetch_add(1, Ordering::SeqCst);
            let runtime = self.net.runtime.clone();
            let answer = runtime.spawn(async move { group.install(file).await }).await;
            match answer {
                Ok(answer) if self.net.passes(to, self.own).await => Ok(answer),
                _ => Err(gone()),
            }
        })
    }
}

/// One board.
pub(super) struct Seat {
    pub(super) id: MemberId,
    dir: Dir,
    pub(super) options: Options,
    pub(super) store: Option<Store>,
    pub(super) group: Option<Group>,
}

/// Boards and the network between them.
pub(super) struct Bed {
    pub(super) net: Arc<Net>,
    pub(super) seats: Vec<Seat>,
    pub(super) timing: Timing,
}

pub(super) fn member(id: MemberId) -> MemberV1 {
    MemberV1 { id, board: format!("b{id}"), key: [id.0 as u8; 32], part: Part::Learner }
}

pub(super) fn ids(range: impl IntoIterator<Item = u64>) -> BTreeSet<MemberId> {
    range.into_iter().map(MemberId).collect()
}

/// Waits until `what` holds; fails after a while.
pub(super) async fn until(text: &str, seconds: u64, mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !what() {
        assert!(Instant::now() < deadline, "waited {seconds} s in vain: {text}");
        sleep(Duration::from_millis(5)).await;
    }
}

impl Bed {
    /// One board that leads alone and has written a little, then founds a group and goes on.
    pub(super) async fn new(seed: u64, log_bytes: u64) -> Self {
        Self::with(seed, log_bytes, Timing::default()).await
    }

    /// The same with other clocks.
    pub(super) async fn with(seed: u64, log_bytes: u64, timing: Timing) -> Self {
        if std::env::var_os("KQ_TRACE").is_some() {
            let level = tracing::Level::INFO;
            // An error: another bed of this process was first.
            let _ = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).try_init();
        }
        let net = Net {
            groups: RwLock::default(),
            cuts: Mutex::default(),
            voteless: AtomicBool::new(false),
            weather: Mutex::default(),
            random: Mutex::new(Random(seed)),
            runtime: tokio::runtime::Handle::current(),
            snapshots: AtomicUsize::new(0),
            asks: AtomicUsize::new(0),
            called: Mutex::default(),
        };
        let mut bed = Self { net: Arc::new(net), seats: Vec::new(), timing };
        bed.seat(1, log_bytes);
        let store = Store::open(bed.seats[0].options.clone()).expect("opens");
        let mandate = store.lead_alone(Box::new(())).await.expect("leads alone");
        let first = store.propose(vec![put(key("/pods", "a", "sole"), Base::Absent, value(0))]);
        first.await.expect("written alone");
        let founder = MemberV1 { part: Part::Voter, ..member(MemberId(1)) };
        let before = mandate.reign();
        bed.join(0, store, Some(founder)).await;
        let after = bed.leader(5).await;
        assert_eq!(after.1.reign(), before, "growth begins no new reign");
        bed
    }

    /// A board that is off.
    pub(super) fn seat(&mut self, id: u64, log_bytes: u64) -> usize {
        let dir = Dir::new();
        let mut options = Options::new(dir.0.join("store"));
        options.log_bytes = log_bytes;
        options.faults = Faults::volatile();
        let id = MemberId(id);
        self.seats.push(Seat { id, dir, options, store: None, group: None });
        self.seats.len() - 1
    }

    async fn join(&mut self, nth: usize, store: Store, found: Option<MemberV1>) {
        let Seat { id: own, dir, .. } = &self.seats[nth];
        let (own, incoming) = (*own, dir.0.join("store/incoming"));
        let wire = Arc::new(Wire { own, net: self.net.clone() });
        let options = GroupOptions { own, epoch: 1, found, timing: self.timing, wire };
        let group = store.join_group(options).await.expect("joins the group");
        self.net.groups.write().expect("whole").insert(own, (group.clone(), incoming));
        let seat = &mut self.seats[nth];
        (seat.store, seat.group) = (Some(store), Some(group));
    }

    /// Switches a board on.
    pub(super) async fn start(&mut self, nth: usize) {
        let store = Store::open(self.seats[nth].options.clone()).expect("opens");
        self.join(nth, store, None).await;
    }

    /// Switches a board off as a power cut does: nothing is flushed or said, what was not synced is lost.
    pub(super) async fn kill(&mut self, nth: usize) {
        let seat = &mut self.seats[nth];
        let (Some(store), Some(group)) = (seat.store.take(), seat.group.take()) else { return };
        self.net.groups.write().expect("whole").remove(&seat.id);
        store.abandon().await;
        group.stop().await;
        seat.options.faults.lose_unsynced();
    }

    /// Ends a board in order: what it has applied is flushed.
    pub(super) async fn close(&mut self, nth: usize) {
        let seat = &mut self.seats[nth];
        if let (Some(store), Some(group)) = (seat.store.take(), seat.group.take()) {
            self.net.groups.write().expect("whole").remove(&seat.id);
            group.stop().await;
            store.close().await;
        }
    }

    /// The board that reigns, as it says itself.
    pub(super) async fn leader(&self, seconds: u64) -> (usize, Mandate) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(found) = self.leads() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "nobody leads after {seconds} s: {:?}",
                self.healths()
            );
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn leads(&self) -> Option<(usize, Mandate)> {
        self.seats.iter().enumerate().find_map(|(nth, seat)| {
            let mandate = seat.store.as_ref()?.reign().borrow().clone()?;
            mandate.may_act().then_some((nth, mandate))
        })
    }

    pub(super) fn healths(&self) -> Vec<(MemberId, Option<GroupHealth>)> {
        let health = |seat: &Seat| seat.group.as_ref().map(|group| group.health().borrow().clone());
        self.seats.iter().map(|seat| (seat.id, health(seat))).collect()
    }

    /// Asks whoever leads for a change until it happens.
    pub(super) async fn change(&self, change: MemberChange) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (nth, _) = self.leader(10).await;
            let Some(group) = &self.seats[nth].group else { continue };
            match group.change(change.clone()).await {
                Ok(()) => return,
                Err(error) => assert!(Instant::now() < deadline, "{change:?}: {error}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Adds boards as voters: learners first, who decide once they have the log.
    pub(super) async fn grow(&mut self, ids: impl IntoIterator<Item = u64>, log_bytes: u64) {
        let mut added = BTreeSet::new();
        for id in ids {
            let nth = self.seat(id, log_bytes);
            self.start(nth).await;
            self.change(MemberChange::AddLearner(member(MemberId(id)))).await;
            added.insert(MemberId(id));
        }
        let (nth, _) = self.leader(10).await;
        let health = self.seats[nth].group.as_ref().expect("leads").health();
        until("learners catch up", 20, || {
            let health = health.borrow().clone();
            added
                .iter()
                .all(|id| health.matched.get(id).is_some_and(|at| *at + 5 >= health.last_index))
        })
        .await;
        let voters = health.borrow().members.voters().union(&added).copied().collect();
        self.change(MemberChange::Voters { voters, keep_as_learner: true }).await;
    }

    /// Waits until all boards that are on have applied the same, then compares their snapshots byte by
    /// byte; gives the version.
    pub(super) async fn agree(&self, members: &BTreeSet<MemberId>) -> Version {
        let stores: Vec<&Store> = self
            .seats
            .iter()
            .filter(|seat| members.contains(&seat.id))
            .filter_map(|seat| seat.store.as_ref())
            .collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let versions: BTreeSet<Version> = stores.iter().map(|store| store.version()).collect();
            if versions.len() == 1 {
                let mut files = Vec::new();
                for store in &stores {
                    let file = snapshot(store).await;
                    let bytes = std::fs::read(&file.path).expect("read");
                    files.push((file.head.last, file.head.members, bytes));
                }
                if files.windows(2).all(|pair| (pair[0].0, &pair[0].1) == (pair[1].0, &pair[1].1)) {
                    assert!(files.windows(2).all(|pair| pair[0].2 == pair[1].2), "stores differ");
                    return versions.into_iter().next().expect("one");
                }
            }
            assert!(
                Instant::now() < deadline,
                "stores do not agree: {versions:?} {:?}",
                self.healths()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn stop(mut self) {
        for nth in 0..self.seats.len() {
            self.close(nth).await;
        }
    }
}

async fn snapshot(store: &Store) -> SnapshotFile {
    let (done, file) = oneshot::channel();
    let sent = store.engine().send(GroupRequest::Snapshot { done });
    assert!(sent.is_ok(), "store is open");
    file.await.expect("answered").expect("written")
}

pub(super) fn value(nth: u64) -> Bytes {
    Bytes::from(format!(r#"{{"n":{nth}}}"#))
}

/// What a client did and what it was told.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Value of each acknowledged write with its version, and when it was asked and acknowledged.
    pub(super) acked: Vec<(u64, Version, Instant, Instant)>,
    /// Values of writes whose outcome it does not know.
    pub(super) unknown: BTreeSet<u64>,
}

/// A client that counts one object up.
pub(super) struct Client {
    pub(super) name: String,
    pub(super) log: Log,
    next: u64,
}

impl Client {
    pub(super) fn new(nth: usize) -> Self {
        Self { name: format!("c{nth}"), log: Log::default(), next: 1 }
    }

    /// Tries one write on one store; whether it was acknowledged.
    pub(super) async fn write(&mut self, store: &Store) -> bool {
        let Some(mandate) = store.reign().borrow().clone() else { return false };
        if mandate.confirm().await.is_err() {
            return false;
        }
        let at = key("/pods", "clients", &self.name);
        let Ok(found) = store.get(&at) else { return false };
        if let Some(found) = &found {
            self.saw(&found.body, found.version);
        }
        let base = found.map_or(Base::Absent, |found| Base::At(found.version));
        let nth = self.next;
        self.next += 1;
        let begun = Instant::now();
        match store.of(&mandate).propose(vec![put(at, base, value(nth))]).await {
            Ok(committed) => {
                self.log.acked.push((nth, committed.versions[0], begun, Instant::now()));
                true
            }
            Err(
                ProposeError::NotLeading { .. }
                | ProposeError::Late
                | ProposeError::Conflict { .. },
            ) => false,
            Err(_) => {
                self.log.unknown.insert(nth);
                false
            }
        }
    }

    /// A confirmed read sees the newest acknowledged write, or one whose outcome was unknown.
    fn saw(&self, body: &Bytes, version: Version) {
        let newest = self.log.acked.last();
        let seen = |nth: &u64| value(*nth) == *body;
        let is_newest = newest.is_some_and(|(nth, at, ..)| seen(nth) && *at == version);
        let is_later = newest.is_none_or(|(_, at, ..)| *at < version);
        let was_unknown = self.log.unknown.iter().any(seen) && is_later;
        assert!(
            is_newest || was_unknown,
            "{} reads {body:?} at {version}, last acknowledged {newest:?}",
            self.name
        );
    }

    /// What the store holds at the end is the newest acknowledged write, or a later unknown one.
    pub(super) fn check(&self, store: &Store) {
        let at = key("/pods", "clients", &self.name);
        match store.get(&at).expect("read") {
            Some(found) => self.saw(&found.body, found.version),
            None => assert!(self.log.acked.is_empty(), "{} is lost", self.name),
        }
    }
}

/// A write that was asked for after another was acknowledged has a greater version; none is used twice.
pub(super) fn check_order<'a>(logs: impl IntoIterator<Item = &'a Log>) -> usize {
    let mut all: Vec<_> = logs.into_iter().flat_map(|log| &log.acked).collect();
    all.sort_by_key(|(_, version, ..)| *version);
    assert!(all.windows(2).all(|pair| pair[0].1 < pair[1].1), "a version was used twice");
    // From the greatest version down: no write above was acknowledged before this one was asked for.
    let mut first_acked: Option<Instant> = None;
    for (_, version, begun, acked) in all.iter().rev() {
        assert!(
            first_acked.is_none_or(|above| above >= *begun),
            "version {version} was given after a greater one was acknowledged"
        );
        first_acked = Some(first_acked.map_or(*acked, |above| above.min(*acked)));
    }
    all.len()
}
