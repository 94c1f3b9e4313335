//! Defaults of pods and of the pod templates in controllers.

use serde_json::{Value, json};

use super::{
    Fields, child, default_number, default_pointer, default_text, existing, is_blank, items,
    quantity, resource_list, text, volume,
};

/// A Pod: its spec, and what a template does not get.
pub(super) fn pod(fields: &mut Fields) {
    let spec = child(fields, "spec");
    pod_spec(spec);
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            requests_from_limits(child(container, "resources"));
        }
    }
    if let Some(resources) = existing(spec, "resources") {
        resource_list(resources, "limits");
        resource_list(resources, "requests");
        requests_from_limits(resources);
    }
    default_pointer(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            for port in items(spec, list).flat_map(|c| items(c, "ports")) {
                let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
                default_number(port, "hostPort", number);
            }
        }
    }
}

/// A `PodTemplateSpec` under `template`.
pub(super) fn template(fields: &mut Fields) {
    let template = child(fields, "template");
    child(template, "metadata");
    pod_spec(child(template, "spec"));
}

/// A `PodSpec`, in a pod or a template.
fn pod_spec(spec: &mut Fields) {
    for entry in items(spec, "volumes") {
        volume::volume(entry);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for entry in items(spec, list) {
            container(entry, list == "ephemeralContainers");
        }
    }
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default_pointer(spec, "terminationGracePeriodSeconds", 30);
    child(spec, "securityContext");
    resource_list(spec, "overhead");
    service_account_alias(spec);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always shown.
pub(super) fn service_account_alias(spec: &mut Fields) {
    let name = if is_blank(spec, "serviceAccountName") {
        text(spec, "serviceAccount").to_owned()
    } else {
        text(spec, "serviceAccountName").to_owned()
    };
    if !name.is_empty() {
        spec.insert("serviceAccount".into(), name.clone().into());
        spec.insert("serviceAccountName".into(), name.into());
    }
}

fn container(container: &mut Fields, ephemeral: bool) {
    if is_blank(container, "imagePullPolicy") {
        let policy = pull_policy(text(container, "image"));
        container.insert("imagePullPolicy".into(), policy.into());
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    if !ephemeral || container.contains_key("resources") {
        let resources = child(container, "resources");
        resource_list(resources, "limits");
        resource_list(resources, "requests");
    } else {
        container.insert("resources".into(), json!({}));
    }
    for port in items(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in items(container, "env") {
        if let Some(source) = existing(variable, "valueFrom") {
            field_source(source);
            if let Some(key) = existing(source, "fileKeyRef") {
                default_pointer(key, "optional", false);
            }
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(entry) = existing(container, name) {
            probe(entry);
        }
    }
    if let Some(lifecycle) = existing(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = existing(lifecycle, name) {
                http_get(handler);
            }
        }
    }
}

/// `fieldRef` and `resourceFieldRef`, in an environment variable or a downward API file.
pub(super) fn field_source(source: &mut Fields) {
    if let Some(field) = existing(source, "fieldRef") {
        default_text(field, "apiVersion", "v1");
    }
    if let Some(field) = existing(source, "resourceFieldRef") {
        default_text(field, "divisor", "0");
        quantity(field, "divisor");
    }
}

fn probe(probe: &mut Fields) {
    default_number(probe, "timeoutSeconds", 1);
    default_number(probe, "periodSeconds", 10);
    default_number(probe, "successThreshold", 1);
    default_number(probe, "failureThreshold", 3);
    http_get(probe);
    if let Some(grpc) = existing(probe, "grpc") {
        default_pointer(grpc, "service", "");
    }
}

fn http_get(handler: &mut Fields) {
    if let Some(action) = existing(handler, "httpGet") {
        default_text(action, "path", "/");
        default_text(action, "scheme", "HTTP");
    }
}

/// A limit without a request is also the request.
fn requests_from_limits(resources: &mut Fields) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    let requests = child(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// `Always` for the tag `latest`, which a reference without tag and digest has.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or("");
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest && !last.is_empty(),
    };
    if latest { "Always" } else { "IfNotPresent" }
}
