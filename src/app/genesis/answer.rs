//! The port of a board that has no cluster yet: it answers those who prove that they have its token.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use model::join::Sealed;
use model::limits::{GENESIS_BYTES_MAX, JOIN_SECONDS_MAX};
use model::masters::genesis::{ANSWER_LABEL, ASK_LABEL};
use model::masters::{GenesisAnswerV1, GenesisAskV1, GenesisWordV1};
use model::token::BootstrapToken;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::io::peer::{self, Answer, Body, Caller, GENESIS, PeerHandler};
use crate::io::tls::{BoardPeer, is_proof, proof};

/// A proven word, and where the answer to it goes.
pub(super) struct Asked {
    pub(super) word: GenesisWordV1,
    pub(super) answer: oneshot::Sender<GenesisAnswerV1>,
}

/// Takes asks from whoever has the token.
pub(super) struct Handler {
    pub(super) token: BootstrapToken,
    pub(super) asked: mpsc::Sender<Asked>,
}

impl PeerHandler for Handler {
    fn admits(&self, _board: &BoardPeer) -> bool {
        false
    }

    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer {
        Box::pin(async move {
            if request.uri().path() != GENESIS {
                let text = "this board has no cluster yet";
                return peer::text(StatusCode::SERVICE_UNAVAILABLE, text);
            }
            match self.answer(&caller, request).await {
                Ok(body) => Response::new(peer::full(body)),
                Err(refusal) => refusal,
            }
        })
    }
}

impl Handler {
    async fn answer(
        &self,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<Vec<u8>, Response<Body>> {
        let bad = || peer::text(StatusCode::BAD_REQUEST, "the request cannot be read");
        let reading = peer::read(request.into_body(), GENESIS_BYTES_MAX);
        let body = timeout(Duration::from_secs(JOIN_SECONDS_MAX), reading).await;
        let body = body.map_err(|_| bad())?.map_err(|_| bad())?;
        let sealed: Sealed = serde_json::from_slice(&body).map_err(|_| bad())?;
        let parts = [&caller.exporter[..], sealed.text.as_bytes()];
        if !is_proof(&sealed.proof, &self.token.secret, ASK_LABEL, &parts) {
            let text = "this board has another token";
            return Err(peer::text(StatusCode::UNAUTHORIZED, text));
        }
        let ask: GenesisAskV1 = serde_json::from_str(&sealed.text).map_err(|_| bad())?;
        let away = || peer::text(StatusCode::SERVICE_UNAVAILABLE, "this board is about to change");
        let (answer, decided) = oneshot::channel();
        self.asked.send(Asked { word: ask.word, answer }).await.map_err(|_| away())?;
        let answer = decided.await.map_err(|_| away())?;
        let text = serde_json::to_string(&answer).map_err(|_| away())?;
        let parts = [&caller.exporter[..], &sealed.proof, text.as_bytes()];
        let proof = proof(&self.token.secret, ANSWER_LABEL, &parts).to_vec();
        serde_json::to_vec(&Sealed { text, proof }).map_err(|_| away())
    }
}
