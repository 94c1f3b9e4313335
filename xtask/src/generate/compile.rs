//! From recorded schemas to types and fields: closure over references, shapes, flags.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::source::{GoField, Source};

/// What an element is: a scalar or a type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Elem {
    /// Code of `model::schema::Scalar`.
    Scalar(u16),
    /// A type by its schema name.
    Type(String),
}

/// A field of a type.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    pub elem: Elem,
    /// 0 single, 1 list, 2 map, 3 map of lists.
    pub shape: u8,
    pub number: u8,
    pub flags: u8,
    /// Go's name of the type where it does not follow from shape and element.
    pub go_type: String,
    /// JSON text, or empty.
    pub default: String,
    pub enumeration: Vec<String>,
    pub list: ListRules,
}

/// How lists and maps merge.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ListRules {
    /// `atomic`, `set`, `map` or empty.
    pub list_type: String,
    pub map_keys: Vec<String>,
    pub merge_key: String,
    /// `merge`, `replace`, `retainKeys`, `merge,retainKeys` or empty.
    pub strategy: String,
}

/// A type: a struct or a leaf with its own encoding.
#[derive(Clone, Debug)]
pub(super) struct Type {
    /// Schema name.
    pub name: String,
    /// Code of `model::schema::Leaf`; 0 is a struct.
    pub leaf: u8,
    /// Sorted by name, inlined ones last.
    pub fields: Vec<Field>,
    /// Bit 0: the whole value merges as one; bit 1: only ever inlined, not in OpenAPI.
    pub flags: u8,
    /// `[group, version, kind]...` of the kinds it is the schema of.
    pub kinds: Vec<String>,
}

pub(super) const REQUIRED: u8 = 1;
pub(super) const POINTER: u8 = 2;
pub(super) const OMIT_EMPTY: u8 = 4;
pub(super) const OMIT_ZERO: u8 = 8;
pub(super) const INLINE: u8 = 16;
pub(super) const ATOMIC_MAP: u8 = 32;

const SCALARS: [(&str, &str, &str); 6] = [
    ("string", "", "string"),
    ("boolean", "", "bool"),
    ("integer", "int32", "int32"),
    ("integer", "int64", "int64"),
    ("string", "byte", "[]uint8"),
    ("number", "double", "float64"),
];

const LEAVES: [(&str, u8); 6] = [
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", 1),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", 2),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", 3),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", 4),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", 5),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", 6),
];

/// Every type that `roots` reach, sorted by name.
pub(super) fn compile(source: &Source, roots: &[String]) -> Result<BTreeMap<String, Type>> {
    let mut types = BTreeMap::new();
    let mut todo: Vec<String> = roots.to_vec();
    while let Some(name) = todo.pop() {
        if types.contains_key(&name) {
            continue;
        }
        let schema = source.schemas.get(&name).with_context(|| format!("no schema {name}"))?;
        for compiled in compile_type(source, &name, schema)? {
            for field in &compiled.fields {
                if let (Elem::Type(to), false) = (&field.elem, field.flags & INLINE != 0) {
                    todo.push(to.clone());
                }
            }
            check_message(source, &compiled)?;
            let name = compiled.name.clone();
            if let Some(known) = types.insert(name.clone(), compiled.clone()) {
                let same = format!("{:?}", known.fields) == format!("{:?}", compiled.fields);
                ensure!(same, "{name} is inlined with two meanings");
            }
        }
    }
    Ok(types)
}

/// The type `name`, and those that it inlines and that have no schema of their own.
fn compile_type(source: &Source, name: &str, schema: &Value) -> Result<Vec<Type>> {
    let leaf = LEAVES.iter().find(|(leaf, _)| *leaf == name).map_or(0, |(_, code)| *code);
    let kinds = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
    let words = ["group", "version", "kind"];
    let mut made = Type {
        name: name.to_owned(),
        leaf,
        fields: Vec::new(),
        flags: u8::from(schema["x-kubernetes-map-type"] == "atomic"),
        kinds: kinds.flat_map(|k| words.map(|w| k[w].as_str().unwrap_or("").into())).collect(),
    };
    let mut all = Vec::new();
    if leaf == 0 {
        made.fields = fields(source, name, schema, &mut all)?;
    }
    all.push(made);
    Ok(all)
}

fn fields(source: &Source, name: &str, schema: &Value, all: &mut Vec<Type>) -> Result<Vec<Field>> {
    let declared = source.go.get(name).with_context(|| format!("no Go type {name}"))?;
    let (mut own, mut inlined) = (Vec::new(), Vec::new());
    for go in declared {
        if go.has("inline") && go.go_type == "v1.TypeMeta" {
            for text in ["apiVersion", "kind"] {
                own.push(scalar_field(text));
            }
        } else if go.has("inline") {
            let package = name.rsplit_once('.').map_or("", |(package, _)| package);
            let bare = go.go_type.rsplit('.').next().unwrap_or(&go.go_type);
            let target = format!("{package}.{bare}");
            if let Some(schema) = source.schemas.get(&target) {
                all.extend(compile_type(source, &target, schema)?);
            } else {
                let fields = fields(source, &target, schema, all)?;
                let name = target.clone();
                all.push(Type { name, leaf: 0, fields, flags: 2, kinds: Vec::new() });
            }
            inlined.push(inline_field(go, target));
        } else {
            let property = schema["properties"].get(&go.json);
            let property = property.with_context(|| format!("{name} has no {}", go.json))?;
            let required = schema["required"].as_array();
            let required = required.is_some_and(|r| r.iter().any(|r| r == go.json.as_str()));
            own.push(field(go, property, required).with_context(|| format!("{name}.{}", go.json))?);
        }
    }
    own.sort_by(|a, b| a.name.cmp(&b.name));
    own.extend(inlined);
    Ok(own)
}

fn scalar_field(name: &str) -> Field {
    Field {
        name: name.into(),
        elem: Elem::Scalar(0),
        shape: 0,
        number: 0,
        flags: OMIT_EMPTY,
        go_type: String::new(),
        default: String::new(),
        enumeration: Vec::new(),
        list: ListRules::default(),
    }
}

fn inline_field(go: &GoField, target: String) -> Field {
    let (elem, number) = (Elem::Type(target), go.number);
    Field { elem, number, flags: INLINE, ..scalar_field("") }
}

fn field(go: &GoField, property: &Value, required: bool) -> Result<Field> {
    let (shape, elem) = shape(property)?;
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let bare = go.go_type.trim_start_matches('*').replace("[]byte", "[]uint8");
    let derived = go_name(shape, &elem);
    let inner = property.get("items").or_else(|| property.get("additionalProperties"));
    let inner = inner.unwrap_or(property);
    let words = |of: &Value, name: &str| -> Vec<String> {
        let list = of[name].as_array().into_iter().flatten();
        list.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let word = |name: &str| property[name].as_str().unwrap_or("").to_owned();
    Ok(Field {
        name: go.json.clone(),
        elem,
        shape,
        number: go.number,
        flags: flag(required, REQUIRED)
            | flag(go.go_type.starts_with('*'), POINTER)
            | flag(go.has("omitempty"), OMIT_EMPTY)
            | flag(go.has("omitzero"), OMIT_ZERO)
            | flag(property["x-kubernetes-map-type"] == "atomic", ATOMIC_MAP),
        go_type: if bare == derived { String::new() } else { bare },
        default: property.get("default").map(Value::to_string).unwrap_or_default(),
        enumeration: words(inner, "enum"),
        list: ListRules {
            list_type: word("x-kubernetes-list-type"),
            map_keys: words(property, "x-kubernetes-list-map-keys"),
            merge_key: word("x-kubernetes-patch-merge-key"),
            strategy: word("x-kubernetes-patch-strategy"),
        },
    })
}

fn shape(property: &Value) -> Result<(u8, Elem)> {
    if let Some(items) = property.get("items") {
        return Ok((1, elem(items)?));
    }
    match property.get("additionalProperties") {
        Some(inner) if inner.get("items").is_some() => Ok((3, elem(&inner["items"])?)),
        Some(inner) => Ok((2, elem(inner)?)),
        None => Ok((0, elem(property)?)),
    }
}

fn elem(property: &Value) -> Result<Elem> {
    let target = property.get("$ref").or_else(|| property.pointer("/allOf/0/$ref"));
    if let Some(target) = target.and_then(Value::as_str) {
        let name = target.rsplit('/').next().unwrap_or(target);
        return Ok(Elem::Type(name.to_owned()));
    }
    let kind = property["type"].as_str().unwrap_or("");
    let format = property["format"].as_str().unwrap_or("");
    let known = SCALARS.iter().position(|(k, f, _)| *k == kind && *f == format);
    match known {
        Some(code) => Ok(Elem::Scalar(code as u16)),
        None => bail!("no scalar for {property}"),
    }
}

fn go_name(shape: u8, elem: &Elem) -> String {
    let inner = match elem {
        Elem::Scalar(code) => SCALARS[usize::from(*code)].2.to_owned(),
        Elem::Type(name) => {
            let mut parts = name.rsplit('.');
            let (last, package) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            format!("{package}.{last}")
        }
    };
    ["", "[]", "map[string]", "map[string][]"][usize::from(shape)].to_owned() + &inner
}

/// The Go declarations and the recorded protobuf fields must agree.
fn check_message(source: &Source, made: &Type) -> Result<()> {
    if made.leaf != 0 {
        return Ok(());
    }
    let name = made.name.replacen("io.k8s.", "k8s.io.", 1);
    let message = source.messages.get(&name).with_context(|| format!("no message {name}"))?;
    for (number, field, kind) in message {
        let found = made.fields.iter().find(|f| u32::from(f.number) == *number);
        let found = found.with_context(|| format!("{name}.{field} = {number} has no Go field"))?;
        let list = kind.starts_with("repeated ");
        let map = kind.starts_with("map<");
        ensure!(list == (found.shape == 1) && map == (found.shape >= 2), "{name}.{field}: {kind}");
        let inner = kind.trim_start_matches("repeated ").trim_start_matches("map<string, ");
        let scalar = matches!(
            inner.trim_end_matches('>'),
            "string" | "bool" | "int32" | "int64" | "bytes" | "double"
        );
        // A list in a map is a message of its own.
        let agree = found.shape == 3 || scalar == matches!(found.elem, Elem::Scalar(_));
        ensure!(agree, "{name}.{field}: {kind}");
    }
    Ok(())
}
