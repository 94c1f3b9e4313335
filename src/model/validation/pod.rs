//! Faults of pods and pod templates as a whole.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{self, one_of, push, user_ids};
use super::error::{Faults, FieldError};
use super::meta;
use super::names;
use super::placement;
use super::read::{given, list, number, object, text, truth};
use super::volume;

/// Largest `activeDeadlineSeconds`.
pub(super) const DEADLINE_SECONDS_MAX: i64 = i32::MAX as i64;
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
/// Name servers and search domains that a resolver takes.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// Faults of a new pod.
pub(super) fn create(pod: &Value, errors: &mut Faults) {
    whole(pod, errors);
    let spec = &pod["spec"];
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    let gated = !list(spec, "schedulingGates").is_empty();
    if gated && !text(spec, "nodeName").is_empty() {
        let sentence = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden("spec.nodeName", sentence));
    }
}

/// Faults of metadata and spec.
pub(super) fn whole(pod: &Value, errors: &mut Faults) {
    meta::metadata("/pods", pod, errors);
    spec(&pod["spec"], "spec", errors);
    container::padded_images(&pod["spec"], errors);
}

/// Faults of a `PodTemplateSpec` at `field`, apart from what its owner asks of it.
pub(super) fn template(template: &Value, field: &str, errors: &mut Faults) {
    let metadata = &template["metadata"];
    meta::labels(metadata.get("labels"), &format!("{field}.labels"), errors);
    meta::annotations(metadata.get("annotations"), &format!("{field}.annotations"), errors);
    spec(&template["spec"], &format!("{field}.spec"), errors);
    if !list(&template["spec"], "ephemeralContainers").is_empty() {
        let field = format!("{field}.spec.ephemeralContainers");
        let sentence = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(field, sentence));
    }
}

fn spec(spec: &Value, field: &str, errors: &mut Faults) {
    let at = |name: &str| format!("{field}.{name}");
    if given(spec, "terminationGracePeriodSeconds").is_none() {
        errors.push(FieldError::required(at("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volume::volumes(spec, &at("volumes"), errors);
    container::containers(spec, &volumes, &at("containers"), errors);
    container::init_containers(spec, &volumes, &at("initContainers"), errors);
    if let Some(resources) = given(spec, "resources") {
        super::resources::requirements(resources, &at("resources"), errors);
    }
    container::host_network_ports(spec, field, errors);
    one_of(spec, "restartPolicy", &RESTART_POLICIES, field, errors);
    one_of(spec, "dnsPolicy", &DNS_POLICIES, field, errors);
    meta::labels(spec.get("nodeSelector"), &at("nodeSelector"), errors);
    security_context(spec, field, errors);
    placement::affinity(&spec["affinity"], &at("affinity"), errors);
    dns_config(spec, &at("dnsConfig"), errors);
    gates(spec, field, errors);
    placement::spread(list(spec, "topologySpreadConstraints"), field, errors);
    for (name, rule) in
        [("serviceAccountName", names::subdomain as meta::NameRule), ("nodeName", names::subdomain)]
    {
        let value = text(spec, name);
        if !value.is_empty() {
            push(errors, &at(name), value, rule(value));
        }
    }
    if let Some(seconds) = number(spec, "activeDeadlineSeconds") {
        let faults = names::in_range(seconds, 1, DEADLINE_SECONDS_MAX);
        push(errors, &at("activeDeadlineSeconds"), seconds, faults);
    }
    for name in ["hostname", "subdomain"] {
        let value = text(spec, name);
        if !value.is_empty() {
            push(errors, &at(name), value, names::label(value));
        }
    }
    placement::tolerations(list(spec, "tolerations"), &at("tolerations"), errors);
    host_aliases(list(spec, "hostAliases"), &at("hostAliases"), errors);
    for name in ["priorityClassName", "runtimeClassName"] {
        let value = text(spec, name);
        if !value.is_empty() {
            push(errors, &at(name), value, names::subdomain(value));
        }
    }
    let policies = ["PreemptLowerPriority", "Never"];
    if given(spec, "preemptionPolicy").is_some() {
        one_of(spec, "preemptionPolicy", &policies, field, errors);
    }
    for (name, value) in object(spec, "overhead").into_iter().flatten() {
        super::resources::not_negative(value, &format!("{field}.overhead[{name}]"), errors);
    }
    if let Some(os) = given(spec, "os") {
        one_of(os, "name", &["linux", "windows"], &at("os"), errors);
    }
}

fn security_context(spec: &Value, field: &str, errors: &mut Faults) {
    let context = &spec["securityContext"];
    let field = format!("{field}.securityContext");
    user_ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &field, errors);
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        let field = format!("{field}.supplementalGroups[{index}]");
        let id = group.as_i64().unwrap_or(-1);
        push(errors, &field, id, names::in_range(id, 0, i64::from(i32::MAX)));
    }
    // On the wire this field stands beside the context; the real server names it inside.
    if truth(spec, "shareProcessNamespace") && truth(spec, "hostPID") {
        let sentence = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{field}.shareProcessNamespace"), true, sentence));
    }
    let policy = text(context, "fsGroupChangePolicy");
    let policies = ["Always", "OnRootMismatch"];
    if !policy.is_empty() && !policies.contains(&policy) {
        let field = format!("{field}.fsGroupChangePolicy");
        errors.push(FieldError::not_supported(field, policy, &policies));
    }
}

fn dns_config(spec: &Value, field: &str, errors: &mut Faults) {
    let config = given(spec, "dnsConfig");
    let servers = config.map_or(&[][..], |config| list(config, "nameservers"));
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        errors.push(if config.is_some() {
            let sentence = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            FieldError::required(format!("{field}.nameservers"), sentence)
        } else {
            FieldError::required(field, "must provide `dnsConfig` when `dnsPolicy` is None")
        });
        return;
    }
    let Some(config) = config else { return };
    if servers.len() > NAMESERVERS_MAX {
        let value = config["nameservers"].clone();
        let sentence = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(FieldError::invalid(format!("{field}.nameservers"), value, sentence));
    }
    for (index, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or("");
        push(errors, &format!("{field}.nameservers[{index}]"), server, names::ip(server));
    }
    let searches = list(config, "searches");
    if searches.len() > SEARCHES_MAX {
        let value = config["searches"].clone();
        let sentence = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.push(FieldError::invalid(format!("{field}.searches"), value, sentence));
    }
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            let field = format!("{field}.options[{index}]");
            errors.push(FieldError::required(field, "must not be empty"));
        }
    }
}

fn gates(spec: &Value, field: &str, errors: &mut Faults) {
    for (index, gate) in list(spec, "readinessGates").iter().enumerate() {
        let name = text(gate, "conditionType");
        let field = format!("{field}.readinessGates[{index}].conditionType");
        push(errors, &field, name, names::qualified(name));
    }
    let mut seen = BTreeSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        let field = format!("{field}.schedulingGates[{index}]");
        push(errors, &field, name, names::qualified(name));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(field, name));
        }
    }
}

fn host_aliases(aliases: &[Value], field: &str, errors: &mut Faults) {
    for (index, alias) in aliases.iter().enumerate() {
        let address = text(alias, "ip");
        push(errors, &format!("{field}[{index}].ip"), address, names::ip(address));
        for (at, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            push(
                errors,
                &format!("{field}[{index}].hostnames[{at}]"),
                name,
                names::subdomain(name),
            );
        }
    }
}
