//! Boards leave in order, one after the other, and come back.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::board::{Board, text};
use crate::clients::Doors;
use crate::history::{Answer, Moment, now};
use crate::switch::Cluster;
use crate::three::{MAPS, leader, standing, status, wait_until};
use crate::writers::{self, Plan, Written};

const WITHIN: Duration = Duration::from_secs(60);
/// Writers are at work for so long before and after.
const WRITING: Duration = Duration::from_secs(1);
/// As for a leader that dies: five times what SPEC promises.
const GAP_MAX: Duration = Duration::from_secs(10);
/// So long nothing happens after a leave that was refused.
const REFUSED_FOR: Duration = Duration::from_secs(3);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Of three masters the leader leaves while writers write, then the one that decides of two; the last one
/// may not. Then they come back with tokens, as other members.
pub(crate) fn one_after_the_other(cluster: &mut Cluster) {
    let first = leader(&cluster.boards, |_| true).expect("somebody leads");
    let name = cluster.boards[first].node().to_owned();
    a_follower_may_not(cluster, first, (first + 1) % 3);
    refused_for_a_pod(&cluster.boards[first], &cluster.boards[first]);
    leaves_under_writers(cluster, first, &["--force"]);

    let second = leader(&cluster.boards, |index| index != first).expect("somebody leads");
    let last = 3 - first - second;
    wait_until("a learner of two", &cluster.boards, WITHIN, || {
        standing(&status(&cluster.boards[second]), cluster.boards[last].node()) == "learner"
    });
    let gone = cluster.boards[last].api("GET", &format!("{PODS}/bare"), None);
    assert!(gone.is_err(), "it went with its board");
    leaves_under_writers(cluster, second, &[]);
    let only = cluster.boards[last].command(&["board", "leave", "--force"]);
    assert_eq!(only.status.code(), Some(1), "{}", text(&only));
    assert!(text(&only).contains("only board"), "{}", text(&only));
    let said = status(&cluster.boards[last]);
    assert!(!said["warnings"].to_string().contains("evicted"), "no keys are out: {said}");

    let token = cluster.boards[last].token_for("auto");
    cluster.boards[first].start(&["--token", &token]);
    wait_until("it is a member again", &cluster.boards, WITHIN, || {
        standing(&status(&cluster.boards[last]), &name) == "learner"
    });
}

/// What is refused changes nothing: the board votes on.
fn a_follower_may_not(cluster: &Cluster, leads: usize, follower: usize) {
    let (leader, board) = (&cluster.boards[leads], &cluster.boards[follower]);
    let changes = || leader.log().matches("the masters change").count();
    let before = changes();
    refused_for_a_pod(leader, board);
    let led = board.command(&["board", "leave", "--forget"]);
    assert_eq!(led.status.code(), Some(1), "{}", text(&led));
    assert!(text(&led).contains("without --forget"), "{}", text(&led));
    std::thread::sleep(REFUSED_FOR);
    assert_eq!(changes(), before, "{}", leader.log());
    let said = status(leader);
    assert_eq!(said["voters"].as_array().map(Vec::len), Some(3), "{said}");
    let now = json!({ "gracePeriodSeconds": 0 });
    leader.api("DELETE", &format!("{PODS}/bare"), Some(&now)).expect("deleted");
}

/// A board with a pod that nobody starts elsewhere may not leave.
fn refused_for_a_pod(leader: &Board, board: &Board) {
    let bare = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "bare" },
        "spec": { "nodeName": board.node(), "containers": [{ "name": "main", "image": "none" }] } });
    leader.create(PODS, &bare);
    let refused = board.command(&["board", "leave"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("default/bare"), "{}", text(&refused));
}

/// A board leaves; nothing that was acknowledged is lost, and it forgets the cluster.
fn leaves_under_writers(cluster: &mut Cluster, index: usize, how: &[&str]) {
    let rest: Vec<usize> =
        (0..3).filter(|at| *at != index && cluster.boards[*at].is_up()).collect();
    let kubeconfig = fs::read_to_string(cluster.boards[index].kubeconfig()).expect("kubeconfig");
    let doors = rest.iter().map(|at| (cluster.boards[*at].address(), 6443).into()).collect();
    let doors = Doors::new(&kubeconfig, doors);
    let plan = Plan {
        collection: MAPS.to_owned(),
        writers: 4,
        padding: 100,
        pause: Duration::from_millis(20),
        patience: Duration::from_millis(600),
        values: Arc::default(),
        last_accepted: Arc::new(AtomicU64::new(0)),
    };
    cluster.switch.listen_once();
    let (stop, namespace) = (AtomicBool::new(false), cluster.switch.namespace().to_owned());
    let (began, left, written) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| writers::write(&namespace, &doors, &plan, &stop));
        std::thread::sleep(WRITING);
        let (began, since) = (now(), Instant::now());
        let arguments = [&["board", "leave", "--timeout", "60s"], how].concat();
        let left = cluster.boards[index].command(&arguments);
        println!("left after {:?}:\n{}", since.elapsed(), text(&left));
        std::thread::sleep(WRITING);
        stop.store(true, Ordering::SeqCst);
        (began, left, writing.join().expect("writers"))
    });
    if !left.status.success() {
        for board in &cluster.boards {
            eprintln!("log of {}:\n{}", board.node(), board.log());
        }
        panic!("{}", text(&left));
    }
    let other = &cluster.boards[rest[0]];
    judge(&written, began, other);
    let name = cluster.boards[index].node().to_owned();
    assert_eq!(standing(&status(other), &name), "", "{}", status(other));
    assert!(other.api("GET", &format!("/api/v1/nodes/{name}"), None).is_err());
    let list = other.get("/api/v1/namespaces/kube-system/configmaps/kumquat-evicted");
    let said = list["data"].as_object().expect("keys").values().map(Value::to_string);
    let said: Vec<String> = said.collect();
    assert!(said.iter().any(|it| it.contains(&name) && it.contains(" left")), "{said:?}");
    cluster.boards[index].wait_ended();
    let data = cluster.boards[index].data_dir();
    for forgotten in ["board.json", "pki", "store", "master.json", "left"] {
        assert!(!data.join(forgotten).exists(), "{forgotten}");
    }
}

/// The newest acknowledged value of each key, or a later one, is there.
fn judge(written: &Written, began: Moment, board: &Board) {
    let gap = written.longest_gap(began, now());
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for operation in &written.history.operations {
        if let (Some((_, Answer::Written(_))), Some(value)) =
            (operation.returned, operation.call.value())
        {
            let known = newest.entry(&operation.key).or_default();
            *known = value.max(*known);
        }
    }
    let count = written.accepted().len();
    println!("{count} writes acknowledged; longest gap {gap:?}");
    assert!(count > 20, "the writers wrote {count} times");
    assert!(gap < GAP_MAX, "{gap:?} without an accepted write");
    for (key, value) in newest {
        let kept = board.get(&format!("{MAPS}/{key}"));
        let has = kept["data"]["value"].as_str().and_then(|value| value.parse::<u64>().ok());
        assert!(has >= Some(value), "{key} was acknowledged with {value}, now it has {has:?}");
    }
}
