//! The demo's view of its boards, through the public API.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use super::bed::Bed;
use super::workload::Client;

const POLL_EVERY: Duration = Duration::from_millis(20);

/// Waits until every board is Ready, and says when each is.
///
/// # Errors
/// A board has ended, or the API does not answer.
pub(super) async fn wait_ready(client: &Client, bed: &mut Bed, started: Instant) -> Result<()> {
    let mut ready = BTreeSet::new();
    while ready.len() < bed.boards().len() {
        let list = get(client, "/api/v1/nodes").await?;
        let nodes = list["items"].as_array().context("nodes are no list")?;
        for node in nodes.iter().filter(|node| is_ready(node)) {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            if ready.insert(name.to_owned()) {
                say!("  {:6.2} s  {name} is Ready", started.elapsed().as_secs_f64());
            }
        }
        for board in bed.boards_mut() {
            board.check()?;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

/// Waits until one board is Ready, or is not.
///
/// # Errors
/// The API does not answer.
pub(super) async fn wait_for(client: &Client, board: &str, ready: bool) -> Result<()> {
    let path = format!("/api/v1/nodes/{board}");
    while is_ready(&get(client, &path).await?) != ready {
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(())
}

/// GETs an object or list.
///
/// # Errors
/// The API does not answer, or refuses.
pub(super) async fn get(client: &Client, path: &str) -> Result<Value> {
    client.json(Request::get(path).body(Full::default())?).await
}

/// Whether a Node or a Pod is ready.
pub(super) fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}
