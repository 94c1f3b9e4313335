//! One real master over its public API, killed and started again under five clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kumquat::io::net;

use crate::board::{Board, possible, rounds};
use crate::clients::{Client, Doors};
use crate::history::{Call, History};
use crate::linearizable::check;
use crate::loss::{Random, seed};
use crate::walk::{Step, Values, Walk, all};

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
const CLIENTS: usize = 5;
const KEYS: u64 = 6;
/// Long enough for some hundred operations between two faults.
const QUIET_MILLIS: u64 = 700;
/// A client's longest pause: time for others to come between.
const PAUSE_MILLIS: u64 = 8;

#[test]
fn a_master_that_is_killed_stays_one_store() {
    if !possible("a_master_that_is_killed_stays_one_store") {
        return;
    }
    let seed = seed("a_master_that_is_killed_stays_one_store");
    let mut random = Random::new(seed);
    let mut board = Board::new("linear");
    board.up(&[]);
    let kubeconfig = std::fs::read_to_string(board.kubeconfig()).expect("kubeconfig");
    let doors = Doors::new(&kubeconfig, vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 6443))]);
    let (stop, namespace) = (AtomicBool::new(false), board.namespace().to_owned());
    let history = std::thread::scope(|scope| {
        let stopping = Stopping(&stop);
        let clients = scope.spawn(|| walk(&namespace, doors, seed, &stop));
        for _ in 0..rounds(6) {
            std::thread::sleep(Duration::from_millis(
                QUIET_MILLIS / 2 + random.below(QUIET_MILLIS),
            ));
            board.kill();
            std::thread::sleep(Duration::from_millis(random.below(200)));
            board.start(&[]);
            let waited = board.command(&["wait", "--timeout", "30s"]);
            assert!(waited.status.success(), "not ready again\n{}", board.log());
        }
        std::thread::sleep(Duration::from_millis(QUIET_MILLIS));
        drop(stopping);
        clients.join().expect("clients")
    });
    let checked = check(&history).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{checked:?}, {} lists", history.listings.len());
    assert!(checked.operations > 200, "the clients did something: {checked:?}");
}

/// Ends the clients, also when the trial fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs the clients in a namespace until told to stop, and reads every key at the end.
fn walk(namespace: &Path, doors: Doors, seed: u64, stop: &AtomicBool) -> History {
    let walked = net::inside(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let (doors, values) = (Arc::new(doors), Values::default());
            let walks = (0..CLIENTS).map(|number| {
                let random = Random::new(seed ^ (number as u64 + 1) << 32);
                let walk = Walk::new(random, values.clone(), KEYS);
                walk_one(Client::new(number, doors.clone()), walk, stop)
            });
            let mut history = History::default();
            for walked in all(walks).await {
                history.add(walked);
            }
            let mut reader = Client::new(CLIENTS, doors);
            for number in 0..KEYS {
                let read = reader.call(COLLECTION, &format!("key-{number}"), Call::Get).await;
                assert!(read.is_some(), "the master answers at the end");
            }
            assert!(reader.list(COLLECTION).await, "the master answers at the end");
            history.add(reader.history);
            history
        }))
    });
    walked.expect("clients in the namespace")
}

async fn walk_one(mut client: Client, mut walk: Walk, stop: &AtomicBool) -> History {
    while !stop.load(Ordering::SeqCst) {
        match walk.next() {
            Step::One(key, call) => {
                let answer = client.call(COLLECTION, &key, call).await;
                walk.heard(&key, answer);
            }
            Step::List => {
                client.list(COLLECTION).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(walk.pause(PAUSE_MILLIS))).await;
    }
    client.history
}
