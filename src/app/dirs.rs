//! Where a board's files lie: everything under its data-dir and its run-dir.

use std::path::{Path, PathBuf};

/// The two folders of a board.
#[derive(Clone, Debug)]
pub(super) struct Dirs {
    /// Survives a reboot.
    pub data: PathBuf,
    /// Is empty after a reboot.
    pub run: PathBuf,
}

impl Dirs {
    /// With both folders as given.
    pub(super) fn new(data: &Path, run: &Path) -> Self {
        Self { data: data.to_owned(), run: run.to_owned() }
    }

    /// The control socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.run.join("kumquat.sock")
    }

    /// The store of the master role.
    pub(super) fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// What this board is: its name and cluster.
    pub(super) fn board(&self) -> PathBuf {
        self.data.join("board.json")
    }

    /// What this board has promised before it has a cluster.
    pub(super) fn genesis(&self) -> PathBuf {
        self.data.join("genesis.json")
    }

    /// Which member of the group of masters this board is.
    pub(super) fn master(&self) -> PathBuf {
        self.data.join("master.json")
    }

    /// When certificates were judged last.
    pub(super) fn confirmed(&self) -> PathBuf {
        self.data.join("confirmed-time")
    }

    /// Where a member last saw its leader.
    pub(super) fn cluster(&self) -> PathBuf {
        self.data.join("cluster.json")
    }
}
