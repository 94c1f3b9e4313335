//! Backups by themselves: `[backup] every, to, keep`, while this board leads.
//!
//! What was saved last is read from the folder, so that a run that was missed, by whoever led then, is made
//! up at once, and nothing is kept about it anywhere else. Idle it wakes once an hour, for clocks that jump.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use model::limits::BACKUP_LOOK_SECONDS_MAX;
use model::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::content::Source;
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
    /// Whether the folder may lie on the board's own disk.
    pub(in crate::app) same_disk: bool,
}

/// Why there is no newer backup, as far as there is a reason; clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::app) struct Worry(Arc<Mutex<Option<String>>>);

impl Worry {
    /// What `kumquat status` says of it, about the board that leads.
    pub(in crate::app) fn warning(&self, board: &str) -> Option<Value> {
        let reason = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(json!({ "board": board, "reason": reason, "remedy": REMEDY }))
    }

    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

/// What helps most of the time.
const REMEDY: &str =
    "plug in and mount the stick, or look at the folder; it is tried again by itself";

/// Saves as planned, while this board leads.
pub(in crate::app) struct Schedule {
    plan: Plan,
    source: Source,
    /// Of this board.
    data: PathBuf,
    worry: Worry,
    /// After the next failure.
    pause: Duration,
    /// When the newest backup that was seen was taken.
    last: Option<Timestamp>,
}

impl Schedule {
    /// Of a board with this data-dir; what is in the way is told to `worry`.
    pub(in crate::app) fn new(plan: Plan, source: Source, data: PathBuf, worry: Worry) -> Self {
        Self { plan, source, data, worry, pause: RETRY.0, last: None }
    }

    /// Runs until `stop`.
    pub(in crate::app) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            let wait = self.turn(&stop).await;
            // Cancel safety: both only wait.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // An error means that nobody can ask any more.
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Saves if it is time; how long to wait then, never nothing.
    async fn turn(&mut self, stop: &watch::Receiver<bool>) -> Duration {
        match self.due().await {
            Ok(wait) if wait.is_zero() => {}
            Ok(wait) => {
                self.worry.set(None);
                return wait.min(Duration::from_secs(BACKUP_LOOK_SECONDS_MAX));
            }
            Err(error) => return self.failed(&error),
        }
        match self.save(stop).await {
            Ok(saved) => {
                let (objects, version) = (saved.facts.objects, saved.facts.version.0);
                tracing::info!(objects, version, bytes = saved.file_bytes, "backup saved");
                (self.pause, self.last) = (RETRY.0, Some(saved.head.taken));
                self.worry.set(None);
                // A folder that does not list what was just written must not be filled without end.
                self.plan.every.min(RETRY.0)
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &anyhow::Error) -> Duration {
        let wait = self.pause;
        self.pause = (2 * wait).min(RETRY.1);
        let error = format!("{error:#}");
        let since = self.last.map(|last| format!(" since {last}")).unwrap_or_default();
        self.worry.set(Some(format!("no backup{since}: {error}")));
        tracing::error!(error, again_in = ?wait, "no backup: {REMEDY}");
        wait
    }

    /// How long until the next one.
    async fn due(&mut self) -> Result<Duration> {
        let (plan, data, series) = (self.plan.clone(), self.data.clone(), self.source.series());
        let listing = move || {
            refuse_own_disk(&plan, &data)?;
            series.list(&plan.to).with_context(|| format!("cannot list {}", plan.to.display()))
        };
        let found = tokio::task::spawn_blocking(listing).await??;
        // What was dated by a clock that was wrong says nothing.
        let now = self.source.clock.now();
        self.last = found.iter().map(|kept| kept.taken).filter(|taken| *taken <= now).max();
        Ok(until(self.last, now, self.plan.every))
    }

    async fn save(&self, stop: &watch::Receiver<bool>) -> Result<Verified> {
        let content = self.source.take().await?;
        let (plan, series, task) = (self.plan.clone(), self.source.series(), Task::unseen());
        let (stopping, mut stop) = (task.stop(), stop.clone());
        let saving = tokio::task::spawn_blocking(move || {
            let (head, mut snapshot) = content.into_snapshot()?;
            series.sweep(&plan.to)?;
            let path = plan.to.join(series.name(&head));
            let saved = write::write(&path, &head, &mut snapshot, None, &task)?;
            series.prune(&plan.to, &path, plan.keep)?;
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
                stopping.set();
                let _cleaned_up = saving.await?;
                bail!("the board stops")
            }
        }
    }
}

/// Without its stick a mount point is a folder of the very card whose loss the backup is for.
fn refuse_own_disk(plan: &Plan, data: &Path) -> Result<()> {
    let to = &plan.to;
    for own in [data, Path::new("/")] {
        let looked = on_same_disk(to, own);
        if looked.with_context(|| format!("cannot look at {}", to.display()))? && !plan.same_disk {
            bail!(
                "{} lies on this board's own disk: the stick is not mounted; if that is the folder you mean, \
                 write `same-disk = true` into [backup]",
                to.display()
            );
        }
    }
    Ok(())
}

fn until(last: Option<Timestamp>, now: Timestamp, every: Duration) -> Duration {
    let ago = last.and_then(|last| u64::try_from(now.millis() - last.millis()).ok());
    ago.map_or(Duration::ZERO, |ago| every.saturating_sub(Duration::from_millis(ago)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::app::identity::{Identity, Role};
    use crate::io::clock::Clock;
    use crate::io::store::{Options, SecretsKeys, Store};
    use crate::io::tls::{Pki, TokenKeys};

    /// A cluster of one board in a folder.
    async fn source(data: &Path) -> Source {
        let clock = Clock::starting_at(Timestamp::from_seconds(1_800_000_000));
        let mut options = Options::new(data.join("store"));
        options.clock = clock.clone();
        let opening = move || Store::open_alone(options, Box::new(()));
        let opened = tokio::task::spawn_blocking(opening).await.expect("ends");
        let pki = Pki::open(data, clock.now()).expect("an authority");
        Source {
            store: opened.expect("opens"),
            pki: Arc::new(pki),
            token_keys: TokenKeys::open(data).expect("keys"),
            secrets_keys: SecretsKeys::open(data).expect("keys"),
            identity: Identity {
                name: "pi-1".into(),
                cluster: "kumquat".into(),
                id: "1".into(),
                pod_range: "10.42.0.0/16".parse().expect("a range"),
                service_range: "10.43.0.0/16".parse().expect("a range"),
                role: Role::Founder,
            },
            clock,
        }
    }

    #[tokio::test]
    async fn one_save_is_one_save_also_beside_files_of_higher_versions() {
        let name = format!("kumquat-schedule-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let (data, to) = (root.join("data"), root.join("usb"));
        for folder in [&data, &to] {
            std::fs::create_dir_all(folder).expect("made");
        }
        let source = source(&data).await;
        let names = || -> BTreeSet<_> {
            let listed = std::fs::read_dir(&to).expect("listed").flatten();
            listed.map(|entry| entry.file_name()).collect()
        };
        let mut head = source.take().await.expect("taken").head;
        head.taken = Timestamp::from_seconds(1_700_000_000);
        for version in [1_000_000, 2_000_000] {
            head.version = version;
            std::fs::write(to.join(source.series().name(&head)), "").expect("written");
        }
        let before = names();
        let plan =
            Plan { every: Duration::from_secs(3600), to: to.clone(), keep: 2, same_disk: false };
        let ((_running, stop), worry) = (watch::channel(false), Worry::default());
        let mut schedule = Schedule::new(plan, source.clone(), data, worry.clone());
        for wait in [RETRY.0, 2 * RETRY.0] {
            assert_eq!(schedule.turn(&stop).await, wait, "this is no stick");
            let warning = worry.warning("pi-1").expect("told").to_string();
            assert!(warning.contains("no backup") && warning.contains("same-disk"), "{warning}");
        }
        assert_eq!(names(), before, "nothing goes to the board's own disk by mistake");
        schedule.plan.same_disk = true;
        let wait = schedule.turn(&stop).await;
        assert_eq!((wait, worry.warning("pi-1")), (RETRY.0, None), "it does not spin");
        let after = names();
        let written: Vec<_> = after.difference(&before).collect();
        assert_eq!((after.len(), written.len()), (2, 1), "{after:?}");
        let wait = schedule.turn(&stop).await;
        assert!(wait > Duration::from_secs(3500), "{wait:?}");
        assert_eq!(names(), after);
        std::fs::rename(&to, root.join("pulled")).expect("away");
        schedule.turn(&stop).await;
        let warning = worry.warning("pi-1").expect("told").to_string();
        assert!(warning.contains("no backup since 2027-01-15T08:"), "{warning}");
        source.store.close().await;
        std::fs::remove_dir_all(root).expect("removed");
    }

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
