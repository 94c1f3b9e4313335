//! The two other judges of trials, on traces known to be good and known to be bad: whether two
//! leaders acted at once, and what became of writes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Answer, Call, History, Moment, Operation};
use crate::reigns::{self, Act, Reign};
use crate::writers::{Accepted, Shown, Written, Wrong, judge};

fn act(reign: Reign, from: Moment, to: Moment) -> Act {
    Act { reign, from, to, what: String::new() }
}

#[test]
fn reigns_that_follow_each_other_are_no_finding() {
    let acts = [act((1, 3), 0, 10), act((1, 3), 5, 20), act((1, 4), 15, 30), act((2, 1), 31, 32)];
    // The third overlaps the second: which of them was first, nobody can tell.
    assert_eq!(reigns::violations(&acts), []);
}

#[test]
fn a_leader_that_acts_after_its_successor_is_found() {
    for (late, found) in [((1, 3), 1), ((0, 9), 1), ((1, 4), 0), ((2, 0), 0)] {
        let acts = [act((1, 3), 0, 10), act((1, 4), 11, 12), act(late, 13, 90)];
        assert_eq!(reigns::violations(&acts).len(), found, "{late:?}");
    }
    // On another board, much later and out of order in the list.
    let acts = [act((1, 3), 50, 50), act((1, 4), 20, 21), act((1, 3), 10, 11)];
    assert_eq!(reigns::violations(&acts), [(acts[1].clone(), acts[0].clone())]);
}

#[test]
fn lines_of_boards_are_read() {
    let log = "\
2026-11-23T02:40:00.1Z DEBUG desired set applied revision=81 pods=1 epoch=1 term=3 taken_ms=12 applied_ms=14
2026-11-23T02:40:00.1Z  INFO something else epoch=7 term=9
2026-11-23T02:40:00.2Z  INFO reign began epoch=1 term=4 version=1048576 boottime_ms=13
";
    let [applied] = &reigns::applied("board-1", log)[..] else { panic!("one line") };
    assert_eq!((applied.reign, applied.from, applied.to), ((1, 3), 12_000_000, 14_999_999));
    let beginnings = reigns::beginnings(log);
    assert_eq!(beginnings, BTreeMap::from([(1_048_576, (1, 4))]));
    let accepted = |version| Accepted { invoked: 1, returned: 2, value: 1, version };
    let acts = reigns::accepted(&[accepted(1_048_575), accepted(1_048_577)], &beginnings);
    assert_eq!(acts.iter().map(|act| act.reign).collect::<Vec<_>>(), [(1, 4)]);
}

fn write(value: u64, invoked: Moment, returned: Option<(Moment, u64)>) -> Operation {
    Operation {
        client: 0,
        key: "writer-0".to_owned(),
        call: Call::Put { value },
        invoked,
        returned: returned.map(|(at, version)| (at, Answer::Written(version))),
    }
}

fn written(operations: Vec<Operation>) -> Written {
    let history = History { operations, ..History::default() };
    Written { history, refused: [9].into(), ..Written::default() }
}

fn shown(value: u64, version: u64) -> Shown {
    Shown { key: "writer-0".to_owned(), value, version }
}

#[test]
fn what_a_watch_shows_of_writes_is_judged() {
    let written = written(vec![
        write(1, 10, Some((11, 100))),
        write(2, 12, None),
        write(3, 14, Some((15, 102))),
    ]);
    let all = [shown(1, 100), shown(2, 101), shown(3, 102)];
    assert_eq!(judge(&written, &all), []);
    assert_eq!(judge(&written, &[shown(1, 100), shown(3, 102)]), [], "an unknown one may be lost");
    let lost = Accepted { invoked: 14, returned: 15, value: 3, version: 102 };
    assert_eq!(judge(&written, &all[..2]), [Wrong::Lost(lost)]);
    // At another version than its writer was told.
    let moved = judge(&written, &[shown(1, 100), shown(3, 103)]);
    assert_eq!(moved, [Wrong::Lost(lost)]);
    let twice = judge(&written, &[shown(1, 100), shown(3, 102), shown(1, 103)]);
    assert_eq!(twice[0], Wrong::Twice(shown(1, 103)));
    assert_eq!(
        judge(&written, &[all[0].clone(), all[2].clone(), shown(9, 104)]),
        [Wrong::Refused(shown(9, 104))]
    );
    let back = judge(&written, &[shown(3, 102), shown(1, 100)]);
    assert_eq!(back, [Wrong::Back(shown(1, 100))]);
}

#[test]
fn the_time_to_the_next_accepted_write_is_the_longest_gap() {
    let accepted = [10, 20, 30, 400, 410].map(|at| write(at, at - 5, Some((at, at))));
    let written = written(accepted.to_vec());
    let gap = |from, until| written.longest_gap(from, until).as_nanos();
    assert_eq!(gap(25, 500), 370, "from the last one before");
    assert_eq!(gap(405, 1_000), 590, "open until the end");
    assert_eq!(gap(25, 300), 270);
    assert_eq!(gap(0, 30), 10);
    assert_eq!(Written::default().longest_gap(5, 10), Duration::from_nanos(5));
}
