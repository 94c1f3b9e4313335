//! Two boards: one decides and one has everything; a person says which of them goes on.

use std::time::Duration;

use crate::board::{self, Board, text};
use crate::switch::Cluster;
use crate::three::{MAPS, config_map, standing, status, wait_until};

const WITHIN: Duration = Duration::from_secs(120);

#[test]
fn the_board_that_is_left_is_promoted_and_the_old_master_comes_back_fenced() {
    if !board::possible("promote") {
        return;
    }
    let mut cluster = Cluster::of_masters("two", 2);
    let (first, second) =
        (cluster.boards[0].node().to_owned(), cluster.boards[1].node().to_owned());
    wait_until("a learner", &cluster.boards, WITHIN, || {
        let said = status(&cluster.boards[0]);
        standing(&said, &second) == "learner" && lag(&said, &second) == Some(0)
    });
    let said = status(&cluster.boards[0]);
    assert_eq!(said["voters"].as_array().map(Vec::len), Some(1), "never two: {said}");
    let refused = cluster.boards[1].command(&["promote"]);
    assert!(!refused.status.success() && text(&refused).contains("--force"), "{}", text(&refused));
    cluster.boards[0].create(MAPS, &config_map("before"));
    wait_until("the learner has it", &cluster.boards, WITHIN, || {
        lag(&status(&cluster.boards[0]), &second) == Some(0)
    });
    let keepers: Vec<i32> = cluster.boards.iter().map(Board::keeper_pid).collect();
    cluster.boards[0].kill();
    wait_until("the leader is missed", &cluster.boards[1..], WITHIN, || {
        status(&cluster.boards[1])["leader"].is_null()
    });
    let promoted = cluster.boards[1].command(&["promote"]);
    assert!(promoted.status.success(), "{}\n{}", text(&promoted), cluster.boards[1].log());
    let kept = cluster.boards[1].get(&format!("{MAPS}/before"));
    assert_eq!(kept["data"]["key"], "before", "what was acknowledged is there");
    cluster.boards[1].create(MAPS, &config_map("after"));
    let now = status(&cluster.boards[1]);
    assert_eq!((&now["leader"], now["epoch"].as_u64()), (&second.as_str().into(), Some(2)));
    let reigns = |board: &Board| board.log().matches("reign began").count();
    let reigned = reigns(&cluster.boards[0]);
    cluster.boards[0].start(&[]);
    wait_until("the old master is a learner", &cluster.boards, WITHIN, || {
        standing(&status(&cluster.boards[1]), &first) == "learner"
    });
    assert_eq!(reigns(&cluster.boards[0]), reigned, "it asks before it leads");
    let said = status(&cluster.boards[0]);
    assert_eq!(said["leader"], second.as_str(), "{said}");
    assert_eq!(cluster.boards[1].get(&format!("{MAPS}/after"))["data"]["key"], "after");
    for (board, keeper) in cluster.boards.iter().zip(keepers) {
        assert_eq!(board.keeper_pid(), keeper, "pods do not notice");
    }
}

fn lag(status: &serde_json::Value, board: &str) -> Option<u64> {
    let mut boards = status["boards"].as_array()?.iter();
    boards.find(|it| it["name"] == board)?["lag"].as_u64()
}
