//! What the demo calls: the Service by its short and its full name, from a pod on each board.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::bed::Bed;
use super::workload::{self, Client, REPLICAS};
use super::{image, nodes};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICE: &str = "/api/v1/namespaces/default/services/hello";
/// The Service's names as a pod of its namespace may write them.
const NAMES: [&str; 2] = ["hello", "hello.default.svc.cluster.local"];
/// Calls to each name.
const TIMES: usize = 30;
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Runs a pod on each board that calls the Service, and says who answered.
///
/// # Errors
/// The API does not answer, a call fails, or a replica never answers.
pub(super) async fn from_each_board(client: &Client, bed: &Bed) -> Result<()> {
    let service = nodes::get(client, SERVICE).await?;
    let address = service["spec"]["clusterIP"].as_str().context("the Service has no address")?;
    say!("\ncalling the Service hello ({address}) from a pod on each board ...");
    for board in bed.boards() {
        workload::create(client, PODS, &caller(board.name())).await?;
    }
    for board in bed.boards() {
        let log = ended(client, &name(board.name())).await?;
        for line in log.lines() {
            say!("  {}: {line}", board.name());
        }
        for name in NAMES {
            check(&log, name).with_context(|| format!("calls of {name} on {}", board.name()))?;
        }
    }
    Ok(())
}

fn name(board: &str) -> String {
    format!("caller-{board}")
}

fn caller(board: &str) -> Value {
    let times = format!("--times={TIMES}");
    let calls = NAMES.iter().flat_map(|name| ["--call", name]);
    let arguments: Vec<&str> = ["hello", &times].into_iter().chain(calls).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name(board), "labels": {"app": "caller"}},
        "spec": {
            "nodeName": board,
            "restartPolicy": "Never",
            "containers": [{
                "name": "caller", "image": image::IMAGE,
                "command": ["/kumquat"], "args": arguments,
            }],
        },
    })
}

/// The log of a pod that runs to its end.
async fn ended(client: &Client, pod: &str) -> Result<String> {
    let phase = loop {
        let object = nodes::get(client, &format!("{PODS}/{pod}")).await?;
        match object["status"]["phase"].as_str() {
            Some(phase @ ("Succeeded" | "Failed")) => break phase.to_owned(),
            _ => tokio::time::sleep(POLL_EVERY).await,
        }
    };
    let body = client.stream(&format!("{PODS}/{pod}/log")).await?;
    let log = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
    match phase.as_str() {
        "Succeeded" => Ok(log),
        _ => bail!("{pod} failed: {log}"),
    }
}

/// Every replica must have answered, and every call.
fn check(log: &str, name: &str) -> Result<()> {
    let head = format!("{name}: {TIMES} calls, {TIMES} answers from {REPLICAS} pods");
    let found: BTreeSet<&str> = log.lines().filter(|line| line.starts_with(&head)).collect();
    if found.is_empty() {
        bail!("expected {head:?}, found:\n{log}");
    }
    Ok(())
}
