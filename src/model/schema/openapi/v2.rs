//! OpenAPI version 2 as protobuf (`openapi.v2.Document` of google/gnostic-models): kubectl up to
//! 1.28 reads nothing else.
//!
//! Field numbers are those of `openapiv2/OpenAPIv2.proto`.

use super::{Document, PATCH_TYPES, VERSION, WRITE_PARAMETERS, collection, document, schemas};
use crate::{
    resource::{RESOURCES, Resource, Verb},
    schema::table::{Elem, Field, Leaf, Scalar, Shape, TypeId},
};

/// GET /openapi/v2 for `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
pub fn v2_protobuf() -> Document {
    let mut paths = Message::default();
    for resource in RESOURCES {
        add_paths(&mut paths, resource);
    }
    let mut definitions = Message::default();
    for id in schemas(RESOURCES.iter()) {
        definitions.named(1, &id.full_name(), schema(id));
    }
    let info = Message::default().text(1, "Kubernetes").text(2, VERSION);
    let whole = Message::default().text(1, "2.0").message(2, info);
    document(whole.message(8, paths).message(9, definitions).0)
}

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn text(mut self, number: u32, text: &str) -> Self {
        self.put(number, text.as_bytes());
        self
    }

    /// A text that is left out when empty.
    fn word(self, number: u32, text: &str) -> Self {
        if text.is_empty() { self } else { self.text(number, text) }
    }

    fn message(mut self, number: u32, inner: Message) -> Self {
        self.put(number, &inner.0);
        self
    }

    /// A `Named...` message: {1: name, 2: value}.
    fn named(&mut self, number: u32, name: &str, value: Message) {
        let entry = Message::default().text(1, name).message(2, value);
        self.put(number, &entry.0);
    }

    /// A vendor extension: a name and `Any {2: yaml}`. JSON is YAML.
    fn extension(&mut self, number: u32, name: &str, json: &str) {
        self.named(number, name, Message::default().text(2, json));
    }

    fn put(&mut self, number: u32, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(u32::try_from(bytes.len()).expect("a document is far below 4 GiB"));
        self.0.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// `PathItem`s: 2 get, 3 put, 4 post, 5 delete, 8 patch.
fn add_paths(paths: &mut Message, resource: &Resource) {
    let all = collection(resource);
    let item = |verbs: &[(Verb, u32)]| {
        let mut item = Message::default();
        for (verb, number) in verbs {
            if resource.allows(*verb) {
                item = item.message(*number, operation(resource, *verb));
            }
        }
        item
    };
    let many = item(&[(Verb::List, 2), (Verb::Create, 4)]);
    paths.named(2, &all, many);
    let one = item(&[(Verb::Get, 2), (Verb::Update, 3), (Verb::Delete, 5), (Verb::Patch, 8)]);
    if !one.0.is_empty() {
        paths.named(2, &format!("{all}/{{name}}"), one);
    }
}

fn operation(resource: &Resource, verb: Verb) -> Message {
    let mut operation = Message::default();
    let consumes: &[&str] = if verb == Verb::Patch { &PATCH_TYPES } else { &["*/*"] };
    for kind in consumes {
        operation = operation.text(7, kind);
    }
    if matches!(verb, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete) {
        for name in WRITE_PARAMETERS {
            // QueryParameterSubSchema {2 in, 4 name, 6 type} in three wrappers.
            let query = Message::default().text(2, "query").text(4, name).text(6, "string");
            let other = Message::default().message(3, query);
            let parameter = Message::default().message(2, other);
            operation = operation.message(8, Message::default().message(1, parameter));
        }
    }
    let response = Message::default().message(1, Message::default().text(1, "OK"));
    let mut responses = Message::default();
    responses.named(1, "200", response);
    operation = operation.message(9, responses);
    let kind = [resource.group, resource.version, resource.kind];
    operation.extension(13, "x-kubernetes-group-version-kind", &gvk(kind));
    let action = match verb {
        Verb::Create => "post",
        Verb::Update => "put",
        other => other.as_str(),
    };
    operation.extension(13, "x-kubernetes-action", action);
    operation
}

fn gvk([group, version, kind]: [&str; 3]) -> String {
    format!("{{\"group\": \"{group}\", \"kind\": \"{kind}\", \"version\": \"{version}\"}}")
}

/// `Schema`: 1 ref, 2 format, 5 default, 19 required, 21 additional properties, 22 type, 23 items,
/// 25 properties, 31 extensions.
fn schema(id: TypeId) -> Message {
    match id.leaf() {
        Leaf::Quantity => return typed("string", ""),
        Leaf::IntOrString => return typed("string", "int-or-string"),
        Leaf::Time | Leaf::MicroTime => return typed("string", "date-time"),
        Leaf::RawExtension | Leaf::FieldsV1 => return typed("object", ""),
        Leaf::Struct => {}
    }
    let mut fields = id.fields();
    fields.sort_by_key(|field| field.name);
    let mut schema = Message::default();
    let mut properties = Message::default();
    for field in &fields {
        if field.required() {
            schema = schema.text(19, field.name);
        }
        properties.named(1, field.name, property(field));
    }
    schema = schema.message(22, Message::default().text(1, "object")).message(25, properties);
    let kinds: Vec<String> = id.kinds().map(gvk).collect();
    if !kinds.is_empty() {
        let list = format!("[{}]", kinds.join(", "));
        schema.extension(31, "x-kubernetes-group-version-kind", &list);
    }
    if id.atomic() {
        schema.extension(31, "x-kubernetes-map-type", "atomic");
    }
    schema
}

fn typed(kind: &str, format: &str) -> Message {
    Message::default().word(2, format).message(22, Message::default().text(1, kind))
}

fn property(field: &Field) -> Message {
    let inner = element(field.elem);
    let mut property = match field.shape {
        Shape::Single => inner,
        Shape::List => list_of(inner),
        Shape::Map => map_of(inner),
        Shape::MapOfLists => map_of(list_of(inner)),
    };
    if !field.default.is_empty() {
        property = property.message(5, Message::default().text(2, field.default));
    }
    let keys: Vec<&str> = field.map_keys().collect();
    if !keys.is_empty() {
        let list = format!("[{}]", keys.join(", "));
        property.extension(31, "x-kubernetes-list-map-keys", &list);
    }
    for (name, text) in [
        ("x-kubernetes-list-type", field.list_type()),
        ("x-kubernetes-patch-merge-key", field.merge_key()),
        ("x-kubernetes-patch-strategy", field.patch_strategy()),
    ] {
        if !text.is_empty() {
            property.extension(31, name, text);
        }
    }
    property
}

fn list_of(inner: Message) -> Message {
    Message::default()
        .message(22, Message::default().text(1, "array"))
        .message(23, Message::default().message(1, inner))
}

fn map_of(inner: Message) -> Message {
    Message::default()
        .message(21, Message::default().message(1, inner))
        .message(22, Message::default().text(1, "object"))
}

fn element(elem: Elem) -> Message {
    match elem {
        Elem::Type(id) => Message::default().text(1, &format!("#/definitions/{}", id.full_name())),
        Elem::Scalar(scalar) => {
            let (kind, format) = super::v3::type_and_format(scalar);
            // Version 2 knows bytes by their format alone.
            typed(kind, if scalar == Scalar::String { "" } else { format })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a message into its length-delimited fields.
    fn fields(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
        let mut found = Vec::new();
        let varint = |bytes: &mut &[u8]| {
            let (mut value, mut shift) = (0u32, 0);
            loop {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u32::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
        };
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            assert_eq!(tag & 7, 2);
            let len = varint(&mut bytes) as usize;
            found.push((tag >> 3, &bytes[..len]));
            bytes = &bytes[len..];
        }
        found
    }

    #[test]
    fn every_kind_has_a_definition_and_every_reference_a_target() {
        let body = v2_protobuf().body;
        let whole = fields(&body);
        assert_eq!(whole[0], (1, b"2.0".as_slice()));
        let definitions = fields(whole.iter().find(|(n, _)| *n == 9).unwrap().1);
        let mut names = Vec::new();
        for (_, entry) in &definitions {
            names.push(std::str::from_utf8(fields(entry)[0].1).unwrap());
        }
        for resource in RESOURCES {
            assert!(names.contains(&resource.schema.full_name().as_str()), "{}", resource.key);
        }
        let text = String::from_utf8_lossy(&body);
        for reference in text.split("#/definitions/").skip(1) {
            assert!(names.iter().any(|name| reference.starts_with(name)), "{reference:.60}");
        }
        let paths = fields(whole.iter().find(|(n, _)| *n == 8).unwrap().1);
        assert!(paths.len() > RESOURCES.len());
        assert!(body.len() < 600_000, "{}", body.len());
    }
}
