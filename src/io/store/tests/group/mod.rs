//! A store as a replica: these tests stand where the engine stands.

mod crash;
mod reign;
mod walk;

use model::{
    masters::{LogIdV1, MemberId, MembersV1, SnapshotHeadV1, VoteV1},
    timestamp::Timestamp,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::*;
use crate::io::store::{
    entry::{self, BaseV1, EntryV1, OpV1},
    group::seam::{Ask, Done, GroupRequest, GroupState, LogEntry, SnapshotFile},
    standing::boot_ms,
};

pub(super) const OWN: MemberId = MemberId(1);
/// Longer than anything takes, and shorter than the machine is up.
pub(super) const LEASE_MS: u64 = 120_000;

/// A replica and the engine's end of it.
pub(super) struct Replica {
    pub(super) store: Store,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) state: GroupState,
}

impl Replica {
    /// Opens the store in `dir` as a member.
    pub(super) async fn open(dir: &Path) -> Self {
        Self::open_with(Options::new(dir)).await
    }

    pub(super) async fn open_with(options: Options) -> Self {
        Self::enter(Store::open(options).expect("opens")).await
    }

    pub(super) async fn enter(store: Store) -> Self {
        let (sender, asks) = mpsc::channel(8);
        let state = store.enter(OWN, 1, sender, None).await.expect("a member");
        Self { store, asks, state }
    }

    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(Done<T>) -> GroupRequest,
    ) -> std::io::Result<T> {
        let (done, answered) = oneshot::channel();
        self.store.engine().send(request(done))?;
        answered.await.expect("every request is answered")
    }

    /// Appends without waiting.
    pub(super) fn begin_append(
        &self,
        entries: Vec<LogEntry>,
    ) -> oneshot::Receiver<std::io::Result<()>> {
        let (done, answered) = oneshot::channel();
        let flushed = Box::new(move |result| drop(done.send(result)));
        self.store.engine().send(GroupRequest::Append { entries, flushed }).expect("runs");
        answered
    }

    pub(super) async fn append(&self, entries: Vec<LogEntry>) -> std::io::Result<()> {
        self.begin_append(entries).await.expect("every append is answered")
    }

    pub(super) async fn commit(&self, entries: Vec<LogEntry>) -> std::io::Result<()> {
        self.ask(|done| GroupRequest::Commit { entries, done }).await
    }

    pub(super) async fn append_and_commit(&self, entries: &[LogEntry]) {
        self.append(entries.to_vec()).await.expect("appended");
        self.commit(entries.to_vec()).await.expect("applied");
    }

    pub(super) async fn truncate(&self, after: u64) -> std::io::Result<()> {
        self.ask(|done| GroupRequest::Truncate { after, done }).await
    }

    pub(super) async fn snapshot(&self) -> SnapshotFile {
        self.ask(|done| GroupRequest::Snapshot { done }).await.expect("written")
    }

    pub(super) async fn install(&self, file: SnapshotFile) -> std::io::Result<()> {
        self.ask(|done| GroupRequest::Install { file, done }).await
    }

    pub(super) async fn read(&self, from: u64, upto: u64, bytes_max: usize) -> Vec<LogEntry> {
        let read = |done| GroupRequest::Read { from, upto, bytes_max, done };
        self.ask(read).await.expect("read")
    }

    /// Begins to lead; the engine's first entry of the term must be applied.
    pub(super) async fn lead(&self, term: u64) -> Leads {
        let (over, ended) = watch::channel(false);
        let (confirm, mut asked) = mpsc::channel::<oneshot::Sender<Result<(), NotLeading>>>(8);
        let acked_ms = Arc::new(std::sync::atomic::AtomicU64::new(boot_ms()));
        let reign = Reign { epoch: 1, term };
        let mandate = Mandate::group(reign, acked_ms.clone(), LEASE_MS, ended, confirm);
        self.store.engine().send(GroupRequest::Reign(Some(mandate))).expect("runs");
        let leads = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let still = leads.clone();
        tokio::spawn(async move {
            while let Some(answer) = asked.recv().await {
                let leads = still.load(std::sync::atomic::Ordering::SeqCst);
                let _ = answer.send(if leads { Ok(()) } else { Err(NotLeading { hint: None }) });
            }
        });
        let mut reigns = self.store.reign();
        let led = |led: &Option<Mandate>| led.as_ref().is_some_and(|led| led.reign() == reign);
        let mandate = reigns.wait_for(led).await.expect("runs").clone().expect("leads");
        // It has been served, also where the reign stood before.
        self.read(1, 0, 0).await;
        Leads { mandate, acked_ms, leads, over }
    }

    /// Ends the reign.
    pub(super) async fn step_down(&self) {
        self.store.engine().send(GroupRequest::Reign(None)).expect("runs");
        self.store.reign().wait_for(Option::is_none).await.expect("runs");
    }

    /// What the leader hands over next.
    pub(super) async fn proposed(&mut self) -> (u64, Vec<(u64, Bytes)>) {
        match self.asks.recv().await.expect("the thread runs") {
            Ask::Propose { mandate, entries } => (mandate.reign().term, entries),
            Ask::Snapshot => panic!("no snapshot was due"),
        }
    }
}

/// The engine's side of a mandate.
pub(super) struct Leads {
    pub(super) mandate: Mandate,
    pub(super) acked_ms: Arc<std::sync::atomic::AtomicU64>,
    pub(super) leads: Arc<std::sync::atomic::AtomicBool>,
    pub(super) over: watch::Sender<bool>,
}

pub(super) fn blank(term: u64, index: u64) -> LogEntry {
    LogEntry { term, index, payload: entry::blank(), tag: 0 }
}

pub(super) fn group() -> MembersV1 {
    MembersV1::sole(OWN, "a".into(), [7; 32])
}

pub(super) fn members(term: u64, index: u64) -> LogEntry {
    LogEntry { term, index, payload: entry::members(&group()), tag: 0 }
}

/// An entry that makes a pod of `bytes`.
pub(super) fn pod(term: u64, index: u64, bytes: usize) -> LogEntry {
    let op = OpV1 {
        kind: "/pods".into(),
        namespace: "a".into(),
        name: format!("p{index}"),
        base: BaseV1::Absent,
        uid: Uid([3; 16]),
        body: Some(Bytes::from(vec![b'0' + (term % 10) as u8; bytes])),
        old: None,
    };
    let payload = EntryV1::At(Timestamp(index as i64), vec![op]).encode();
    LogEntry { term, index, payload: payload.into(), tag: 0 }
}

/// A group's first entries, and pods up to `last`.
pub(super) fn history(last: u64, bytes: usize) -> Vec<LogEntry> {
    let first = [blank(1, 1), members(1, 2)];
    first.into_iter().chain((3..=last).map(|index| pod(1, index, bytes))).collect()
}

pub(super) fn pods(store: &Store) -> Vec<String> {
    let records = store.list(&all("/pods")).expect("list").records;
    let mut names: Vec<_> = records.into_iter().map(|record| record.key.name).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
}

pub(super) fn named(indices: std::ops::RangeInclusive<u64>) -> Vec<String> {
    indices.map(|index| format!("p{index}")).collect()
}

pub(super) fn id(term: u64, index: u64) -> Option<LogIdV1> {
    Some(LogIdV1 { term, index })
}

#[tokio::test]
async fn what_is_not_committed_is_neither_shown_nor_kept_in_the_state() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    assert_eq!((replica.state.last, replica.state.applied, replica.state.vote), (None, None, None));
    let log = history(8, 100);
    replica.append(log.clone()).await.expect("appended");
    replica.commit(log[..5].to_vec()).await.expect("applied");
    assert_eq!(pods(&replica.store), named(3..=5));
    let mut watch = replica.store.watch_kind(&"/pods".into(), None, Version(0)).expect("all of it");
    for index in 3..=5 {
        assert_eq!(watch.next().await.expect("change").key.name, format!("p{index}"));
    }
    let early = tokio::time::timeout(Duration::from_millis(30), watch.next()).await;
    assert!(early.is_err(), "{early:?} is not committed");
    // Flushes LMDB although the log reaches further.
    let file = replica.snapshot().await;
    assert_eq!((file.head.last, file.head.members), (LogIdV1 { term: 1, index: 5 }, group()));
    replica.store.abandon().await;
    let replica = Replica::open(&dir.0).await;
    let GroupState { last, applied, members, first_of_terms, .. } = replica.state.clone();
    assert_eq!((last, applied), (id(1, 8), id(1, 5)));
    assert_eq!(members, Some((LogIdV1 { term: 1, index: 2 }, group())));
    assert_eq!(first_of_terms, [LogIdV1 { term: 1, index: 1 }]);
    assert_eq!(pods(&replica.store), named(3..=5));
    // Another leader overrules the rest.
    replica.truncate(6).await.expect("cut");
    let other = [blank(2, 7), pod(2, 8, 50)];
    replica.append(other.to_vec()).await.expect("appended");
    let read = replica.read(6, 99, 1 << 20).await;
    assert_eq!(read, [&log[5..6], &other].concat());
    replica.commit(read).await.expect("applied");
    assert_eq!(pods(&replica.store), ["p3", "p4", "p5", "p6", "p8"]);
    assert!(replica.truncate(7).await.is_err(), "what is applied stays");
    let gap = replica.append(vec![pod(2, 10, 5)]).await;
    assert!(gap.is_err(), "entry 9 is missing");
    replica.store.close().await;
}

#[tokio::test]
async fn a_vote_and_the_member_id_outlive_a_kill() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    let vote = VoteV1 { term: 4, of: MemberId(2), granted: true };
    replica.ask(|done| GroupRequest::SaveVote { vote, done }).await.expect("saved");
    replica.store.abandon().await;
    let store = Store::open(Options::new(&dir.0)).expect("opens");
    assert_eq!(store.standing(), Standing::Member { own: OWN, epoch: 1 });
    let alone = store.lead_alone(Box::new(())).await;
    assert!(matches!(alone, Err(OpenError::Member { own: OWN, .. })), "{alone:?}");
    let (asks, _asked) = mpsc::channel(8);
    let other = store.enter(MemberId(2), 1, asks.clone(), None).await;
    assert!(matches!(other, Err(OpenError::Member { own: OWN, .. })), "{other:?}");
    let later = store.enter(OWN, 2, asks, None).await;
    assert!(matches!(later, Err(OpenError::Member { own: OWN, .. })), "{later:?}");
    let replica = Replica::enter(store).await;
    assert_eq!(replica.state.vote, Some(vote));
    replica.store.close().await;
}

#[tokio::test]
async fn a_member_that_has_got_nothing_yet_is_not_promoted() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    let vote = VoteV1 { term: 4, of: MemberId(2), granted: true };
    replica.ask(|done| GroupRequest::SaveVote { vote, done }).await.expect("saved");
    replica.store.abandon().await;
    let refused = Store::promote(&dir.0, 1);
    assert!(matches!(refused, Err(OpenError::Empty(_))), "{refused:?}");
    let store = Store::open(Options::new(&dir.0)).expect("opens");
    assert_eq!(store.standing(), Standing::Member { own: OWN, epoch: 1 }, "it is what it was");
    let replica = Replica::enter(store).await;
    replica.append_and_commit(&history(6, 100)).await;
    replica.store.abandon().await;
    Store::promote(&dir.0, 1).expect("promoted, although nothing is applied on the disk");
}

#[tokio::test]
async fn a_promotion_that_is_cut_off_before_its_last_step_is_finished() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    let log = history(6, 100);
    replica.append_and_commit(&log).await;
    replica.store.abandon().await;
    let path = dir.0.join("vote");
    let vote = std::fs::read(&path).expect("a vote");
    Store::promote(&dir.0, 1).expect("promoted");
    std::fs::write(&path, vote).expect("as before the last step");
    let store = Store::open(Options::new(&dir.0)).expect("opens");
    assert_eq!(store.standing(), Standing::Sole);
    let mandate = store.lead_alone(Box::new(())).await.expect("leads");
    assert_eq!(mandate.reign().epoch, 2);
    assert!(!path.exists());
    store.close().await;
}

#[tokio::test]
async fn a_repair_of_the_last_copy_that_is_cut_off_is_finished_by_the_next() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    replica.append_and_commit(&history(8, 100)).await;
    replica.store.close().await;
    let path = dir.0.join("vote");
    let vote = std::fs::read(&path).expect("a vote");
    std::fs::write(&path, [7; 8192]).expect("written");
    let kept = Store::repair(&dir.0, Version(0), Some(1)).expect("repaired");
    std::fs::write(&path, vote).expect("as before the last step");
    let again = Store::repair(&dir.0, Version(0), Some(1)).expect("finished");
    assert!(again >= kept, "{again} {kept}");
    assert!(!path.exists());
    let store = dir.open();
    assert_eq!(pods(&store), named(3..=8));
    assert_eq!(store.leadership().epoch, 2);
    store.close().await;
}

#[tokio::test]
async fn a_member_whose_vote_cannot_be_read_is_promoted_into_an_epoch_above_all() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    replica.append_and_commit(&history(8, 100)).await;
    replica.store.close().await;
    std::fs::write(dir.0.join("vote"), [7; 8192]).expect("written");
    Store::promote(&dir.0, 4).expect("promoted");
    let store = dir.open();
    assert_eq!(pods(&store), named(3..=8));
    assert_eq!(store.leadership().epoch, 5);
    store.close().await;
}

#[tokio::test]
async fn a_store_with_entries_of_its_own_joins_no_group() {
    let dir = Dir::new();
    let store = dir.open();
    store.propose(vec![put(key("/pods", "a", "b"), Base::Absent, body("1"))]).await.expect("put");
    store.close().await;
    let store = Store::open(Options::new(&dir.0)).expect("opens");
    assert_eq!(store.standing(), Standing::Sole);
    let (asks, _asked) = mpsc::channel(8);
    let entered = store.enter(OWN, 1, asks, None).await;
    assert!(matches!(entered, Err(OpenError::Member { own: MemberId(0), .. })), "{entered:?}");
    let refused = store.propose(vec![delete(key("/pods", "a", "b"), Base::Any)]).await;
    assert!(matches!(refused, Err(ProposeError::NotLeading { .. })), "{refused:?}");
    assert!(store.get(&key("/pods", "a", "b")).expect("read").is_some(), "it can be read");
    store.close().await;
}

#[tokio::test]
async fn a_replica_whose_log_lost_its_end_is_given_up() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    replica.append_and_commit(&history(6, 100)).await;
    replica.store.close().await;
    for path in std::fs::read_dir(dir.0.join("log")).expect("listed") {
        std::fs::remove_file(path.expect("entry").path()).expect("removed");
    }
    let opened = Store::open(Options::new(&dir.0));
    assert!(matches!(opened, Err(OpenError::Lost(_))), "{opened:?}");
}

fn lose_all_but_the_vote(dir: &Dir) {
    for lost in ["log", "state"] {
        std::fs::remove_dir_all(dir.0.join(lost)).expect("removed");
    }
}

#[tokio::test]
async fn a_replica_that_kept_its_vote_and_lost_its_log_is_given_up() {
    let dir = Dir::new();
    // Who has got nothing yet may come back with nothing, also after it has heard a leader.
    for term in 0..3 {
        let replica = Replica::open(&dir.0).await;
        assert_eq!((replica.state.last, replica.state.applied), (None, None));
        let vote = VoteV1 { term: term + 1, of: MemberId(2), granted: true };
        replica.ask(|done| GroupRequest::SaveVote { vote, done }).await.expect("saved");
        replica.store.abandon().await;
        lose_all_but_the_vote(&dir);
    }
    // What is appended counts, committed or not.
    let replica = Replica::open(&dir.0).await;
    replica.append(history(3, 100)).await.expect("appended");
    replica.store.abandon().await;
    let replica = Replica::open(&dir.0).await;
    assert_eq!((replica.state.last, replica.state.applied), (id(1, 3), None));
    replica.store.close().await;
    lose_all_but_the_vote(&dir);
    for _ in 0..2 {
        let opened = Store::open(Options::new(&dir.0));
        assert!(matches!(opened, Err(OpenError::Lost(_))), "{opened:?}");
    }
}

#[tokio::test]
async fn a_replica_of_an_earlier_release_is_marked_at_its_start() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    replica.append_and_commit(&history(6, 100)).await;
    replica.store.close().await;
    let (path, faults) = (dir.0.join("vote"), crate::io::store::file::Faults::default());
    let ballot = || {
        let file = vote::VoteFile::open(&path, &faults).expect("readable").expect("there");
        file.ballot()
    };
    let unmarked = vote::Ballot { held: false, ..ballot() };
    vote::VoteFile::create(&path, unmarked, &faults).expect("made");
    Replica::open(&dir.0).await.store.close().await;
    assert!(ballot().held);
    lose_all_but_the_vote(&dir);
    let opened = Store::open(Options::new(&dir.0));
    assert!(matches!(opened, Err(OpenError::Lost(_))), "{opened:?}");
}

/// Damages an entry in the middle of the log of a group's member; gives the last good version.
async fn damaged_member(dir: &Dir, with_state: bool) -> Version {
    let replica = Replica::open(&dir.0).await;
    for entry in history(8, 100) {
        // Each by itself: what is torn off the end is no damage.
        replica.append_and_commit(&[entry]).await;
    }
    replica.store.close().await;
    let path = dir.0.join("log");
    let path = std::fs::read_dir(path).expect("listed").next().expect("a file").expect("an entry");
    let mut bytes = std::fs::read(path.path()).expect("readable");
    let at = bytes.windows(2).position(|part| part == b"p5").expect("the fifth");
    bytes[at] ^= 1;
    std::fs::write(path.path(), bytes).expect("written");
    if !with_state {
        std::fs::remove_dir_all(dir.0.join("state")).expect("removed");
    }
    let opened = Store::open(Options::new(&dir.0));
    let Err(OpenError::Damaged { last_good, .. }) = opened else { panic!("{opened:?}") };
    last_good
}

#[tokio::test]
async fn the_last_copy_of_a_group_goes_on_alone_although_it_is_damaged() {
    for (with_state, kept, epoch) in [(false, 4, 1), (true, 8, 1), (false, 4, 6), (true, 8, 6)] {
        let dir = Dir::new();
        let last_good = damaged_member(&dir, with_state).await;
        let refused = Store::repair(&dir.0, last_good, None);
        let said = refused.expect_err("others may have it").to_string();
        let remedy = format!("repair --accept-loss-after {last_good} --last-copy");
        assert!(said.contains(&remedy), "{said}");
        let beyond = Store::repair(&dir.0, Version(last_good.0 + 1), Some(epoch));
        assert!(matches!(beyond, Err(OpenError::BeyondGood { .. })), "{beyond:?}");
        let nothing = Store::repair(&dir.0, Version(0), Some(epoch));
        assert!(matches!(nothing, Err(OpenError::Damaged { .. })), "{nothing:?}");
        Store::repair(&dir.0, last_good, Some(epoch)).expect("repaired");
        let store = Store::open(Options::new(&dir.0)).expect("opens");
        assert_eq!(store.log_epoch(), Some(epoch + 1), "as long as nobody leads, too");
        assert_eq!(store.standing(), Standing::Sole);
        let mandate = store.lead_alone(Box::new(())).await.expect("leads");
        assert_eq!(mandate.reign().epoch, epoch + 1, "the others are fenced");
        assert_eq!(pods(&store), named(3..=kept));
        assert!(store.version() > Version::of_entry(epoch * model::limits::STORE_EPOCH_STRIDE, 0));
        store.close().await;
    }
}

#[tokio::test]
async fn a_last_copy_without_its_end_or_its_vote_goes_on_alone() {
    for lost in ["log", "vote"] {
        let dir = Dir::new();
        let replica = Replica::open(&dir.0).await;
        replica.append_and_commit(&history(8, 100)).await;
        replica.store.close().await;
        let whole = Store::repair(&dir.0, Version(0), Some(1));
        assert!(matches!(whole, Err(OpenError::Whole(_))), "{whole:?}");
        match lost {
            "log" => std::fs::remove_dir_all(dir.0.join("log")).expect("removed"),
            _ => std::fs::write(dir.0.join("vote"), [7; 8192]).expect("written"),
        }
        Store::open(Options::new(&dir.0)).expect_err("lost");
        let beyond = Store::repair(&dir.0, Version(1 << 62), Some(1));
        assert!(matches!(beyond, Err(OpenError::BeyondGood { .. })), "{beyond:?}");
        std::fs::create_dir_all(dir.0.join("log")).expect("made");
        Store::repair(&dir.0, Version(0), Some(1)).expect("repaired");
        let store = dir.open();
        assert_eq!(pods(&store), named(3..=8), "{lost}");
        assert_eq!(store.leadership().epoch, 2);
        store.close().await;
    }
}

#[tokio::test]
async fn entries_are_read_within_bounds_and_over_segments() {
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    let log = history(12, 300_000);
    replica.append_and_commit(&log).await;
    for (from, upto, bytes_max, wanted) in [
        (1, 12, usize::MAX, 12),
        (3, 12, 1, 1),
        (3, 12, 650_000, 2),
        (4, 9, usize::MAX, 6),
        (12, 90, 0, 1),
    ] {
        let read = replica.read(from, upto, bytes_max).await;
        let first = from as usize - 1;
        assert_eq!(read, log[first..first + wanted], "{from}..={upto} in {bytes_max} bytes");
    }
    assert_eq!(replica.read(13, 20, 100).await, []);
    replica.store.close().await;
}
