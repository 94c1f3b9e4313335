//! One board alone has the log of a later epoch, and its copy is damaged.

use std::fs;
use std::time::Duration;

use crate::board::{self, Board, text};
use crate::switch::Cluster;
use crate::three::{MAPS, config_map, standing, status, wait_until};
use crate::two::caught_up_with;

const WITHIN: Duration = Duration::from_secs(120);
/// Longer than a copy that is lost waits for a leader to go on leading.
const LED: Duration = Duration::from_secs(20);

#[test]
fn a_damaged_last_copy_is_given_to_no_fenced_leader_and_goes_on_alone_when_a_person_says_so() {
    if !board::possible("last-copy") {
        return;
    }
    let mut cluster = Cluster::off("lastcopy", 3);
    cluster.boards[0].up(&[]);
    let names: Vec<String> = cluster.boards.iter().map(|board| board.node().to_owned()).collect();
    let joins = |board: &mut Board, token: &str| board.start(&["--token", token]);
    let token = cluster.boards[0].token_for("auto");
    joins(&mut cluster.boards[1], &token);
    caught_up_with(&cluster.boards[0], &names[1]);
    cluster.boards[0].create(MAPS, &config_map("first"));
    caught_up_with(&cluster.boards[0], &names[1]);
    cluster.boards[0].kill();
    wait_until("promoted", &cluster.boards[1..2], WITHIN, || {
        cluster.boards[1].command(&["promote"]).status.success()
    });
    cluster.boards[1].create(MAPS, &config_map("later"));
    let token = cluster.boards[1].token_for("auto");
    joins(&mut cluster.boards[2], &token);
    caught_up_with(&cluster.boards[1], &names[2]);
    cluster.boards[2].kill();
    cluster.boards[1].stop();
    damage(&cluster.boards[1]);

    cluster.boards[1].start(&[]);
    let waits = "waits for the leader to give it another";
    wait_until("it waits", &cluster.boards[1..2], WITHIN, || {
        cluster.boards[1].log().contains(waits)
    });
    cluster.boards[0].start(&[]);
    wait_until("the fenced leader leads", &cluster.boards[..2], WITHIN, || {
        let said = status(&cluster.boards[0]);
        (&said["leader"], said["epoch"].as_u64()) == (&names[0].as_str().into(), Some(1))
    });
    std::thread::sleep(LED);
    let log = cluster.boards[1].log();
    assert!(!log.contains("asks the leader for another"), "it gave its copy up: {log}");
    assert_ne!(status(&cluster.boards[1])["leader"], names[0].as_str());
    assert!(cluster.boards[1].data_dir().join("store/vote").exists());
    let refused = text(&cluster.boards[1].command(&["promote"]));
    assert!(refused.contains("last_resort"), "{refused}");

    cluster.boards[1].stop();
    let named = log.split("kumquat repair --accept-loss-after ").nth(1).expect("a remedy");
    let version: String = named.chars().take_while(char::is_ascii_digit).collect();
    let repair = ["repair", "--accept-loss-after", &version, "--last-copy"];
    let refused = cluster.boards[1].command(&repair[..3]);
    assert!(!refused.status.success() && text(&refused).contains(&repair.join(" ")));
    let repaired = cluster.boards[1].command(&repair);
    assert!(repaired.status.success(), "{}", text(&repaired));
    cluster.boards[1].start(&[]);
    wait_until("it leads, and the other is fenced", &cluster.boards[..2], WITHIN, || {
        let said = status(&cluster.boards[1]);
        said["epoch"].as_u64() == Some(3) && standing(&said, &names[0]) == "learner"
    });
    for name in ["first", "later"] {
        assert_eq!(cluster.boards[1].get(&format!("{MAPS}/{name}"))["data"]["key"], name);
    }
    cluster.boards[1].create(MAPS, &config_map("at-last"));
}

/// Spoils an early entry of a board's log.
fn damage(board: &Board) {
    let segments = fs::read_dir(board.data_dir().join("store/log")).expect("a log");
    let first = segments.map(|segment| segment.expect("a segment").path()).min();
    let first = first.expect("a segment");
    let mut bytes = fs::read(&first).expect("readable");
    bytes[300] ^= 1;
    fs::write(first, bytes).expect("written");
}
