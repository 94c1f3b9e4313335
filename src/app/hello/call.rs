//! Calls names as any program does: the system's resolver, a new connection each time, no second try.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// A Service that was made a moment ago may not be known on every board yet.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
const TRY_EVERY: Duration = Duration::from_millis(50);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
const PORT: u16 = 80;

/// Calls each name `times` times and prints a line for each.
///
/// # Errors
/// A name is not known in time, or a call has no answer.
pub(super) async fn all(names: &[String], times: u32) -> Result<()> {
    for name in names {
        let target = match name.contains(':') {
            true => name.clone(),
            false => format!("{name}:{PORT}"),
        };
        wait_known(&target).await?;
        let (began, mut answers) = (Instant::now(), BTreeMap::<String, u32>::new());
        for _ in 0..times {
            let answer = tokio::time::timeout(ANSWERED_WITHIN, call(&target));
            let answer = answer.await.context("no answer in time").flatten();
            let answer = answer.with_context(|| format!("call of {target}"))?;
            *answers.entry(answer).or_default() += 1;
        }
        let (pods, sum) = (answers.len(), answers.values().sum::<u32>());
        let millis = began.elapsed().as_secs_f64() * 1e3 / f64::from(times.max(1));
        say!("{name}: {times} calls, {sum} answers from {pods} pods, {millis:.2} ms each");
        for (answer, count) in answers {
            say!("  {count:3} x {answer}");
        }
    }
    Ok(())
}

async fn wait_known(target: &str) -> Result<()> {
    let deadline = Instant::now() + KNOWN_WITHIN;
    loop {
        match tokio::net::lookup_host(target).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{target} is not known"));
            }
            Err(_) => tokio::time::sleep(TRY_EVERY).await,
        }
    }
}

async fn call(target: &str) -> Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    let request = format!("GET / HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.trim().to_owned()),
        _ => bail!("no answer of HTTP: {answer:?}"),
    }
}
