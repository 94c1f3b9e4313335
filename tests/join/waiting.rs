//! Boards without a token wait until a person lets them in.

use std::net::{IpAddr, Ipv4Addr};

use super::*;

async fn ask(master: &Master, pin: Option<[u8; 32]>, newcomer: &Newcomer) -> Waited {
    wait_at(master.address, pin, newcomer).await.expect("answered")
}

#[tokio::test]
async fn both_sides_show_the_same_words_and_a_person_decides() {
    let master = Master::start("waiting").await;
    let newcomer = Newcomer::new("pi-2", "0", &key());
    let Waited::NotYet(pin) = ask(&master, None, &newcomer).await else {
        panic!("nobody has let it in")
    };
    assert_eq!(pin, master.pki.pin());
    let waiting = master.pending.list();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].name, "pi-2");
    assert_eq!(waiting[0].address, IpAddr::V4(Ipv4Addr::LOCALHOST).to_string());
    let shown = model::words::phrase(&newcomer.key.hash(), &pin);
    assert_eq!(waiting[0].words, shown, "what the board shows");
    assert!(master.node("pi-2").is_none(), "nothing is written for a board that waits");
    assert!(matches!(ask(&master, Some(pin), &newcomer).await, Waited::NotYet(_)));

    let said = master.joining.approve("pi-9", None).await.expect_err("nobody waits");
    assert!(said.to_string().contains("no board waits as pi-9"), "{said}");
    let other = Newcomer::new("pi-2", "1", &key());
    assert!(matches!(ask(&master, None, &other).await, Waited::NotYet(_)), "the same name");
    let said = master.joining.approve("pi-2", None).await.expect_err("which?");
    assert!(said.to_string().contains("--words"), "{said}");
    let words = master.joining.approve("pi-2", Some(&shown)).await.expect("let in");
    assert_eq!(words, shown);

    let Waited::In(joined) = ask(&master, Some(pin), &newcomer).await else { panic!("it is in") };
    assert_eq!(joined.credentials.pin(), pin);
    assert!(master.keys.is_admitted(joined.credentials.peer()));
    let tls = joined.credentials.client_config(ALPN).expect("TLS");
    Connection::open(master.address, tls, SOON).await.expect("a member");
    let refused = wait_at(master.address, Some(pin), &other).await.expect_err("the name is taken");
    assert!(matches!(refused, JoinError::Refused { .. }), "{refused}");
    // Its answer may have been lost.
    assert!(matches!(ask(&master, Some(pin), &newcomer).await, Waited::In(_)));
}

#[tokio::test]
async fn a_board_that_waits_believes_nobody_else() {
    let (master, other) = (Master::start("waits").await, Master::start("waits-not").await);
    let newcomer = Newcomer::new("pi-2", "0", &key());
    let Waited::NotYet(pin) = ask(&master, None, &newcomer).await else { panic!("not yet") };
    let error = wait_at(other.address, Some(pin), &newcomer).await.expect_err("another cluster");
    assert!(matches!(error, JoinError::Elsewhere(_)), "{error}");
    let shown = model::words::phrase(&newcomer.key.hash(), &pin);
    assert!(matches!(ask(&other, None, &newcomer).await, Waited::NotYet(_)));
    assert_ne!(other.pending.list()[0].words, shown, "somebody in between is seen");
}

#[tokio::test]
async fn an_evicted_key_does_not_even_wait() {
    let master = Master::start("waits-evicted").await;
    let newcomer = Newcomer::new("pi-2", "0", &key());
    let evicted = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": EVICTED, "namespace": "kube-system" },
        "data": { key_text(&newcomer.key.hash()): "stolen" } });
    master.loops.create("/configmaps", "kube-system", evicted).await;
    let refused = wait_at(master.address, None, &newcomer).await.expect_err("refused");
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
