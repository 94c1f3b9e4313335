//! Each rule of genesis by itself; the simulation in `masters::tests::sim` plays whole groups.

use super::*;

fn id(number: u8) -> GenesisId {
    GenesisId([number; 16])
}

fn board(number: u8, expect: u8) -> Genesis {
    Genesis::new(Record::new(id(number)), format!("b{number}"), expect, 0)
}

fn word(number: u8, round: u64, promise: Option<(u8, u64)>) -> GenesisWordV1 {
    let promise = promise.map(|(to, round)| PromiseV1 { to: id(to), round });
    GenesisWordV1 { id: id(number), name: format!("b{number}"), expect: 3, round, promise }
}

/// The board says so both ways.
fn hears(genesis: &mut Genesis, word: GenesisWordV1, now: u64) -> Vec<Action> {
    let mut actions = genesis.take(Input::Asked(word.clone()), now);
    let answer = GenesisAnswerV1 { word: Some(word), founded: None };
    actions.extend(genesis.take(Input::Answered(answer), now));
    actions
}

fn promised(genesis: &Genesis) -> Option<(u8, u64)> {
    genesis.word().promise.map(|promise| (promise.to.0[0], promise.round))
}

#[test]
fn one_expected_board_founds_at_once() {
    let mut genesis = board(5, 1);
    let record = Record { promise: Some(PromiseV1 { to: id(5), round: 0 }), ..Record::new(id(5)) };
    let founding = Record { founding: true, ..record.clone() };
    assert_eq!(
        genesis.take(Input::Tick, 0),
        [Action::Save(record), Action::Save(founding.clone()), Action::Found]
    );
    // A crash in between changes nothing.
    let mut again = Genesis::new(founding, "b5".into(), 1, 9_000);
    assert_eq!(again.take(Input::Tick, 9_000), [Action::Found]);
}

#[test]
fn the_smallest_that_stands_is_promised() {
    let mut genesis = board(5, 3);
    assert_eq!(genesis.take(Input::Tick, 0), [Action::AskAll]);
    hears(&mut genesis, word(3, 7, Some((3, 7))), 100);
    assert_eq!(promised(&genesis), None, "it listens for a cluster first");
    let actions = genesis.take(Input::Tick, GENESIS_LISTEN_MS);
    assert!(matches!(actions[..], [Action::Save(_), Action::AskAll]), "saved before it is said");
    assert_eq!(promised(&genesis), Some((3, 7)));
    // With all of them there is nothing to listen for.
    let mut all = board(5, 3);
    hears(&mut all, word(3, 7, Some((3, 7))), 100);
    hears(&mut all, word(4, 0, None), 101);
    assert_eq!(promised(&all), Some((3, 7)));
}

#[test]
fn a_smaller_board_without_a_mind_is_waited_for_but_not_for_ever() {
    let mut genesis = board(5, 3);
    hears(&mut genesis, word(3, 0, None), 100);
    hears(&mut genesis, word(4, 0, None), 100);
    assert_eq!(promised(&genesis), None);
    hears(&mut genesis, word(3, 0, Some((9, 0))), 200);
    hears(&mut genesis, word(4, 0, None), GENESIS_LISTEN_MS + 99);
    assert_eq!(promised(&genesis), None);
    genesis.take(Input::Tick, GENESIS_LISTEN_MS + 100);
    assert_eq!(promised(&genesis), Some((5, 0)));
}

#[test]
fn who_is_heard_one_way_only_is_not_there() {
    let mut genesis = board(5, 3);
    genesis.take(Input::Asked(word(3, 0, None)), 0);
    genesis.take(Input::Asked(word(4, 0, None)), 0);
    genesis.take(Input::Tick, GENESIS_LISTEN_MS);
    assert_eq!(promised(&genesis), None);
    // Nor who was heard long ago.
    let mut late = board(5, 3);
    hears(&mut late, word(3, 0, None), 0);
    late.take(Input::Tick, GENESIS_SILENCE_MS + 1);
    assert_eq!(promised(&late), None);
}

#[test]
fn a_majority_of_promises_founds() {
    let mut genesis = board(1, 3);
    hears(&mut genesis, word(2, 0, None), 0);
    genesis.take(Input::Tick, GENESIS_LISTEN_MS);
    assert_eq!(promised(&genesis), Some((1, 0)));
    let stale = genesis.take(Input::Asked(word(2, 0, Some((1, 9)))), 3_100);
    assert!(!stale.contains(&Action::Found), "a promise to another round");
    let actions = genesis.take(Input::Asked(word(2, 0, Some((1, 0)))), 3_200);
    assert_eq!(actions.last(), Some(&Action::Found));
    assert!(matches!(&actions[0], Action::Save(record) if record.founding));
    // Nothing takes it back, not even a smaller board.
    assert_eq!(hears(&mut genesis, word(0, 0, None), 3_300), []);
    assert_eq!(promised(&genesis), Some((1, 0)));
}

#[test]
fn a_smaller_board_makes_it_give_up_and_release() {
    let mut genesis = board(2, 3);
    hears(&mut genesis, word(3, 0, None), 0);
    genesis.take(Input::Tick, GENESIS_LISTEN_MS);
    assert_eq!(promised(&genesis), Some((2, 0)));
    hears(&mut genesis, word(1, 4, None), 3_500);
    assert_eq!(promised(&genesis), Some((2, 0)), "it does not stand");
    hears(&mut genesis, word(1, 4, Some((1, 4))), 3_500);
    assert_eq!((promised(&genesis), genesis.word().round), (Some((1, 4)), 1));
    // A promise that was on its way counts no more, and is handed back.
    let actions = genesis.take(Input::Asked(word(3, 0, Some((2, 0)))), 3_600);
    assert!(!actions.contains(&Action::Found));
    let actions = genesis.take(Input::Asked(word(3, 0, Some((2, 1)))), 3_700);
    assert!(matches!(actions[0], Action::Save(_)));
    assert_eq!(genesis.word().round, 2);
}

#[test]
fn only_the_candidate_releases() {
    let mut genesis = board(5, 3);
    hears(&mut genesis, word(3, 2, Some((3, 2))), 0);
    genesis.take(Input::Tick, GENESIS_LISTEN_MS);
    assert_eq!(promised(&genesis), Some((3, 2)));
    // A smaller board is no reason, nor is silence; it is told once.
    hears(&mut genesis, word(1, 0, Some((1, 0))), 4_000);
    assert_eq!(promised(&genesis), Some((3, 2)));
    let later = genesis.take(Input::Tick, GENESIS_LISTEN_MS + GENESIS_SILENCE_MS + 4_000);
    assert!(later.contains(&Action::Warn(Warning::Waits { name: "b3".into() })), "{later:?}");
    hears(&mut genesis, word(1, 0, Some((1, 0))), 20_000);
    hears(&mut genesis, word(3, 3, Some((1, 0))), 20_000);
    assert_eq!(promised(&genesis), Some((1, 0)));
}

#[test]
fn a_cluster_wins_over_founding() {
    let mut genesis = board(1, 3);
    let founded = FoundedV1 { pin: [7; 32], leader: None };
    let answer = GenesisAnswerV1 { word: None, founded: Some(founded.clone()) };
    let actions = genesis.take(Input::Answered(answer), 0);
    assert_eq!(actions[0], Action::Join(founded.clone()));
    hears(&mut genesis, word(2, 0, Some((1, 0))), GENESIS_LISTEN_MS);
    assert_eq!(promised(&genesis), None, "it decides nothing meanwhile");
    genesis.take(Input::JoinFailed, 4_000);
    assert_eq!(promised(&genesis), Some((1, 0)));
    assert!(genesis.take(Input::Cluster(founded), 5_000).is_empty(), "it has founded itself");
}

#[test]
fn boards_that_expect_another_number_do_not_count() {
    let mut genesis = board(5, 3);
    let other = GenesisWordV1 { expect: 5, ..word(3, 0, None) };
    let actions = hears(&mut genesis, other.clone(), 0);
    assert!(actions.contains(&Action::Warn(Warning::Expects { name: "b3".into(), boards: 5 })));
    assert_eq!(hears(&mut genesis, other, 1), [], "told once");
    genesis.take(Input::Tick, GENESIS_LISTEN_MS);
    assert_eq!(promised(&genesis), None);
}

#[test]
fn more_boards_than_expected_need_a_majority_of_all() {
    let mut genesis = board(1, 3);
    for number in 2..=5 {
        genesis.take(Input::Asked(word(number, 0, None)), 0);
    }
    hears(&mut genesis, word(2, 0, Some((1, 0))), 10);
    let actions = genesis.take(Input::Tick, GENESIS_LISTEN_MS);
    assert!(!actions.contains(&Action::Found), "two of five");
    let actions = hears(&mut genesis, word(3, 0, Some((1, 0))), GENESIS_LISTEN_MS + 1);
    assert!(actions.contains(&Action::Found));
}
