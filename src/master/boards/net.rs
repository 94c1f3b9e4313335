//! Tells all boards on the bus what changed in the network, once for everybody; and after the last of
//! a few changes which revision is the newest, so that who missed it need not wait for a beat.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::wire::{self, Header, MessageKind, NetV1};
use tokio::sync::watch;
use tokio::time::Instant;

use super::session::Shared;
use super::stopped;

/// From a change to the word that it was the newest.
const WORD_AFTER: Duration = Duration::from_millis(100);

/// Publishes changes until `stop` turns true. Who misses one is told by its session.
pub(super) async fn tell_all(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let net = shared.views.net();
    let mut published = net.published();
    let mut told = *published.borrow_and_update();
    let mut word_at: Option<Instant> = None;
    loop {
        // Cancel safety: all only wait.
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = until(word_at) => {
                tell(&shared, &wire::encode_body(&NetV1::newest(told))).await;
                word_at = None;
                continue;
            }
            changed = published.changed() => if changed.is_err() {
                return;
            },
        }
        let owed = net.owed(told, Duration::ZERO);
        for body in owed.bodies {
            tell(&shared, &body).await;
        }
        told = owed.revision;
        word_at = Some(Instant::now() + WORD_AFTER.max(net.between()));
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn tell(shared: &Shared, body: &[u8]) {
    let dispatcher = &shared.as_leader;
    let (epoch, term) = (dispatcher.epoch, dispatcher.term);
    let header = Header { kind: MessageKind::Net, epoch, term, sequence: 0 };
    let parts = match wire::parts_of(header, body) {
        Ok(parts) => parts,
        Err(error) => return tracing::error!(%error, "boards are not told of the network"),
    };
    let mut parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
    if parts.len() > 1 {
        let pointer = shared.messages.keep_for_all(wire::pack(&parts));
        let header = Header { kind: MessageKind::Fetch, ..header };
        parts = vec![wire::encode(header, &pointer).into()];
    }
    for part in parts {
        shared.bus.publish(&shared.topics.net(), part, false).await;
    }
}
