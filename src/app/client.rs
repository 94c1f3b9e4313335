//! The client commands: `status`, `wait`, `kubeconfig`, `image`.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::cli::{ImageCommand, KubeconfigArgs, Output, PromoteArgs, StatusArgs, WaitArgs};
use super::dirs::Dirs;
use crate::io::control::{Client, bytes_body, stream_body};

/// How long a board may take to lead by a person's word.
const PROMOTED_WITHIN: Duration = Duration::from_secs(60);
const POLL_EVERY: Duration = Duration::from_millis(50);
/// A board gets at least this long for an answer, however short the user's patience.
const ANSWER_MIN: Duration = Duration::from_millis(200);
const WATCH_EVERY: Duration = Duration::from_secs(1);
const PIECE_BYTES: usize = 64 * 1024;
const PIECES_MAX: usize = 4;
/// How long a reader may take to say that it has failed.
const READ_ERROR_WITHIN: Duration = Duration::from_millis(100);

/// What a command ended with; see the exit codes in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Exit code 0.
    Done,
    /// Exit code 1, and all that is to be said of it has been said.
    Failed,
    /// Exit code 3: the time that the user gave has passed.
    TimedOut,
}

/// `kumquat status`.
pub(super) async fn status(dirs: &Dirs, arguments: &StatusArgs) -> Result<Ending> {
    let client = Client::new(&dirs.socket());
    let mut last = Value::Null;
    loop {
        let now = client.get_json("/v1/status").await?;
        let lasting = lasting(now.clone());
        if lasting != last {
            match arguments.output.output {
                Output::Json => say!("{now}"),
                Output::Text => super::say::raw(&status_text(&now)),
            }
            last = lasting;
        }
        if !arguments.watch {
            return Ok(Ending::Done);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// The status without what changes from second to second.
fn lasting(mut status: Value) -> Value {
    for board in status["boards"].as_array_mut().into_iter().flatten() {
        if let Some(fields) = board.as_object_mut() {
            fields.remove("lastHeardSeconds");
        }
    }
    status
}

fn status_text(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let durability = if status["durability"] == "both" { "   durability both" } else { "" };
    let mut out = format!(
        "cluster {}   leader {}   epoch {}   term {}{durability}\n\n{:<24} {:<16} {:<8} {:<6} {}\n",
        text(&status["cluster"]),
        text(&status["leader"]),
        status["epoch"],
        status["term"],
        "BOARD",
        "ADDRESS",
        "ROLE",
        "READY",
        "VERSION",
    );
    for board in status["boards"].as_array().into_iter().flatten() {
        let ready = if board["ready"] == true { "yes" } else { "no" };
        out += &format!(
            "{:<24} {:<16} {:<8} {:<6} {}\n",
            text(&board["name"]),
            text(&board["address"]),
            text(if board["standing"].is_string() { &board["standing"] } else { &board["role"] }),
            ready,
            text(&board["version"]),
        );
    }
    out + &warnings_text(status)
}

/// The warnings of a status, each with its remedy.
pub(super) fn warnings_text(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let warnings = status["warnings"].as_array().into_iter().flatten();
    warnings
        .map(|warning| {
            let (board, reason) = (text(&warning["board"]), text(&warning["reason"]));
            format!("\nwarning: {board}: {reason}\n  remedy: {}\n", text(&warning["remedy"]))
        })
        .collect()
}

/// `kumquat wait`: the board may still be starting, so a missing socket is waited for too.
pub(super) async fn wait(dirs: &Dirs, arguments: &WaitArgs) -> Result<Ending> {
    let client = Client::new(&dirs.socket());
    let deadline = Instant::now() + arguments.timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let seen = match client.within(left.max(ANSWER_MIN)).get_json("/v1/status").await {
            Ok(status) => {
                let boards = status["boards"].as_array().into_iter().flatten();
                let ready = boards.filter(|board| board["ready"] == true).count();
                let voters = status["voters"].as_array().map_or(0, Vec::len);
                if ready >= arguments.boards && voters >= arguments.voters {
                    return Ok(Ending::Done);
                }
                format!("{ready} boards ready, {voters} voters")
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            eprintln!(
                "kumquat: waited {:?} for {} boards and {} voters: {seen}",
                arguments.timeout, arguments.boards, arguments.voters
            );
            return Ok(Ending::TimedOut);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// `kumquat promote`.
pub(super) async fn promote(dirs: &Dirs, arguments: &PromoteArgs) -> Result<Ending> {
    let uri = if arguments.force { "/v1/promote?force=1" } else { "/v1/promote" };
    Client::new(&dirs.socket()).within(PROMOTED_WITHIN).ask(Method::POST, uri).await?;
    say!("this board leads");
    Ok(Ending::Done)
}

/// `kumquat kubeconfig`.
pub(super) async fn kubeconfig(dirs: &Dirs, arguments: &KubeconfigArgs) -> Result<Ending> {
    let uri = match &arguments.server {
        Some(server) if server.starts_with("https://") => {
            format!("/v1/kubeconfig?server={}", query_escape(server))
        }
        Some(server) => bail!("--server {server} is not a URL: write https://ADDRESS:6443"),
        None => "/v1/kubeconfig".into(),
    };
    let text = Client::new(&dirs.socket()).get(&uri).await?;
    super::say::raw(&String::from_utf8_lossy(&text));
    Ok(Ending::Done)
}

/// `kumquat image`.
pub(super) async fn image(dirs: &Dirs, command: &ImageCommand) -> Result<Ending> {
    let client = Client::new(&dirs.socket());
    match command {
        ImageCommand::Import { file } => import(&client, file).await?,
        ImageCommand::List(output) => {
            let images = client.get_json("/v1/images").await?;
            match output.output {
                Output::Json => say!("{images}"),
                Output::Text => super::say::raw(&image_table(&images)),
            }
        }
        ImageCommand::Export { image, file } => export(&client, image, file).await?,
        ImageCommand::Rm { image } => {
            let uri = format!("/v1/images?name={}", query_escape(image));
            client.send(Method::DELETE, &uri, bytes_body(Bytes::new())).await?;
        }
    }
    Ok(Ending::Done)
}

async fn import(client: &Client, file: &Path) -> Result<()> {
    let mut source: Box<dyn tokio::io::AsyncRead + Send + Unpin> = if file == Path::new("-") {
        Box::new(tokio::io::stdin())
    } else {
        let opened = tokio::fs::File::open(file).await;
        Box::new(opened.with_context(|| format!("cannot read {}", file.display()))?)
    };
    let size = tokio::fs::metadata(file).await.map_or(0, |facts| facts.len());
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let reading = tokio::spawn(async move {
        let mut progress = Progress::new(size);
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let read = source.read(&mut piece).await.map(|count| {
                piece.truncate(count);
                Bytes::from(piece)
            });
            let piece = match read {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => piece,
                Err(error) => {
                    // The board must not take what came so far for the whole archive.
                    let _gone = sender.send(Err(error.kind().into())).await;
                    return Err(error);
                }
            };
            progress.add(piece.len());
            if sender.send(Ok(piece)).await.is_err() {
                break;
            }
        }
        progress.end();
        Ok(())
    });
    let answer = client.send(Method::POST, "/v1/images", stream_body(pieces)).await;
    let read = match &answer {
        Ok(_) => reading.await?,
        // A refusal comes at once, however much of the file is left; a file that cannot be read is
        // the cause of a broken conversation.
        Err(_) => match tokio::time::timeout(READ_ERROR_WITHIN, reading).await {
            Ok(read) => read?,
            Err(_) => Ok(()),
        },
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    let answer = answer?;
    let names: Vec<String> =
        serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
    for name in names {
        say!("{name}");
    }
    Ok(())
}

async fn export(client: &Client, image: &str, file: &Path) -> Result<()> {
    let uri = format!("/v1/images/export?name={}", query_escape(image));
    let answer = client.send(Method::GET, &uri, bytes_body(Bytes::new())).await?;
    let mut body = answer.into_body();
    let mut target: Box<dyn tokio::io::AsyncWrite + Unpin> = if file == Path::new("-") {
        Box::new(tokio::io::stdout())
    } else {
        let made = tokio::fs::File::create(file).await;
        Box::new(made.with_context(|| format!("cannot write {}", file.display()))?)
    };
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) =
            frame.context("the board stopped in the middle of the image")?.into_data()
        {
            target.write_all(&bytes).await?;
        }
    }
    target.flush().await?;
    Ok(())
}

fn image_table(images: &Value) -> String {
    let mut out = format!("{:<48} {:<20} {:>10}  {}\n", "IMAGE", "DIGEST", "SIZE", "PLATFORM");
    for image in images.as_array().into_iter().flatten() {
        let text = |field: &str| image[field].as_str().unwrap_or("-").to_owned();
        let megabytes = image["size"].as_u64().unwrap_or(0) as f64 / 1e6;
        let digest: String = text("digest").chars().take(19).collect();
        out += &format!(
            "{:<48} {:<20} {:>7.1} MB  {}\n",
            text("name"),
            digest,
            megabytes,
            text("platform")
        );
    }
    out
}

/// Escapes a value of a query string.
fn query_escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A progress line on a terminal, nothing elsewhere.
struct Progress {
    done: u64,
    size: u64,
    shown: Instant,
    visible: bool,
}

impl Progress {
    fn new(size: u64) -> Self {
        Self { done: 0, size, shown: Instant::now(), visible: std::io::stderr().is_terminal() }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.visible && self.shown.elapsed() > Duration::from_millis(100) {
            self.shown = Instant::now();
            let megabytes = self.done as f64 / 1e6;
            match (self.done * 100).checked_div(self.size) {
                Some(percent) => eprint!("\r{megabytes:.1} MB  {percent}% "),
                None => eprint!("\r{megabytes:.1} MB "),
            }
        }
    }

    fn end(&self) {
        if self.visible && self.done > 0 {
            eprintln!("\r{:.1} MB sent     ", self.done as f64 / 1e6);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(query_escape("a/b:1&c d"), "a/b:1%26c%20d");
    }

    #[test]
    fn status_shows_boards_and_remedies() {
        let status = serde_json::json!({
            "cluster": "c", "leader": "a", "epoch": 1, "term": 2,
            "boards": [{"name": "a", "address": "10.0.0.1", "role": "master", "ready": true, "version": "1"}],
            "voters": ["a"], "warnings": [{"board": "a", "reason": "no memory cgroup", "remedy": "reboot"}],
        });
        let text = status_text(&status);
        assert!(
            text.contains("a                        10.0.0.1         master   yes    1"),
            "{text}"
        );
        assert!(text.contains("remedy: reboot"), "{text}");
    }

    #[test]
    fn time_alone_is_no_change() {
        let at = |seconds: u64, ready: bool| {
            lasting(serde_json::json!({
                "boards": [{"name": "a", "ready": ready, "lastHeardSeconds": seconds}],
            }))
        };
        assert_eq!(at(1, true), at(2, true));
        assert_ne!(at(1, true), at(1, false));
    }
}
