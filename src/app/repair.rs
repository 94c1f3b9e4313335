//! `kumquat repair`: going on with a damaged log by giving up what was written after a version.

use anyhow::{Context, Result};
use model::ids::Version;

use super::cli::RepairArgs;
use super::dirs::Dirs;
use super::mastership::Mastership;
use super::up;
use crate::io::store::{OpenError, Store};

/// Cuts the log of a board that does not run.
pub(super) fn run(dirs: &Dirs, arguments: &RepairArgs) -> Result<()> {
    let _lock = up::lock(&dirs.data)?;
    let version = Version(arguments.accept_loss_after);
    let known = Mastership::load(dirs)?.filter(|_| arguments.last_copy);
    let group = known.as_ref().map(|known| known.epoch);
    if group.is_some() {
        // First: a cut on the way must not leave a member that has lost its vote.
        Mastership::begin_promotion(dirs)?;
    }
    let repaired = Store::repair(&dirs.store(), version, group);
    if let (Some(known), Err(error)) = (known, &repaired) {
        // Nothing was changed; otherwise the next start, or the next repair, goes on.
        let refused = match error {
            OpenError::Whole(_) => true,
            OpenError::Io { .. } => false,
            _ => !known.promoting,
        };
        if refused && let Err(error) = Mastership::end_promotion(dirs) {
            tracing::warn!(error = format!("{error:#}"), "the mark of a repair is left behind");
        }
    }
    let kept = repaired.context("cannot repair the log")?;
    if group.is_some() {
        say!("this board has left its group of masters: it leads alone, in a new epoch");
    }
    say!("the log now ends at version {kept}; start the board again with `kumquat up`");
    Ok(())
}
