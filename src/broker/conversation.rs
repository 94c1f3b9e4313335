//! One client's side of the protocol: packets in, answers and messages out. No IO and no clock.
//!
//! ```text
//!  connecting ── CONNECT admitted ──> connected ── anything in Ended ──> over
//!                                      │    ^
//!                 a subscriber is full v    │ it has room, was cut off, or it is late
//!                                     waiting (reads no further packet, still sends)
//! ```
//!
//! Whatever ends it, also being dropped, it gives its session back, and the will goes out if the
//! standard says so.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Packet, PingResp, PubAck, Publish, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use tokio::time::Instant;

use crate::codec::{self, Frame};
use crate::hub::{Hub, Publication, Seat};
use crate::limits::{PAYLOAD_COPY_BYTES_MAX, REPLY_BYTES_MAX, WRITE_BYTES};
use crate::outbox::Outgoing;
use crate::session::Session;
use crate::subscriber::Waiting;
use crate::{Connecting, Ended, Peer, Refusal, topic};

/// One client's side of the protocol.
pub(crate) struct Conversation {
    hub: Arc<Hub>,
    seat: Seat,
    phase: Phase,
    /// A message of this client that waits for room.
    waiting: Option<Box<Waiting>>,
    /// Answers, sent before queued messages.
    replies: BytesMut,
    output: Output,
    keep_alive: Option<Duration>,
    ended: Ended,
}

enum Phase {
    Connecting(Box<Peer>),
    Connected(Arc<Session>),
}

/// Bytes on their way to the stream.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) head: BytesMut,
    /// A payload that follows, where it lies.
    pub(crate) payload: Bytes,
}

/// What the conversation waits for beside bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Due {
    /// When its client is cut off unless it takes messages.
    pub(crate) stalled_at: Option<Instant>,
    /// When it waits no longer for other clients.
    pub(crate) waits_until: Option<Instant>,
}

impl Conversation {
    pub(crate) fn new(hub: Arc<Hub>, seat: Seat, peer: Peer) -> Self {
        Self {
            hub,
            seat,
            phase: Phase::Connecting(Box::new(peer)),
            waiting: None,
            replies: BytesMut::new(),
            output: Output::default(),
            keep_alive: None,
            ended: Ended::Closed,
        }
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected(_))
    }

    /// One and a half times what the client asked for (section 3.1.2.10).
    pub(crate) fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whether it reads packets: not while it waits for others, or while the client does not take
    /// its answers.
    pub(crate) fn reads(&self) -> bool {
        self.waiting.is_none() && self.replies.len() < REPLY_BYTES_MAX
    }

    /// Handles the packets in `bytes` as long as it reads; gives how many bytes are missing for the
    /// next one, and whether there was any.
    ///
    /// # Errors
    ///
    /// Why the connection must end.
    pub(crate) fn input(
        &mut self,
        bytes: &mut BytesMut,
        now: Instant,
    ) -> Result<(usize, bool), Ended> {
        let mut any = false;
        while self.reads() {
            match codec::read(bytes, &self.hub.limits) {
                Ok(Frame::Missing(missing)) => return Ok((missing, any)),
                Ok(Frame::Packet(packet)) => self.packet(packet, now)?,
                Err(ended) => {
                    let unknown = matches!(ended, Ended::ProtocolLevel(_)) && !self.is_connected();
                    if unknown {
                        self.connack(ConnectReturnCode::RefusedProtocolVersion, false);
                    }
                    return Err(ended);
                }
            }
            any = true;
        }
        Ok((0, any))
    }

    fn packet(&mut self, packet: Packet, now: Instant) -> Result<(), Ended> {
        let session = match (&self.phase, packet) {
            (Phase::Connecting(_), Packet::Connect(connect)) => return self.connect(connect),
            (Phase::Connecting(_), _) => return Err(Ended::NotConnect),
            (Phase::Connected(_), Packet::Connect(_)) => return Err(Ended::SecondConnect),
            (Phase::Connected(session), packet) => (session.clone(), packet),
        };
        match session {
            (session, Packet::Publish(publish)) => self.publish(&session, publish, now),
            (session, Packet::PubAck(ack)) => {
                session.acknowledge(ack.pkid);
                Ok(())
            }
            (session, Packet::Subscribe(subscribe)) => self.subscribe(&session, subscribe),
            (session, Packet::Unsubscribe(unsubscribe)) => self.unsubscribe(&session, &unsubscribe),
            (_, Packet::PingReq) => {
                written(PingResp.write(&mut self.replies));
                Ok(())
            }
            (_, Packet::Disconnect) => Err(Ended::Left),
            _ => Err(Ended::Malformed("it is for clients, not for a broker")),
        }
    }

    fn connect(&mut self, mut connect: Connect) -> Result<(), Ended> {
        if let Err(refusal) = self.admit(&connect) {
            let code = match refusal {
                Refusal::ClientId => ConnectReturnCode::BadClientId,
                Refusal::Unavailable => ConnectReturnCode::ServiceUnavailable,
                Refusal::Credentials => ConnectReturnCode::BadUserNamePassword,
                Refusal::NotAuthorized => ConnectReturnCode::NotAuthorized,
            };
            self.connack(code, false);
            return Err(Ended::Refused(refusal));
        }
        if connect.client_id.is_empty() {
            // No client can send such an id, so none can take it over.
            connect.client_id = format!("$anonymous/{}", self.seat.number);
        }
        let will = connect.last_will.map(|will| {
            self.hub.will(Publication {
                topic: &will.topic,
                payload: will.message,
                qos: will.qos,
                retain: will.retain,
            })
        });
        let (id, clean) = (&connect.client_id, connect.clean_session);
        let (session, present) = self.hub.attach(self.seat.number, id, clean, will)?;
        self.phase = Phase::Connected(session);
        if connect.keep_alive > 0 {
            self.keep_alive = Some(Duration::from_millis(u64::from(connect.keep_alive) * 1500));
        }
        self.connack(ConnectReturnCode::Success, present);
        Ok(())
    }

    /// The broker's own rules, then the owner's.
    fn admit(&self, connect: &Connect) -> Result<(), Refusal> {
        let Phase::Connecting(peer) = &self.phase else { return Err(Refusal::NotAuthorized) };
        let id = &connect.client_id;
        let limits = &self.hub.limits;
        let reserved = id.starts_with('$') || id.chars().any(char::is_control);
        let nameless = id.is_empty() && !connect.clean_session;
        if id.len() > limits.client_id_bytes_max || reserved || nameless {
            return Err(Refusal::ClientId);
        }
        let login = connect.login.as_ref();
        let will_topic = connect.last_will.as_ref().map(|will| will.topic.as_str());
        let connecting = Connecting {
            client_id: id,
            clean_session: connect.clean_session,
            keep_alive: connect.keep_alive,
            username: login.map(|login| login.username.as_str()),
            password: login.map(|login| login.password.as_str()),
            will_topic,
        };
        let access = &self.hub.access;
        access.admit(peer, &connecting)?;
        let allowed = |topic| topic::is_name(topic, limits) && access.may_publish(id, topic);
        if will_topic.is_some_and(|topic| !allowed(topic)) {
            return Err(Refusal::NotAuthorized);
        }
        Ok(())
    }

    fn connack(&mut self, code: ConnectReturnCode, present: bool) {
        written(ConnAck::new(code, present).write(&mut self.replies));
    }

    fn publish(&mut self, session: &Session, publish: Publish, now: Instant) -> Result<(), Ended> {
        let Publish { qos, retain, topic, pkid, payload, .. } = publish;
        if !topic::is_name(&topic, &self.hub.limits) {
            return Err(Ended::Malformed("the topic of its PUBLISH is none, or too long"));
        }
        if !self.hub.access.may_publish(&session.id, &topic) {
            return Err(Ended::PublishDenied(topic.into()));
        }
        let publication = Publication { topic: &topic, payload, qos, retain };
        self.waiting = self.hub.publish(publication, Some(session), now).waiting;
        if qos == QoS::AtLeastOnce {
            written(PubAck::new(pkid).write(&mut self.replies));
        }
        Ok(())
    }

    /// The SUBACK is sent before retained messages, which go through the queue.
    fn subscribe(&mut self, session: &Arc<Session>, subscribe: Subscribe) -> Result<(), Ended> {
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        for filter in &subscribe.filters {
            let qos = match filter.qos {
                QoS::AtMostOnce => QoS::AtMostOnce,
                QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
            };
            let granted = topic::is_filter(&filter.path, &self.hub.limits)
                && self.hub.access.may_subscribe(&session.id, &filter.path)
                && self.hub.subscribe(session, &filter.path, qos);
            codes.push(match granted {
                true => SubscribeReasonCode::Success(qos),
                false => SubscribeReasonCode::Failure,
            });
        }
        written(SubAck::new(subscribe.pkid, codes).write(&mut self.replies));
        Ok(())
    }

    fn unsubscribe(&mut self, session: &Arc<Session>, packet: &Unsubscribe) -> Result<(), Ended> {
        for filter in &packet.topics {
            self.hub.unsubscribe(session, filter);
        }
        written(UnsubAck::new(packet.pkid).write(&mut self.replies));
        Ok(())
    }

    /// Does what is due: offers a waiting message again, fills the output when it is empty. `waker`
    /// is woken when there is more to do.
    ///
    /// # Errors
    ///
    /// Why the connection must end.
    pub(crate) fn advance(&mut self, waker: &Waker, now: Instant) -> Result<Due, Ended> {
        let mut due = Due::default();
        if let Some(mut waiting) = self.waiting.take() {
            let progress = waiting.retry(self.hub.room_of_one(), waker, now);
            self.hub.lose(progress.lost);
            if !waiting.is_over() {
                due.waits_until = Some(waiting.until);
                self.waiting = Some(waiting);
            }
        }
        let idle = self.output.is_empty();
        if idle && !self.replies.is_empty() {
            self.output.head = std::mem::take(&mut self.replies);
        }
        let Phase::Connected(session) = &self.phase else {
            self.hub.may_connect(self.seat.number, waker)?;
            return Ok(due);
        };
        let bounds = (self.hub.limits.inflight_max, self.hub.room_of_one());
        let output = &mut self.output;
        let taken = session.take(self.seat.number, waker, bounds, |outgoing| {
            if let Some(outgoing) = outgoing {
                output.put(outgoing);
            }
            idle && output.payload.is_empty() && output.head.len() < WRITE_BYTES
        })?;
        due.stalled_at = taken.stalled_at(self.hub.limits.stall);
        Ok(due)
    }

    /// Ends it; what is left in the output, such as a refusal, may still be sent.
    pub(crate) fn end(&mut self, ended: Ended) {
        if self.output.is_empty() {
            self.output.head = std::mem::take(&mut self.replies);
        }
        self.ended = ended;
        if let Phase::Connected(session) = &self.phase {
            self.hub.detach(self.seat.number, session, &self.ended);
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Phase::Connected(session) = &self.phase {
            self.hub.detach(self.seat.number, session, &self.ended);
        }
    }
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.payload.is_empty()
    }

    fn put(&mut self, outgoing: Outgoing) {
        codec::write_publish_header(&outgoing, &mut self.head);
        let payload = &outgoing.delivery.message.payload;
        if payload.len() <= PAYLOAD_COPY_BYTES_MAX {
            self.head.extend_from_slice(payload);
        } else {
            self.payload = payload.clone();
        }
    }

    /// So many bytes were written. Memory goes back once all are.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let of_head = bytes.min(self.head.len());
        self.head.advance(of_head);
        self.payload.advance(bytes - of_head);
        if self.head.is_empty() {
            self.head = BytesMut::new();
        }
        if self.payload.is_empty() {
            self.payload = Bytes::new();
        }
    }
}

fn written(result: Result<usize, rumqttc::mqttbytes::Error>) {
    result.expect("an answer is far below the largest packet, and its id is not 0");
}
