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
