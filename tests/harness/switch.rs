//! Several boards on one switch: a bridge in a network namespace of its own, on which multicast
//! passes, and boards with `eth0` and an address each. Nothing leaves the machine's memory.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kumquat::io::net;
use serde_json::Value;

use crate::board::{BRIDGE, Board, Wire, text};

/// How long boards may take to join and become ready, on a machine that is busy.
const JOINED_WITHIN: Duration = Duration::from_secs(60);

/// A switch without an uplink.
pub struct Switch {
    cluster: String,
    namespace: PathBuf,
}

impl Switch {
    /// A switch for a cluster; `test` makes its names unique within the machine.
    pub fn new(test: &str) -> Self {
        let cluster = format!("{test}-{}", std::process::id());
        let namespace = PathBuf::from(format!("/run/netns/kumquat-test-{cluster}-switch"));
        net::create(&namespace).expect("network namespace of the switch");
        net::inside(&namespace, || net::Links::open()?.add_bridge(BRIDGE)).expect("bridge");
        Self { cluster, namespace }
    }

    /// Name of the cluster that its boards found and join.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// File on which its namespace is pinned: for a test that listens or forges on the link.
    pub fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// How a board with a number from 1 hangs on it.
    pub fn wire(&self, number: u8) -> Wire {
        Wire {
            switch: self.namespace.clone(),
            port: format!("port-{number}"),
            address: Ipv4Addr::new(198, 19, 0, number),
        }
    }

    /// An empty board called `board-<number>`.
    pub fn board(&self, number: u8) -> Board {
        Board::plugged(&self.cluster, &format!("board-{number}"), self.wire(number))
    }

    /// As [`Self::listen`], also when it was called before.
    pub fn listen_once(&self) {
        let address = Ipv4Addr::new(198, 19, 0, 254);
        let _there =
            net::inside(&self.namespace, || net::Links::open()?.add_address(BRIDGE, address, 24));
    }

    /// Gives the switch itself an address on the link (198.19.0.254).
    pub fn listen(&self) -> Ipv4Addr {
        let address = Ipv4Addr::new(198, 19, 0, 254);
        let added =
            net::inside(&self.namespace, || net::Links::open()?.add_address(BRIDGE, address, 24));
        added.expect("address of the switch");
        address
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _gone = net::remove(&self.namespace);
    }
}

/// A cluster on a switch; the first board is the master.
pub struct Cluster {
    /// The boards, by number less one.
    pub boards: Vec<Board>,
    /// What they hang on; dropped after them.
    pub switch: Switch,
    /// For which role the first lets the others in: `worker` unless a test is about several masters.
    pub role: &'static str,
}

impl Cluster {
    /// Founds a cluster and has all other boards join it; every board is ready then.
    pub fn new(test: &str, count: u8) -> Self {
        let mut cluster = Self::founded(test, count);
        cluster.join();
        cluster
    }

    /// The same, of boards that may all become masters.
    pub fn of_masters(test: &str, count: u8) -> Self {
        let mut cluster = Self::off(test, count);
        cluster.role = "auto";
        cluster.boards[0].up(&[]);
        cluster.join();
        cluster
    }

    /// Founds a cluster; the other boards are there and off.
    pub fn founded(test: &str, count: u8) -> Self {
        let mut cluster = Self::off(test, count);
        cluster.boards[0].up(&[]);
        cluster
    }

    /// Boards on a switch that never ran.
    pub fn off(test: &str, count: u8) -> Self {
        let switch = Switch::new(test);
        let boards = (1..=count).map(|number| switch.board(number)).collect();
        Self { boards, switch, role: "worker" }
    }

    /// Has all other boards join the first, and waits until they are ready.
    pub fn join(&mut self) {
        for index in 1..self.boards.len() {
            self.start_joining(index);
        }
        for index in 1..self.boards.len() {
            self.wait_ready(index, JOINED_WITHIN);
        }
    }

    /// The master.
    pub fn master(&self) -> &Board {
        &self.boards[0]
    }

    /// Starts a board (its index) with a token, without waiting.
    pub fn start_joining(&mut self, index: usize) {
        let token = self.boards[0].token_for(self.role);
        self.boards[index].start(&["--token", &token]);
    }

    /// Waits until the master shows a board as ready.
    pub fn wait_ready(&self, index: usize, within: Duration) {
        let path = format!("/api/v1/nodes/{}", self.boards[index].node());
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.master()
                .wait_for("board ready", &path, within, |node| is_ready(node) == Some(true));
        }));
        if let Err(panic) = told {
            let board = &self.boards[index];
            eprintln!("log of board {}:\n{}", board.node(), board.log());
            std::panic::resume_unwind(panic);
        }
    }

    /// Imports busybox on one board.
    pub fn import_busybox(&self, index: usize) {
        let board = &self.boards[index];
        let archive = board.busybox();
        let imported = board.command(&["image", "import", archive.to_str().expect("path")]);
        assert!(imported.status.success(), "{}", text(&imported));
    }
}

/// Whether a Node is ready; `None` when its master does not know.
pub fn is_ready(node: &Value) -> Option<bool> {
    let conditions = node["status"]["conditions"].as_array()?;
    match conditions.iter().find(|c| c["type"] == "Ready")?["status"].as_str()? {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}
