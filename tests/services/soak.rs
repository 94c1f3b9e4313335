//! Pods that come and go, boards that reboot, for as long as it is given: what grows, what is left,
//! what is written.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::bed::{self, Bed, DEPLOYMENTS, PODS, WITHIN, until};
use crate::board::{Board, possible, rounds};
use crate::busybox;
use crate::disk::Disk;
use crate::figures;
use crate::inside::Inside;
use crate::loss::Random;
use crate::switch::{Cluster, is_ready};
use crate::traces::Footprint;

/// Between the rounds of a long trial: clusters rest, too.
const PAUSE: Duration = Duration::from_secs(2);
const REPLICAS_MAX: u64 = 9;
/// Rounds between two reboots.
const REBOOT_EVERY: usize = 5;
/// Of a board's disk. The space is taken as it is written to.
const MEGABYTES: u64 = 1024;
/// What a first pod leaves open and a first roll allocates is no leak.
const WARM_UP: usize = 2;

#[test]
fn pods_come_and_go_and_boards_reboot() {
    if !possible("soak") || !busybox::present("soak") {
        return;
    }
    let seed = std::env::var("KUMQUAT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("soak: seed {seed}");
    let mut random = Random::new(seed);
    let mut site = Site::new("soak", 3);
    let Site { bed, disks, .. } = &mut site;
    bed.deployment("web", 3);
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "web"}]});
    let address = bed.service("web", &spec).0.expect("an address");
    for round in 0..WARM_UP {
        change(bed, round, &mut random);
        called(bed, address);
    }
    reboot(bed, 1);
    reboot(bed, 2);
    emptied(bed);
    let before: Vec<_> = bed.cluster.boards.iter().map(Footprint::settled).collect();
    let memory: Vec<_> = bed.cluster.boards.iter().map(pss).collect();
    let (began, entries) = (Instant::now(), entries(bed));
    let written: Vec<_> = disks.iter().map(Disk::bytes_written).collect();
    scale(bed, 3);
    let mut reboots = 0;
    let least = Duration::from_secs(60 * minutes());
    let mut round = 0;
    while round < rounds(4) || began.elapsed() < least {
        change(bed, round, &mut random);
        called(bed, address);
        if round % REBOOT_EVERY == REBOOT_EVERY - 1 {
            reboot(bed, 1 + reboots % 2);
            reboots += 1;
            called(bed, address);
        }
        if round % 100 == 99 {
            let now: Vec<_> = bed.cluster.boards.iter().map(pss).collect();
            println!("soak: round {round}, {:.0?}, PSS {now:.1?} MB", began.elapsed());
        }
        round += 1;
        if !least.is_zero() {
            std::thread::sleep(PAUSE);
        }
    }
    emptied(bed);
    for (board, footprint) in bed.cluster.boards.iter().zip(&before) {
        footprint.assert_same(board, board.node());
    }
    let took = began.elapsed();
    let entries = self::entries(bed) - entries;
    println!("soak: {round} rounds, {reboots} reboots in {took:.0?}; nothing left behind");
    println!("soak: {entries} entries in the log");
    for (((board, before), disk), written) in
        bed.cluster.boards.iter().zip(memory).zip(disks).zip(written)
    {
        println!(
            "soak: {}: PSS {before:.1} MB before, {:.1} MB after; {} kB onto its disk",
            board.node(),
            pss(board),
            (disk.bytes_written() - written) / 1000,
        );
    }
}

/// Boards whose data lie on disks of their own, which count what reaches them: what the processes say
/// (`write_bytes`) is far more where the kernel counts the whole of a large folio for each of its bytes.
struct Site {
    /// Dropped first, but their folders can only go when nothing is mounted in them.
    bed: Bed,
    disks: Vec<Disk>,
    _folders: Folders,
}

impl Site {
    fn new(test: &str, count: u8) -> Self {
        let mut cluster = Cluster::off(test, count);
        let data = cluster.boards.iter().map(Board::data_dir);
        let disks = data
            .enumerate()
            .map(|(index, folder)| Disk::at(&folder, &format!("{test}-{index}"), MEGABYTES));
        let disks = disks.collect();
        let folders = cluster
            .boards
            .iter()
            .map(|board| board.data_dir().parent().expect("folder of the board").to_owned());
        let folders = Folders(folders.collect());
        cluster.boards[0].up(&[]);
        cluster.join();
        let bed = Bed { cluster };
        bed.cluster.import_busybox(0);
        Self { bed, disks, _folders: folders }
    }
}

/// Removed when dropped.
struct Folders(Vec<PathBuf>);

impl Drop for Folders {
    fn drop(&mut self) {
        for folder in &self.0 {
            let _gone = std::fs::remove_dir_all(folder);
        }
    }
}

/// Replicas change, a pod is deleted, or all are replaced.
fn change(bed: &Bed, round: usize, random: &mut Random) {
    match random.below(4) {
        0 => {
            let mark = json!({"round": format!("{round}-{}", random.next())});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": mark}}}});
            let path = format!("{DEPLOYMENTS}/web");
            bed.master().api("PATCH", &path, Some(&patch)).expect("patched");
            bed.rolled_out("web");
        }
        1 => {
            let list = bed.master().get(&format!("{PODS}?labelSelector=app%3Dweb"));
            let pods = list["items"].as_array().expect("pods");
            if !pods.is_empty() {
                let index = usize::try_from(random.below(pods.len() as u64)).expect("small");
                let name = pods[index]["metadata"]["name"].as_str().expect("name");
                bed.master().api("DELETE", &format!("{PODS}/{name}"), None).expect("deleted");
            }
            bed.rolled_out("web");
        }
        _ => scale(bed, 1 + random.below(REPLICAS_MAX)),
    }
}

/// No pods, on boards that all had some since they were started: what a first one makes is no leak.
fn emptied(bed: &Bed) {
    scale(bed, REPLICAS_MAX);
    scale(bed, 0);
}

/// Of a long trial.
fn minutes() -> u64 {
    let minutes = std::env::var("KUMQUAT_SOAK_MINUTES").ok();
    minutes.map_or(0, |text| text.parse().expect("KUMQUAT_SOAK_MINUTES is a number"))
}

fn scale(bed: &Bed, replicas: u64) {
    let patch = json!({"spec": {"replicas": replicas}});
    bed.master().api("PATCH", &format!("{DEPLOYMENTS}/web"), Some(&patch)).expect("scaled");
    bed.rolled_out("web");
    let pods = format!("{PODS}?labelSelector=app%3Dweb");
    bed.master().wait_for("as many pods", &pods, WITHIN, |list| {
        list["items"].as_array().is_some_and(|pods| pods.len() as u64 == replicas)
    });
}

/// Every board reaches the Service.
fn called(bed: &Bed, address: std::net::Ipv4Addr) {
    for board in &bed.cluster.boards {
        let host = Inside::host(board);
        until("the Service answers", || host.read(address, 80), Result::is_ok);
    }
}

fn reboot(bed: &mut Bed, victim: usize) {
    let board = &mut bed.cluster.boards[victim];
    board.pull_the_plug();
    board.start(&[]);
    bed.cluster.wait_ready(victim, bed::WITHIN);
    let path = format!("{PODS}?labelSelector=app%3Dweb");
    bed.master().wait_for("pods ready again", &path, WITHIN, |list| {
        let items = list["items"].as_array().expect("pods");
        items.iter().all(|pod| is_ready(pod) == Some(true))
    });
    bed.rolled_out("web");
}

/// PSS of a board's own processes, in MB.
fn pss(board: &Board) -> f64 {
    board.processes().into_iter().map(|pid| figures::pss_mb(pid.cast_unsigned())).sum()
}

/// How many entries the log has had.
fn entries(bed: &Bed) -> u64 {
    let list = bed.master().get("/api/v1/namespaces?limit=1");
    let version = list["metadata"]["resourceVersion"].as_str().expect("version");
    version.parse::<u64>().expect("number") >> 20
}
