//! The checker itself: histories known to be good and known to be bad, and random ones of both kinds.

use std::collections::BTreeMap;

use crate::history::{Answer, Call, History, Listing, Moment, Operation, Value, Version};
use crate::linearizable::{Violation, check};
use crate::loss::{Random, seed};

use Answer::{Conflict, Deleted, Exists, Found, Missing, Written};
use Call::{Create, Delete, Get, Put, Swap};

/// One operation on key `k`: client, from, to, what, answer. No answer: unknown.
type Line = (usize, Moment, Moment, Call, Option<Answer>);

fn on(key: &str, lines: &[Line]) -> History {
    let operation = |&(client, invoked, returned, call, answer): &Line| Operation {
        client,
        key: key.to_owned(),
        call,
        invoked,
        returned: answer.map(|answer| (returned, answer)),
    };
    History { operations: lines.iter().map(operation).collect(), ..History::default() }
}

fn found(value: Value, version: Version) -> Option<Answer> {
    Some(Found { value, version })
}

fn good(lines: &[Line]) {
    if let Err(violation) = check(&on("k", lines)) {
        panic!("a good history is refused: {violation}");
    }
}

fn bad(lines: &[Line], expected: &str) {
    let violation = check(&on("k", lines)).expect_err("a bad history passes");
    let told = format!("{violation:?}");
    assert!(told.starts_with(expected), "{expected} expected: {violation}");
}

#[test]
fn one_after_the_other() {
    good(&[
        (0, 1, 2, Get, Some(Missing)),
        (0, 3, 4, Put { value: 7 }, Some(Missing)),
        (0, 5, 6, Create { value: 1 }, Some(Written(10))),
        (0, 7, 8, Create { value: 2 }, Some(Exists)),
        (0, 9, 10, Swap { value: 3, base: 9 }, Some(Conflict)),
        (0, 11, 12, Swap { value: 4, base: 10 }, Some(Written(20))),
        (0, 13, 14, Get, found(4, 20)),
        (0, 15, 16, Delete, Some(Deleted)),
        (0, 17, 18, Delete, Some(Missing)),
        (0, 19, 20, Create { value: 5 }, Some(Written(30))),
    ]);
}

#[test]
fn what_overlaps_may_come_in_any_order() {
    // Both writes and the read are open at once; the read sees the first write, which is the smaller.
    good(&[
        (0, 1, 2, Create { value: 1 }, Some(Written(10))),
        (1, 3, 20, Put { value: 2 }, Some(Written(12))),
        (2, 4, 19, Put { value: 3 }, Some(Written(11))),
        (3, 5, 18, Get, found(3, 11)),
        (3, 21, 22, Get, found(2, 12)),
    ]);
}

#[test]
fn an_unknown_write_happens_late_or_never() {
    let beginning = (0, 1, 2, Create { value: 1 }, Some(Written(10)));
    good(&[beginning, (1, 3, 0, Put { value: 2 }, None), (0, 50, 51, Get, found(1, 10))]);
    good(&[
        beginning,
        (1, 3, 0, Put { value: 2 }, None),
        (0, 50, 51, Get, found(1, 10)),
        (0, 52, 53, Get, found(2, 11)),
        (0, 54, 55, Get, found(2, 11)),
    ]);
    // Nobody read it, but it explains why the base is gone.
    good(&[
        beginning,
        (1, 3, 0, Put { value: 2 }, None),
        (0, 5, 6, Swap { value: 3, base: 10 }, Some(Conflict)),
    ]);
    good(&[beginning, (1, 3, 0, Delete, None), (0, 5, 6, Get, Some(Missing))]);
}

#[test]
fn a_stale_read() {
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 4, Put { value: 2 }, Some(Written(11))),
            (1, 5, 6, Get, found(1, 10)),
        ],
        "NotLinearizable",
    );
    // A read that nobody can have had after another reader saw the new value.
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 100, Put { value: 2 }, Some(Written(11))),
            (1, 5, 6, Get, found(2, 11)),
            (2, 7, 8, Get, found(1, 10)),
        ],
        "NotLinearizable",
    );
}

#[test]
fn a_lost_write() {
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 4, Swap { value: 2, base: 10 }, Some(Written(11))),
            (1, 5, 6, Swap { value: 3, base: 10 }, Some(Written(12))),
        ],
        "NotLinearizable",
    );
    bad(
        &[(0, 1, 2, Create { value: 1 }, Some(Written(10))), (1, 5, 6, Get, Some(Missing))],
        "NotLinearizable",
    );
}

#[test]
fn a_version_used_again() {
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 4, Put { value: 2 }, Some(Written(10))),
        ],
        "VersionReused",
    );
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 4, Put { value: 2 }, Some(Written(9))),
        ],
        "VersionWentBack",
    );
}

#[test]
fn versions_of_other_things_count_too() {
    let mut history = on("k", &[(0, 1, 2, Create { value: 1 }, Some(Written(10)))]);
    history.marks = vec![(3, 4, 11), (3, 5, 12)];
    assert_eq!(check(&history).map(drop), Ok(()));
    history.marks.push((6, 7, 12));
    assert!(matches!(check(&history), Err(Violation::VersionReused { version: 12, .. })));
    history.marks = vec![(3, 4, 11), (5, 6, 9)];
    let back = Violation::VersionWentBack { version: 9, before: 11 };
    assert_eq!(check(&history).map(drop), Err(back));
}

#[test]
fn a_write_applied_twice() {
    // With a version of its own each time.
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 4, Put { value: 2 }, Some(Written(11))),
            (1, 5, 6, Put { value: 3 }, Some(Written(12))),
            (1, 7, 8, Get, found(2, 13)),
        ],
        "AppliedTwice",
    );
    // And with the old one: it comes back over what replaced it.
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 0, Put { value: 2 }, None),
            (1, 5, 6, Get, found(2, 11)),
            (1, 7, 8, Put { value: 3 }, Some(Written(12))),
            (1, 9, 10, Get, found(2, 11)),
        ],
        "NotLinearizable",
    );
}

#[test]
fn a_write_that_comes_and_goes() {
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (1, 3, 0, Put { value: 2 }, None),
            (0, 5, 6, Get, found(2, 11)),
            (0, 7, 8, Get, found(1, 10)),
        ],
        "NotLinearizable",
    );
}

#[test]
fn what_was_deleted_comes_back() {
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 4, Delete, Some(Deleted)),
            (0, 5, 6, Get, found(1, 10)),
        ],
        "NotLinearizable",
    );
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (0, 3, 4, Delete, Some(Deleted)),
            (1, 5, 6, Delete, Some(Deleted)),
        ],
        "NotLinearizable",
    );
}

#[test]
fn a_refusal_without_a_reason() {
    bad(
        &[
            (0, 1, 2, Create { value: 1 }, Some(Written(10))),
            (1, 3, 4, Swap { value: 2, base: 10 }, Some(Conflict)),
        ],
        "NotLinearizable",
    );
    bad(&[(0, 1, 2, Create { value: 1 }, Some(Exists))], "NotLinearizable");
}

#[test]
fn what_was_there_before_counts() {
    let mut history = on(
        "k",
        &[
            (0, 1, 2, Get, found(5, 90)),
            (0, 3, 4, Swap { value: 1, base: 90 }, Some(Written(91))),
            (0, 5, 6, Get, found(1, 91)),
        ],
    );
    assert!(check(&history).is_err(), "nobody wrote it");
    history.initial.insert("k".to_owned(), (5, 90));
    assert!(check(&history).is_ok());
    history.initial.insert("k".to_owned(), (6, 89));
    assert!(check(&history).is_err(), "another value was there");
}

#[test]
fn a_value_out_of_nowhere() {
    bad(
        &[(0, 1, 2, Create { value: 1 }, Some(Written(10))), (1, 3, 4, Get, found(9, 11))],
        "NeverWritten",
    );
    // Of a write that had been refused.
    bad(
        &[
            (0, 1, 2, Put { value: 1 }, Some(Missing)),
            (0, 3, 4, Create { value: 2 }, Some(Written(10))),
            (1, 5, 6, Get, found(1, 11)),
        ],
        "NotLinearizable",
    );
}

fn listing(from: Moment, to: Moment, version: Version, of: &[(&str, Value, Version)]) -> Listing {
    let object =
        |&(key, value, version): &(&str, Value, Version)| (key.to_owned(), (value, version));
    let objects = of.iter().map(object).collect::<BTreeMap<_, _>>();
    Listing { client: 9, invoked: from, returned: to, version, objects }
}

#[test]
fn a_list_is_one_moment() {
    let mut history = on("a", &[(0, 1, 2, Create { value: 1 }, Some(Written(10)))]);
    history.add(on("b", &[(0, 3, 4, Create { value: 2 }, Some(Written(11)))]));
    history.add(on("a", &[(0, 5, 50, Put { value: 3 }, Some(Written(12)))]));
    history.add(on("b", &[(1, 6, 51, Put { value: 4 }, Some(Written(13)))]));
    let with = |listing: Listing| {
        let mut history = history.clone();
        history.listings.push(listing);
        check(&history).map(drop)
    };
    assert_eq!(with(listing(7, 40, 11, &[("a", 1, 10), ("b", 2, 11)])), Ok(()));
    assert_eq!(with(listing(7, 40, 12, &[("a", 3, 12), ("b", 2, 11)])), Ok(()));
    // Each key alone could be read so, both together never were.
    let torn = with(listing(7, 40, 13, &[("a", 1, 10), ("b", 4, 13)]));
    assert_eq!(torn, Err(Violation::TornList { key: "a".into(), version: 12 }));
    let newer = with(listing(7, 40, 11, &[("a", 3, 12), ("b", 2, 11)]));
    assert_eq!(newer, Err(Violation::TornList { key: "a".into(), version: 12 }));
    let stale = with(listing(60, 61, 11, &[("a", 1, 10), ("b", 2, 11)]));
    assert_eq!(stale, Err(Violation::StaleList { version: 11, before: 13 }));
    let gone = with(listing(60, 61, 13, &[("a", 3, 12)]));
    assert!(matches!(gone, Err(Violation::NotLinearizable { .. })), "{gone:?}");
}

/// A register that does one thing at a time, for random histories.
#[derive(Default)]
struct Model {
    keys: BTreeMap<String, (Value, Version)>,
    version: Version,
}

impl Model {
    fn apply(&mut self, key: &str, call: Call) -> Answer {
        let held = self.keys.get(key).copied();
        match (call, held) {
            (Create { .. }, Some(_)) => Exists,
            (Put { .. } | Swap { .. } | Delete | Get, None) => Missing,
            (Swap { base, .. }, Some((_, version))) if base != version => Conflict,
            (Get, Some((value, version))) => Found { value, version },
            (Delete, Some(_)) => {
                self.version += 1;
                self.keys.remove(key);
                Deleted
            }
            (Create { value } | Put { value } | Swap { value, .. }, _) => {
                self.version += 1;
                self.keys.insert(key.to_owned(), (value, self.version));
                Written(self.version)
            }
        }
    }
}

/// Five clients on a few keys; each operation happens somewhere between its call and its answer, and
/// some answers are lost.
fn random_history(random: &mut Random, operations: usize, keys: u64) -> History {
    let mut model = Model::default();
    let mut open: Vec<Option<(Operation, Option<Answer>)>> = vec![None; 5];
    let (mut history, mut time, mut value) = (History::default(), 0, 0);
    // The newest version of each key that any client was told.
    let mut told: BTreeMap<String, Version> = BTreeMap::new();
    while history.operations.len() < operations {
        time += 1;
        let client = random.below(5) as usize;
        match open[client].take() {
            None => {
                let key = format!("key-{}", random.below(keys));
                value += 1;
                let base = told.get(&key).copied().unwrap_or(0);
                let call = match random.below(8) {
                    0 => Create { value },
                    1 => Put { value },
                    2 | 3 => Swap { value, base },
                    4 => Delete,
                    _ => Get,
                };
                let operation = Operation { client, key, call, invoked: time, returned: None };
                open[client] = Some((operation, None));
            }
            // It happens now, or never and the answer is lost.
            Some((operation, None)) => match random.chance(5) {
                true => history.operations.push(operation),
                false => {
                    let answer = model.apply(&operation.key, operation.call);
                    open[client] = Some((operation, Some(answer)));
                }
            },
            Some((mut operation, Some(answer))) => {
                operation.returned = (!random.chance(5)).then_some((time, answer));
                if let Some((_, Written(version) | Found { version, .. })) = operation.returned {
                    let newest = told.entry(operation.key.clone()).or_default();
                    *newest = version.max(*newest);
                }
                history.operations.push(operation);
            }
        }
    }
    // Those that are still open when the history ends have no answer.
    history.operations.extend(open.into_iter().flatten().map(|(operation, _)| operation));
    history
}

#[test]
fn random_histories_of_a_real_register_pass() {
    let mut random = Random::new(seed("random_histories_of_a_real_register_pass"));
    let mut most = 0;
    for _ in 0..300 {
        let history = random_history(&mut random, 120, 3);
        match check(&history) {
            Ok(checked) => most = most.max(checked.configurations),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("at most {most} configurations a history");
}

#[test]
fn a_long_history_is_decided_soon() {
    let mut random = Random::new(seed("a_long_history_is_decided_soon"));
    let began = std::time::Instant::now();
    let history = random_history(&mut random, 6_000, 4);
    let checked = check(&history).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{checked:?} in {:.2?}", began.elapsed());
}

/// Reads of values that were replaced before the read began, put into good histories one at a time.
#[test]
fn every_stale_read_in_a_random_history_is_found() {
    let mut random = Random::new(seed("every_stale_read_in_a_random_history_is_found"));
    let mut tried = 0;
    while tried < 200 {
        let mut history = random_history(&mut random, 100, 2);
        let acknowledged = |operation: &Operation| match operation.returned {
            Some((at, Written(version))) => {
                Some((operation.key.clone(), operation.call.value()?, version, at))
            }
            _ => None,
        };
        let writes: Vec<_> = history.operations.iter().filter_map(acknowledged).collect();
        let stale = history.operations.iter().enumerate().find_map(|(index, read)| {
            let Some((at, Found { version, .. })) = read.returned else { return None };
            let (_, value, older, _) = writes.iter().find(|(key, _, older, _)| {
                *key == read.key
                    && *older < version
                    && writes.iter().any(|(other, _, newer, acknowledged)| {
                        other == key && newer > older && *acknowledged < read.invoked
                    })
            })?;
            Some((index, at, Found { value: *value, version: *older }))
        });
        let Some((index, at, answer)) = stale else { continue };
        tried += 1;
        history.operations[index].returned = Some((at, answer));
        assert!(check(&history).is_err(), "a stale read passes: {}", history.operations[index]);
    }
}

/// An acknowledged write that the register forgot.
#[test]
fn every_forgotten_write_in_a_random_history_is_found() {
    let mut random = Random::new(seed("every_forgotten_write_in_a_random_history_is_found"));
    let mut tried = 0;
    while tried < 200 {
        let mut history = random_history(&mut random, 100, 2);
        let read = history.operations.iter().find_map(|operation| match operation.returned {
            Some((_, Found { value, .. })) => Some(value),
            _ => None,
        });
        let Some(value) = read else { continue };
        tried += 1;
        // Its writer was told that nothing happened, and yet it is read.
        let writer = |operation: &&mut Operation| operation.call.value() == Some(value);
        let writer = history.operations.iter_mut().find(writer).expect("the model's own value");
        let at = writer.returned.map_or(writer.invoked + 1, |(at, _)| at);
        writer.returned = Some((at, Missing));
        assert!(check(&history).is_err(), "a forgotten write passes");
    }
}
