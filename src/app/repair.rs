//! `kumquat repair`: going on with a damaged log by giving up what was written after a version.

use anyhow::{Context, Result};
use model::ids::Version;

use super::cli::RepairArgs;
use super::dirs::Dirs;
use super::up;
use crate::io::store::Store;

/// Cuts the log of a board that does not run.
pub(super) fn run(dirs: &Dirs, arguments: &RepairArgs) -> Result<()> {
    let _lock = up::lock(&dirs.data)?;
    let version = Version(arguments.accept_loss_after);
    let kept = Store::repair(&dirs.store(), version).context("cannot repair the log")?;
    say!("the log now ends at version {kept}; start the board again with `kumquat up`");
    Ok(())
}
