//! Identical boards found one cluster: `kumquat up --token kq0... --expect N` on each.

use super::*;
use board::possible;

/// A token that no cluster has made.
fn token(board: &Board) -> String {
    let made = board.command(&["token", "create", "--bootstrap"]);
    assert!(made.status.success(), "{}", text(&made));
    let token = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert!(token.starts_with("kq0"), "{token}");
    token
}

/// Waits until three boards choose the leader.
fn wait_voters(board: &Board) {
    let waited = board.command(&["wait", "--voters", "3", "--timeout", "60s"]);
    assert!(waited.status.success(), "{}\n{}", text(&waited), board.log());
}

fn founders(boards: &[Board]) -> Vec<usize> {
    (0..boards.len()).filter(|at| role(&boards[*at]).as_deref() == Some("founder")).collect()
}

/// Starts all of them at once; every one of them sees all of them ready then.
fn found(boards: &mut [Board], token: &str) -> Duration {
    let began = Instant::now();
    let expect = boards.len().to_string();
    for board in boards.iter_mut() {
        board.start(&["--token", token, "--expect", &expect]);
    }
    for board in boards.iter() {
        wait_boards(board, boards.len());
    }
    let took = began.elapsed();
    assert_eq!(founders(boards).len(), 1, "exactly one founds");
    let first = authority(&boards[0]);
    assert!(boards.iter().all(|board| authority(board) == first), "one cluster");
    took
}

#[test]
fn three_identical_boards_become_one_cluster() {
    if !possible("three_identical_boards_become_one_cluster") {
        return;
    }
    let switch = Switch::new("found3");
    let mut all = boards(&switch, 3);
    let token = token(&all[0]);
    let began = Instant::now();
    println!("3 identical boards, all ready: {:?}", found(&mut all, &token));
    let founder = founders(&all)[0];
    wait_voters(&all[founder]);
    println!("3 identical boards, three voters: {:?}", began.elapsed());
    assert!(!all.iter().any(|board| board.data_dir().join("genesis.json").exists()));

    // The founder comes back with the command line that all have, and the token is spent on members.
    all[founder].stop();
    all[founder].up(&["--token", &token, "--expect", "3"]);
    wait_boards(&all[founder], 3);
    let listed = all[founder].command(&["token", "list", "-o", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(listed[0]["usesLeft"], 62, "{listed}");
    assert_eq!(listed[0]["role"], "auto", "{listed}");

    // Boards that come later join, also three that hear each other as soon as the cluster.
    let mut late: Vec<Board> = (4..=6).map(|number| switch.board(number)).collect();
    for board in &mut late {
        board.start(&["--token", &token, "--expect", "3"]);
    }
    for board in &late {
        wait_boards(board, 6);
    }
    assert!(founders(&late).is_empty(), "there is a cluster already");
    // One that expects nobody only joins.
    let mut plain = switch.board(7);
    plain.start(&["--token", &token]);
    wait_boards(&plain, 7);
    assert_eq!(role(&plain).as_deref(), Some("member"));
}

#[test]
fn ten_identical_boards_become_one_cluster() {
    if !possible("ten_identical_boards_become_one_cluster") {
        return;
    }
    let switch = Switch::new("found10");
    let mut all = boards(&switch, 10);
    let token = token(&all[0]);
    println!("10 identical boards, all ready: {:?}", found(&mut all, &token));
}

#[test]
fn one_board_founds_at_once_and_a_minority_never() {
    if !possible("one_board_founds_at_once_and_a_minority_never") {
        return;
    }
    let switch = Switch::new("found1");
    let mut all = boards(&switch, 4);
    let one = token(&all[0]);
    let began = Instant::now();
    all[0].up(&["--token", &one, "--expect", "1"]);
    println!("1 board, ready: {:?}", began.elapsed());
    assert_eq!(role(&all[0]).as_deref(), Some("founder"));

    // One of three waits for as long as it takes, whatever happens to it.
    let three = token(&all[1]);
    let arguments = ["--token", &three, "--expect", "3"];
    all[1].start(&arguments);
    until("it waits", WITHIN, || all[1].data_dir().join("genesis.json").exists());
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(role(&all[1]), None, "one of three founds nothing");
    all[1].kill();
    all[1].start(&arguments);
    // A board with another token is not counted.
    let other = token(&all[2]);
    all[2].start(&["--token", &other, "--expect", "3"]);
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!((role(&all[1]), role(&all[2])), (None, None), "they have two tokens");
    all[2].kill();
    all[3].start(&arguments);
    // Two of three are a majority.
    wait_boards(&all[1], 2);
    wait_boards(&all[3], 2);
    assert_eq!(founders(&all[1..]).len(), 1);
    assert_ne!(authority(&all[0]), authority(&all[1]), "two clusters never merge");
}

#[test]
fn whoever_is_killed_meanwhile_there_is_one_cluster() {
    if !possible("whoever_is_killed_meanwhile_there_is_one_cluster") {
        return;
    }
    let switch = Switch::new("foundkill");
    let mut all = boards(&switch, 3);
    let token = token(&all[0]);
    let arguments = ["--token", token.as_str(), "--expect", "3"];
    for board in &mut all {
        board.start(&arguments);
    }
    // At moments from before the first word to after the founding.
    for round in 0..8 {
        let at = round % all.len();
        std::thread::sleep(Duration::from_millis(300 + 250 * round as u64));
        all[at].kill();
        all[at].start(&arguments);
    }
    for board in &all {
        wait_boards(board, 3);
    }
    assert_eq!(founders(&all).len(), 1);
    let first = authority(&all[0]);
    assert!(all.iter().all(|board| authority(board) == first), "one cluster");
}
