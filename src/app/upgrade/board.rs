//! A board's part: it says what it runs, fetches a binary, checks it, and asks to go on as it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use logic::upgrade::is_too_old;
use model::limits::{BLOB_IDLE_SECONDS_MAX, UPGRADE_FILE_BYTES_MAX, UPGRADE_READY_SECONDS_MAX};
use model::upgrade::{BoardBuildV1, LineV1, OutcomeV1, TryV1, UpgradeRequestV1};
use tokio::sync::{Mutex, OnceCell, mpsc, watch};
use tokio::time::timeout;

use crate::app::version;
use crate::io::exchange::{self, Held, Plan, Staging, State};
use crate::io::image::{Chunks, Digest, Source};
use crate::io::link::StreamAnswer;
use crate::master::tunnel::BINARY_NAME;
use crate::node::Upgrades;

/// How long the leader may take to hear that the exchange begins.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// Answers the leader about this board's binary; clones are the same.
#[derive(Clone, Debug)]
pub(in crate::app) struct Upgrader(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    data: PathBuf,
    /// The binary of this board, also while another one is on trial.
    exe: PathBuf,
    source: Arc<dyn Source>,
    on_trial: watch::Receiver<bool>,
    /// SHA-256 of what runs, in hex.
    own: OnceCell<String>,
    plans: mpsc::Sender<Plan>,
    /// Held by the exchange under way.
    one: Mutex<()>,
}

impl Upgrader {
    /// For the board with this data-dir and binary; gives the plans that it makes, too.
    pub(in crate::app) fn new(
        data: &Path,
        exe: &Path,
        source: Arc<dyn Source>,
        on_trial: watch::Receiver<bool>,
    ) -> (Self, mpsc::Receiver<Plan>) {
        let (plans, planned) = mpsc::channel(1);
        let (data, exe) = (data.to_owned(), exe.to_owned());
        let (own, one) = (OnceCell::new(), Mutex::new(()));
        (Self(Arc::new(Shared { data, exe, source, on_trial, own, plans, one })), planned)
    }

    async fn serve(self, request: UpgradeRequestV1, answer: StreamAnswer) {
        let done = match request {
            UpgradeRequestV1::State => self.state(&answer).await,
            UpgradeRequestV1::Try(wanted) => self.attempt(wanted, &answer).await,
        };
        if let Err(text) = done {
            // An error means that nobody reads the answer any more.
            let _gone = answer.send(Err(text)).await;
        }
    }

    async fn state(&self, answer: &StreamAnswer) -> Result<(), String> {
        let own = self.0.own.get_or_try_init(|| async {
            let digest = blocking(|| exchange::digest_of(Path::new("/proc/self/exe"))).await?;
            Ok::<_, String>(Digest::from_bytes(digest).hex())
        });
        let last = exchange::last(&self.0.data).filter(|record| record.state != State::Trial);
        let build = BoardBuildV1 {
            version: version::TEXT.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            sha256: own.await?.clone(),
            on_trial: *self.0.on_trial.borrow(),
            last: last.map(|record| OutcomeV1 {
                attempt: record.attempt,
                sha256: record.sha256,
                kept: record.state == State::Kept,
                why: record.why.unwrap_or_default(),
                millis: record.millis,
            }),
        };
        let text = serde_json::to_vec(&build).map_err(|error| error.to_string())?;
        // An error means that nobody reads the answer any more.
        let _gone = answer.send(Ok(Bytes::from(text))).await;
        Ok(())
    }

    async fn attempt(&self, wanted: TryV1, answer: &StreamAnswer) -> Result<(), String> {
        let Ok(_one) = self.0.one.try_lock() else {
            return Err("an exchange is under way on this board".to_owned());
        };
        if *self.0.on_trial.borrow() {
            return Err("another binary is on trial on this board".to_owned());
        }
        if wanted.bytes > UPGRADE_FILE_BYTES_MAX {
            return Err(format!("a binary of {} bytes is too large", wanted.bytes));
        }
        let staged = exchange::staged_beside(&self.0.exe);
        say(answer, format!("fetches {:.1} MB", wanted.bytes as f64 / 1e6)).await;
        let digest = Digest::from_bytes(wanted.sha256);
        let blob = self.0.source.blob(BINARY_NAME, digest, 0).await;
        let chunks = blob.map_err(|error| error.to_string())?;
        let fetched = fetch(chunks, staged.clone(), &wanted).await;
        let held = fetched.map_err(|error| format!("{}: {error}", staged.display()))?;
        let path = staged.clone();
        let said = tokio::task::spawn_blocking(move || exchange::says_version(&path)).await;
        let said = said.map_err(|error| error.to_string()).and_then(|said| said);
        let said = said.and_then(|new| match is_too_old(version::TEXT, &new) {
            None => Ok(new),
            Some(why) => Err(why),
        });
        let version = match said {
            Ok(version) => version,
            Err(why) => {
                let _gone = std::fs::remove_file(&staged);
                return Err(why);
            }
        };
        say(answer, format!("goes on as version {version} (it ran {})", version::TEXT)).await;
        let plan = Plan {
            attempt: wanted.attempt,
            sha256: wanted.sha256,
            staged,
            exe: self.0.exe.clone(),
            ready_seconds: wanted.ready_seconds.clamp(1, UPGRADE_READY_SECONDS_MAX),
            held,
        };
        line(answer, &LineV1::Done { run: 1, left_out: 0 }).await;
        // The leader hangs up once it has read that; a connection that ends before would hide it.
        let _heard = timeout(HEARD_WITHIN, answer.closed()).await;
        // An error means that this process ends anyway.
        let _ends = self.0.plans.send(plan).await;
        Ok(())
    }
}

impl Upgrades for Upgrader {
    fn answer(&self, request: UpgradeRequestV1, answer: StreamAnswer) {
        tokio::spawn(self.clone().serve(request, answer));
    }
}

async fn say(answer: &StreamAnswer, text: String) {
    tracing::info!(text, "upgrade of this board");
    line(answer, &LineV1::Say(text)).await;
}

async fn line(answer: &StreamAnswer, line: &LineV1) {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    // An error means that nobody reads the answer any more.
    let _gone = answer.send(Ok(Bytes::from(text))).await;
}

async fn fetch(mut chunks: Chunks, path: PathBuf, wanted: &TryV1) -> Result<Held, String> {
    let (bytes, sha256) = (wanted.bytes, wanted.sha256);
    let mut staging = blocking(move || Staging::begin(&path, bytes)).await?;
    let idle = Duration::from_secs(BLOB_IDLE_SECONDS_MAX);
    while let Some(chunk) =
        timeout(idle, chunks.recv()).await.map_err(|_| "the leader sends no more".to_owned())?
    {
        let chunk = chunk?;
        staging = blocking(move || staging.write(&chunk).map(|()| staging)).await?;
    }
    blocking(move || staging.finish(&sha256)).await
}

/// Runs what waits for the disk; errors as text.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}
