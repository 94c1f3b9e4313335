//! Who may connect, publish and subscribe: asked of the owner of the broker.

use std::net::SocketAddr;

/// Who is at the other end of a stream, as its transport knows.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name in the client's certificate, when it showed one.
    pub name: Option<String>,
    /// Where it connects from.
    pub address: SocketAddr,
}

/// What a client asks for in its CONNECT, before it is admitted.
#[derive(Debug)]
pub struct Connecting<'a> {
    /// Client id as sent: may be empty, and may hold wildcards and slashes. Too long ones and those
    /// with control characters never get here.
    pub client_id: &'a str,
    /// Whether the session ends with the connection.
    pub clean_session: bool,
    /// Seconds; 0 for none.
    pub keep_alive: u16,
    /// User name, when there is one.
    pub username: Option<&'a str>,
    /// Password, when there is one.
    pub password: Option<&'a str>,
    /// Topic of the will. The broker itself asks [`Access::may_publish`] about it.
    pub will_topic: Option<&'a str>,
}

/// Why a CONNECT is refused: the return codes of MQTT 3.1.1, section 3.2.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Return code 2.
    #[error("its client id is not allowed")]
    ClientId,
    /// Return code 3.
    #[error("there is no room for it")]
    Unavailable,
    /// Return code 4.
    #[error("its user name or password is wrong")]
    Credentials,
    /// Return code 5.
    #[error("it is not authorized")]
    NotAuthorized,
}

/// The owner's rules. Called under no lock of the broker, and never for messages it sends itself.
pub trait Access: Send + Sync + 'static {
    /// Whether this peer may connect as it asks.
    ///
    /// # Errors
    ///
    /// The refusal is sent in the CONNACK, then the connection ends.
    fn admit(&self, peer: &Peer, connecting: &Connecting<'_>) -> Result<(), Refusal>;
    /// Whether this client may publish to this topic. If not, its connection ends.
    fn may_publish(&self, client: &str, topic: &str) -> bool;
    /// Whether this client may subscribe to this filter. If not, the SUBACK says so.
    fn may_subscribe(&self, client: &str, filter: &str) -> bool;
}

/// Everybody may do everything: for trusted networks, benchmarks and tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Access for AllowAll {
    fn admit(&self, _: &Peer, _: &Connecting<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn may_publish(&self, _: &str, _: &str) -> bool {
        true
    }

    fn may_subscribe(&self, _: &str, _: &str) -> bool {
        true
    }
}
