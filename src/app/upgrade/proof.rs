//! What a new binary has to show: that the leader sees its board ready with its version.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::sync::watch;

use super::FILES;
use crate::app::board;
use crate::app::control::Control;
use crate::app::version;
use crate::io::exchange::Trial;
use crate::io::keeper::{Keeper, KeeperPaths};

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For how long it has to be ready without a break.
const READY_FOR: Duration = Duration::from_secs(1);

/// What the proof is made with.
pub(in crate::app) struct Proof {
    /// The exchange.
    pub(in crate::app) trial: Trial,
    /// Tells that it is over.
    pub(in crate::app) on_trial: watch::Sender<bool>,
    /// Knows what the leader says.
    pub(in crate::app) control: Arc<Control>,
    /// Its keeper goes over to this binary once that is kept.
    pub(in crate::app) keeper: KeeperPaths,
    /// Told when the board is stopped.
    pub(in crate::app) stop: watch::Receiver<bool>,
}

/// Proves this binary, then waits for the end of the board.
///
/// # Errors
/// The new binary cannot take the place of the old one: the board goes back.
pub(in crate::app) async fn prove(proof: Proof) -> Result<()> {
    let Proof { mut trial, on_trial, control, keeper, mut stop } = proof;
    let exe: PathBuf = trial.exe().to_owned();
    tracing::info!(version = version::TEXT, exe = %exe.display(), "this binary is on trial");
    // Cancel safety: nothing is written before the board is ready.
    let is_ready = tokio::select! {
        () = ready(&control) => true,
        () = stopped(&mut stop) => false,
    };
    if !is_ready {
        return Ok(tokio::task::spawn_blocking(move || trial.stopped()).await?);
    }
    let kept = tokio::task::spawn_blocking(move || trial.keep()).await?;
    let millis = kept.context("the new binary cannot take the place of the old one")?;
    on_trial.send_replace(false);
    tracing::info!(version = version::TEXT, millis, "this binary is kept");
    // What it handed out as the leader is of no use any more.
    let files = keeper.data_dir.join(FILES);
    let _none = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(files)).await;
    match Keeper::connect_or_spawn(keeper).await {
        Ok(keeper) => board::renew(&keeper, &exe).await,
        Err(error) => tracing::warn!(%error, "keeper is not upgraded"),
    }
    stopped(&mut stop).await;
    Ok(())
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody can ask any more.
    let _asked = stop.wait_for(|stop| *stop).await;
}

/// Waits until the leader has shown this board as ready for a while.
async fn ready(control: &Control) {
    let began = Instant::now();
    let mut since: Option<Instant> = None;
    while since.is_none_or(|since| since.elapsed() < READY_FOR) {
        tokio::time::sleep(LOOK_EVERY).await;
        let said = control.cluster().await;
        let fine = said.is_some_and(|said| shows(&said, &control.identity.name, began.elapsed()));
        since = if fine { since.or(Some(Instant::now())) } else { None };
    }
}

/// Whether a leader says that the board is ready with this version, and has heard it since it began.
fn shows(status: &Value, name: &str, running: Duration) -> bool {
    let boards = status["boards"].as_array().into_iter().flatten();
    let own = boards.into_iter().find(|board| board["name"] == name);
    own.is_some_and(|own| {
        !status["leader"].is_null()
            && own["ready"] == true
            && own["version"] == version::TEXT
            && own["lastHeardSeconds"].as_u64().is_some_and(|ago| ago <= running.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_leader_and_only_this_version_count() {
        let status = |leader: Value, ready: bool, version: &str, heard: u64| {
            json!({"leader": leader, "boards": [
                {"name": "pi-1", "ready": true, "version": "0.0.1", "lastHeardSeconds": 0},
                {"name": "pi-2", "ready": ready, "version": version, "lastHeardSeconds": heard}]})
        };
        let running = Duration::from_secs(4);
        let check = |said: &Value| shows(said, "pi-2", running);
        assert!(check(&status("pi-1".into(), true, version::TEXT, 2)));
        assert!(!check(&status(Value::Null, true, version::TEXT, 2)), "nobody leads");
        assert!(!check(&status("pi-1".into(), false, version::TEXT, 2)));
        assert!(!check(&status("pi-1".into(), true, "0.0.1", 2)), "what it ran before");
        assert!(!check(&status("pi-1".into(), true, version::TEXT, 5)), "heard before it began");
        assert!(!shows(&status("pi-1".into(), true, version::TEXT, 0), "pi-3", running));
    }
}
