//! Tells all boards on the bus what changed in the network, once for everybody.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::wire::{self, Header, MessageKind};
use tokio::sync::watch;

use super::session::Shared;
use super::stopped;

/// Publishes changes until `stop` turns true. Who misses one is told by its session.
pub(super) async fn tell_all(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let net = shared.views.net();
    let mut published = net.published();
    let mut told = *published.borrow_and_update();
    loop {
        // Cancel safety: both only wait.
        tokio::select! {
            () = stopped(&mut stop) => return,
            changed = published.changed() => if changed.is_err() {
                return;
            },
        }
        let owed = net.owed(told, Duration::ZERO);
        for body in owed.bodies {
            tell(&shared, &body).await;
        }
        told = owed.revision;
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
