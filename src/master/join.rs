//! A board becomes a member: with a token (`POST /v1/join` on the peer port), or by a person's word
//! (`POST /v1/pending`, [`super::pending`]). `POST /v1/genesis` tells who has only a bootstrap token
//! which cluster is its own.
//!
//! In: a request with a proof of the token's secret for this very connection. Out: a certificate, and
//! what the board needs to know of the cluster, with the master's own proof. The token's use and the
//! key of the board's Node are written together, or nothing is.
//!
//! ```text
//! proof? -> key evicted? -> no master lost? -> token good? -> name free, or its board silent? -> one write
//! ```
//! Whoever does not know the secret learns nothing: an unknown token and a wrong proof are answered
//! with the same words.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use logic::controller::Op;
use model::join::{
    BOARD_KEY, BOARD_LABEL, JoinAnswer, JoinRequest, MASTER_LABEL, PENDING_LABEL, PendingAnswer,
    PendingAsk, Sealed, WORKERS, key_text,
};
use model::leader::SignedRecord;
use model::limits::{JOIN_BYTES_MAX, JOIN_SECONDS_MAX};
use model::masters::genesis::{ANSWER_LABEL, ASK_LABEL};
use model::masters::{FoundedV1, GenesisAnswerV1, GenesisAskV1, ROLE};
use model::timestamp::Timestamp;
use model::token::{TokenId, TokenRole};
use model::validation::names;
use model::view::kind;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::authority;
use super::keys::{Keys, node_key};
use super::pending::{Pending, PendingBoards, PendingError, Said, nonce};
use super::registry::{CommitError, Registry};
use super::tokens::{Spent, Tokens};
use crate::io::peer::{self, Body, Caller};
use crate::io::seldom::Seldom;
use crate::io::store::Record;
use crate::io::tls::{Pki, TlsError, is_proof, proof, verify_board};

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
    /// The boards that wait for a person's word.
    pub pending: PendingBoards,
    /// Where the leader is, if it has said so yet.
    pub leader: Box<dyn Fn() -> Option<SignedRecord> + Send + Sync>,
}

/// Why a board was not admitted; the text is what its person reads.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is no request of ours.
    #[error("the request cannot be read: {0}")]
    Bad(String),
    /// No such token, or its secret was not proven.
    #[error(
        "the token is not valid here: it was revoked, or is another cluster's \
         (`kumquat token create` on the master board prints a new one)"
    )]
    Unknown,
    /// The token has expired or is used up.
    #[error("{0}; `kumquat token create` on the master board prints a new one")]
    Spent(#[from] Spent),
    /// Its key was thrown out.
    #[error("this board was evicted from the cluster for good")]
    Evicted,
    /// No board may be called that.
    #[error("board name {0:?}: {1}; choose one with --name")]
    Name(String, String),
    /// Another board is.
    #[error("the name {0} belongs to another board of this cluster: choose one with --name")]
    Taken(String),
    /// It wants to become more than it may.
    #[error("the token is for workers: leave --role master away, or ask for another token")]
    Role,
    /// The same of a board that a person lets in.
    #[error(
        "board {0} wants to become a master: let it in with --role master, or start it without"
    )]
    WantsMore(String),
    /// It speaks for a key that it has not shown to have.
    #[error("the request is not signed with the board's key")]
    Unproven,
    /// It cannot wait for a person's word.
    #[error(transparent)]
    Pending(#[from] PendingError),
    /// The keys of the cluster are in the wrong hands.
    #[error("the cluster takes other keys after an eviction: try again later (`kumquat status`)")]
    Unsettled,
    /// No certificate for its key.
    #[error(transparent)]
    Certificate(#[from] TlsError),
    /// The store refuses.
    #[error("the master cannot write at the moment: try again")]
    Write(#[source] CommitError),
    /// The store cannot be read.
    #[error("the master cannot read its objects")]
    Read(#[from] crate::io::store::StoreError),
}

impl Refusal {
    /// As an answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) | Self::Name(..) | Self::Certificate(_) => StatusCode::BAD_REQUEST,
            Self::Unknown | Self::Unproven => StatusCode::UNAUTHORIZED,
            Self::Spent(_) | Self::Evicted | Self::Role => StatusCode::FORBIDDEN,
            Self::Pending(PendingError::Full) => StatusCode::TOO_MANY_REQUESTS,
            Self::Pending(PendingError::Nonce) => StatusCode::BAD_REQUEST,
            Self::Pending(PendingError::Random(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Pending(_) => StatusCode::NOT_FOUND,
            Self::Taken(_) | Self::WantsMore(_) => StatusCode::CONFLICT,
            Self::Unsettled | Self::Write(_) | Self::Read(_) => StatusCode::SERVICE_UNAVAILABLE,
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

    /// Whether requests to this path are answered here.
    pub fn takes(path: &str) -> bool {
        [peer::JOIN, peer::GENESIS, peer::PENDING].contains(&path)
    }

    /// Answers a request to [`peer::JOIN`], [`peer::GENESIS`] or [`peer::PENDING`].
    pub async fn answer(&self, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
        let done = |body| (StatusCode::OK, body);
        let answered = match request.uri().path() {
            peer::GENESIS => self.tell_cluster(caller, request).await.map(done),
            peer::PENDING => self.let_wait(caller, request).await,
            _ => self.judge(caller, request).await.map(done),
        };
        match answered {
            Ok((status, body)) => {
                let mut answer = Response::new(peer::full(body));
                *answer.status_mut() = status;
                answer
            }
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
        let sealed: Sealed = read(request).await?;
        let wish: JoinRequest = parse(sealed.text.as_bytes())?;
        let secret = self.proven(caller, &sealed, wish.token, BOARD_LABEL)?;
        let answer = self.admit(caller, &wish).await?;
        seal(caller, &sealed, &secret, MASTER_LABEL, &answer)
    }

    /// Tells who has the secret of a token, and no more than that, which cluster it is for.
    async fn tell_cluster(
        &self,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<Vec<u8>, Refusal> {
        let sealed: Sealed = read(request).await?;
        let ask: GenesisAskV1 = parse(sealed.text.as_bytes())?;
        let secret = self.proven(caller, &sealed, ask.token, ASK_LABEL)?;
        let options = &self.options;
        let founded = FoundedV1 { pin: options.pki.pin(), leader: (options.leader)() };
        let answer = GenesisAnswerV1 { word: None, founded: Some(founded) };
        seal(caller, &sealed, &secret, ANSWER_LABEL, &answer)
    }

    /// The secret of the token that the board has proven to know.
    fn proven(
        &self,
        caller: &Caller,
        sealed: &Sealed,
        token: TokenId,
        label: &str,
    ) -> Result<[u8; 16], Refusal> {
        let secret = self.tokens.find(token)?.map(|kept| kept.secret);
        // The same work without a token: time does not tell whether there is one.
        let parts = [&caller.exporter[..], sealed.text.as_bytes()];
        let good = is_proof(&sealed.proof, &secret.unwrap_or_default(), label, &parts);
        secret.filter(|_| good).ok_or(Refusal::Unknown)
    }

    /// The key of a board that may have this name as far as the name and the key go.
    fn checked(&self, name: &str, public_key: &[u8]) -> Result<[u8; 32], Refusal> {
        if let Some(fault) = names::label(name).into_iter().next() {
            return Err(Refusal::Name(name.into(), fault));
        }
        let key: [u8; 32] = Sha256::digest(public_key).into();
        if self.keys.is_evicted(&key_text(&key))? {
            return Err(Refusal::Evicted);
        }
        Ok(key)
    }

    /// Refuses everybody while a token, or an approval in a master's name, may be a thief's.
    fn settled(&self) -> Result<(), Refusal> {
        let said = authority::Said::read(self.options.registry.store())?;
        (!said.lets_nobody_in()).then_some(()).ok_or(Refusal::Unsettled)
    }

    async fn admit(&self, caller: &Caller, wish: &JoinRequest) -> Result<JoinAnswer, Refusal> {
        let key = self.checked(&wish.name, &wish.public_key)?;
        for _ in 0..ATTEMPTS_MAX {
            self.settled()?;
            // It may have been revoked since the proof.
            let kept = self.tokens.find(wish.token)?.ok_or(Refusal::Unknown)?;
            let role = role(kept.role, wish.role).ok_or(Refusal::Role)?;
            let now = self.options.registry.clock().now();
            let spend = kept.spend(&wish.name, &key, now)?;
            let node = self.options.registry.store().get(&node_key(&wish.name))?;
            let take = self.take_name(&wish.name, &key_text(&key), role, node, now)?;
            let certificate = self.certificate(&wish.name, &wish.public_key)?;
            let again = spend.is_none() && take.is_none();
            let bound = self.bind(&wish.name, &key, role, now)?;
            let ops: Vec<Op> = spend.into_iter().chain(take).chain(bound).collect();
            match self.commit(ops).await {
                // Another board was faster with the token or the name: look again.
                Err(CommitError::Conflict) => continue,
                committed => committed.map_err(Refusal::Write)?,
            }
            let (node, address, token) = (&*wish.name, caller.address, wish.token);
            tracing::info!(node, %address, %token, again, "a board joined");
            return Ok(self.facts(role, certificate, now));
        }
        Err(Refusal::Write(CommitError::Conflict))
    }

    /// What makes a board a master is the kit that it gets as one, never the certificate of its join.
    fn certificate(&self, name: &str, public_key: &[u8]) -> Result<String, TlsError> {
        self.options.pki.issue_board(name, public_key, false)
    }

    /// Remembers a board that waits; its answer once a person has let it in.
    async fn let_wait(
        &self,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Result<(StatusCode, Vec<u8>), Refusal> {
        let sealed: Sealed = read(request).await?;
        let ask: PendingAsk = parse(sealed.text.as_bytes())?;
        // Or anybody could speak for a board whose key is known.
        let parts = [&caller.exporter[..], sealed.text.as_bytes()];
        if !verify_board(&ask.public_key, PENDING_LABEL, &parts, &sealed.proof) {
            return Err(Refusal::Unproven);
        }
        let key = self.checked(&ask.name, &ask.public_key)?;
        let now = self.options.registry.clock().now();
        let node = self.options.registry.store().get(&node_key(&ask.name))?;
        let given = self.role_of(&key_text(&key), node.as_ref())?;
        if self.take_name(&ask.name, &key_text(&key), given, node, now)?.is_none() {
            self.options.pending.forget(&key);
            // A board that has started anew has words to show first, or it believes nobody.
            if ask.nonce.is_none() {
                let answer = PendingAnswer { nonce: nonce()? };
                return Ok((StatusCode::ACCEPTED, serde_json::to_vec(&answer).map_err(bad)?));
            }
            let certificate = self.certificate(&ask.name, &ask.public_key)?;
            let answer = self.facts(given, certificate, now);
            return Ok((StatusCode::OK, serde_json::to_vec(&answer).map_err(bad)?));
        }
        let PendingAsk { name, version, role, commitment, nonce, .. } = ask;
        let address = caller.address.ip();
        let board = Pending { name: name.clone(), key, address, version, role, since: now };
        let noted = self.options.pending.note(board, Said { commitment, nonce })?;
        if noted.is_new {
            tracing::info!(node = name, %address, "a board waits to be let in (`kumquat board list`)");
        }
        let answer = PendingAnswer { nonce: noted.nonce };
        Ok((StatusCode::ACCEPTED, serde_json::to_vec(&answer).map_err(bad)?))
    }

    /// What a board was let in for.
    fn role_of(&self, key: &str, node: Option<&Record>) -> Result<TokenRole, Refusal> {
        if self.keys.is_worker(key)? {
            return Ok(TokenRole::Worker);
        }
        let node = node.and_then(|node| serde_json::from_slice::<Value>(&node.body).ok());
        let said = node.as_ref().and_then(|node| node["metadata"]["annotations"][ROLE].as_str());
        Ok(said.and_then(|role| role.parse().ok()).unwrap_or_default())
    }

    /// Lets in the board that waits with this name and these words, for this role; gives its words.
    ///
    /// # Errors
    /// No such board waits, it wants more than that, or its name cannot be given to it.
    pub async fn approve(
        &self,
        name: &str,
        words: &str,
        given: TokenRole,
    ) -> Result<String, Refusal> {
        let (board, words) = self.options.pending.find(name, words)?;
        let role = role(given, board.role).ok_or_else(|| Refusal::WantsMore(name.into()))?;
        for _ in 0..ATTEMPTS_MAX {
            self.settled()?;
            let now = self.options.registry.clock().now();
            let key = key_text(&board.key);
            if self.keys.is_evicted(&key)? {
                return Err(Refusal::Evicted);
            }
            let node = self.options.registry.store().get(&node_key(name))?;
            let take = self.take_name(name, &key, role, node, now)?;
            let bound = self.bind(name, &board.key, role, now)?;
            match self.commit(take.into_iter().chain(bound).collect()).await {
                Err(CommitError::Conflict) => continue,
                committed => committed.map_err(Refusal::Write)?,
            }
            tracing::info!(node = name, key, "a board was let in by a person's word");
            return Ok(words);
        }
        Err(Refusal::Write(CommitError::Conflict))
    }

    /// The write that binds a key to the role of a worker, or frees it: the Node says it too, but may
    /// be deleted.
    fn bind(
        &self,
        name: &str,
        key: &[u8; 32],
        role: TokenRole,
        now: Timestamp,
    ) -> Result<Option<Op>, Refusal> {
        let said = match role {
            TokenRole::Worker => format!("{name} {now}").into(),
            TokenRole::Auto | TokenRole::Master => Value::Null,
        };
        Ok(self.keys.write(WORKERS, &[(key_text(key), said)])?)
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<(), CommitError> {
        if ops.is_empty() {
            return Ok(());
        }
        match self.options.registry.commit(ops).await {
            // Another board was faster with a Node or a list that was not there.
            Err(CommitError::Rejected(error)) if error.code == 409 => Err(CommitError::Conflict),
            committed => committed.map(|_| ()),
        }
    }

    /// The write that gives the name to this key, none when it has it.
    fn take_name(
        &self,
        name: &str,
        key: &str,
        role: TokenRole,
        node: Option<Record>,
        now: Timestamp,
    ) -> Result<Option<Op>, Refusal> {
        let annotations = json!({ BOARD_KEY: key, ROLE: role.to_string() });
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

    fn facts(&self, role: TokenRole, certificate: String, now: Timestamp) -> JoinAnswer {
        let options = &self.options;
        JoinAnswer {
            certificate,
            authority: options.pki.ca_certificate().to_owned(),
            cluster: options.cluster.clone(),
            pod_range: options.pod_range.clone(),
            service_range: options.service_range.clone(),
            role,
            epoch: options.epoch,
            term: options.term,
            cluster_time: now,
            leader: (options.leader)(),
        }
    }
}

/// What a board may become: no more than its token says, and no more than it wants.
fn role(given: TokenRole, wanted: Option<TokenRole>) -> Option<TokenRole> {
    match (given, wanted) {
        (TokenRole::Worker, Some(TokenRole::Master)) => None,
        (TokenRole::Worker, _) | (_, Some(TokenRole::Worker)) => Some(TokenRole::Worker),
        (TokenRole::Master, _) | (_, Some(TokenRole::Master)) => Some(TokenRole::Master),
        (TokenRole::Auto, _) => Some(TokenRole::Auto),
    }
}

/// What a stranger sends, within its bounds.
async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    if request.method() != Method::POST {
        return Err(Refusal::Bad("it must be a POST".into()));
    }
    let reading = peer::read(request.into_body(), JOIN_BYTES_MAX);
    let body = timeout(Duration::from_secs(JOIN_SECONDS_MAX), reading).await;
    let body = body.map_err(|_| Refusal::Bad("it came too slowly".into()))?;
    parse(&body.map_err(Refusal::Bad)?)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(bad)
}

fn bad(error: serde_json::Error) -> Refusal {
    Refusal::Bad(error.to_string())
}

/// The answer with this master's proof, for this connection and this request.
fn seal<T: serde::Serialize>(
    caller: &Caller,
    asked: &Sealed,
    secret: &[u8; 16],
    label: &str,
    answer: &T,
) -> Result<Vec<u8>, Refusal> {
    let text = serde_json::to_string(answer).map_err(bad)?;
    let parts = [&caller.exporter[..], &asked.proof, text.as_bytes()];
    let proof = proof(secret, label, &parts).to_vec();
    serde_json::to_vec(&Sealed { text, proof }).map_err(bad)
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
