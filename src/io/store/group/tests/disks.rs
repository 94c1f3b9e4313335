//! Disks that stall: heartbeats go on, a leader gives way.

use std::time::{Duration, Instant};

use model::masters::LogIdV1;
use openraft::storage::RaftLogStorage;
use tokio::time::sleep;

use super::LARGE_LOG;
use super::bed::{Bed, Client, ids, until};
use super::write;
use crate::io::store::group::types::to_engine;
use crate::io::store::tests::{key, put};
use crate::io::store::{Base, ProposeError};

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

/// A write of so many bytes would not fit into what is left of a segment's last step.
const LARGE_VALUE: usize = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_gives_way_and_comes_back() {
    let mut bed = Bed::new(16, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 3).await;
    let (nth, mandate) = bed.leader(5).await;
    bed.seats[nth].options.faults.fill(true);
    let store = bed.seats[nth].store.clone().expect("on");
    let mut refused = None;
    for number in 0..200 {
        let name = format!("large-{number}");
        let large = put(key("/pods", "a", &name), Base::Absent, vec![b'v'; LARGE_VALUE].into());
        if let Err(error) = store.of(&mandate).propose(vec![large]).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(ProposeError::NoSpace)), "{refused:?}");
    let begun = Instant::now();
    until("it gives way", 5, || mandate.is_over()).await;
    let next = loop {
        let (found, _) = bed.leader(5).await;
        if found != nth {
            break found;
        }
        sleep(Duration::from_millis(5)).await;
    };
    let mut other = Client::new(1);
    until_written(&mut other, &bed.seats[next].store.clone().expect("on")).await;
    println!("another board takes writes {:?} after the leader's disk was full", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    write(&bed, &mut clients, 3).await;
    // It follows until its log cannot grow; what the others commit then is not applied here.
    let health = bed.seats[nth].group.as_ref().expect("on").health();
    for number in 0..200 {
        if health.borrow().failed.is_some() {
            break;
        }
        let (leader, mandate) = bed.leader(5).await;
        let store = bed.seats[leader].store.clone().expect("on");
        let name = format!("more-{number}");
        let large = put(key("/pods", "a", &name), Base::Absent, vec![b'v'; LARGE_VALUE].into());
        store.of(&mandate).propose(vec![large]).await.expect("the others have room");
    }
    assert!(health.borrow().failed.is_some(), "its log did not grow");
    bed.close(nth).await;
    bed.seats[nth].options.faults.fill(false);
    bed.start(nth).await;
    write(&bed, &mut clients, 3).await;
    bed.agree(&ids([1, 2, 3])).await;
    clients[0].check(bed.seats[nth].store.as_ref().expect("on"));
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_beginning_of_the_log_goes_without_holding_the_engine_up() {
    let bed = Bed::new(18, LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 3).await;
    let (nth, mandate) = bed.leader(5).await;
    let (store, group) = (bed.seats[nth].store.clone(), bed.seats[nth].group.clone());
    let (store, group) = (store.expect("on"), group.expect("on"));
    bed.seats[nth].options.faults.stall(2_000);
    let stuck = tokio::spawn({
        let store = store.clone();
        async move { clients[0].write(&store).await }
    });
    until("the disk stalls", 5, || store.syncing_since().is_some()).await;
    let upto = to_engine(LogIdV1 { term: mandate.reign().term, index: 2 }).expect("an entry");
    let begun = Instant::now();
    group.shared.log.clone().purge(upto).await.expect("asked for");
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(500), "no heartbeat for {took:?}");
    assert!(store.syncing_since().is_some(), "the disk was fast");
    bed.seats[nth].options.faults.stall(0);
    stuck.await.expect("ends");
    bed.stop().await;
}

async fn until_written(client: &mut Client, store: &crate::io::store::Store) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !client.write(store).await {
        assert!(Instant::now() < deadline, "the new leader takes no writes");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let usage = usage.expect("asked of the kernel");
    let time = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
    };
    time(usage.user_time()) + time(usage.system_time())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_writes_nothing() {
    let mut bed = Bed::new(14, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    write(&bed, &mut clients, 3).await;
    bed.agree(&ids([1, 2, 3])).await;
    // What was written is flushed 5 s later.
    sleep(Duration::from_secs(6)).await;
    let written = |bed: &Bed| {
        let mut written = Vec::new();
        for seat in &bed.seats {
            for folder in ["", "log", "state"] {
                let files = std::fs::read_dir(seat.options.dir.join(folder)).expect("listed");
                for file in files {
                    let file = file.expect("listed");
                    let metadata = file.metadata().expect("there");
                    written.push((file.path(), metadata.modified().expect("known")));
                }
            }
        }
        written.sort();
        written
    };
    let (before, asks, time) = (written(&bed), bed.net.asks(), processor_time());
    let idle = Duration::from_secs(3);
    sleep(idle).await;
    let (asks, time) = (bed.net.asks() - asks, processor_time() - time);
    println!("{asks} messages and {time:?} of processor time in {idle:?}, three members");
    assert_eq!(written(&bed), before);
    // Five heartbeats a second to each of two.
    assert!((20..=40).contains(&asks), "{asks} messages");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_costs_one_round_more_than_alone() {
    let mut bed = Bed::new(15, LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    let mut medians = Vec::new();
    for members in [1, 3] {
        if members == 3 {
            bed.grow([2, 3], LARGE_LOG).await;
        }
        let (nth, _) = bed.leader(5).await;
        let store = bed.seats[nth].store.clone().expect("on");
        let mut took = Vec::new();
        for _ in 0..200 {
            assert!(clients[0].write(&store).await, "it leads");
            let (.., begun, acked) = clients[0].log.acked.last().expect("written");
            took.push(*acked - *begun);
        }
        took.sort();
        println!("{members} voters: a write takes p50 {:?}, p99 {:?}", took[100], took[198]);
        medians.push(took[100]);
    }
    assert!(medians[1] < medians[0] + Duration::from_millis(20), "{medians:?}");
    bed.stop().await;
}
