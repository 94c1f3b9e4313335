//! What a board reports: statuses of its pods, of itself, and events.

use std::fmt;

use logic::controller::{Event, Op, Propagation};
use logic::world::World;
use model::ids::{ObjectKey, Uid};
use model::resource;
use model::view::kind;
use model::wire::{PodStatusV1, StatusV1};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::DispatchError;
use super::node::{node_key, status_patch};
use super::session::Session;
use crate::io::store::Record;
use crate::master::registry::{Registry, Target, UserInfo, WriteOptions};

/// Fields of a pod's status that the API owns; a board that does not mention them leaves them.
const API_FIELDS: [&str; 3] = ["qosClass", "nominatedNodeName", "observedGeneration"];

/// How pods ended that are about to be removed, where that came together with their removal: watchers
/// learn of the end first. To be committed before [`operations`].
pub(super) fn last_words(
    session: &Session,
    node: &str,
    status: &StatusV1,
) -> Result<Vec<Op>, DispatchError> {
    let mut ops = Vec::new();
    for pod in status.pods.iter().filter(|pod| pod.removable) {
        let staying = PodStatusV1 { removable: false, ..pod.clone() };
        let record = record_of(session, pod)?;
        ops.extend(record.and_then(|record| pod_operation(node, &record, &staying)));
    }
    Ok(ops)
}

fn record_of(session: &Session, pod: &PodStatusV1) -> Result<Option<Record>, DispatchError> {
    let key =
        ObjectKey { kind: kind::PODS, namespace: pod.namespace.clone(), name: pod.name.clone() };
    let record = session.registry.store().get(&key).map_err(DispatchError::Read)?;
    Ok(record.filter(|record| record.uid == pod.uid))
}

/// The changes that a status message asks for, all in one commit.
pub(super) fn operations(
    session: &Session,
    node: &str,
    status: &StatusV1,
) -> Result<Vec<Op>, DispatchError> {
    let store = session.registry.store();
    let mut ops = Vec::new();
    for pod in &status.pods {
        let record = record_of(session, pod)?;
        ops.extend(record.and_then(|record| pod_operation(node, &record, pod)));
    }
    if !status.node_status.is_empty() {
        let record = store.get(&node_key(node)).map_err(DispatchError::Read)?;
        let patch = serde_json::from_slice(&status.node_status).unwrap_or_default();
        ops.extend(record.and_then(|record| status_patch(session, &record, patch)));
    }
    Ok(ops)
}

fn pod_operation(node: &str, record: &Record, pod: &PodStatusV1) -> Option<Op> {
    let have: Value = serde_json::from_slice(&record.body).ok()?;
    // A board speaks for its own pods only.
    if have["spec"]["nodeName"] != node {
        return None;
    }
    let leaving = have["metadata"]["deletionTimestamp"].is_string();
    if pod.removable && leaving {
        return Some(Op::Delete {
            key: record.key.clone(),
            base: record.version,
            uid: record.uid,
            grace_seconds: Some(0),
            propagation: Propagation::Background,
        });
    }
    let status = merged_status(&have["status"], serde_json::from_slice(&pod.status).ok()?)?;
    Some(Op::Patch {
        key: record.key.clone(),
        base: record.version,
        subresource: Some("status"),
        merge: json!({ "status": status }),
    })
}

/// A merge patch that turns `have` into what the board says; `None` when it already is.
/// Conditions of types that the board does not mention stay, as do the API's own fields.
fn merged_status(have: &Value, mut wanted: Value) -> Option<Value> {
    let fields = wanted.as_object_mut()?;
    if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
        let reported: Vec<Value> = conditions.iter().map(|it| it["type"].clone()).collect();
        let old = have["conditions"].as_array().into_iter().flatten();
        let others: Vec<Value> =
            old.filter(|it| !reported.contains(&it["type"])).cloned().collect();
        conditions.extend(others);
    }
    let dropped = have.as_object().into_iter().flatten().map(|(name, _)| name);
    let dropped: Vec<String> = dropped
        .filter(|name| !fields.contains_key(*name) && !API_FIELDS.contains(&name.as_str()))
        .cloned()
        .collect();
    fields.retain(|name, value| have[name.as_str()] != *value);
    fields.extend(dropped.into_iter().map(|name| (name, Value::Null)));
    (!fields.is_empty()).then_some(wanted)
}

/// What an event is about.
pub(super) struct About {
    kind: String,
    namespace: String,
    name: String,
    uid: Option<Uid>,
}

impl About {
    /// Of an Event object; `None` for one that names nothing.
    pub(super) fn of(event: &Value) -> Option<Self> {
        let involved = &event["involvedObject"];
        let text = |field: &str| involved[field].as_str().unwrap_or_default().to_owned();
        let about = Self {
            kind: text("kind"),
            namespace: text("namespace"),
            name: text("name"),
            uid: involved["uid"].as_str().and_then(Uid::parse),
        };
        (!about.name.is_empty()).then_some(about)
    }

    /// Whether a board may speak of it: its own Node, a pod bound to it, or one that was bound to it
    /// and is gone. What the API does not know, and may never have known, is nobody's.
    pub(super) fn owner(&self, world: &World, board: &str, had: impl Fn(Uid) -> bool) -> Owner {
        let found = match self.kind.as_str() {
            "Node" => return if self.name == board { Owner::Board } else { Owner::Another },
            "Pod" => world.pod(&self.namespace, &self.name),
            _ => return Owner::Another,
        };
        match found.filter(|pod| self.uid.is_none_or(|uid| uid == pod.meta.uid)) {
            Some(pod) if *pod.node == *board => Owner::Board,
            Some(_) => Owner::Another,
            None if self.uid.is_some_and(had) => Owner::Board,
            None => Owner::Nobody,
        }
    }
}

/// Whose an object is that a board speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The board's.
    Board,
    /// Another board's, or none that boards speak of.
    Another,
    /// It does not exist.
    Nobody,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Records events of a board in their order, beside its session: a board that has much to tell must
/// not make its own beats late.
pub(super) async fn record_events(
    registry: Registry,
    board: String,
    mut queue: mpsc::Receiver<Value>,
) {
    while let Some(event) = queue.recv().await {
        record_event(&registry, &board, event).await;
    }
}

/// Records an event of a board. Trouble is logged: nothing depends on it.
async fn record_event(registry: &Registry, board: &str, mut event: Value) {
    let events = resource::by_kind_key("/events").expect("events are in the table");
    let is_fields = |field: &Value| field.is_object() || field.is_null();
    if !event.is_object() || !is_fields(&event["metadata"]) || !is_fields(&event["source"]) {
        tracing::debug!(board, "an event that is none");
        return;
    }
    let involved = &event["involvedObject"];
    let namespace = involved["namespace"].as_str().unwrap_or("default").to_owned();
    let about = involved["name"].as_str().unwrap_or_default();
    let name = registry.event_name(about, Event::happening_of(&event));
    event["metadata"]["name"] = name.as_str().into();
    event["metadata"]["namespace"] = namespace.as_str().into();
    event["source"]["host"] = board.into();
    event["reportingInstance"] = board.into();
    let target = Target::new(events, namespace, name);
    let user = UserInfo::new("system:node", ["system:nodes".to_owned()]);
    let options = WriteOptions { user, ..WriteOptions::default() };
    let now = registry.clock().now();
    let before = registry.get(&target).ok();
    let written = match before.and_then(|body| serde_json::from_slice::<Value>(&body).ok()) {
        Some(mut before) => {
            Event::count_up(&mut before, now);
            registry.update(&target, None, before, &options).await
        }
        None => {
            for field in ["firstTimestamp", "lastTimestamp"] {
                if event[field].is_null() {
                    event[field] = now.to_string().into();
                }
            }
            if event["count"].is_null() {
                event["count"] = 1.into();
            }
            event["apiVersion"] = "v1".into();
            event["kind"] = "Event".into();
            registry.create(&target, event, &options).await
        }
    };
    if let Err(error) = written {
        tracing::debug!(%error, "cannot record a board's event");
    }
}
