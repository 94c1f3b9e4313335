//! The demo's workload through the public API: apply, follow until ready, read logs.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use serde_json::Value;

use super::bed::Bed;
use super::nodes;
use crate::app::api_client::ApiClient;

const MANIFEST: &str = include_str!("../../../examples/hello.yaml");
/// Replicas of the Deployment.
pub(super) const REPLICAS: usize = 3;
/// Where its pods are listed.
const PODS: &str = "/api/v1/namespaces/default/pods?labelSelector=app%3Dhello";

/// A pod of the workload.
pub(super) struct Pod {
    /// Its name.
    pub(super) name: String,
    /// The board that it is bound to.
    pub(super) node: String,
    /// Whether it is ready.
    pub(super) is_ready: bool,
}

/// Talks to the demo's API server with the admin's certificate.
pub(super) type Client = ApiClient;

impl Client {
    /// For the board of the bed.
    pub(super) async fn new(bed: &Bed) -> Result<Self> {
        let text = tokio::fs::read_to_string(bed.kubeconfig()).await?;
        ApiClient::from_kubeconfig(&text, Some(&bed.server()))
    }
}

/// Creates every object of the manifest.
pub(super) async fn apply(client: &Client) -> Result<()> {
    for document in serde_norway::Deserializer::from_str(MANIFEST) {
        let object = Value::deserialize(document).context("examples/hello.yaml")?;
        let path = match object["kind"].as_str() {
            Some("ConfigMap") => "/api/v1/namespaces/default/configmaps",
            Some("Service") => "/api/v1/namespaces/default/services",
            Some("Deployment") => "/apis/apps/v1/namespaces/default/deployments",
            kind => bail!("the demo does not know kind {kind:?}"),
        };
        create(client, path, &object).await?;
    }
    Ok(())
}

/// Creates one object in a collection.
///
/// # Errors
/// The API does not answer, or refuses.
pub(super) async fn create(client: &Client, path: &str, object: &Value) -> Result<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(object.to_string())))?;
    client.json(request).await.with_context(|| format!("cannot create {}", object["kind"]))?;
    Ok(())
}

/// The pods that are there, those under deletion too.
///
/// # Errors
/// The API does not answer, or refuses.
pub(super) async fn pods(client: &Client) -> Result<Vec<Pod>> {
    let list = nodes::get(client, PODS).await?;
    let items = list["items"].as_array().context("pods are no list")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pod = |item: &Value| Pod {
        name: text(&item["metadata"]["name"]),
        node: text(&item["spec"]["nodeName"]),
        is_ready: nodes::is_ready(item) && item["metadata"]["deletionTimestamp"].is_null(),
    };
    Ok(items.iter().map(pod).collect())
}

/// How many pods each board has: `board-1 2, board-2 1`.
pub(super) fn spread(pods: &[Pod]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        *counts.entry(&pod.node).or_default() += 1;
    }
    let parts: Vec<String> = counts.iter().map(|(node, count)| format!("{node} {count}")).collect();
    parts.join(", ")
}

/// Watches the pods and prints each step of each one; gives them once all are ready.
pub(super) async fn follow(client: &Client, started: Instant) -> Result<Vec<Pod>> {
    let mut body = client.stream(&format!("{PODS}&watch=true")).await?;
    let mut pending = Vec::new();
    let mut steps: BTreeMap<String, String> = BTreeMap::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        pending.extend_from_slice(&bytes);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).context("watch event")?;
            if event["type"] == "ERROR" {
                bail!("the watch ended: {}", event["object"]["message"]);
            }
            note(&mut steps, &event, started);
        }
        let ready = steps.values().filter(|step| *step == "ready").count();
        if ready >= REPLICAS {
            return pods(client).await;
        }
    }
    bail!("the API server ended the watch")
}

fn note(steps: &mut BTreeMap<String, String>, event: &Value, started: Instant) {
    let pod = &event["object"];
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if event["type"] == "DELETED" {
        steps.remove(&name);
        return;
    }
    let step = step_of(pod);
    if steps.get(&name) != Some(&step) {
        say!("  {:6.2} s  {name}  {step}", started.elapsed().as_secs_f64());
        steps.insert(name, step);
    }
}

fn step_of(pod: &Value) -> String {
    let container = &pod["status"]["containerStatuses"][0]["state"];
    if nodes::is_ready(pod) {
        "ready".into()
    } else if let Some(reason) = container["waiting"]["reason"].as_str() {
        let message = container["waiting"]["message"].as_str().unwrap_or_default();
        if message.is_empty() { reason.into() } else { format!("{reason}: {message}") }
    } else if container["running"].is_object() {
        "running".into()
    } else if let Some(node) = pod["spec"]["nodeName"].as_str() {
        format!("scheduled to {node}")
    } else if let Some(why) = unscheduled(pod) {
        format!("waits for a board: {why}")
    } else {
        "created".into()
    }
}

/// Why no board may run a pod, such as `... untolerated taint {node.kubernetes.io/disk-pressure: }`.
fn unscheduled(pod: &Value) -> Option<&str> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let told =
        conditions.iter().find(|it| it["type"] == "PodScheduled" && it["status"] == "False")?;
    told["message"].as_str()?.split(" preemption:").next()
}

/// The first line that a pod has logged.
pub(super) async fn first_log_line(client: &Client, pod: &str) -> Result<String> {
    let uri = format!("/api/v1/namespaces/default/pods/{pod}/log?follow=true");
    let mut body = client.stream(&uri).await?;
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame?.into_data() else { continue };
        text.extend_from_slice(&bytes);
        if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            return Ok(String::from_utf8_lossy(&text[..end]).into_owned());
        }
    }
    bail!("{pod} has logged nothing")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_no_board_may_run_says_why() {
        let mut pod = json!({"metadata": {"name": "hello"}, "spec": {}, "status": {}});
        assert_eq!(step_of(&pod), "created");
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 node(s) had untolerated taint {x: }. preemption: 0/1",
        }]);
        let why = "0/1 nodes are available: 1 node(s) had untolerated taint {x: }.";
        assert_eq!(step_of(&pod), format!("waits for a board: {why}"));
    }
}
