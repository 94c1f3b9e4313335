//! A board that has a token becomes a member: `POST /v1/join` on the peer port.
//!
//! In: a request with a proof of the token's secret for this very connection. Out: a certificate, and
//! what the board needs to know of the cluster, with the master's own proof. The token's use and the
//! key of the board's Node are written together, or nothing is.
//!
//! ```text
//! proof? -> key evicted? -> token good? -> name free, or its board silent? -> one write -> certificate
//! ```
//! Whoever does not know the secret learns nothing: an unknown token and a wrong proof are answered
//! with the same words.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use logic::controller::Op;
use model::join::{
    BOARD_KEY, BOARD_LABEL, JoinAnswer, JoinRequest, MASTER_LABEL, Sealed, key_text,
};
use model::leader::SignedRecord;
use model::limits::{JOIN_BYTES_MAX, JOIN_SECONDS_MAX};
use model::timestamp::Timestamp;
use model::token::TokenRole;
use model::validation::names;
use model::view::kind;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::keys::{Keys, node_key};
use super::registry::{CommitError, Registry};
use super::tokens::{Kept, Spent, Tokens};
use crate::io::peer::{self, Body, Caller};
use crate::io::seldom::Seldom;
use crate::io::store::Record;
use crate::io::tls::{Pki, TlsError, is_proof, proof};

/// At most one line about refusals in this time.
const LINES_EVERY: Duration = Duration::from_secs(10);
/// Attempts while other boards join.
const ATTEMPTS_MAX: u32 = 16;
/// A board that has joined gets this long to show itself before another may have its name.
const FIRST_SIGN_MILLIS: i64 = 60_000;

/// What joining boards are told.
pub struct JoinOptions {
    /// Tokens and Nodes.
    pub registry: Registry,
    /// Signs certificates.
    pub pki: Arc<Pki>,
    /// Name of this master's own board, which nobody else may have.
    pub own: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Addresses of pods, CIDR.
    pub pod_range: String,
    /// Addresses of Services, CIDR.
    pub service_range: String,
    /// Epoch of this leader.
    pub epoch: u64,
    /// Term of this leader.
    pub term: u64,
    /// Where the leader is, if it has said so yet.
    pub leader: Box<dyn Fn() -> Option<SignedRecord> + Send + Sync>,
}

/// Why a board was not admitted; the text is what its person reads.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request cannot be read: {0}")]
    Bad(String),
    #[error(
        "the token is not valid here: it was revoked, or is another cluster's \
         (`kumquat token create` on the master board prints a new one)"
    )]
    Unknown,
    #[error("{0}; `kumquat token create` on the master board prints a new one")]
    Spent(#[from] Spent),
    #[error("this board was evicted from the cluster for good")]
    Evicted,
    #[error("board name {0:?}: {1}; choose one with --name")]
    Name(String, String),
    #[error("the name {0} belongs to another board of this cluster: choose one with --name")]
    Taken(String),
    #[error(transparent)]
    Certificate(#[from] TlsError),
    #[error("the master cannot write at the moment: try again")]
    Write(#[source] CommitError),
    #[error("the master cannot read its objects")]
    Read(#[from] crate::io::store::StoreError),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) | Self::Name(..) | Self::Certificate(_) => StatusCode::BAD_REQUEST,
            Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::Spent(_) | Self::Evicted => StatusCode::FORBIDDEN,
            Self::Taken(_) => StatusCode::CONFLICT,
            Self::Write(_) | Self::Read(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Lets boards join.
pub struct Joining {
    options: JoinOptions,
    tokens: Tokens,
    keys: Keys,
    lines: Seldom,
}

impl Joining {
    /// For the master with these options.
    pub fn new(options: JoinOptions) -> Self {
        let registry = options.registry.clone();
        Self {
            tokens: Tokens::new(registry.clone(), options.pki.pin()),
            keys: Keys::new(registry),
            options,
            lines: Seldom::new(LINES_EVERY),
        }
    }

    /// Answers a request to [`peer::JOIN`].
    pub async fn answer(&self, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
        match self.judge(caller, request).await {
            Ok(body) => Response::new(peer::full(body)),
            Err(refusal) => {
                if let Some(left_out) = self.lines.line() {
                    let address = caller.address;
                    tracing::warn!(%address, why = %refusal, left_out, "a board may not join");
                }
                peer::text(refusal.status(), refusal.to_string())
            }
        }
    }

    async fn judge(&self, caller: &Caller, request: Request<Incoming>) -> Result<Vec<u8>, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::Bad("it must be a POST".into()));
        }
        let reading = peer::read(request.into_body(), JOIN_BYTES_MAX);
        let body = timeout(Duration::from_secs(JOIN_SECONDS_MAX), reading).await;
        let body = body.map_err(|_| Refusal::Bad("it came too slowly".into()))?;
        let body = body.map_err(Refusal::Bad)?;
        let bad = |error: serde_json::Error| Refusal::Bad(error.to_string());
        let sealed: Sealed = serde_json::from_slice(&body).map_err(bad)?;
        let wish: JoinRequest = serde_json::from_str(&sealed.text).map_err(bad)?;
        let secret = self.proven(caller, &sealed, &wish)?;
        let answer = self.admit(caller, &wish).await?;
        let text = serde_json::to_string(&answer).map_err(bad)?;
        let parts = [&caller.exporter[..], &sealed.proof, text.as_bytes()];
        let proof = proof(&secret, MASTER_LABEL, &parts).to_vec();
        serde_json::to_vec(&Sealed { text, proof }).map_err(bad)
    }

    /// The secret of the token that the board has proven to know.
    fn proven(
        &self,
        caller: &Caller,
        sealed: &Sealed,
        wish: &JoinRequest,
    ) -> Result<[u8; 16], Refusal> {
        let secret = self.tokens.find(wish.token)?.map(|kept| kept.secret);
        // The same work without a token: time does not tell whether there is one.
        let parts = [&caller.exporter[..], sealed.text.as_bytes()];
        let good = is_proof(&sealed.proof, &secret.unwrap_or_default(), BOARD_LABEL, &parts);
        secret.filter(|_| good).ok_or(Refusal::Unknown)
    }

    async fn admit(&self, caller: &Caller, wish: &JoinRequest) -> Result<JoinAnswer, Refusal> {
        let faults = names::label(&wish.name);
        if let Some(fault) = faults.into_iter().next() {
            return Err(Refusal::Name(wish.name.clone(), fault));
        }
        let key: [u8; 32] = Sha256::digest(&wish.public_key).into();
        if self.keys.is_evicted(&key_text(&key))? {
            return Err(Refusal::Evicted);
        }
        for _ in 0..ATTEMPTS_MAX {
            // It may have been revoked since the proof.
            let kept = self.tokens.find(wish.token)?.ok_or(Refusal::Unknown)?;
            let now = self.options.registry.clock().now();
            let spend = kept.spend(&wish.name, &key, now)?;
            let node = self.options.registry.store().get(&node_key(&wish.name))?;
            let take = self.take_name(&wish.name, &key_text(&key), node, now)?;
            let is_master = kept.role == TokenRole::Master;
            let certificate =
                self.options.pki.issue_board(&wish.name, &wish.public_key, is_master)?;
            let ops: Vec<Op> = spend.into_iter().chain(take).collect();
            let again = ops.is_empty();
            match self.commit(ops).await {
                // Another board was faster with the token or the name: look again.
                Err(CommitError::Conflict) => continue,
                committed => committed.map_err(Refusal::Write)?,
            }
            let (node, address, token) = (&*wish.name, caller.address, wish.token);
            tracing::info!(node, %address, %token, again, "a board joined");
            return Ok(self.facts(&kept, certificate, now));
        }
        Err(Refusal::Write(CommitError::Conflict))
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<(), CommitError> {
        if ops.is_empty() {
            return Ok(());
        }
        self.options.registry.commit(ops).await.map(|_| ())
    }

    /// The write that gives the name to this key, none when it has it.
    fn take_name(
        &self,
        name: &str,
        key: &str,
        node: Option<Record>,
        now: Timestamp,
    ) -> Result<Option<Op>, Refusal> {
        let annotations = json!({ BOARD_KEY: key });
        let Some(record) = node else {
            if name == self.options.own {
                return Err(Refusal::Taken(name.into()));
            }
            let object = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": name, "annotations": annotations },
            });
            return Ok(Some(Op::Create { kind: kind::NODES, object }));
        };
        let node: Value = serde_json::from_slice(&record.body).unwrap_or_default();
        if node["metadata"]["annotations"][BOARD_KEY] == *key {
            return Ok(None);
        }
        if name == self.options.own || !is_silent(&node, now) {
            return Err(Refusal::Taken(name.into()));
        }
        tracing::warn!(node = name, "a board takes the place of a silent one of the same name");
        Ok(Some(Op::Patch {
            key: record.key.clone(),
            base: record.version,
            subresource: None,
            merge: json!({ "metadata": { "annotations": annotations } }),
        }))
    }

    fn facts(&self, kept: &Kept, certificate: String, now: Timestamp) -> JoinAnswer {
        let options = &self.options;
        JoinAnswer {
            certificate,
            authority: options.pki.ca_certificate().to_owned(),
            cluster: options.cluster.clone(),
            pod_range: options.pod_range.clone(),
            service_range: options.service_range.clone(),
            role: kept.role,
            epoch: options.epoch,
            term: options.term,
            cluster_time: now,
            leader: (options.leader)(),
        }
    }
}

/// Whether the board of this Node has been judged silent, or never showed itself.
fn is_silent(node: &Value, now: Timestamp) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
    match ready {
        Some(ready) => ready["status"] == "Unknown",
        None => {
            let since = node["metadata"]["creationTimestamp"].as_str().and_then(Timestamp::parse);
            since.is_none_or(|since| since.plus_millis(FIRST_SIGN_MILLIS) <= now)
        }
    }
}
