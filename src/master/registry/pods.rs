//! What is special about pods: binding to a node.

use bytes::Bytes;
use model::resource;
use model::status::ApiError;
use model::validation::FieldError;
use model::validation::error::invalid;
use serde_json::{Value, json};

use super::errors::MODIFIED;
use super::object::{self, child_mut, is_deleting, meta_mut};
use super::types::{Target, WriteOptions, Written};
use super::write::{Prepared, UPDATE_ATTEMPTS, check_preconditions};
use super::{Registry, body, selection, strategy};
use crate::io::store::{Base, Op, Record};

impl Registry {
    /// Binds a pod to a node: POST of a Binding to the subresource `binding`.
    ///
    /// # Errors
    /// 404 when the pod does not exist, 409 when it has a node or is being deleted, 422 when the
    /// Binding names no node.
    pub async fn bind(
        &self,
        pod: &Target,
        binding: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let (this, pod, options) = (self.clone(), pod.clone(), options.clone());
        self.detached(async move { this.bind_here(&pod, binding, &options).await }).await
    }

    /// POST of a Binding to its own collection: the pod is the one that the Binding is named after.
    pub(super) async fn bind_by_name(
        &self,
        target: &Target,
        binding: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let pods = resource::by_kind_key("/pods").expect("pods are in the table");
        let pod = Target::new(pods, target.namespace.as_str(), object::meta_str(&binding, "name"));
        self.bind_here(&pod, binding, options).await
    }

    async fn bind_here(
        &self,
        pod: &Target,
        mut binding: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let warnings = body::check_as(body::Type::of("", "v1", "Binding"), &mut binding, options)?;
        body::check_place(pod, &mut binding)?;
        check_binding(pod, &binding)?;
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        for _ in 0..UPDATE_ATTEMPTS {
            let record = self.record(pod)?;
            check_preconditions(pod, &record, &binding)?;
            let prepared = self.prepare_bind(pod, &record, &node, &binding["metadata"])?;
            if self.commit_one(pod, &prepared, options.dry_run, None).await?.is_some() {
                return Ok(Written { object: created_status(), warnings, created: true });
            }
        }
        Err(pod.conflict(MODIFIED))
    }

    /// The pod with its node; `extra` may carry annotations for it.
    pub(super) fn prepare_bind(
        &self,
        target: &Target,
        record: &Record,
        node: &str,
        extra: &Value,
    ) -> Result<Prepared, ApiError> {
        let old = object::parse(&record.body);
        let name = &target.name;
        let refuse = |why: String| ApiError::conflict("", "pods/binding", name, &why);
        if is_deleting(&old) {
            return Err(refuse(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        let present = old["spec"]["nodeName"].as_str().unwrap_or_default();
        if !present.is_empty() {
            return Err(refuse(format!("pod {name} is already assigned to node {present:?}")));
        }
        if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        let mut new = old.clone();
        child_mut(&mut new, "spec").insert("nodeName".into(), node.into());
        if let Some(annotations) = extra["annotations"].as_object() {
            let all = meta_mut(&mut new).entry("annotations").or_insert_with(|| json!({}));
            for (key, value) in annotations {
                all[key] = value.clone();
            }
        }
        strategy::set_condition(&mut new, "PodScheduled", self.inner.clock.now());
        let body = object::encode(&new);
        let op = Op {
            key: record.key.clone(),
            base: Base::At(record.version),
            uid: record.uid,
            keep_old: selection::differs(target.resource, &old, &new),
            body: Some(body.clone()),
        };
        Ok(Prepared { op: Some(op), body, version: record.version })
    }
}

/// `ValidatePodBinding` of upstream.
fn check_binding(pod: &Target, binding: &Value) -> Result<(), ApiError> {
    let target = &binding["target"];
    let mut errors = Vec::new();
    let kind = target["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid("", "Binding", &pod.name, &errors)) }
}

/// What a real server answers to a Binding and an Eviction.
pub(super) fn created_status() -> Bytes {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    status.to_string().into()
}
