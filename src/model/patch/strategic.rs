//! Strategic merge patch: a merge patch that merges lists by key, as the schema says.
//!
//! Follows `k8s.io/apimachinery/pkg/util/strategicpatch`: directives are `$patch` (replace, delete,
//! merge), `$deleteFromPrimitiveList/FIELD`, `$setElementOrder/FIELD` and `$retainKeys`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{
    PatchError,
    order::{Ranks, arrange, identity},
};
use crate::{
    resource::Resource,
    schema::table::{Elem, Field, Leaf, Shape, TypeId},
};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Fields = Map<String, Value>;
type Done = Result<(), PatchError>;

/// Applies a strategic merge patch to an object of `resource`.
///
/// # Errors
/// 400: malformed; 500: where a real server answers so (an item without its merge key).
pub fn strategic(resource: &Resource, object: &mut Value, patch: Value) -> Done {
    strategic_type(resource.schema, object, patch)
}

/// [`strategic`] for a type that is no kind of its own (`Scale`).
///
/// # Errors
/// As [`strategic`].
pub fn strategic_type(id: TypeId, object: &mut Value, patch: Value) -> Done {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(PatchError::malformed("invalid JSON document"));
    };
    merge_map(object, patch, Schema::Struct(id))
}

/// What is known of a map: a struct, a map of structs, or nothing.
#[derive(Clone, Copy)]
enum Schema {
    Struct(TypeId),
    MapOf(Elem),
    Unknown,
}

impl Schema {
    fn field(self, name: &str) -> Option<Field> {
        match self {
            Schema::Struct(id) => id.field(name),
            Schema::MapOf(_) | Schema::Unknown => None,
        }
    }

    /// The schema of the map under `name`.
    fn of_map(self, name: &str) -> Schema {
        match self {
            Schema::Struct(id) => match id.field(name) {
                Some(field) if field.shape == Shape::Map => Schema::MapOf(field.elem),
                Some(field) => Schema::of_elem(field.elem),
                None => Schema::Unknown,
            },
            Schema::MapOf(elem) => Schema::of_elem(elem),
            Schema::Unknown => Schema::Unknown,
        }
    }

    fn of_elem(elem: Elem) -> Schema {
        match elem {
            Elem::Type(id) if id.leaf() == Leaf::Struct => Schema::Struct(id),
            _ => Schema::Unknown,
        }
    }
}

/// How the list of a field merges.
struct ListRule {
    merges: bool,
    merge_key: &'static str,
    schema: Schema,
}

impl ListRule {
    fn of(field: Option<Field>) -> Self {
        match field {
            Some(field) => Self {
                merges: field.patch_strategy().split(',').any(|word| word == "merge"),
                merge_key: field.merge_key(),
                schema: Schema::of_elem(field.elem),
            },
            None => Self { merges: false, merge_key: "", schema: Schema::Unknown },
        }
    }
}

fn merge_map(original: &mut Fields, mut patch: Fields, schema: Schema) -> Done {
    match patch.remove(PATCH) {
        Some(Value::String(word)) if word == "replace" => {
            *original = strip_map(patch);
            return Ok(());
        }
        Some(Value::String(word)) if word == "delete" => {
            original.clear();
            return Ok(());
        }
        Some(other) => return Err(bad_patch_type(&other, &Value::Object(patch))),
        None => {}
    }
    retain_keys(original, &mut patch)?;
    set_orders(original, &mut patch, schema)?;
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            delete_from(original, list, value)?;
            continue;
        }
        merge_entry(original, name, value, schema)?;
    }
    Ok(())
}

fn merge_entry(original: &mut Fields, name: String, patch: Value, schema: Schema) -> Done {
    if patch.is_null() {
        original.remove(&name);
        return Ok(());
    }
    let Some(known) = original.get_mut(&name) else {
        original.extend(strip(patch).map(|value| (name, value)));
        return Ok(());
    };
    match (known, patch) {
        (Value::Object(known), Value::Object(patch)) => {
            let field = schema.field(&name);
            let replaces = field.is_some_and(|f| f.patch_strategy() == "replace");
            if replaces {
                *known = strip_map(patch);
                return Ok(());
            }
            merge_map(known, patch, schema.of_map(&name))
        }
        (Value::Array(known), Value::Array(patch)) => {
            let rule = ListRule::of(schema.field(&name));
            merge_list(known, patch, &rule)
        }
        (known, patch) => {
            match strip(patch) {
                Some(value) => *known = value,
                None => drop(original.remove(&name)),
            }
            Ok(())
        }
    }
}

/// Removes what `$retainKeys` does not name; the patch may set only what it names.
fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Done {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else {
        return Err(PatchError::malformed("invalid patch format of retainKeys"));
    };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let directive = |name: &str| name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
    let stray = patch
        .iter()
        .any(|(name, value)| !value.is_null() && !directive(name) && !keys.contains(name.as_str()));
    if stray {
        return Err(PatchError::malformed("invalid patch format of retainKeys"));
    }
    original.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

/// Merges the lists that a `$setElementOrder` directive orders, and orders them.
fn set_orders(original: &mut Fields, patch: &mut Fields, schema: Schema) -> Done {
    let directives: Vec<String> =
        patch.keys().filter(|name| name.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = patch.remove(&directive);
        let name = directive[SET_ORDER.len()..].to_owned();
        let Some(Value::Array(order)) = order else {
            return Err(bad_order());
        };
        let rule = ListRule::of(schema.field(&name));
        // A null deletes the list: nothing is left to order.
        let change = match patch.get_mut(&name) {
            Some(Value::Null) => continue,
            Some(Value::Array(change)) => {
                let change = std::mem::take(change);
                patch.remove(&name);
                ordered_contains(&order, &change, rule.merge_key)?;
                Some(change)
            }
            Some(_) => return Err(bad_order()),
            None => None,
        };
        let existing = match original.get_mut(&name) {
            Some(Value::Array(existing)) => Some(std::mem::take(existing)),
            Some(_) => return Err(bad_order()),
            None => None,
        };
        let server = Ranks::of(existing.as_deref().unwrap_or(&[]), rule.merge_key);
        let merged = match (existing, change) {
            (Some(mut existing), Some(change)) => {
                merge_list(&mut existing, change, &rule)?;
                existing
            }
            (Some(existing), None) => existing,
            (None, Some(change)) => strip_list(change),
            (None, None) => continue,
        };
        original.insert(name, Value::Array(arrange(merged, &order, &server, rule.merge_key)));
    }
    Ok(())
}

/// Every item of the patch must be in the order, in that order; deletions apart.
fn ordered_contains(order: &[Value], change: &[Value], merge_key: &str) -> Done {
    let ranks = Ranks::of(order, merge_key);
    let mut last = 0;
    for item in change.iter().filter(|item| !order.is_empty() && item.get(PATCH).is_none()) {
        match ranks.of_item(item, merge_key) {
            Some(rank) if rank >= last => last = rank,
            _ => {
                let (change, order) = (go_list(change), go_list(order));
                return Err(PatchError::internal(format!(
                    "The order in patch list:\n{change}\n doesn't match $setElementOrder list:\n{order}\n"
                )));
            }
        }
    }
    Ok(())
}

fn delete_from(original: &mut Fields, name: &str, values: Value) -> Done {
    let Value::Array(values) = values else {
        return Err(PatchError::malformed("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        let gone: HashSet<String> = values.iter().map(Value::to_string).collect();
        list.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

fn merge_list(original: &mut Vec<Value>, patch: Vec<Value>, rule: &ListRule) -> Done {
    if !rule.merges {
        *original = strip_list(patch);
        return Ok(());
    }
    let first = original.first().or(patch.first());
    let Some(first) = first else { return Ok(()) };
    let maps = first.is_object();
    if first.is_array() || patch.iter().chain(original.iter()).any(Value::is_array) {
        return Err(PatchError::inapplicable("lists of lists are not supported"));
    }
    if patch.iter().chain(original.iter()).any(|item| item.is_object() != maps) {
        return Err(PatchError::internal("list element types are not identical"));
    }
    let server = Ranks::of(original, rule.merge_key);
    let merged = if maps {
        merge_maps(std::mem::take(original), &patch, rule)?
    } else {
        let mut seen = HashSet::new();
        let both = std::mem::take(original).into_iter().chain(patch.iter().cloned());
        both.filter(|item| seen.insert(item.to_string())).collect()
    };
    *original = arrange(merged, &patch, &server, rule.merge_key);
    Ok(())
}

fn merge_maps(
    original: Vec<Value>,
    patch: &[Value],
    rule: &ListRule,
) -> Result<Vec<Value>, PatchError> {
    if rule.merge_key.is_empty() {
        return Err(PatchError::internal("cannot merge lists without merge key"));
    }
    let key_of = |item: &Value| {
        identity(item, rule.merge_key).ok_or_else(|| {
            let (item, key) = (go_map(item), rule.merge_key);
            PatchError::internal(format!("map: {item} does not contain declared merge key: {key}"))
        })
    };
    let (mut changes, mut gone, mut replace) = (Vec::new(), HashSet::new(), false);
    for item in patch {
        match item.get(PATCH).map(|word| word.as_str().unwrap_or("")) {
            None => changes.push(item),
            Some("delete") => drop(gone.insert(key_of(item)?)),
            Some("replace") => replace = true,
            Some("merge") => {
                let text = "merging lists cannot yet be specified in the patch";
                return Err(PatchError::internal(text));
            }
            Some(_) => return Err(bad_patch_type(&item[PATCH], item)),
        }
    }
    if replace {
        return Ok(changes.into_iter().cloned().filter_map(strip).collect());
    }
    let mut merged = original;
    if !gone.is_empty() {
        merged.retain(|item| identity(item, rule.merge_key).is_none_or(|k| !gone.contains(&k)));
    }
    let mut places = HashMap::with_capacity(merged.len());
    for (at, item) in merged.iter().enumerate() {
        places.entry(key_of(item)?).or_insert(at);
    }
    for change in changes {
        let key = key_of(change)?;
        match (places.get(&key).and_then(|at| merged.get_mut(*at)), change) {
            (Some(Value::Object(known)), Value::Object(change)) => {
                merge_map(known, change.clone(), rule.schema)?;
            }
            (_, change) => {
                places.insert(key, merged.len());
                merged.extend(strip(change.clone()));
            }
        }
    }
    Ok(merged)
}

/// What a patch adds where nothing was: without nulls and directives; `None` where the value is
/// itself a directive.
fn strip(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => Some(Value::Object(strip_map(map))),
        Value::Array(list) => Some(Value::Array(strip_list(list))),
        other => Some(other),
    }
}

fn strip_map(map: Fields) -> Fields {
    let plain = |name: &str| {
        name != RETAIN_KEYS && !name.starts_with(DELETE_FROM) && !name.starts_with(SET_ORDER)
    };
    let kept = map.into_iter().filter(|(name, value)| !value.is_null() && plain(name));
    kept.filter_map(|(name, value)| Some((name, strip(value)?))).collect()
}

fn strip_list(list: Vec<Value>) -> Vec<Value> {
    list.into_iter().filter_map(strip).collect()
}

fn bad_patch_type(word: &Value, map: &Value) -> PatchError {
    let word = word.as_str().map_or_else(|| word.to_string(), str::to_owned);
    PatchError::internal(format!("unknown patch type: {word} in map: {}", go_map(map)))
}

fn bad_order() -> PatchError {
    PatchError::malformed("invalid patch format of setElementOrder list")
}

/// Go's `%v` of a decoded JSON value.
fn go_map(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(k, v)| format!("{k}:{}", go_map(v))).collect();
            format!("map[{}]", entries.join(" "))
        }
        Value::Array(list) => go_list(list),
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn go_list(list: &[Value]) -> String {
    format!("[{}]", list.iter().map(go_map).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests;
