//! The demo's workload, `kumquat hello`: greets on its log and over HTTP on port 8080; with `--call`
//! it is who calls the greeters, and says who answered.
//!
//! It is part of the binary so that a demo needs no image from anywhere.

mod call;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use super::cli::HelloArgs;

const GREETING_EVERY: Duration = Duration::from_secs(10);
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Greets until SIGTERM, or calls and ends.
pub(super) async fn run(arguments: &HelloArgs) -> Result<()> {
    match arguments.calls.is_empty() {
        true => greet().await,
        false => call::all(&arguments.calls, arguments.times).await,
    }
}

async fn greet() -> Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| format!("({name} unset)"));
    let line = format!(
        "{} from {} on {}",
        variable("GREETING"),
        variable("POD_NAME"),
        variable("NODE_NAME")
    );
    let listener = TcpListener::bind(("0.0.0.0", 8080)).await.context("cannot listen on 8080")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut every = tokio::time::interval(GREETING_EVERY);
    loop {
        // Cancel safety: every arm loses nothing when dropped before it is ready.
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = every.tick() => say!("{line}"),
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let answer = line.clone();
                tokio::spawn(async move {
                    let _ended = tokio::time::timeout(REQUEST_WITHIN, answer_one(stream, &answer)).await;
                });
            }
        }
    }
    say!("goodbye");
    Ok(())
}

async fn answer_one(mut stream: TcpStream, line: &str) -> std::io::Result<()> {
    let mut request = [0; 1024];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    let length = line.len() + 1;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(format!("{head}{line}\n").as_bytes()).await
}
