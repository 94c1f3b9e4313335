//! A board without a token: `kumquat up --join`, the same words on both sides, `board approve`.

use super::*;
use board::possible;

/// The words in the log of a board that waits.
fn shown(board: &Board) -> Option<String> {
    let log = board.log();
    let at = log.find("words=\"")? + 7;
    Some(log[at..].split('"').next()?.to_owned())
}

#[test]
fn a_person_lets_a_board_in_that_shows_the_same_words() {
    if !possible("a_person_lets_a_board_in_that_shows_the_same_words") {
        return;
    }
    let switch = Switch::new("waiting");
    let mut all = boards(&switch, 2);
    all[0].up(&[]);
    all[1].start(&["--join"]);
    until("it is listed", WITHIN, || status(&all[0])["pending"][0].is_object());
    let waiting = status(&all[0])["pending"][0].clone();
    assert_eq!(waiting["name"], all[1].node());
    until("it shows words", WITHIN, || shown(&all[1]).is_some());
    assert_eq!(shown(&all[1]).as_deref(), waiting["words"].as_str());
    let listed = text(&all[0].command(&["board", "list"]));
    assert!(listed.contains("WAITING") && listed.contains("board approve"), "{listed}");
    assert_eq!(role(&all[1]), None, "it is in no cluster yet");

    let wrong = all[0].command(&["board", "approve", all[1].node(), "--words", "bada bidi"]);
    assert_eq!(wrong.status.code(), Some(1), "{}", text(&wrong));
    // Nobody is at a terminal who could say that they are the same.
    let unsaid = all[0].command(&["board", "approve", all[1].node()]);
    assert_eq!(unsaid.status.code(), Some(1), "{}", text(&unsaid));
    let words = waiting["words"].as_str().expect("words");
    assert!(text(&unsaid).contains(words), "{}", text(&unsaid));
    assert_eq!(role(&all[1]), None, "it is in no cluster yet");
    let began = Instant::now();
    let approved = all[0].command(&["board", "approve", all[1].node(), "--words", words]);
    assert!(approved.status.success(), "{}", text(&approved));
    wait_boards(&all[1], 2);
    println!("approved to ready: {:?}", began.elapsed());
    assert_eq!(role(&all[1]).as_deref(), Some("member"));
    assert_eq!(status(&all[0])["pending"], serde_json::json!([]));
    // It comes back with the same command line.
    all[1].stop();
    all[1].start(&["--join"]);
    wait_boards(&all[1], 2);
}
