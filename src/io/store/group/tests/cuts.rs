//! Power cuts of some or all boards, and who counts: what a majority of voters has synced stays, and
//! nothing else is acknowledged.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use model::ids::{Uid, Version};
use model::masters::{GroupAnswerV1, GroupAskV1, MemberId, VoteV1};
use model::timestamp::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::LARGE_LOG;
use super::bed::{Bed, Client, ids, member, until};
use super::write;
use crate::io::store::entry::{BaseV1, EntryV1, OpV1};
use crate::io::store::group::proposer::propose;
use crate::io::store::group::{MemberChange, seam::Ask};
use crate::io::store::standing::boot_ms;
use crate::io::store::tests::{key, put};
use crate::io::store::{Base, Mandate, ProposeError, Store};

/// Longer than any lease of the bed.
const LEASES_OVER: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_a_power_cut_of_all_boards() {
    let mut bed = Bed::new(41, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0), Client::new(1)];
    for _ in 0..4 {
        write(&bed, &mut clients, 5).await;
        for nth in 0..3 {
            bed.kill(nth).await;
        }
        for nth in 0..3 {
            bed.start(nth).await;
        }
        let (leader, mandate) = bed.leader(10).await;
        mandate.confirm().await.expect("it leads");
        let store = bed.seats[leader].store.clone().expect("it leads");
        clients.iter().for_each(|client| client.check(&store));
    }
    bed.agree(&ids([1, 2, 3])).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_board_shows_each_change_once() {
    let mut bed = Bed::new(44, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let (leader, _) = bed.leader(5).await;
    let from = bed.seats[leader].store.as_ref().expect("leads").version();
    let watch = |store: &Store| {
        let watched = store.watch_kind(&"/pods".into(), Some("clients"), from);
        watched.expect("history reaches back")
    };
    let mut clients = [Client::new(0), Client::new(1)];
    write(&bed, &mut clients, 5).await;
    bed.agree(&ids([1, 2, 3])).await;
    let mut cursors: Vec<_> =
        bed.seats.iter().map(|seat| watch(seat.store.as_ref().expect("on"))).collect();
    write(&bed, &mut clients, 5).await;
    bed.agree(&ids([1, 2, 3])).await;
    let mut acked: Vec<_> = clients.iter().flat_map(|client| &client.log.acked).collect();
    acked.sort_by_key(|(_, version, ..)| *version);
    for (seat, cursor) in bed.seats.iter().zip(&mut cursors) {
        for (_, version, ..) in &acked {
            let change = timeout(Duration::from_secs(5), cursor.next()).await;
            let change = change.expect("every change is shown").expect("no gap");
            assert_eq!(change.version, *version, "member {}", seat.id);
        }
        let store = seat.store.as_ref().expect("on");
        assert_eq!(store.count(&"/pods".into(), Some("clients")), clients.len());
    }
    bed.stop().await;
}

/// Writes what lives in memory only; gives its version.
async fn mark(bed: &Bed) -> Version {
    for _ in 0..1_000 {
        let (leader, mandate) = bed.leader(10).await;
        let store = bed.seats[leader].store.clone().expect("leads");
        let event = put(key("/events", "a", "mark"), Base::Any, super::bed::value(1));
        if let Ok(written) = store.of(&mandate).propose_memory(vec![event]).await {
            return written.versions[0];
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("no leader writes to its memory");
}

/// Nobody hears anybody for longer than a reign lasts: whoever leads next, the same board in the same
/// term or another, gives no version again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_only_grow_over_a_silence() {
    let mut bed = Bed::new(45, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut newest = Version(0);
    for _ in 0..6 {
        for _ in 0..3 {
            let version = mark(&bed).await;
            assert!(version > newest, "{version} after {newest}");
            newest = version;
        }
        let (leader, mandate) = bed.leader(5).await;
        let ids: Vec<MemberId> = bed.seats.iter().map(|seat| seat.id).collect();
        for (from, to) in ids.iter().flat_map(|from| ids.iter().map(move |to| (from, to))) {
            bed.net.cut(*from, *to);
        }
        let ended = timeout(Duration::from_secs(10), mandate.over()).await;
        assert!(ended.is_ok(), "member {} reigns over nobody", bed.seats[leader].id);
        bed.net.heal();
    }
    bed.stop().await;
}

/// A leader that hears nobody for longer than its reign lasts, and whom nobody follows: it leads on in
/// its term, and gives no version again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_heard_again_in_its_term_gives_no_version_again() {
    let mut bed = Bed::new(46, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let (leader, first) = bed.leader(5).await;
    bed.net.voteless(true);
    let mut newest = Version(0);
    for _ in 0..3 {
        for _ in 0..3 {
            let version = mark(&bed).await;
            assert!(version > newest, "{version} after {newest}");
            newest = version;
        }
        let (_, mandate) = bed.leader(5).await;
        let own = bed.seats[leader].id;
        for seat in &bed.seats {
            bed.net.cut(own, seat.id);
            bed.net.cut(seat.id, own);
        }
        let ended = timeout(Duration::from_secs(10), mandate.over()).await;
        assert!(ended.is_ok(), "it reigns over nobody");
        bed.net.heal();
        let (again, next) = bed.leader(10).await;
        assert_eq!((again, next.reign()), (leader, first.reign()), "nobody else can have led");
    }
    assert!(mark(&bed).await > newest);
    bed.net.voteless(false);
    bed.stop().await;
}

/// Asks a board for its vote.
async fn asked(bed: &Bed, nth: usize, term: u64, of: u64) -> bool {
    let group = bed.seats[nth].group.clone().expect("on");
    let last = group.health().borrow().last_index;
    // A candidate that has everything.
    let last = Some(model::masters::LogIdV1 { term: term - 1, index: last + 1_000 });
    let vote = VoteV1 { term, of: MemberId(of), granted: false };
    let ask = GroupAskV1::Vote { vote, last, transfer: false };
    match group.answer(ask).await {
        GroupAnswerV1::Vote { granted, .. } => granted,
        other => panic!("no answer to a vote: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_does_not_forget_its_vote_in_a_power_cut() {
    let mut bed = Bed::new(42, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let (leader, _) = bed.leader(5).await;
    let voter = (leader + 1) % 3;
    for nth in (0..3).filter(|nth| *nth != voter) {
        bed.kill(nth).await;
    }
    let health = bed.seats[voter].group.as_ref().expect("on").health();
    let term = health.borrow().vote.term + 50;
    sleep(LEASES_OVER).await;
    // Members 8 and 9 do not exist, which a voter need not know.
    assert!(asked(&bed, voter, term, 8).await, "nobody else had its vote");
    bed.kill(voter).await;
    bed.start(voter).await;
    sleep(LEASES_OVER).await;
    assert!(!asked(&bed, voter, term, 9).await, "one vote a term");
    assert!(asked(&bed, voter, term + 50, 9).await, "in a later term it may");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_is_no_majority() {
    let mut bed = Bed::new(43, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let learner = bed.seat(4, LARGE_LOG);
    bed.start(learner).await;
    bed.change(MemberChange::AddLearner(member(MemberId(4)))).await;
    let (leader, mandate) = bed.leader(5).await;
    let health = bed.seats[leader].group.as_ref().expect("leads").health();
    until("the learner catches up", 10, || {
        let health = health.borrow();
        health.matched.get(&MemberId(4)) == Some(&health.last_index)
    })
    .await;
    let store = bed.seats[leader].store.clone().expect("leads");
    for nth in (0..3).filter(|nth| *nth != leader) {
        bed.kill(nth).await;
    }
    // Leader and learner are two of four, and one voter of three.
    let alone = put(key("/pods", "a", "alone"), Base::Absent, super::bed::value(1));
    let written = timeout(Duration::from_secs(10), store.of(&mandate).propose(vec![alone])).await;
    let refused = matches!(
        written,
        Ok(Err(ProposeError::Unknown | ProposeError::NotLeading { .. } | ProposeError::Late))
    );
    assert!(refused, "{written:?}");
    assert!(mandate.confirm().await.is_err(), "nobody confirms that it leads");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_staged_in_a_reign_that_is_over_reaches_no_later_one_of_its_term() {
    let bed = Bed::new(47, LARGE_LOG).await;
    let (nth, mandate) = bed.leader(5).await;
    let (store, group) = (bed.seats[nth].store.clone(), bed.seats[nth].group.clone());
    let (store, group) = (store.expect("leads"), group.expect("leads"));
    let (confirm, _asked) = mpsc::channel(1);
    let (_over, ended) = watch::channel(true);
    let acked_ms = Arc::new(AtomicU64::new(boot_ms()));
    let old = Mandate::group(mandate.reign(), acked_ms, 60_000, ended, confirm);
    let late = key("/pods", "a", "late");
    let op = OpV1 {
        kind: late.kind.clone(),
        namespace: late.namespace.clone(),
        name: late.name.clone(),
        base: BaseV1::Absent,
        uid: Uid([3; 16]),
        body: Some(super::bed::value(1)),
        old: None,
    };
    let payload = EntryV1::At(Timestamp(1), vec![op]).encode().into();
    let (asks, asked) = mpsc::channel(1);
    let proposing = tokio::spawn(propose(group.shared.engine.clone(), store.engine(), asked));
    let ask = Ask::Propose { mandate: old, entries: vec![(u64::MAX, payload)] };
    asks.send(ask).await.expect("taken");
    drop(asks);
    proposing.await.expect("ends");
    write(&bed, &mut [Client::new(0)], 1).await;
    assert!(store.get(&late).expect("read").is_none(), "it came behind the next reign's beginning");
    bed.stop().await;
}

/// On one thread, so that nothing else runs while this test holds it.
#[tokio::test]
async fn a_heartbeat_stands_in_the_engines_queue_before_it_can_be_answered() {
    let mut bed = Bed::new(48, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let (leader, mandate) = bed.leader(5).await;
    let group = bed.seats[(leader + 1) % 3].group.clone().expect("on");
    let term = mandate.reign().term + 5;
    let vote = VoteV1 { term, of: bed.seats[leader].id, granted: true };
    let beat = GroupAskV1::Beat { vote, previous: None, commit: None };
    let mut beat = Box::pin(group.answer(beat));
    let mut context = Context::from_waker(Waker::noop());
    let _ = beat.as_mut().poll(&mut context);
    let begun = Instant::now();
    let seen =
        || matches!(group.standing(), GroupAnswerV1::Standing { vote: seen, .. } if seen == vote);
    while !seen() {
        assert!(begun.elapsed() < Duration::from_secs(5), "it waits for a task");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(beat);
    bed.stop().await;
}
