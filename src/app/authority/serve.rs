//! What masters give of another authority, on their port for boards.

use std::path::PathBuf;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::join::parse_key;
use model::limits::KIT_BYTES_MAX;
use model::masters::{AuthorityKeysV1, CertifiedV1, MasterAtV1, SecretBytes};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::disk::ready;
use super::{CERTIFY, HAS, KEYS};
use crate::io::peer::{self, Body};
use crate::io::store::SecretsKeys;
use crate::io::tls::{BoardPeer, Pki, TokenKeys};
use crate::master::elector::Book;
use crate::master::keys::Keys;

/// Answers boards and masters.
pub(in crate::app) struct Desk {
    /// Where keys lie ready.
    pub(in crate::app) data: PathBuf,
    /// The authority that counts here.
    pub(in crate::app) pki: Arc<Pki>,
    /// Its keys of tokens.
    pub(in crate::app) token_keys: TokenKeys,
    /// Its keys of Secrets.
    pub(in crate::app) secrets_keys: SecretsKeys,
    /// Who may ask.
    pub(in crate::app) keys: Keys,
    /// Where the masters are.
    pub(in crate::app) book: watch::Receiver<Book>,
}

impl Desk {
    /// Whether a master asks, which every master answers.
    pub(in crate::app) fn takes(path: &str) -> bool {
        [KEYS, HAS].contains(&path)
    }

    /// Whether a board asks for its certificate, which only the leader gives: whoever gets one has its
    /// tokens renewed, and by the leader of the same authority.
    pub(in crate::app) fn certifies(path: &str) -> bool {
        path == CERTIFY
    }

    /// Answers a master.
    pub(in crate::app) fn of_master(
        &self,
        board: &BoardPeer,
        request: &Request<Incoming>,
    ) -> Response<Body> {
        if !self.keys.is_member(board) || !self.keys.is_admitted(board) {
            return peer::text(StatusCode::FORBIDDEN, "only masters have the keys of the cluster");
        }
        let query = request.uri().query().and_then(|query| query.strip_prefix("pin="));
        let keys = query.and_then(parse_key).and_then(|pin| self.keys_of(pin));
        match (request.method(), keys) {
            (&Method::GET, Some(_)) if request.uri().path() == HAS => {
                peer::text(StatusCode::OK, "it has")
            }
            (&Method::GET, Some(keys)) => match serde_json::to_vec(&keys) {
                Ok(json) => peer::text(StatusCode::OK, json),
                Err(error) => peer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            _ => peer::text(StatusCode::NOT_FOUND, "no keys of that authority"),
        }
    }

    fn keys_of(&self, pin: [u8; 32]) -> Option<AuthorityKeysV1> {
        if self.pki.pin() != pin {
            return ready(&self.data).filter(|(ready, _)| *ready == pin).map(|(_, keys)| keys);
        }
        let pems = self.token_keys.pems().into_iter();
        Some(AuthorityKeysV1 {
            authority: self.pki.ca_certificate().to_owned(),
            authority_key: SecretBytes(self.pki.authority_key()),
            token_keys: pems.map(|pem| SecretBytes(pem.into_bytes())).collect(),
            secrets_keys: self.secrets_keys.export(),
        })
    }

    /// The members of the group, without boards that were thrown out.
    fn masters(&self) -> Vec<MasterAtV1> {
        let is_one = |at: &MasterAtV1| {
            let board = BoardPeer { name: at.board.clone(), key: at.key, is_master: true };
            self.keys.is_pinned_master(&board)
        };
        self.book.borrow().iter().filter(|at| is_one(at)).cloned().collect()
    }

    /// Gives a board its certificate, for the key that its connection has shown.
    pub(in crate::app) async fn certify(
        &self,
        board: &BoardPeer,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let asked = request.method() == Method::POST;
        let body = peer::read(request.into_body(), KIT_BYTES_MAX).await.unwrap_or_default();
        let key: [u8; 32] = Sha256::digest(&body).into();
        if !asked || key != board.key {
            return peer::text(StatusCode::BAD_REQUEST, "POST the key of your connection");
        }
        // What makes a board a master is the kit.
        let certificate = match self.pki.issue_board(&board.name, &body, false) {
            Ok(certificate) => certificate,
            Err(error) => return peer::text(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let authority = self.pki.ca_certificate().to_owned();
        match serde_json::to_vec(&CertifiedV1 { authority, certificate, masters: self.masters() }) {
            Ok(json) => peer::text(StatusCode::OK, json),
            Err(error) => peer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}
