//! Loss on the in-memory link, which carries what the bus carries: no cuts, only the messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kumquat::io::link::{self, BoardEnd, MasterEnd};
use kumquat::master::dispatcher;
use model::limits::LINK_FRAMES_MAX;
use tokio::sync::mpsc;

use crate::loops::Loops;
use crate::loss::{Random, Tally, relay, seed};
use crate::network;
use crate::simulated::{Folder, SimulatedBoard, Site, images};
use crate::world::{churn, converge};
use crate::{BOARDS, FAULT_PERCENT, operations};

/// A link with a bad wire in its middle.
fn bad_pair(percent: u64, random: &mut Random, tally: &Arc<Tally>) -> (MasterEnd, BoardEnd) {
    let (master_end, board_end) = link::pair();
    let (down, from_master) = mpsc::channel(LINK_FRAMES_MAX);
    let (to_master, up) = mpsc::channel(LINK_FRAMES_MAX);
    let MasterEnd { down: to_board, up: from_board, streams } = master_end;
    let (there, back) = (Random::new(random.next()), Random::new(random.next()));
    let (both, own) = (tally.clone(), tally.clone());
    tokio::spawn(async move { relay(from_master, to_board, percent, there, &both).await });
    tokio::spawn(async move { relay(from_board, to_master, percent, back, &own).await });
    (MasterEnd { down, up, streams }, board_end)
}

async fn trial(name: &str, seed: u64, percent: u64) -> (Duration, usize) {
    let folder = Folder::new(name);
    let images = images(folder.path());
    let loops = Loops::start(folder.path()).await;
    let (mut random, tally) = (Random::new(seed), Arc::<Tally>::default());
    let mut boards = BTreeMap::new();
    for number in 0..BOARDS {
        let name = format!("sim-{number}");
        let (end, link) = bad_pair(percent, &mut random, &tally);
        let options = dispatcher::Options::default();
        let (views, registry) = (loops.views.clone(), loops.registry.clone());
        let stop = loops.stop.subscribe();
        tokio::spawn(dispatcher::run(views, registry, options, name.clone(), end, stop));
        let site = Site {
            name: name.clone(),
            folder: folder.path().join(&name),
            address: format!("10.0.0.{}", number + 1),
            images: images.clone(),
            source: None,
        };
        boards.insert(name, SimulatedBoard::start(site, link).await);
    }
    let begun = Instant::now();
    let services = network::churn(&loops, operations(), Random::new(random.next()));
    let (asked, ()) = tokio::join!(churn(&loops, operations(), random), services);
    let worked = begun.elapsed();
    let converged = converge(&loops, &boards, &asked).await;
    println!(
        "{name}: {} operations in {:.1} s, the same everywhere {:.1} s later; {tally:?}",
        operations(),
        worked.as_secs_f64(),
        converged.as_secs_f64()
    );
    assert_eq!(tally.faults() > 0, percent > 0, "{tally:?}");
    for board in boards.into_values() {
        board.end().await;
    }
    loops.stop.send_replace(true);
    (converged, asked.pods.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_loses_a_fifth_ends_like_one_that_loses_nothing() {
    let seed = seed("link");
    let (_, clean) = trial("link-clean", seed, 0).await;
    let (_, lossy) = trial("link-lossy", seed, FAULT_PERCENT).await;
    assert_eq!(clean, lossy, "pods that were asked for");
}
