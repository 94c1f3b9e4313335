//! A bus over somebody else's broker (Mosquitto, EMQX): the same topics, everything sealed.
//!
//! ```text
//!  master::boards ── External ~~~ broker ~~~ io::bus::client ── io::link ── agent
//!        Sessions: keys, asked for over the tunnel, where both ends have proven who they are
//! ```
//! The broker is not trusted: it can keep messages back or tell that a board is gone, which delays,
//! and nothing else. Board topics are sealed with a key per session, `all/...` with a key that all
//! boards share, and signed; `leader` is only signed. What is forged, replayed or of an earlier
//! session is dropped.

mod master;
mod seal;
mod sessions;
mod url;

pub use master::{External, ExternalEvents, ExternalOptions, Sign, external};
pub use seal::{Direction, Opener, SEAL_BYTES, Sealer};
pub use sessions::{NoRandomness, SessionGrant, Sessions, SharedGrant, SharedOpener};
pub use url::{BadUrl, BrokerUrl};

use std::sync::Arc;
use std::time::Duration;

use model::limits::{BUS_CONNECT_SECONDS_MAX, BUS_PACKET_BYTES_MAX, BUS_PAYLOAD_BYTES_MAX};
use rumqttc::{EventLoop, MqttOptions, TlsConfiguration, Transport};

/// How often a client pings: a path that is dead is noticed at the second ping.
const PING: Duration = Duration::from_secs(5);
/// A signature for all boards with its length.
const SIGNATURE_BYTES: usize = 1 + model::limits::LEADER_SIGNATURE_BYTES_MAX;
/// A sealed message leaves room for its topic.
const _: () =
    assert!(BUS_PAYLOAD_BYTES_MAX + SEAL_BYTES + SIGNATURE_BYTES + 512 <= BUS_PACKET_BYTES_MAX);

/// What a client says of itself to the broker; `id` is unique there.
pub(super) fn mqtt_options(
    url: &BrokerUrl,
    tls: Option<&Arc<rustls::ClientConfig>>,
    id: &str,
) -> MqttOptions {
    let mut mqtt = MqttOptions::new(id, &url.host, url.port);
    if let Some(tls) = tls.filter(|_| url.tls) {
        mqtt.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    if let Some((user, password)) = &url.user {
        mqtt.set_credentials(user, password);
    }
    mqtt.set_keep_alive(PING);
    mqtt.set_clean_session(true);
    mqtt.set_max_packet_size(BUS_PACKET_BYTES_MAX, BUS_PACKET_BYTES_MAX);
    mqtt
}

/// Bounds of its connection.
pub(super) fn bound(event_loop: &mut EventLoop) {
    event_loop.network_options.set_tcp_nodelay(true);
    event_loop.network_options.set_connection_timeout(BUS_CONNECT_SECONDS_MAX);
}
