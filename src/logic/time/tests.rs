//! Each rule of cluster time with the clocks that must not break it.

use super::*;

const BUILD: Timestamp = Timestamp::from_seconds(1_790_000_000);
const DAY: i64 = 24 * 3600;

fn at(days: i64) -> Timestamp {
    Timestamp::from_seconds(BUILD.seconds() + days * DAY)
}

fn id(number: u64) -> MemberId {
    MemberId(number)
}

/// A voter of three, with its own clock at `own` and those of the others as said.
fn three(own: (i64, bool), others: &[(i64, bool)]) -> ClusterTime {
    let mut time = ClusterTime::new(BUILD, BUILD, 0);
    time.voters(Some(id(1)), [id(1), id(2), id(3)].into());
    time.read(at(own.0), own.1, 0);
    for (number, (days, synced)) in (2..).zip(others) {
        let said = ClusterTimeV1 { cluster: BUILD, system: at(*days), synced: *synced };
        time.hear(id(number), said, 0);
    }
    time
}

#[test]
fn a_sole_clock_is_believed_as_far_as_it_may_be() {
    let check = |days, synced, now, standing| {
        let mut time = ClusterTime::new(BUILD, at(10), 0);
        time.read(at(days), synced, 0);
        assert_eq!((time.now(0), time.standing(0)), (at(now), standing), "{days} {synced}");
    };
    check(10, true, 10, Standing::Fine);
    check(11, false, 11, Standing::Unsynced);
    check(400, false, 400, Standing::Unsynced);
    check(7_300, true, 7_300, Standing::Fine);
    check(7_300, false, 10, Standing::Refused { days: 7_290 });
    check(-20_000, true, 10, Standing::Off { ms: -20_010 * DAY * 1_000 });
}

#[test]
fn one_clock_of_three_pushes_nobody() {
    let check = |clocks: [(i64, bool); 3], expected| {
        for turn in 0..3 {
            let [a, b, c] = [0, 1, 2].map(|at| clocks[(at + turn) % 3]);
            assert_eq!(three(a, &[b, c]).now(0), at(expected), "{clocks:?} turned by {turn}");
        }
    };
    check([(5, true), (5, true), (7_300, true)], 5);
    check([(5, false), (5, false), (-20_000, true)], 5);
    check([(-20_000, true), (5, true), (7_300, true)], 5);
    // Two that are wrong together are believed only when they say that they are synchronised.
    check([(0, false), (7_300, false), (7_300, false)], 0);
    check([(0, true), (7_300, true), (7_300, true)], 7_300);
    // A median that stands alone and is not synchronised is no reason for a long step.
    check([(0, true), (200, false), (300, false)], 0);
}

#[test]
fn less_than_a_majority_of_clocks_decides_nothing() {
    let mut time = three((5, true), &[]);
    assert_eq!(time.now(0), at(0));
    let said = ClusterTimeV1 { cluster: BUILD, system: at(5), synced: true };
    time.hear(id(9), said, 0);
    assert_eq!(time.now(0), at(0), "no voter");
    time.hear(id(2), said, 0);
    assert_eq!(time.now(0), at(5));
    // What was said long ago counts no longer.
    let mut old = three((0, true), &[(0, true), (0, true)]);
    old.read(Timestamp::from_seconds(at(0).seconds() + 3_600), true, 31_000);
    assert_eq!(old.now(31_000).seconds(), at(0).seconds() + 31);
}

#[test]
fn time_runs_on_and_never_back() {
    let mut time = three((5, true), &[(5, true), (5, true)]);
    let mut last = time.now(0);
    for (mono, days) in [(500, 5), (1_000, -900), (1_500, 3), (2_000, 7_300), (2_500, 5)] {
        time.read(at(days), true, mono);
        assert!(time.now(mono) >= last, "{mono}");
        last = time.now(mono);
    }
    assert_eq!(last.millis(), at(5).millis() + 2_500);
    time.reach(at(6), 3_000);
    assert_eq!(time.now(3_100).millis(), at(6).millis() + 100);
    time.reach(at(4), 3_200);
    assert_eq!(time.now(3_200).millis(), at(6).millis() + 200);
}

#[test]
fn a_clock_that_is_years_ahead_expires_nothing_at_once() {
    let mut time = ClusterTime::new(BUILD, BUILD, 0);
    time.read(at(300), false, 0);
    assert_eq!(time.confirmed(0), at(0), "not synchronised");
    time.read(at(300), true, 0);
    assert_eq!(time.confirmed(0), at(300));
    let running = |days: i64, mono: u64| at(days).plus_millis(mono as i64);
    time.read(at(7_300), true, 0);
    assert_eq!((time.now(0), time.confirmed(0)), (at(7_300), at(300)));
    time.read(running(7_300, TRUST_MS - 1), true, TRUST_MS - 1);
    assert_eq!(time.confirmed(TRUST_MS - 1), running(300, TRUST_MS - 1));
    time.read(running(7_300, TRUST_MS), true, TRUST_MS);
    assert_eq!(time.confirmed(TRUST_MS), running(7_300, TRUST_MS));
    // The time server is mended: an hour later certificates are judged by the right time again, and
    // cluster time has not gone back.
    time.read(running(300, TRUST_MS + 1), true, TRUST_MS + 1);
    assert_eq!(time.confirmed(TRUST_MS + 1), running(7_300, TRUST_MS + 1));
    time.read(running(300, 2 * TRUST_MS + 1), true, 2 * TRUST_MS + 1);
    assert_eq!(time.confirmed(2 * TRUST_MS + 1), running(300, 2 * TRUST_MS + 1));
    assert!(time.now(2 * TRUST_MS + 1) >= running(7_300, 2 * TRUST_MS));
    // Hours of right time are no credit for a step of years.
    time.read(running(7_300, 4 * TRUST_MS), true, 4 * TRUST_MS);
    assert_eq!(time.confirmed(4 * TRUST_MS), running(300, 4 * TRUST_MS));
    // A break starts the hour anew.
    let mut broken = ClusterTime::new(BUILD, BUILD, 0);
    broken.read(at(7_300), true, 0);
    broken.read(at(7_300), false, TRUST_MS / 2);
    broken.read(at(7_300), true, TRUST_MS);
    assert!(broken.confirmed(TRUST_MS) < at(1));
}

#[test]
fn a_restart_does_not_forget_what_was_confirmed() {
    let mut time = ClusterTime::new(BUILD, BUILD, 0);
    time.confirmed_before(at(500), 1_000);
    assert_eq!(time.confirmed(1_000), at(500));
    time.confirmed_before(at(100), 1_000);
    assert_eq!(time.confirmed(1_000), at(500));
    assert_eq!(time.now(0), BUILD, "the cluster's time is another matter");
    // Nor is it forgotten because nobody is synchronised, but mended when somebody is.
    time.read(at(100), false, 2_000);
    assert_eq!(time.confirmed(2_000).millis(), at(500).millis() + 1_000);
}

#[test]
fn nobodys_clock_counts_while_the_voters_are_not_known() {
    let mut time = ClusterTime::new(BUILD, at(1), 0);
    time.voters(None, [id(0)].into());
    time.read(at(300), true, 0);
    assert_eq!(time.now(0), at(1), "not even its own");
    time.voters(Some(id(1)), [id(1), id(2), id(3)].into());
    time.read(at(300), true, 1);
    assert_eq!(time.now(1).millis(), at(1).millis() + 1, "one of three");
    let said = ClusterTimeV1 { cluster: BUILD, system: at(2), synced: true };
    time.hear(id(2), said, 2);
    time.hear(id(3), said, 2);
    assert_eq!(time.now(2), at(2));
}

#[test]
fn what_is_said_is_what_was_read() {
    let mut time = ClusterTime::new(BUILD, at(1), 0);
    time.read(at(-20_000), true, 1_000);
    let said = time.say(3_000);
    assert_eq!(said.system.millis(), at(-20_000).millis() + 2_000);
    assert_eq!(said.cluster.millis(), at(1).millis() + 3_000);
    assert!(said.synced);
}

#[test]
fn what_was_made_before_a_board_was_off_ages_meanwhile() {
    // As every board starts: it knows nothing but its build until its log is open.
    let mut time = ClusterTime::new(BUILD, Timestamp(0), 0);
    time.resume(at(10), 0);
    assert_eq!(time.now(0), at(10));
    // It was off for ten days, and its clock is set only after a minute.
    let early = time.now(30_000);
    time.read(at(20), true, 60_000);
    assert_eq!(time.put_off(at(9), at(11)), at(11), "it ended while the board was off");
    let hour = |from: Timestamp| from.plus_millis(3_600_000);
    assert!(time.put_off(early, hour(early)) > at(20), "no time has passed since then");
    // A store that is opened again while the board is up forgets nothing of that.
    time.resume(at(15), 70_000);
    assert!(time.put_off(early, hour(early)) > at(20));
}

#[test]
fn nothing_ends_because_the_clock_was_set() {
    let minutes = |time: Timestamp, count: i64| time.plus_millis(count * 60_000);
    let mut time = ClusterTime::new(BUILD, at(10), 0);
    let made = time.now(1_000);
    let end = minutes(made, 30);
    assert_eq!(time.put_off(made, end), end);
    // Three hundred days forward within a minute: half an hour is still half an hour.
    time.read(at(310), false, 60_000);
    let skipped = at(310).millis() - at(10).plus_millis(60_000).millis();
    assert_eq!(time.put_off(made, end), end.plus_millis(skipped));
    // What was made after it lasts as long as it says, and so does what was made before a restart.
    let later = time.now(120_000);
    assert_eq!(time.put_off(later, minutes(later, 30)), minutes(later, 30));
    assert_eq!(time.put_off(at(9), at(12)), at(12));
    // A clock that drifts is no step.
    time.read(at(310).plus_millis(100_000), true, 130_000);
    assert_eq!(time.put_off(later, minutes(later, 30)), minutes(later, 30));
}
