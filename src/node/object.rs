//! ConfigMaps and Secrets that a board's pods need, as they came from the master.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use logic::pod::token::TokenText;
use serde_json::Value;

/// Objects by their wire key, `configmaps ns/name` or `secrets ns/name`, as minified JSON, and a pod's
/// tokens.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    objects: BTreeMap<String, Bytes>,
    tokens: Vec<TokenText>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.objects.keys()).finish()
    }
}

impl Objects {
    /// From wire keys and bytes.
    pub(crate) fn new(objects: BTreeMap<String, Bytes>) -> Self {
        Self { objects, tokens: Vec::new() }
    }

    /// With these tokens.
    pub(crate) fn with_tokens(self, tokens: Vec<TokenText>) -> Self {
        Self { tokens, ..self }
    }

    /// The token for this audience that was asked to live so long; `None` while there is none.
    pub(crate) fn token(&self, audience: &str, seconds: u64) -> Option<&str> {
        let mut tokens = self.tokens.iter();
        let found = tokens.find(|(whom, life, _)| whom == audience && *life == seconds);
        found.map(|(_, _, text)| text.as_str())
    }

    /// For tests of those who read objects.
    #[cfg(test)]
    pub(crate) fn of_json(objects: &[(&str, &str)]) -> Self {
        let owned = |(key, json): &(&str, &str)| {
            ((*key).to_owned(), Bytes::copy_from_slice(json.as_bytes()))
        };
        Self::new(objects.iter().map(owned).collect())
    }

    /// The data of a ConfigMap: `data` as text, `binaryData` decoded.
    ///
    /// # Errors
    /// As kubelet words it.
    pub(crate) fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let missing = || format!("configmap {name:?} not found");
        let bytes =
            self.objects.get(&format!("configmaps {namespace}/{name}")).ok_or_else(missing)?;
        let object = parse(bytes, name)?;
        let mut data = text_entries(&object["data"], str::as_bytes);
        data.extend(decoded_entries(&object["binaryData"]));
        Ok(data)
    }

    /// The data of a Secret, decoded.
    ///
    /// # Errors
    /// As kubelet words it.
    pub(crate) fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let missing = || format!("secret {name:?} not found");
        let bytes = self.objects.get(&format!("secrets {namespace}/{name}")).ok_or_else(missing)?;
        Ok(decoded_entries(&parse(bytes, name)?["data"]))
    }
}

fn parse(bytes: &[u8], name: &str) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|_| format!("object {name:?} cannot be read"))
}

fn text_entries(map: &Value, bytes: impl Fn(&str) -> &[u8]) -> BTreeMap<String, Vec<u8>> {
    let entry =
        |(key, value): (&String, &Value)| Some((key.clone(), bytes(value.as_str()?).to_vec()));
    map.as_object().into_iter().flatten().filter_map(entry).collect()
}

fn decoded_entries(map: &Value) -> BTreeMap<String, Vec<u8>> {
    let entry = |(key, value): (&String, &Value)| {
        Some((key.clone(), STANDARD.decode(value.as_str()?).ok()?))
    };
    map.as_object().into_iter().flatten().filter_map(entry).collect()
}

/// Wire keys of the objects that a pod names.
pub(crate) fn keys_of(pod: &logic::pod::Pod) -> std::collections::BTreeSet<String> {
    let namespace = &pod.metadata.namespace;
    let mut keys = std::collections::BTreeSet::new();
    let mut put = |kind: &str, name: &str| {
        keys.insert(format!("{kind} {namespace}/{name}"));
    };
    for container in pod.containers() {
        for from in &container.env_from {
            from.config_map_ref.iter().for_each(|r| put("configmaps", &r.name));
            from.secret_ref.iter().for_each(|r| put("secrets", &r.name));
        }
        for source in container.env.iter().filter_map(|variable| variable.value_from.as_ref()) {
            source.config_map_key_ref.iter().for_each(|r| put("configmaps", &r.name));
            source.secret_key_ref.iter().for_each(|r| put("secrets", &r.name));
        }
    }
    for volume in &pod.spec.volumes {
        volume.config_map.iter().for_each(|source| put("configmaps", &source.name));
        volume.secret.iter().for_each(|source| put("secrets", &source.name));
        for projection in volume.projected.iter().flat_map(|projected| &projected.sources) {
            projection.config_map.iter().for_each(|source| put("configmaps", &source.name));
            projection.secret.iter().for_each(|source| put("secrets", &source.name));
        }
    }
    keys
}
