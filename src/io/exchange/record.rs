//! What lies on the disk about an exchange: `upgrade.json` in the data-dir.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::io::durable;

/// How far the exchange is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The new binary has to prove itself.
    Trial,
    /// It has.
    Kept,
    /// The old one runs again.
    #[default]
    Returned,
}

/// The last exchange of this board.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// How far it is.
    pub state: State,
    /// Which run of the command wanted it.
    pub attempt: String,
    /// SHA-256 of the new binary, in hex.
    pub sha256: String,
    /// The binary of this board.
    pub exe: PathBuf,
    /// The new one, as long as it is on trial.
    pub staged: PathBuf,
    /// Seconds within which it has to prove itself.
    pub ready_seconds: u32,
    /// When it was started, in milliseconds since the board was.
    pub began_ms: u64,
    /// How long it took to the outcome; 0 when the board was off meanwhile.
    pub millis: u64,
    /// Why it was not kept.
    pub why: Option<String>,
}

impl Record {
    /// Keeps it durably.
    pub(super) fn save(&self, data: &Path) -> io::Result<()> {
        durable::replace(&path(data), &serde_json::to_vec(self)?, durable::PUBLIC)
    }

    /// Milliseconds since the new binary was started, if the board was not off meanwhile.
    pub(super) fn age_ms(&self) -> u64 {
        super::process::boot_ms().saturating_sub(self.began_ms)
    }
}

/// The last exchange, if there was one that can be read.
pub fn last(data: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(path(data)).ok()?).ok()
}

fn path(data: &Path) -> PathBuf {
    data.join("upgrade.json")
}
