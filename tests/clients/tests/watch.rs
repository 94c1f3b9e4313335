//! A kube-rs watcher over many restarts of the board: it resumes from its last version, and sees
//! every change of what it selects exactly once and in order.

#[path = "../../harness/board.rs"]
mod board;
#[path = "../../harness/busybox.rs"]
mod busybox;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use board::{Board, possible, rounds};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt};
use kumquat::io::net;
use serde_json::json;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const KEYS: usize = 7;
const WRITES_PER_ROUND: usize = 12;
const RETRY: Duration = Duration::from_millis(20);

/// What a client with `labelSelector=watch=yes` must see of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// The object with this counter is selected.
    Applied(String, u64),
    /// The object left the selection.
    Gone(String),
}

/// What the watcher has seen, and how often it had to list again.
#[derive(Debug, Default)]
struct Record {
    seen: Vec<Seen>,
    /// Lists begun.
    lists: usize,
    /// The first list is complete.
    listed: bool,
    /// Times that a watch broke or could not begin.
    cuts: usize,
    /// The watcher must not connect again.
    hold: bool,
    /// It waits because of that.
    held: bool,
}

#[test]
fn a_watcher_loses_doubles_and_reorders_nothing_over_restarts() {
    if !possible("watch") {
        return;
    }
    let mut board = Board::new("watch");
    board.up(&[]);
    let record = Arc::new(Mutex::new(Record::default()));
    let watching = start_watcher(&board, Arc::clone(&record));
    wait_until("the first list", || record.lock().expect("record").listed);

    let (mut expected, mut state) = (Vec::new(), BTreeMap::new());
    let restarts = rounds(20);
    let mut missed = 0;
    for round in 0..restarts {
        write_some(&board, round, &mut state, &mut expected);
        // Of four restarts, two cut a watcher that has seen all. One keeps it away until after the
        // next restart, so that a whole round happens unseen and must come from the board's log.
        match round % 4 {
            1 | 2 => wait_caught_up(&record, &expected),
            3 => record.lock().expect("record").hold = true,
            _ => missed += expected.len() - record.lock().expect("record").seen.len(),
        }
        if round % 2 == 0 {
            board.kill()
        } else {
            board.stop()
        }
        if round % 4 == 3 {
            wait_until("the watcher's end", || record.lock().expect("record").held);
        }
        board.up(&[]);
        if round % 4 == 0 {
            record.lock().expect("record").hold = false;
        }
    }
    record.lock().expect("record").hold = false;
    write_some(&board, restarts, &mut state, &mut expected);
    wait_caught_up(&record, &expected);
    // One event too many would come right after.
    std::thread::sleep(Duration::from_millis(500));

    let record = record.lock().expect("record");
    assert_eq!(difference(&record.seen, &expected), None);
    assert_eq!(record.lists, 1, "the watcher had to list again");
    println!(
        "{} events of {} writes over {restarts} restarts (SIGKILL and SIGTERM in turn, {missed} events missed meanwhile, \
         {} cuts seen): 0 lost, 0 doubled, 0 out of order, 0 lists after the first",
        expected.len(),
        (restarts + 1) * WRITES_PER_ROUND,
        record.cuts,
    );
    drop(watching);
}

/// Where and how the events differ from what they must be.
fn difference(seen: &[Seen], expected: &[Seen]) -> Option<String> {
    let at = (0..seen.len().max(expected.len())).find(|at| seen.get(*at) != expected.get(*at))?;
    Some(format!("event {at}: saw {:?}, must be {:?}", seen.get(at), expected.get(at)))
}

#[test]
fn the_comparison_notices_lost_doubled_and_swapped_events() {
    let event = |counter| Seen::Applied("key".into(), counter);
    let expected = [event(1), event(2), Seen::Gone("key".into())];
    assert_eq!(difference(&expected, &expected), None);
    let lost = [event(1), Seen::Gone("key".into())];
    let doubled = [event(1), event(1), event(2), Seen::Gone("key".into())];
    let late = [event(1), event(2), Seen::Gone("key".into()), event(2)];
    let swapped = [event(2), event(1), Seen::Gone("key".into())];
    for seen in [&lost[..], &doubled, &late, &swapped, &expected[..2]] {
        assert!(difference(seen, &expected).is_some(), "{seen:?}");
    }
}

fn wait_caught_up(record: &Mutex<Record>, expected: &[Seen]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let record = record.lock().expect("record");
        if record.seen.len() >= expected.len() {
            return;
        }
        let difference = difference(&record.seen, expected);
        assert!(Instant::now() < deadline, "the watcher does not catch up: {difference:?}");
        drop(record);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn wait_until(what: &str, met: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !met() {
        assert!(Instant::now() < deadline, "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Creates, changes, hides, shows and deletes objects; each write is acknowledged before the next.
fn write_some(
    board: &Board,
    round: usize,
    state: &mut BTreeMap<String, bool>,
    expected: &mut Vec<Seen>,
) {
    for step in 0..WRITES_PER_ROUND {
        let counter = (round * 100 + step) as u64;
        let name = format!("key-{}", (round * 5 + step * 3) % KEYS);
        let path = format!("{CONFIG_MAPS}/{name}");
        let selected = !(round + step).is_multiple_of(3);
        let label = if selected { "yes" } else { "no" };
        let body = json!({"metadata": {"labels": {"watch": label}}, "data": {"counter": counter.to_string()}});
        match state.get(&name).copied() {
            None => {
                let mut body = body;
                body["metadata"]["name"] = name.clone().into();
                board.create(CONFIG_MAPS, &body);
                state.insert(name.clone(), selected);
                if selected {
                    expected.push(Seen::Applied(name, counter));
                }
            }
            Some(before) if step % 5 == 4 => {
                board.api("DELETE", &path, None).expect("delete");
                state.remove(&name);
                if before {
                    expected.push(Seen::Gone(name));
                }
            }
            Some(before) => {
                board.api("PATCH", &path, Some(&body)).expect("patch");
                state.insert(name.clone(), selected);
                match (before, selected) {
                    (_, true) => expected.push(Seen::Applied(name, counter)),
                    (true, false) => expected.push(Seen::Gone(name)),
                    (false, false) => (),
                }
            }
        }
    }
}

/// Runs the watcher in the board's network namespace until the test ends.
fn start_watcher(board: &Board, record: Arc<Mutex<Record>>) -> std::thread::JoinHandle<()> {
    let kubeconfig = std::fs::read_to_string(board.kubeconfig()).expect("kubeconfig");
    let namespace = board.namespace().to_owned();
    std::thread::spawn(move || {
        let watched = net::inside(&namespace, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(watch(&kubeconfig, &record)).map_err(std::io::Error::other)
        });
        if let Err(error) = watched {
            eprintln!("the watcher ended: {error}");
        }
    })
}

fn hold(record: &Mutex<Record>) -> bool {
    let mut record = record.lock().expect("record");
    record.held = record.hold;
    record.hold
}

async fn watch(kubeconfig: &str, shared: &Mutex<Record>) -> anyhow::Result<()> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config)?);
    let mut events = watcher(maps, watcher::Config::default().labels("watch=yes")).boxed();
    while let Some(event) = events.next().await {
        let counter = |map: &ConfigMap| {
            map.data.as_ref().and_then(|data| data.get("counter")?.parse().ok()).unwrap_or(0)
        };
        let record = || shared.lock().expect("record");
        match event {
            Ok(watcher::Event::Apply(map)) => {
                record().seen.push(Seen::Applied(map.name_any(), counter(&map)));
            }
            Ok(watcher::Event::Delete(map)) => record().seen.push(Seen::Gone(map.name_any())),
            Ok(watcher::Event::Init) => record().lists += 1,
            Ok(watcher::Event::InitDone) => record().listed = true,
            Ok(watcher::Event::InitApply(_)) => (),
            Err(error) => {
                // A restart of the board cuts the connection: the watcher goes on by itself, and
                // without a pause it would spin while nobody listens.
                record().cuts += 1;
                eprintln!("watch: {error}");
                tokio::time::sleep(RETRY).await;
                while hold(shared) {
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
    Ok(())
}
