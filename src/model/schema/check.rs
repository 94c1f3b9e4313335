//! Checks an object against its schema and brings it into the form that Go would write.
//!
//! A real API server decodes a body into Go structs and encodes those again. [`check`] does to a
//! [`Value`] what that does: unknown fields go (and are reported), nulls go, values of a wrong type
//! are refused in Go's words, quantities, times and base64 become canonical, empty values go where
//! Go leaves them out, and zero values come where Go writes them (`resources: {}`, `status: {}`,
//! `"name": ""` of a container). Checking an object twice changes nothing.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::{
    issue::{FieldIssue, Issues},
    table::{Elem, Field, Leaf, Scalar, Shape, TypeId},
    time::refusal,
};
use crate::{quantity::Quantity, resource::Resource, timestamp::Timestamp};

/// Checks and normalises an object of `resource`; answers what strict validation would refuse.
///
/// # Errors
/// A wrong type, in the words of Go's decoder (`json: cannot unmarshal bool into Go struct field
/// ObjectMeta.metadata.name of type string`).
pub fn check(resource: &Resource, object: &mut Value) -> Result<Vec<FieldIssue>, String> {
    check_type(resource.schema, object)
}

/// [`check`] for a type that is no kind of its own: `Scale`, `DeleteOptions`, `Binding`.
///
/// # Errors
/// As [`check`].
pub fn check_type(id: TypeId, object: &mut Value) -> Result<Vec<FieldIssue>, String> {
    let Value::Object(map) = object else {
        let (what, name) = (go_value(object), id.go_name());
        return Err(format!("json: cannot unmarshal {what} into Go value of type {name}"));
    };
    let mut walk = Walk::default();
    walk.object(id, map)?;
    Ok(walk.issues.list)
}

#[derive(Default)]
struct Walk {
    /// Path for issues, with list indexes and map keys.
    path: String,
    /// Path for type errors: field names alone.
    names: Vec<&'static str>,
    issues: Issues,
}

impl Walk {
    fn object(&mut self, id: TypeId, map: &mut Map<String, Value>) -> Result<(), String> {
        let mut gone = Vec::new();
        for (name, value) in map.iter_mut() {
            let mark = self.enter(name);
            if let Some(field) = id.field(name) {
                self.names.push(field.name);
                self.field(id, &field, value)?;
                self.names.pop();
            } else {
                self.issues.unknown(&self.path);
                *value = Value::Null;
            }
            self.path.truncate(mark);
            if value.is_null() {
                gone.push(name.clone());
            }
        }
        for name in gone {
            map.remove(&name);
        }
        complete(id, map);
        Ok(())
    }

    fn field(&mut self, id: TypeId, field: &Field, value: &mut Value) -> Result<(), String> {
        if value.is_null() {
            return Ok(());
        }
        match field.shape {
            Shape::Single => self.element(id, field, field.go_type(), value),
            Shape::List => self.list(id, field, value),
            Shape::Map | Shape::MapOfLists => self.map(id, field, value),
        }
    }

    fn list(&mut self, id: TypeId, field: &Field, value: &mut Value) -> Result<(), String> {
        let Value::Array(items) = value else {
            return Err(self.mismatch(id, value, &field.go_type()));
        };
        for (index, item) in items.iter_mut().enumerate() {
            let mark = self.path.len();
            self.path.push_str(&format!("[{index}]"));
            if item.is_null() {
                *item = zero(field.elem);
            }
            self.element(id, field, field.go_element(), item)?;
            self.path.truncate(mark);
        }
        Ok(())
    }

    fn map(&mut self, id: TypeId, field: &Field, value: &mut Value) -> Result<(), String> {
        let Value::Object(entries) = value else {
            return Err(self.mismatch(id, value, &field.go_type()));
        };
        for (key, item) in entries.iter_mut() {
            let mark = self.enter(key);
            if field.shape == Shape::MapOfLists {
                if item.is_null() {
                    *item = Value::Array(Vec::new());
                }
                self.list(id, field, item)?;
            } else {
                if item.is_null() {
                    *item = zero(field.elem);
                }
                self.element(id, field, field.go_element(), item)?;
            }
            self.path.truncate(mark);
        }
        Ok(())
    }

    fn element(
        &mut self,
        id: TypeId,
        field: &Field,
        go_type: String,
        value: &mut Value,
    ) -> Result<(), String> {
        match field.elem {
            Elem::Scalar(scalar) => self.scalar(id, scalar, &go_type, value),
            Elem::Type(inner) if inner.leaf() == Leaf::Struct => match value {
                Value::Object(map) => self.object(inner, map),
                _ => Err(self.mismatch(id, value, &go_type)),
            },
            Elem::Type(inner) => self.leaf(id, inner.leaf(), value),
        }
    }

    fn scalar(
        &self,
        id: TypeId,
        scalar: Scalar,
        go_type: &str,
        value: &mut Value,
    ) -> Result<(), String> {
        let fits = match (scalar, &*value) {
            (Scalar::String | Scalar::Bytes, Value::String(_)) => true,
            (Scalar::Bool, Value::Bool(_)) | (Scalar::Double, Value::Number(_)) => true,
            (Scalar::Int32 | Scalar::Int64, Value::Number(number)) => {
                let fits = match scalar {
                    Scalar::Int32 => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                    _ => number.as_i64().is_some(),
                };
                if !fits {
                    let what = format!("number {number}");
                    return Err(self.mismatch_text(id, &what, go_type));
                }
                true
            }
            _ => false,
        };
        match (fits, scalar) {
            (false, _) => Err(self.mismatch(id, value, go_type)),
            (true, Scalar::Bytes) => canonical_base64(value),
            (true, _) => Ok(()),
        }
    }

    fn leaf(&self, id: TypeId, leaf: Leaf, value: &mut Value) -> Result<(), String> {
        match leaf {
            Leaf::Quantity => canonical_quantity(value),
            Leaf::IntOrString => match value {
                Value::String(_) => Ok(()),
                _ => self.scalar(id, Scalar::Int32, "int32", value),
            },
            Leaf::Time | Leaf::MicroTime => {
                let Value::String(text) = value else {
                    return Err(self.mismatch(id, value, "string"));
                };
                let layout = match leaf {
                    Leaf::Time => "2006-01-02T15:04:05Z07:00",
                    _ => "2006-01-02T15:04:05.000000Z07:00",
                };
                if let Some(why) = refusal(text, layout) {
                    return Err(why);
                }
                // A comma before the fraction is Go's own liberty.
                let Some(time) = Timestamp::parse(&text.replace(',', ".")) else {
                    return Err(format!("parsing time {text:?}: year out of range"));
                };
                *text = match leaf {
                    Leaf::Time => Timestamp::from_seconds(time.seconds()).to_string(),
                    _ => time.micro(),
                };
                Ok(())
            }
            Leaf::RawExtension | Leaf::FieldsV1 | Leaf::Struct => Ok(()),
        }
    }

    fn enter(&mut self, name: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        mark
    }

    fn mismatch(&self, id: TypeId, value: &Value, go_type: &str) -> String {
        self.mismatch_text(id, go_value(value), go_type)
    }

    fn mismatch_text(&self, id: TypeId, what: &str, go_type: &str) -> String {
        let (name, path) = (id.name(), self.names.join("."));
        format!(
            "json: cannot unmarshal {what} into Go struct field {name}.{path} of type {go_type}"
        )
    }
}

/// Removes what Go leaves out of a checked object, and adds the zero values that Go writes.
fn complete(id: TypeId, map: &mut Map<String, Value>) {
    for field in id.declared() {
        if field.inline() {
            if let Elem::Type(inner) = field.elem {
                complete(inner, map);
            }
            continue;
        }
        match map.get(field.name) {
            Some(value) if omitted(&field, value) => {
                map.remove(field.name);
            }
            Some(_) => {}
            None => {
                if let Some(value) = written_zero(&field) {
                    map.insert(field.name.to_owned(), value);
                }
            }
        }
    }
}

/// Go's `omitempty`: empty text, zero, false, no elements; never a pointer or a struct.
fn omitted(field: &Field, value: &Value) -> bool {
    if field.pointer() || !field.omit_empty() {
        return false;
    }
    match (field.shape, value) {
        (Shape::List, Value::Array(items)) => items.is_empty(),
        (Shape::Map | Shape::MapOfLists, Value::Object(entries)) => entries.is_empty(),
        (Shape::Single, value) => match field.elem {
            Elem::Scalar(scalar) => is_zero(scalar, value),
            Elem::Type(_) => field.omit_zero() && value.as_object().is_some_and(Map::is_empty),
        },
        _ => false,
    }
}

fn is_zero(scalar: Scalar, value: &Value) -> bool {
    match scalar {
        Scalar::String | Scalar::Bytes => value.as_str() == Some(""),
        Scalar::Bool => value.as_bool() == Some(false),
        Scalar::Int32 | Scalar::Int64 => value.as_i64() == Some(0),
        Scalar::Double => value.as_f64() == Some(0.0),
    }
}

/// The zero value that Go writes for an absent field, if it writes one.
fn written_zero(field: &Field) -> Option<Value> {
    if field.pointer() || field.omit_zero() || field.shape != Shape::Single {
        return None;
    }
    match field.elem {
        Elem::Scalar(_) => (!field.omit_empty()).then(|| zero(field.elem)),
        Elem::Type(inner) => match inner.leaf() {
            Leaf::Struct | Leaf::Quantity => Some(zero(field.elem)),
            // A port that is absent stays absent: defaulting fills it, validation refuses it.
            Leaf::IntOrString => None,
            // Go writes null, which nobody reads.
            Leaf::Time | Leaf::MicroTime | Leaf::RawExtension | Leaf::FieldsV1 => None,
        },
    }
}

fn zero(elem: Elem) -> Value {
    match elem {
        Elem::Scalar(Scalar::String | Scalar::Bytes) => "".into(),
        Elem::Scalar(Scalar::Bool) => false.into(),
        Elem::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => 0.into(),
        Elem::Type(inner) => match inner.leaf() {
            Leaf::Struct => {
                let mut map = Map::new();
                complete(inner, &mut map);
                Value::Object(map)
            }
            Leaf::Quantity => "0".into(),
            Leaf::IntOrString => 0.into(),
            Leaf::Time | Leaf::MicroTime | Leaf::RawExtension | Leaf::FieldsV1 => Value::Null,
        },
    }
}

fn go_value(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn canonical_base64(value: &mut Value) -> Result<(), String> {
    let Value::String(text) = value else { return Ok(()) };
    let bare: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match BASE64_STANDARD.decode(&bare) {
        Ok(_) => *text = bare,
        Err(
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _),
        ) => {
            return Err(format!("illegal base64 data at input byte {at}"));
        }
        Err(_) => return Err(format!("illegal base64 data at input byte {}", bare.len() / 4 * 4)),
    }
    Ok(())
}

fn canonical_quantity(value: &mut Value) -> Result<(), String> {
    // Go hands the JSON text to the quantity parser, so a list or object is a bad quantity.
    let text = match &mut *value {
        Value::String(text) => std::mem::take(text),
        other => other.to_string(),
    };
    *value = Quantity::canonical(&text).map_err(|error| error.to_string())?.into();
    Ok(())
}
