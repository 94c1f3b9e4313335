//! Disks that stall: heartbeats go on, a leader gives way.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::LARGE_LOG;
use super::bed::{Bed, Client, ids, until};
use super::write;

/// One voter's card stalls for three seconds.
const STALL_MS: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_stalls_holds_nobody_up() {
    let mut bed = Bed::new(11, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 3).await;
    let (nth, mandate) = bed.leader(5).await;
    let slow = (nth + 1) % 3;
    bed.seats[slow].options.faults.stall(STALL_MS);
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_millis(2 * STALL_MS) {
        let asked = Instant::now();
        write(&bed, &mut clients, 1).await;
        slowest = slowest.max(asked.elapsed());
        assert!(mandate.may_act(), "the leader lost its lease");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(slowest < Duration::from_millis(500), "a write took {slowest:?}");
    assert!(!mandate.is_over(), "the leader kept its role");
    bed.seats[slow].options.faults.stall(0);
    bed.agree(&ids([1, 2, 3])).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_all_wait_for_their_disks_acknowledge_heartbeats() {
    let mut bed = Bed::new(12, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 3).await;
    let (nth, mandate) = bed.leader(5).await;
    let others = [(nth + 1) % 3, (nth + 2) % 3];
    others.iter().for_each(|nth| bed.seats[*nth].options.faults.stall(1_500));
    let store = bed.seats[nth].store.clone().expect("on");
    let writing = tokio::spawn(async move {
        let done = clients[0].write(&store).await;
        (clients, done)
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_400) {
        assert!(mandate.may_act(), "the lease ended after {:?}", begun.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    others.iter().for_each(|nth| bed.seats[*nth].options.faults.stall(0));
    let (mut clients, _) = writing.await.expect("runs");
    write(&bed, &mut clients, 3).await;
    assert!(!mandate.is_over(), "the leader kept its role");
    bed.agree(&ids([1, 2, 3])).await;
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_gives_way() {
    let mut bed = Bed::new(13, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 3).await;
    let (nth, mandate) = bed.leader(5).await;
    bed.seats[nth].options.faults.stall(10_000);
    let store = bed.seats[nth].store.clone().expect("on");
    let begun = Instant::now();
    let stuck = tokio::spawn(async move {
        let done = clients[0].write(&store).await;
        (clients, done)
    });
    until("another board leads", 6, || mandate.is_over()).await;
    let (next, _) = loop {
        let found = bed.leader(5).await;
        if found.0 != nth {
            break found;
        }
        sleep(Duration::from_millis(5)).await;
    };
    let took = begun.elapsed();
    println!("another board led {took:?} after the leader's disk stalled");
    assert!(took > Duration::from_millis(1_900), "it waits 2 s: {took:?}");
    assert!(took < Duration::from_millis(4_500), "{took:?}");
    let mut other = Client::new(1);
    let store = bed.seats[next].store.clone().expect("on");
    until_written(&mut other, &store).await;
    bed.seats[nth].options.faults.stall(0);
    let (mut clients, _) = stuck.await.expect("runs");
    write(&bed, &mut clients, 3).await;
    bed.agree(&ids([1, 2, 3])).await;
    clients[0].check(bed.seats[nth].store.as_ref().expect("on"));
    bed.stop().await;
}

async fn until_written(client: &mut Client, store: &crate::io::store::Store) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !client.write(store).await {
        assert!(Instant::now() < deadline, "the new leader takes no writes");
        sleep(Duration::from_millis(5)).await;
    }
}
