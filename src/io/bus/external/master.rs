//! The master as a client of somebody else's broker.
//!
//! It publishes what is sealed, opens what boards say, and makes their presence out of sessions and
//! wills. While the broker is away messages are dropped, as QoS 0 allows; sessions outlive it, and the
//! beats repair what was lost. The retained leader record is published at each connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use model::limits::{BUS_REQUESTS_MAX, BUS_ROUTED_MAX};
use rumqttc::{AsyncClient, Event, EventLoop, Packet, QoS, SubscribeReasonCode};
use tokio::sync::{mpsc, watch};

use super::sessions::Opened;
use super::{BrokerUrl, Sessions, bound, mqtt_options};
use crate::io::bus::Topics;
use crate::io::bus::master::{BusEvent, BusEvents, MasterBus, Waiting};

/// Pause between attempts to reach the broker.
const PAUSE: Duration = Duration::from_secs(1);

/// Signs as the leader.
pub type Sign = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// What the master's end works with.
pub struct ExternalOptions {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the master.
    pub name: String,
    /// The broker.
    pub url: BrokerUrl,
    /// How it is spoken to over TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The keys, which boards ask for over the tunnel.
    pub sessions: Sessions,
    /// Signs as the leader.
    pub sign: Sign,
}

/// What waits to be published.
struct Outgoing {
    topic: String,
    payload: Bytes,
    retain: bool,
}

/// The bus of a master over somebody else's broker.
pub struct External {
    topics: Topics,
    sessions: Sessions,
    sign: Sign,
    out: mpsc::Sender<Outgoing>,
    events: mpsc::Sender<BusEvent>,
    /// The newest message that the broker shall retain.
    retained: Mutex<Option<(String, Bytes)>>,
}

/// What happens on it.
pub struct ExternalEvents(mpsc::Receiver<BusEvent>);

/// The bus, its events, and what has to run for both.
pub fn external(
    options: ExternalOptions,
) -> (Arc<External>, ExternalEvents, impl Future<Output = ()> + Send + use<>) {
    let (out, waiting) = mpsc::channel(BUS_ROUTED_MAX);
    let (events, happened) = mpsc::channel(BUS_ROUTED_MAX);
    let external = Arc::new(External {
        topics: Topics::new(&options.cluster),
        sessions: options.sessions.clone(),
        sign: options.sign.clone(),
        out,
        events,
        retained: Mutex::default(),
    });
    let running = Arc::clone(&external).run(options, waiting);
    (external, ExternalEvents(happened), running)
}

impl MasterBus for External {
    fn publish<'a>(&'a self, topic: &'a str, payload: Bytes, retain: bool) -> Waiting<'a, ()> {
        Box::pin(async move {
            // The record is signed; the audit is for people who have no key.
            let is_plain = topic == self.topics.leader() || self.topics.is_audit(topic);
            let payload = if is_plain {
                payload
            } else if let Some(board) = self.topics.board_below(topic) {
                let Some(sealed) = self.sessions.seal(board, topic, &payload) else { return };
                sealed.into()
            } else {
                self.sessions.seal_for_all(topic, &payload, |bytes| (self.sign)(bytes)).into()
            };
            let topic = topic.to_owned();
            if retain {
                let newest = Some((topic.clone(), payload.clone()));
                *self.retained.lock().unwrap_or_else(PoisonError::into_inner) = newest;
            }
            // The other end takes messages whether the broker is there or not.
            let _stopping = self.out.send(Outgoing { topic, payload, retain }).await;
        })
    }

    fn disconnect(&self, board: &str) {
        if self.sessions.forget(board) {
            // When there is no room, whoever judges boards by their silence finds out.
            let _full = self.events.try_send(BusEvent::Went { board: board.into() });
        }
    }

    fn key_of(&self, board: &str) -> Option<[u8; 32]> {
        self.sessions.key_of(board)
    }

    fn renew_shared(&self) {
        self.sessions.renew_shared();
    }
}

impl BusEvents for ExternalEvents {
    fn next(&mut self) -> Waiting<'_, Option<BusEvent>> {
        Box::pin(self.0.recv())
    }
}

impl External {
    /// Keeps a connection to the broker until it is dropped.
    async fn run(self: Arc<Self>, options: ExternalOptions, mut out: mpsc::Receiver<Outgoing>) {
        let id = format!("kumquat-{}-{}-master", options.cluster, options.name);
        let mqtt = mqtt_options(&options.url, options.tls.as_ref(), &id);
        let told = watch::Sender::new(String::new());
        loop {
            let (client, mut event_loop) = AsyncClient::new(mqtt.clone(), BUS_REQUESTS_MAX);
            bound(&mut event_loop);
            let why = self.serve(&options, &client, &mut event_loop, &mut out).await;
            if told.send_if_modified(|last| std::mem::replace(last, why.clone()) != why) {
                tracing::warn!(broker = %options.url, why, "bus: the broker is not there");
            }
            let over = tokio::time::sleep(PAUSE);
            tokio::pin!(over);
            loop {
                // Cancel safety: both lose nothing; the pause goes on.
                tokio::select! {
                    () = &mut over => break,
                    message = out.recv() => if message.is_none() {
                        return;
                    },
                }
            }
        }
    }

    async fn serve(
        &self,
        options: &ExternalOptions,
        client: &AsyncClient,
        event_loop: &mut EventLoop,
        out: &mut mpsc::Receiver<Outgoing>,
    ) -> String {
        let mut waiting: Option<Outgoing> = None;
        let mut ready = false;
        loop {
            let event = {
                let poll = event_loop.poll();
                tokio::pin!(poll);
                loop {
                    // Cancel safety: `poll` is kept until it is done, `recv` loses nothing.
                    tokio::select! {
                        event = &mut poll => break event,
                        message = out.recv(), if waiting.is_none() => match message {
                            Some(message) if ready => waiting = send(client, message),
                            Some(_) => {}
                            None => return "nobody speaks any more".to_owned(),
                        },
                    }
                }
            };
            let taken = match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let filter = self.topics.up_of_all();
                    client.try_subscribe(filter, QoS::AtMostOnce).map_err(|error| error.to_string())
                }
                Ok(Event::Incoming(Packet::SubAck(answer))) => {
                    if answer.return_codes.contains(&SubscribeReasonCode::Failure) {
                        return "the broker refuses a subscription".to_owned();
                    }
                    tracing::info!(broker = %options.url, "bus: connected to the broker");
                    ready = true;
                    waiting = self.retained().and_then(|message| send(client, message));
                    Ok(())
                }
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    self.hear(&message.topic, &message.payload).await;
                    Ok(())
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = taken {
                return why;
            }
            waiting = waiting.take().and_then(|message| send(client, message));
        }
    }

    fn retained(&self) -> Option<Outgoing> {
        let retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner).clone();
        retained.map(|(topic, payload)| Outgoing { topic, payload, retain: true })
    }

    async fn hear(&self, topic: &str, sealed: &[u8]) {
        let Some((name, is_will)) = self.topics.board_of(topic) else { return };
        let board: Arc<str> = name.into();
        let event = match self.sessions.open(name, is_will, topic, sealed) {
            Opened::Nothing => {
                return tracing::debug!(
                    node = name,
                    topic,
                    "a message that nobody sealed is dropped"
                );
            }
            Opened::Went => BusEvent::Went { board },
            Opened::Said { came, payload } => {
                if let Some(connection) = came {
                    // Whoever takes the events ends with this.
                    let _stopping = self.events.send(BusEvent::Came { board, connection }).await;
                }
                BusEvent::Said { topic: topic.into(), payload }
            }
        };
        let _stopping = self.events.send(event).await;
    }
}

/// Hands a message to the client; gives it back when there is no room.
fn send(client: &AsyncClient, message: Outgoing) -> Option<Outgoing> {
    let Outgoing { topic, payload, retain } = &message;
    let sent = client.try_publish(topic.as_str(), QoS::AtMostOnce, *retain, payload.to_vec());
    sent.is_err().then_some(message)
}
