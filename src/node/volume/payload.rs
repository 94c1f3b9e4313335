//! Which files a volume from the API has: ConfigMap, Secret, downward API, a service account's token, or
//! several of them projected.

use std::collections::BTreeMap;

use logic::pod::spec::{
    ConfigMapSource, DownwardApi, KeyToPath, Pod, SecretSource, TokenFile, Volume,
};
use logic::pod::token::life_seconds;

use crate::node::container::field::{self, BoardFacts};
use crate::node::object::Objects;

/// Mode of files for which nobody asks another.
const MODE_DEFAULT: u32 = 0o644;
/// Mode of a token's file where the pod has a group for its files.
const TOKEN_MODE: u32 = 0o600;

/// Bytes and mode by path relative to the volume.
pub(super) type Payload = BTreeMap<String, (Vec<u8>, u32)>;

/// The files of a volume; `None` when it does not come from the API.
///
/// # Errors
/// What is missing, as kubelet words it.
pub(super) fn of_volume(
    volume: &Volume,
    pod: &Pod,
    objects: &Objects,
    board: &BoardFacts,
) -> Result<Option<Payload>, String> {
    let mut payload = Payload::new();
    let namespace = &pod.metadata.namespace;
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        add_config_map(&mut payload, source, mode, namespace, objects)?;
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        add_secret(&mut payload, source, mode, namespace, objects)?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        add_downward(&mut payload, source, mode, pod, board)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(MODE_DEFAULT);
        for source in &projected.sources {
            if let Some(source) = &source.config_map {
                add_config_map(&mut payload, source, mode, namespace, objects)?;
            } else if let Some(source) = &source.secret {
                add_secret(&mut payload, source, mode, namespace, objects)?;
            } else if let Some(source) = &source.downward_api {
                add_downward(&mut payload, source, mode, pod, board)?;
            } else if let Some(file) = &source.service_account_token {
                add_token(&mut payload, file, mode, pod, objects);
            } else {
                let kind = source.other.keys().next().map_or("unknown", |kind| kind.as_str());
                return Err(format!("projections of type {kind} are not supported on this board"));
            }
        }
    } else {
        return Ok(None);
    }
    match payload.keys().find(|path| !is_inside(path)) {
        Some(path) => Err(format!("invalid path {path:?}")),
        None => Ok(Some(payload)),
    }
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.starts_with("..")
}

fn add_config_map(
    payload: &mut Payload,
    source: &ConfigMapSource,
    mode: u32,
    namespace: &str,
    objects: &Objects,
) -> Result<(), String> {
    let object = objects.config_map(namespace, &source.name);
    let Some(data) = present(object, source.optional)? else { return Ok(()) };
    add_keys(payload, data, &source.items, mode, source.optional)
}

fn add_secret(
    payload: &mut Payload,
    source: &SecretSource,
    mode: u32,
    namespace: &str,
    objects: &Objects,
) -> Result<(), String> {
    let object = objects.secret(namespace, &source.name);
    let Some(data) = present(object, source.optional)? else { return Ok(()) };
    add_keys(payload, data, &source.items, mode, source.optional)
}

fn present<T>(object: Result<T, String>, optional: bool) -> Result<Option<T>, String> {
    match object {
        Ok(object) => Ok(Some(object)),
        Err(_) if optional => Ok(None),
        Err(error) => Err(error),
    }
}

fn add_keys(
    payload: &mut Payload,
    mut data: BTreeMap<String, Vec<u8>>,
    items: &[KeyToPath],
    mode: u32,
    optional: bool,
) -> Result<(), String> {
    if items.is_empty() {
        payload.extend(data.into_iter().map(|(key, value)| (key, (value, mode))));
        return Ok(());
    }
    for item in items {
        match data.remove(&item.key) {
            Some(value) => {
                payload.insert(item.path.clone(), (value, item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

fn add_downward(
    payload: &mut Payload,
    source: &DownwardApi,
    mode: u32,
    pod: &Pod,
    board: &BoardFacts,
) -> Result<(), String> {
    for item in &source.items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(reference), _) => field::field(reference, pod, board)?,
            (_, Some(reference)) => field::resource(reference, pod, None, board)?,
            _ => return Err(format!("{} has no source", item.path)),
        };
        payload.insert(item.path.clone(), (value.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(())
}

/// A token that there is not yet follows later: the pod need not wait for a master that is away.
fn add_token(payload: &mut Payload, file: &TokenFile, mode: u32, pod: &Pod, objects: &Objects) {
    let Some(token) = objects.token(&file.audience, life_seconds(file)) else { return };
    // Whoever is in the group may read it, and nobody else (kubelet's `projected.go`).
    let mode = if pod.spec.security_context.fs_group.is_some() { TOKEN_MODE } else { mode };
    payload.insert(file.path.clone(), (token.as_bytes().to_vec(), mode));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(volume: &str) -> Result<Vec<(String, String, u32)>, String> {
        let json = format!(
            r#"{{"metadata":{{"name":"p","namespace":"n"}},"spec":{{"containers":[],"volumes":[{volume}]}}}}"#
        );
        let pod = Pod::parse(json.as_bytes()).expect("a pod");
        let objects = Objects::of_json(&[
            ("configmaps n/m", r#"{"data":{"a":"1","b":"2"}}"#),
            ("secrets n/s", r#"{"data":{"x":"aGk="}}"#),
        ]);
        let token = |audience: &str, life, text: &str| (audience.to_owned(), life, text.to_owned());
        let objects = objects.with_tokens(vec![token("", 3607, "api"), token("vault", 3600, "v")]);
        let files = of_volume(&pod.spec.volumes[0], &pod, &objects, &BoardFacts::default())?;
        let text = |(path, (bytes, mode))| (path, String::from_utf8(bytes).expect("text"), mode);
        Ok(files.expect("from the API").into_iter().map(text).collect())
    }

    fn check(volume: &str, expected: &[(&str, &str, u32)]) {
        let expected: Vec<_> =
            expected.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), *c)).collect();
        assert_eq!(payload(volume).expect("filled"), expected);
    }

    #[test]
    fn sources_become_files() {
        check(r#"{"name":"v","configMap":{"name":"m"}}"#, &[("a", "1", 0o644), ("b", "2", 0o644)]);
        check(
            r#"{"name":"v","secret":{"secretName":"s","defaultMode":256,
                "items":[{"key":"x","path":"d/y","mode":292}]}}"#,
            &[("d/y", "hi", 0o444)],
        );
        check(r#"{"name":"v","configMap":{"name":"absent","optional":true}}"#, &[]);
        check(
            r#"{"name":"v","projected":{"sources":[{"secret":{"name":"s"}},{"downwardAPI":
                {"items":[{"path":"ns","fieldRef":{"fieldPath":"metadata.namespace"}}]}}]}}"#,
            &[("ns", "n", 0o644), ("x", "hi", 0o644)],
        );
    }

    #[test]
    fn tokens_are_files_of_their_volume() {
        check(
            r#"{"name":"v","projected":{"sources":[
                {"serviceAccountToken":{"path":"token","expirationSeconds":3607}},
                {"serviceAccountToken":{"path":"d/vault","audience":"vault"}},
                {"serviceAccountToken":{"path":"other","audience":"other"}}]}}"#,
            &[("d/vault", "v", 0o644), ("token", "api", 0o644)],
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = payload(r#"{"name":"v","configMap":{"name":"absent"}}"#);
        assert_eq!(error.expect_err("missing"), "configmap \"absent\" not found");
        let bad = r#"{"name":"v","configMap":{"name":"m","items":[{"key":"a","path":"../../x"}]}}"#;
        assert!(payload(bad).expect_err("outside").contains("invalid path"));
        let unknown =
            r#"{"name":"v","projected":{"sources":[{"clusterTrustBundle":{"path":"t"}}]}}"#;
        assert!(payload(unknown).expect_err("not here").contains("clusterTrustBundle"));
    }
}
