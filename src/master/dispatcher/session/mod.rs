//! One board's session: what it said, what it was told, what is due.

mod said;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use logic::controller::Op;
use model::join::key_text;
use model::limits::{BUS_FETCH_BYTES_PER_SECOND_MIN, NODE_EVENTS_MAX, UP_MESSAGE_BYTES_MAX};
use model::network::Ipv4Block;
use model::wire::{
    self, Assembly, BeatDownV1, BeatUpV1, CommandV1, Header, HelloV1, MessageKind, WireError,
};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};

use super::again::Again;
use super::desired::Told;
use super::net::NetTold;
use super::{DispatchError, Options, Trouble, node, status};
use crate::io::link::ToBoard;
use crate::io::seldom::Seldom;
use crate::master::contacts::Contacts;
use crate::master::controllers::Views;
use crate::master::registry::{CommitError, Registry};

/// Attempts to write what a board reports while others change the same objects.
const ATTEMPTS_MAX: u32 = 8;

/// What a board should not have sent causes one line in this time, after the first few.
const LINES_EVERY: Duration = Duration::from_secs(5);

/// A connected board.
pub(super) struct Session {
    pub(super) views: Views,
    pub(super) registry: Registry,
    contacts: Contacts,
    /// Events that wait to be recorded; those that find no room are dropped.
    events: mpsc::Sender<Value>,
    pub(super) options: Options,
    /// Name of the board, as it has proven.
    name: String,
    down: mpsc::Sender<ToBoard>,
    assembly: Assembly,
    sequence: u64,
    /// Number of the last message of the board; a jump tells that one was lost.
    heard_sequence: Option<u64>,
    /// Number of the board's last Hello, after which it has said all statuses again.
    hello_sequence: u64,
    /// Known since its Hello.
    board: Option<Board>,
    /// What it was told of the network.
    pub(super) net: NetTold,
    /// Lines about what the board should not have sent.
    lines: Seldom,
    again: Again,
}

/// What is known of the board since its Hello.
struct Board {
    boot: u64,
    changed: Arc<Notify>,
    told: Told,
    told_at: Instant,
    /// Size of what it was told last.
    told_bytes: usize,
    /// Last status message that is durable.
    status_sequence: u64,
    /// A message was lost, or a status could not be written: an acknowledgement covers everything
    /// before it, so none is given until the board has said Hello and then all statuses again.
    has_gap: bool,
    beats: u64,
}

impl Session {
    pub(super) fn new(
        views: Views,
        registry: Registry,
        options: Options,
        name: String,
        down: mpsc::Sender<ToBoard>,
    ) -> Self {
        let (events, queue) = mpsc::channel(NODE_EVENTS_MAX);
        // Ends with the session, whose queue it empties first.
        tokio::spawn(status::record_events(registry.clone(), name.clone(), queue));
        Self {
            contacts: Contacts::new(&views),
            net: NetTold::new(views.net(), options.hears_all),
            events,
            views,
            registry,
            options,
            name,
            down,
            assembly: Assembly::bounded(UP_MESSAGE_BYTES_MAX),
            sequence: 0,
            heard_sequence: None,
            hello_sequence: 0,
            board: None,
            lines: Seldom::bursts(5, LINES_EVERY),
            again: Again::default(),
        }
    }

    /// The board's key, as annotations show it.
    pub(super) fn key(&self) -> Option<String> {
        self.options.board_key.as_ref().map(key_text)
    }

    /// The board's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where all pods have their addresses.
    pub(super) fn pod_range(&self) -> Option<Ipv4Block> {
        self.options.pod_range
    }

    /// Where all services have theirs.
    pub(super) fn service_range(&self) -> Ipv4Block {
        self.registry.options().service_range.into()
    }

    /// One line about what the board should not have sent, unless there were too many.
    pub(super) fn complain(&self, what: &str, why: &dyn std::fmt::Display) {
        if let Some(left_out) = self.lines.line() {
            tracing::warn!(node = self.name, %why, left_out, "{what}");
        }
    }

    /// Waits until the board's pods may have changed; forever before its Hello.
    pub(super) async fn changed(&self) {
        match &self.board {
            Some(board) => board.changed.notified().await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn send<T: Serialize>(
        &mut self,
        kind: MessageKind,
        body: &T,
    ) -> Result<usize, DispatchError> {
        self.sequence += 1;
        let Options { epoch, term, .. } = self.options;
        let header = Header { kind, epoch, term, sequence: self.sequence };
        self.send_parts(wire::encode_parts(header, body)).await
    }

    /// A message about the network is the same for all boards, its header too.
    pub(super) async fn send_net(&mut self, body: &[u8]) -> Result<usize, DispatchError> {
        let Options { epoch, term, .. } = self.options;
        let header = Header { kind: MessageKind::Net, epoch, term, sequence: 0 };
        self.send_parts(wire::parts_of(header, body)).await
    }

    async fn send_parts(
        &mut self,
        parts: Result<Vec<Vec<u8>>, WireError>,
    ) -> Result<usize, DispatchError> {
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                tracing::error!(node = self.name, %error, "a message to a board is too large: it is not sent");
                return Ok(0);
            }
        };
        let bytes = parts.iter().map(Vec::len).sum();
        for part in parts {
            self.down
                .send(Bytes::from(part).into())
                .await
                .map_err(|_| DispatchError::LinkClosed)?;
        }
        Ok(bytes)
    }

    /// Asks the board to introduce itself.
    pub(super) async fn ask_hello(&mut self) -> Result<(), DispatchError> {
        self.send(MessageKind::Command, &CommandV1::SayHello).await.map(drop)
    }

    /// Takes one message of the board.
    pub(super) async fn receive(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        // Before the message is acted on: what it brings up to date must not be undone.
        self.contacts.heard(&self.name);
        let Some((header, body)) = self.assembly.take(bytes)? else { return Ok(()) };
        self.count(header.sequence);
        if header.kind == MessageKind::Hello {
            // It may be another life of the board, which counts from its own beginning.
            self.heard_sequence = Some(header.sequence);
            self.hello_sequence = header.sequence;
        }
        let body = body.as_slice();
        match header.kind {
            MessageKind::Hello => self.hello(wire::decode(header.kind, body)?).await?,
            MessageKind::BeatUp => self.beat_up(wire::decode(header.kind, body)?).await?,
            MessageKind::Status if header.sequence < self.hello_sequence => {
                self.overtaken(&wire::decode(header.kind, body)?);
            }
            MessageKind::Status => self.status(wire::decode(header.kind, body)?).await?,
            MessageKind::TokenAsk => self.give_tokens(wire::decode(header.kind, body)?).await?,
            other => {
                tracing::debug!(kind = ?other, "a board sent a message that is not for masters")
            }
        }
        Ok(())
    }

    /// Notes a message of the board, and whether one before it was lost.
    fn count(&mut self, sequence: u64) {
        let before = self.heard_sequence.unwrap_or(sequence);
        self.heard_sequence = Some(before.max(sequence));
        if sequence > before.saturating_add(1)
            && let Some(board) = &mut self.board
        {
            board.has_gap = true;
            self.again = Again::default();
        }
    }

    async fn hello(&mut self, hello: HelloV1) -> Result<(), DispatchError> {
        let name = self.name.clone();
        let claimed = node::name_of(&hello.node).unwrap_or_default();
        if claimed != name {
            let why = format!("its Node is named {claimed:?}");
            self.complain("a Hello for another board is refused", &why);
            return Ok(());
        }
        if node::is_anothers(self, &name)? {
            self.complain("a Hello is refused", &"its name belongs to another key by now");
            return Ok(());
        }
        self.again.answered();
        let mut said = serde_json::from_slice(&hello.node).unwrap_or_default();
        let refused = self.judge_node(&mut said);
        if let Some(why) = &refused.why {
            self.complain("what a board says of its Node is refused", why);
        }
        let registered = self.write(|session| node::register(session, &said)).await?;
        if registered == Wrote::Refused {
            tracing::error!(node = name, "the API refuses the board's Node object");
        }
        let before = self.board.take();
        // Asked for its statuses alone, a board is not made to write down again what it has.
        let has_all = before.as_ref().is_some_and(|board| {
            board.has_gap
                && board.boot == hello.boot
                && board.told.revision == hello.desired_revision
        });
        let mut told = before.map(|board| board.told).unwrap_or_default();
        if !has_all {
            told.forget(hello.desired_revision);
        }
        self.board = Some(Board {
            changed: self.views.board(&name),
            boot: hello.boot,
            told,
            told_at: Instant::now(),
            told_bytes: 0,
            status_sequence: 0,
            has_gap: refused.again,
            beats: 0,
        });
        self.renew_lease().await?;
        self.send_desired(!has_all, &BTreeSet::new()).await
    }

    /// Sends what changed since the last time.
    pub(super) async fn send_difference(&mut self) -> Result<(), DispatchError> {
        if self.is_misjudged() {
            self.ask_hello().await?;
        }
        self.send_desired(false, &BTreeSet::new()).await
    }

    /// Whether somebody deleted the board's Node, or its conditions say that nobody hears it: it
    /// registers again, as a kubelet would.
    fn is_misjudged(&self) -> bool {
        if self.board.is_none() {
            return false;
        }
        let world = self.views.world();
        world.node(&self.name).is_none_or(|node| node.conditions.get("Ready") == Some("Unknown"))
    }

    async fn send_desired(
        &mut self,
        whole: bool,
        also_gone: &BTreeSet<model::ids::Uid>,
    ) -> Result<(), DispatchError> {
        let Some(board) = &mut self.board else { return Ok(()) };
        let difference = board.told.advance(&self.views.world(), &self.name, whole, also_gone);
        let Some(difference) = difference else { return Ok(()) };
        let message = difference.message(self.registry.store()).map_err(DispatchError::Read)?;
        let bytes = self.send(MessageKind::Desired, &message).await?;
        if let Some(board) = &mut self.board {
            (board.told_at, board.told_bytes) = (Instant::now(), bytes);
        }
        Ok(())
    }

    /// Tells the board what it should have.
    pub(super) async fn beat(&mut self) -> Result<(), DispatchError> {
        let Some(board) = &self.board else { return self.ask_hello().await };
        let beat = BeatDownV1 {
            desired_revision: board.told.revision,
            net_revision: self.views.net().revision(),
            status_sequence: board.status_sequence,
            cluster_time: self.registry.clock().now(),
        };
        self.send(MessageKind::BeatDown, &beat).await.map(drop)
    }

    async fn beat_up(&mut self, beat: BeatUpV1) -> Result<(), DispatchError> {
        let Some(board) = &mut self.board else { return self.ask_hello().await };
        if board.boot != beat.boot {
            return self.ask_hello().await;
        }
        let has_gap = board.has_gap;
        if self.again.ask(has_gap, self.options.beat, Instant::now()) || self.is_misjudged() {
            // It was lost and speaks again: its conditions and statuses are its own to say.
            self.ask_hello().await?;
        }
        let Some(board) = &mut self.board else { return Ok(()) };
        board.beats += 1;
        let renew = board.beats % 2 == 0;
        // What is large takes its time to arrive.
        let seconds = board.told_bytes as u64 / BUS_FETCH_BYTES_PER_SECOND_MIN;
        let patience = self.options.beat + Duration::from_secs(seconds);
        let behind =
            beat.desired_revision != board.told.revision && board.told_at.elapsed() >= patience;
        let lost_status = !has_gap && beat.status_sequence > board.status_sequence;
        if behind {
            let floor = beat.desired_revision;
            board.told.forget(floor);
            self.send_desired(true, &BTreeSet::new()).await?;
        }
        if lost_status {
            self.send(MessageKind::Command, &CommandV1::ResendStatus).await?;
        }
        if renew {
            self.renew_lease().await?;
        }
        self.repair_net(beat.net_revision).await
    }

    async fn renew_lease(&mut self) -> Result<(), DispatchError> {
        if self.board.is_none() {
            return Ok(());
        }
        self.write(|session| node::lease(session, &session.name)).await.map(drop)
    }

    /// Plans and commits until nobody interferes.
    async fn write(
        &self,
        plan: impl Fn(&Self) -> Result<Vec<Op>, DispatchError>,
    ) -> Result<Wrote, DispatchError> {
        for _ in 0..ATTEMPTS_MAX {
            let ops = plan(self)?;
            if ops.is_empty() {
                return Ok(Wrote::Done);
            }
            match self.registry.commit(ops).await {
                Ok(_) => return Ok(Wrote::Done),
                Err(CommitError::Conflict) => (),
                Err(CommitError::NoSpace | CommitError::NotLeading | CommitError::Late) => {
                    return Ok(Wrote::NotNow);
                }
                Err(CommitError::Rejected(error)) if matches!(error.code, 404 | 409) => (),
                Err(CommitError::Rejected(error)) => {
                    tracing::debug!(%error, "the API refuses what a board reports");
                    return Ok(Wrote::Refused);
                }
                Err(error @ CommitError::Closed) => return Err(DispatchError::Write(error)),
            }
        }
        Ok(Wrote::NotNow)
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrote {
    /// It is durable.
    Done,
    /// The API refuses it for good.
    Refused,
    /// The disk is full or others were faster, again and again.
    NotNow,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.board.is_some() {
            self.views.forget_board(&self.name);
        }
    }
}
