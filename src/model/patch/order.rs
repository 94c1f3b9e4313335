//! The order of a list after a strategic merge: items that the patch names come in the patch's
//! order, the server's own keep theirs, and both are interleaved by the server's old order.

use std::collections::HashMap;

use serde_json::Value;

/// Where each item of an order comes, by its key.
pub(super) struct Ranks(HashMap<String, usize>);

impl Ranks {
    /// Ranks of `list`, whose items are told apart by `merge_key` (empty: by their value).
    pub(super) fn of(list: &[Value], merge_key: &str) -> Self {
        let mut ranks = HashMap::with_capacity(list.len());
        for (at, item) in list.iter().enumerate() {
            if let Some(key) = identity(item, merge_key) {
                ranks.entry(key).or_insert(at);
            }
        }
        Self(ranks)
    }

    /// The place of `item`.
    pub(super) fn of_item(&self, item: &Value, merge_key: &str) -> Option<usize> {
        self.0.get(&identity(item, merge_key)?).copied()
    }
}

/// What tells an item apart: the JSON text of its merge key, or of itself.
pub(super) fn identity(item: &Value, merge_key: &str) -> Option<String> {
    match (item, merge_key) {
        (Value::Object(map), key) if !key.is_empty() => map.get(key).map(Value::to_string),
        (item, _) => Some(item.to_string()),
    }
}

/// Orders `merged`: what `wanted` names by its order there, the rest by `server`, interleaved.
pub(super) fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    server: &Ranks,
    merge_key: &str,
) -> Vec<Value> {
    let wanted = Ranks::of(wanted, merge_key);
    let (mut named, mut own) = (Vec::new(), Vec::new());
    for item in merged {
        let rank = server.of_item(&item, merge_key);
        match wanted.of_item(&item, merge_key) {
            Some(place) => named.push((place, rank, item)),
            None => own.push((rank, item)),
        }
    }
    named.sort_by_key(|(place, ..)| *place);
    own.sort_by_key(|(rank, _)| rank.unwrap_or(usize::MAX));
    let mut ordered = Vec::with_capacity(named.len() + own.len());
    let (mut named, mut own) = (named.into_iter().peekable(), own.into_iter().peekable());
    loop {
        let own_first = match (own.peek(), named.peek()) {
            (Some((Some(left), _)), Some((_, Some(right), _))) => left < right,
            (Some(_), Some(_)) => false,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return ordered,
        };
        ordered.extend(if own_first {
            own.next().map(|(_, item)| item)
        } else {
            named.next().map(|(.., item)| item)
        });
    }
}
