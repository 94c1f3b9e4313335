//! Boards on in-memory links: store, registry, controllers and a dispatcher per board live in this
//! process, so that what agents cost can be told by counting up their number.

use std::time::{Duration, Instant};

use kumquat::io::link;
use kumquat::master::controllers::Views;
use kumquat::master::dispatcher;
use model::view::Phase;

use crate::loops::Loops;
use crate::simulated::{Folder, SimulatedBoard, Site, images};
use crate::{PATIENCE, Scale, deployments, figures, row};

fn running(views: &Views) -> usize {
    let world = views.world();
    let runs = |node: &model::view::NodeView| {
        let pods = world.pods_on(&node.meta.name);
        pods.filter(|pod| pod.phase == Phase::Running).count()
    };
    world.nodes().map(runs).sum()
}

/// Counts boards up to `scale.boards`, then pods.
pub(crate) async fn run(scale: Scale) {
    let folder = Folder::new("sim");
    let images = images(folder.path());
    let master = Loops::start(folder.path()).await;
    let own = std::process::id();
    let empty = figures::pss_mb(own);
    row("this process without boards", &format!("{empty:.1} MB PSS"), "-");
    let begun = Instant::now();
    let mut boards = Vec::new();
    for number in 0..scale.boards {
        let (end, link) = link::pair();
        let site = Site {
            name: format!("sim-{number}"),
            folder: folder.path().join(format!("b{number}")),
            address: format!("10.0.{}.{}", number / 250, number % 250 + 1),
            images: images.clone(),
            source: None,
        };
        let options = dispatcher::Options::default();
        let (views, registry) = (master.views.clone(), master.registry.clone());
        let (name, stop) = (site.name.clone(), master.stop.subscribe());
        tokio::spawn(dispatcher::run(views, registry, options, name, end, stop));
        boards.push(SimulatedBoard::start(site, link).await);
    }
    until("nodes", || (master.views.world().nodes().count(), scale.boards)).await;
    row("all boards registered", &format!("{:.1} s", begun.elapsed().as_secs_f64()), "-");
    tokio::time::sleep(Duration::from_secs(12)).await;
    let with_boards = figures::pss_mb(own);
    per("a board without pods, both ends", with_boards - empty, scale.boards);

    let pods = scale.boards * scale.pods;
    let begun = Instant::now();
    for deployment in deployments(pods) {
        master.create("apps/deployments", "default", deployment).await;
    }
    until("running pods", || (running(&master.views), pods)).await;
    row("all pods Running", &format!("{:.1} s", begun.elapsed().as_secs_f64()), "-");
    tokio::time::sleep(Duration::from_secs(12)).await;
    per("a pod, both ends", figures::pss_mb(own) - with_boards, pods);
    let (cpu, begun) = (figures::cpu_seconds(own), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let share = (figures::cpu_seconds(own) - cpu) / begun.elapsed().as_secs_f64();
    row("processor when idle, all of it", &format!("{:.2} % of a core", share * 100.0), "-");
    let heap = figures::pss_anon_mb(own);
    row("heap and stacks at the end", &format!("{heap:.1} MB PSS"), "-");
    row("most that was resident", &format!("{:.1} MB", figures::peak_mb(own)), "-");
    row("open files", &figures::open_files(own).to_string(), "-");
    assert!(boards.iter().all(SimulatedBoard::lives), "an agent has ended");
    master.stop.send_replace(true);
}

fn per(what: &str, grown_mb: f64, count: usize) {
    let each = grown_mb * 1e3 / count.max(1) as f64;
    row(what, &format!("{each:.1} kB PSS ({grown_mb:.1} MB for {count})"), "-");
}

/// Waits for a number, and says every few seconds how far it is.
async fn until(what: &str, count: impl Fn() -> (usize, usize)) {
    let begun = Instant::now();
    let mut said = begun;
    loop {
        let (have, want) = count();
        if have == want {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {have} of {want}");
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            eprintln!("{what}: {have} of {want}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
