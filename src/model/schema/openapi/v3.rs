//! OpenAPI version 3: schemas as recorded from a real server, and the paths that kubectl reads.

use serde_json::{Map, Value, json};

use super::{PATCH_TYPES, VERSION, WRITE_PARAMETERS, collection, schemas};
use crate::{
    resource::{RESOURCES, Resource, Verb},
    schema::table::{Elem, Field, Leaf, Scalar, Shape, TypeId},
};

/// Writes the document of a group-version, schema by schema.
pub(super) fn write(group: &str, version: &str) -> Vec<u8> {
    let served = || RESOURCES.iter().filter(|r| r.group == group && r.version == version);
    let mut paths = Map::new();
    for resource in served() {
        add_paths(&mut paths, resource);
    }
    let info = json!({"title": "Kubernetes", "version": VERSION});
    let mut body = format!(
        "{{\"openapi\":\"3.0.0\",\"info\":{info},\"paths\":{},\"components\":{{\"schemas\":{{",
        Value::Object(paths)
    );
    for (at, id) in schemas(served()).into_iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        body.push_str(&format!("{comma}\"{}\":{}", id.full_name(), schema(id)));
    }
    body.push_str("}}}");
    body.into_bytes()
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let all = collection(resource);
    let mut many = Map::new();
    for (verb, method) in [(Verb::List, "get"), (Verb::Create, "post")] {
        if resource.allows(verb) {
            many.insert(method.into(), operation(resource, verb));
        }
    }
    let mut one = Map::new();
    for (verb, method) in [
        (Verb::Get, "get"),
        (Verb::Update, "put"),
        (Verb::Patch, "patch"),
        (Verb::Delete, "delete"),
    ] {
        if resource.allows(verb) {
            one.insert(method.into(), operation(resource, verb));
        }
    }
    if !one.is_empty() {
        paths.insert(format!("{all}/{{name}}"), Value::Object(one));
    }
    if !many.is_empty() {
        paths.insert(all, Value::Object(many));
    }
}

fn operation(resource: &Resource, verb: Verb) -> Value {
    let whole = json!({"schema": {"$ref": reference(resource.schema)}});
    let mut operation = json!({
        "x-kubernetes-group-version-kind":
            {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "x-kubernetes-action": match verb { Verb::Create => "post", Verb::Update => "put", other => other.as_str() },
        "responses": {"200": {"description": "OK"}},
    });
    if verb != Verb::List {
        operation["responses"]["200"]["content"] = json!({"application/json": whole});
    }
    if matches!(verb, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete) {
        let parameter =
            |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
        operation["parameters"] = WRITE_PARAMETERS.iter().map(|name| parameter(name)).collect();
    }
    match verb {
        Verb::Create | Verb::Update => {
            operation["requestBody"] = json!({"content": {"*/*": whole}, "required": true});
        }
        Verb::Patch => {
            let any = |kind: &&str| ((*kind).to_owned(), json!({"schema": {"type": "object"}}));
            let content: Map<String, Value> = PATCH_TYPES.iter().map(any).collect();
            operation["requestBody"] = json!({"content": content, "required": true});
        }
        _ => {}
    }
    operation
}

/// The schema of a type, as the real server writes it.
pub(super) fn schema(id: TypeId) -> Value {
    match id.leaf() {
        Leaf::Quantity => return json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Leaf::IntOrString => {
            let one = json!([{"type": "integer"}, {"type": "string"}]);
            return json!({"format": "int-or-string", "oneOf": one});
        }
        Leaf::Time | Leaf::MicroTime => return json!({"type": "string", "format": "date-time"}),
        Leaf::RawExtension | Leaf::FieldsV1 => return json!({"type": "object"}),
        Leaf::Struct => {}
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in id.fields() {
        if field.required() {
            required.push(field.name);
        }
        properties.insert(field.name.to_owned(), property(&field));
    }
    required.sort_unstable();
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if id.atomic() {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    let kinds = id
        .kinds()
        .map(|[group, version, kind]| json!({"group": group, "version": version, "kind": kind}));
    let kinds: Vec<Value> = kinds.collect();
    if !kinds.is_empty() {
        schema["x-kubernetes-group-version-kind"] = kinds.into();
    }
    schema
}

fn property(field: &Field) -> Value {
    let mut inner = element(field.elem);
    let allowed: Vec<&str> = field.enumeration().collect();
    if !allowed.is_empty() {
        inner["enum"] = allowed.into();
    }
    let mut property = match field.shape {
        Shape::Single => match field.elem {
            Elem::Type(id) => json!({"allOf": [{"$ref": reference(id)}]}),
            Elem::Scalar(_) => inner,
        },
        Shape::List => json!({"type": "array", "items": inner}),
        Shape::Map => json!({"type": "object", "additionalProperties": inner}),
        Shape::MapOfLists => {
            let list = json!({"type": "array", "items": inner});
            json!({"type": "object", "additionalProperties": list})
        }
    };
    if let Ok(default) = serde_json::from_str::<Value>(field.default) {
        property["default"] = default;
    }
    let keys: Vec<&str> = field.map_keys().collect();
    if !keys.is_empty() {
        property["x-kubernetes-list-map-keys"] = keys.into();
    }
    for (name, text) in [
        ("x-kubernetes-list-type", field.list_type()),
        ("x-kubernetes-patch-merge-key", field.merge_key()),
        ("x-kubernetes-patch-strategy", field.patch_strategy()),
        ("x-kubernetes-map-type", if field.atomic_map() { "atomic" } else { "" }),
    ] {
        if !text.is_empty() {
            property[name] = text.into();
        }
    }
    property
}

fn element(elem: Elem) -> Value {
    match elem {
        Elem::Type(id) => json!({"$ref": reference(id)}),
        Elem::Scalar(scalar) => match type_and_format(scalar) {
            (kind, "") => json!({ "type": kind }),
            (kind, format) => json!({"type": kind, "format": format}),
        },
    }
}

/// OpenAPI's words for a scalar.
pub(super) fn type_and_format(scalar: Scalar) -> (&'static str, &'static str) {
    match scalar {
        Scalar::String => ("string", ""),
        Scalar::Bool => ("boolean", ""),
        Scalar::Int32 => ("integer", "int32"),
        Scalar::Int64 => ("integer", "int64"),
        Scalar::Bytes => ("string", "byte"),
        Scalar::Double => ("number", "double"),
    }
}

fn reference(id: TypeId) -> String {
    format!("#/components/schemas/{}", id.full_name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::openapi;

    const RECORDED: &str = include_str!("../../../../data/kubernetes-1.36/openapi-schemas.json");

    #[test]
    fn schemas_equal_the_recorded_ones() {
        let recorded: Value = serde_json::from_str(RECORDED).unwrap();
        let mut seen = 0;
        for id in TypeId::all().filter(|id| !id.inlined_only()) {
            let mut expected = recorded[&id.full_name()].clone();
            expected.as_object_mut().unwrap().remove("x-kubernetes-unions");
            if let Some(Value::Array(required)) = expected.get_mut("required") {
                required.sort_by_key(Value::to_string);
            }
            assert_eq!(schema(id), expected, "{}", id.full_name());
            seen += 1;
        }
        assert!(seen > 200, "{seen}");
    }

    #[test]
    fn documents_are_whole_and_named_by_the_index() {
        let index: Value = serde_json::from_slice(&openapi::v3_index().body).unwrap();
        let mut total_bytes = 0;
        for path in openapi::v3_paths() {
            let document = openapi::v3(&path).unwrap();
            total_bytes += document.body.len();
            assert_eq!(openapi::v3_hash(&path), Some(document.hash.as_str()));
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            assert_eq!(index["paths"][&path]["serverRelativeURL"], url);
            let text = std::str::from_utf8(&document.body).unwrap();
            let whole: Value = serde_json::from_str(text).unwrap();
            for reference in text.split("\"#/components/schemas/").skip(1) {
                let name = reference.split('"').next().unwrap();
                assert!(whole["components"]["schemas"].get(name).is_some(), "{path}: {name}");
            }
        }
        assert!(total_bytes < 600_000, "{total_bytes}");
        assert_eq!(openapi::v3("apis/nope/v1"), None);
    }

    #[test]
    fn patches_say_that_fields_are_validated() {
        let document = openapi::v3("apis/apps/v1").unwrap();
        let whole: Value = serde_json::from_slice(&document.body).unwrap();
        let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        let patch = &whole["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let names: Vec<&Value> =
            patch["parameters"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
        assert_eq!(names, WRITE_PARAMETERS);
        let strategic = "application/strategic-merge-patch+json";
        assert!(patch["requestBody"]["content"].get(strategic).is_some());
    }
}
