//! Events: what happened to which object, as `kubectl describe` shows it.
//!
//! An event that repeats (same object, reason, message and component) is the same happening: the
//! writer counts its Event object up instead of adding another one.

use model::ids::Uid;
use model::timestamp::Timestamp;
use model::view::Meta;
use serde_json::{Value, json};

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectReference {
    /// `v1`, `apps/v1`.
    pub api_version: &'static str,
    /// `Pod`, `ReplicaSet`.
    pub kind: &'static str,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: Uid,
}

impl ObjectReference {
    /// A reference to the object with this metadata.
    pub fn of(api_version: &'static str, kind: &'static str, meta: &Meta) -> Self {
        let (namespace, name) = (meta.namespace.to_string(), meta.name.to_string());
        Self { api_version, kind, namespace, name, uid: meta.uid }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object.
    pub about: ObjectReference,
    /// `Warning` instead of `Normal`.
    pub warning: bool,
    /// `SuccessfulCreate`, `FailedScheduling`.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
    /// `replicaset-controller`, `default-scheduler`.
    pub component: &'static str,
}

impl Event {
    /// Identifies the happening: the same for every occurrence of it.
    pub fn happening(&self) -> u64 {
        let parts = [self.reason.as_bytes(), self.message.as_bytes(), self.component.as_bytes()];
        let about = fnv(FNV_START, &self.about.uid.0);
        parts.into_iter().fold(about, |hash, part| fnv(fnv(hash, part), &[0]))
    }

    /// [`Self::happening`] of an Event object that a board wrote.
    pub fn happening_of(object: &Value) -> u64 {
        let involved = &object["involvedObject"];
        let parts = [
            &involved["uid"],
            &involved["fieldPath"],
            &object["reason"],
            &object["message"],
            &object["source"]["component"],
        ];
        let texts = parts.into_iter().map(|part| part.as_str().unwrap_or_default());
        texts.fold(FNV_START, |hash, text| fnv(fnv(hash, text.as_bytes()), &[0]))
    }

    /// Name of an Event object about `name`: shortened if it must be, and the `stamp` of the
    /// happening (client-go: nanoseconds of the first occurrence).
    pub fn object_name(name: &str, stamp: u64) -> String {
        let mut name = name;
        while name.len() + 17 > model::limits::NAME_BYTES_MAX {
            let mut chars = name.chars();
            chars.next_back();
            name = chars.as_str();
        }
        format!("{name}.{stamp:016x}")
    }

    /// Namespace of the Event object: that of the object, `default` for cluster-scoped ones.
    pub fn namespace(&self) -> &str {
        if self.about.namespace.is_empty() { "default" } else { &self.about.namespace }
    }

    /// The Event object (core/v1) of a first occurrence at `now`, under a name of
    /// [`Self::object_name`].
    pub fn to_object(&self, name: &str, now: Timestamp) -> Value {
        let about = &self.about;
        let mut involved = json!({
            "apiVersion": about.api_version, "kind": about.kind, "name": about.name,
            "uid": about.uid.to_string(),
        });
        if !about.namespace.is_empty() {
            involved["namespace"] = about.namespace.clone().into();
        }
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "name": name, "namespace": self.namespace() },
            "involvedObject": involved,
            "reason": self.reason, "message": self.message,
            "type": if self.warning { "Warning" } else { "Normal" },
            "source": { "component": self.component },
            "reportingComponent": self.component, "reportingInstance": "",
            "firstTimestamp": now.to_string(), "lastTimestamp": now.to_string(),
            "eventTime": null, "count": 1,
        })
    }

    /// Counts one more occurrence at `now` in an existing Event object.
    pub fn count_up(object: &mut Value, now: Timestamp) {
        let count = object["count"].as_i64().unwrap_or(1).saturating_add(1);
        object["count"] = count.into();
        object["lastTimestamp"] = now.to_string().into();
    }
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bit.
fn fnv(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, message: &str) -> Event {
        Event {
            about: ObjectReference {
                api_version: "v1",
                kind: "Pod",
                namespace: "shop".into(),
                name: name.into(),
                uid: Uid([7; 16]),
            },
            warning: false,
            reason: "Scheduled",
            message: message.into(),
            component: "default-scheduler",
        }
    }

    #[test]
    fn the_same_happening_is_known_again() {
        assert_eq!(event("web", "a").happening(), event("web", "a").happening());
        assert_ne!(event("web", "a").happening(), event("web", "b").happening());
        assert_eq!(Event::object_name("web", 255), "web.00000000000000ff");
        assert_eq!(Event::object_name(&"x".repeat(253), 0).len(), 253);
    }

    #[test]
    fn a_repetition_is_counted() {
        let mut object = event("web", "a").to_object("web.1", Timestamp::from_seconds(10));
        Event::count_up(&mut object, Timestamp::from_seconds(20));
        assert_eq!(object["count"], 2);
        assert_eq!(object["firstTimestamp"], "1970-01-01T00:00:10Z");
        assert_eq!(object["lastTimestamp"], "1970-01-01T00:00:20Z");
    }
}
