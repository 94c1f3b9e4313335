//! Histories of concurrent clients of the REST API of three masters, judged by the checker of
//! `tests/linear`.
//!
//! Clients read, list, create, replace with and without a version and delete a few ConfigMaps at every
//! board's door, while the leader is frozen, cut off, made deaf or mute, or killed. Others sit on the
//! leader's own board, which no fault of a wire keeps from it: what they ask of a leader that was deposed
//! and has not noticed must not be answered from the past. Most of those wait for that moment, on open
//! connections: their requests lie at a frozen leader until it goes on. All clients tell each other which
//! versions they saw.
//!
//! Reads with `resourceVersion=0` may be old by their contract: there are none. One history per fault
//! here; `cargo xtask soak api-histories` makes many.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use kumquat::io::net;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::bed::{Bed, Stopping};
use crate::board::rounds;
use crate::cell::Fault;
use crate::clients::{Client, Doors};
use crate::history::{Answer, Call, History, Operation, now};
use crate::linearizable::{Checked, check};
use crate::loss::{Random, seed};
use crate::walk::{Seen, Step, Values, Walk, all};
use crate::writers;

const FAULTS: [Fault; 4] = [Fault::Frozen, Fault::LinkDown, Fault::OneWay, Fault::Killed];
const MASTERS: u8 = 3;
const KEYS: u64 = 6;
/// Between two things that happen to a history.
const QUIET: Duration = Duration::from_millis(800);
/// When another master leads at the earliest.
const LED_AFTER: Duration = Duration::from_millis(700);
/// Accepted writes before a fault and while it lasts.
const WRITES: usize = 12;
/// For anything, on a machine that is busy.
const WITHIN: Duration = Duration::from_secs(120);
/// How soon a client in a pause notices that all is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How a client asks.
#[derive(Clone, Copy)]
struct Habit {
    /// How long it waits for an answer.
    patience: Duration,
    /// Its longest pause between two steps.
    pause_millis: u64,
    /// Whether it opens its connection and then waits until another master may lead.
    lurks: bool,
}

/// At the doors, one board after the other.
const CALLER: Habit =
    Habit { patience: Duration::from_millis(1_500), pause_millis: 100, lurks: false };
/// On the leader's board: asks again and again.
const RESTLESS: Habit =
    Habit { patience: Duration::from_millis(400), pause_millis: 150, lurks: false };
/// On the leader's board: asks when a deposed leader knows the least, and waits for what it says.
const LURKING: Habit = Habit { patience: Duration::from_secs(6), pause_millis: 300, lurks: true };
const CALLERS: [Habit; 6] = [CALLER; 6];
const LURKERS: usize = 8;
const INMATES: [Habit; LURKERS + 2] = {
    let mut habits = [LURKING; LURKERS + 2];
    (habits[0], habits[1]) = (RESTLESS, RESTLESS);
    habits
};

/// What all clients of a history share.
struct Shared {
    collection: String,
    values: Values,
    seen: Seen,
    /// How many of those that lurk have their connection.
    lurking: AtomicUsize,
    /// How many writes were accepted at the doors.
    written: AtomicUsize,
    /// Another master may lead.
    late: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    /// Whether so many writes were accepted since there were `before` that most keys have changed.
    fn has_written(&self, before: usize) -> bool {
        self.written.load(Ordering::SeqCst) >= before + WRITES
    }

    /// Waits for so long, or until all is over.
    async fn pause(&self, most: Duration) {
        let until = Instant::now() + most;
        while Instant::now() < until && !self.stop.load(Ordering::SeqCst) {
            sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }
}

#[test]
fn clients_of_three_masters_under_faults_see_one_store() {
    let Some(mut bed) = Bed::bare("histories", MASTERS, false) else { return };
    let mut random = Random::new(seed("histories"));
    let began = Instant::now();
    let count = rounds(FAULTS.len());
    let mut sum = Checked::default();
    for number in 0..count {
        let fault = FAULTS[number % FAULTS.len()];
        let checked = one(&mut bed, number, fault, &mut random);
        sum.operations += checked.operations;
        sum.unknown += checked.unknown;
        sum.configurations += checked.configurations;
    }
    println!("{count} histories in {:.1?}: {sum:?}", began.elapsed());
}

/// One history with one fault, in a namespace of its own: a write of an earlier one may still happen.
fn one(bed: &mut Bed, number: usize, fault: Fault, random: &mut Random) -> Checked {
    bed.wait_well();
    let leader = bed.leader();
    let namespace = json!({"metadata": {"name": format!("history-{number}")}});
    bed.api(&Method::POST, "/api/v1/namespaces", Some(&namespace));
    let shared = Shared {
        collection: format!("/api/v1/namespaces/history-{number}/configmaps"),
        values: Values::default(),
        seen: Seen::default(),
        lurking: AtomicUsize::new(0),
        written: AtomicUsize::new(0),
        late: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    };
    let (outside, inside) = (bed.cluster.switch.namespace().to_owned(), bed.doors.clone());
    let board = bed.cluster.boards[leader].namespace().to_owned();
    let own = bed.doors.at(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 6443))]);
    let seeds = [random.next(), random.next()];
    let (mut history, from, healed) = std::thread::scope(|scope| {
        let stopping = Stopping(&shared.stop);
        let callers = scope.spawn(|| walk(&outside, inside, 0, &CALLERS, seeds[0], &shared));
        let inmates = scope.spawn(|| walk(&board, own, CALLERS.len(), &INMATES, seeds[1], &shared));
        until("everybody is there", || {
            shared.lurking.load(Ordering::SeqCst) == LURKERS && shared.has_written(0)
        });
        let from = now();
        fault.inflict(&mut bed.cluster.boards[leader], number / FAULTS.len());
        let before = shared.written.load(Ordering::SeqCst);
        if fault != Fault::Frozen {
            // One that is cut off knows by itself soon after another one leads.
            std::thread::sleep(LED_AFTER);
            shared.late.store(true, Ordering::SeqCst);
        }
        until("another master writes", || shared.has_written(before));
        // What is sent to a frozen one by now it answers when it goes on.
        shared.late.store(true, Ordering::SeqCst);
        std::thread::sleep(QUIET);
        let healed = now();
        fault.heal(&mut bed.cluster.boards[leader]);
        std::thread::sleep(QUIET);
        drop(stopping);
        let mut history = callers.join().expect("callers");
        history.add(inmates.join().expect("inmates"));
        (history, from, healed)
    });
    // What everybody can read at the end belongs to it.
    let last = bed.client(0, |mut client| async move {
        writers::listed(&mut client, &shared.collection, WITHIN).await
    });
    history.listings.push(last);
    let checked = check(&history).unwrap_or_else(|violation| {
        panic!(
            "history {number}, {fault:?} from {} to {}: {violation}",
            from / 1_000,
            healed / 1_000
        )
    });
    let on_board = |operation: &&Operation| {
        operation.client >= CALLERS.len() && (from..healed).contains(&operation.invoked)
    };
    let on_board = history.operations.iter().filter(on_board).count();
    println!("history {number}, {fault:?}: {checked:?}, {on_board} asked on its board meanwhile");
    checked
}

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Runs clients in a network namespace until told to stop; each stays at its door.
fn walk(
    namespace: &Path,
    doors: Doors,
    first: usize,
    habits: &[Habit],
    seed: u64,
    shared: &Shared,
) -> History {
    let walked = net::inside(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let (doors, mut random) = (Arc::new(doors), Random::new(seed));
            let walks = habits.iter().enumerate().map(|(number, habit)| {
                let mut client = Client::new(number, Arc::clone(&doors));
                (client.number, client.stays) = (first + number, true);
                client.patience = habit.patience;
                let random = Random::new(random.next());
                let walk = Walk::new(random, shared.values.clone(), KEYS).knowing(&shared.seen);
                walk_one(client, walk, *habit, shared)
            });
            let mut history = History::default();
            for walked in all(walks).await {
                history.add(walked);
            }
            history
        }))
    });
    walked.expect("clients in the namespace")
}

async fn walk_one(mut client: Client, mut walk: Walk, habit: Habit, shared: &Shared) -> History {
    if habit.lurks {
        while client.call(&shared.collection, "key-0", Call::Get).await.is_none()
            && !shared.stop.load(Ordering::SeqCst)
        {
            // Handshakes that are given up and begun anew are all that a busy machine would do.
            sleep(QUIET).await;
        }
        shared.lurking.fetch_add(1, Ordering::SeqCst);
        while !shared.late.load(Ordering::SeqCst) && !shared.stop.load(Ordering::SeqCst) {
            sleep(LOOK_EVERY).await;
        }
    }
    while !shared.stop.load(Ordering::SeqCst) {
        match walk.next() {
            Step::One(key, call) => {
                let answer = client.call(&shared.collection, &key, call).await;
                walk.heard(&key, answer);
                if let Some(Answer::Written(_)) = answer
                    && client.number < CALLERS.len()
                {
                    shared.written.fetch_add(1, Ordering::SeqCst);
                }
            }
            Step::List => {
                client.list(&shared.collection).await;
            }
        }
        shared.pause(Duration::from_millis(1 + walk.pause(habit.pause_millis))).await;
    }
    client.history
}
