//! Clocks that are wrong: 1970, twenty years ahead, jumping back and forth, on one board or on all of
//! them. Joining, kubectl, tokens and the renewal of certificates work, and nobody is locked out.
//!
//! Needs a build with `--features fault-injection`, in which boards read how wrong their clock is.

use super::*;
use board::possible;
use wrong_clocks::{TO_1970, TWENTY_YEARS, Wrong, make_wrong, mend, set};

const NODES: &str = "/api/v1/nodes";

/// What must work, whatever the clocks say: `masters` have the API, `fresh` joins.
fn all_is_well(masters: &[&Board], fresh: &mut Board, what: &str) {
    let began = Instant::now();
    for master in masters {
        // With the kubeconfig from before, and one of now.
        master.api("GET", NODES, None).unwrap_or_else(|why| panic!("{what}: {why}"));
        let printed = master.command(&["kubeconfig"]);
        assert!(printed.status.success(), "{what}: {}", text(&printed));
    }
    let token = masters[0].token();
    fresh.start(&["--token", &token]);
    let path = format!("{NODES}/{}", fresh.node());
    masters[0].wait_for(&format!("{what}: the fresh board is ready"), &path, WITHIN, |node| {
        switch::is_ready(node) == Some(true)
    });
    let map = serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "generateName": "clock-" } });
    let made = masters[0].create("/api/v1/namespaces/default/configmaps", &map);
    let time = made["metadata"]["creationTimestamp"].as_str().expect("a time").to_owned();
    println!("{what}: a board joined and is ready in {:?}; cluster time {time}", began.elapsed());
}

fn cluster_time(master: &Board) -> String {
    let map = serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "generateName": "time-" } });
    let made = master.create("/api/v1/namespaces/default/configmaps", &map);
    made["metadata"]["creationTimestamp"].as_str().expect("a time").to_owned()
}

#[test]
fn wrong_clocks_lock_nobody_out() {
    if !possible("wrong_clocks_lock_nobody_out") {
        return;
    }
    if !cfg!(feature = "fault-injection") {
        println!("not run: wrong_clocks_lock_nobody_out needs --features fault-injection");
        return;
    }
    let switch = Switch::new("clocks");
    let mut all = boards(&switch, 2);
    // It is founded on a board without a clock.
    set(&all[0], TO_1970, false);
    all[0].up(&[]);
    let token = all[0].token();
    all[1].start(&["--token", &token]);
    wait_boards(&all[0], 2);
    let born = cluster_time(&all[0]);
    assert!(born.as_str() >= "2026-11", "never before the build: {born}");
    let mut number = 2;
    for wrong in [
        Wrong::By(TO_1970, false),
        Wrong::By(TWENTY_YEARS, false),
        Wrong::Jumping,
        Wrong::By(TWENTY_YEARS, true),
    ] {
        for who in ["worker", "fresh board", "master", "all"] {
            all.iter().for_each(mend);
            let before = cluster_time(&all[0]);
            number += 1;
            let mut fresh = switch.board(number);
            let (master, worker) = (&all[0], &all[1]);
            match who {
                "worker" => make_wrong(&[worker], wrong),
                "fresh board" => make_wrong(&[&fresh], wrong),
                "master" => make_wrong(&[master], wrong),
                _ => make_wrong(&[master, worker, &fresh], wrong),
            }
            all_is_well(&[master], &mut fresh, &format!("{wrong:?} on {who}"));
            wait_boards(worker, 2);
            let after = cluster_time(master);
            assert!(after >= before, "time goes back: {before} {after}");
            let is_believed = matches!((wrong, who), (Wrong::By(_, true), "master" | "all"));
            assert_eq!(after.as_str() >= "2040", is_believed, "{wrong:?} on {who}: {after}");
            fresh.stop();
        }
    }
    // A time server was believed over twenty years: certificates are renewed, the old ones work.
    let again = until("the admin's certificate is issued again", WITHIN, || {
        all[0].log().contains("the admin's certificate was issued again")
    });
    println!("admin's certificate issued again {again:?} after the last cell");
    all[0].api("GET", NODES, None).expect("the old kubeconfig");
    all[0].forget_kubeconfig();
    all[0].api("GET", NODES, None).expect("a new one");
    // And back: a restart in 1970 keeps the time that was, and comes back.
    set(&all[0], TO_1970, false);
    let before = cluster_time(&all[0]);
    all[0].stop();
    set(&all[0], TO_1970, false);
    all[0].up(&[]);
    wait_boards(&all[1], 2);
    assert!(cluster_time(&all[0]) >= before, "time goes on from what was written");
    all[0].api("GET", NODES, None).expect("the same kubeconfig");
}

/// A board without a battery issues tokens before a time server tells it the time.
#[test]
fn tokens_of_accounts_outlive_a_clock_that_is_set() {
    if !possible("tokens_of_accounts_outlive_a_clock_that_is_set") {
        return;
    }
    if !cfg!(feature = "fault-injection") {
        return println!("not run: tokens of accounts and clocks needs --features fault-injection");
    }
    let switch = Switch::new("tclock");
    let mut board = switch.board(1);
    set(&board, TO_1970, false);
    board.up(&[]);
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let asked = serde_json::json!({ "spec": { "expirationSeconds": 3600 } });
    let is_good = |token: &Value| {
        let review = serde_json::json!({ "spec": { "token": token["status"]["token"] } });
        let said = board.create("/apis/authentication.k8s.io/v1/tokenreviews", &review);
        said["status"]["authenticated"] == true
    };
    let early = board.create(account, &asked);
    let born = cluster_time(&board);
    set(&board, 30 * 86_400, true);
    until("the time server is believed", WITHIN, || cluster_time(&board)[..10] > born[..10]);
    let late = board.create(account, &asked);
    assert!(is_good(&early), "a token of {born}, at {}", cluster_time(&board));
    assert!(is_good(&late));
}
