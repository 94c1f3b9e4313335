//! Where a board's files lie: everything under its data-dir and its run-dir.

use std::path::{Path, PathBuf};

/// The two folders of a board.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Survives a reboot.
    pub data: PathBuf,
    /// Is empty after a reboot.
    pub run: PathBuf,
}

impl Dirs {
    /// With both folders as given.
    pub fn new(data: &Path, run: &Path) -> Self {
        Self { data: data.to_owned(), run: run.to_owned() }
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("kumquat.sock")
    }

    /// The store of the master role.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    /// What this board is: its name and cluster.
    pub fn board(&self) -> PathBuf {
        self.data.join("board.json")
    }
}
