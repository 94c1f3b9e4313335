//! Tables of the judgement, and a walk with an oracle.

use super::*;

const GONE: u64 = CONTACT_GONE_MILLIS;
const SILENCE: u64 = CONTACT_SILENCE_MILLIS;
const GRACE: u64 = CONTACT_GRACE_MILLIS;
const CONFIRM: u64 = CONTACT_CONFIRM_MILLIS;

/// What happens to the board `pi`.
#[derive(Clone, Copy)]
enum Step {
    Node,
    NodeGone,
    Heard,
    Connected,
    Gone,
}
use Step::*;

/// Name, steps at their times, end, judgement at the end.
type Case<'a> = (&'a str, &'a [(u64, Step)], u64, Contact);

/// The book after these steps at these times, judged whenever it asked for it.
fn book_at(steps: &[(u64, Step)], end: u64) -> ContactBook {
    let mut book = ContactBook::new(Patience::default());
    let judge_until = |book: &mut ContactBook, until: u64| {
        while let Some(deadline) = book.deadline().filter(|deadline| *deadline <= until) {
            book.judge(deadline);
        }
    };
    for (at, step) in steps {
        judge_until(&mut book, *at);
        match step {
            Node => book.node_exists("pi", *at),
            NodeGone => book.node_gone("pi"),
            Heard => drop(book.heard("pi", *at)),
            Connected => book.connected("pi"),
            Gone => book.gone("pi", *at),
        }
    }
    judge_until(&mut book, end);
    book
}

#[test]
fn silence_is_judged_at_its_time() {
    use Contact as Is;
    let table: &[Case] = &[
        ("in grace", &[(0, Node)], GRACE + CONFIRM - 1, Is::Unjudged),
        ("never heard", &[(0, Node)], GRACE + CONFIRM, Is::Lost),
        ("a Node made later", &[(5_000, Node)], GRACE + CONFIRM, Is::Unjudged),
        ("heard", &[(0, Node), (100, Heard)], SILENCE, Is::Heard),
        ("silent", &[(0, Node), (100, Heard)], 100 + SILENCE + CONFIRM, Is::Lost),
        ("only suspected", &[(0, Node), (100, Heard)], 99 + SILENCE + CONFIRM, Is::Heard),
        ("cut off", &[(0, Node), (0, Heard), (100, Gone)], 100 + GONE, Is::Lost),
        ("not yet", &[(0, Node), (0, Heard), (100, Gone)], 99 + GONE, Is::Heard),
        ("back in time", &[(0, Node), (0, Heard), (100, Gone), (900, Connected)], 5_000, Is::Heard),
        ("under way", &[(0, Node), (0, Heard), (100, Gone), (110, Heard)], 100 + GONE, Is::Lost),
        (
            "back too late",
            &[(0, Node), (0, Heard), (100, Gone), (5_000, Connected), (5_010, Heard)],
            9_000,
            Is::Heard,
        ),
        (
            "connected says nothing",
            &[(0, Node), (0, Heard), (100, Gone), (900, Connected)],
            SILENCE + CONFIRM,
            Is::Lost,
        ),
        ("lost and heard", &[(0, Node), (20_000, Heard)], 20_000, Is::Heard),
        ("gone before it was heard", &[(0, Node), (10, Gone)], 10 + GONE, Is::Unjudged),
        ("no Node any more", &[(0, Node), (20_000, NodeGone)], 20_000, Is::Unjudged),
        (
            "saved by what was under way",
            &[(0, Node), (0, Heard), (9_100, Heard)],
            15_000,
            Is::Heard,
        ),
    ];
    for (name, steps, end, expected) in table {
        assert_eq!(book_at(steps, *end).contact("pi"), *expected, "{name}");
    }
}

#[test]
fn a_judge_that_overslept_judges_nobody() {
    let mut book = ContactBook::new(Patience::default());
    book.node_exists("pi", 0);
    book.heard("pi", 0);
    assert_eq!(book.deadline(), Some(SILENCE));
    let late = SILENCE + CONTACT_LATE_MILLIS + 1;
    assert!(book.judge(late).is_empty());
    assert_eq!(book.deadline(), Some(late + SILENCE), "a fresh period");
    assert!(book.judge(late + SILENCE).is_empty(), "suspected");
    assert_eq!(book.judge(late + SILENCE + CONFIRM), ["pi".into()]);
    assert_eq!(book.deadline(), None, "nothing to wait for");
}

#[test]
fn mass_silence_is_more_than_half() {
    for (all, lost, expected) in
        [(1, 0, false), (1, 1, true), (2, 1, false), (3, 1, false), (3, 2, true), (4, 2, false)]
    {
        let mut book = ContactBook::new(Patience::default());
        for number in 0..all {
            book.node_exists(&format!("pi-{number}"), 0);
        }
        for number in lost..all {
            book.heard(&format!("pi-{number}"), GRACE);
        }
        book.heard("a stranger", GRACE);
        book.judge(GRACE);
        book.judge(GRACE + CONFIRM);
        assert_eq!((book.mass_silence(), book.lost_of()), (expected, (lost, all)), "{lost}/{all}");
    }
}

#[test]
fn strangers_are_bounded_and_nodes_always_fit() {
    let mut book = ContactBook::new(Patience::default());
    for number in 0..CONTACT_BOARDS_MAX + 10 {
        book.heard(&format!("stranger-{number}"), 0);
    }
    book.node_exists("pi", 0);
    assert_eq!(book.seen(0).count(), CONTACT_BOARDS_MAX + 1);
    book.judge(SILENCE);
    book.judge(SILENCE + CONFIRM);
    assert_eq!(book.seen(0).count(), 1, "a stranger that fell silent is forgotten");
}

/// What the oracle knows of a board: nothing but times.
#[derive(Clone, Copy, Default)]
struct Truth {
    exists_since: u64,
    heard: Option<u64>,
    cut: Option<u64>,
    lost: bool,
}

#[test]
fn nobody_is_lost_who_spoke_and_nobody_silent_is_missed() {
    for seed in 1..=200u64 {
        let mut random = crate::controller::tests::harness::Random::seeded(seed);
        let names: Vec<String> = (0..5).map(|number| format!("pi-{number}")).collect();
        let mut book = ContactBook::new(Patience::default());
        let mut truth = [Truth::default(); 5];
        names.iter().for_each(|name| book.node_exists(name, 0));
        let mut now = 0;
        for step in 0..400 {
            now += random.below(1_200);
            while let Some(due) = book.deadline().filter(|due| *due <= now) {
                book.judge(due);
            }
            for truth in &mut truth {
                truth.lost |= truth.cut.is_some_and(|cut| now >= cut + GONE);
            }
            let (at, action) = (random.below(5) as usize, random.below(8));
            match action {
                0 => {
                    book.gone(&names[at], now);
                    if truth[at].heard.is_some() {
                        truth[at].cut.get_or_insert(now);
                    }
                }
                1 => {
                    book.connected(&names[at]);
                    truth[at].cut = None;
                }
                2 => (),
                _ => {
                    if book.contact(&names[at]) == Contact::Lost {
                        truth[at].cut = None;
                    }
                    truth[at].lost = false;
                    book.heard(&names[at], now);
                    truth[at].heard = Some(now);
                }
            }
            for (name, truth) in names.iter().zip(&mut truth) {
                let contact = book.contact(name);
                let silent = now - truth.heard.unwrap_or(truth.exists_since);
                let limit = if truth.heard.is_some() { SILENCE } else { GRACE };
                let cut = truth.cut.is_some_and(|cut| now >= cut + GONE);
                let place = format!("seed {seed} step {step}: {name} {contact:?} silent {silent}");
                if contact == Contact::Lost {
                    assert!(truth.lost || silent >= limit || cut, "{place}");
                    truth.lost = true;
                } else {
                    assert!(silent < limit + CONFIRM + 1_200, "{place}");
                    assert!(truth.heard.is_none() || !cut, "{place}");
                }
                let unjudged = truth.heard.is_none() && silent < GRACE + CONFIRM;
                assert_eq!(contact == Contact::Unjudged, unjudged, "{place}");
            }
        }
        // Everybody speaks: everything heals.
        names.iter().for_each(|name| {
            book.connected(name);
            book.heard(name, now);
        });
        assert!(book.judge(now).is_empty() && book.lost().next().is_none(), "seed {seed}");
    }
}
