//! The server's part of `metadata`: names, uids, times, generations.
//!
//! What `rest.BeforeCreate` and `rest.BeforeUpdate` of `k8s.io/apiserver` do.

use model::ids::Uid;
use model::status::ApiError;
use model::timestamp::Timestamp;
use serde_json::Value;

use super::object::{meta_mut, meta_str};

/// Letters of generated names: no vowels and nothing that looks like another letter
/// (`k8s.io/apimachinery/pkg/util/rand`).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Random letters at the end of a generated name.
const RANDOM_LETTERS: usize = 5;
/// Longest generated name (`maxNameLength` of `names.SimpleNameGenerator`).
const GENERATED_NAME_BYTES_MAX: usize = 63;

/// Fields of metadata that belong to the server and never change.
const PRESERVED: [&str; 4] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];

/// A new uid.
pub(super) fn random_uid() -> Result<Uid, ApiError> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(Uid::from_random(bytes))
}

/// A name that starts with `prefix`.
pub(super) fn generate_name(prefix: &str) -> Result<String, ApiError> {
    let mut end = prefix.len().min(GENERATED_NAME_BYTES_MAX - RANDOM_LETTERS);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    let mut random = [0; 1];
    while name.len() < end + RANDOM_LETTERS {
        fill(&mut random)?;
        // 243 is the largest multiple of 27 below 256: every letter is equally likely.
        if random[0] < 243 {
            name.push(char::from(ALPHABET[usize::from(random[0]) % ALPHABET.len()]));
        }
    }
    Ok(name)
}

pub(super) fn fill(bytes: &mut [u8]) -> Result<(), ApiError> {
    getrandom::fill(bytes)
        .map_err(|_| ApiError::internal("Internal error occurred: no randomness from the kernel"))
}

/// Fills the server's fields of a new object, and forgets what a client may not set.
///
/// # Errors
/// 500 when the object carries a resourceVersion, as a real server answers.
pub(super) fn for_create(
    object: &mut Value,
    has_generation: bool,
    now: Timestamp,
) -> Result<(), ApiError> {
    if !matches!(meta_str(object, "resourceVersion"), "" | "0") {
        let text = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::new(500, "", text));
    }
    let meta = meta_mut(object);
    for field in ["resourceVersion", "selfLink", "managedFields", "generation"] {
        meta.remove(field);
    }
    for field in PRESERVED {
        meta.remove(field);
    }
    meta.insert("uid".into(), random_uid()?.to_string().into());
    meta.insert("creationTimestamp".into(), now.to_string().into());
    if has_generation {
        meta.insert("generation".into(), 1.into());
    }
    Ok(())
}

/// Takes the server's fields of an existing object over into its update. A uid or a name that
/// differs stays, so that validation refuses it.
pub(super) fn for_update(old: &Value, new: &mut Value) {
    let meta = meta_mut(new);
    for field in ["resourceVersion", "selfLink", "managedFields"] {
        meta.remove(field);
    }
    for field in PRESERVED {
        let differs = field == "uid" && meta.get(field).is_some_and(|uid| !uid.is_null());
        match old["metadata"].get(field) {
            Some(_) if differs => {}
            Some(value) => drop(meta.insert(field.into(), value.clone())),
            None => drop(meta.remove(field)),
        }
    }
    match old["metadata"].get("generation") {
        Some(value) => drop(meta.insert("generation".into(), value.clone())),
        None => drop(meta.remove("generation")),
    }
}

/// Counts `metadata.generation` up, on kinds that have one.
pub(super) fn bump_generation(object: &mut Value) {
    let meta = meta_mut(object);
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
        meta.insert("generation".into(), (generation + 1).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_have_five_unambiguous_letters() {
        for (prefix, kept) in [("web-", 4), (&"x".repeat(70), 58), ("", 0)] {
            let name = generate_name(prefix).expect("randomness");
            assert_eq!(name.len(), kept + 5);
            assert!(name.starts_with(&prefix[..kept]));
            assert!(name[kept..].bytes().all(|letter| ALPHABET.contains(&letter)), "{name}");
        }
    }

    #[test]
    fn a_client_sets_no_server_fields() {
        let mut object = serde_json::json!({"metadata": {
            "name": "a", "uid": "x", "generation": 7, "creationTimestamp": null,
            "deletionTimestamp": "2026-11-22T07:16:17Z", "managedFields": [],
        }});
        for_create(&mut object, true, Timestamp::from_seconds(0)).expect("no version");
        let meta = object["metadata"].as_object().expect("metadata");
        assert_eq!(meta["generation"], 1);
        assert_eq!(meta["creationTimestamp"], "1970-01-01T00:00:00Z");
        assert!(Uid::parse(meta["uid"].as_str().expect("uid")).is_some());
        assert_eq!(meta.len(), 4, "{meta:?}");
    }
}
