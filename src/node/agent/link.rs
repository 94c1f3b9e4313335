//! Messages from and to the master.

use bytes::Bytes;
use model::wire::{
    BeatDownV1, BeatUpV1, BlobRequestV1, CommandV1, DesiredV1, Header, HelloV1, LogsRequestV1,
    MessageKind, PodStatusV1, StatusV1, StreamRequestV1, WireError, decode, encode_parts,
};
use serde::Serialize;
use serde_json::json;

use logic::pod::Host;

use super::{Agent, off_runtime};
use crate::io::image::Digest;
use crate::io::link::{StreamAnswer, StreamOpen, ToBoard};
use crate::node::NodeError;
use crate::node::desired::{DesiredError, Reign};
use crate::node::driver::blocking;
use crate::node::image_list::status_images;
use crate::node::log_stream;

/// The board looks how it fares (voltage, heat, clock, disk) with every so many beats.
const BEATS_PER_LOOK: u64 = 2;
/// A master that said nothing for so long, which is longer than two of its beats, is not heard.
const SILENT_MILLIS: u64 = 12_000;

impl Agent {
    /// Takes one encoded message; what is damaged or of a deposed leader is dropped, be it that this
    /// board knows the later one or that the leader's own time has run out.
    ///
    /// # Errors
    /// When the board cannot be settled by a first desired set: the role has to begin anew.
    pub(super) async fn take_message(&mut self, told: &ToBoard) -> Result<(), NodeError> {
        let (header, body) = match self.assembly.take(&told.message) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "message of the master is dropped");
                return Ok(());
            }
        };
        if !self.obeys((header.epoch, header.term)) {
            return Ok(());
        }
        // After that, which may have waited for the disk.
        let taken_ms = super::ticks();
        if !told.gate.is_open() {
            tracing::info!("message of this board's own leader is dropped: it leads no more");
            return Ok(());
        }
        self.heard_ticks = Some(super::ticks());
        let taken = match header.kind {
            MessageKind::Desired => match decode(header.kind, &body) {
                Ok(desired) => {
                    let reign = (header.epoch, header.term);
                    return self.take_desired(reign, taken_ms, desired).await;
                }
                Err(error) => Err(error),
            },
            MessageKind::Net => {
                let reign = (header.epoch, header.term);
                let now = super::ticks();
                decode(header.kind, &body).map(|net| {
                    self.net.take(reign, net, now);
                    self.services_changed();
                })
            }
            MessageKind::BeatDown => decode(header.kind, &body).map(|beat| self.take_beat(&beat)),
            MessageKind::Command => decode(header.kind, &body).map(|c| self.take_command(&c)),
            MessageKind::Tokens => decode(header.kind, &body).map(|it| self.take_tokens(it)),
            other => Err(WireError::Kind(other as u16)),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "message of the master is dropped");
        }
        Ok(())
    }

    /// Whether a message of this leader counts.
    fn obeys(&mut self, reign: Reign) -> bool {
        let fence = &mut self.desired.fence;
        let admitted = match reign > fence.highest() {
            true => off_runtime(|| fence.admit(reign)),
            false => fence.admit(reign),
        };
        match admitted {
            Ok(true) => true,
            Ok(false) => {
                tracing::info!(term = reign.1, "message of an earlier leader is dropped");
                false
            }
            Err(error) => {
                tracing::error!(%error, "leader is not obeyed: free space on the data-dir");
                false
            }
        }
    }

    /// Whether a master has been heard of late.
    pub(super) fn is_led(&self) -> bool {
        self.heard_ticks.is_some_and(|at| super::ticks() < at + SILENT_MILLIS)
    }

    /// Durable first, then acted on, then acknowledged at once rather than with the next beat.
    async fn take_desired(
        &mut self,
        (epoch, term): Reign,
        taken_ms: u64,
        desired: DesiredV1,
    ) -> Result<(), NodeError> {
        let revision = desired.revision;
        match off_runtime(|| self.desired.apply(desired)) {
            Ok(changes) => {
                // Boards of one machine share the clock of its boot: a trial puts these lines in order.
                let (pods, applied_ms) = (changes.pods.len(), super::ticks());
                tracing::debug!(
                    revision,
                    pods,
                    epoch,
                    term,
                    taken_ms,
                    applied_ms,
                    "desired set applied"
                );
                match self.settled {
                    true => self.apply_changes(&changes),
                    false => self.settle().await?,
                }
                self.send_beat();
            }
            Err(DesiredError::Mismatch(mismatch)) => {
                tracing::info!(%mismatch, "asking for the whole desired set");
                self.introduce();
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "desired set is not stored: free space on the data-dir");
            }
        }
        Ok(())
    }

    fn take_beat(&mut self, beat: &BeatDownV1) {
        self.clock.advance(beat.cluster_time);
        let now = super::ticks();
        self.outbox.acknowledge(beat.status_sequence, now);
        self.net.compare(beat.net_revision, now);
        if beat.desired_revision < self.desired.revision() {
            // A master that knows less than this board has to hear what the board holds.
            self.introduce();
        }
    }

    fn take_command(&mut self, command: &CommandV1) {
        match command {
            CommandV1::SayHello => self.introduce(),
            CommandV1::ResendStatus => self.outbox.touch_all(super::ticks()),
        }
    }

    /// Says Hello, and then all statuses: the master takes it as a beginning.
    pub(super) fn introduce(&mut self) {
        self.hello();
        self.outbox.touch_all(super::ticks());
    }

    /// Introduces the board.
    pub(super) fn hello(&mut self) {
        let mut node = self.driver.board.node(&self.version, &self.condition, self.clock.now());
        node["status"]["images"] = status_images(self.driver.images.list());
        let hello = HelloV1 {
            boot: self.boot,
            desired_revision: self.desired.revision(),
            node: Bytes::from(node.to_string()),
        };
        self.send(MessageKind::Hello, &hello);
    }

    /// Registers the board anew, and says of its pods where they are.
    pub(super) fn address_changed(&mut self) {
        self.host = Host { address: self.driver.board.address() };
        self.introduce();
    }

    /// Says what the board has, and looks whether something runs short, and now and then how the
    /// board fares.
    pub(super) async fn beat(&mut self) {
        let (driver, before) = (self.driver.clone(), self.condition.pressure);
        let is_due = self.beats.is_multiple_of(BEATS_PER_LOOK);
        self.beats += 1;
        let seen = blocking(move || {
            let pressure = driver.board.pressure(before, &driver.places.data_dir);
            (pressure, is_due.then(|| super::vitals(&driver)))
        });
        if let Some((pressure, vitals)) = seen.await {
            let mut changed = pressure != before;
            self.condition.pressure = pressure;
            let (now, ticks) = (self.clock.now(), super::ticks());
            let health = &mut self.condition.health;
            for change in vitals.iter().flat_map(|vitals| health.look_again(vitals, ticks)) {
                let event = self.driver.board.event(change, now);
                self.outbox.event(Bytes::from(event.to_string()), ticks);
                changed = true;
            }
            if changed {
                self.report_board();
            }
        }
        self.net.beat();
        self.send_beat();
    }

    /// Asks, with a beat, for what is missing of the network.
    pub(super) fn ask_net(&mut self) {
        let now = super::ticks();
        if self.net.ask_ticks().is_some_and(|at| at <= now) {
            self.net.asked(now);
            self.send_beat();
        }
    }

    /// What changes of the board's own status while it runs: one patch, because only the last one
    /// waits to be sent.
    pub(super) fn report_board(&mut self) {
        let conditions = self.driver.board.conditions(&self.condition, self.clock.now());
        let images = status_images(self.driver.images.list());
        let patch = json!({ "conditions": conditions, "images": images });
        self.outbox.node_status(Bytes::from(patch.to_string()), super::ticks());
    }

    fn send_beat(&mut self) {
        let beat = BeatUpV1 {
            boot: self.boot,
            desired_revision: self.desired.revision(),
            net_revision: self.net.revision(),
            status_sequence: self.outbox.sequence(),
        };
        self.send(MessageKind::BeatUp, &beat);
    }

    /// Sends what the outbox has gathered.
    pub(super) fn send_statuses(&mut self) {
        let now = self.now();
        let (pods, host) = (&mut self.pods, &self.host);
        let message: Option<StatusV1> = self.outbox.take(now.ticks, |uid| {
            let entry = pods.get_mut(uid)?;
            let status = entry.machine.status(host, now.wall);
            let metadata = &entry.machine.pod().metadata;
            Some(PodStatusV1 {
                uid: *uid,
                namespace: metadata.namespace.clone(),
                name: metadata.name.clone(),
                status: Bytes::from(status.to_string()),
                removable: entry.machine.is_removable(),
            })
        });
        let Some(message) = message else { return };
        tracing::debug!(sequence = message.sequence, pods = message.pods.len(), "statuses sent");
        if !self.send(MessageKind::Status, &message) {
            self.outbox.not_sent(message, now.ticks);
        }
    }

    /// Whether the message found room; nothing waits for a master that is slow.
    pub(super) fn send(&mut self, kind: MessageKind, body: &impl Serialize) -> bool {
        self.messages += 1;
        let (epoch, term) = self.desired.fence.highest();
        let header = Header { kind, epoch, term, sequence: self.messages };
        let Ok(parts) = encode_parts(header, body) else {
            tracing::error!(?kind, "message to the master is too large");
            return false;
        };
        // The master drops a message whose last parts found no room.
        parts.into_iter().all(|part| self.up.try_send(part.into()).is_ok())
    }

    /// Serves a stream that the master opened.
    pub(super) fn open_stream(&mut self, open: StreamOpen) {
        let StreamOpen { request, answer, input, gate } = open;
        let refuse = |text: String| drop(answer.try_send(Err(text)));
        let (header, body) = match Header::split(&request) {
            Ok(parts) => parts,
            Err(error) => return refuse(error.to_string()),
        };
        if !self.obeys((header.epoch, header.term)) || !gate.is_open() {
            return refuse("the request comes from an earlier leader".to_owned());
        }
        match decode(header.kind, body) {
            Ok(StreamRequestV1::Logs(request)) => self.open_logs(request, answer),
            Ok(StreamRequestV1::Blob(request)) => self.open_blob(request, answer),
            Ok(StreamRequestV1::Upgrade(request)) => match &self.driver.upgrades {
                Some(upgrades) => upgrades.answer(request, answer),
                None => refuse("this board has no binary to exchange".to_owned()),
            },
            Ok(request) => match input {
                Some(input) => self.open_duplex(request, answer, input),
                None => refuse("the request has no input".to_owned()),
            },
            Err(error) => refuse(error.to_string()),
        }
    }

    /// Sends an image's blob to the master, which gives it to a board that lacks it.
    fn open_blob(&self, request: BlobRequestV1, answer: StreamAnswer) {
        let Ok(permit) = self.blob_streams.clone().try_acquire_owned() else {
            let text = "this board is sending too many images already".to_owned();
            return drop(answer.try_send(Err(text)));
        };
        let images = self.driver.images.clone();
        tokio::task::spawn_blocking(move || {
            images.send_blob(Digest::from_bytes(request.sha256), request.from, &answer);
            drop(permit);
        });
    }

    fn open_logs(&mut self, request: LogsRequestV1, answer: StreamAnswer) {
        let refuse = |text: String| drop(answer.try_send(Err(text)));
        let (path, id) = match self.log_of(&request) {
            Ok(found) => found,
            Err(text) => return refuse(text),
        };
        let Ok(permit) = self.log_streams.clone().try_acquire_owned() else {
            return refuse("too many log streams are open on this board".to_owned());
        };
        let running = self.running.clone();
        tokio::task::spawn_blocking(move || {
            let lives =
                || running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&id);
            log_stream::stream(&path, &request, lives, &answer);
            drop(permit);
        });
    }
}
