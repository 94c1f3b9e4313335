//! The recorded data under `data/kubernetes-1.36`, read into memory.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

/// A field as Go declares it.
#[derive(Clone, Debug)]
pub(super) struct GoField {
    /// Name in JSON; `-` for an inlined struct.
    pub json: String,
    /// Type as written, with its package: `*int32`, `[]v1.Container`.
    pub go_type: String,
    /// Protobuf field number; 0 for none.
    pub number: u8,
    /// Flags of its JSON tag: `omitempty`, `omitzero`, `inline`.
    pub flags: Vec<String>,
}

impl GoField {
    /// Whether the JSON tag has `flag`.
    pub(super) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }
}

/// Everything that the generator reads.
pub(super) struct Source {
    /// GET /api and /apis, aggregated: `{api, apis}`.
    pub discovery: Value,
    /// Schema name -> OpenAPI schema.
    pub schemas: BTreeMap<String, Value>,
    /// Message name -> `[number, name, type]` of its fields.
    pub messages: BTreeMap<String, Vec<(u32, String, String)>>,
    /// List path -> columns.
    pub columns: BTreeMap<String, Value>,
    /// Schema name -> fields in Go's order.
    pub go: BTreeMap<String, Vec<GoField>>,
    /// List of the first objects by plural: `clusterroles`, `rolebindings`.
    pub bootstrap: Value,
}

impl Source {
    /// Reads the files of `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            discovery: json(folder, "discovery.json")?,
            schemas: json(folder, "openapi-schemas.json")?,
            messages: json(folder, "protobuf-fields.json")?,
            columns: json(folder, "print-columns.json")?,
            go: go_types(&text(folder, "go-types.txt")?)?,
            bootstrap: json(folder, "bootstrap-rbac.json")?,
        })
    }

    /// The schema of a kind, by its `x-kubernetes-group-version-kind`.
    pub(super) fn schema_of(&self, group: &str, version: &str, kind: &str) -> Result<&str> {
        let wanted = serde_json::json!({"group": group, "version": version, "kind": kind});
        let named = self.schemas.iter().find(|(_, schema)| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            kinds.is_some_and(|kinds| kinds.contains(&wanted))
        });
        let (name, _) = named.with_context(|| format!("no schema of {group}/{version} {kind}"))?;
        Ok(name)
    }
}

fn text(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn json<T: serde::de::DeserializeOwned>(folder: &Path, name: &str) -> Result<T> {
    serde_json::from_str(&text(folder, name)?).with_context(|| format!("read {name}"))
}

fn go_types(text: &str) -> Result<BTreeMap<String, Vec<GoField>>> {
    let mut types: BTreeMap<String, Vec<GoField>> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(field) = line.strip_prefix("  ") else {
            current = line.to_owned();
            types.insert(current.clone(), Vec::new());
            continue;
        };
        let words: Vec<&str> = field.split(' ').collect();
        let [json, go_type, number, flags @ ..] = words.as_slice() else {
            anyhow::bail!("go-types.txt: {line:?} has too few words");
        };
        let flags = flags.iter().flat_map(|f| f.split(',')).map(str::to_owned).collect();
        let number = number.parse().with_context(|| format!("go-types.txt: {line:?}"))?;
        let fields = types.get_mut(&current).context("go-types.txt: a field before any type")?;
        fields.push(GoField { json: (*json).into(), go_type: (*go_type).into(), number, flags });
    }
    Ok(types)
}
