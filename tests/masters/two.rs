//! Two boards: one decides and one has everything; a person says which of them goes on.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::board::{self, Board, Lost, text};
use crate::busybox;
use crate::cell::Disks;
use crate::clients::Doors;
use crate::disk::{remount, shut_down};
use crate::history::Answer;
use crate::switch::Cluster;
use crate::three::{MAPS, config_map, standing, status, wait_until};
use crate::workload::{container, start_steady};
use crate::writers::{self, Plan, Written};

const WITHIN: Duration = Duration::from_secs(120);
/// How long a write waits for the second board.
const WAITED: Duration = Duration::from_secs(2);
const WISH: &str = "/api/v1/namespaces/kube-system/configmaps/kumquat-masters";
/// Writers are at work for so long before the master dies.
const WRITING: Duration = Duration::from_secs(3);
/// Less than it takes to notice that the learner is away.
const APART: Duration = Duration::from_millis(500);

#[test]
fn the_board_that_is_left_is_promoted_and_has_all_that_both_boards_acknowledged() {
    if !board::possible("promote") {
        return;
    }
    let mut disks = Disks::default();
    let mut cluster = Cluster::off("two", 2);
    disks.add(&cluster.boards[0]);
    for board in &mut cluster.boards {
        board.configure("[masters]\ndurability = \"both\"");
    }
    cluster.role = "auto";
    cluster.boards[0].up(&[]);
    cluster.join();
    let (first, second) =
        (cluster.boards[0].node().to_owned(), cluster.boards[1].node().to_owned());
    caught_up(&cluster, &second);
    let said = status(&cluster.boards[0]);
    assert_eq!(said["voters"].as_array().map(Vec::len), Some(1), "never two: {said}");
    assert_eq!(said["durability"], "both", "{said}");
    the_rows_are_the_masters_own(&cluster.boards[0]);
    let refused = cluster.boards[1].command(&["promote"]);
    assert!(!refused.status.success() && text(&refused).contains("--force"), "{}", text(&refused));
    the_learner_is_away(&mut cluster, &second);

    let keeper = cluster.boards[1].keeper_pid();
    let pods = busybox::present("pods on two boards");
    let pod = pods.then(|| start_steady(&cluster, &cluster.boards[0], 1));
    let unchanged = |board: &Board| {
        if let Some(pod) = &pod {
            assert_eq!(container(board, &second), *pod, "its pod does not notice");
        }
    };
    let written = until_the_power_is_cut(&mut cluster);
    the_disk_refuses(&cluster.boards[1]);
    // Refused until the leader is missed.
    wait_until("promoted", &cluster.boards[1..], WITHIN, || {
        cluster.boards[1].command(&["promote"]).status.success()
    });
    judge(&written, &cluster.boards[1]);
    unchanged(&cluster.boards[1]);
    cluster.boards[1].create(MAPS, &config_map("after"));
    let now = status(&cluster.boards[1]);
    assert_eq!((&now["leader"], now["epoch"].as_u64()), (&second.as_str().into(), Some(2)));
    assert!(now["warnings"].to_string().contains("no other board holds the log"), "{now}");
    let reigns = |board: &Board| board.log().matches("reign began").count();
    let reigned = reigns(&cluster.boards[0]);
    let obstacle = cluster.boards[0].data_dir().join("board.new");
    fs::create_dir(&obstacle).expect("in the way");
    cluster.boards[0].start(&[]);
    wait_until("its disk refuses", &cluster.boards, WITHIN, || {
        cluster.boards[0].log().contains("cannot leave the masters")
    });
    fs::remove_dir(&obstacle).expect("out of the way");
    wait_until("the old master is a learner", &cluster.boards, WITHIN, || {
        standing(&status(&cluster.boards[1]), &first) == "learner"
    });
    assert_eq!(reigns(&cluster.boards[0]), reigned, "it asks before it leads");
    let said = status(&cluster.boards[0]);
    assert_eq!(said["leader"], second.as_str(), "{said}");
    caught_up_with(&cluster.boards[1], &first);
    cluster.boards[1].create(MAPS, &config_map("with-both-again"));
    assert_eq!(cluster.boards[1].get(&format!("{MAPS}/after"))["data"]["key"], "after");
    assert_eq!(cluster.boards[1].keeper_pid(), keeper, "pods do not notice");
    unchanged(&cluster.boards[1]);
    the_leader_was_cut_off(&cluster, &second);
}

/// The other board is promoted while the leader's cable is out, and where nobody hears announcements the
/// leader finds out by itself. Both may not lead for longer than that takes.
fn the_leader_was_cut_off(cluster: &Cluster, leader: &str) {
    let [left, cut] = &cluster.boards[..] else { panic!("two boards") };
    cut.unplug();
    wait_until("promoted", &cluster.boards[..1], WITHIN, || {
        left.command(&["promote"]).status.success()
    });
    assert_eq!(status(left)["epoch"].as_u64(), Some(3));
    left.create(MAPS, &config_map("without-it"));
    for board in [left, cut] {
        board.lose(Lost::Multicast);
    }
    cut.replug();
    let began = Instant::now();
    wait_until("the leader that was cut off is a learner", &cluster.boards, WITHIN, || {
        standing(&status(left), leader) == "learner"
    });
    println!("a learner {:?} after its cable was put back", began.elapsed());
    assert_eq!(status(cut)["leader"], left.node(), "{}", status(cut));
    for board in [left, cut] {
        board.lose_nothing();
    }
}

/// A promotion that fails leaves the board what it was.
fn the_disk_refuses(board: &Board) {
    let process = board.up_pid();
    let obstacle = board.data_dir().join("master.new");
    fs::create_dir(&obstacle).expect("in the way");
    wait_until("the disk refuses", std::slice::from_ref(board), WITHIN, || {
        text(&board.command(&["promote"])).contains("cannot write")
    });
    fs::remove_dir(&obstacle).expect("out of the way");
    assert_eq!(board.up_pid(), process, "it goes on");
}

/// Nothing is acknowledged that one board alone has, unless somebody says so.
fn the_learner_is_away(cluster: &mut Cluster, second: &str) {
    cluster.boards[1].kill();
    // What is on its way when it dies is not refused: nobody knows whether it happened.
    wait_until("the learner is missed", &cluster.boards[..1], WITHIN, || {
        let said = cluster.boards[0].api("POST", MAPS, Some(&config_map("probe")));
        said.is_err_and(|error| error.contains("nothing has changed"))
    });
    let began = Instant::now();
    let refused = cluster.boards[0].api("POST", MAPS, Some(&config_map("alone")));
    let refused = refused.expect_err("the second board is away");
    let waited = began.elapsed();
    println!("refused after {waited:?}: {refused}");
    assert!(waited >= WAITED, "after {waited:?}");
    for said in ["both", second, "Bring it back", "kubectl"] {
        assert!(refused.contains(said), "{said}: {refused}");
    }
    let alone = cluster.boards[0].get(&format!("{MAPS}?fieldSelector=metadata.name=alone"));
    assert_eq!(alone["items"].as_array().map(Vec::len), Some(0), "nothing has happened");
    wish(&cluster.boards[0], "one");
    cluster.boards[0].create(MAPS, &config_map("alone"));
    assert_eq!(status(&cluster.boards[0])["durability"], "one");
    wish(&cluster.boards[0], "both");
    cluster.boards[1].start(&[]);
    caught_up(cluster, second);
}

/// Without the rows no master would take another's word.
fn the_rows_are_the_masters_own(board: &Board) {
    let object = board.get(WISH);
    let mut bare = object.clone();
    bare["data"] = serde_json::json!({ "durability": "both" });
    let member = serde_json::json!({ "data": { "member-2": null } });
    let sealed = serde_json::json!({ "immutable": true });
    let owner = serde_json::json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "none",
        "uid": "00000000-0000-4000-8000-000000000000" }]);
    let owned = serde_json::json!({ "metadata": { "ownerReferences": owner } });
    let (all, _) = WISH.rsplit_once('/').expect("a collection");
    let collection = format!("{all}?fieldSelector=metadata.name=kumquat-masters");
    for refused in [
        board.api("PUT", WISH, Some(&bare)),
        board.api("PATCH", WISH, Some(&member)),
        board.api("PATCH", WISH, Some(&sealed)),
        board.api("PATCH", WISH, Some(&owned)),
        board.api("DELETE", WISH, None),
        board.api("DELETE", &collection, None),
    ] {
        let error = refused.expect_err("the masters keep their rows");
        assert!(error.contains("member-*") && error.contains("kubectl"), "{error}");
    }
    assert_eq!(board.get(WISH)["data"], object["data"]);
}

fn wish(board: &Board, copies: &str) {
    let mut object = board.get(WISH);
    object["data"]["durability"] = copies.into();
    board.api("PUT", WISH, Some(&object)).expect("the wish can be said with one board");
}

fn caught_up(cluster: &Cluster, learner: &str) {
    caught_up_with(&cluster.boards[0], learner);
}

pub(crate) fn caught_up_with(leader: &Board, learner: &str) {
    wait_until("a learner", std::slice::from_ref(leader), WITHIN, || {
        let said = status(leader);
        standing(&said, learner) == "learner" && lag(&said, learner) == Some(0)
    });
}

/// Writers write at the leader until its plug is pulled, and what its disk had not synced is gone. For a
/// moment before that the leader writes what the learner does not get.
fn until_the_power_is_cut(cluster: &mut Cluster) -> Written {
    let kubeconfig = fs::read_to_string(cluster.boards[0].kubeconfig()).expect("kubeconfig");
    let address = (cluster.boards[0].address(), 6443).into();
    let doors = Doors::new(&kubeconfig, vec![address]);
    let plan = Plan {
        collection: MAPS.to_owned(),
        writers: 4,
        padding: 100,
        pause: Duration::from_millis(5),
        patience: Duration::from_secs(5),
        values: Arc::default(),
        last_accepted: Arc::new(AtomicU64::new(0)),
    };
    cluster.switch.listen();
    let (stop, namespace) = (AtomicBool::new(false), cluster.switch.namespace().to_owned());
    let data_dir = cluster.boards[0].data_dir();
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| writers::write(&namespace, &doors, &plan, &stop));
        std::thread::sleep(WRITING);
        cluster.boards[1].lose(Lost::Incoming);
        std::thread::sleep(APART);
        shut_down(&data_dir);
        cluster.boards[0].pull_the_plug();
        stop.store(true, Ordering::SeqCst);
        writing.join().expect("writers")
    });
    cluster.boards[1].lose_nothing();
    remount(&data_dir);
    written
}

/// The newest acknowledged value of each key, or a later one, is there.
fn judge(written: &Written, board: &Board) {
    let mut acknowledged: BTreeMap<&str, u64> = BTreeMap::new();
    let mut count = 0;
    for operation in &written.history.operations {
        let (Some((_, Answer::Written(_))), Some(value)) =
            (operation.returned, operation.call.value())
        else {
            continue;
        };
        count += 1;
        let newest = acknowledged.entry(&operation.key).or_default();
        *newest = value.max(*newest);
    }
    println!("{count} writes acknowledged under both before the power was cut");
    assert!(count > 50, "the writers wrote {count} times");
    for (key, value) in acknowledged {
        let kept = board.get(&format!("{MAPS}/{key}"));
        let has = kept["data"]["value"].as_str().and_then(|value| value.parse::<u64>().ok());
        assert!(has >= Some(value), "{key} was acknowledged with {value}, now it has {has:?}");
    }
}

fn lag(status: &Value, board: &str) -> Option<u64> {
    let mut boards = status["boards"].as_array()?.iter();
    boards.find(|it| it["name"] == board)?["lag"].as_u64()
}
