//! Boards on another switch, behind a router: another subnet, where the first one's multicast is not
//! heard.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use kumquat::io::net;

use crate::board::{BRIDGE, Board, Wire};
use crate::switch::{Cluster, Switch};

/// The router's addresses on both switches.
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 253);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 19, 1, 253);

/// A second switch and the router to it.
pub struct Far {
    _router: Router,
    switch: Switch,
}

impl Far {
    /// Behind the switch of `near`.
    pub fn behind(near: &Switch) -> Self {
        let test = near.cluster().rsplit_once('-').map_or(near.cluster(), |(test, _)| test);
        let switch = Switch::new(&format!("{test}-far"));
        Self { _router: Router::between(near.cluster(), [(near, NEAR), (&switch, FAR)]), switch }
    }

    /// An empty board `board-<number>` of the near cluster, with an address on the far switch.
    pub fn board(&self, near: &Switch, number: u8) -> Board {
        let wire = Wire {
            switch: self.switch.namespace().to_owned(),
            port: format!("port-{number}"),
            address: Ipv4Addr::new(198, 19, 1, number),
        };
        let board = Board::plugged(near.cluster(), &format!("board-{number}"), wire);
        send_by(board.namespace(), FAR);
        board
    }
}

/// Gives the boards on the near switch the way to the far one.
pub fn know_the_way(cluster: &Cluster) {
    cluster.boards.iter().for_each(|board| send_by(board.namespace(), NEAR));
}

/// Gives the near switch, which has an address, the way to the far one.
pub fn switch_knows_the_way(near: &Switch) {
    send_by(near.namespace(), NEAR);
}

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

fn send_by(namespace: &Path, router: Ipv4Addr) {
    let routed = net::inside(namespace, || net::Links::open()?.add_default_route(router));
    routed.expect("default route");
}
