//! Which boards belong to the cluster: a Node belongs to the key in its annotation.
//!
//! A certificate is good for ever, so it alone does not decide. A board is admitted unless another key
//! has its name, or its own key was evicted. A Node that a person deletes frees its name for whichever
//! board with a certificate for it says Hello first; only an eviction keeps a board out.

use logic::controller::Op;
use model::ids::ObjectKey;
use model::join::{BOARD_KEY, EVICTED, HOLDERS, WORKERS, key_text};
use model::view::kind;
use serde_json::{Value, json};

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
            Ok(!evicted && !node.is_some_and(other))
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

    /// Whether the board with this key was ever given the authority's key.
    pub(super) fn is_holder(&self, key: &str) -> Result<bool, StoreError> {
        self.is_in(HOLDERS, key)
    }

    /// Names of boards that were thrown out although they have the authority's key.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn lost_holders(&self) -> Result<Vec<String>, StoreError> {
        let Some(evicted) = self.list(EVICTED)? else { return Ok(Vec::new()) };
        let holders = self.list(HOLDERS)?.map(|(_, data)| data).unwrap_or_default();
        let evicted = evicted.1.as_object().cloned().unwrap_or_default();
        let lost = evicted.into_iter().filter(|(key, _)| holders.get(key).is_some());
        let name = |(_, said): (String, Value)| {
            said.as_str().unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
        };
        Ok(lost.map(name).collect())
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

pub(super) fn node_key(name: &str) -> ObjectKey {
    ObjectKey { kind: kind::NODES, namespace: String::new(), name: name.to_owned() }
}

/// The key that the Node's board has.
fn board_key(node: &Record) -> Option<String> {
    let node: Value = serde_json::from_slice(&node.body).ok()?;
    Some(node["metadata"]["annotations"][BOARD_KEY].as_str()?.to_owned())
}
