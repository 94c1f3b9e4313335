//! Asking other boards, on their port for boards, who leads.

use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use model::leader::{LeaderRecord, SignedRecord};
use model::limits::LEADER_RECORD_BYTES_MAX;

use crate::app::config::Peer;
use crate::app::master::LEADER;
use crate::io::peer::{self, ALPN, Connection, PeerError};
use crate::io::tls::{BoardPeer, Credentials};

/// How long a connection and its answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Where a leader takes connections of boards.
pub(in crate::app) fn addresses(leader: &LeaderRecord) -> impl Iterator<Item = SocketAddr> + use<> {
    let port = leader.peer_port;
    leader.addresses.clone().into_iter().map(move |address| (IpAddr::V4(address), port).into())
}

/// The addresses of boards that the user named; names that cannot be resolved are left out.
pub(in crate::app) async fn resolve(peers: &[Peer]) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for peer in peers {
        let looked_up = tokio::net::lookup_host((peer.host.as_str(), peer.port));
        match tokio::time::timeout(ANSWER_WITHIN, looked_up).await {
            Ok(Ok(found)) => all.extend(found),
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a board of --peers has no address"),
            Err(_) => tracing::debug!(%peer, "a board of --peers has no address in time"),
        }
    }
    all
}

/// Brings addresses that anybody may have announced into an order that nobody can foresee.
pub(in crate::app) fn shuffle(addresses: &mut [SocketAddr]) {
    let keys = std::hash::RandomState::new();
    addresses.sort_by_cached_key(|address| keys.hash_one(address));
}

/// What a board says of who leads.
#[derive(Debug)]
pub(in crate::app) struct Told {
    /// The board.
    pub(in crate::app) board: BoardPeer,
    /// Pin of the authority that it names.
    pub(in crate::app) authority: Option<[u8; 32]>,
    /// Who leads; the signature is not checked yet.
    pub(in crate::app) record: SignedRecord,
}

/// Asks the board at `address` who leads.
pub(in crate::app) async fn asked(
    address: SocketAddr,
    credentials: &Credentials,
) -> Result<Told, String> {
    let (connection, body) = get(address, LEADER, LEADER_RECORD_BYTES_MAX, credentials).await?;
    let text = str::from_utf8(&body).map_err(|error| error.to_string())?;
    let record = text.trim_end().parse();
    let record = record.map_err(|error: model::leader::BadRecord| error.to_string())?;
    let (board, authority) = (connection.master().clone(), connection.authority());
    Ok(Told { board, authority, record })
}

async fn get(
    address: SocketAddr,
    path: &str,
    bytes_max: usize,
    credentials: &Credentials,
) -> Result<(Connection, Bytes), String> {
    let tls = credentials.client_config(ALPN).map_err(|error| error.to_string())?;
    let asked = async {
        let connection = Connection::open(address, tls, ANSWER_WITHIN).await?;
        let mut request = Request::new(peer::empty());
        *request.uri_mut() = path.parse().expect("a path of ours");
        let answer = connection.send(request).await?;
        Ok((connection, answer))
    };
    let answered = async {
        let (connection, answer) = asked.await.map_err(|error: PeerError| error.to_string())?;
        let status = answer.status();
        let body = peer::read(answer.into_body(), bytes_max).await?;
        match status.is_success() {
            true => Ok((connection, body)),
            false => Err(format!("it answers {status}: {}", String::from_utf8_lossy(&body))),
        }
    };
    let late = |_| Err(format!("no answer within {ANSWER_WITHIN:?}"));
    tokio::time::timeout(ANSWER_WITHIN, answered).await.unwrap_or_else(late)
}
