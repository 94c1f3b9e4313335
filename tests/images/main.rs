//! Streams and images between boards on loopback: real tunnels, peer port, dispatcher, registry, agents
//! and image stores; only containers are a fake keeper's.
//!
//! Set `KUMQUAT_IMAGE_MB` for images of another size than CI's.

mod bed;
#[path = "../harness/board.rs"]
mod board;
mod boards;
#[path = "../harness/busybox.rs"]
mod busybox;
#[path = "../harness/fake_keeper.rs"]
mod fake_keeper;
mod logs;
#[path = "../harness/loops.rs"]
mod loops;
mod matrix;
mod proxy;
#[path = "../harness/simulated.rs"]
mod simulated;
#[path = "../harness/switch.rs"]
mod switch;

use std::time::{Duration, Instant};

use bed::{Bed, until};
use model::view::Phase;

fn image_bytes(default_mb: usize) -> usize {
    let given = std::env::var("KUMQUAT_IMAGE_MB").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(default_mb) * 1024 * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_on_any_board_starts_on_all() {
    let bed = Bed::new("spread").await;
    let (boss, one, two) =
        (bed.own_board().await, bed.board("pi-1").await, bed.board("pi-2").await);
    for (name, from, others) in
        [("of-worker:v1", &one, [&boss, &two]), ("of-master:v1", &boss, [&one, &two])]
    {
        let size = image_bytes(12);
        let digest = from.import(name, size);
        bed.reports(&from.name, name).await;
        let before: Vec<u64> = others.iter().map(|board| board.received()).collect();
        let begun = Instant::now();
        for board in others {
            bed.pod(&board.name, name).await;
        }
        for (board, before) in others.into_iter().zip(before) {
            bed.runs(&board.name, name).await;
            let took = begun.elapsed();
            assert_eq!(board.images.resolve(name).expect("here").digest, digest, "verified");
            let bytes = board.received() - before;
            println!(
                "{name}: {} MiB from {} on {} after {took:?}, {bytes} bytes over its link",
                size >> 20,
                from.name,
                board.name
            );
            if board.name != boss.name {
                assert!(bytes as usize > size && (bytes as usize) < size + size / 10, "{bytes}");
            }
        }
    }
    let pulled = bed.event("Pulled");
    assert!(pulled.starts_with("Successfully pulled image \"of-"), "{pulled}");
    assert!(pulled.contains("including waiting). Image size: "), "{pulled}");
    assert!(bed.event("Pulling").starts_with("Pulling image \"of-"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_at_random_bytes_cost_little() {
    let bed = Bed::new("cuts").await;
    let (one, two) = (bed.board("pi-1").await, bed.board("pi-2").await);
    let size = image_bytes(24);
    let digest = one.import("cut:v1", size);
    bed.reports("pi-1", "cut:v1").await;
    let mut random = [0; 24];
    getrandom::fill(&mut random).expect("random bytes");
    let cuts: Vec<u64> = random
        .chunks_exact(4)
        .map(|bytes| u64::from(u32::from_le_bytes(bytes.try_into().expect("four"))))
        .map(|number| number % (size as u64 / 6))
        .collect();
    println!("cut after {cuts:?} bytes of each connection");
    two.proxy.cut_each_after(&cuts);
    let (before, begun) = (two.received(), Instant::now());
    bed.pod("pi-2", "cut:v1").await;
    bed.runs("pi-2", "cut:v1").await;
    let bytes = two.received() - before;
    assert_eq!(two.proxy.cuts_left(), 0, "every cut happened");
    assert_eq!(two.images.resolve("cut:v1").expect("here").digest, digest);
    println!("{} cuts: {bytes} bytes for {size}, {:?}", cuts.len(), begun.elapsed());
    assert!((bytes as f64) < 1.2 * size as f64, "{bytes} bytes for {size}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_nobody_has_starts_soon_after_an_import_anywhere() {
    let bed = Bed::new("later").await;
    let (one, _two) = (bed.board("pi-1").await, bed.board("pi-2").await);
    bed.pod("pi-2", "late:v1").await;
    let text = "no board of this cluster has image docker.io/library/late:v1: run `kumquat image \
                import` on any of them";
    bed.waits("pi-2", "late:v1", text).await;
    // Long enough for the waits to have grown.
    tokio::time::sleep(Duration::from_secs(4)).await;
    one.import("late:v1", 100_000);
    let begun = Instant::now();
    bed.runs("pi-2", "late:v1").await;
    println!("runs {:?} after the import on another board", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_only_an_absent_board_has_waits_for_that_board() {
    let bed = Bed::new("absent").await;
    let (one, _two) = (bed.board("pi-1").await, bed.board("pi-2").await);
    one.import("there:v1", 100_000);
    bed.reports("pi-1", "there:v1").await;
    one.disconnect().await;
    until("it is gone", || !bed.streams.reaches("pi-1")).await;
    bed.pod("pi-2", "there:v1").await;
    let text = "image docker.io/library/there:v1 is only on board \"pi-1\", which is not connected";
    bed.waits("pi-2", "there:v1", text).await;
    one.connect();
    bed.runs("pi-2", "there:v1").await;
    assert_eq!(bed.phase("pi-2", "there:v1"), Some(Phase::Running));
}
