//! Objects that live in memory only (Events, Leases): bounded by bytes per kind, oldest out.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use bytes::Bytes;
use model::ids::{KindKey, ObjectKey, Uid, Version};

use super::types::{ListRange, Record};

type Name = (String, String);

/// All memory-only objects.
#[derive(Debug)]
pub(super) struct Memory {
    kinds: HashMap<KindKey, Kind>,
    kind_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Kind {
    objects: BTreeMap<Name, Held>,
    order: BTreeMap<Version, Name>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    version: Version,
    uid: Uid,
    body: Bytes,
}

fn cost(name: &Name, body: &Bytes) -> usize {
    2 * (name.0.len() + name.1.len()) + body.len() + size_of::<Held>() + 2 * size_of::<Name>()
}

impl Memory {
    /// No objects of these kinds yet.
    pub(super) fn new(kinds: &[KindKey], kind_bytes_max: usize) -> Self {
        let kinds = kinds.iter().map(|kind| (kind.clone(), Kind::default())).collect();
        Self { kinds, kind_bytes_max }
    }

    /// Forgets every object; gives the keys.
    pub(super) fn clear(&mut self) -> Vec<ObjectKey> {
        let mut keys = Vec::new();
        for (kind, held) in &mut self.kinds {
            let names = std::mem::take(held).objects.into_keys();
            keys.extend(names.map(|(namespace, name)| ObjectKey {
                kind: kind.clone(),
                namespace,
                name,
            }));
        }
        keys
    }

    /// Every object.
    pub(super) fn all(&self) -> impl Iterator<Item = Record> {
        self.kinds.iter().flat_map(|(kind, held)| {
            held.objects.iter().map(|((namespace, name), held)| Record {
                key: ObjectKey {
                    kind: kind.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                },
                version: held.version,
                uid: held.uid,
                body: held.body.clone(),
            })
        })
    }

    /// Whether objects of the kind live here.
    pub(super) fn holds(&self, kind: &KindKey) -> bool {
        self.kinds.contains_key(kind)
    }

    /// One object.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<Record> {
        let kind = self.kinds.get(&key.kind)?;
        let held = kind.objects.get(&(key.namespace.clone(), key.name.clone()))?;
        Some(Record {
            key: key.clone(),
            version: held.version,
            uid: held.uid,
            body: held.body.clone(),
        })
    }

    /// Puts or removes an object.
    pub(super) fn put(&mut self, key: &ObjectKey, version: Version, uid: Uid, body: Option<Bytes>) {
        let Some(kind) = self.kinds.get_mut(&key.kind) else { return };
        let name = (key.namespace.clone(), key.name.clone());
        if let Some(before) = kind.objects.remove(&name) {
            kind.order.remove(&before.version);
            kind.bytes -= cost(&name, &before.body);
        }
        if let Some(body) = body {
            kind.bytes += cost(&name, &body);
            kind.order.insert(version, name.clone());
            kind.objects.insert(name, Held { version, uid, body });
        }
    }

    /// The object that must go next for the kind to fit its bound.
    pub(super) fn surplus(&self, kind: &KindKey) -> Option<Record> {
        let held = self.kinds.get(kind)?;
        if held.bytes <= self.kind_bytes_max {
            return None;
        }
        let (_, (namespace, name)) = held.order.first_key_value()?;
        self.get(&ObjectKey {
            kind: kind.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
        })
    }

    /// Up to `limit` objects of a range and whether more follow; `None` for kinds of the log.
    pub(super) fn list(&self, range: &ListRange) -> Option<(Vec<Record>, bool)> {
        let kind = self.kinds.get(&range.kind)?;
        let start = match (&range.after, &range.namespace) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some(namespace)) => Bound::Included((namespace.clone(), String::new())),
            (None, None) => Bound::Unbounded,
        };
        let inside = |name: &Name| range.namespace.as_ref().is_none_or(|wanted| name.0 == *wanted);
        let mut rows = kind.objects.range((start, Bound::Unbounded)).filter(|row| inside(row.0));
        let records = rows.by_ref().take(range.limit).map(|((namespace, name), held)| Record {
            key: ObjectKey {
                kind: range.kind.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
            },
            version: held.version,
            uid: held.uid,
            body: held.body.clone(),
        });
        let records = records.collect();
        Some((records, rows.next().is_some()))
    }
}
