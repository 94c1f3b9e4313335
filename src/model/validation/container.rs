//! Faults of the containers of a pod or pod template.

use std::collections::BTreeSet;

use serde_json::Value;

use super::env;
use super::error::{Faults, FieldError};
use super::meta::not_negative;
use super::names;
use super::read::{given, list, number, text, truth};
use super::resources;

/// Transport protocols of ports.
pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Largest user or group id.
const ID_MAX: i64 = 2_147_483_647;

/// The names of the volumes that are valid; mounts may name only these.
pub(super) type Volumes<'a> = BTreeSet<&'a str>;

/// Pushes one `Invalid` for each sentence.
pub(super) fn push(
    errors: &mut Faults,
    field: &str,
    value: impl Into<Value> + Clone,
    sentences: Vec<String>,
) {
    errors.extend(sentences.into_iter().map(|s| FieldError::invalid(field, value.clone(), s)));
}

/// Faults of the regular containers of `spec`.
pub(super) fn containers(spec: &Value, volumes: &Volumes<'_>, field: &str, errors: &mut Faults) {
    let all = list(spec, "containers");
    if all.is_empty() {
        errors.push(FieldError::required(field, ""));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, container) in all.iter().enumerate() {
        let field = format!("{field}[{index}]");
        common(container, volumes, &field, errors);
        if !seen.insert(text(container, "name")) {
            let name = text(container, "name");
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        lifecycle_and_probes(container, &field, errors);
    }
    host_port_conflicts(all, field, errors);
}

/// Faults of the init containers of `spec`.
pub(super) fn init_containers(
    spec: &Value,
    volumes: &Volumes<'_>,
    field: &str,
    errors: &mut Faults,
) {
    let mut seen: BTreeSet<&str> =
        list(spec, "containers").iter().map(|c| text(c, "name")).collect();
    for (index, container) in list(spec, "initContainers").iter().enumerate() {
        let field_here = format!("{field}[{index}]");
        common(container, volumes, &field_here, errors);
        let name = text(container, "name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{field_here}.name"), name));
        }
        host_port_conflicts(std::slice::from_ref(container), field, errors);
        if text(container, "restartPolicy") == "Always" {
            lifecycle_and_probes(container, &field_here, errors);
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if given(container, name).is_some() {
                let sentence = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(format!("{field_here}.{name}"), sentence));
            }
        }
    }
}

fn common(container: &Value, volumes: &Volumes<'_>, field: &str, errors: &mut Faults) {
    let at = |name: &str| format!("{field}.{name}");
    match text(container, "name") {
        "" => errors.push(FieldError::required(at("name"), "")),
        name => push(errors, &at("name"), name, names::label(name)),
    }
    if text(container, "image").is_empty() {
        errors.push(FieldError::required(at("image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(container, "terminationMessagePolicy", &policies, field, errors);
    ports(list(container, "ports"), &at("ports"), errors);
    env::variables(list(container, "env"), &at("env"), errors);
    env::sources(list(container, "envFrom"), &at("envFrom"), errors);
    mounts(container, volumes, &at("volumeMounts"), errors);
    let policies = ["Always", "IfNotPresent", "Never"];
    one_of(container, "imagePullPolicy", &policies, field, errors);
    resources::requirements(&container["resources"], &at("resources"), errors);
    let policy = text(container, "restartPolicy");
    let policies = ["Always", "Never", "OnFailure"];
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.push(FieldError::not_supported(at("restartPolicy"), policy, &policies));
    }
    if let Some(context) = given(container, "securityContext") {
        security_context(context, &at("securityContext"), errors);
    }
}

/// A text field that must be one of `supported`.
pub(super) fn one_of(
    value: &Value,
    name: &str,
    supported: &[&str],
    field: &str,
    errors: &mut Faults,
) {
    let field = format!("{field}.{name}");
    match text(value, name) {
        "" => errors.push(FieldError::required(field, "")),
        word if supported.contains(&word) => {}
        word => errors.push(FieldError::not_supported(field, word, supported)),
    }
}

fn ports(ports: &[Value], field: &str, errors: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let name = text(port, "name");
        let faults = if name.is_empty() { Vec::new() } else { names::port_name(name) };
        if !faults.is_empty() {
            push(errors, &format!("{field}.name"), name, faults);
        } else if !name.is_empty() && !seen.insert(name) {
            errors.push(FieldError::duplicate(format!("{field}.name"), name));
        }
        match number(port, "containerPort").unwrap_or(0) {
            0 => errors.push(FieldError::required(format!("{field}.containerPort"), "")),
            n => push(errors, &format!("{field}.containerPort"), n, names::port_number(n)),
        }
        let host = number(port, "hostPort").unwrap_or(0);
        if host != 0 {
            push(errors, &format!("{field}.hostPort"), host, names::port_number(host));
        }
        one_of(port, "protocol", &PROTOCOLS, &field, errors);
    }
}

/// A port of the board can be taken only once for each protocol and address.
fn host_port_conflicts(containers: &[Value], field: &str, errors: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (at, port) in list(container, "ports").iter().enumerate() {
            let number = number(port, "hostPort").unwrap_or(0);
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if number != 0 && !seen.insert(key.clone()) {
                let field = format!("{field}[{index}].ports[{at}].hostPort");
                errors.push(FieldError::duplicate(field, key));
            }
        }
    }
}

fn mounts(container: &Value, volumes: &Volumes<'_>, field: &str, errors: &mut Faults) {
    let mut seen = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = |name: &str| format!("{field}[{index}].{name}");
        let name = text(mount, "name");
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        }
        if !volumes.contains(name) {
            errors.push(FieldError::not_found(at("name"), name));
        }
        let path = text(mount, "mountPath");
        if path.is_empty() {
            errors.push(FieldError::required(at("mountPath"), ""));
        }
        if !seen.insert(path) {
            errors.push(FieldError::invalid(at("mountPath"), path, "must be unique"));
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            descending_path(sub, &format!("{field}.subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let sentence = "subPathExpr and subPath are mutually exclusive";
                errors.push(FieldError::invalid(at("subPathExpr"), expression, sentence));
            }
            descending_path(expression, &format!("{field}.subPathExpr"), errors);
        }
        propagation(container, mount, &format!("{field}.mountPropagation"), errors);
    }
}

fn propagation(container: &Value, mount: &Value, field: &str, errors: &mut Faults) {
    let Some(mode) = given(mount, "mountPropagation").and_then(Value::as_str) else { return };
    let modes = ["Bidirectional", "HostToContainer", "None"];
    if !modes.contains(&mode) {
        errors.push(FieldError::not_supported(field, mode, &modes));
    }
    let privileged = truth(&container["securityContext"], "privileged");
    if mode == "Bidirectional" && !privileged {
        let sentence = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(field, sentence));
    }
}

/// A path that stays below where it starts.
pub(super) fn descending_path(path: &str, field: &str, errors: &mut Faults) {
    if path.starts_with('/') {
        errors.push(FieldError::invalid(field, path, "must be a relative path"));
    }
    no_backsteps(path, field, errors);
}

/// A path without `..`.
pub(super) fn no_backsteps(path: &str, field: &str, errors: &mut Faults) {
    if path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(field, path, "must not contain '..'"));
    }
}

fn security_context(context: &Value, field: &str, errors: &mut Faults) {
    user_ids(context, &["runAsUser", "runAsGroup"], field, errors);
    let mount = text(context, "procMount");
    let mounts = ["Default", "Unmasked"];
    if !mount.is_empty() && !mounts.contains(&mount) {
        errors.push(FieldError::not_supported(format!("{field}.procMount"), mount, &mounts));
    }
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if truth(context, "privileged") {
            let sentence =
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(field, context.clone(), sentence));
        }
        let added = list(&context["capabilities"], "add");
        if added.iter().any(|c| c == "CAP_SYS_ADMIN") {
            let sentence = "cannot set `allowPrivilegeEscalation` to false and \
                            `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(field, context.clone(), sentence));
        }
    }
}

/// User and group ids are not negative and fit 31 bits.
pub(super) fn user_ids(context: &Value, fields: &[&str], field: &str, errors: &mut Faults) {
    for name in fields {
        if let Some(id) = number(context, name) {
            push(errors, &format!("{field}.{name}"), id, names::in_range(id, 0, ID_MAX));
        }
    }
}

fn lifecycle_and_probes(container: &Value, field: &str, errors: &mut Faults) {
    let lifecycle = &container["lifecycle"];
    for name in ["postStart", "preStop"] {
        if let Some(handler) = given(lifecycle, name) {
            handler_faults(handler, &format!("{field}.lifecycle.{name}"), errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = given(container, name) else { continue };
        let field = format!("{field}.{name}");
        probe_faults(probe, &field, errors);
        if name == "readinessProbe" {
            if let Some(seconds) = given(probe, "terminationGracePeriodSeconds") {
                errors.push(FieldError::invalid(
                    format!("{field}.terminationGracePeriodSeconds"),
                    seconds.clone(),
                    "must not be set for readinessProbes",
                ));
            }
        } else if let Some(count) = number(probe, "successThreshold").filter(|n| *n != 1) {
            let field = format!("{field}.successThreshold");
            errors.push(FieldError::invalid(field, count, "must be 1"));
        }
    }
}

fn probe_faults(probe: &Value, field: &str, errors: &mut Faults) {
    handler_faults(probe, field, errors);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if let Some(n) = number(probe, name).filter(|n| *n < 0) {
            errors.push(not_negative(format!("{field}.{name}"), n.into()));
        }
    }
    if let Some(n) = number(probe, "terminationGracePeriodSeconds").filter(|n| *n <= 0) {
        let field = format!("{field}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(field, n, "must be greater than 0"));
    }
}

/// What a probe or hook does: exactly one of the actions.
fn handler_faults(handler: &Value, field: &str, errors: &mut Faults) {
    let mut handlers = 0;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = given(handler, name) else { continue };
        let field = format!("{field}.{name}");
        handlers += 1;
        if handlers > 1 {
            errors.push(FieldError::forbidden(field, "may not specify more than 1 handler type"));
            continue;
        }
        match name {
            "exec" if list(action, "command").is_empty() => {
                errors.push(FieldError::required(format!("{field}.command"), ""));
            }
            "httpGet" => http_get(action, &field, errors),
            "tcpSocket" | "grpc" => port_or_name(action, "port", &field, errors),
            _ => {}
        }
    }
    if handlers == 0 {
        errors.push(FieldError::required(field, "must specify a handler type"));
    }
}

fn http_get(action: &Value, field: &str, errors: &mut Faults) {
    if text(action, "path").is_empty() {
        errors.push(FieldError::required(format!("{field}.path"), ""));
    }
    port_or_name(action, "port", field, errors);
    let scheme = text(action, "scheme");
    let schemes = ["HTTP", "HTTPS"];
    if !schemes.contains(&scheme) {
        errors.push(FieldError::not_supported(format!("{field}.scheme"), scheme, &schemes));
    }
    for header in list(action, "httpHeaders") {
        let name = text(header, "name");
        push(errors, &format!("{field}.httpHeaders"), name, names::header_name(name));
    }
}

/// A port given by number or by the name of a container's port.
pub(super) fn port_or_name(value: &Value, name: &str, field: &str, errors: &mut Faults) {
    let field = format!("{field}.{name}");
    match value.get(name) {
        Some(Value::String(word)) => push(errors, &field, word.as_str(), names::port_name(word)),
        other => {
            let n = other.and_then(Value::as_i64).unwrap_or(0);
            push(errors, &field, n, names::port_number(n));
        }
    }
}

/// An image's name is not padded; templates may be.
pub(super) fn padded_images(spec: &Value, errors: &mut Faults) {
    for name in ["containers", "initContainers"] {
        for (index, container) in list(spec, name).iter().enumerate() {
            let image = text(container, "image");
            if image.trim() != image {
                let field = format!("spec.{name}[{index}].image");
                let sentence = "must not have leading or trailing whitespace";
                errors.push(FieldError::invalid(field, image, sentence));
            }
        }
    }
}

/// On the board's own network, the ports inside and outside are the same; a template may leave the
/// outer one to the defaults of its pods.
pub(super) fn host_network_ports(spec: &Value, field: &str, errors: &mut Faults) {
    if !truth(spec, "hostNetwork") {
        return;
    }
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (at, port) in list(container, "ports").iter().enumerate() {
            let inside = number(port, "containerPort").unwrap_or(0);
            let outside = number(port, "hostPort").unwrap_or(0);
            if outside != inside && (outside != 0 || field == "spec") {
                let field = format!("{field}.containers[{index}].ports[{at}].hostPort");
                let sentence = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(field, outside, sentence));
            }
        }
    }
}
