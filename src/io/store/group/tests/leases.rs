//! Who may act, who may vote, and what reads cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use model::masters::{GroupAnswerV1, GroupAskV1, MemberId, VoteV1};
use tokio::time::sleep;

use super::LARGE_LOG;
use super::bed::{Bed, Client, ids, until, value};
use super::write;

/// Whether a member would vote for a candidate whose log is as good as its own, and who never stood.
async fn votes(bed: &Bed, nth: usize, term: u64, transfer: bool) -> bool {
    let group = bed.seats[nth].group.as_ref().expect("on");
    let GroupAnswerV1::Standing { last, .. } = group.standing() else { panic!("stands") };
    let vote = VoteV1 { term, of: MemberId(9), granted: false };
    let ask = match transfer {
        true => GroupAskV1::Vote { vote, last, transfer },
        false => GroupAskV1::PreVote { vote, last },
    };
    match group.answer(ask).await {
        GroupAnswerV1::Vote { granted, .. } => granted,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_voter_votes_for_nobody_until_a_lease_is_over() {
    let mut bed = Bed::new(21, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    write(&bed, &mut [Client::new(0)], 2).await;
    for nth in 0..3 {
        bed.kill(nth).await;
    }
    // Alone, so that nobody leads and nobody renews a lease.
    let started = Instant::now();
    bed.start(1).await;
    assert!(!votes(&bed, 1, 50, false).await, "a lease may hold that it does not remember");
    assert!(votes(&bed, 1, 51, true).await, "a leader that hands over ends its own lease");
    until("it votes", 3, || started.elapsed() > bed.timing.lease()).await;
    sleep(Duration::from_millis(20)).await;
    assert!(votes(&bed, 1, 60, false).await, "the lease is over");
    bed.start(0).await;
    bed.start(2).await;
    write(&bed, &mut [Client::new(1)], 2).await;
    bed.agree(&ids([1, 2, 3])).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_before_another_one_acts() {
    let mut bed = Bed::new(22, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    for round in 0..4 {
        write(&bed, &mut clients, 3).await;
        let (nth, mandate) = bed.leader(5).await;
        let ids = [0, 1, 2].map(|nth| bed.seats[nth].id);
        for to in ids.into_iter().filter(|id| *id != ids[nth]) {
            // Both ways, or only one of them.
            if round % 3 != 1 {
                bed.net.cut(ids[nth], to);
            }
            if round % 3 != 2 {
                bed.net.cut(to, ids[nth]);
            }
        }
        let cut = Instant::now();
        let mut stopped = None;
        let next = loop {
            let acting: Vec<usize> = (0..3)
                .filter(|nth| {
                    let store = bed.seats[*nth].store.as_ref().expect("on");
                    store.reign().borrow().as_ref().is_some_and(|mandate| mandate.may_act())
                })
                .collect();
            assert!(acting.len() <= 1, "two leaders act: {acting:?}");
            if !mandate.may_act() {
                stopped.get_or_insert(cut.elapsed());
            }
            if let Some(next) = acting.first().filter(|next| **next != nth) {
                break *next;
            }
            assert!(cut.elapsed() < Duration::from_secs(6), "nobody took over in round {round}");
            sleep(Duration::from_millis(1)).await;
        };
        let stopped = stopped.expect("it stopped");
        println!(
            "round {round}: stopped after {stopped:?}, another acts after {:?}",
            cut.elapsed()
        );
        // It is looked at every millisecond, or as often as a busy machine lets us.
        let looked = Duration::from_millis(150);
        assert!(stopped <= bed.timing.lease() + looked, "it acted for {stopped:?}");
        let store = bed.seats[nth].store.clone().expect("on");
        assert!(mandate.confirm().await.is_err(), "a read of the old leader");
        let refused = Client::new(9).write(&store).await;
        assert!(!refused, "a write through the old leader");
        let store = bed.seats[next].store.clone().expect("on");
        while !clients[0].write(&store).await {
            assert!(cut.elapsed() < Duration::from_secs(10), "the new leader takes no writes");
            sleep(Duration::from_millis(5)).await;
        }
        bed.net.heal();
        until("the old leader follows", 5, || mandate.is_over()).await;
    }
    bed.agree(&ids([1, 2, 3])).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_come_together_share_one_question() {
    let mut bed = Bed::new(23, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    write(&bed, &mut [Client::new(0)], 1).await;
    let (_, mandate) = bed.leader(5).await;
    let before = bed.net.asks();
    let done = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let (mandate, done, is_over) = (mandate.clone(), done.clone(), is_over.clone());
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    mandate.confirm().await.expect("it leads");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    sleep(Duration::from_millis(500)).await;
    is_over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("runs");
    }
    let (reads, asks) = (done.load(Ordering::Relaxed), bed.net.asks() - before);
    println!("{reads} reads with {asks} messages in {:?}", begun.elapsed());
    assert!(reads > 100, "{reads} reads");
    assert!(asks * 5 < reads, "{asks} messages for {reads} reads");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_heard_nobody_for_a_while_goes_on_under_a_new_mandate() {
    let mut bed = Bed::new(24, LARGE_LOG).await;
    bed.grow([2], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 3).await;
    for _ in 0..2 {
        let (nth, mandate) = bed.leader(5).await;
        let before = bed.seats[nth].store.as_ref().expect("on").version();
        // The other one of two cannot be elected without it, so that it may lead on in its term.
        bed.net.cut(MemberId(1), MemberId(2));
        bed.net.cut(MemberId(2), MemberId(1));
        until("the mandate ends", 3, || mandate.is_over()).await;
        bed.net.heal();
        let (next, again) = bed.leader(5).await;
        assert!(!again.is_over() && mandate.is_over(), "an old mandate never comes back");
        let after = bed.seats[next].store.as_ref().expect("on").version();
        assert!(after > before, "it goes on above a new entry: {before} {after}");
        let old = bed.seats[nth].store.as_ref().expect("on").of(&mandate);
        let key = crate::io::store::tests::key("/pods", "a", "old");
        let base = crate::io::store::Base::Absent;
        let refused = old.propose(vec![crate::io::store::tests::put(key, base, value(1))]).await;
        assert!(refused.is_err(), "a write under the old mandate");
        write(&bed, &mut clients, 3).await;
    }
    bed.agree(&ids([1, 2])).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_leads_at_once_after_a_start() {
    let mut bed = Bed::new(25, LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    for _ in 0..3 {
        write(&bed, &mut clients, 3).await;
        let before = bed.leader(1).await.1.reign();
        bed.kill(0).await;
        let begun = Instant::now();
        bed.start(0).await;
        let (_, mandate) = bed.leader(3).await;
        println!("a group of one led {:?} after its start", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
        assert!(mandate.reign() > before && mandate.may_act());
    }
    write(&bed, &mut clients, 1).await;
    clients[0].check(bed.seats[0].store.as_ref().expect("on"));
    bed.stop().await;
}
