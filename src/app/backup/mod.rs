//! `kumquat backup`: the cluster as one sealed file, and back.
//!
//! ```text
//! leader: snapshot of the store + keys ─ control socket ─▶ save: sealed, FILE.new, read back, FILE
//!                                      └ schedule ────────▶ the same into [backup] to
//! restore: FILE ─▶ <data-dir>/restore.new ─ whole ─▶ <data-dir>/restore ─▶ its places ─▶ `kumquat up`
//! ```
//! Whatever ends in the middle leaves no file and no board that looks whole and is not.

mod args;
mod content;
mod folder;
mod restore;
mod schedule;
mod withdraw;
mod write;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use model::limits::{BACKUP_ANSWER_SECONDS_MAX, BACKUP_PASSPHRASE_BYTES_MAX};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::cli::{Output, OutputArgs};
use super::client::Ending;
use super::dirs::Dirs;
use crate::io::backup::{Header, Secret, on_same_disk};
use crate::io::control::{Client, ClientError, PieceReader, bytes_body};
use crate::io::tls::Pki;
pub(super) use args::BackupCommand;
use args::{SaveArgs, VerifyArgs};
pub(super) use content::Source;
use folder::Series;
pub(super) use restore::finish;
pub(super) use schedule::{Plan, Schedule, Worry};
use write::{Task, Verified};

/// Where the control socket gives the plain content of a backup.
pub(super) const CONTENT: &str = "/v1/backup";
/// Where it gives the recovery key.
pub(super) const KEY: &str = "/v1/backup/key";
/// Passphrase or recovery key, for scripts.
const VARIABLE: &str = "KUMQUAT_BACKUP_KEY";

/// Runs the command.
pub(super) async fn run(dirs: &Dirs, command: &BackupCommand) -> Result<Ending> {
    let task = Task::new();
    let stop = task.stop();
    let running = async {
        match command {
            BackupCommand::Save(arguments) => save(dirs, arguments, task).await?,
            BackupCommand::Verify(arguments) => verify(dirs, arguments, task).await?,
            BackupCommand::Key => say!("{}", recovery_key(dirs).await?),
            BackupCommand::Restore(arguments) => {
                let (dirs, arguments) = (dirs.clone(), arguments.clone());
                let secret = secret(arguments.key_file.as_deref())?;
                tokio::task::spawn_blocking(move || restore::run(&dirs, &arguments, secret, &task))
                    .await??;
            }
        }
        Ok(Ending::Done)
    };
    tokio::pin!(running);
    // Cancel safety: what runs is asked to stop, and waited for, so that it can clean up.
    tokio::select! {
        // As long as it reads a passphrase from the terminal, the signal itself ends the process.
        biased;
        ended = &mut running => return ended,
        told = told() => told?,
    }
    stop.set();
    tokio::select! {
        ended = &mut running => ended,
        told = told() => {
            told?;
            eprintln!("kumquat: ended at once; what is not whole ends in .new, and the next save removes it");
            std::process::exit(i32::from(super::FAILED))
        }
    }
}

/// Waits until a person or a service manager wants an end.
async fn told() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    // Cancel safety: both lose nothing when dropped.
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

async fn save(dirs: &Dirs, arguments: &SaveArgs, task: Task) -> Result<()> {
    let secret = secret(arguments.key_file.as_deref())?;
    if let Some(secret) = &secret {
        secret.check()?;
    }
    let folder = match (&arguments.file, &arguments.to) {
        (Some(file), _) if file.is_dir() => {
            bail!("{} is a folder: say `--to {0}`, or name a file", file.display())
        }
        (Some(file), _) => parent(file),
        (None, Some(to)) => to.clone(),
        (None, None) => bail!("where to? `kumquat backup save FILE`, or `--to FOLDER`"),
    };
    if !folder.is_dir() {
        bail!("{} is no folder: make it, or plug in and mount the stick", folder.display());
    }
    if on_same_disk(&folder, &dirs.data).unwrap_or(false) {
        eprintln!(
            "warning: {} lies on the same file system as this board's data: a card that breaks takes \
             both; save to a USB stick, or copy the file to another machine",
            folder.display()
        );
    }
    let client = Client::new(&dirs.socket());
    let asking = client.send(Method::GET, CONTENT, bytes_body(Bytes::new()));
    let within = Duration::from_secs(BACKUP_ANSWER_SECONDS_MAX);
    let stop = task.stop();
    // Cancel safety: a board whose question was dropped drops the answer.
    let answer = tokio::select! {
        answer = tokio::time::timeout(within, asking) => answer,
        () = stop.asked() => bail!("stopped"),
    };
    let answer = answer.context("the board gives no snapshot: look at its log")??;
    let mut content = PieceReader::until(answer.into_body(), stop.asked());
    let given = secret.clone();
    let (file, keep, output) = (arguments.file.clone(), arguments.keep, arguments.output.output);
    let (path, saved) = tokio::task::spawn_blocking(move || {
        let head = content::read_head(&mut content).context("the board gives no backup")?;
        let series = Series::of(&head)?;
        if file.is_none() {
            series.sweep(&folder)?;
        }
        let path = file.unwrap_or_else(|| folder.join(series.name(&head)));
        let saved = write::write(&path, &head, &mut content, secret.as_ref(), &task)?;
        if let Some(keep) = keep {
            series.prune(&folder, &path, keep)?;
        }
        anyhow::Ok((path, saved))
    })
    .await??;
    tell_saved(&path, &saved, output);
    if output == Output::Text {
        say!("{}", opens_with(given.as_ref(), &Secret::of_cluster(&saved.head.authority_key.0)));
    }
    Ok(())
}

/// What a person has to keep for a file that was sealed with `given`.
fn opens_with(given: Option<&Secret>, own: &Secret) -> &'static str {
    match given {
        Some(Secret::Passphrase(_)) => {
            "it opens with your passphrase: keep that apart from the boards"
        }
        Some(given) if given != own => {
            "it opens with the recovery key that you gave, which is not this cluster's: keep it, no board of \
             this cluster can print it"
        }
        _ => {
            "it opens with the cluster's recovery key: `kumquat backup key` prints it; keep it apart from the \
             boards"
        }
    }
}

fn tell_saved(path: &Path, saved: &Verified, output: Output) {
    let megabytes = saved.file_bytes as f64 / 1e6;
    match output {
        Output::Json => say!("{}", described(path, saved)),
        Output::Text => say!(
            "saved {}: {} objects at version {}, {megabytes:.1} MB, read back and verified",
            path.display(),
            saved.facts.objects,
            saved.facts.version
        ),
    }
}

fn described(path: &Path, saved: &Verified) -> serde_json::Value {
    json!({
        "file": path.display().to_string(), "bytes": saved.file_bytes, "cluster": saved.head.cluster,
        "board": saved.head.board, "taken": saved.head.taken.to_string(), "epoch": saved.facts.epoch,
        "version": saved.facts.version.0, "objects": saved.facts.objects, "boards": saved.head.boards,
        "release": saved.head.release,
    })
}

async fn verify(dirs: &Dirs, arguments: &VerifyArgs, task: Task) -> Result<()> {
    let mut secret = secret(arguments.key_file.as_deref())?;
    if secret.is_none() {
        // A master knows the key of its own cluster.
        let known = recovery_key(dirs).await.ok();
        secret = known.map(|text| Secret::typed(&text)).transpose()?;
    }
    let file = arguments.file.clone();
    let verified = tokio::task::spawn_blocking(move || {
        write::verify_file(&file, |header| wanted(secret, header), &task)
    })
    .await??;
    let head = &verified.head;
    match arguments.output.output {
        Output::Json => say!("{}", described(&arguments.file, &verified)),
        Output::Text => say!(
            "{} is whole: cluster {}, taken {} by board {} (kumquat {}), epoch {}, version {}, {} objects, \
             boards {}",
            arguments.file.display(),
            head.cluster,
            head.taken,
            head.board,
            head.release,
            verified.facts.epoch,
            verified.facts.version,
            verified.facts.objects,
            head.boards.join(" ")
        ),
    }
    Ok(())
}

/// What the board says, or its disk when it does not run: a cluster without its majority, or a board that will
/// not start, is when somebody needs the key.
async fn recovery_key(dirs: &Dirs) -> Result<String> {
    let asked = Client::new(&dirs.socket()).get_json(KEY).await;
    if let Err(ClientError::NotRunning { .. }) = asked
        && let Some(key) = Pki::authority_key_at(&dirs.data)?
        && let Secret::Recovery(key) = Secret::of_cluster(&key)
    {
        return Ok(key.to_string());
    }
    Ok(asked?["key"].as_str().context("the board gives no key")?.to_owned())
}

/// What opens a backup, or a word on how to give it.
fn wanted(secret: Option<Secret>, header: &Header) -> std::io::Result<Secret> {
    secret.ok_or_else(|| {
        let (wanted, id) = (header.wanted(), header.key_id());
        let which = if header.is_recovery { format!(" {id}") } else { String::new() };
        std::io::Error::other(format!(
            "this backup opens with the {wanted}{which}: give it with --key-file FILE (`-` reads standard \
             input) or in {VARIABLE}"
        ))
    })
}

/// The passphrase or recovery key that was given, if one was.
fn secret(file: Option<&Path>) -> Result<Option<Secret>> {
    let text = match file {
        Some(path) if path == Path::new("-") => limited(std::io::stdin().lock(), "standard input")?,
        Some(path) => {
            let failed = || format!("cannot read {}", path.display());
            limited(std::fs::File::open(path).with_context(failed)?, &path.display().to_string())?
        }
        None => match std::env::var(VARIABLE) {
            Ok(text) => text,
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(error).context(VARIABLE),
        },
    };
    if text.trim().is_empty() {
        bail!("the passphrase is empty");
    }
    Ok(Some(Secret::typed(&text)?))
}

fn limited(from: impl Read, name: &str) -> Result<String> {
    let mut text = String::new();
    let read = from.take(BACKUP_PASSPHRASE_BYTES_MAX as u64 + 16).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {name}"))?;
    Ok(text)
}

/// The folder of a file.
fn parent(file: &Path) -> PathBuf {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use model::timestamp::Timestamp;

    use super::*;

    #[test]
    fn only_the_own_recovery_key_is_one_that_boards_print() {
        let (own, other) = (Secret::of_cluster(b"own"), Secret::of_cluster(b"another's"));
        let phrase = Secret::typed("correct horse battery").expect("a passphrase");
        let check = |given: Option<&Secret>, is_printed: bool| {
            let said = opens_with(given, &own);
            assert_eq!(said.contains("`kumquat backup key` prints it"), is_printed, "{said}");
        };
        check(None, true);
        check(Some(&own), true);
        check(Some(&other), false);
        check(Some(&phrase), false);
    }

    /// Answers one request with `said`, and then nothing more.
    fn frozen(socket: &Path, said: &'static [u8]) -> std::thread::JoinHandle<()> {
        let listener = std::os::unix::net::UnixListener::bind(socket).expect("bound");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut rest = vec![0; 4096];
            // An answer before the question is an error.
            let _some = stream.read(&mut rest).expect("read");
            stream.write_all(said).expect("answered");
            // Until the other side has gone.
            let _gone = stream.read_to_end(&mut rest);
        })
    }

    #[tokio::test]
    async fn a_save_from_a_frozen_board_can_be_stopped() {
        let data = std::env::temp_dir().join(format!("kumquat-frozen-{}", std::process::id()));
        let dirs = Dirs::new(&data, &data.join("run"));
        for said in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\nxx"] {
            std::fs::create_dir_all(&dirs.run).expect("made");
            let board = frozen(&dirs.socket(), said);
            let arguments = SaveArgs {
                file: Some(data.join("a.backup")),
                to: None,
                keep: None,
                key_file: None,
                output: OutputArgs { output: Output::Text },
            };
            let task = Task::new();
            let stop = task.stop();
            let saving = save(&dirs, &arguments, task);
            tokio::pin!(saving);
            let waited = tokio::time::timeout(Duration::from_millis(100), &mut saving).await;
            assert!(waited.is_err(), "nothing comes");
            stop.set();
            let within = Duration::from_secs(30);
            let stopped = tokio::time::timeout(within, saving).await.expect("it ends");
            let refusal = format!("{:#}", stopped.expect_err("no backup"));
            assert!(refusal.contains("stopped"), "{refusal}");
            let ended = tokio::task::spawn_blocking(move || board.join());
            let ended = tokio::time::timeout(within, ended).await.expect("it lets the board go");
            ended.expect("ran").expect("ended");
            std::fs::remove_dir_all(&data).expect("removed");
        }
    }

    #[tokio::test]
    async fn a_master_that_does_not_run_prints_its_key() {
        let data = std::env::temp_dir().join(format!("kumquat-key-{}", std::process::id()));
        std::fs::create_dir_all(&data).expect("made");
        let dirs = Dirs::new(&data, &data.join("run"));
        let refusal = recovery_key(&dirs).await.expect_err("this is no master");
        assert!(refusal.to_string().contains("kumquat up"), "{refusal}");
        let pki = Pki::open(&data, Timestamp::from_seconds(1_795_305_600)).expect("founded");
        let printed = recovery_key(&dirs).await.expect("from its disk");
        assert_eq!(Secret::typed(&printed), Ok(Secret::of_cluster(&pki.authority_key())));
        std::fs::remove_dir_all(data).expect("removed");
    }
}
