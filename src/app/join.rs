//! A board joins a cluster, with a token or by a person's word ([`Waiting`]): the board's side of
//! `master::join`.

mod calls;
mod waiting;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use model::join::{BOARD_LABEL, JoinAnswer, JoinRequest, MASTER_LABEL, Sealed};
use model::limits::{JOIN_ANSWER_BYTES_MAX, PEER_REFUSAL_BYTES_MAX};
use model::token::{Token, TokenRole};
use tokio::time::timeout;

use super::version;
use crate::io::peer::{self, ALPN, Connection, JOIN, PeerError};
use crate::io::tls::{
    BoardKey, Credentials, is_proof, pinned_client_config, proof, unpinned_client_config,
};

pub(super) use calls::Calls;
pub(super) use waiting::SEVERAL;
pub use waiting::{Round, Waiting};

/// A master that is there answers in less.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// The outcome of a join; nothing of it is on disk yet.
#[derive(Debug)]
pub struct Joined {
    /// What the master said.
    pub answer: JoinAnswer,
    /// The board's key, certificate and authority.
    pub credentials: Credentials,
    key: BoardKey,
}

impl Joined {
    /// Makes the credentials durable in `<data_dir>/pki`.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, data_dir: &Path) -> Result<()> {
        let JoinAnswer { certificate, authority, .. } = &self.answer;
        Credentials::save(data_dir, &self.key, certificate, authority)?;
        Ok(())
    }
}

/// Why a join did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The master could not be reached or is not the one that the token is for: another address may be.
    #[error(transparent)]
    Elsewhere(#[from] anyhow::Error),
    /// The master's answer to this token and name: no other address helps.
    #[error("{address} refuses this board: {why}")]
    Refused {
        /// Of the master.
        address: SocketAddr,
        /// Its words.
        why: String,
    },
}

impl JoinError {
    /// All of it in one line.
    pub fn text(&self) -> String {
        match self {
            Self::Elsewhere(error) => format!("{error:#}"),
            refused @ Self::Refused { .. } => refused.to_string(),
        }
    }
}

/// What a board says of itself.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The name that it wants.
    pub name: String,
    /// Random, new on a fresh disk.
    pub board_id: String,
    /// Its key.
    pub key: BoardKey,
    /// What it may become at most, when its person says so.
    pub role: Option<TokenRole>,
}

impl Newcomer {
    /// One that becomes what the cluster chooses.
    pub fn new(name: &str, board_id: &str, key: &BoardKey) -> Self {
        Self { name: name.into(), board_id: board_id.into(), key: key.clone(), role: None }
    }
}

/// Asks the master at `address` to admit this board. A second call with the same key and name is no
/// second use of the token.
///
/// # Errors
/// [`JoinError`]; nothing has been written then.
pub async fn join(
    address: SocketAddr,
    token: &Token,
    newcomer: &Newcomer,
) -> Result<Joined, JoinError> {
    over(&open(address, Some(token.pin)).await?, token, newcomer).await
}

/// A connection to a master at `address`, of the cluster whose authority has this pin; of whichever
/// without one.
///
/// # Errors
/// [`JoinError::Elsewhere`].
pub async fn open(address: SocketAddr, pin: Option<[u8; 32]>) -> Result<Connection, JoinError> {
    let tls = match pin {
        Some(pin) => pinned_client_config(pin, ALPN),
        None => unpinned_client_config(ALPN),
    };
    let tls = tls.context("cannot set up TLS")?;
    let opened = Connection::open(address, tls, CONNECT_WITHIN).await;
    Ok(opened.map_err(|error| match error {
        PeerError::Untrusted { .. } => {
            anyhow!(error).context(format!("{address} belongs to another cluster than the token"))
        }
        error => anyhow!(error),
    })?)
}

/// As [`join`], over a connection that is open.
///
/// # Errors
/// As [`join`].
pub async fn over(
    connection: &Connection,
    token: &Token,
    newcomer: &Newcomer,
) -> Result<Joined, JoinError> {
    let address = connection.address();
    let wish = JoinRequest {
        token: token.id,
        name: newcomer.name.clone(),
        board_id: newcomer.board_id.clone(),
        public_key: newcomer.key.public_key(),
        version: version::TEXT.into(),
        role: newcomer.role,
    };
    let asking = ask(connection, token, &wish);
    let answer = timeout(ANSWER_WITHIN, asking).await.context("the master does not answer")??;
    let joined = check(token.pin, newcomer, answer)
        .with_context(|| format!("the answer of {address} is not to be trusted"))?;
    Ok(joined)
}

async fn ask(
    connection: &Connection,
    token: &Token,
    wish: &JoinRequest,
) -> Result<JoinAnswer, JoinError> {
    let address = connection.address();
    let text = serde_json::to_string(wish).context("cannot write the request")?;
    let parts = [&connection.exporter()[..], text.as_bytes()];
    let own = proof(&token.secret, BOARD_LABEL, &parts).to_vec();
    let body = serde_json::to_vec(&Sealed { text, proof: own.clone() })
        .context("cannot write the request")?;
    let request = Request::post(JOIN).body(peer::full(body)).context("cannot write the request")?;
    let answer = connection.send(request).await.context("cannot ask the master")?;
    let body = accepted(address, answer).await?;
    let sealed: Sealed = serde_json::from_slice(&body).context("the answer cannot be read")?;
    let parts = [&connection.exporter()[..], &own, sealed.text.as_bytes()];
    if !is_proof(&sealed.proof, &token.secret, MASTER_LABEL, &parts) {
        return Err(anyhow!("{address} does not know the token's secret").into());
    }
    Ok(serde_json::from_str(&sealed.text).context("the answer cannot be read")?)
}

/// The body of an answer, unless it refuses.
async fn accepted(address: SocketAddr, answer: Response<Incoming>) -> Result<Bytes, JoinError> {
    let status = answer.status();
    if !status.is_success() {
        let text = peer::read(answer.into_body(), PEER_REFUSAL_BYTES_MAX).await;
        let why = text.map(|text| printable(&String::from_utf8_lossy(&text)));
        let why = why.ok().filter(|why| !why.is_empty()).unwrap_or_else(|| status.to_string());
        // What another master may see otherwise, or this one in a moment.
        let passes = [StatusCode::TOO_MANY_REQUESTS, StatusCode::MISDIRECTED_REQUEST];
        if status.is_server_error() || passes.contains(&status) {
            return Err(anyhow!("{address} cannot admit this board: {why}").into());
        }
        return Err(JoinError::Refused { address, why });
    }
    let body = peer::read(answer.into_body(), JOIN_ANSWER_BYTES_MAX).await;
    Ok(body.map_err(|why| anyhow!("the master's answer broke off: {why}"))?)
}

/// Text of whoever answered, without what a terminal would obey.
fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 400;
    text.chars().filter(|one| !one.is_control()).take(CHARS_MAX).collect()
}

fn check(pin: [u8; 32], newcomer: &Newcomer, answer: JoinAnswer) -> Result<Joined> {
    let Newcomer { name, key, .. } = newcomer;
    let credentials = Credentials::new(key, &answer.certificate, &answer.authority)?;
    if credentials.pin() != pin {
        bail!("it names another authority than the one that was asked");
    }
    if credentials.peer().name != *name {
        bail!("the certificate is for board {}", credentials.peer().name);
    }
    Ok(Joined { answer, credentials, key: key.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        assert_eq!(printable("no\u{1b}[2J\u{7}\r\nway"), "no[2Jway");
        assert_eq!(printable(&"x".repeat(10_000)).len(), 400);
    }
}
