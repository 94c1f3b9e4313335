//! Faults of ConfigMaps and Secrets.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::container::push;
use super::error::{Faults, FieldError};
use super::meta::{entries, immutable};
use super::names;
use super::read::{object, text, truth};
use crate::limits::CONFIG_DATA_BYTES_MAX;

/// Faults of a ConfigMap beyond its metadata.
pub(super) fn config_map(map: &Value, errors: &mut Faults) {
    let mut bytes = 0;
    for (field, other) in [("data", "binaryData"), ("binaryData", "data")] {
        for (key, value) in entries(map.get(field)) {
            push(errors, &format!("{field}[{key}]"), key.as_str(), names::config_key(key));
            if map.get(other).and_then(|m| m.get(key)).is_some() {
                let sentence = format!("duplicate of key present in {other}");
                errors.push(FieldError::invalid(format!("{field}[{key}]"), key.as_str(), sentence));
            }
            let value = value.as_str().unwrap_or("");
            bytes += if field == "data" { value.len() } else { decoded_length(value) };
        }
    }
    if bytes > CONFIG_DATA_BYTES_MAX {
        // The empty path of the whole object prints like this.
        errors.push(FieldError::too_long("[]", CONFIG_DATA_BYTES_MAX));
    }
}

/// Faults of a Secret beyond its metadata.
pub(super) fn secret(secret: &Value, errors: &mut Faults) {
    let mut bytes = 0;
    for (key, value) in entries(secret.get("data")) {
        push(errors, &format!("data[{key}]"), key.as_str(), names::config_key(key));
        bytes += decoded_length(value.as_str().unwrap_or(""));
    }
    if bytes > CONFIG_DATA_BYTES_MAX {
        errors.push(FieldError::too_long("data", CONFIG_DATA_BYTES_MAX));
    }
    let value = |key: &str| object(secret, "data").and_then(|d| d.get(key)).and_then(Value::as_str);
    let mut require = |key: &str| {
        if value(key).is_none() {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if text(&secret["metadata"]["annotations"], name).is_empty() {
                let field = format!("metadata.annotations[{name}]");
                errors.push(FieldError::required(field, ""));
            }
        }
        "kubernetes.io/dockercfg" => docker(".dockercfg", value(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => {
            docker(".dockerconfigjson", value(".dockerconfigjson"), errors);
        }
        "kubernetes.io/basic-auth"
            if value("username").is_none() && value("password").is_none() =>
        {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").unwrap_or("").is_empty() => {
            errors.push(FieldError::required("data[ssh-privatekey]", ""));
        }
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

fn docker(key: &str, value: Option<&str>, errors: &mut Faults) {
    let field = format!("data[{key}]");
    let Some(value) = value else {
        errors.push(FieldError::required(field, ""));
        return;
    };
    let parsed = BASE64_STANDARD.decode(value).map(|b| serde_json::from_slice::<Value>(&b));
    let why = match parsed {
        Ok(Ok(Value::Object(_) | Value::Null)) => return,
        Ok(Err(_)) if value.is_empty() => "unexpected end of JSON input".to_owned(),
        Ok(Err(error)) => error.to_string(),
        _ => "json: cannot unmarshal the value into a map".to_owned(),
    };
    errors.push(FieldError::invalid(field, "<secret contents redacted>", why));
}

/// Faults of a change of an object whose data may be sealed by `immutable`.
pub(super) fn sealed(new: &Value, old: &Value, errors: &mut Faults) {
    if !truth(old, "immutable") {
        return;
    }
    let sentence = "field is immutable when `immutable` is set";
    if !truth(new, "immutable") {
        errors.push(FieldError::forbidden("immutable", sentence));
    }
    for name in ["data", "binaryData"] {
        let map = |value: &Value| object(value, name).cloned().unwrap_or_default();
        if map(new) != map(old) {
            errors.push(FieldError::forbidden(name, sentence));
        }
    }
}

/// A Secret keeps its type.
pub(super) fn secret_type(new: &Value, old: &Value, errors: &mut Faults) {
    immutable("type", new.get("type"), old.get("type"), errors);
}

fn decoded_length(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}
