//! Random walks: weather, kills, cuts and restarts under writing clients, then all is healed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::sleep;

use super::bed::{Bed, Client, Weather, check_order, ids};
use super::{LARGE_LOG, write};
use crate::io::store::Store;
use crate::io::store::tests::Random;

/// Stores as clients find them: boards come and go.
type Doors = Arc<Mutex<Vec<Option<Store>>>>;

async fn doors(bed: &Bed) -> Vec<Option<Store>> {
    bed.seats.iter().map(|seat| seat.store.clone()).collect()
}

/// A client that goes to whoever leads, until told to stop.
async fn client(mut client: Client, doors: Doors, is_over: Arc<AtomicBool>) -> Client {
    while !is_over.load(Ordering::Relaxed) {
        let stores: Vec<Store> = doors.lock().await.iter().flatten().cloned().collect();
        for store in stores {
            client.write(&store).await;
        }
        sleep(Duration::from_millis(3)).await;
    }
    client
}

async fn walk(seed: u64, steps: u64) -> usize {
    println!("seed {seed}");
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let log_bytes = if random.below(2) == 0 { LARGE_LOG } else { 256 * 1024 };
    let mut bed = Bed::new(seed, log_bytes).await;
    bed.grow([2, 3], log_bytes).await;
    let open: Doors = Arc::new(Mutex::new(doors(&bed).await));
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|nth| tokio::spawn(client(Client::new(nth), open.clone(), is_over.clone())))
        .collect();
    bed.net.weather(Weather { lost: 20, doubled: 20, delay_ms: 15 });
    for _ in 0..steps {
        sleep(Duration::from_millis(100 + random.below(700))).await;
        let nth = random.below(3) as usize;
        let id = |nth: usize| bed.seats[nth % 3].id;
        match random.below(6) {
            0 | 1 => {
                if bed.seats[nth].store.is_some() {
                    open.lock().await[nth] = None;
                    bed.kill(nth).await;
                }
            }
            2 => bed.net.cut(id(nth), id(nth + 1)),
            3 => {
                bed.net.cut(id(nth), id(nth + 1));
                bed.net.cut(id(nth + 1), id(nth));
                bed.net.cut(id(nth), id(nth + 2));
            }
            4 => bed.net.heal(),
            _ => {}
        }
        let off: Vec<usize> = (0..3).filter(|nth| bed.seats[*nth].store.is_none()).collect();
        if off.len() > 1 || random.below(2) == 0 {
            for nth in off {
                bed.start(nth).await;
            }
            *open.lock().await = doors(&bed).await;
        }
    }
    bed.net.heal();
    bed.net.weather(Weather::default());
    for nth in 0..3 {
        if bed.seats[nth].store.is_none() {
            bed.start(nth).await;
        }
    }
    *open.lock().await = doors(&bed).await;
    sleep(Duration::from_millis(500)).await;
    is_over.store(true, Ordering::Relaxed);
    let mut done = Vec::new();
    for client in clients {
        done.push(client.await.expect("client runs"));
    }
    write(&bed, &mut done, 1).await;
    bed.agree(&ids([1, 2, 3])).await;
    for seat in &bed.seats {
        done.iter().for_each(|client| client.check(seat.store.as_ref().expect("on")));
    }
    let acked = check_order(done.iter().map(|client| &client.log));
    println!("seed {seed}: {acked} acknowledged writes");
    bed.stop().await;
    acked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_no_acknowledged_write_is_lost_and_all_agree() {
    // `KQ_SEED` replays one walk, `KQ_WALKS` makes more of them.
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = match number("KQ_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("KQ_WALKS").unwrap_or(3)),
    };
    for seed in first..first + count {
        assert!(walk(seed, 12).await > 0, "nothing was written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_within_two_seconds() {
    let mut bed = Bed::new(31, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let mut clients = [Client::new(0)];
    let mut took = Vec::new();
    let trials = std::env::var("KQ_TRIALS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    for _ in 0..trials {
        write(&bed, &mut clients, 2).await;
        let (nth, _) = bed.leader(5).await;
        let killed = Instant::now();
        bed.kill(nth).await;
        write(&bed, &mut clients, 1).await;
        took.push(killed.elapsed());
        bed.start(nth).await;
        bed.agree(&ids([1, 2, 3])).await;
    }
    took.sort();
    println!(
        "next write after a kill: p50 {:?}, max {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    assert!(took[took.len() - 1] < Duration::from_secs(2), "{took:?}");
    bed.stop().await;
}
