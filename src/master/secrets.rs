//! Seals Secrets anew: those that an earlier version stored in the open, and after a rotation those under
//! an earlier key.
//!
//! One pass after the reign began and one after each rotation, slowly enough to disturb nobody; between
//! them it waits and costs nothing. A Secret that changes meanwhile is sealed by whoever changes it.

use std::time::Duration;

use model::limits::SECRETS_RESEALED_PER_SECOND;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::io::store::{Base, Op, ProposeError, SecretsKeys, Store, StoreError};

/// How many Secrets are looked at in one go.
const PAGE: usize = SECRETS_RESEALED_PER_SECOND;
/// After a pass that could not be finished.
const AGAIN: Duration = Duration::from_secs(30);

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("cannot read the Secrets")]
    Read(#[from] StoreError),
    #[error("cannot write a Secret")]
    Write(#[from] ProposeError),
}

/// Runs until `stop` turns true.
pub async fn run(store: Store, keys: SecretsKeys, mut stop: watch::Receiver<bool>) {
    let mut current = keys.current();
    loop {
        current.mark_unchanged();
        let passed = tokio::select! {
            passed = pass(&store) => passed,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let pause = match passed {
            Ok(0) => None,
            Ok(secrets) => {
                tracing::info!(secrets, "Secrets are sealed with the current key");
                None
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "Secrets are sealed later"
                );
                Some(AGAIN)
            }
        };
        // Cancel safety: a rotation that is not seen here is seen by the next look at the keys.
        tokio::select! {
            changed = current.changed() => if changed.is_err() { return },
            () = waited(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

async fn waited(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Seals what is to be sealed; gives how many that were.
async fn pass(store: &Store) -> Result<usize, Trouble> {
    let (mut sealed, mut after) = (0, None);
    loop {
        let (stale, next) = store.stale_secrets(after, PAGE)?;
        let is_busy = !stale.is_empty();
        for record in stale {
            let op = Op {
                key: record.key,
                base: Base::At(record.version),
                uid: record.uid,
                body: Some(record.body),
                keep_old: false,
            };
            match store.propose(vec![op]).await {
                // Somebody else has written it, and so sealed it.
                Ok(_) | Err(ProposeError::Conflict { .. }) => sealed += 1,
                Err(error) => return Err(error.into()),
            }
        }
        if next.is_none() {
            return Ok(sealed);
        }
        after = next;
        if is_busy {
            sleep(Duration::from_secs(1)).await;
        }
    }
}
