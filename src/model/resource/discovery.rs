//! The discovery documents, made from the resource table.
//!
//! Aggregated documents (`APIGroupDiscoveryList`, v2 and v2beta1) and the older ones that list
//! groups and resources apart: all equal to a real server's for the kinds served.

use serde_json::{Map, Value, json};

use super::{RESOURCES, Resource, Subresource, Verb};

/// Version of the aggregated documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`.
    V2Beta1,
}

impl Aggregated {
    /// `v2` or `v2beta1`.
    pub fn version(self) -> &'static str {
        match self {
            Aggregated::V2 => "v2",
            Aggregated::V2Beta1 => "v2beta1",
        }
    }
}

/// GET /api, aggregated: the core group.
pub fn aggregated_core(version: Aggregated) -> Value {
    aggregated(version, groups().into_iter().filter(|group| group.is_empty()))
}

/// GET /apis, aggregated: every named group.
pub fn aggregated_groups(version: Aggregated) -> Value {
    aggregated(version, groups().into_iter().filter(|group| !group.is_empty()))
}

/// GET /api: `APIVersions`. `address` is where clients reach this server (`10.0.0.1:6443`).
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": versions(""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// GET /apis: `APIGroupList`.
pub fn group_list() -> Value {
    let named = groups().into_iter().filter(|group| !group.is_empty());
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": named.map(group_entry).collect::<Vec<_>>()})
}

/// GET /apis/GROUP: `APIGroup`; `None` for a group that is not served.
pub fn group(name: &str) -> Option<Value> {
    if name.is_empty() || versions(name).is_empty() {
        return None;
    }
    let mut entry = group_entry(name);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

/// GET /api/v1 or /apis/GROUP/VERSION: `APIResourceList`; `None` when not served.
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for resource in served(group, version) {
        resources.push(plain_resource(resource));
        resources.extend(resource.subresources.iter().map(|sub| plain_sub(resource, sub)));
    }
    if resources.is_empty() {
        return None;
    }
    let mut list = json!({
        "kind": "APIResourceList", "resources": resources,
        "groupVersion": super::api_version(group, version),
    });
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

/// Every group served, the core group as `""`, in the order of discovery.
pub fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = Vec::new();
    for resource in RESOURCES {
        if !groups.contains(&resource.group) {
            groups.push(resource.group);
        }
    }
    groups
}

/// The versions of a group, preferred first.
pub fn versions(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&str> = Vec::new();
    for resource in RESOURCES.iter().filter(|r| r.group == group) {
        if !versions.contains(&resource.version) {
            versions.push(resource.version);
        }
    }
    versions
}

fn served(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(move |r| r.group == group && r.version == version)
}

fn aggregated(version: Aggregated, groups: impl Iterator<Item = &'static str>) -> Value {
    let items: Vec<Value> = groups.map(aggregated_group).collect();
    json!({
        "kind": "APIGroupDiscoveryList", "metadata": {}, "items": items,
        "apiVersion": format!("apidiscovery.k8s.io/{}", version.version()),
    })
}

fn aggregated_group(group: &'static str) -> Value {
    let versions = versions(group).into_iter().map(|version| {
        let resources: Vec<Value> = served(group, version).map(aggregated_resource).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    });
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {"group": "", "version": "", "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": words(resource.verbs),
    });
    add_names(&mut entry, resource);
    if !resource.subresources.is_empty() {
        let subs = resource.subresources.iter().map(|sub| {
            json!({
                "subresource": sub.name, "verbs": words(sub.verbs),
                "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
            })
        });
        entry["subresources"] = subs.collect();
    }
    entry
}

fn plain_resource(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural, "singularName": resource.singular,
        "namespaced": resource.namespaced, "kind": resource.kind, "verbs": words(resource.verbs),
    });
    add_names(&mut entry, resource);
    entry
}

fn plain_sub(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
        "namespaced": resource.namespaced, "kind": sub.kind, "verbs": words(sub.verbs),
    });
    if !sub.version.is_empty() {
        entry["group"] = sub.group.into();
        entry["version"] = sub.version.into();
    }
    entry
}

fn add_names(entry: &mut Value, resource: &Resource) {
    if !resource.short_names.is_empty() {
        entry["shortNames"] = resource.short_names.into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = resource.categories.into();
    }
}

fn group_entry(name: &str) -> Value {
    let versions: Vec<Value> = versions(name)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first().cloned().unwrap_or_else(|| Value::Object(Map::new()));
    json!({"name": name, "versions": versions, "preferredVersion": preferred})
}

fn words(verbs: &[Verb]) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = include_str!("../../../data/kubernetes-1.36/discovery.json");

    /// A recorded document with only the kinds and subresources that we serve.
    fn recorded(part: &str) -> Value {
        let mut document = serde_json::from_str::<Value>(RECORDED).unwrap()[part].take();
        let groups = document["items"].as_array_mut().unwrap();
        for group in groups.iter_mut() {
            let name = group["metadata"]["name"].as_str().unwrap_or("").to_owned();
            let versions = group["versions"].as_array_mut().unwrap();
            for version in versions.iter_mut() {
                let number = version["version"].as_str().unwrap().to_owned();
                let entries = version["resources"].as_array_mut().unwrap();
                entries.retain_mut(|entry| keep_served(&name, &number, entry));
            }
            versions.retain(|version| version["resources"] != json!([]));
        }
        groups.retain(|group| group["versions"] != json!([]));
        document
    }

    fn keep_served(group: &str, version: &str, entry: &mut Value) -> bool {
        let plural = entry["resource"].as_str().unwrap();
        let Some(resource) = super::super::find(group, version, plural) else { return false };
        if let Some(Value::Array(subs)) = entry.get_mut("subresources") {
            subs.retain(|sub| resource.has_subresource(sub["subresource"].as_str().unwrap()));
            if subs.is_empty() {
                entry.as_object_mut().unwrap().remove("subresources");
            }
        }
        true
    }

    #[test]
    fn aggregated_documents_equal_the_recorded_ones() {
        assert_eq!(aggregated_core(Aggregated::V2), recorded("api"));
        assert_eq!(aggregated_groups(Aggregated::V2), recorded("apis"));
        let older = aggregated_groups(Aggregated::V2Beta1);
        assert_eq!(older["apiVersion"], "apidiscovery.k8s.io/v2beta1");
        assert_eq!(older["items"], aggregated_groups(Aggregated::V2)["items"]);
    }

    #[test]
    fn plain_documents_name_groups_and_subresources() {
        assert_eq!(core_versions("h:1")["versions"], json!(["v1"]));
        assert_eq!(group("apps").unwrap()["preferredVersion"]["groupVersion"], "apps/v1");
        assert_eq!((group(""), group("nope")), (None, None));
        let apps = resource_list("apps", "v1").unwrap();
        let names: Vec<&str> = apps["resources"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|r| r["name"].as_str())
            .collect();
        assert_eq!(
            names,
            [
                "deployments",
                "deployments/scale",
                "deployments/status",
                "replicasets",
                "replicasets/scale",
                "replicasets/status"
            ]
        );
        assert_eq!(apps["resources"][1]["group"], "autoscaling");
        assert_eq!(resource_list("apps", "v2"), None);
        assert_eq!(resource_list("", "v1").unwrap()["groupVersion"], "v1");
    }
}
