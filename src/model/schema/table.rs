//! Reads the packed schema table in place.
//!
//! `tables.bin` is made by `cargo xtask generate` and is little-endian; a word is 16 bits, a text
//! or a list is named by a word (0 is the empty one):
//!
//! ```text
//! 7 x u32     start of each section below, then the end
//! types       12 B each: package, name, first field, kinds list | u8 fields, leaf, flags, 0
//! fields      14 B each: name, element, Go type, default, enum list | u8 number, shape, flags, rules
//! rules        8 B each: list type, strategy, merge key, map keys list
//! lists       words: count, then that many texts
//! bounds      words: end of each text, after a 0
//! texts       UTF-8
//! ```
//!
//! Fields of a type are sorted by name; structs that Go inlines follow, nameless. Their fields
//! are the type's own in JSON, and a message of their own in protobuf.

use std::str;

static BYTES: &[u8] = include_bytes!("tables.bin");

const TYPES: usize = section(0);
const FIELDS: usize = section(1);
const RULES: usize = section(2);
const LISTS: usize = section(3);
const BOUNDS: usize = section(4);
const TEXTS: usize = section(5);

const TYPE_BYTES: usize = 12;
const FIELD_BYTES: usize = 14;
const RULE_BYTES: usize = 8;
/// Element codes from this one on are types.
const FIRST_TYPE: u16 = 16;

/// Size of the packed table.
pub const TABLE_BYTES: usize = BYTES.len();
const _: () = assert!(TABLE_BYTES < 100_000);

/// A schema: a struct, or a leaf with an encoding of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u16);

/// How a type is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// An object with fields.
    Struct,
    /// `resource.Quantity`: text or number.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`: RFC 3339, whole seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339, microseconds.
    MicroTime,
    /// `runtime.RawExtension`: any object.
    RawExtension,
    /// `metav1.FieldsV1`: any object.
    FieldsV1,
}

/// A value without structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// Boolean.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Bytes: base64 in JSON.
    Bytes,
    /// 64-bit float.
    Double,
}

/// What a field, or an element of its list or map, holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    /// A scalar.
    Scalar(Scalar),
    /// A type of the table.
    Type(TypeId),
}

/// How many of its element a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    Single,
    /// A list.
    List,
    /// A map by text.
    Map,
    /// A map by text, of lists.
    MapOfLists,
}

/// One field of a type.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// JSON name; empty for an inlined struct.
    pub name: &'static str,
    /// What it holds.
    pub elem: Elem,
    /// How many.
    pub shape: Shape,
    /// Protobuf field number; 0 for none.
    pub number: u8,
    /// JSON text of its default, or empty.
    pub default: &'static str,
    flags: u8,
    go_type: &'static str,
    enumeration: u16,
    rules: u8,
}

impl Field {
    /// OpenAPI calls it required.
    pub fn required(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Go holds it by pointer: its zero value is kept.
    pub fn pointer(&self) -> bool {
        self.flags & 2 != 0
    }

    /// Go leaves it out when empty.
    pub fn omit_empty(&self) -> bool {
        self.flags & 4 != 0
    }

    /// Go leaves it out when zero, also where it is a struct.
    pub fn omit_zero(&self) -> bool {
        self.flags & 8 != 0
    }

    /// A struct whose fields belong to the parent in JSON.
    pub fn inline(&self) -> bool {
        self.flags & 16 != 0
    }

    /// A map or struct that merges as one value, by the field's own mark.
    pub fn atomic_map(&self) -> bool {
        self.flags & 32 != 0
    }

    /// The values that OpenAPI allows for it or its elements; empty: any.
    pub fn enumeration(&self) -> impl Iterator<Item = &'static str> + use<> {
        list(self.enumeration)
    }

    /// `atomic`, `set`, `map`, or empty.
    pub fn list_type(&self) -> &'static str {
        text(word(self.rule(0)))
    }

    /// `merge`, `replace`, `retainKeys`, `merge,retainKeys`, or empty.
    pub fn patch_strategy(&self) -> &'static str {
        text(word(self.rule(2)))
    }

    /// The key by which a strategic merge patch finds list items, or empty.
    pub fn merge_key(&self) -> &'static str {
        text(word(self.rule(4)))
    }

    /// The keys by which server-side apply finds list items.
    pub fn map_keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        list(word(self.rule(6)))
    }

    /// The type as Go's errors name it: `[]v1.Container`.
    pub fn go_type(&self) -> String {
        if !self.go_type.is_empty() {
            return self.go_type.to_owned();
        }
        let inner = match self.elem {
            Elem::Scalar(Scalar::String) => "string".to_owned(),
            Elem::Scalar(Scalar::Bool) => "bool".to_owned(),
            Elem::Scalar(Scalar::Int32) => "int32".to_owned(),
            Elem::Scalar(Scalar::Int64) => "int64".to_owned(),
            Elem::Scalar(Scalar::Bytes) => "[]uint8".to_owned(),
            Elem::Scalar(Scalar::Double) => "float64".to_owned(),
            Elem::Type(id) => id.go_name(),
        };
        match self.shape {
            Shape::Single => inner,
            Shape::List => format!("[]{inner}"),
            Shape::Map => format!("map[string]{inner}"),
            Shape::MapOfLists => format!("map[string][]{inner}"),
        }
    }

    /// The type of an element of the list or map, as Go's errors name it.
    pub fn go_element(&self) -> String {
        let whole = self.go_type();
        let inner = whole.strip_prefix("[]");
        let inner = inner.or_else(|| whole.split_once(']').map(|(_, rest)| rest));
        inner.unwrap_or(&whole).to_owned()
    }

    fn rule(&self, at: usize) -> usize {
        RULES + usize::from(self.rules) * RULE_BYTES + at
    }
}

impl TypeId {
    /// Every type, in the order of [`TypeId::full_name`].
    pub fn all() -> impl Iterator<Item = TypeId> {
        (0..(FIELDS - TYPES) / TYPE_BYTES).map(|at| TypeId(at as u16))
    }

    /// The type with that full name.
    pub fn named(full_name: &str) -> Option<TypeId> {
        let (package, name) = full_name.rsplit_once('.')?;
        TypeId::all().find(|id| id.name() == name && id.package() == package)
    }

    /// The type of an object of that group, version and kind.
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Option<TypeId> {
        TypeId::all()
            .find(|id| id.name() == kind && id.kinds().any(|known| known == [group, version, kind]))
    }

    /// `Container`.
    pub fn name(self) -> &'static str {
        text(word(self.at() + 2))
    }

    /// `io.k8s.api.core.v1`.
    pub fn package(self) -> &'static str {
        text(word(self.at()))
    }

    /// `io.k8s.api.core.v1.Container`: its name in OpenAPI.
    pub fn full_name(self) -> String {
        format!("{}.{}", self.package(), self.name())
    }

    /// `v1.Container`.
    pub fn go_name(self) -> String {
        let package = self.package().rsplit('.').next().unwrap_or("");
        format!("{package}.{}", self.name())
    }

    /// How it is encoded.
    pub fn leaf(self) -> Leaf {
        match BYTES[self.at() + 9] {
            1 => Leaf::Quantity,
            2 => Leaf::IntOrString,
            3 => Leaf::Time,
            4 => Leaf::MicroTime,
            5 => Leaf::RawExtension,
            6 => Leaf::FieldsV1,
            _ => Leaf::Struct,
        }
    }

    /// It merges as one value.
    pub fn atomic(self) -> bool {
        BYTES[self.at() + 10] & 1 != 0
    }

    /// It exists only inside other types and has no OpenAPI schema.
    pub fn inlined_only(self) -> bool {
        BYTES[self.at() + 10] & 2 != 0
    }

    /// `[group, version, kind]` of each kind that it is the schema of.
    pub fn kinds(self) -> impl Iterator<Item = [&'static str; 3]> {
        let mut words = list(word(self.at() + 6));
        std::iter::from_fn(move || Some([words.next()?, words.next()?, words.next()?]))
    }

    /// Its own fields by name, then the inlined structs.
    pub fn declared(self) -> impl Iterator<Item = Field> {
        let first = usize::from(word(self.at() + 4));
        (first..first + self.count()).map(field)
    }

    /// Its fields in JSON, those of inlined structs included.
    pub fn fields(self) -> Vec<Field> {
        let mut all = Vec::new();
        for field in self.declared() {
            match (field.inline(), field.elem) {
                (true, Elem::Type(inner)) => all.extend(inner.fields()),
                _ => all.push(field),
            }
        }
        all
    }

    /// The field of that JSON name.
    pub fn field(self, name: &str) -> Option<Field> {
        let first = usize::from(word(self.at() + 4));
        let (mut low, mut high) = (first, first + self.count());
        while high > low && field(high - 1).inline() {
            high -= 1;
        }
        let inlined = high..first + self.count();
        while low < high {
            let middle = low + (high - low) / 2;
            match field_name(middle).cmp(name) {
                std::cmp::Ordering::Equal => return Some(field(middle)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        inlined.map(field).find_map(|outer| match outer.elem {
            Elem::Type(inner) => inner.field(name),
            Elem::Scalar(_) => None,
        })
    }

    /// The field of that protobuf number.
    pub fn field_number(self, number: u32) -> Option<Field> {
        self.declared().find(|field| field.number != 0 && u32::from(field.number) == number)
    }

    fn at(self) -> usize {
        TYPES + usize::from(self.0) * TYPE_BYTES
    }

    fn count(self) -> usize {
        usize::from(BYTES[self.at() + 8])
    }
}

const fn section(index: usize) -> usize {
    let at = index * 4;
    let bytes = [BYTES[at], BYTES[at + 1], BYTES[at + 2], BYTES[at + 3]];
    u32::from_le_bytes(bytes) as usize
}

fn word(at: usize) -> u16 {
    u16::from_le_bytes([BYTES[at], BYTES[at + 1]])
}

fn text(id: u16) -> &'static str {
    let bound = BOUNDS + usize::from(id) * 2;
    let (from, to) = (usize::from(word(bound)), usize::from(word(bound + 2)));
    str::from_utf8(&BYTES[TEXTS + from..TEXTS + to]).expect("the generator packs whole texts")
}

fn list(id: u16) -> impl Iterator<Item = &'static str> {
    let at = LISTS + usize::from(id) * 2;
    (1..=usize::from(word(at))).map(move |index| text(word(at + index * 2)))
}

fn field_name(index: usize) -> &'static str {
    text(word(FIELDS + index * FIELD_BYTES))
}

fn field(index: usize) -> Field {
    let at = FIELDS + index * FIELD_BYTES;
    Field {
        name: text(word(at)),
        elem: elem(word(at + 2)),
        go_type: text(word(at + 4)),
        default: text(word(at + 6)),
        enumeration: word(at + 8),
        number: BYTES[at + 10],
        shape: match BYTES[at + 11] {
            0 => Shape::Single,
            1 => Shape::List,
            2 => Shape::Map,
            _ => Shape::MapOfLists,
        },
        flags: BYTES[at + 12],
        rules: BYTES[at + 13],
    }
}

fn elem(code: u16) -> Elem {
    match code {
        0 => Elem::Scalar(Scalar::String),
        1 => Elem::Scalar(Scalar::Bool),
        2 => Elem::Scalar(Scalar::Int32),
        3 => Elem::Scalar(Scalar::Int64),
        4 => Elem::Scalar(Scalar::Bytes),
        5 => Elem::Scalar(Scalar::Double),
        code => Elem::Type(TypeId(code.saturating_sub(FIRST_TYPE))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_reads() {
        for id in TypeId::all() {
            assert_eq!(TypeId::named(&id.full_name()), Some(id));
            let fields = id.fields();
            assert_eq!(fields.is_empty(), id.leaf() != Leaf::Struct, "{}", id.full_name());
            for field in fields {
                let found = id.field(field.name).map(|f| (f.number, f.go_type()));
                assert_eq!(found, Some((field.number, field.go_type())), "{}", field.name);
                for text in [field.list_type(), field.patch_strategy(), field.merge_key()] {
                    assert!(text.len() < 40, "{text}");
                }
                assert!(field.map_keys().chain(field.enumeration()).count() < 100);
                assert!(field.default.is_empty() || !field.default.starts_with(' '));
            }
        }
    }

    #[test]
    fn container_ports_have_two_keys() {
        let container = TypeId::named("io.k8s.api.core.v1.Container").unwrap();
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.go_type(), "[]v1.ContainerPort");
        assert_eq!(ports.go_element(), "v1.ContainerPort");
        assert_eq!((ports.merge_key(), ports.list_type()), ("containerPort", "map"));
        assert_eq!(ports.map_keys().collect::<Vec<_>>(), ["containerPort", "protocol"]);
        let volume = TypeId::named("io.k8s.api.core.v1.Volume").unwrap();
        assert!(volume.field("emptyDir").is_some_and(|f| f.pointer()));
        assert!(volume.field("volumeSource").is_none());
    }
}
