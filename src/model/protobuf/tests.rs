//! Bodies that real clients sent, round trips of recorded objects, and garbage.

use serde_json::json;

use super::*;
use crate::{
    resource::{RESOURCES, by_kind},
    schema::check,
};

const RECORDED: &str = include_str!("../../../tests/data/defaulting-and-validation.jsonl");

macro_rules! sent {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/data/protobuf/", $name, ".bin"))
    };
}

#[test]
fn bodies_of_kubectl_have_no_zero_noise() {
    let deployment = decode(sent!("kubectl-1.33-deployment")).unwrap();
    assert_eq!(
        deployment,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "x", "labels": {"app": "x"}},
            "spec": {
                "replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "strategy": {},
                "template": {
                    "metadata": {"labels": {"app": "x"}},
                    "spec": {"containers": [{
                        "name": "a", "image": "a:1", "ports": [{"containerPort": 80}],
                        "resources": {},
                    }]},
                },
            },
            "status": {},
        })
    );
    let other = decode(sent!("kubectl-1.32-deployment")).unwrap();
    let container = &other["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["command"], json!(["sleep", "1"]));
    assert_eq!(other["spec"]["replicas"], 1);
    assert_eq!(
        decode(sent!("kubectl-1.33-configmap")).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"},
               "data": {"a": "1", "empty": ""}})
    );
    assert_eq!(
        decode(sent!("kubectl-1.33-secret")).unwrap(),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
               "data": {"a": "aGVsbG8="}})
    );
    assert_eq!(
        decode(sent!("kubectl-1.33-namespace")).unwrap(),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"},
               "spec": {}, "status": {}})
    );
    assert_eq!(
        decode(sent!("kubectl-1.33-serviceaccount")).unwrap(),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}})
    );
    let port = |name: &str, target: Value| json!({"name": name, "port": 80, "protocol": "TCP", "targetPort": target});
    let clusterip = decode(sent!("kubectl-1.33-service-clusterip")).unwrap();
    assert_eq!(clusterip["spec"]["ports"], json!([port("80-8080", json!(8080))]));
    assert_eq!(clusterip["status"], json!({"loadBalancer": {}}));
    let nodeport = decode(sent!("kubectl-1.33-service-nodeport")).unwrap();
    let mut expected = port("80-web", json!("web"));
    expected["nodePort"] = 30080.into();
    assert_eq!(nodeport["spec"]["ports"], json!([expected]));
}

#[test]
fn recorded_objects_come_back() {
    let mut seen = std::collections::BTreeSet::new();
    for line in RECORDED.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let mut object = case["answer"].clone();
        let text = |name: &str| object[name].as_str().unwrap_or("").to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let Some(resource) = by_kind(group, version, &kind) else { continue };
        check(resource, &mut object).unwrap();
        let bytes = encode(resource.schema, &api_version, &kind, &object);
        assert_eq!(decode(&bytes).unwrap(), object, "{}", case["case"]);
        seen.insert(kind);
    }
    assert!(seen.len() >= 13, "{seen:?}");
}

#[test]
fn shared_types_are_found_under_every_group() {
    let id = TypeId::named(&format!("{META}.DeleteOptions")).unwrap();
    let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground",
                         "preconditions": {"uid": "u"}});
    for api_version in ["v1", "apps/v1", "meta.k8s.io/v1", "policy/v1beta1"] {
        let decoded = decode(&encode(id, api_version, "DeleteOptions", &options)).unwrap();
        assert_eq!(decoded["gracePeriodSeconds"], 0);
        assert_eq!(decoded["preconditions"], json!({"uid": "u"}));
    }
    for (api_version, kind, object) in [
        ("autoscaling/v1", "Scale", json!({"metadata": {"name": "x"}, "spec": {"replicas": 3}})),
        ("policy/v1", "Eviction", json!({"metadata": {"name": "x"}, "deleteOptions": {}})),
        ("v1", "Binding", json!({"metadata": {"name": "x"}, "target": {"name": "n"}})),
        (
            "authorization.k8s.io/v1",
            "SubjectAccessReview",
            json!({"metadata": {}, "spec": {
                "user": "jane", "groups": ["dev"], "extra": {"scopes": ["a", "b"], "none": []},
                "nonResourceAttributes": {"path": "/x", "verb": "get"},
            }, "status": {"allowed": false}}),
        ),
    ] {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let id = TypeId::of_kind(group, version, kind).unwrap();
        let decoded = decode(&encode(id, api_version, kind, &object)).unwrap();
        assert_eq!(decoded["metadata"]["name"], object["metadata"]["name"], "{decoded}");
        assert_eq!(decoded["spec"]["extra"], object["spec"]["extra"], "{decoded}");
    }
}

#[test]
fn odd_encodings_are_read() {
    // A list of integers, packed: NodeStatus has none, supplementalGroups = 4 of PodSecurityContext.
    let id = TypeId::named("io.k8s.api.core.v1.PodSecurityContext").unwrap();
    let mut fields = Map::new();
    let packed = [0x22, 0x03, 0x01, 0xac, 0x02, 0x20, 0x05];
    Decoder { values: 0 }.message(id, &packed, &mut fields, 0).unwrap();
    assert_eq!(Value::Object(fields), json!({"supplementalGroups": [1, 300, 5]}));
    // Unknown fields of every wire type are skipped.
    let mut fields = Map::new();
    let unknown = [
        0xf8, 0x07, 1, 0xf9, 0x07, 0, 0, 0, 0, 0, 0, 0, 0, 0xfa, 0x07, 1, 0, 0xfd, 0x07, 0, 0, 0, 0,
    ];
    Decoder { values: 0 }.message(id, &unknown, &mut fields, 0).unwrap();
    assert!(fields.is_empty());
}

#[test]
fn garbage_is_refused() {
    let refused = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
    assert_eq!(
        refused(b"{}"),
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    );
    assert_eq!(refused(b"k8s\0\x0a\x05"), "unexpected EOF");
    assert_eq!(refused(b"k8s\0\x0b"), "proto: illegal wireType");
    assert_eq!(refused(b"k8s\0\x00"), "proto: illegal tag");
    assert_eq!(
        refused(b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        "proto: integer overflow"
    );
    let nothing = encode(TypeId(0), "v1", "Nope", &json!({}));
    assert_eq!(refused(&nothing), "no kind \"Nope\" is registered for version \"v1\"");
    let pod = by_kind("", "v1", "Pod").unwrap().schema;
    let bad = json!({"spec": {"overhead": {"cpu": "abc"}}});
    assert!(refused(&encode(pod, "v1", "Pod", &bad)).starts_with("quantities must match"));
}

#[test]
fn every_prefix_and_flipped_byte_gives_an_answer() {
    let whole = sent!("kubectl-1.33-deployment");
    for end in 0..whole.len() {
        let _ = decode(&whole[..end]);
    }
    let mut mutated = whole.to_vec();
    for at in 0..whole.len() {
        for bit in 0..8 {
            mutated[at] ^= 1 << bit;
            let _ = decode(&mutated);
            mutated[at] ^= 1 << bit;
        }
    }
}

#[test]
fn random_bodies_give_an_answer() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for resource in RESOURCES {
        for len in 0..200 {
            let mut raw = Vec::with_capacity(len);
            for _ in 0..len {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Small bytes make plausible tags and lengths.
                raw.push(if state & 0x100 == 0 { state as u8 } else { state as u8 & 0x3f });
            }
            let mut body = MAGIC.to_vec();
            let mut meta = Vec::new();
            put_bytes(&mut meta, 1, resource.api_version().as_bytes());
            put_bytes(&mut meta, 2, resource.kind.as_bytes());
            put_bytes(&mut body, 1, &meta);
            put_bytes(&mut body, 2, &raw);
            if let Ok(object) = decode(&body) {
                assert_eq!(object["kind"], resource.kind);
            }
        }
    }
}

/// The test's own encoder: the table read the other way round.
fn encode(id: TypeId, api_version: &str, kind: &str, object: &Value) -> Vec<u8> {
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut body = MAGIC.to_vec();
    put_bytes(&mut body, 1, &meta);
    put_bytes(&mut body, 2, &message(id, object));
    put_bytes(&mut body, 3, b"");
    body
}

fn message(id: TypeId, object: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for field in id.declared() {
        if field.inline() {
            let Elem::Type(inner) = field.elem else { continue };
            put_bytes(&mut out, field.number, &message(inner, object));
            continue;
        }
        let value = &object[field.name];
        if field.number == 0 || value.is_null() {
            continue;
        }
        match (field.shape, value) {
            (Shape::List, Value::Array(list)) => {
                for item in list {
                    put(&mut out, field.number, field.elem, item);
                }
            }
            (Shape::Map, Value::Object(map)) => {
                for (key, item) in map {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    put(&mut entry, 2, field.elem, item);
                    put_bytes(&mut out, field.number, &entry);
                }
            }
            (Shape::MapOfLists, Value::Object(map)) => {
                for (key, items) in map {
                    let (mut entry, mut list) = (Vec::new(), Vec::new());
                    put_bytes(&mut entry, 1, key.as_bytes());
                    for item in items.as_array().unwrap() {
                        put(&mut list, 1, field.elem, item);
                    }
                    put_bytes(&mut entry, 2, &list);
                    put_bytes(&mut out, field.number, &entry);
                }
            }
            _ => put(&mut out, field.number, field.elem, value),
        }
    }
    out
}

fn put(out: &mut Vec<u8>, number: u8, elem: Elem, value: &Value) {
    let text = value.as_str().unwrap_or("");
    match elem {
        Elem::Scalar(Scalar::String) => put_bytes(out, number, text.as_bytes()),
        Elem::Scalar(Scalar::Bytes) => {
            put_bytes(out, number, &BASE64_STANDARD.decode(text).unwrap());
        }
        Elem::Scalar(Scalar::Bool) => put_varint(out, number, u64::from(value == true)),
        Elem::Scalar(Scalar::Int32 | Scalar::Int64) => {
            put_varint(out, number, value.as_i64().unwrap() as u64);
        }
        Elem::Scalar(Scalar::Double) => unreachable!("no served type has a double"),
        Elem::Type(id) => {
            let mut inner = Vec::new();
            match (id.leaf(), value) {
                (Leaf::Struct, _) => inner = message(id, value),
                (Leaf::Quantity, _) => put_bytes(&mut inner, 1, text.as_bytes()),
                (Leaf::IntOrString, Value::String(text)) => {
                    put_varint(&mut inner, 1, 1);
                    put_varint(&mut inner, 2, 0);
                    put_bytes(&mut inner, 3, text.as_bytes());
                }
                (Leaf::IntOrString, _) => {
                    put_varint(&mut inner, 1, 0);
                    put_varint(&mut inner, 2, value.as_i64().unwrap() as u64);
                    put_bytes(&mut inner, 3, b"");
                }
                (Leaf::Time | Leaf::MicroTime, _) => {
                    let time = Timestamp::parse(text).unwrap();
                    put_varint(&mut inner, 1, time.seconds() as u64);
                    put_varint(&mut inner, 2, (time.0.rem_euclid(1_000_000) * 1_000) as u64);
                }
                (Leaf::RawExtension | Leaf::FieldsV1, _) => {
                    put_bytes(&mut inner, 1, value.to_string().as_bytes());
                }
            }
            put_bytes(out, number, &inner);
        }
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_varint(out: &mut Vec<u8>, number: u8, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
