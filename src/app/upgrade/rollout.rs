//! The leader's part: one board after the other, until all run their file or one goes back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use logic::upgrade::{Board, Proof, Standing, Verdict, in_the_way, judge, order, proof};
use model::limits::{TUNNEL_CHUNKS_MAX, UPGRADE_LINES_MAX, VOTER_LAG_ENTRIES_MAX};
use model::upgrade::{BoardBuildV1, LineV1, TryV1, UpgradeAskV1, UpgradeFileV1, UpgradeRequestV1};
use model::wire::StreamRequestV1;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::board::blocking;
use crate::app::status::ClusterStatus;
use crate::io::image::Digest;
use crate::io::store::Mandate;
use crate::master::tunnel::{Images, Streams};

/// How long a board may take to say what it runs: it reads the whole file for that, once.
const STATE_WITHIN: Duration = Duration::from_secs(15);
/// Longest answer about that.
const STATE_BYTES_MAX: usize = 64 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How long a board may be away before it counts as not connected.
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// How long voters may take to be sound again before the next one is restarted.
const SOUND_WITHIN: Duration = Duration::from_secs(60);
/// How long a board may take to go back.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// What the leader drives it with.
pub(in crate::app) struct RolloutOptions {
    /// Knows the boards.
    pub(in crate::app) status: Arc<ClusterStatus>,
    /// Asks them.
    pub(in crate::app) streams: Streams,
    /// Gives them the file.
    pub(in crate::app) images: Images,
    /// Where files lie.
    pub(in crate::app) folder: PathBuf,
    /// As long as it leads.
    pub(in crate::app) mandate: Mandate,
}

/// Drives upgrades; clones share it.
#[derive(Clone)]
pub(in crate::app) struct Rollout(Arc<Shared>);

struct Shared {
    options: RolloutOptions,
    /// Held by the one that runs.
    one: Mutex<()>,
}

/// Where progress goes; a reader that is slow or gone holds nothing up.
#[derive(Clone)]
struct Lines(mpsc::Sender<LineV1>);

impl Lines {
    fn say(&self, text: String) {
        tracing::info!(text, "upgrade");
        self.tell(LineV1::Say(text));
    }

    fn tell(&self, line: LineV1) {
        // Nobody reads any more: whoever asks again hears how it went.
        let _gone = self.0.try_send(line);
    }
}

impl Rollout {
    /// Nothing runs yet.
    pub(in crate::app) fn new(options: RolloutOptions) -> Self {
        Self(Arc::new(Shared { options, one: Mutex::new(()) }))
    }

    /// Runs on, whoever listens, until it is through or this board leads no more.
    pub(super) fn start(&self, ask: UpgradeAskV1) -> mpsc::Receiver<LineV1> {
        let (sender, lines) = mpsc::channel(UPGRADE_LINES_MAX);
        let (rollout, lines_of) = (self.clone(), Lines(sender));
        let mandate = self.0.options.mandate.clone();
        tokio::spawn(async move {
            // Cancel safety: the next leader asks the boards how far it is.
            let last = tokio::select! {
                last = rollout.pass(&ask, &lines_of) => last,
                () = mandate.over() => return,
            };
            lines_of.tell(last);
        });
        lines
    }

    /// Where the file with this SHA-256 lies, or shall.
    pub(super) fn file(&self, sha256: &str) -> PathBuf {
        self.0.options.folder.join(sha256)
    }

    /// The folder of the files.
    pub(super) fn folder(&self) -> &Path {
        &self.0.options.folder
    }

    /// Whether a board holds the log at this moment, with this key.
    pub(super) fn is_member(&self, board: &str, key: &[u8; 32]) -> bool {
        let health = self.0.options.status.members.health();
        health.is_some_and(|health| {
            health.members.of_board(board).is_some_and(|member| member.key == *key)
        })
    }

    async fn pass(&self, ask: &UpgradeAskV1, lines: &Lines) -> LineV1 {
        let one = self.0.one.try_lock();
        let _one = match one {
            Ok(one) => one,
            Err(_) => {
                lines.say("an upgrade runs already: waits for its end".to_owned());
                self.0.one.lock().await
            }
        };
        let kept: Vec<String> = ask.files.iter().map(|file| file.sha256.clone()).collect();
        let folder = self.0.options.folder.clone();
        // What cannot be removed is only in the way of the disk's space.
        let _left = blocking(move || tidy(&folder, &kept)).await;
        let last = self.boards_one_by_one(ask, lines).await.unwrap_or_else(LineV1::Failed);
        if !matches!(last, LineV1::Need(_)) {
            let folder = self.0.options.folder.clone();
            // As above.
            let _left = blocking(move || tidy(&folder, &[])).await;
        }
        last
    }

    async fn boards_one_by_one(&self, ask: &UpgradeAskV1, lines: &Lines) -> Result<LineV1, String> {
        let (mut run, mut left_out) = (0, 0);
        for board in self.boards()? {
            let build = match self.build_of(&board.name, CONNECTED_WITHIN).await {
                Ok(build) => build,
                Err(why) => {
                    left_out += 1;
                    lines.say(format!("{}: left out: {why}", board.name));
                    continue;
                }
            };
            match judge(&build, ask) {
                Verdict::Runs => {
                    lines.say(format!("{}: runs it already", board.name));
                    run += 1;
                }
                Verdict::LeaveOut(why) => {
                    lines.say(format!("{}: left out: {why}", board.name));
                    left_out += 1;
                }
                Verdict::WentBack(last) => {
                    return Err(went_back(&board.name, last.millis, &last.why));
                }
                Verdict::OnTrial(_) if ask.dry_run => {
                    lines.say(format!("{}: tries it at this moment", board.name));
                    run += 1;
                }
                Verdict::OnTrial(file) => {
                    // Another run of the command may have begun it.
                    self.prove(&board.name, file, None, ask.ready_seconds, lines).await?;
                    run += 1;
                }
                Verdict::Try(_) if ask.dry_run => {
                    let version = &build.version;
                    lines.say(format!("{}: would be exchanged (runs {version})", board.name));
                    run += 1;
                }
                Verdict::Try(file) if !self.file(&file.sha256).is_file() => {
                    return Ok(LineV1::Need(file.sha256.clone()));
                }
                Verdict::Try(file) => {
                    self.exchange(&board, file, ask, lines).await?;
                    run += 1;
                }
            }
        }
        Ok(LineV1::Done { run, left_out })
    }

    /// The boards of the cluster, in order.
    fn boards(&self) -> Result<Vec<Board>, String> {
        let status = self.0.options.status.value()?;
        let boards = status["boards"].as_array().into_iter().flatten();
        let mut boards: Vec<Board> = boards
            .map(|board| Board {
                name: board["name"].as_str().unwrap_or_default().to_owned(),
                standing: match board["standing"].as_str() {
                    Some("leader") => Standing::Leader,
                    Some("voter") => Standing::Voter,
                    Some("learner") => Standing::Learner,
                    _ => Standing::Worker,
                },
                sound: board["ready"] == true
                    && board["lag"].as_u64().unwrap_or(0) <= VOTER_LAG_ENTRIES_MAX,
            })
            .collect();
        order(&mut boards);
        Ok(boards)
    }

    async fn exchange(
        &self,
        board: &Board,
        file: &UpgradeFileV1,
        ask: &UpgradeAskV1,
        lines: &Lines,
    ) -> Result<(), String> {
        self.wait_for_voters(board, lines).await?;
        let name = &board.name;
        let digest = Digest::from_hex(&file.sha256).ok_or("that is no SHA-256")?;
        self.0.options.images.lend(digest, self.file(&file.sha256));
        let wanted = TryV1 {
            attempt: ask.attempt.clone(),
            sha256: digest.bytes(),
            bytes: file.bytes,
            ready_seconds: ask.ready_seconds,
        };
        if board.standing == Standing::Leader {
            lines.say(format!("{name}: leads: hands the lead over first, if another board votes"));
        }
        let mut answer = self.ask(name, UpgradeRequestV1::Try(wanted))?;
        let mut rest = Vec::new();
        let mut goes = false;
        while let Some(chunk) = answer.recv().await {
            match chunk {
                Ok(chunk) => rest.extend_from_slice(&chunk),
                Err(_) if goes => break,
                Err(why) => return Err(format!("{name} does not take the binary: {why}")),
            }
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(LineV1::Say(text)) => lines.say(format!("{name}: {text}")),
                    Ok(LineV1::Done { .. }) => goes = true,
                    _ => {}
                }
            }
            if goes {
                break;
            }
            if rest.len() > STATE_BYTES_MAX {
                return Err(format!("{name} answers with something else"));
            }
        }
        if !goes {
            return Err(format!("{name} was lost before it had the binary: run the command again"));
        }
        self.prove(name, file, Some(&ask.attempt), ask.ready_seconds, lines).await
    }

    /// Waits until a board has kept the file, or has gone back, in this attempt or in whichever.
    async fn prove(
        &self,
        name: &str,
        file: &UpgradeFileV1,
        attempt: Option<&str>,
        ready_seconds: u32,
        lines: &Lines,
    ) -> Result<(), String> {
        let began = Instant::now();
        let within = Duration::from_secs(ready_seconds.into()) + BACK_WITHIN;
        while began.elapsed() < within {
            tokio::time::sleep(LOOK_EVERY).await;
            let Ok(build) = self.build_of(name, Duration::ZERO).await else { continue };
            match proof(&build, file, attempt) {
                Proof::Open => {}
                Proof::Kept(millis) => {
                    let after = millis.map(|millis| millis as f64 / 1e3);
                    let after = after.map_or(String::new(), |it| format!(" after {it:.1} s"));
                    lines.say(format!("{name}: is ready with it{after}"));
                    return Ok(());
                }
                Proof::WentBack(last) => return Err(went_back(name, last.millis, &last.why)),
            }
        }
        Err(format!(
            "{name} was not heard of within {} s: look at it, then run the command again",
            within.as_secs()
        ))
    }

    /// The next one is restarted only when those that are left can decide.
    async fn wait_for_voters(&self, next: &Board, lines: &Lines) -> Result<(), String> {
        let began = Instant::now();
        let mut said = false;
        loop {
            let boards = self.boards()?;
            let missing = in_the_way(&boards, next);
            if missing.is_empty() {
                return Ok(());
            }
            let missing = missing.join(", ");
            if began.elapsed() > SOUND_WITHIN {
                return Err(format!(
                    "{} votes, and is not restarted while {missing} cannot: bring them back first",
                    next.name
                ));
            }
            if !std::mem::replace(&mut said, true) {
                lines.say(format!("{}: waits for {missing}", next.name));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What a board runs. One that is not connected may come back within a while.
    async fn build_of(&self, name: &str, patience: Duration) -> Result<BoardBuildV1, String> {
        let began = Instant::now();
        // Restarted voters may leave the leader without a majority for a moment: that is no board's fault.
        while !(self.0.options.mandate.may_act() && self.0.options.streams.reaches(name)) {
            if began.elapsed() >= patience {
                return Err("it is not connected: run the command again when it is".to_owned());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let mut answer = self.ask(name, UpgradeRequestV1::State)?;
        let reading = async {
            let mut text = Vec::new();
            while let Some(chunk) = answer.recv().await {
                text.extend_from_slice(&chunk?);
                if text.len() > STATE_BYTES_MAX {
                    return Err("its answer is too long".to_owned());
                }
            }
            serde_json::from_slice(&text).map_err(|error| error.to_string())
        };
        let read = timeout(STATE_WITHIN, reading).await;
        read.map_err(|_| "it does not say what it runs".to_owned())?.map_err(|why| {
            format!(
                "it does not say what it runs ({why}); versions before 0.3 are exchanged by hand"
            )
        })
    }

    fn ask(
        &self,
        name: &str,
        request: UpgradeRequestV1,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, String> {
        let (answer, chunks) = mpsc::channel(TUNNEL_CHUNKS_MAX);
        self.0.options.streams.ask(name, &StreamRequestV1::Upgrade(request), answer)?;
        Ok(chunks)
    }
}

/// Removes files of earlier upgrades.
fn tidy(folder: &Path, kept: &[String]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !kept.iter().any(|name| entry.file_name().to_str() == Some(name)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn went_back(name: &str, millis: u64, why: &str) -> String {
    let after = match millis {
        0 => String::new(),
        millis => format!(" after {:.1} s", millis as f64 / 1e3),
    };
    format!(
        "{name} went back to the binary that it had{after}: {why}. No further board is exchanged; its \
         log says more"
    )
}
