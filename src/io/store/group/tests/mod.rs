//! Groups of real stores in one process: agreement, no acknowledged write lost, one leader at a time.

mod bed;
mod cuts;
mod disks;
mod leases;
mod linear;
mod walks;

use std::collections::HashSet;
use std::time::Duration;

use model::masters::MemberId;
use tokio::time::sleep;

use super::MemberChange;
use crate::io::store::tests::{key, put};
use crate::io::store::{Base, ProposeError};
use bed::{Bed, Client, check_order, ids, until, value};

/// More than any test writes.
const LARGE_LOG: u64 = 64 * 1024 * 1024;

/// Whoever leads takes writes of these clients, until each has so many acknowledged.
async fn write(bed: &Bed, clients: &mut [Client], each: usize) {
    for client in clients {
        let wanted = client.log.acked.len() + each;
        while client.log.acked.len() < wanted {
            let (nth, _) = bed.leader(10).await;
            let store = bed.seats[nth].store.clone().expect("on");
            if !client.write(&store).await {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_leads_alone_grows_into_a_group_of_three_and_all_agree() {
    let mut bed = Bed::new(1, LARGE_LOG).await;
    let mut clients = [Client::new(0), Client::new(1)];
    write(&bed, &mut clients, 5).await;
    bed.grow([2, 3], LARGE_LOG).await;
    write(&bed, &mut clients, 20).await;
    bed.agree(&ids([1, 2, 3])).await;
    let (nth, _) = bed.leader(1).await;
    for seat in &bed.seats {
        let store = seat.store.as_ref().expect("on");
        clients.iter().for_each(|client| client.check(store));
        let alone = store.get(&key("/pods", "a", "sole")).expect("read").expect("there");
        assert_eq!(alone.body, value(0), "what was written before the group is in the group");
        let again = put(key("/pods", "a", "x"), Base::Absent, value(1));
        match store.propose(vec![again]).await {
            Ok(_) => assert_eq!(seat.id, bed.seats[nth].id),
            Err(ProposeError::NotLeading { hint }) => {
                assert!(seat.id != bed.seats[nth].id, "{hint:?}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(check_order(clients.iter().map(|client| &client.log)), 50);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_changes_to_three_to_five_and_back_while_it_is_written_to() {
    let mut bed = Bed::new(2, LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    bed.grow([2, 3], LARGE_LOG).await;
    write(&bed, &mut clients, 5).await;
    bed.grow([4, 5], LARGE_LOG).await;
    write(&bed, &mut clients, 5).await;
    // Two of five may go.
    bed.kill(3).await;
    bed.kill(4).await;
    write(&bed, &mut clients, 5).await;
    let voters = ids([1, 2, 3]);
    bed.change(MemberChange::Voters { voters, keep_as_learner: true }).await;
    for id in ids([4, 5]) {
        bed.change(MemberChange::Forget(id)).await;
    }
    write(&bed, &mut clients, 5).await;
    let (nth, _) = bed.leader(5).await;
    let health = bed.seats[nth].group.as_ref().expect("leads").health().borrow().clone();
    assert_eq!(health.members.configs.len(), 1);
    assert_eq!(health.members.voters(), ids([1, 2, 3]));
    assert!(health.members.learners().is_empty());
    bed.agree(&ids([1, 2, 3])).await;
    clients[0].check(bed.seats[0].store.as_ref().expect("on"));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_away_for_long_gets_a_snapshot_and_agrees() {
    let log_bytes = 512 * 1024;
    let mut bed = Bed::new(3, log_bytes).await;
    bed.grow([2, 3], log_bytes).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 3).await;
    bed.kill(2).await;
    // More entries than are kept beside a snapshot, and more bytes than one segment.
    let (nth, _) = bed.leader(10).await;
    let store = bed.seats[nth].store.clone().expect("on");
    let body = bytes::Bytes::from(vec![b'x'; 8 * 1024]);
    for round in 0..15 {
        let puts = (0..100).map(|nth| {
            let at = key("/pods", "bulk", &format!("{round}-{nth}"));
            let (store, body) = (store.clone(), body.clone());
            tokio::spawn(async move { store.propose(vec![put(at, Base::Absent, body)]).await })
        });
        for put in puts.collect::<Vec<_>>() {
            put.await.expect("runs").expect("written");
        }
    }
    // What the log still has does not reach back: its start was cut off behind a snapshot.
    store_flushes(&bed, nth).await;
    bed.start(2).await;
    until("the board that was away is caught up", 20, || {
        let version = |nth: usize| bed.seats[nth].store.as_ref().map(|store| store.version());
        version(2) == version(nth)
    })
    .await;
    assert!(bed.net.snapshots() > 0, "it caught up from the log");
    write(&bed, &mut clients, 3).await;
    bed.agree(&ids([1, 2, 3])).await;
    // A new board gets one as well.
    bed.grow([4], log_bytes).await;
    write(&bed, &mut clients, 3).await;
    bed.agree(&ids([1, 2, 3, 4])).await;
    clients[0].check(bed.seats[2].store.as_ref().expect("on"));
    bed.stop().await;
}

/// Waits until the leader has cut its log behind a snapshot.
async fn store_flushes(bed: &Bed, nth: usize) {
    let snapshots = bed.seats[nth].options.dir.join("snapshots");
    until("the leader has a snapshot", 20, || {
        std::fs::read_dir(&snapshots).is_ok_and(|mut files| {
            files.any(|file| {
                file.is_ok_and(|file| file.path().extension().is_some_and(|it| it == "snapshot"))
            })
        })
    })
    .await;
    let log = bed.seats[nth].options.dir.join("log");
    until("the leader has cut its log", 20, || !log.join(format!("{:016x}.log", 1)).exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_all_boards_were_off_everything_is_there() {
    let mut bed = Bed::new(4, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0), Client::new(1)];
    for _ in 0..3 {
        write(&bed, &mut clients, 5).await;
        for nth in 0..3 {
            bed.kill(nth).await;
        }
        for nth in 0..3 {
            bed.start(nth).await;
        }
    }
    write(&bed, &mut clients, 5).await;
    bed.agree(&ids([1, 2, 3])).await;
    clients.iter().for_each(|client| client.check(bed.seats[1].store.as_ref().expect("on")));
    check_order(clients.iter().map(|client| &client.log));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_handed_over_without_an_election_timeout() {
    let mut bed = Bed::new(5, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    for _ in 0..4 {
        write(&bed, &mut clients, 2).await;
        let (nth, mandate) = bed.leader(5).await;
        let group = bed.seats[nth].group.clone().expect("leads");
        let begun = std::time::Instant::now();
        let handed = group.hand_over(None);
        let watched = async {
            mandate.over().await;
            // Not the lease, not the successor: the offer ends it.
            assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
        };
        let (handed, ()) = tokio::join!(handed, watched);
        assert!(handed, "nobody took over: {:?}", bed.healths());
        let succeeded = tokio::time::timeout(Duration::from_secs(5), group.succeeded()).await;
        succeeded.expect("the reign of the next one begins here as well");
        let (next, _) = loop {
            let found = bed.leader(5).await;
            if found.0 != nth {
                break found;
            }
            sleep(Duration::from_millis(1)).await;
        };
        assert!(next != nth && mandate.is_over());
        assert!(begun.elapsed() < Duration::from_millis(1000), "{:?}", begun.elapsed());
    }
    write(&bed, &mut clients, 2).await;
    bed.agree(&ids([1, 2, 3])).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_retires_does_not_lead_again() {
    let mut bed = Bed::new(25, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    // Without that, the next leader would be one of three by chance.
    for _ in 0..4 {
        let (nth, _) = bed.leader(10).await;
        let group = bed.seats[nth].group.clone().expect("leads");
        bed.net.voteless(true);
        assert!(!group.retire().await, "nobody can take over");
        bed.net.voteless(false);
        let (next, _) = bed.leader(10).await;
        assert_ne!(next, nth, "it is about to stop");
        bed.kill(nth).await;
        bed.start(nth).await;
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_voter_has_a_way_to_every_other_one() {
    let mut bed = Bed::new(26, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let all = [1, 2, 3].map(MemberId);
    let ways = all.iter().flat_map(|from| all.map(|to| (*from, to)));
    let mut missing: HashSet<_> = ways.filter(|(from, to)| from != to).collect();
    // Sooner than the next round: a leader may stop in the moment in which the voters are complete.
    until("everybody has asked everybody", 5, || {
        let called = bed.net.called();
        missing.retain(|way| !called.contains(way));
        missing.is_empty()
    })
    .await;
    bed.seats[1].group.as_ref().expect("a member").came();
    let back = (bed.seats[1].id, bed.seats[2].id);
    until("who comes is called back", 5, || bed.net.called().contains(&back)).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_offered_to_nobody_who_is_away_and_an_offer_is_not_for_ever() {
    let mut bed = Bed::new(6, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let (nth, mandate) = bed.leader(5).await;
    let others: Vec<usize> = (0..3).filter(|other| *other != nth).collect();
    let group = bed.seats[nth].group.clone().expect("leads");
    let id = |bed: &Bed, nth: usize| bed.seats[nth].id;
    let (dead, own) = (id(&bed, others[0]), id(&bed, nth));
    bed.kill(others[0]).await;
    until("it is missed", 10, || {
        group.heard().get(&dead).is_none_or(|ago| *ago > 3 * bed.timing.lease())
    })
    .await;
    // It may have been away for long: whoever is there gets the lead.
    assert!(group.hand_over(Some(dead)).await, "nobody took over: {:?}", bed.healths());
    mandate.over().await;
    let (nth, _) = bed.leader(10).await;
    assert_eq!(nth, others[1]);
    let group = bed.seats[nth].group.clone().expect("leads");
    // The only one that is there is cut off in the moment in which it gets the offer.
    bed.net.cut(id(&bed, nth), own);
    bed.net.cut(own, id(&bed, nth));
    assert!(!group.hand_over(Some(own)).await);
    until("it leads no more", 20, || group.health().borrow().failed.is_some()).await;
    let why = group.health().borrow().failed.clone().unwrap_or_default();
    assert!(why.contains("offered"), "{why}");
    bed.net.heal();
    bed.kill(nth).await;
    bed.start(nth).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 2).await;
    bed.start(others[0]).await;
    bed.agree(&ids([1, 2, 3])).await;
    bed.stop().await;
}
