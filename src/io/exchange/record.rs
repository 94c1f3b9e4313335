//! What lies on the disk about an exchange: `upgrade.json` in the data-dir.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::staged::digest_of;
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

    /// Whether the new binary is what lies at `exe`, and nothing is left beside it: it was kept, even if no
    /// record says so.
    pub(super) fn is_kept_at(&self, exe: &Path) -> bool {
        let is_gone = fs::symlink_metadata(&self.staged)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        is_gone && digest_of(exe).is_ok_and(|digest| hex(&digest) == self.sha256)
    }

    /// Milliseconds since the new binary was started, if the board was not off meanwhile.
    pub(super) fn age_ms(&self) -> u64 {
        super::process::boot_ms().saturating_sub(self.began_ms)
    }
}

/// The last exchange, if there was one that can be read.
pub fn last(data: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path(data)).ok()?).ok()
}

/// Removes it: where a record cannot be written that says that no binary is on trial, none says it too.
pub(super) fn forget(data: &Path) -> io::Result<()> {
    fs::remove_file(path(data))
}

pub(super) fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn path(data: &Path) -> PathBuf {
    data.join("upgrade.json")
}
