//! A board's end of a bus over somebody else's broker: keys before the connection, seals on it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use model::leader::LeaderRecord;
use model::limits::BUS_CONNECT_SECONDS_MAX;
use rumqttc::{LastWill, QoS};

use super::backoff::Backoff;
use super::{Client, Ended, GOOD_AFTER, Topics, Waiting};
use crate::io::bus::external::{
    BrokerUrl, Direction, Opener, Sealer, SessionGrant, SharedGrant, SharedOpener, mqtt_options,
};

/// Gets keys from the leader, which knows who asks.
pub trait Keys: Send + Sync + 'static {
    /// A new session, or why there is none; and what ends when the way to the leader that it came by
    /// is gone.
    fn session(&self) -> Waiting<'_, Result<(SessionGrant, Waiting<'static, ()>), String>>;

    /// What all boards share at this moment, or why it cannot be had.
    fn shared(&self) -> Waiting<'_, Result<SharedGrant, String>>;
}

/// Whether the leader of this cluster signed these bytes, with this signature.
pub type IsLeaders = Arc<dyn Fn(&[u8], &[u8]) -> bool + Send + Sync>;

/// Somebody else's broker.
#[derive(Clone)]
pub struct BrokerOptions {
    /// Where it is.
    pub url: BrokerUrl,
    /// How it is spoken to over TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Gets keys.
    pub keys: Arc<dyn Keys>,
    /// Checks what is said to all.
    pub is_leaders: IsLeaders,
}

/// The keys of one session.
pub(super) struct Seals {
    up: Sealer,
    down: Opener,
    shared: Arc<Mutex<SharedOpener>>,
    /// The shared key is being asked for.
    asking: Arc<AtomicBool>,
    keys: Arc<dyn Keys>,
    is_leaders: IsLeaders,
}

impl Client {
    /// Gets keys, connects to the broker and serves until something ends it; pauses after a failure.
    pub(super) async fn over_broker(
        &mut self,
        record: &LeaderRecord,
        broker: &BrokerOptions,
        backoff: &mut Backoff,
    ) -> Ended {
        let prepared = async {
            let grant = broker.keys.session().await;
            let grant = grant.map_err(|why| format!("the leader gives no keys: {why}"))?;
            let (grant, lost) = grant;
            Ok::<_, String>((grant, lost, resolve(&broker.url).await?))
        };
        let ended = match self.meanwhile(prepared).await {
            Err(ended) => return ended,
            Ok(Err(why)) => Ended::Failed { why, ready_for: None },
            Ok(Ok((grant, lost, address))) => {
                let name = &self.options.name;
                let id = format!("kumquat-{}-{name}", self.options.cluster);
                let mut mqtt = mqtt_options(&broker.url, broker.tls.as_ref(), &id);
                let topic = self.topics.will(name);
                let sealer = Sealer::new(&grant.secret, grant.id, Direction::Will);
                let will = sealer.seal_last(&topic, &[]);
                mqtt.set_last_will(LastWill::new(topic, will, QoS::AtMostOnce, false));
                let seals = Some(Seals::new(&grant, broker));
                self.converse(record, address, mqtt, seals, lost).await
            }
        };
        let Ended::Failed { why, ready_for } = &ended else { return ended };
        self.note_trouble(record, &broker.url, why.clone());
        if ready_for.is_some_and(|ready_for| ready_for >= GOOD_AFTER) {
            *backoff = Backoff::default();
        }
        self.idle(Some(backoff.next())).await
    }
}

/// An address of the broker, for those who ask where the bus goes.
async fn resolve(url: &BrokerUrl) -> Result<SocketAddr, String> {
    let within = Duration::from_secs(BUS_CONNECT_SECONDS_MAX);
    let found = tokio::net::lookup_host((url.host.as_str(), url.port));
    let unknown = || format!("the broker {url} has no address");
    match tokio::time::timeout(within, found).await {
        Ok(Ok(mut addresses)) => addresses.next().ok_or_else(unknown),
        Ok(Err(error)) => Err(format!("{}: {error}", unknown())),
        Err(_) => Err(unknown()),
    }
}

impl Seals {
    fn new(grant: &SessionGrant, broker: &BrokerOptions) -> Self {
        Self {
            up: Sealer::new(&grant.secret, grant.id, Direction::Up),
            down: Opener::new(&grant.secret, grant.id, Direction::Down, 0),
            shared: Arc::new(Mutex::new(SharedOpener::new(&grant.shared))),
            asking: Arc::default(),
            keys: broker.keys.clone(),
            is_leaders: broker.is_leaders.clone(),
        }
    }

    /// Seals what the agent says.
    pub(super) fn seal(&mut self, topic: &str, message: &[u8]) -> Bytes {
        self.up.seal(topic, message).into()
    }

    /// What the leader said, if it did.
    pub(super) fn open(&mut self, topics: &Topics, topic: &str, sealed: &[u8]) -> Option<Bytes> {
        if topics.board_below(topic).is_some() {
            let opened = self.down.open(topic, sealed);
            let opened = opened.inspect_err(|error| {
                tracing::debug!(topic, %error, "a message of the bus is dropped");
            });
            return opened.ok().map(|(_, message)| message);
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_of_another(sealed) {
            drop(shared);
            self.ask_shared();
            return None;
        }
        shared.open(topic, sealed, |bytes, signature| (self.is_leaders)(bytes, signature))
    }

    /// Asks for the shared key, which was made anew; what it sealed meanwhile the beats reveal.
    fn ask_shared(&self) {
        if self.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (shared, asking, keys) = (self.shared.clone(), self.asking.clone(), self.keys.clone());
        // Ends with its answer, which has a deadline of its own.
        tokio::spawn(async move {
            match keys.shared().await {
                Ok(grant) => {
                    let mut opener = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    *opener = SharedOpener::new(&grant);
                }
                Err(why) => tracing::debug!(why, "the bus's shared key is not renewed yet"),
            }
            asking.store(false, Ordering::Release);
        });
    }
}
