//! Asking another board, or a master, how it stands with a bootstrap token.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, StatusCode};
use model::join::Sealed;
use model::limits::GENESIS_BYTES_MAX;
use model::masters::genesis::{ANSWER_LABEL, ASK_LABEL};
use model::masters::{GenesisAnswerV1, GenesisAskV1, GenesisWordV1};
use model::token::BootstrapToken;
use tokio::time::timeout;

use crate::io::peer::{self, ALPN, Connection, GENESIS};
use crate::io::tls::{is_proof, proof, unpinned_client_config};

/// Boards on one link answer in milliseconds; a slow board's handshake takes tenths of a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Why there is no answer that counts.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// Nobody is there, or it takes too long.
    #[error("{0}")]
    Away(String),
    /// Whoever answers does not know the token.
    #[error("{0}")]
    Stranger(String),
}

/// Asks the board at `address`; the answer is proven when this returns.
pub(super) async fn ask(
    address: SocketAddr,
    token: &BootstrapToken,
    word: GenesisWordV1,
) -> Result<GenesisAnswerV1, AskError> {
    let late = |_| Err(AskError::Away(format!("no answer within {ANSWER_WITHIN:?}")));
    timeout(ANSWER_WITHIN, exchange(address, token, word)).await.unwrap_or_else(late)
}

async fn exchange(
    address: SocketAddr,
    token: &BootstrapToken,
    word: GenesisWordV1,
) -> Result<GenesisAnswerV1, AskError> {
    let away = |error: &dyn std::fmt::Display| AskError::Away(error.to_string());
    let tls = unpinned_client_config(ALPN).map_err(|error| away(&error))?;
    let connection = Connection::open(address, tls, ANSWER_WITHIN).await;
    let connection = connection.map_err(|error| away(&error))?;
    let text = serde_json::to_string(&GenesisAskV1 { token: token.id, word });
    let text = text.map_err(|error| away(&error))?;
    let parts = [&connection.exporter()[..], text.as_bytes()];
    let own = proof(&token.secret, ASK_LABEL, &parts).to_vec();
    let body = serde_json::to_vec(&Sealed { text, proof: own.clone() });
    let body = body.map_err(|error| away(&error))?;
    let request = Request::post(GENESIS).body(peer::full(body)).expect("a path of ours");
    let answer = connection.send(request).await.map_err(|error| away(&error))?;
    let status = answer.status();
    let body = peer::read(answer.into_body(), GENESIS_BYTES_MAX).await.map_err(AskError::Away)?;
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err(AskError::Stranger("it has another token".into())),
        status => return Err(AskError::Away(status.to_string())),
    }
    let stranger = |error: serde_json::Error| AskError::Stranger(error.to_string());
    let sealed: Sealed = serde_json::from_slice(&body).map_err(stranger)?;
    let parts = [&connection.exporter()[..], &own, sealed.text.as_bytes()];
    if !is_proof(&sealed.proof, &token.secret, ANSWER_LABEL, &parts) {
        return Err(AskError::Stranger("it does not know the token's secret".into()));
    }
    serde_json::from_str(&sealed.text).map_err(stranger)
}
