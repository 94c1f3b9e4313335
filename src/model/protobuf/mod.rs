//! Decodes the protobuf bodies that clients send, for every type of the schema table.
//!
//! Input: bytes from outside in the envelope of `k8s.io/apimachinery/pkg/runtime.Unknown`. Output:
//! the JSON form, checked and normalised as [`crate::schema::check`] does: Go's encoders write zero
//! values that JSON leaves out. Nothing is encoded: answers are always JSON. Garbage is an error;
//! nesting and the number of values are bounded.

mod reader;
#[cfg(test)]
mod tests;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use crate::{
    limits::{JSON_DEPTH_MAX, JSON_VALUES_MAX},
    schema::{
        self,
        table::{Elem, Field, Leaf, Scalar, Shape, TypeId},
    },
    timestamp::Timestamp,
};
use reader::{Reader, Wire};

/// What every body starts with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Why a body could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not start with [`MAGIC`].
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
    /// It ends inside a value.
    #[error("unexpected EOF")]
    Truncated,
    /// A tag, wire type or length that cannot be.
    #[error("proto: {0}")]
    Malformed(&'static str),
    /// More nesting or values than an object can have.
    #[error("proto: the message is too deep or has too many values")]
    TooMuch,
    /// No such kind is served.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// `apiVersion` of the envelope.
        api_version: String,
        /// `kind` of the envelope.
        kind: String,
    },
    /// A value that its type refuses (a bad quantity).
    #[error("{0}")]
    Value(String),
}

/// Decodes a body with its envelope into its JSON form.
///
/// # Errors
/// The bytes are no such body, or of a kind that is not in the table.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let unknown = Unknown::read(bytes)?;
    let id = type_of(&unknown.api_version, &unknown.kind).ok_or_else(|| {
        let (api_version, kind) = (unknown.api_version.clone(), unknown.kind.clone());
        ProtobufError::UnknownKind { api_version, kind }
    })?;
    let mut fields = Map::new();
    Decoder { values: 0 }.message(id, unknown.raw, &mut fields, 0)?;
    fields.insert("apiVersion".into(), unknown.api_version.into());
    fields.insert("kind".into(), unknown.kind.into());
    let mut object = Value::Object(fields);
    schema::check_type(id, &mut object).map_err(ProtobufError::Value)?;
    Ok(object)
}

/// The kind's own type, or one of the types that every API group shares (`DeleteOptions`).
fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let own = TypeId::of_kind(group, version, kind);
    own.or_else(|| TypeId::named(&format!("{META}.{kind}")).filter(|id| id.kinds().count() > 0))
}

/// `runtime.Unknown`: 1 type meta {1 apiVersion, 2 kind}, 2 raw.
struct Unknown<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

impl<'a> Unknown<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(ProtobufError::Magic)?;
        let mut unknown = Unknown { api_version: String::new(), kind: String::new(), raw: &[] };
        let mut reader = Reader::new(rest);
        while let Some((number, wire)) = reader.tag()? {
            match (number, wire) {
                (1, Wire::Bytes) => {
                    let mut meta = Reader::new(reader.bytes()?);
                    while let Some((number, wire)) = meta.tag()? {
                        match (number, wire) {
                            (1, Wire::Bytes) => unknown.api_version = text(meta.bytes()?),
                            (2, Wire::Bytes) => unknown.kind = text(meta.bytes()?),
                            _ => meta.skip(wire)?,
                        }
                    }
                }
                (2, Wire::Bytes) => unknown.raw = reader.bytes()?,
                _ => reader.skip(wire)?,
            }
        }
        Ok(unknown)
    }
}

struct Decoder {
    values: usize,
}

impl Decoder {
    fn message(
        &mut self,
        id: TypeId,
        bytes: &[u8],
        fields: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        if depth >= JSON_DEPTH_MAX {
            return Err(ProtobufError::TooMuch);
        }
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.tag()? {
            match id.field_number(number) {
                None => reader.skip(wire)?,
                Some(field) if field.inline() => {
                    let Elem::Type(inner) = field.elem else { continue };
                    wire.expect(Wire::Bytes)?;
                    self.message(inner, reader.bytes()?, fields, depth + 1)?;
                }
                Some(field) => self.field(&field, wire, &mut reader, fields, depth)?,
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        wire: Wire,
        reader: &mut Reader,
        fields: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtobufError> {
        let known = fields.entry(field.name);
        match field.shape {
            Shape::Single => {
                // A message that comes twice is merged, as protobuf wants it.
                let known = known.or_insert(Value::Null);
                let before = known.take();
                *known = self.value(field.elem, wire, reader, before, depth)?;
            }
            Shape::List => {
                let Value::Array(list) = known.or_insert_with(|| Value::Array(Vec::new())) else {
                    return Err(ProtobufError::Malformed("a list and no list"));
                };
                if wire == Wire::Bytes && packable(field.elem) {
                    let mut packed = Reader::new(reader.bytes()?);
                    while !packed.at_end() {
                        let wire = natural_wire(field.elem);
                        list.push(self.value(field.elem, wire, &mut packed, Value::Null, depth)?);
                    }
                } else {
                    list.push(self.value(field.elem, wire, reader, Value::Null, depth)?);
                }
            }
            Shape::Map | Shape::MapOfLists => {
                let Value::Object(map) = known.or_insert_with(|| Value::Object(Map::new())) else {
                    return Err(ProtobufError::Malformed("a map and no map"));
                };
                wire.expect(Wire::Bytes)?;
                let (key, value) = self.entry(field, reader.bytes()?, depth)?;
                map.insert(key, value);
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        field: &Field,
        bytes: &[u8],
        depth: usize,
    ) -> Result<(String, Value), ProtobufError> {
        let (mut key, mut value) = (String::new(), Value::Null);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.tag()? {
            match (number, wire) {
                (1, Wire::Bytes) => key = text(reader.bytes()?),
                (2, Wire::Bytes) if field.shape == Shape::MapOfLists => {
                    value = self.items(field.elem, reader.bytes()?, depth)?;
                }
                (2, wire) => {
                    value = self.value(field.elem, wire, &mut reader, Value::Null, depth)?
                }
                _ => reader.skip(wire)?,
            }
        }
        Ok((key, value))
    }

    /// The message that stands for a list in a map: its items are its first field.
    fn items(&mut self, elem: Elem, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
        let mut list = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.tag()? {
            match number {
                1 => list.push(self.value(elem, wire, &mut reader, Value::Null, depth)?),
                _ => reader.skip(wire)?,
            }
        }
        Ok(list.into())
    }

    fn value(
        &mut self,
        elem: Elem,
        wire: Wire,
        reader: &mut Reader,
        before: Value,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        self.values += 1;
        if self.values > JSON_VALUES_MAX {
            return Err(ProtobufError::TooMuch);
        }
        wire.expect(natural_wire(elem))?;
        Ok(match elem {
            Elem::Scalar(Scalar::String) => text(reader.bytes()?).into(),
            Elem::Scalar(Scalar::Bytes) => BASE64_STANDARD.encode(reader.bytes()?).into(),
            Elem::Scalar(Scalar::Bool) => (reader.varint()? != 0).into(),
            // As Go: what does not fit is cut off.
            Elem::Scalar(Scalar::Int32) => (reader.varint()? as i32).into(),
            Elem::Scalar(Scalar::Int64) => (reader.varint()? as i64).into(),
            Elem::Scalar(Scalar::Double) => f64::from_bits(reader.fixed64()?).into(),
            Elem::Type(id) => match id.leaf() {
                Leaf::Struct => {
                    let mut fields = match before {
                        Value::Object(fields) => fields,
                        _ => Map::new(),
                    };
                    self.message(id, reader.bytes()?, &mut fields, depth + 1)?;
                    Value::Object(fields)
                }
                leaf => self.leaf(leaf, reader.bytes()?)?,
            },
        })
    }

    fn leaf(&mut self, leaf: Leaf, bytes: &[u8]) -> Result<Value, ProtobufError> {
        let mut parts = Parts::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.tag()? {
            match (number, wire) {
                (1..=3, Wire::Varint) => parts.numbers[number as usize] = reader.varint()? as i64,
                (1..=3, Wire::Bytes) => parts.texts[number as usize] = reader.bytes()?,
                _ => reader.skip(wire)?,
            }
        }
        Ok(match leaf {
            Leaf::Quantity if bytes.is_empty() => "0".into(),
            Leaf::Quantity => text(parts.texts[1]).into(),
            Leaf::IntOrString if parts.numbers[1] == 1 => text(parts.texts[3]).into(),
            Leaf::IntOrString => (parts.numbers[2] as i32).into(),
            // An empty message is Go's zero time: null.
            Leaf::Time | Leaf::MicroTime if bytes.is_empty() => Value::Null,
            Leaf::Time => Timestamp::from_seconds(parts.seconds()?).to_string().into(),
            Leaf::MicroTime => {
                let micros = parts.numbers[2].clamp(0, 999_999_999) / 1_000;
                let time = Timestamp(Timestamp::from_seconds(parts.seconds()?).0 + micros);
                time.micro().into()
            }
            Leaf::RawExtension | Leaf::FieldsV1 | Leaf::Struct => {
                let (value, _) =
                    schema::decode_json(parts.texts[1]).map_err(ProtobufError::Value)?;
                value
            }
        })
    }
}

/// The fields of a leaf message: at most three, by number.
#[derive(Default)]
struct Parts<'a> {
    numbers: [i64; 4],
    texts: [&'a [u8]; 4],
}

impl Parts<'_> {
    /// Seconds of a time that can be written with four digits of year.
    fn seconds(&self) -> Result<i64, ProtobufError> {
        let (first, last) = (-62_135_596_800, 253_402_300_799);
        let seconds = self.numbers[1];
        let fits = (first..=last).contains(&seconds);
        fits.then_some(seconds).ok_or(ProtobufError::Malformed("time is out of range"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn natural_wire(elem: Elem) -> Wire {
    match elem {
        Elem::Scalar(Scalar::Bool | Scalar::Int32 | Scalar::Int64) => Wire::Varint,
        Elem::Scalar(Scalar::Double) => Wire::Fixed64,
        _ => Wire::Bytes,
    }
}

fn packable(elem: Elem) -> bool {
    natural_wire(elem) != Wire::Bytes
}
