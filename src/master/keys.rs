//! Which boards belong to the cluster: a Node belongs to the key in its annotation.
//!
//! A certificate is good for ever, so it alone does not decide. A board is admitted unless another key
//! has its name, or its own key was evicted. A Node that a person deletes frees its name for whichever
//! board with a certificate for it says Hello first; only an eviction keeps a board out.

use model::ids::ObjectKey;
use model::join::{BOARD_KEY, EVICTED, key_text};
use model::view::kind;
use serde_json::Value;

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

    /// Whether a person threw the board with this key out.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn is_thrown_out(&self, key: &[u8; 32]) -> Result<bool, StoreError> {
        self.is_evicted(&key_text(key))
    }

    /// Whether a person threw this key out.
    pub(super) fn is_evicted(&self, key: &str) -> Result<bool, StoreError> {
        let Some(record) = self.store.get(&evicted_key())? else { return Ok(false) };
        let map: Value = serde_json::from_slice(&record.body).unwrap_or_default();
        Ok(map["data"].get(key).is_some())
    }
}

/// The list of keys that were thrown out.
pub(super) fn evicted_key() -> ObjectKey {
    ObjectKey { kind: kind::CONFIG_MAPS, namespace: SYSTEM.into(), name: EVICTED.into() }
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
