//! Faults of resource requests and limits.

use serde_json::Value;

use super::container::push;
use super::error::{Faults, FieldError};
use super::names;
use super::read::{object, text};
use crate::quantity::Quantity;

/// Resources of a container that have no domain.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Resources that a downward API reference can name.
const REFERENCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// A quantity given as text or number; `None` when it is none (the decoder refuses that).
pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text.trim()).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// Faults of `resources` of a container.
pub(super) fn requirements(resources: &Value, field: &str, errors: &mut Faults) {
    let (limits, requests) = (object(resources, "limits"), object(resources, "requests"));
    let (limits_field, requests_field) = (format!("{field}.limits"), format!("{field}.requests"));
    for (name, value) in limits.into_iter().flatten() {
        one(name, value, &format!("{limits_field}[{name}]"), errors);
    }
    for (name, value) in requests.into_iter().flatten() {
        one(name, value, &format!("{requests_field}[{name}]"), errors);
        let Some(request) = quantity(value) else { continue };
        let limit = limits.and_then(|l| l.get(name)).and_then(quantity);
        let Some(limit) = limit else {
            if !overcommits(name) {
                let sentence = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(&limits_field, sentence));
            }
            continue;
        };
        let relation = match () {
            () if request != limit && !overcommits(name) => "equal to",
            () if request > limit => "less than or equal to",
            () => continue,
        };
        let sentence = format!("must be {relation} {name} limit of {limit}");
        errors.push(FieldError::invalid(&requests_field, request.to_string(), sentence));
    }
    let named = |test: fn(&str) -> bool| {
        limits.into_iter().chain(requests).flat_map(|map| map.keys()).any(|name| test(name))
    };
    if named(is_huge_page) && !named(|name| matches!(name, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(field, "HugePages require cpu or memory"));
    }
}

fn one(name: &str, value: &Value, field: &str, errors: &mut Faults) {
    let faults = names::qualified(name);
    if !faults.is_empty() {
        push(errors, field, name, faults);
    } else if !name.contains('/') {
        if !STANDARD.contains(&name) && !is_huge_page(name) {
            let sentence = "must be a standard resource type or fully qualified";
            errors.push(FieldError::invalid(field, name, sentence));
            let sentence = "must be a standard resource for containers";
            errors.push(FieldError::invalid(field, name, sentence));
        }
    } else if !is_native(name) && name.starts_with("requests.") {
        let sentence = "doesn't follow extended resource name standard";
        errors.push(FieldError::invalid(field, name, sentence));
    }
    not_negative(value, field, errors);
    let counted = !is_native(name) || is_huge_page(name);
    if let Some(amount) = quantity(value).filter(|q| counted && !q.is_whole()) {
        errors.push(FieldError::invalid(field, amount.to_string(), "must be an integer"));
    }
}

/// Amounts are at least 0.
pub(super) fn not_negative(value: &Value, field: &str, errors: &mut Faults) {
    if let Some(amount) = quantity(value).filter(|q| q.is_negative()) {
        let sentence = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(field, amount.to_string(), sentence));
    }
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Faults of a `resourceFieldRef`.
pub(super) fn field_ref(reference: &Value, in_volume: bool, field: &str, errors: &mut Faults) {
    let resource = text(reference, "resource");
    let huge =
        resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && text(reference, "containerName").is_empty() {
        errors.push(FieldError::required(format!("{field}.containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(format!("{field}.resource"), ""));
    } else if !REFERENCES.contains(&resource) && !huge {
        let field = format!("{field}.resource");
        errors.push(FieldError::not_supported(field, resource, &REFERENCES));
    }
    divisor(resource, text(reference, "divisor"), &format!("{field}.divisor"), errors);
}

fn divisor(resource: &str, divisor: &str, field: &str, errors: &mut Faults) {
    const SIZES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if matches!(divisor, "" | "0") {
        return;
    }
    let what = resource.split_once('.').map_or("", |(_, name)| name);
    let (allowed, list): (&[&str], String) = match what {
        "cpu" => (&["1m", "1"], "1m and 1".into()),
        "memory" | "ephemeral-storage" => (&SIZES, SIZES.join(", ")),
        name if is_huge_page(name) => (&SIZES, SIZES.join(", ")),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        let what = if is_huge_page(what) { "hugepages" } else { what };
        let what = if what == "ephemeral-storage" { "local ephemeral storage" } else { what };
        let sentence =
            format!("only divisor's values {list} are supported with the {what} resource");
        errors.push(FieldError::invalid(field, resource, sentence));
    }
}
