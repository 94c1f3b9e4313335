//! A board joins a cluster with a token: the board's side of `master::join`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http::Request;
use model::join::{BOARD_LABEL, JoinAnswer, JoinRequest, MASTER_LABEL, Sealed};
use model::limits::{JOIN_ANSWER_BYTES_MAX, PEER_REFUSAL_BYTES_MAX};
use model::token::Token;
use tokio::time::timeout;

use super::version;
use crate::io::peer::{self, ALPN, Connection, JOIN, PeerError};
use crate::io::tls::{BoardKey, Credentials, is_proof, pinned_client_config, proof};

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

/// Asks the master at `address` to admit this board. A second call with the same key and name is no
/// second use of the token.
///
/// # Errors
/// [`JoinError`]; nothing has been written then.
pub async fn join(
    address: SocketAddr,
    token: &Token,
    name: &str,
    board_id: &str,
    key: &BoardKey,
) -> Result<Joined, JoinError> {
    let tls = pinned_client_config(token.pin, ALPN).context("cannot set up TLS")?;
    let opened = Connection::open(address, tls, CONNECT_WITHIN).await;
    let connection = opened.map_err(|error| match error {
        PeerError::Untrusted { .. } => {
            anyhow!(error).context(format!("{address} belongs to another cluster than the token"))
        }
        error => anyhow!(error),
    })?;
    let wish = JoinRequest {
        token: token.id,
        name: name.into(),
        board_id: board_id.into(),
        public_key: key.public_key(),
        version: version::TEXT.into(),
    };
    let asking = ask(&connection, token, &wish);
    let answer = timeout(ANSWER_WITHIN, asking).await.context("the master does not answer")??;
    let joined = check(token, name, key, answer)
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
    let status = answer.status();
    if !status.is_success() {
        let text = peer::read(answer.into_body(), PEER_REFUSAL_BYTES_MAX).await;
        let why = text.map(|text| String::from_utf8_lossy(&text).into_owned());
        let why = why.ok().filter(|why| !why.is_empty()).unwrap_or_else(|| status.to_string());
        // What another master may see otherwise, or this one in a moment.
        if status.is_server_error() {
            return Err(anyhow!("{address} cannot admit this board: {why}").into());
        }
        return Err(JoinError::Refused { address, why });
    }
    let body = peer::read(answer.into_body(), JOIN_ANSWER_BYTES_MAX).await;
    let body = body.map_err(|why| anyhow!("the master's answer broke off: {why}"))?;
    let sealed: Sealed = serde_json::from_slice(&body).context("the answer cannot be read")?;
    let parts = [&connection.exporter()[..], &own, sealed.text.as_bytes()];
    if !is_proof(&sealed.proof, &token.secret, MASTER_LABEL, &parts) {
        return Err(anyhow!("{address} does not know the token's secret").into());
    }
    Ok(serde_json::from_str(&sealed.text).context("the answer cannot be read")?)
}

fn check(token: &Token, name: &str, key: &BoardKey, answer: JoinAnswer) -> Result<Joined> {
    let credentials = Credentials::new(key, &answer.certificate, &answer.authority)?;
    if credentials.pin() != token.pin {
        bail!("it names another authority than the token");
    }
    if credentials.peer().name != name {
        bail!("the certificate is for board {}", credentials.peer().name);
    }
    Ok(Joined { answer, credentials, key: key.clone() })
}
