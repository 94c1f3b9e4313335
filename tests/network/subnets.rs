//! Boards on different subnets, behind a router: their pods reach each other through the tunnel.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kumquat::io::net;

use crate::bed::{PATIENCE, all_reach_each_other, create, pod_links, reaches, running};
use crate::board::{BRIDGE, Board, Wire, possible, text};
use crate::busybox::present;
use crate::switch::{Cluster, Switch, is_ready};

/// A router with a leg on each of two switches.
struct Router {
    namespace: PathBuf,
}

impl Router {
    fn between(name: &str, legs: [(&Switch, Ipv4Addr); 2]) -> Self {
        let namespace = PathBuf::from(format!("/run/netns/kumquat-test-{name}-router"));
        net::create(&namespace).expect("network namespace of the router");
        let file = File::open(&namespace).expect("namespace");
        for (number, (switch, address)) in legs.into_iter().enumerate() {
            let leg = format!("leg{number}");
            let plugged = net::inside(switch.namespace(), || {
                let mut links = net::Links::open()?;
                links.add_veth("router", &leg, file.as_fd())?;
                links.set_master("router", BRIDGE)
            });
            plugged.expect("router plugged in");
            let addressed = net::inside(&namespace, || {
                let mut links = net::Links::open()?;
                links.add_address(&leg, address, 24)?;
                links.set_up(&leg)?;
                net::sysctl::set("ipv4/ip_forward", "1")
            });
            addressed.expect("router addressed");
        }
        Self { namespace }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _gone = net::remove(&self.namespace);
    }
}

fn send_by(board: &Board, router: Ipv4Addr) {
    let routed = net::inside(board.namespace(), || net::Links::open()?.add_default_route(router));
    routed.expect("default route");
}

#[test]
fn pods_behind_a_router_are_reached_through_the_tunnel() {
    let name = "pods_behind_a_router_are_reached_through_the_tunnel";
    if !possible(name) || !present(name) {
        return;
    }
    let near = Switch::new("subnets");
    let far = Switch::new("subnets-far");
    let [near_router, far_router] = [[198, 19, 0, 254], [198, 19, 1, 254]].map(Ipv4Addr::from);
    let _router = Router::between(near.cluster(), [(&near, near_router), (&far, far_router)]);
    let wire = Wire {
        switch: far.namespace().to_owned(),
        port: "port-3".to_owned(),
        address: Ipv4Addr::new(198, 19, 1, 3),
    };
    let away = Board::plugged(near.cluster(), "board-3", wire);
    let boards = vec![near.board(1), near.board(2), away];
    send_by(&boards[0], near_router);
    send_by(&boards[1], near_router);
    send_by(&boards[2], far_router);
    let mut cluster = Cluster { boards, switch: near };
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

fn nft(board: &Board, rules: &str) {
    let output = net::inside(board.namespace(), || Command::new("nft").arg(rules).output());
    let output = output.expect("nft starts");
    assert!(output.status.success(), "nft {rules}: {}", text(&output));
}
