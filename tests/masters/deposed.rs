//! A leader that was off while another board was promoted, and a stolen master evicted.

use std::time::Duration;

use crate::board::{self, Board, text};
use crate::switch::Cluster;
use crate::three::{MAPS, config_map, standing, status, wait_until};

const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn a_deposed_leader_that_does_not_know_the_authority_yields_and_takes_it_over() {
    if !board::possible("deposed") {
        return;
    }
    let mut cluster = Cluster::off("deposed", 2);
    cluster.role = "auto";
    cluster.boards[0].up(&[]);
    cluster.join();
    learner(&cluster.boards[0], cluster.boards[1].node());
    cluster.boards[0].kill();
    wait_until("promoted", &cluster.boards[1..], WITHIN, || {
        cluster.boards[1].command(&["promote"]).status.success()
    });
    cluster.boards.push(cluster.switch.board(3));
    let token = cluster.boards[1].token_for("auto");
    cluster.boards[2].start(&["--token", &token]);
    let stolen = cluster.boards[2].node().to_owned();
    learner(&cluster.boards[1], &stolen);
    let before = authority(&cluster.boards[1]);
    let evicted = cluster.boards[1].command(&["board", "evict", &stolen]);
    assert!(evicted.status.success(), "{}", text(&evicted));
    wait_until("another authority", &cluster.boards, WITHIN, || {
        authority(&cluster.boards[1]) != before
    });
    cluster.boards[2].kill();
    // The board changes its authority by beginning anew; nobody can ask it meanwhile.
    wait_until("it leads again", &cluster.boards, WITHIN, || {
        cluster.boards[1].forget_kubeconfig();
        standing(&status(&cluster.boards[1]), cluster.boards[1].node()) == "leader"
    });
    let reigns = |board: &Board| board.log().matches("reign began").count();
    let reigned = reigns(&cluster.boards[0]);
    cluster.boards[0].start(&[]);
    wait_until("the old leader is a learner", &cluster.boards[..2], WITHIN, || {
        cluster.boards[1].forget_kubeconfig();
        standing(&status(&cluster.boards[1]), cluster.boards[0].node()) == "learner"
    });
    assert_eq!(reigns(&cluster.boards[0]), reigned, "it asks before it leads");
    assert_eq!(authority(&cluster.boards[0]), authority(&cluster.boards[1]));
    cluster.boards[1].create(MAPS, &config_map("after"));
}

fn learner(leader: &Board, name: &str) {
    wait_until("a learner", std::slice::from_ref(leader), WITHIN, || {
        let said = status(leader);
        let boards = said["boards"].as_array().cloned().unwrap_or_default();
        let has_all = boards.iter().any(|it| it["name"] == name && it["lag"].as_u64() == Some(0));
        standing(&said, name) == "learner" && has_all
    });
}

fn authority(board: &Board) -> String {
    std::fs::read_to_string(board.data_dir().join("pki/ca.crt")).unwrap_or_default()
}
