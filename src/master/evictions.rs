//! The keys that were thrown out, as this master's own copy of the list says, whoever leads.
//!
//! In: the ConfigMap `kumquat-evicted` in the store. Out: the set, for whoever is asked often, and a word
//! to the port for boards, which then judges its live connections anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::join::parse_key;
use model::view::kind;
use serde_json::Value;
use tokio::sync::watch;

use super::keys::{SYSTEM, evicted_key, is_evicted_list};
use crate::io::store::{Store, StoreError};

/// SHA-256 of the keys' SubjectPublicKeyInfo.
pub type Evicted = Arc<BTreeSet<[u8; 32]>>;

/// Pause after the list could not be read or watched.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps the set as the list says until `stop`, and tells `turned_out` of each change.
///
/// # Errors
/// None: trouble with the store shows elsewhere.
pub async fn follow(
    store: Store,
    evicted: watch::Sender<Evicted>,
    turned_out: watch::Sender<()>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    // Cancel safety: the set changes as a whole.
    tokio::select! {
        () = watch_list(&store, &evicted, &turned_out) => {}
        // An error means that nobody can ask any more.
        _ = stop.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

async fn watch_list(
    store: &Store,
    evicted: &watch::Sender<Evicted>,
    turned_out: &watch::Sender<()>,
) {
    loop {
        let from = store.version();
        if let Ok(record) = store.get(&evicted_key()) {
            let fresh = record.map(|record| keys_in(&record.body)).unwrap_or_default();
            let is_new = evicted.send_if_modified(|known| {
                let is_new = **known != fresh;
                *known = Arc::new(fresh);
                is_new
            });
            if is_new {
                turned_out.send_replace(());
            }
        }
        let Ok(mut cursor) = store.watch_kind(&kind::CONFIG_MAPS, Some(SYSTEM), from) else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        loop {
            match cursor.next().await {
                Ok(change) if !is_evicted_list(&change.key) => {}
                Ok(_) => break,
                Err(_) => {
                    tokio::time::sleep(AGAIN).await;
                    break;
                }
            }
        }
    }
}

/// What a person has broken in the list is left out.
fn keys_in(body: &[u8]) -> BTreeSet<[u8; 32]> {
    let list: Value = serde_json::from_slice(body).unwrap_or_default();
    let keys = list["data"].as_object().into_iter().flatten();
    keys.filter_map(|(key, _)| parse_key(key)).collect()
}

#[cfg(test)]
mod tests {
    use model::join::key_text;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_list_is_read() {
        let list = json!({ "data": { key_text(&[7; 32]): "pi-2", "none": "x" } });
        assert_eq!(keys_in(list.to_string().as_bytes()), BTreeSet::from([[7; 32]]));
        assert!(keys_in(b"broken").is_empty());
    }
}
