//! Three boards make one cluster whose leader may die.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::board::{self, Board, text};
use crate::leave;
use crate::switch::Cluster;

/// How long a group may take to have its voters, on a machine that is busy.
const GROWN_WITHIN: &str = "120s";
/// How long a voter without its log may take to vote again: boards are watched for a while first.
const LOST_WITHIN: Duration = Duration::from_secs(90);
/// How long another voter may take to lead.
const LED_WITHIN: Duration = Duration::from_secs(20);

/// What a board says of the cluster; nothing while it does not answer.
pub(crate) fn status(board: &Board) -> Value {
    let said = board.command(&["status", "-o", "json"]);
    serde_json::from_slice(&said.stdout).unwrap_or_default()
}

/// The index of the board that leads, as far as the others of these know.
pub(crate) fn leader(boards: &[Board], known: impl Fn(usize) -> bool) -> Option<usize> {
    let asked = boards.iter().enumerate().filter(|(index, _)| known(*index));
    let said = asked.filter_map(|(_, board)| {
        let status = status(board);
        let name = status["leader"].as_str()?.to_owned();
        boards.iter().position(|board| board.node() == name)
    });
    said.into_iter().find(|index| known(*index))
}

/// Waits until `what` holds.
pub(crate) fn wait_until(
    what: &str,
    boards: &[Board],
    within: Duration,
    holds: impl Fn() -> bool,
) -> Duration {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > within {
            for board in boards {
                eprintln!("log of {}:\n{}", board.node(), board.log());
                eprintln!("status of {}: {}", board.node(), status(board));
            }
            panic!("{what}: not within {within:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

/// What a board is, as the leader says it.
pub(crate) fn standing(status: &Value, board: &str) -> String {
    let boards = status["boards"].as_array().into_iter().flatten();
    let own = boards.into_iter().find(|it| it["name"] == board);
    own.map_or("", |own| own["standing"].as_str().unwrap_or_default()).to_owned()
}

/// Waits for that many voters.
pub(crate) fn wait_voters(cluster: &Cluster, board: usize, voters: &str) {
    let arguments = ["wait", "--voters", voters, "--timeout", GROWN_WITHIN];
    let waited = cluster.boards[board].command(&arguments);
    if !waited.status.success() {
        for board in &cluster.boards {
            eprintln!("log of {}:\n{}", board.node(), board.log());
            eprintln!("status of {}: {}", board.node(), status(board));
        }
        panic!("{}", text(&waited));
    }
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
        "data": { "key": name } })
}

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn the_leader_dies_and_another_one_leads() {
    if !board::possible("masters") {
        return;
    }
    let began = Instant::now();
    let mut cluster = Cluster::of_masters("three", 3);
    println!("three boards ready after {:?}", began.elapsed());
    wait_voters(&cluster, 0, "3");
    println!("three voters after {:?}", began.elapsed());
    let old = leader(&cluster.boards, |_| true).expect("somebody leads");
    assert_eq!(old, 0, "the founder leads until it dies");
    cluster.boards[0].create(MAPS, &config_map("before"));
    let before = status(&cluster.boards[0]);
    let processes: Vec<i32> = cluster.boards.iter().map(Board::keeper_pid).collect();
    cluster.boards[0].kill();
    let killed = Instant::now();
    wait_until("another leader", &cluster.boards, LED_WITHIN, || {
        leader(&cluster.boards, |index| index != 0).is_some()
    });
    let new = leader(&cluster.boards, |index| index != 0).expect("it was there");
    println!("another leader is known after {:?}", killed.elapsed());
    let written = wait_until("a write", &cluster.boards, LED_WITHIN, || {
        cluster.boards[new].api("POST", MAPS, Some(&config_map("after"))).is_ok()
    });
    println!("the next write is accepted {:?} later", written);
    let kept = cluster.boards[new].get(&format!("{MAPS}/before"));
    assert_eq!(kept["data"]["key"], "before", "what was acknowledged is there");
    let now = status(&cluster.boards[new]);
    assert!(now["term"].as_u64() > before["term"].as_u64(), "{now}");
    for (index, keeper) in processes.iter().enumerate() {
        assert_eq!(cluster.boards[index].keeper_pid(), *keeper, "pods do not notice");
    }
    cluster.boards[0].start(&[]);
    wait_until("the old leader follows", &cluster.boards, LED_WITHIN, || {
        let said = status(&cluster.boards[new]);
        let ready = said["boards"].as_array().into_iter().flatten();
        let ready = ready.filter(|board| board["ready"] == true).count();
        ready == 3 && standing(&said, cluster.boards[0].node()) == "voter"
    });
    let said = status(&cluster.boards[0]);
    assert_eq!(said["leader"], cluster.boards[new].node(), "{said}");
    assert_eq!(said["voters"].as_array().map(Vec::len), Some(3), "{said}");
    let kept = cluster.boards[new].get(&format!("{MAPS}/after"));
    assert_eq!(kept["data"]["key"], "after");
    // The board that founded the cluster: without its log it must not found it once more.
    loses_its_log(&mut cluster, 0, new, |store| std::fs::remove_dir_all(store).expect("removed"));
    loses_its_log(&mut cluster, 3 - new, new, |store| {
        let segments = std::fs::read_dir(store.join("log")).expect("a log");
        let first = segments.map(|segment| segment.expect("a segment").path()).min();
        let first = first.expect("a segment");
        let mut bytes = std::fs::read(&first).expect("readable");
        bytes[300] ^= 1;
        std::fs::write(first, bytes).expect("written");
    });
    // A voter that knows whom it voted for and not what it acknowledged.
    loses_its_log(&mut cluster, 3 - new, new, |store| {
        for lost in ["log", "state", "snapshots"] {
            let _gone = std::fs::remove_dir_all(store.join(lost));
        }
        assert!(store.join("vote").exists());
    });
    leave::one_after_the_other(&mut cluster);
}

/// A member whose log is gone or damaged votes no more as who it was: it comes back as another member, by
/// itself.
fn loses_its_log(cluster: &mut Cluster, poor: usize, leader: usize, spoil: impl Fn(&Path)) {
    let name = cluster.boards[poor].node().to_owned();
    let before = cluster.boards[leader].log().matches("action=Forget").count();
    cluster.boards[poor].kill();
    spoil(&cluster.boards[poor].data_dir().join("store"));
    let began = Instant::now();
    cluster.boards[poor].start(&[]);
    wait_until("it begins anew", &cluster.boards, LED_WITHIN, || {
        cluster.boards[poor].log().contains("copy of the log is lost")
    });
    wait_until("it votes again", &cluster.boards, LOST_WITHIN, || {
        let said = status(&cluster.boards[leader]);
        // The old member goes last.
        let log = cluster.boards[leader].log();
        log.matches("action=Forget").count() > before
            && standing(&said, &name) == "voter"
            && said["voters"].as_array().map(Vec::len) == Some(3)
    });
    println!("a voter whose log was lost votes again after {:?}", began.elapsed());
    cluster.boards[leader].create(MAPS, &config_map(&format!("whole-{before}")));
    let said = status(&cluster.boards[poor]);
    assert_eq!(said["leader"], cluster.boards[leader].node(), "one cluster, one leader: {said}");
}
