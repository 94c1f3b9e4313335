//! Who votes, on seven boards: five, spread over zones; a spare board for a voter that stays away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::board::{self, Board, rounds};
use crate::switch::Cluster;
use crate::three::{MAPS, config_map, leader, standing, status, wait_until, wait_voters};

/// Zones of the boards, in their order.
const ZONES: [&str; 7] = ["a", "a", "a", "a", "b", "b", "c"];
/// Boards watch each other for a while before a vote moves.
const MOVED_WITHIN: Duration = Duration::from_secs(120);
/// A voter is waited for 300 s; then another board has to have the log.
const REPLACED_WITHIN: Duration = Duration::from_secs(420);

/// The leader that is gone for good is what `cargo xtask soak membership` adds: it is waited for.
#[test]
fn five_of_seven_vote_in_all_zones_and_one_that_stays_away_is_replaced() {
    if !board::possible("seven") {
        return;
    }
    let began = Instant::now();
    let mut cluster = Cluster::of_masters("seven", 7);
    wait_voters(&cluster, 0, "5");
    println!("five voters of seven boards after {:?}", began.elapsed());
    for (board, zone) in cluster.boards.iter().zip(ZONES) {
        label(&cluster.boards[0], board.node(), zone);
    }
    let spread = BTreeMap::from([("a", 2), ("b", 2), ("c", 1)]);
    let moved = wait_until("votes are spread", &cluster.boards, MOVED_WITHIN, || {
        voters_by_zone(&cluster, &status(&cluster.boards[0])) == spread
    });
    println!("spread over zones {moved:?} after the labels");
    cluster.boards[0].create(MAPS, &config_map("before"));
    if rounds(0) == 0 {
        return;
    }
    cluster.boards[0].pull_the_plug();
    let lost = Instant::now();
    let lives = |index| index != 0;
    wait_until("another leader", &cluster.boards[1..], MOVED_WITHIN, || {
        leader(&cluster.boards, lives).is_some()
    });
    wait_until("another voter", &cluster.boards[1..], REPLACED_WITHIN, || {
        let Some(leader) = leader(&cluster.boards, lives) else { return false };
        let said = status(&cluster.boards[leader]);
        standing(&said, cluster.boards[0].node()) != "voter"
            && voters_by_zone(&cluster, &said) == spread
    });
    println!("the leader that is gone is replaced {:?} after it was lost", lost.elapsed());
    let leads = leader(&cluster.boards, lives).expect("somebody leads");
    let kept = cluster.boards[leads].get(&format!("{MAPS}/before"));
    assert_eq!(kept["data"]["key"], "before");
    cluster.boards[leads].create(MAPS, &config_map("after"));
}

fn label(leader: &Board, name: &str, zone: &str) {
    let path = format!("/api/v1/nodes/{name}");
    // The board itself writes its Node, too.
    wait_until("a label", std::slice::from_ref(leader), MOVED_WITHIN, || {
        let mut node = leader.get(&path);
        node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(zone);
        leader.api("PUT", &path, Some(&node)).is_ok()
    });
}

/// How many voters each zone has.
fn voters_by_zone<'a>(cluster: &Cluster, said: &Value) -> BTreeMap<&'a str, usize> {
    let mut zones = BTreeMap::new();
    for (board, zone) in cluster.boards.iter().zip(ZONES) {
        if matches!(standing(said, board.node()).as_str(), "voter" | "leader") {
            *zones.entry(zone).or_default() += 1;
        }
    }
    zones
}
