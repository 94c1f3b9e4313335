//! Backups by themselves: `[backup] every, to, keep`, while this board leads.
//!
//! What was saved last is read from the folder, so that a run that was missed, by whoever led then, is made
//! up at once, and nothing is kept about it anywhere else. Idle it wakes once an hour, for clocks that jump.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use model::limits::BACKUP_LOOK_SECONDS_MAX;
use model::timestamp::Timestamp;
use tokio::sync::watch;

use super::content::Source;
use super::folder;
use super::write::{self, Task, Verified};
use crate::io::backup::on_same_disk;

/// Pause after a failure, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// The section `[backup]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::app) struct Plan {
    /// How often.
    pub(in crate::app) every: Duration,
    /// The folder.
    pub(in crate::app) to: PathBuf,
    /// How many stay there.
    pub(in crate::app) keep: u32,
}

/// Saves as planned until `stop`.
pub(in crate::app) async fn run(
    plan: Plan,
    source: Source,
    data: PathBuf,
    mut stop: watch::Receiver<bool>,
) {
    if on_same_disk(&plan.to, &data).unwrap_or(false) {
        let to = plan.to.display().to_string();
        tracing::warn!(
            to,
            "backups go to the file system of this board's data, or the stick is not mounted: a card that \
             breaks takes both"
        );
    }
    let mut pause = RETRY.0;
    loop {
        let wait = match due(&plan, &source).await {
            Ok(wait) if wait.is_zero() => match save(&plan, &source, &stop).await {
                Ok(saved) => {
                    let (objects, version) = (saved.facts.objects, saved.facts.version.0);
                    tracing::info!(objects, version, bytes = saved.file_bytes, "backup saved");
                    pause = RETRY.0;
                    continue;
                }
                Err(error) => failed(&error, &mut pause),
            },
            Ok(wait) => wait.min(Duration::from_secs(BACKUP_LOOK_SECONDS_MAX)),
            Err(error) => failed(&error, &mut pause),
        };
        // Cancel safety: both only wait.
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // An error means that nobody can ask any more.
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn failed(error: &anyhow::Error, pause: &mut Duration) -> Duration {
    let wait = *pause;
    *pause = (2 * wait).min(RETRY.1);
    let error = format!("{error:#}");
    tracing::error!(error, again_in = ?wait, "no backup: plug in and mount the stick, or look at it");
    wait
}

/// How long until the next one.
async fn due(plan: &Plan, source: &Source) -> Result<Duration> {
    let (to, cluster) = (plan.to.clone(), source.identity.cluster.clone());
    let listing = tokio::task::spawn_blocking(move || folder::list(&to, &cluster)).await?;
    let found = listing.with_context(|| format!("cannot list {}", plan.to.display()))?;
    // What was dated by a clock that was wrong says nothing.
    let now = source.clock.now();
    let last = found.iter().map(|kept| kept.taken).filter(|taken| *taken <= now).max();
    Ok(until(last, now, plan.every))
}

fn until(last: Option<Timestamp>, now: Timestamp, every: Duration) -> Duration {
    let ago = last.and_then(|last| u64::try_from(now.millis() - last.millis()).ok());
    ago.map_or(Duration::ZERO, |ago| every.saturating_sub(Duration::from_millis(ago)))
}

async fn save(plan: &Plan, source: &Source, stop: &watch::Receiver<bool>) -> Result<Verified> {
    let content = source.take().await?;
    let (plan, task) = (plan.clone(), Task::unseen());
    let (stopping, mut stop) = (task.stop(), stop.clone());
    let saving = tokio::task::spawn_blocking(move || {
        let (head, mut snapshot) = content.into_snapshot()?;
        let path = plan.to.join(folder::name(&head));
        let saved = write::write(&path, &head, &mut snapshot, None, &task)?;
        folder::prune(&plan.to, &head.cluster, plan.keep)?;
        anyhow::Ok(saved)
    });
    let stopped = async move {
        // An error means that nobody can ask any more.
        let _stopped = stop.wait_for(|stop| *stop).await.is_ok();
    };
    tokio::pin!(saving);
    // Cancel safety: a task that is told to stop is waited for, so that it removes what is not whole.
    tokio::select! {
        saved = &mut saving => saved?,
        () = stopped => {
            stopping.store(true, std::sync::atomic::Ordering::Relaxed);
            let _cleaned_up = saving.await?;
            bail!("the board stops")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_missed_is_made_up() {
        let every = Duration::from_secs(3600);
        let check = |last: Option<i64>, seconds: u64| {
            let at = |seconds: i64| Timestamp(seconds * 1_000_000);
            let now = at(1_700_000_000);
            let last = last.map(|ago| at(1_700_000_000 - ago));
            assert_eq!(until(last, now, every), Duration::from_secs(seconds), "{last:?}");
        };
        check(None, 0);
        check(Some(0), 3600);
        check(Some(600), 3000);
        check(Some(3600), 0);
        check(Some(99_999), 0);
    }
}
