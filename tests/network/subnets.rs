//! Boards on different subnets, behind a router: their pods reach each other through the tunnel.

use std::process::Command;
use std::time::Duration;

use kumquat::io::net;

use crate::bed::{PATIENCE, all_reach_each_other, create, pod_links, reaches, running};
use crate::board::{Board, possible, text};
use crate::busybox::present;
use crate::router::{Far, know_the_way};
use crate::switch::{Cluster, Switch, is_ready};

#[test]
fn pods_behind_a_router_are_reached_through_the_tunnel() {
    let name = "pods_behind_a_router_are_reached_through_the_tunnel";
    if !possible(name) || !present(name) {
        return;
    }
    let near = Switch::new("subnets");
    let far = Far::behind(&near);
    let mut cluster =
        Cluster { boards: vec![near.board(1), near.board(2)], switch: near, role: "worker" };
    know_the_way(&cluster);
    cluster.boards.push(far.board(&cluster.switch, 3));
    prefer_another_address(&cluster.boards[2]);
    cluster.boards[0].up(&[]);
    for index in [1, 2] {
        let token = cluster.boards[0].token();
        cluster.boards[index].start(&["--token", &token, "--peers", "198.19.0.1"]);
    }
    cluster.wait_ready(1, PATIENCE);
    cluster.wait_ready(2, PATIENCE);
    cluster.import_busybox(0);
    for number in 0..3 {
        create(&cluster, &format!("p{number}"), number, |_| {});
    }
    let pods: Vec<_> =
        (0..3).map(|number| running(&cluster, &format!("p{number}"), number)).collect();
    all_reach_each_other(&pods);
    reaches(cluster.boards[0].namespace(), &pods[2]);
    assert!(pod_links(&cluster.boards[0]).contains(&"kq-vxlan".to_owned()));

    // A firewall between the two is told, and that it is gone; the board itself stays Ready.
    let reached = |expected: bool| {
        let what = "PodNetworkUnreachable";
        let path = "/api/v1/nodes/board-2";
        cluster.master().wait_for(what, path, Duration::from_secs(90), |node| {
            let conditions = node["status"]["conditions"].as_array();
            let found = conditions.into_iter().flatten().find(|c| c["type"] == what);
            let message = found.and_then(|c| c["message"].as_str()).unwrap_or_default();
            message.contains("board-3") != expected && is_ready(node) == Some(true)
        });
    };
    reached(true);
    let board = &cluster.boards[2];
    nft(
        board,
        "table inet trial { chain lost { type filter hook input priority -300; udp dport 8472 drop; }; }",
    );
    reached(false);
    nft(board, "delete table inet trial");
    reached(true);
    reaches(&pods[1].namespace, &pods[2]);
}

/// By itself the kernel sends to other subnets under an address that no other board knows.
fn prefer_another_address(board: &Board) {
    for words in [
        "address add 198.19.1.203/32 dev eth0",
        "route replace default via 198.19.1.253 src 198.19.1.203",
    ] {
        let run = || Command::new("ip").args(words.split(' ')).output();
        let output = net::inside(board.namespace(), run).expect("ip starts");
        assert!(output.status.success(), "ip {words}: {}", text(&output));
    }
}

fn nft(board: &Board, rules: &str) {
    let output = net::inside(board.namespace(), || Command::new("nft").arg(rules).output());
    let output = output.expect("nft starts");
    assert!(output.status.success(), "nft {rules}: {}", text(&output));
}
