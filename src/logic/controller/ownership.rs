//! Owner references, adoption and release, names of new objects: what controllers share.

use model::ids::{KindKey, ObjectKey, Uid};
use model::timestamp::Timestamp;
use model::view::{Meta, Selector, safe_encode};
use serde_json::{Value, json};

use super::event::{Event, ObjectReference};
use super::op::Op;
use crate::world::World;

/// Longest base of a generated name (upstream's `maxGeneratedNameLength`).
const GENERATED_BASE_BYTES_MAX: usize = 58;

/// The controller that owns.
pub(super) struct Owner<'a> {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) meta: &'a Meta,
    pub(super) component: &'static str,
}

impl Owner<'_> {
    /// The reference that its objects carry.
    pub(super) fn reference(&self) -> Value {
        json!({
            "apiVersion": self.api_version, "kind": self.kind, "name": &*self.meta.name,
            "uid": self.meta.uid.to_string(), "controller": true, "blockOwnerDeletion": true,
        })
    }

    /// An event about it.
    pub(super) fn event(&self, warning: bool, reason: &'static str, message: String) -> Op {
        Op::Event(Event {
            about: ObjectReference {
                api_version: self.api_version,
                kind: self.kind,
                namespace: self.meta.namespace.to_string(),
                name: self.meta.name.to_string(),
                uid: self.meta.uid,
            },
            warning,
            reason,
            message,
            component: self.component,
        })
    }

    /// Takes an object over that nobody manages.
    pub(super) fn adopt(&self, kind: KindKey, object: &Meta) -> Op {
        let mut owners: Vec<Value> = object.owners.iter().map(|it| it.to_value()).collect();
        owners.push(self.reference());
        patch_owners(kind, object, owners)
    }
}

/// What to do with an object that carries, or does not carry, the reference of an owner.
pub(super) fn claim(
    owner: &Owner<'_>,
    selector: &Selector,
    kind: KindKey,
    object: &Meta,
) -> Option<Op> {
    if object.deleting.is_some() {
        return None;
    }
    match object.controller() {
        Some(by) if by.uid == owner.meta.uid && !selector.matches(&object.labels) => {
            Some(without_owners(kind, object, |uid| uid == owner.meta.uid))
        }
        None if selector.matches(&object.labels) => Some(owner.adopt(kind, object)),
        _ => None,
    }
}

/// Removes the references to some owners.
pub(super) fn without_owners(kind: KindKey, object: &Meta, gone: impl Fn(Uid) -> bool) -> Op {
    let left = object.owners.iter().filter(|it| !gone(it.uid)).map(|it| it.to_value()).collect();
    patch_owners(kind, object, left)
}

/// Removes one finalizer.
pub(super) fn without_finalizer(key: ObjectKey, object: &Meta, finalizer: &str) -> Op {
    let left: Vec<&str> =
        object.finalizers.iter().map(AsRef::as_ref).filter(|it| *it != finalizer).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    Op::Patch {
        key,
        base: object.version,
        subresource: None,
        merge: json!({ "metadata": { "finalizers": left } }),
    }
}

fn patch_owners(kind: KindKey, object: &Meta, owners: Vec<Value>) -> Op {
    let owners = if owners.is_empty() { Value::Null } else { Value::Array(owners) };
    Op::Patch {
        key: object.key(kind),
        base: object.version,
        subresource: None,
        merge: json!({ "metadata": { "ownerReferences": owners } }),
    }
}

/// Whether new objects may be made in a namespace.
pub(super) fn open_for_new(world: &World, namespace: &str) -> bool {
    world.namespace(namespace).is_some_and(|it| it.meta.deleting.is_none())
}

/// The `number`-th name made of `base`, different at every version of the world and every time.
pub(super) fn generated_name(
    base: &str,
    owner: Uid,
    world: &World,
    now: Timestamp,
    number: usize,
) -> String {
    let mut base = base;
    while base.len() > GENERATED_BASE_BYTES_MAX {
        let mut chars = base.chars();
        chars.next_back();
        base = chars.as_str();
    }
    let (high, low) = owner.0.split_at(8);
    let half = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let parts = [half(high), half(low), world.version().0, now.0 as u64, number as u64];
    let mixed = parts.into_iter().fold(0, |sum, part| scramble(sum ^ part));
    // 27 letters, five of them: fourteen million names.
    let digits: Vec<u8> = (0..5).map(|place| (mixed >> (8 * place)) as u8 % 27).collect();
    let text: String = digits.into_iter().map(|digit| (b'A' + digit) as char).collect();
    format!("{base}{}", safe_encode(&text))
}

/// splitmix64.
fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}
