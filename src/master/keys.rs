//! Which boards belong to the cluster: a Node belongs to the key in its annotation.
//!
//! A certificate is good for ever, so it alone does not decide. A board is admitted unless another key
//! has its name, or its own key was evicted. A Node that a person deletes frees its name for whichever
//! board with a certificate for it says Hello first; only an eviction keeps a board out.

use std::collections::BTreeMap;

use logic::controller::Op;
use model::ids::ObjectKey;
use model::join::{BOARD_KEY, EVICTED, HOLDERS, LEFT_BY_ITSELF, WORKERS, key_text, parse_key};
use model::status::ApiError;
use model::view::kind;
use serde_json::{Value, json};

use super::authority::Said;
use super::registry::Registry;
use crate::io::store::{Record, Store, StoreError};
use crate::io::tls::BoardPeer;

/// Where the cluster's own objects live.
pub(super) const SYSTEM: &str = "kube-system";

/// Judges boards by the objects; clones share them.
#[derive(Clone)]
pub struct Keys {
    store: Store,
}

impl Keys {
    /// By the objects of this registry.
    pub fn new(registry: Registry) -> Self {
        Self::of(registry.store().clone())
    }

    /// By the objects of this store, whoever leads.
    pub fn of(store: Store) -> Self {
        Self { store }
    }

    /// Whether this board, whose certificate is good, belongs here. When the store cannot be read, no
    /// board does.
    pub fn is_admitted(&self, board: &BoardPeer) -> bool {
        let key = key_text(&board.key);
        let judged = self.is_evicted(&key).and_then(|evicted| {
            let node = self.store.get(&node_key(&board.name))?;
            let other = |node: Record| board_key(&node).is_some_and(|known| known != key);
            // While the authority's key is in the wrong hands its signature alone lets nobody in. The Node of
            // a board that has led from the start names no key.
            let is_trusted = node.as_ref().and_then(board_key).is_some()
                || Said::read(&self.store)?.lost.is_empty()
                || self.is_known_master(board)?;
            Ok(!evicted && is_trusted && !node.is_some_and(other))
        });
        judged.unwrap_or_else(|error| {
            tracing::debug!(%error, board = board.name, "cannot tell whether a board is admitted");
            false
        })
    }

    /// Whether the objects can be read: not while a snapshot of them is being installed.
    pub fn can_judge(&self) -> bool {
        self.store.get(&evicted_key()).is_ok()
    }

    /// Whether this board holds the log now, as a master that others may take at its word; whether it was
    /// thrown out is [`Keys::is_admitted`]'s to say.
    pub fn is_member(&self, board: &BoardPeer) -> bool {
        let members = self.store.members().unwrap_or_default();
        board.is_master
            && members.of_board(&board.name).is_some_and(|member| member.key == board.key)
    }

    /// Whether a person threw the board with this key out.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn is_thrown_out(&self, key: &[u8; 32]) -> Result<bool, StoreError> {
        self.is_evicted(&key_text(key))
    }

    /// Whether a person threw this key out.
    pub(super) fn is_evicted(&self, key: &str) -> Result<bool, StoreError> {
        self.is_in(EVICTED, key)
    }

    /// Whether the board with this key was let in as a worker.
    pub(super) fn is_worker(&self, key: &str) -> Result<bool, StoreError> {
        self.is_in(WORKERS, key)
    }

    /// Keys of the boards that were ever given the authority's key, and their names.
    pub(super) fn holders(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let Some((_, data)) = self.list(HOLDERS)? else { return Ok(BTreeMap::new()) };
        let entries = data.as_object().into_iter().flatten();
        let keys = entries.filter(|(key, _)| parse_key(key).is_some());
        Ok(keys.map(|(key, said)| (key.clone(), name_in(said))).collect())
    }

    /// Whether this board is known by its key alone: its Node names it, or the group of masters does.
    pub fn is_pinned(&self, board: &BoardPeer) -> bool {
        let key = key_text(&board.key);
        let judged = self.is_evicted(&key).and_then(|evicted| {
            let Some(node) = self.store.get(&node_key(&board.name))? else { return Ok(false) };
            let is_its = match board_key(&node) {
                Some(known) => known == key,
                // A board that has led from the start has never shown it to a leader.
                None => self.list(HOLDERS)?.is_some_and(|(_, holders)| {
                    let said = holders[&key].as_str().unwrap_or_default();
                    said.split(' ').next() == Some(&*board.name)
                }),
            };
            Ok(!evicted && is_its)
        });
        judged.unwrap_or(false) || self.is_pinned_master(board)
    }

    /// Whether the group of masters names this board with this key, and nobody threw it out.
    pub fn is_pinned_master(&self, board: &BoardPeer) -> bool {
        let members = self.store.members().unwrap_or_default();
        members.of_board(&board.name).is_some_and(|member| member.key == board.key)
            && self.is_evicted(&key_text(&board.key)).is_ok_and(|evicted| !evicted)
    }

    /// Whether the masters themselves know that a board of this name has this key.
    fn is_known_master(&self, board: &BoardPeer) -> Result<bool, StoreError> {
        let holder = self.holders()?.remove(&key_text(&board.key));
        Ok(holder.is_some_and(|name| name == board.name) || self.is_pinned_master(board))
    }

    /// Names of boards that were thrown out although they have the authority's key, unless the cluster
    /// has another authority since.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn lost_holders(&self) -> Result<Vec<String>, StoreError> {
        let Some(evicted) = self.list(EVICTED)? else { return Ok(Vec::new()) };
        let holders = self.list(HOLDERS)?.map(|(_, data)| data).unwrap_or_default();
        let evicted = evicted.1.as_object().cloned().unwrap_or_default();
        let Said { answered, lost: pending, .. } = Said::read(&self.store)?;
        let counts = |key: &str| holders.get(key).is_some() && !answered.contains(key);
        // A person knows better than the board that said that it left.
        let is_lost = |key: &str| pending.iter().any(|(lost, _)| lost == key);
        let lost = evicted.into_iter().filter(|(key, said)| {
            counts(key) && (is_lost(key) || !has_left(said.as_str().unwrap_or_default()))
        });
        Ok(lost.map(|(_, said)| name_in(&said)).collect())
    }

    fn is_in(&self, list: &'static str, key: &str) -> Result<bool, StoreError> {
        Ok(self.list(list)?.is_some_and(|(_, data)| data.get(key).is_some()))
    }

    fn list(&self, list: &'static str) -> Result<Option<(Record, Value)>, StoreError> {
        let Some(record) = self.store.get(&list_key(list))? else { return Ok(None) };
        let mut map: Value = serde_json::from_slice(&record.body).unwrap_or_default();
        Ok(Some((record, map["data"].take())))
    }

    /// The write that makes a list of keys say this of them; null takes a key out of it. None when it
    /// says so already.
    pub(super) fn write(
        &self,
        list: &'static str,
        entries: &[(String, Value)],
    ) -> Result<Option<Op>, StoreError> {
        let found = self.list(list)?;
        let said = found.as_ref().map(|(_, data)| data);
        let is_in = |key: &str| said.is_some_and(|data| data.get(key).is_some());
        let news = entries.iter().filter(|(key, value)| is_in(key) == value.is_null()).cloned();
        let data: serde_json::Map<String, Value> = news.collect();
        if data.is_empty() {
            return Ok(None);
        }
        Ok(Some(match found {
            Some((record, _)) => Op::Patch {
                key: record.key,
                base: record.version,
                subresource: None,
                merge: json!({ "data": data }),
            },
            None => Op::Create {
                kind: kind::CONFIG_MAPS,
                object: json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                    "metadata": { "name": list, "namespace": SYSTEM } }),
            },
        }))
    }
}

/// The board that an entry of a list is about.
fn name_in(said: &Value) -> String {
    said.as_str().unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

/// Whether a board went by itself: it has erased the keys that it had.
fn has_left(said: &str) -> bool {
    said.split(' ').next_back() == Some(LEFT_BY_ITSELF)
}

fn list_key(name: &str) -> ObjectKey {
    ObjectKey { kind: kind::CONFIG_MAPS, namespace: SYSTEM.into(), name: name.into() }
}

/// The list of keys that were thrown out.
pub(super) fn evicted_key() -> ObjectKey {
    list_key(EVICTED)
}

/// Whether this object is that list.
pub(super) fn is_evicted_list(key: &ObjectKey) -> bool {
    key.kind == kind::CONFIG_MAPS && key.namespace == SYSTEM && key.name == EVICTED
}

/// Whether this object is a list that clients may not write: who was thrown out, and whose loss has the
/// cluster take other keys.
pub(super) fn is_kept_list(key: &ObjectKey) -> bool {
    [EVICTED, HOLDERS].iter().any(|list| *key == list_key(list))
}

/// Why clients do not write such a list.
pub(super) fn kept(key: &ObjectKey) -> ApiError {
    let why = "the masters keep it: `kumquat board evict` throws boards out";
    ApiError::forbidden("", "configmaps", &key.name, why)
}

pub(super) fn node_key(name: &str) -> ObjectKey {
    ObjectKey { kind: kind::NODES, namespace: String::new(), name: name.to_owned() }
}

/// The key that the Node's board has.
pub(super) fn board_key(node: &Record) -> Option<String> {
    let node: Value = serde_json::from_slice(&node.body).ok()?;
    Some(node["metadata"]["annotations"][BOARD_KEY].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::controllers::tests::Master;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_signature_alone_lets_nobody_in_while_keys_are_lost() {
        let mut master = Master::new().await;
        let keys = Keys::new(master.registry.clone());
        let annotations = json!({ BOARD_KEY: key_text(&[2; 32]) });
        let known = json!({ "metadata": { "name": "pi-2", "annotations": annotations } });
        master.create("/nodes", known).await;
        // As a person makes it who describes boards in files.
        for name in ["pi-1", "pi-3"] {
            master.create("/nodes", json!({ "metadata": { "name": name } })).await;
        }
        let founder = [(key_text(&[1; 32]), "pi-1 t".into())];
        let op = keys.write(HOLDERS, &founder).expect("readable");
        master.registry.commit(op.into_iter().collect()).await.expect("written");
        let admitted = || {
            let boards =
                [("pi-1", 1), ("pi-1", 8), ("pi-2", 2), ("pi-2", 7), ("pi-3", 3), ("pi-4", 4)];
            boards.map(|(name, key)| {
                keys.is_admitted(&BoardPeer { name: name.into(), key: [key; 32], is_master: false })
            })
        };
        assert_eq!(admitted(), [true, true, true, false, true, true]);
        let lost: BTreeMap<_, _> = [(key_text(&[9; 32]), "pi-9".to_owned())].into();
        let op = super::super::authority::lose(&keys.store, &lost).expect("readable");
        master.registry.commit(op.into_iter().collect()).await.expect("written");
        assert_eq!(admitted(), [true, false, true, false, false, false]);
        master.stop().await;
    }
}
