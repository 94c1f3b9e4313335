//! Faults of roles and bindings (`pkg/apis/rbac/validation`), and of reviews
//! (`pkg/apis/authorization/validation`).

use serde_json::{Value, json};

use super::container::push;
use super::error::{Faults, FieldError};
use super::meta;
use super::names;
use super::read::{given, list, text};
use crate::access::RBAC_GROUP;

const ROLE: &str = "rbac.authorization.k8s.io/roles";
const CLUSTER_ROLE: &str = "rbac.authorization.k8s.io/clusterroles";
const BINDING: &str = "rbac.authorization.k8s.io/rolebindings";
const CLUSTER_BINDING: &str = "rbac.authorization.k8s.io/clusterrolebindings";

/// Whether a kind is a role or a binding.
pub(super) fn validates(kind: &str) -> bool {
    [ROLE, CLUSTER_ROLE, BINDING, CLUSTER_BINDING].contains(&kind)
}

/// Faults of one of them beyond its metadata.
pub(super) fn content(kind: &str, object: &Value, errors: &mut Faults) {
    match kind {
        ROLE | CLUSTER_ROLE => role(object, kind == ROLE, errors),
        _ => binding(object, kind == BINDING, errors),
    }
}

/// Faults of a change of one of them.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Faults) {
    if new["roleRef"] != old["roleRef"] {
        let part = |field: &str| text(&new["roleRef"], field).to_owned();
        // The server's own type has no names for JSON.
        let shown =
            json!({"APIGroup": part("apiGroup"), "Kind": part("kind"), "Name": part("name")});
        errors.push(FieldError::invalid("roleRef", shown, "cannot change roleRef"));
    }
}

fn role(role: &Value, is_namespaced: bool, errors: &mut Faults) {
    for (index, rule) in list(role, "rules").iter().enumerate() {
        policy_rule(rule, is_namespaced, &format!("rules[{index}]"), errors);
    }
    let Some(aggregation) = given(role, "aggregationRule") else { return };
    let field = "aggregationRule.clusterRoleSelectors";
    let selectors = list(aggregation, "clusterRoleSelectors");
    if selectors.is_empty() {
        let sentence = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required(field, sentence));
    }
    for (index, selector) in selectors.iter().enumerate() {
        meta::label_selector(selector, &format!("{field}[{index}]"), errors);
    }
}

fn policy_rule(rule: &Value, is_namespaced: bool, field: &str, errors: &mut Faults) {
    let is_empty = |name: &str| list(rule, name).is_empty();
    let mut require = |name: &str, sentence: &str| {
        errors.push(FieldError::required(format!("{field}.{name}"), sentence));
    };
    if is_empty("verbs") {
        require("verbs", "verbs must contain at least one value");
    }
    if !is_empty("nonResourceURLs") {
        let mut refuse = |sentence: &str| {
            let urls = rule["nonResourceURLs"].clone();
            errors.push(FieldError::invalid(format!("{field}.nonResourceURLs"), urls, sentence));
        };
        if is_namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if !["apiGroups", "resources", "resourceNames"].iter().all(|name| is_empty(name)) {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if is_empty("apiGroups") {
        require("apiGroups", "resource rules must supply at least one api group");
    }
    if is_empty("resources") {
        require("resources", "resource rules must supply at least one resource");
    }
}

fn binding(binding: &Value, is_namespaced: bool, errors: &mut Faults) {
    let role = &binding["roleRef"];
    if text(role, "apiGroup") != RBAC_GROUP {
        let group = text(role, "apiGroup");
        errors.push(FieldError::not_supported("roleRef.apiGroup", group, &[RBAC_GROUP]));
    }
    let kinds: &[&str] = if is_namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        let mut sorted = kinds.to_vec();
        sorted.sort_unstable();
        errors.push(FieldError::not_supported("roleRef.kind", text(role, "kind"), &sorted));
    }
    match text(role, "name") {
        "" => errors.push(FieldError::required("roleRef.name", "")),
        name => push(errors, "roleRef.name", name, names::path_segment(name)),
    }
    for (index, subject) in list(binding, "subjects").iter().enumerate() {
        self::subject(subject, is_namespaced, &format!("subjects[{index}]"), errors);
    }
}

fn subject(subject: &Value, is_namespaced: bool, field: &str, errors: &mut Faults) {
    let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
    let at = |name: &str| format!("{field}.{name}");
    if name.is_empty() {
        errors.push(FieldError::required(at("name"), ""));
    }
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                push(errors, &at("name"), name, names::subdomain(name));
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(at("apiGroup"), group, &[""]));
            }
            if !is_namespaced && text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(at("namespace"), ""));
            }
        }
        kind @ ("User" | "Group") => {
            if name.is_empty() {
                let sentence = format!("{} name cannot be empty", kind.to_lowercase());
                errors.push(FieldError::invalid(at("name"), "", sentence));
            }
            if group != RBAC_GROUP {
                errors.push(FieldError::not_supported(at("apiGroup"), group, &[RBAC_GROUP]));
            }
        }
        kind => {
            let known = ["Group", "ServiceAccount", "User"];
            errors.push(FieldError::not_supported(at("kind"), kind, &known));
        }
    }
}

/// Faults of a SubjectAccessReview, or of one of its kin; `kind` says which.
pub fn review(kind: &str, review: &Value) -> Vec<FieldError> {
    let mut errors = Faults::default();
    let spec = &review["spec"];
    let resource = given(spec, "resourceAttributes");
    let path = given(spec, "nonResourceAttributes");
    match (resource, path) {
        (Some(_), Some(path)) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if kind != "SelfSubjectAccessReview"
        && text(spec, "user").is_empty()
        && list(spec, "groups").is_empty()
    {
        let sentence = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", "", sentence));
    }
    let is_local = kind == "LocalSubjectAccessReview";
    let meta = review["metadata"].as_object();
    let filled = meta.into_iter().flatten().any(|(name, value)| {
        let may = name == "managedFields" || is_local && name == "namespace";
        !may && !value.is_null() && *value != json!("") && *value != json!({})
    });
    if filled {
        let only = if is_local { " except for namespace" } else { "" };
        let sentence = format!("must be empty{only}");
        errors.push(FieldError::invalid("metadata", review["metadata"].clone(), sentence));
    }
    if let Some(asked) = resource.filter(|_| is_local)
        && text(asked, "namespace") != text(&review["metadata"], "namespace")
    {
        let field = "spec.resourceAttributes.namespace";
        let sentence = "must match metadata.namespace";
        errors.push(FieldError::invalid(field, text(asked, "namespace"), sentence));
    }
    if let Some(path) = path.filter(|_| is_local) {
        let sentence = "disallowed on this kind of request";
        errors.push(FieldError::invalid("spec.nonResourceAttributes", path.clone(), sentence));
    }
    errors.into_list()
}
