//! Events about pods, as kubelet records them (core/v1 Event without name and uid).

use logic::pod::Pod;
use model::timestamp::Timestamp;
use serde_json::{Value, json};

/// What is to be told about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) container: Option<String>,
}

impl Report {
    /// A `Normal` event about a container.
    pub(crate) fn normal(reason: &'static str, message: String, container: &str) -> Self {
        Self { warning: false, reason, message, container: Some(container.to_owned()) }
    }

    /// A `Warning` event about a container.
    pub(crate) fn warning(reason: &'static str, message: String, container: &str) -> Self {
        Self { warning: true, ..Self::normal(reason, message, container) }
    }

    /// The Event object.
    pub(crate) fn object(&self, pod: &Pod, node: &str, now: Timestamp) -> Value {
        let metadata = &pod.metadata;
        let mut involved = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
        });
        if let Some(container) = &self.container {
            let is_init = pod.spec.init_containers.iter().any(|c| c.name == *container);
            let list = if is_init { "initContainers" } else { "containers" };
            involved["fieldPath"] = json!(format!("spec.{list}{{{container}}}"));
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": metadata.namespace},
            "involvedObject": involved,
            "reason": self.reason,
            "message": self.message,
            "type": if self.warning { "Warning" } else { "Normal" },
            "source": {"component": "kubelet", "host": node},
            "reportingComponent": "kubelet",
            "reportingInstance": node,
            "firstTimestamp": now.to_string(),
            "lastTimestamp": now.to_string(),
            "count": 1,
        })
    }
}
