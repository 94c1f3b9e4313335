//! One connected board: its dispatcher, and what carries the dispatcher's messages to the bus.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::limits::{BUS_KEPT_SECONDS_MAX, LINK_FRAMES_MAX};
use model::wire::{self, Header, MessageKind, Part};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Messages;
use crate::io::bus::{MasterBus, Topics};
use crate::io::link::{MasterEnd, ToBoard};
use crate::master::controllers::Views;
use crate::master::dispatcher::{self, DispatchError};
use crate::master::registry::Registry;

/// What all sessions share.
pub(super) struct Shared {
    pub(super) topics: Topics,
    pub(super) bus: Arc<dyn MasterBus>,
    pub(super) views: Views,
    pub(super) registry: Registry,
    pub(super) as_leader: dispatcher::Options,
    pub(super) messages: Messages,
}

/// Ends when the session that holds the sender has ended.
pub(super) type Over = oneshot::Receiver<Infallible>;

/// One board's session.
pub(super) struct Session {
    pub(super) board: String,
    /// The key that it has shown.
    pub(super) key: Option<[u8; 32]>,
    /// Messages of the board.
    pub(super) up: mpsc::Receiver<Bytes>,
    /// The board's earlier session, which has to end first.
    pub(super) before: Option<Over>,
    /// Dropped at the end.
    pub(super) over: oneshot::Sender<Infallible>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Session {
    /// Serves the board until it is stopped or fails.
    pub(super) async fn run(self, shared: Arc<Shared>) -> Result<(), DispatchError> {
        let Self { board, key, up, before, over, stop } = self;
        if let Some(before) = before {
            // It never sends: its end is what is waited for.
            let _ended = before.await;
        }
        let (down, frames) = mpsc::channel(LINK_FRAMES_MAX);
        // Streams go through the tunnel, not through here.
        let (streams, _) = mpsc::channel(1);
        let link = MasterEnd { down, up, streams };
        let Shared { views, registry, as_leader, messages, .. } = &*shared;
        let (views, registry, name) = (views.clone(), registry.clone(), board.clone());
        let options = dispatcher::Options { board_key: key, hears_all: true, ..as_leader.clone() };
        let dispatcher = dispatcher::run(views, registry, options, name, link, stop);
        // Cancel safety: the dispatcher ends the session; what is not sent by then is of no use.
        let served = tokio::select! {
            served = dispatcher => served,
            () = carry(&shared, &board, frames) => Ok(()),
        };
        messages.forget(&board);
        drop(over);
        served
    }
}

/// Publishes what the dispatcher says, with the bus's back-pressure. Messages in parts are kept to be
/// fetched, and a pointer is published.
async fn carry(shared: &Shared, board: &str, mut frames: mpsc::Receiver<ToBoard>) {
    let mut parts: Vec<Bytes> = Vec::new();
    let mut forget_at: Option<Instant> = None;
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            () = until(forget_at) => {
                shared.messages.forget(board);
                forget_at = None;
                continue;
            }
        };
        let Some(ToBoard { message: frame, .. }) = frame else { return };
        let Ok((header, Part { number, of }, _)) = Header::split_part(&frame) else { continue };
        if of == 1 {
            publish(shared, board, header.kind, frame).await;
            continue;
        }
        // The dispatcher sends the parts of a message one after the other.
        parts.push(frame);
        if number + 1 < of {
            continue;
        }
        let packed = wire::pack(&std::mem::take(&mut parts));
        let pointer = if header.kind == MessageKind::Net {
            shared.messages.keep_for_all(packed)
        } else {
            forget_at = Some(Instant::now() + Duration::from_secs(BUS_KEPT_SECONDS_MAX));
            shared.messages.keep(board, packed)
        };
        let header = Header { kind: MessageKind::Fetch, ..header };
        publish(shared, board, header.kind, wire::encode(header, &pointer).into()).await;
    }
}

async fn publish(shared: &Shared, board: &str, kind: MessageKind, message: Bytes) {
    if let Some(topic) = shared.topics.down(board, kind) {
        // Whether it arrives shows in the beats.
        shared.bus.publish(&topic, message, false).await;
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
