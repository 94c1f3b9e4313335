//! The demo's bed: a switch in a network namespace, the host's link to it, boards, and their removal.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::BOARDS_MAX;
use super::board::Board;
use super::slot::Slot;
use crate::io::net;

/// Name of the switch's bridge, in its namespace.
const BRIDGE: &str = "br0";
/// Name of the switch's end of the link to the host, in its namespace.
const UPLINK: &str = "uplink";
/// Name of a board's interface, in its namespace.
const ETH: &str = "eth0";

/// Boards on a switch.
pub(super) struct Bed {
    slot: Slot,
    boards: Vec<Board>,
}

impl Bed {
    /// An empty bed in the slot, after cleaning what a killed demo left there.
    pub(super) fn new(slot: Slot, boards: u8) -> Result<Self> {
        if slot.folder().exists() {
            say!("cleaning up after a demo that was killed ...");
            let left = (1..=BOARDS_MAX).map(|number| Board::new(&slot, number)).collect();
            let bed = Self { slot, boards: left };
            bed.clear().context("cannot clean up after a demo that was killed")?;
            return Self::new(bed.slot, boards);
        }
        let boards = (1..=boards).map(|number| Board::new(&slot, number)).collect();
        Ok(Self { slot, boards })
    }

    /// Makes the switch and plugs every board into it.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn wire(&self) -> Result<()> {
        // What a demo that is killed has made is found by its folder.
        fs::create_dir_all(self.slot.folder())?;
        let switch = self.slot.switch();
        net::create(&switch)?;
        let file = File::open(&switch)?;
        let mut links = net::Links::open()?;
        links.add_veth(&self.slot.host_link(), UPLINK, file.as_fd())?;
        links.add_address(&self.slot.host_link(), self.slot.host_address(), 24)?;
        net::inside(&switch, || {
            let mut links = net::Links::open()?;
            links.add_bridge(BRIDGE)?;
            links.set_master(UPLINK, BRIDGE)
        })?;
        self.boards.iter().try_for_each(|board| self.plug(board))
    }

    fn plug(&self, board: &Board) -> Result<()> {
        net::create(board.namespace())?;
        let file = File::open(board.namespace())?;
        let (address, gateway) = (self.slot.address(board.number()), self.slot.host_address());
        net::inside(&self.slot.switch(), || {
            let mut links = net::Links::open()?;
            links.add_veth(&port(board), ETH, file.as_fd())?;
            links.set_master(&port(board), BRIDGE)
        })?;
        net::inside(board.namespace(), || {
            let mut links = net::Links::open()?;
            links.add_address(ETH, address, 24)?;
            links.set_up(ETH)?;
            links.add_default_route(gateway)
        })?;
        Ok(())
    }

    /// Pulls a board's cable out of the switch, or puts it back.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn set_cable(&self, board: usize, plugged: bool) -> Result<()> {
        let port = port(&self.boards[board]);
        net::inside(&self.slot.switch(), || {
            let mut links = net::Links::open()?;
            if plugged { links.set_up(&port) } else { links.set_down(&port) }
        })?;
        Ok(())
    }

    /// The boards; the first is the master.
    pub(super) fn boards(&self) -> &[Board] {
        &self.boards
    }

    /// The boards, to start them.
    pub(super) fn boards_mut(&mut self) -> &mut [Board] {
        &mut self.boards
    }

    /// The board that founds the cluster.
    pub(super) fn master(&self) -> &Board {
        &self.boards[0]
    }

    /// URL of the API as the host reaches it.
    pub(super) fn server(&self) -> String {
        format!("https://{}:6443", self.slot.address(1))
    }

    /// The admin kubeconfig.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.slot.folder().join("kubeconfig")
    }

    /// Prints the end of each board's log, for a demo that failed.
    pub(super) fn explain(&self) {
        self.boards.iter().for_each(Board::explain);
    }

    /// Stops the boards, workers first, and removes every trace.
    ///
    /// # Errors
    /// Something stays behind; the next demo in this slot tries again.
    pub(super) async fn remove(&mut self) -> Result<()> {
        let (master, workers) = self.boards.split_at_mut(1);
        let mut stopping = tokio::task::JoinSet::new();
        for board in workers {
            if let Some(process) = board.take_process() {
                stopping.spawn(process.stop());
            }
        }
        while let Some(stopped) = stopping.join_next().await {
            stopped??;
        }
        if let Some(process) = master[0].take_process() {
            process.stop().await?;
        }
        self.clear()?;
        self.slot.give_back()
    }

    /// Removes what lies in the slot, whoever left it there.
    fn clear(&self) -> Result<()> {
        // All are ended before the first is removed: a worker that loses its master would start more.
        self.boards.iter().try_for_each(Board::kill_recorded)?;
        self.boards.iter().try_for_each(Board::clear)?;
        net::Links::open()?.delete(&self.slot.host_link())?;
        net::remove(&self.slot.switch())?;
        self.slot.empty()
    }
}

/// Name of a board's port, in the switch's namespace.
fn port(board: &Board) -> String {
    format!("port-{}", board.number())
}
