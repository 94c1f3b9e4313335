//! What a controller can ask for: the closed list of operations, and a plan of them.

use model::ids::{KindKey, ObjectKey, Uid, Version};
use model::timestamp::Timestamp;
use serde_json::Value;

use super::event::Event;

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after it.
    #[default]
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay, without their owner reference.
    Orphan,
}

/// One change. Every change of an existing object names the version that it was planned on.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Creates an object; `metadata.generateName` is honoured.
    Create {
        /// The kind.
        kind: KindKey,
        /// The object as a client would send it, with `metadata.namespace`.
        object: Value,
    },
    /// Applies a JSON merge patch (RFC 7386); a conflict when the object is no longer at `base`.
    ///
    /// Finalizers and owner references are removed by patching the whole shortened list (`null`
    /// when it becomes empty), which `base` makes safe. An object that is being deleted goes away
    /// when its last finalizer does.
    Patch {
        /// The object.
        key: ObjectKey,
        /// Its version when this was planned.
        base: Version,
        /// `status`, `finalize`, or none for the object itself.
        subresource: Option<&'static str>,
        /// The merge patch.
        merge: Value,
    },
    /// Sets conditions in the status, by type; the others stay. What a new condition does not name
    /// stays as it was, and so does the transition time of one that keeps its status.
    Conditions {
        /// The object.
        key: ObjectKey,
        /// Its version when this was planned.
        base: Version,
        /// The conditions.
        set: Vec<Value>,
    },
    /// Deletes an object as a client's DELETE would.
    Delete {
        /// The object.
        key: ObjectKey,
        /// Its version when this was planned.
        base: Version,
        /// Its uid: another object of the same name is not meant.
        uid: Uid,
        /// Grace period of a pod; `Some(0)` removes it at once, `None` takes the pod's own.
        grace_seconds: Option<u32>,
        /// What becomes of its dependents.
        propagation: Propagation,
    },
    /// Binds a pod to a node: sets `spec.nodeName` and the condition `PodScheduled`.
    Bind {
        /// The pod.
        pod: ObjectKey,
        /// Its version when this was planned.
        base: Version,
        /// Its uid.
        uid: Uid,
        /// The node.
        node: String,
    },
    /// Records an Event, in the leader's memory. Never makes a commit fail.
    Event(Event),
}

/// What to do for one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Changes, in order.
    pub ops: Vec<Op>,
    /// When to plan this key again although nothing changes.
    pub again_at: Option<Timestamp>,
    /// The operations do not depend on each other: when they cannot all be committed, each is tried
    /// by itself (an event belongs to the operation before it).
    pub independent: bool,
    /// The first operation only says what is seen, and nobody decides anything by it.
    pub reports: bool,
}

impl Plan {
    /// Whether all it does is to report: while more is under way it can wait for the rest, and cost one
    /// write with it.
    pub fn is_report(&self) -> bool {
        self.reports && self.ops.len() == 1
    }

    /// Plan again at `at`, or earlier if that was asked for before.
    pub fn again(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Carries out [`Op::Conditions`] on an object.
pub fn set_conditions(object: &mut Value, set: Vec<Value>) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = Value::Array(Vec::new());
    }
    let Some(have) = object["status"]["conditions"].as_array_mut() else { return };
    for mut condition in set {
        let Some(old) = have.iter_mut().find(|old| old["type"] == condition["type"]) else {
            have.push(condition);
            continue;
        };
        let keeps = old["status"] == condition["status"];
        let (Some(old), Some(new)) = (old.as_object_mut(), condition.as_object_mut()) else {
            continue;
        };
        if keeps && old.contains_key("lastTransitionTime") {
            new.remove("lastTransitionTime");
        }
        old.append(new);
    }
}
