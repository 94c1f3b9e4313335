//! Boards join a master over real connections: who is admitted, and who is told what instead.

#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;
#[path = "harness/forgery.rs"]
mod forgery;
#[path = "join/founder.rs"]
mod founder;
#[path = "harness/loops.rs"]
mod loops;
#[path = "join/stranger.rs"]
mod stranger;
#[path = "harness/switch.rs"]
mod switch;
#[path = "join/waiting.rs"]
mod waiting;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use kumquat::app::join::{JoinError, Joined, Newcomer, Round, Waiting, join};
use kumquat::io::peer::{
    self, ALPN, Answer, Body, Caller, Connection, JOIN, PeerError, PeerHandler,
};
use kumquat::io::tls::{
    BoardKey, BoardPeer, Clients, Credentials, Pki, pinned_client_config, proof,
};
use kumquat::master::join::{JoinOptions, Joining};
use kumquat::master::keys::Keys;
use kumquat::master::pending::PendingBoards;
use kumquat::master::registry::{PatchBody, PatchKind, Target, WriteOptions};
use kumquat::master::tokens::{NewToken, TokenError, TokenInfo, Tokens};
use loops::Loops;
use model::join::{BOARD_KEY, BOARD_LABEL, EVICTED, JoinRequest, Sealed, WORKERS, key_text};
use model::token::{Token, TokenRole};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_secs(20);
const HOUR: u64 = 3600;

/// A master with a peer port at which boards join, and nothing else.
struct Master {
    folder: PathBuf,
    loops: Loops,
    pki: Arc<Pki>,
    tokens: Tokens,
    keys: Keys,
    joining: Arc<Joining>,
    pending: PendingBoards,
    address: SocketAddr,
}

struct Door {
    joining: Arc<Joining>,
    keys: Keys,
}

impl PeerHandler for Door {
    fn admits(&self, board: &BoardPeer) -> bool {
        self.keys.is_admitted(board)
    }

    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer {
        Box::pin(async move {
            match request.uri().path() {
                path if Joining::takes(path) => self.joining.answer(&caller, request).await,
                _ => whoami(&caller),
            }
        })
    }
}

fn whoami(caller: &Caller) -> Response<Body> {
    let name = caller.board.as_ref().map_or("stranger", |board| &board.name);
    peer::text(StatusCode::OK, name.to_owned())
}

impl Master {
    async fn start(test: &str) -> Self {
        Self::of(test, "lab", (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    async fn of(test: &str, cluster: &str, at: SocketAddr) -> Self {
        let name = format!("kumquat-join-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("folder");
        let loops = Loops::start(&folder).await;
        let pki = Arc::new(Pki::open(&folder, loops.clock.now()).expect("authority"));
        let own = Credentials::founder(&pki, &folder, "pi-1").expect("own credentials");
        let registry = loops.registry.clone();
        let pending = PendingBoards::new(pki.pin());
        let joining = Joining::new(JoinOptions {
            registry: registry.clone(),
            pki: pki.clone(),
            own: "pi-1".into(),
            cluster: cluster.into(),
            pod_range: "10.42.0.0/16".into(),
            service_range: "10.43.0.0/16".into(),
            epoch: 1,
            term: 7,
            pending: pending.clone(),
            leader: Box::new(|| None),
        });
        let joining = Arc::new(joining);
        let keys = Keys::new(registry.clone());
        let tokens = Tokens::new(registry, pki.pin());
        let door = Arc::new(Door { joining: Arc::clone(&joining), keys: keys.clone() });
        let listener = TcpListener::bind(at).await.expect("port");
        let address = listener.local_addr().expect("address");
        let tls = own.server_config(Clients::Optional, ALPN).expect("TLS");
        tokio::spawn(peer::serve(listener, tls, door, loops.stop.subscribe()));
        Self { folder, loops, pki, tokens, keys, joining, pending, address }
    }

    async fn token(&self, uses: u32) -> Token {
        let wish = NewToken { uses, ttl_seconds: HOUR, role: TokenRole::Worker };
        self.tokens.create(wish).await.expect("a token")
    }

    fn info(&self, token: &Token) -> TokenInfo {
        let all = self.tokens.list().expect("tokens");
        all.into_iter().find(|info| info.id == token.id).expect("the token")
    }

    async fn join(&self, token: &Token, name: &str, key: &BoardKey) -> Result<Joined, JoinError> {
        join(self.address, token, &Newcomer::new(name, "0", key)).await
    }

    async fn refusal(&self, token: &Token, name: &str, key: &BoardKey) -> String {
        match self.join(token, name, key).await {
            Err(JoinError::Refused { why, .. }) => why,
            other => panic!("{name}: not refused: {other:?}"),
        }
    }

    fn node(&self, name: &str) -> Option<Value> {
        let nodes = self.loops.list("/nodes");
        nodes.into_iter().find(|node| node["metadata"]["name"] == name)
    }

    /// As a board or the judge of silence reports it.
    async fn set_ready(&self, name: &str, status: &str) {
        let conditions = json!([{ "type": "Ready", "status": status, "reason": "Test",
            "message": "", "lastTransitionTime": "2026-11-22T00:00:00Z" }]);
        let row = model::resource::by_kind_key("/nodes").expect("in the table");
        let body = json!({ "status": { "conditions": conditions } });
        let patch = PatchBody { kind: PatchKind::Merge, body };
        let target = Target::new(row, "", name);
        let options = WriteOptions::default();
        let patched = self.loops.registry.patch(&target, Some("status"), patch, &options).await;
        patched.expect("patched");
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.loops.stop.send(true);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn key() -> BoardKey {
    BoardKey::generate().expect("a key")
}

#[tokio::test]
async fn a_board_joins_and_its_token_is_spent() {
    let master = Master::start("good").await;
    let (token, own) = (master.token(1).await, key());
    let text = token.to_string();
    let token: Token = text.parse().expect("what create prints is a token");
    let joined = master.join(&token, "pi-2", &own).await.expect("joined");
    let answer = &joined.answer;
    assert_eq!((&*answer.cluster, answer.epoch, answer.term), ("lab", 1, 7));
    assert_eq!(answer.authority, master.pki.ca_certificate());
    let board = joined.credentials.peer();
    assert_eq!((&*board.name, board.is_master), ("pi-2", false));
    assert_eq!(
        master.node("pi-2").expect("a Node")["metadata"]["annotations"][BOARD_KEY],
        key_text(&own.hash())
    );

    // What is saved opens a connection on which the master knows the board.
    let disk = master.folder.join("pi-2");
    joined.save(&disk).expect("saved");
    let credentials = Credentials::load(&disk).expect("readable").expect("there");
    let tls = credentials.client_config(ALPN).expect("TLS");
    let connection = Connection::open(master.address, tls, SOON).await.expect("accepted");
    let request = Request::get("/v1/x").body(peer::empty()).expect("request");
    let answer = connection.send(request).await.expect("answered");
    assert_eq!(peer::read(answer.into_body(), 100).await.expect("text"), "pi-2");

    // The same board again is no second use; another one is, even under the same name.
    assert_eq!(master.info(&token).uses_left, 0);
    master.join(&token, "pi-2", &own).await.expect("its answer may have been lost");
    let used_by: Vec<_> = master.info(&token).used_by.iter().map(|by| by.name.clone()).collect();
    assert_eq!(used_by, ["pi-2"]);
    for name in ["pi-3", "pi-2"] {
        let why = master.refusal(&token, name, &key()).await;
        assert!(why.contains("used up") && why.contains("admitted pi-2"), "{why}");
    }
    let why = master.refusal(&token, "pi-3", &own).await;
    assert!(why.contains("used up"), "the same key under another name: {why}");
    assert!(!format!("{:?}", master.tokens.list().expect("tokens")).contains(&text[11..]));
}

#[tokio::test]
async fn a_token_that_is_not_good_admits_nobody() {
    let master = Master::start("bad").await;
    let good = master.token(9).await;
    let mut wrong = good.clone();
    wrong.secret[0] ^= 1;
    let mut unknown = good.clone();
    unknown.id.0[0] ^= 1;
    let why = master.refusal(&wrong, "pi-2", &key()).await;
    assert!(why.contains("not valid here"), "{why}");
    assert_eq!(master.refusal(&unknown, "pi-2", &key()).await, why, "strangers learn nothing");

    let revoked = master.token(1).await;
    master.tokens.revoke(revoked.id).await.expect("revoked");
    assert_eq!(master.refusal(&revoked, "pi-2", &key()).await, why);
    let again = master.tokens.revoke(revoked.id).await;
    assert!(matches!(again, Err(TokenError::Absent(_))), "{again:?}");

    assert_eq!(master.info(&good).uses_left, 9, "refusals spend nothing");
    // An hour passes; a clock that is set forward by an hour at once ends no token.
    let clock = &master.loops.clock;
    let later = clock.now().plus_millis(HOUR as i64 * 1000);
    while clock.now() < later {
        clock.advance(clock.now().plus_millis(50_000));
    }
    let why = master.refusal(&good, "pi-2", &key()).await;
    assert!(why.contains("expired at"), "{why}");
    assert!(master.info(&good).expired);
    master.token(1).await;
    assert_eq!(master.tokens.list().expect("tokens").len(), 1, "expired ones are swept");
    assert!(master.node("pi-2").is_none());
    let for_ever = NewToken { uses: 1, ttl_seconds: 0, role: TokenRole::Worker };
    let for_ever = master.tokens.create(for_ever).await.expect("a token");
    master.loops.clock.advance(later.plus_millis(20 * 365 * 86_400_000));
    master.join(&for_ever, "pi-2", &key()).await.expect("a token without an end");
    for (uses, ttl_seconds) in [(0, 1), (1001, 1), (1, u64::MAX)] {
        let wish = NewToken { uses, ttl_seconds, role: TokenRole::Worker };
        assert!(matches!(master.tokens.create(wish).await, Err(TokenError::Wish)), "{wish:?}");
    }
}

#[tokio::test]
async fn of_many_boards_at_once_a_token_admits_its_number() {
    let master = Arc::new(Master::start("race").await);
    for uses in [1, 3] {
        let token = master.token(uses).await;
        let boards: Vec<_> = (0..8)
            .map(|at| {
                let (master, token) = (master.clone(), token.clone());
                let name = format!("race-{uses}-{at}");
                tokio::spawn(async move { master.join(&token, &name, &key()).await.is_ok() })
            })
            .collect();
        let mut joined = 0;
        for board in boards {
            joined += u32::from(board.await.expect("no panic"));
        }
        assert_eq!(joined, uses);
        let info = master.info(&token);
        assert_eq!((info.uses_left, info.used_by.len()), (0, uses as usize));
    }
    // Two fresh cards with the same host name: one of them, and the other keeps its use.
    let token = master.token(2).await;
    let (one, two) = (key(), key());
    let (first, second) = tokio::join!(
        master.join(&token, "raspberrypi", &one),
        master.join(&token, "raspberrypi", &two)
    );
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    assert_eq!(master.info(&token).uses_left, 1);
}

#[tokio::test]
async fn a_name_belongs_to_a_board_that_is_heard() {
    let master = Master::start("names").await;
    let token = master.token(9).await;
    for bad in ["", "Pi", "pi_2", "-pi", "pi.local", &"x".repeat(64)] {
        let why = master.refusal(&token, bad, &key()).await;
        assert!(why.contains("--name"), "{bad}: {why}");
    }
    let why = master.refusal(&token, "pi-1", &key()).await;
    assert!(why.contains("another board") && why.contains("--name"), "the master's own: {why}");

    let old = key();
    let joined = master.join(&token, "pi-2", &old).await.expect("joined");
    for status in ["True", "False"] {
        master.set_ready("pi-2", status).await;
        let why = master.refusal(&token, "pi-2", &key()).await;
        assert!(why.contains("another board"), "{status}: {why}");
    }
    master.set_ready("pi-2", "Unknown").await;
    let (before, new) = (joined.credentials.peer().clone(), key());
    assert!(master.keys.is_admitted(&before));
    let replaced = master.join(&token, "pi-2", &new).await.expect("a new card in a dead board");
    assert!(!master.keys.is_admitted(&before), "the old card is out");
    assert!(master.keys.is_admitted(replaced.credentials.peer()));
    let tls = joined.credentials.client_config(ALPN).expect("TLS");
    let refused = Connection::open(master.address, tls, SOON).await.expect_err("out");
    assert!(matches!(refused, PeerError::Refused { .. }), "{refused}");

    // A Node that a person deletes may come back; an evicted key may not.
    master.loops.delete("/nodes", "", "pi-2").await;
    assert!(master.keys.is_admitted(replaced.credentials.peer()));
    let evicted = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": EVICTED, "namespace": "kube-system" },
        "data": { key_text(&new.hash()): "stolen" } });
    master.loops.create("/configmaps", "kube-system", evicted).await;
    assert!(!master.keys.is_admitted(replaced.credentials.peer()));
    let why = master.refusal(&token, "pi-2", &new).await;
    assert!(why.contains("evicted"), "{why}");
}

#[tokio::test]
async fn a_board_becomes_no_more_than_its_token_and_its_person_say() {
    let master = Master::start("role").await;
    use TokenRole::{Auto, Master as Leading, Worker};
    for (given, wanted, expected) in [
        (Worker, None, Some(Worker)),
        (Auto, None, Some(Auto)),
        (Leading, None, Some(Leading)),
        (Auto, Some(Worker), Some(Worker)),
        (Leading, Some(Worker), Some(Worker)),
        (Auto, Some(Leading), Some(Leading)),
        (Worker, Some(Leading), None),
    ] {
        let wish = NewToken { uses: 1, ttl_seconds: HOUR, role: given };
        let token = master.tokens.create(wish).await.expect("a token");
        let name = format!("a-{given}-{}", wanted.map_or("any".into(), |role| role.to_string()));
        let newcomer = Newcomer { role: wanted, ..Newcomer::new(&name, "0", &key()) };
        let joined = join(master.address, &token, &newcomer).await.ok();
        assert_eq!(joined.as_ref().map(|joined| joined.answer.role), expected, "{name}");
        let Some(joined) = joined else { continue };
        // Only the kit makes a board a master.
        assert!(!joined.credentials.peer().is_master, "{name}");
        let node = master.node(&name).expect("its Node");
        let kept = &node["metadata"]["annotations"][model::masters::ROLE];
        assert_eq!(*kept, expected.map(|role| role.to_string()).unwrap_or_default(), "{name}");
    }
}

#[tokio::test]
async fn who_plays_the_master_is_found_out() {
    let (master, other) = (Master::start("true").await, Master::start("false").await);
    let (token, own) = (master.token(9).await, key());
    // Another cluster where this one is expected.
    let error =
        join(other.address, &token, &Newcomer::new("pi-2", "0", &own)).await.expect_err("refused");
    assert!(matches!(error, JoinError::Elsewhere(_)), "{error}");
    assert!(error.to_string().contains("another cluster than the token"), "{error}");

    // A worker of the right cluster that listens for joining boards.
    let worker = master.join(&token, "pi-3", &key()).await.expect("joined").credentials;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("port");
    let address = listener.local_addr().expect("address");
    let tls = worker.server_config(Clients::Optional, ALPN).expect("TLS");
    let door = Arc::new(Greedy);
    tokio::spawn(peer::serve(listener, tls, door, master.loops.stop.subscribe()));
    let error =
        join(address, &token, &Newcomer::new("pi-2", "0", &own)).await.expect_err("refused");
    assert!(matches!(error, JoinError::Elsewhere(_)), "{error}");

    // A real master that does not know the secret and says yes to everything.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("port");
    let address = listener.local_addr().expect("address");
    let real = Credentials::founder(&master.pki, &master.folder, "pi-1").expect("credentials");
    let tls = real.server_config(Clients::Optional, ALPN).expect("TLS");
    tokio::spawn(peer::serve(listener, tls, Arc::new(Greedy), master.loops.stop.subscribe()));
    let error =
        join(address, &token, &Newcomer::new("pi-2", "0", &own)).await.expect_err("refused");
    assert!(error.to_string().contains("does not know the token's secret"), "{error}");
}

/// Admits everyone without a proof.
struct Greedy;

impl PeerHandler for Greedy {
    fn admits(&self, _board: &BoardPeer) -> bool {
        true
    }

    fn handle(self: Arc<Self>, _caller: Arc<Caller>, _request: Request<Incoming>) -> Answer {
        let sealed = Sealed { text: "{}".into(), proof: vec![0; 32] };
        Box::pin(
            async move { peer::text(StatusCode::OK, serde_json::to_vec(&sealed).expect("JSON")) },
        )
    }
}

#[tokio::test]
async fn a_proof_is_good_for_its_own_connection_and_text() {
    let master = Master::start("proof").await;
    let token = master.token(9).await;
    let open = || async {
        let tls = pinned_client_config(token.pin, ALPN).expect("TLS");
        Connection::open(master.address, tls, SOON).await.expect("open")
    };
    let post = |connection: Connection, body: Vec<u8>| async move {
        let request = Request::post(JOIN).body(peer::full(body)).expect("request");
        connection.send(request).await.expect("answered").status().as_u16()
    };
    let wish = JoinRequest {
        token: token.id,
        name: "pi-2".into(),
        board_id: "0".into(),
        public_key: key().public_key(),
        version: "0".into(),
        role: None,
    };
    let (first, second) = (open().await, open().await);
    let text = serde_json::to_string(&wish).expect("JSON");
    let parts = [&first.exporter()[..], text.as_bytes()];
    let proof = proof(&token.secret, BOARD_LABEL, &parts).to_vec();
    let sealed = |text: &str, proof: &[u8]| {
        serde_json::to_vec(&Sealed { text: text.into(), proof: proof.into() }).expect("JSON")
    };
    assert_eq!(post(second, sealed(&text, &proof)).await, 401, "replayed elsewhere");
    let changed = text.replace("pi-2", "pi-3");
    assert_eq!(post(first.clone(), sealed(&changed, &proof)).await, 401, "another text");
    assert_eq!(post(first.clone(), sealed(&text, &proof[..31])).await, 401);
    assert_eq!(post(first.clone(), sealed(&text, &[])).await, 401);
    for garbage in [&b""[..], b"{}", b"[1,2", &[0xff; 100], &[b'['; 20_000]] {
        assert_eq!(post(first.clone(), garbage.to_vec()).await, 400);
    }
    assert_eq!(master.info(&token).uses_left, 9);
    assert_eq!(post(first, sealed(&text, &proof)).await, 200);
}

#[tokio::test]
async fn a_worker_stays_one_when_its_node_is_deleted() {
    let master = Master::start("worker-stays").await;
    let token = master.token(2).await;
    let own = key();
    master.join(&token, "pi-2", &own).await.expect("joined");
    master.loops.delete("/nodes", "", "pi-2").await;
    let listed = |master: &Master| {
        let maps = master.loops.list("/configmaps");
        let workers = maps.into_iter().find(|map| map["metadata"]["name"] == WORKERS);
        workers.is_some_and(|map| map["data"][key_text(&own.hash())].is_string())
    };
    assert!(listed(&master), "the key is bound, not the Node");
    // A person who gives it another token frees it.
    let wish = NewToken { uses: 1, ttl_seconds: HOUR, role: TokenRole::Auto };
    let free = master.tokens.create(wish).await.expect("a token");
    master.join(&free, "pi-2", &own).await.expect("joined");
    assert!(!listed(&master));
}
