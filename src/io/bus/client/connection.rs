//! One connection to a leader, from its first packet to its end.
//!
//! The event loop is polled to the end of each step, never dropped in the middle of one (rumqttc
//! would lose packets), and the queue of requests is never waited on: what finds no room stays here.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::leader::{LeaderRecord, SignedRecord};
use model::limits::{
    BUS_CONNECT_SECONDS_MAX, BUS_PACKET_BYTES_MAX, BUS_REQUESTS_MAX, LEADER_RECORD_BYTES_MAX,
};
use model::wire::{self, CommandV1, Header, MessageKind};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Packet, Publish, QoS,
    SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::time::sleep_until;

use super::sealed::Seals;
use super::{BusState, Client, Ended, stopped};

/// How often the client pings: a path that is dead is noticed at the second ping.
const PING: Duration = Duration::from_secs(5);
/// Three beats of the leader are missing.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Time for a farewell at the end.
const FAREWELL: Duration = Duration::from_millis(300);

/// A connection that is being made or stands.
struct Connection {
    requests: AsyncClient,
    record: LeaderRecord,
    address: SocketAddr,
    /// Since when all topics are subscribed.
    ready: Option<Instant>,
    /// When the leader was heard last.
    heard: Instant,
    /// What found no room among the requests.
    waiting: Option<(String, Bytes)>,
    /// Over somebody else's broker.
    seals: Option<Seals>,
}

impl Client {
    /// Connects to the leader's own broker and serves until something ends it.
    pub(super) async fn connection(&mut self, record: &LeaderRecord, address: IpAddr) -> Ended {
        let address = SocketAddr::new(address, record.mqtt_port);
        let mqtt = match (self.options.tls)(&record.name) {
            Ok(tls) => self.mqtt_options(address, tls),
            Err(why) => return Ended::Failed { why, ready_for: None },
        };
        self.converse(record, address, mqtt, None, std::future::pending()).await
    }

    /// Connects and serves until something ends it, `over` among others.
    pub(super) async fn converse(
        &mut self,
        record: &LeaderRecord,
        address: SocketAddr,
        mqtt: MqttOptions,
        seals: Option<Seals>,
        over: impl Future<Output = ()>,
    ) -> Ended {
        let (requests, mut event_loop) = AsyncClient::new(mqtt, BUS_REQUESTS_MAX);
        event_loop.network_options.set_tcp_nodelay(true);
        event_loop.network_options.set_connection_timeout(BUS_CONNECT_SECONDS_MAX);
        let mut connection = Connection {
            requests,
            record: record.clone(),
            address,
            ready: None,
            heard: Instant::now(),
            waiting: None,
            seals,
        };
        // Cancel safety: the connection ends with either.
        let ended = tokio::select! {
            ended = self.serve(&mut connection, &mut event_loop) => ended,
            () = over => connection.failed("the tunnel to the leader ended"),
        };
        if connection.ready.is_some() && !matches!(ended, Ended::Failed { .. }) {
            farewell(&connection.requests, &mut event_loop).await;
            self.options.state.send_replace(BusState::default());
        }
        ended
    }

    fn mqtt_options(&self, address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> MqttOptions {
        let name = &self.options.name;
        let mut mqtt = MqttOptions::new(name, address.ip().to_string(), address.port());
        let tls = TlsConfiguration::Rustls(tls);
        mqtt.set_transport(Transport::tls_with_config(tls));
        mqtt.set_keep_alive(PING);
        mqtt.set_clean_session(true);
        mqtt.set_max_packet_size(BUS_PACKET_BYTES_MAX, BUS_PACKET_BYTES_MAX);
        mqtt.set_last_will(LastWill::new(
            self.topics.will(name),
            Vec::new(),
            QoS::AtMostOnce,
            false,
        ));
        mqtt
    }

    async fn serve(&mut self, connection: &mut Connection, event_loop: &mut EventLoop) -> Ended {
        loop {
            let event = {
                let poll = event_loop.poll();
                tokio::pin!(poll);
                loop {
                    let silent = (connection.heard + SILENCE_MAX).into();
                    // Cancel safety: `poll` is kept until it is done, all others lose nothing.
                    tokio::select! {
                        () = stopped(&mut self.stop) => return Ended::Stopped,
                        event = &mut poll => break event,
                        message = self.up.recv(), if connection.waiting.is_none() => match message {
                            Some(message) => self.say(connection, message),
                            None => return Ended::LinkClosed,
                        },
                        Ok(()) = self.leader.changed() => if !self.follows(connection) {
                            return Ended::OtherLeader;
                        },
                        () = sleep_until(silent) => {
                            return connection.failed("three beats of the leader are missing");
                        }
                    }
                }
            };
            let taken = match event {
                Ok(Event::Incoming(packet)) => self.take(connection, packet),
                Ok(Event::Outgoing(_)) => Ok(()),
                Err(error) => Err(reason(&error)),
            };
            if let Err(why) = taken {
                return connection.failed(&why);
            }
            connection.say_waiting();
        }
    }

    /// Whether the connection is still to the one who leads.
    fn follows(&mut self, connection: &Connection) -> bool {
        let Connection { record, address, .. } = connection;
        match &*self.leader.borrow_and_update() {
            None => true,
            Some(leader) => {
                let same = leader.name == record.name && leader.rank() == record.rank();
                if connection.seals.is_some() {
                    return same;
                }
                same && leader.mqtt_port == record.mqtt_port
                    && leader.addresses.iter().any(|it| IpAddr::V4(*it) == address.ip())
            }
        }
    }

    /// Sends what the agent says; before the topics are subscribed nobody could answer it.
    fn say(&self, connection: &mut Connection, message: Bytes) {
        if connection.ready.is_none() {
            return;
        }
        let Ok((header, ..)) = Header::split_part(&message) else { return };
        let Some(topic) = self.topics.up(&self.options.name, header.kind) else { return };
        let message = match &mut connection.seals {
            Some(seals) => seals.seal(&topic, &message),
            None => message,
        };
        connection.waiting = Some((topic, message));
        connection.say_waiting();
    }

    fn take(&self, connection: &mut Connection, packet: Packet) -> Result<(), String> {
        match packet {
            Packet::ConnAck(_) => {
                let filters = [
                    self.topics.leader(),
                    self.topics.all(),
                    self.topics.down_of(&self.options.name),
                ];
                let filters = filters.map(|filter| SubscribeFilter::new(filter, QoS::AtMostOnce));
                connection.requests.try_subscribe_many(filters).map_err(|error| error.to_string())
            }
            Packet::SubAck(answer) => {
                if answer.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return Err("the leader refuses a subscription".to_owned());
                }
                self.begin(connection);
                Ok(())
            }
            Packet::Publish(message) => {
                self.hear(connection, message);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// All is subscribed: the agent introduces itself, and hears that from here so that nothing
    /// depends on when the leader asks.
    fn begin(&self, connection: &mut Connection) {
        let Connection { record, address, .. } = connection;
        tracing::info!(leader = record.name, %address, "bus is connected");
        let (epoch, term) = record.rank();
        let header = Header { kind: MessageKind::Command, epoch, term, sequence: 0 };
        self.pass_on(wire::encode(header, &CommandV1::SayHello).into());
        let connected_to = Some((record.name.clone(), *address));
        let since = Instant::now();
        self.options.state.send_replace(BusState { connected_to, since, trouble: None });
        connection.ready = Some(since);
        connection.heard = since;
    }

    fn hear(&self, connection: &mut Connection, message: Publish) {
        if message.topic == self.topics.leader() {
            let text = std::str::from_utf8(&message.payload).unwrap_or_default();
            let record = text.parse::<SignedRecord>();
            match record.ok().filter(|_| message.payload.len() <= LEADER_RECORD_BYTES_MAX) {
                Some(record) => drop(self.options.announced.send_replace(Some(record))),
                None => tracing::debug!("leader record on the bus cannot be read"),
            }
            return;
        }
        let payload = match &mut connection.seals {
            Some(seals) => seals.open(&self.topics, &message.topic, &message.payload),
            None => Some(message.payload),
        };
        let Some(payload) = payload else { return };
        connection.heard = Instant::now();
        self.pass_on(payload);
    }

    /// Never waits: an agent that takes nothing misses messages, which the beats repair.
    fn pass_on(&self, message: Bytes) {
        if self.inbox.try_send(message).is_err() {
            tracing::debug!("agent takes no more messages, one is dropped");
        }
    }
}

impl Connection {
    fn failed(&self, why: &str) -> Ended {
        let ready_for = self.ready.map(|ready| ready.elapsed());
        Ended::Failed { why: why.to_owned(), ready_for }
    }

    fn say_waiting(&mut self) {
        let Some((topic, message)) = self.waiting.take() else { return };
        let payload = message.to_vec();
        if self.requests.try_publish(topic.as_str(), QoS::AtMostOnce, false, payload).is_err() {
            // The event loop takes a request with each step and comes back here.
            self.waiting = Some((topic, message));
        }
    }
}

/// Says why in a way that a person can act on.
fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::NetworkTimeout => "it does not answer".to_owned(),
        ConnectionError::ConnectionRefused(code) => format!("it refuses this board ({code:?})"),
        other => other.to_string(),
    }
}

/// Leaves without a will.
async fn farewell(requests: &AsyncClient, event_loop: &mut EventLoop) {
    if requests.try_disconnect().is_err() {
        return;
    }
    let gone = async { while event_loop.poll().await.is_ok() {} };
    // A leader that does not take it finds out by itself.
    let _late = tokio::time::timeout(FAREWELL, gone).await;
}
