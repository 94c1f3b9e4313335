//! The command: looks at the files, has the leader drive, and tells how it goes.
//!
//! Its own board, and the leader, restart on the way: it asks again until there is a last word.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use model::limits::UPGRADE_FILE_BYTES_MAX;
use model::upgrade::{ELF_HEAD_BYTES, LineV1, UpgradeAskV1, UpgradeFileV1, elf_arch};

use crate::app::cli::UpgradeArgs;
use crate::app::client::Ending;
use crate::app::dirs::Dirs;
use crate::app::identity;
use crate::io::control::{Client, ClientError, PieceWriter, bytes_body, stream_body};
use crate::io::exchange::{digest_of, says_version};
use crate::io::image::Digest;

const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long nobody may answer: a board restarts, or goes back, meanwhile.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Runs `kumquat upgrade`.
pub(in crate::app) async fn run(dirs: &Dirs, arguments: &UpgradeArgs) -> Result<Ending> {
    let mut files = Vec::new();
    for path in &arguments.from {
        files.push((look_at(path).with_context(|| path.display().to_string())?, path.clone()));
    }
    let ask = UpgradeAskV1 {
        attempt: identity::random_id()?,
        files: files.iter().map(|(file, _)| file.clone()).collect(),
        dry_run: arguments.dry_run,
        ready_seconds: u32::try_from(arguments.ready_within.as_secs().max(1))?,
    };
    let client = Client::new(&dirs.socket());
    let patience = arguments.ready_within + SILENT_MAX;
    let (mut heard, mut said_broken) = (Instant::now(), false);
    let mut said = Vec::new();
    loop {
        let why = match pass(&client, &ask, &mut said, &mut heard).await {
            Ok(LineV1::Done { run, left_out: 0 }) => {
                say!("{run} boards {}", if ask.dry_run { "would run it" } else { "run it" });
                return Ok(Ending::Done);
            }
            Ok(LineV1::Done { run, left_out }) => {
                say!("{run} boards run it, {left_out} were left out");
                return Ok(Ending::Failed);
            }
            Ok(LineV1::Failed(why)) => bail!("{why}"),
            Ok(LineV1::Need(sha256)) => match upload(&client, &files, &sha256).await {
                Ok(()) => continue,
                Err(error) => error,
            },
            Ok(LineV1::Say(_)) => continue,
            Err(error) => error,
        };
        if is_final(&why, !said.is_empty()) || heard.elapsed() > patience {
            return Err(why);
        }
        if !std::mem::replace(&mut said_broken, true) {
            say!("the board that was asked restarts, or another one leads: goes on");
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Whether asking again would not help.
fn is_final(error: &anyhow::Error, was_heard: bool) -> bool {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused { status, .. }) => *status != StatusCode::SERVICE_UNAVAILABLE,
        Some(ClientError::Permission { .. }) => true,
        // A board that restarts looks like one that does not run.
        Some(ClientError::NotRunning { .. }) => !was_heard,
        _ => false,
    }
}

/// What is known of a file before any board has it.
fn look_at(path: &Path) -> Result<UpgradeFileV1> {
    let mut head = [0; ELF_HEAD_BYTES];
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if file.read_exact(&mut head).is_err() {
        bail!("it is no Linux program (ELF)");
    }
    let arch = elf_arch(&head).map_err(anyhow::Error::msg)?;
    if bytes > UPGRADE_FILE_BYTES_MAX {
        bail!("it is too large");
    }
    if arch == std::env::consts::ARCH {
        let version = says_version(path).map_err(anyhow::Error::msg)?;
        say!("{} is version {version} for {arch}", path.display());
    } else {
        say!("{} is for {arch}", path.display());
    }
    let sha256 = Digest::from_bytes(digest_of(path)?).hex();
    Ok(UpgradeFileV1 { sha256, bytes, arch: arch.to_owned() })
}

/// Asks once and says what comes; the last line.
async fn pass(
    client: &Client,
    ask: &UpgradeAskV1,
    said: &mut Vec<String>,
    heard: &mut Instant,
) -> Result<LineV1> {
    let body = bytes_body(serde_json::to_vec(ask)?);
    let answer = client.send(Method::POST, super::PATH, body).await?;
    let mut body = answer.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
        *heard = Instant::now();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                // Whoever is asked again looks at every board again.
                LineV1::Say(text) if said.contains(&text) => {}
                LineV1::Say(text) => {
                    say!("{text}");
                    said.push(text);
                }
                last => return Ok(last),
            }
        }
    }
    bail!("the board ended the conversation")
}

async fn upload(client: &Client, files: &[(UpgradeFileV1, PathBuf)], sha256: &str) -> Result<()> {
    let found = files.iter().find(|(file, _)| file.sha256 == sha256);
    let (_, path) = found.context("the leader asks for a file that it was not offered")?;
    let mut file = File::open(path)?;
    let (mut writer, pieces) = PieceWriter::new();
    let reading = tokio::task::spawn_blocking(move || {
        if let Err(error) = std::io::copy(&mut file, &mut writer) {
            // The leader must not take what came so far for the whole file.
            writer.fail(error);
        }
    });
    let uri = format!("{}/{sha256}", super::PATH);
    let answer = client.send(Method::PUT, &uri, stream_body(pieces)).await?;
    // Whatever it says: it ends when the file is there.
    let _end = answer.into_body().collect().await?;
    reading.await?;
    Ok(())
}
