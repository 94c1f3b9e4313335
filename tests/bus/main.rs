//! The bus between masters and boards on loopback: the real broker, TLS, dispatcher, registry and agent.
//!
//! Containers are a fake keeper's; everything else is what runs on boards.

mod access;
mod bed;
mod external;
#[path = "../harness/fake_keeper.rs"]
mod fake_keeper;
mod health;
mod hostile;
#[path = "../harness/loops.rs"]
mod loops;
#[path = "../harness/mosquitto.rs"]
mod mosquitto;
mod network;
#[path = "../harness/simulated.rs"]
mod simulated;

use std::time::{Duration, Instant};

use bed::{Bed, deployment, until};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_run_on_a_board_behind_the_bus() {
    let bed = Bed::new("run").await;
    let master = bed.master((1, 1)).await;
    let mut board = bed.board("pi-1", &master).await;
    let begun = Instant::now();
    until("the board is on the bus", || board.state.borrow().connected_to.is_some()).await;
    println!("connected after {:?}", begun.elapsed());
    until("its Node", || bed.loops.views.world().node("pi-1").is_some()).await;
    let begun = Instant::now();
    bed.loops.create("apps/deployments", "default", deployment("web", 3, json!({}))).await;
    until("three pods run", || bed.running() == 3).await;
    println!("three pods run after {:?}", begun.elapsed());
    let seen = bed.contacts().seen();
    assert!(seen.iter().any(|(name, _)| name == "pi-1"), "{seen:?}");
    board.announced.wait_for(Option::is_some).await.expect("the client runs");
    let announced = board.announced.borrow().clone().expect("it just was");
    assert_eq!(announced, master.signed, "the retained record");
    bed.loops.delete("apps/deployments", "default", "web").await;
    until("no pod is left", || bed.loops.views.world().pods().count() == 0).await;
    board.end().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_comes_back_to_a_master_that_was_away() {
    let bed = Bed::new("back").await;
    let master = bed.master((1, 1)).await;
    let boards = [bed.board("pi-1", &master).await, bed.board("pi-2", &master).await];
    bed.loops.create("apps/deployments", "default", deployment("web", 4, json!({}))).await;
    until("four pods run", || bed.running() == 4).await;
    let uids = bed.pod_uids();
    let port = master.kill().await;
    for board in &boards {
        until("the board notices", || board.state.borrow().connected_to.is_none()).await;
        assert!(board.state.borrow().trouble.is_some());
    }
    // Pods that are made while nobody can tell the boards.
    bed.loops.create("apps/deployments", "default", deployment("late", 2, json!({}))).await;
    until("six pods are bound", || bed.bound() == 6).await;
    assert_eq!(bed.running(), 4);
    let begun = Instant::now();
    let master = bed.master_at((1, 2), port).await;
    for board in &boards {
        board.follow(&master);
        until("the board is back", || board.state.borrow().connected_to.is_some()).await;
    }
    println!("both boards are back after {:?}", begun.elapsed());
    until("six pods run", || bed.running() == 6).await;
    assert!(uids.is_subset(&bed.pod_uids()), "pods were replaced");
    for board in boards {
        assert!(board.lives(), "the agent's link outlived the connection");
        board.end().await;
    }
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_that_connects_again_gets_one_session_that_works() {
    let bed = Bed::new("again").await;
    let master = bed.master((1, 1)).await;
    let board = bed.board("pi-1", &master).await;
    until("its Node", || bed.loops.views.world().node("pi-1").is_some()).await;
    for round in 0..12 {
        // The address is the same, the leader is not: the client leaves and comes back at once.
        let before = board.state.borrow().since;
        board.follow_as(&master, &format!("boss-{round}"));
        until("it is back", || {
            let state = board.state.borrow();
            state.connected_to.is_some() && state.since > before
        })
        .await;
        let name = format!("web-{round}");
        bed.loops.create("apps/deployments", "default", deployment(&name, 1, json!({}))).await;
        until("its pods run", || bed.running() == round + 1).await;
    }
    board.end().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_the_bus_arrives_all_the_same() {
    let bed = Bed::new("large").await;
    let master = bed.master((1, 1)).await;
    let board = bed.board("pi-1", &master).await;
    let text = "kumquat ".repeat(100_000);
    for name in ["one", "two"] {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
            "data": { "text": text } });
        bed.loops.create("/configmaps", "default", map).await;
    }
    let volumes = json!({ "volumes": [{ "name": "one", "configMap": { "name": "one" } },
        { "name": "two", "configMap": { "name": "two" } }] });
    let begun = Instant::now();
    bed.loops.create("apps/deployments", "default", deployment("web", 1, volumes)).await;
    until("the pod with 1.6 MB of ConfigMaps runs", || bed.running() == 1).await;
    println!("1.6 MB on the board after {:?}", begun.elapsed());
    assert!(board.fetched() >= 1, "it came as a pointer");
    // A difference after it, over the bus, is one to what was fetched.
    let fetched = board.fetched();
    bed.loops.create("apps/deployments", "default", deployment("small", 1, json!({}))).await;
    until("both run", || bed.running() == 2).await;
    assert_eq!(board.fetched(), fetched, "nothing large was sent again");
    board.end().await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_is_not_obeyed() {
    let bed = Bed::new("fence").await;
    let master = bed.master((2, 5)).await;
    let board = bed.board("pi-1", &master).await;
    bed.loops.create("apps/deployments", "default", deployment("web", 1, json!({}))).await;
    until("the pod runs", || bed.running() == 1).await;
    master.stop().await;
    // An earlier leader that still believes in itself, with the same objects and more.
    for deposed in [(2, 4), (1, 9)] {
        let master = bed.master(deposed).await;
        board.follow(&master);
        until("the board is connected to it", || board.state.borrow().connected_to.is_some()).await;
        bed.loops.create("apps/deployments", "default", deployment("evil", 1, json!({}))).await;
        until("the pod is bound", || bed.bound() == 2).await;
        // Twenty beats of it.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(bed.running(), 1, "{deposed:?} was obeyed");
        bed.loops.delete("apps/deployments", "default", "evil").await;
        until("the unheard pod is marked", || bed.leaving_or_gone("evil")).await;
        master.stop().await;
    }
    let master = bed.master((2, 6)).await;
    board.follow(&master);
    bed.loops.create("apps/deployments", "default", deployment("good", 1, json!({}))).await;
    until("the next leader is obeyed", || bed.running() == 2 && bed.bound() == 2).await;
    board.end().await;
    master.stop().await;
}
