//! Boards without a token wait until a person lets them in.

use std::net::{IpAddr, Ipv4Addr};

use super::*;

/// For so long the words must be there before a board is in.
const SHOWN: Duration = Duration::from_millis(300);

/// A round as a board goes through it, and what it shows then.
async fn ask(
    at: &[SocketAddr],
    waiting: &Waiting,
    newcomer: &Newcomer,
) -> (Option<Box<Joined>>, Vec<String>) {
    let Round { joined, failed } = waiting.round(at.to_vec(), newcomer).await;
    assert!(failed.is_empty(), "{failed:?}");
    let phrases = waiting.phrases(&newcomer.key);
    waiting.shown(&newcomer.key, &phrases);
    (joined, phrases)
}

/// Why nobody is believed.
async fn refusal(at: &[SocketAddr], waiting: &Waiting, newcomer: &Newcomer) -> JoinError {
    let Round { joined, mut failed } = waiting.round(at.to_vec(), newcomer).await;
    assert!(joined.is_none());
    failed.pop().expect("a refusal").1
}

#[tokio::test]
async fn both_sides_show_the_same_words_and_a_person_decides() {
    let master = Master::start("waiting").await;
    let newcomer = Newcomer::new("pi-2", "0", &key());
    let waits = Waiting::new(Duration::ZERO);
    let (None, shown) = ask(&[master.address], &waits, &newcomer).await else {
        panic!("nobody has let it in")
    };
    let [shown] = &shown[..] else { panic!("one cluster, one line of words: {shown:?}") };
    let waiting = master.pending.list();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].name, "pi-2");
    assert_eq!(waiting[0].address, IpAddr::V4(Ipv4Addr::LOCALHOST).to_string());
    assert_eq!(waiting[0].words, *shown, "what the board shows");
    assert!(master.node("pi-2").is_none(), "nothing is written for a board that waits");
    let (again, same) = ask(&[master.address], &waits, &newcomer).await;
    assert!(again.is_none() && same[0] == *shown);
    // Started anew it has other words.
    let (_, fresh) = ask(&[master.address], &Waiting::default(), &newcomer).await;
    assert_ne!(fresh[0], *shown);
    // And what the first process shows follows, once it has asked.
    let (_, shown) = ask(&[master.address], &waits, &newcomer).await;
    let shown = shown[0].clone();
    assert_eq!(master.pending.list()[0].words, shown);

    let worker = TokenRole::Worker;
    let said = master.joining.approve("pi-9", &shown, worker).await.expect_err("nobody waits");
    assert!(said.to_string().contains("no board waits as pi-9"), "{said}");
    let other = Newcomer::new("pi-2", "1", &key());
    let others = Waiting::default();
    let (waited, _) = ask(&[master.address], &others, &other).await;
    assert!(waited.is_none(), "the same name");
    let said = master.joining.approve("pi-2", "", worker).await.expect_err("which?");
    assert!(said.to_string().contains("with these words"), "{said}");
    let words = master.joining.approve("pi-2", &shown, worker).await.expect("let in");
    assert_eq!(words, shown);

    let (Some(joined), _) = ask(&[master.address], &waits, &newcomer).await else {
        panic!("it is in")
    };
    assert_eq!(joined.credentials.pin(), master.pki.pin());
    assert_eq!(joined.answer.role, TokenRole::Worker, "nobody said that it may be more");
    assert!(master.keys.is_admitted(joined.credentials.peer()));
    let tls = joined.credentials.client_config(ALPN).expect("TLS");
    Connection::open(master.address, tls, SOON).await.expect("a member");
    let refused = refusal(&[master.address], &others, &other).await;
    assert!(matches!(refused, JoinError::Refused { .. }), "{refused}");
    // Its answer may have been lost: the words are there for a while, then it is in.
    let anew = Waiting::new(SHOWN);
    let (waited, shown) = ask(&[master.address], &anew, &newcomer).await;
    assert!(waited.is_none() && shown.len() == 1, "{waited:?} {shown:?}");
    let listed = master.pending.list();
    assert!(listed.iter().all(|board| board.words != shown[0]), "it does not wait: {listed:?}");
    tokio::time::sleep(SHOWN).await;
    let (waited, _) = ask(&[master.address], &anew, &newcomer).await;
    assert!(waited.is_some(), "{waited:?}");
}

#[tokio::test]
async fn a_stranger_that_says_you_are_in_gets_no_board() {
    let (master, stranger) = (Master::start("waits-at").await, Master::start("stranger").await);
    let newcomer = Newcomer::new("pi-2", "0", &key());
    let waits = Waiting::new(SHOWN);
    // It is first, and lets in whoever comes.
    ask(&[stranger.address], &waits, &newcomer).await;
    let words = stranger.pending.list()[0].words.clone();
    let given = TokenRole::Worker;
    stranger.joining.approve("pi-2", &words, given).await.expect("let in");
    let (waited, _) = ask(&[stranger.address], &waits, &newcomer).await;
    assert!(waited.is_none(), "nobody could compare the words yet");
    ask(&[master.address], &waits, &newcomer).await;
    tokio::time::sleep(SHOWN).await;
    let said = refusal(&[stranger.address], &waits, &newcomer).await;
    assert!(said.text().contains("--peers HOST"), "{}", said.text());
    // Both in one round, in whichever order they answer.
    let fresh = Waiting::new(Duration::ZERO);
    ask(&[stranger.address], &fresh, &newcomer).await;
    let said = refusal(&[stranger.address, master.address], &fresh, &newcomer).await;
    assert!(said.text().contains("--peers HOST"), "{}", said.text());
    // Neither is the master believed, until a person has said at this board which one it is.
    let words = master.pending.list()[0].words.clone();
    master.joining.approve("pi-2", &words, given).await.expect("let in");
    let said = refusal(&[master.address], &waits, &newcomer).await;
    assert!(said.text().contains("--peers HOST"), "{}", said.text());
    let named = Waiting::new(Duration::ZERO);
    let (waited, _) = ask(&[master.address], &named, &newcomer).await;
    assert!(waited.is_none(), "the words of this start are not shown yet");
    let (Some(joined), _) = ask(&[master.address], &named, &newcomer).await else {
        panic!("it is in")
    };
    assert_eq!(joined.credentials.pin(), master.pki.pin());
}

#[tokio::test]
async fn whoever_sits_between_is_seen_however_many_answer() {
    let (master, other) = (Master::start("waits").await, Master::start("waits-not").await);
    let newcomer = Newcomer::new("pi-2", "0", &key());
    let waits = Waiting::default();
    assert_eq!(ask(&[master.address], &waits, &newcomer).await.1.len(), 1);
    let (_, both) = ask(&[other.address], &waits, &newcomer).await;
    assert_eq!(both.len(), 2, "words for each: a person sees which");
    assert_ne!(both[0], both[1]);
    assert_eq!(master.pending.list()[0].words, both[0]);
    assert_eq!(other.pending.list()[0].words, both[1]);
}

#[tokio::test]
async fn a_board_becomes_what_the_person_says_and_no_more_than_it_wants() {
    let master = Master::start("waits-role").await;
    let wants = |name: &str, role| Newcomer { role, ..Newcomer::new(name, "0", &key()) };
    let all = [
        (wants("pi-2", Some(TokenRole::Master)), TokenRole::Worker, None),
        (wants("pi-3", Some(TokenRole::Master)), TokenRole::Master, Some("master")),
        (wants("pi-4", Some(TokenRole::Worker)), TokenRole::Auto, Some("worker")),
        (wants("pi-5", None), TokenRole::Auto, Some("auto")),
    ];
    for (newcomer, given, expected) in all {
        let (_, words) = ask(&[master.address], &Waiting::default(), &newcomer).await;
        let approved = master.joining.approve(&newcomer.name, &words[0], given).await;
        let node = master.node(&newcomer.name).unwrap_or_default();
        let role = node["metadata"]["annotations"]["kumquat.dev/role"].as_str();
        assert_eq!(role, expected, "{}: {approved:?}", newcomer.name);
        assert_eq!(approved.is_ok(), expected.is_some());
    }
}

#[tokio::test]
async fn nobody_joins_while_the_keys_of_the_cluster_are_lost() {
    let master = Master::start("lost").await;
    let (token, own) = (master.token(9).await, key());
    let newcomer = Newcomer::new("pi-4", "0", &key());
    let (_, words) = ask(&[master.address], &Waiting::default(), &newcomer).await;
    let lost = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "kumquat-authority", "namespace": "kube-system" },
        "data": { format!("lost-{}", key_text(&key().hash())): "pi-2" } });
    master.loops.create("/configmaps", "kube-system", lost).await;
    match master.join(&token, "pi-3", &own).await {
        Err(error @ JoinError::Elsewhere(_)) => {
            assert!(error.text().contains("other keys"), "{}", error.text());
        }
        other => panic!("a stranger with a token is in: {other:?}"),
    }
    let approved = master.joining.approve("pi-4", &words[0], TokenRole::Worker).await;
    assert!(approved.is_err_and(|why| why.status() == StatusCode::SERVICE_UNAVAILABLE));
    assert!(master.node("pi-3").is_none() && master.node("pi-4").is_none());
    assert_eq!(master.info(&token).uses_left, 9);

    // Another authority counts.
    let row = model::resource::by_kind_key("/configmaps").expect("in the table");
    let patch = PatchBody { kind: PatchKind::Merge, body: json!({ "data": null }) };
    let target = Target::new(row, "kube-system", "kumquat-authority");
    let options = WriteOptions::default();
    master.loops.registry.patch(&target, None, patch, &options).await.expect("patched");
    master.join(&token, "pi-3", &own).await.expect("joined");
}

#[tokio::test]
async fn nobody_speaks_for_a_key_that_is_not_theirs() {
    use kumquat::io::peer::PENDING;
    use kumquat::io::tls::unpinned_client_config;
    use model::join::{PENDING_LABEL, PendingAsk};

    let master = Master::start("waits-signed").await;
    let (own, other) = (key(), key());
    let ask = PendingAsk {
        name: "pi-2".into(),
        board_id: "0".into(),
        public_key: own.public_key(),
        version: "0.3.0".into(),
        role: None,
        commitment: [1; 32],
        nonce: None,
    };
    let text = serde_json::to_string(&ask).expect("JSON");
    let open = || async {
        let tls = unpinned_client_config(ALPN).expect("TLS");
        Connection::open(master.address, tls, SOON).await.expect("open")
    };
    let post = |connection: Connection, proof: Vec<u8>| {
        let body = serde_json::to_vec(&Sealed { text: text.clone(), proof }).expect("JSON");
        async move {
            let request = Request::post(PENDING).body(peer::full(body)).expect("request");
            connection.send(request).await.expect("answered").status().as_u16()
        }
    };
    let (first, second) = (open().await, open().await);
    let signed = |key: &BoardKey, connection: &Connection| {
        key.sign(PENDING_LABEL, &[&connection.exporter()[..], text.as_bytes()])
    };
    assert_eq!(post(first.clone(), signed(&other, &first)).await, 401, "another's key");
    assert_eq!(post(second.clone(), signed(&own, &first)).await, 401, "of another connection");
    assert!(master.pending.list().is_empty());
    assert_eq!(post(first.clone(), signed(&own, &first)).await, 202);
}

#[tokio::test]
async fn an_evicted_key_does_not_even_wait() {
    let master = Master::start("waits-evicted").await;
    let newcomer = Newcomer::new("pi-2", "0", &key());
    let evicted = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": EVICTED, "namespace": "kube-system" },
        "data": { key_text(&newcomer.key.hash()): "stolen" } });
    master.loops.create("/configmaps", "kube-system", evicted).await;
    let waits = Waiting::default();
    let refused = refusal(&[master.address], &waits, &newcomer).await;
    assert!(refused.to_string().contains("evicted"), "{refused}");
    assert!(master.pending.list().is_empty());
}

#[tokio::test]
async fn a_bootstrap_token_names_its_cluster_to_those_who_have_its_secret() {
    use kumquat::io::peer::GENESIS;
    use kumquat::io::tls::{is_proof, unpinned_client_config};
    use model::masters::genesis::{ANSWER_LABEL, ASK_LABEL};
    use model::masters::{GenesisAnswerV1, GenesisAskV1, GenesisId, GenesisWordV1};
    use model::token::{BootstrapToken, TokenId};

    let master = Master::start("bootstrap").await;
    let token = BootstrapToken { id: TokenId([7; 5]), secret: [8; 16] };
    master.tokens.adopt(&token).await.expect("kept");
    master.tokens.adopt(&token).await.expect("again, after a crash");
    let word = GenesisWordV1 {
        id: GenesisId([1; 16]),
        name: "pi-2".into(),
        expect: 3,
        round: 0,
        promise: None,
    };
    let text = serde_json::to_string(&GenesisAskV1 { token: token.id, word }).expect("JSON");
    let open = || async {
        let tls = unpinned_client_config(ALPN).expect("TLS");
        Connection::open(master.address, tls, SOON).await.expect("open")
    };
    let post = |connection: Connection, sealed: Sealed| async move {
        let body = serde_json::to_vec(&sealed).expect("JSON");
        let request = Request::post(GENESIS).body(peer::full(body)).expect("request");
        let answer = connection.send(request).await.expect("answered");
        (answer.status().as_u16(), peer::read(answer.into_body(), 8 * 1024).await.expect("body"))
    };
    let sealed = |connection: &Connection, secret: &[u8; 16]| {
        let parts = [&connection.exporter()[..], text.as_bytes()];
        Sealed { text: text.clone(), proof: proof(secret, ASK_LABEL, &parts).to_vec() }
    };
    let (first, second) = (open().await, open().await);
    assert_eq!(first.authority(), Some(master.pki.pin()));
    let good = sealed(&first, &token.secret);
    assert_eq!(post(second.clone(), good.clone()).await.0, 401, "replayed on another connection");
    assert_eq!(post(second.clone(), sealed(&second, &[9; 16])).await.0, 401, "another secret");
    let (status, body) = post(first.clone(), good.clone()).await;
    assert_eq!(status, 200);
    let answer: Sealed = serde_json::from_slice(&body).expect("sealed");
    let parts = [&first.exporter()[..], &good.proof, answer.text.as_bytes()];
    assert!(
        is_proof(&answer.proof, &token.secret, ANSWER_LABEL, &parts),
        "the master proves it, too"
    );
    let answer: GenesisAnswerV1 = serde_json::from_str(&answer.text).expect("an answer");
    let pin = answer.founded.expect("there is a cluster").pin;
    assert_eq!(pin, master.pki.pin());
    let whole = Token { id: token.id, secret: token.secret, pin };
    master.join(&whole, "pi-2", &key()).await.expect("the secret with the pin is a whole token");
    assert_eq!(master.info(&whole).uses_left, 63);
}
