//! Admission that looks at other objects: namespaces that exist and stay, priority classes.
//!
//! As the plugins NamespaceLifecycle and Priority of a real server. What admission adds to an object
//! is done with its defaults; a pod's ServiceAccount need not exist (see the registry's own page).

use model::defaulting::system_priority;
use model::resource;
use model::status::ApiError;
use serde_json::{Value, json};

use super::Registry;
use super::object::{is_deleting, parse};
use super::types::Target;
use crate::master::members::Rows;
use crate::master::{authority, keys};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
impl Registry {
    /// Whether something may be created in the target's namespace.
    ///
    /// # Errors
    /// 404 when the namespace does not exist, 403 when it is being deleted.
    pub(super) fn admit_into_namespace(&self, target: &Target) -> Result<(), ApiError> {
        if !target.resource.namespaced {
            return Ok(());
        }
        let kind = resource::by_kind_key("/namespaces").expect("namespaces are in the table");
        let namespace = Target::new(kind, "", target.namespace.as_str());
        let record = self.record(&namespace)?;
        let object = parse(&record.body);
        if is_deleting(&object) || object["status"]["phase"] == "Terminating" {
            return Err(terminating(target));
        }
        Ok(())
    }
}

fn terminating(target: &Target) -> ApiError {
    let namespace = &target.namespace;
    let mut error = target.forbidden(&format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    ));
    error.details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": format!("namespace {namespace} is being terminated"),
        "field": "metadata.namespace",
    }]);
    error
}

/// Refuses to delete a namespace that the cluster cannot be without, and the objects of the masters.
pub(super) fn admit_delete(target: &Target) -> Result<(), ApiError> {
    if Rows::is_key(&target.key()) {
        return Err(Rows::kept());
    }
    if authority::is_key(&target.key()) {
        return Err(authority::kept());
    }
    if keys::is_kept_list(&target.key()) {
        return Err(keys::kept(&target.key()));
    }
    if target.resource.kind == "Namespace" && IMMORTAL.contains(&target.name.as_str()) {
        return Err(target.forbidden("this namespace may not be deleted"));
    }
    Ok(())
}

/// Refuses what no stored object allows.
///
/// # Errors
/// 403 for a pod with a priority class that does not exist.
pub(super) fn admit_create(target: &Target, object: &Value) -> Result<(), ApiError> {
    let class = object["spec"]["priorityClassName"].as_str().unwrap_or_default();
    if target.resource.kind == "Pod" && !class.is_empty() && system_priority(class).is_none() {
        return Err(target.forbidden(&format!("no PriorityClass with name {class} was found")));
    }
    Ok(())
}
