//! Histories of concurrent clients of a group under faults, judged by the checker of `tests/linear`.
//!
//! Three real stores with real engines, a network that loses, doubles, delays and cuts, and boards
//! whose power fails: what they had not synced is gone. Each history is five clients on six keys of a
//! namespace of its own, with one fault from the seed; then everything is healed and read. A client
//! asks any store that says that it leads: whoever was deposed and has not noticed is asked too, and
//! must not answer from the past.
//!
//! `KUMQUAT_SOAK_ROUNDS` sets how many histories there are, `KUMQUAT_SEED` from which seed.

#[path = "../../../../../tests/harness/history.rs"]
mod history;
#[path = "../../../../../tests/harness/linearizable.rs"]
mod linearizable;
#[path = "../../../../../tests/harness/loss.rs"]
mod loss;
#[path = "../../../../../tests/harness/walk.rs"]
mod walk;

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::ids::{ObjectKey, Version};
use model::masters::MemberId;
use tokio::time::{sleep, timeout};

use super::LARGE_LOG;
use super::bed::{Bed, Weather};
use crate::io::store::tests::{delete, key, put};
use crate::io::store::{Base, ListRange, Mandate, Op, ProposeError, Record, Store};
use history::{Answer, Call, History, Listing, Operation, now};
use linearizable::check;
use loss::Random;
use walk::{Step, Values, Walk};

/// Histories where nobody asks for more.
const HISTORIES: usize = 60;
/// Groups that go through histories side by side.
const BEDS: usize = 3;
const CLIENTS: usize = 5;
const KEYS: u64 = 6;
/// Of one client in one history.
const STEPS: usize = 14;
const KIND: &str = "/configmaps";
/// A client that hears nothing for so long does not know what became of its request.
const PATIENCE: Duration = Duration::from_secs(3);
/// A client gives up looking for a leader, and so its remaining steps.
const LEADERLESS_MAX: Duration = Duration::from_secs(15);
/// A client's longest pause between two steps: a history lasts as long as a fault takes to be noticed.
const PAUSE_MILLIS: u64 = 70;

/// What happens during a history.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    /// The leader's power fails, or a follower's, or everybody's.
    LeaderOff,
    FollowerOff,
    AllOff,
    /// The leader hears nobody and nobody hears it; or only one of both.
    LeaderCut,
    LeaderDeaf,
    LeaderMute,
    FollowerCut,
    Handover,
    Storm,
}

const FAULTS: [Fault; 10] = [
    Fault::Nothing,
    Fault::LeaderOff,
    Fault::FollowerOff,
    Fault::AllOff,
    Fault::LeaderCut,
    Fault::LeaderDeaf,
    Fault::LeaderMute,
    Fault::FollowerCut,
    Fault::Handover,
    Fault::Storm,
];

/// Stores as clients find them: boards come and go.
type Doors = Arc<RwLock<Vec<Option<Store>>>>;

/// What a store said.
enum Told {
    Answer(Answer),
    /// It surely did not happen.
    Nothing,
    Unknown,
}

/// Sorts the outcome of a proposal; a conflict is for the caller.
fn told(error: &ProposeError) -> Told {
    match error {
        ProposeError::NotLeading { .. } | ProposeError::Late | ProposeError::NoSpace => {
            Told::Nothing
        }
        _ => Told::Unknown,
    }
}

fn body(value: u64) -> Bytes {
    Bytes::from(format!(r#"{{"n":{value}}}"#))
}

fn value_of(record: &Record) -> u64 {
    let text = std::str::from_utf8(&record.body).expect("text");
    let digits = text.trim_start_matches(r#"{"n":"#).trim_end_matches('}');
    digits.parse().expect("a value")
}

/// One operation at a store that says that it leads, as the registry would do it.
async fn one(store: &Store, mandate: &Mandate, at: ObjectKey, call: Call) -> Told {
    let base = match call {
        Call::Create { .. } => Base::Absent,
        Call::Swap { base, .. } => Base::At(Version(base)),
        Call::Put { .. } | Call::Delete | Call::Get => {
            if mandate.confirm().await.is_err() {
                return Told::Nothing;
            }
            match (store.get(&at), call) {
                (Err(_), _) => return Told::Nothing,
                (Ok(None), _) => return Told::Answer(Answer::Missing),
                (Ok(Some(found)), Call::Get) => {
                    let version = found.version.0;
                    return Told::Answer(Answer::Found { value: value_of(&found), version });
                }
                (Ok(Some(found)), _) => Base::At(found.version),
            }
        }
    };
    let op: Op = match call.value() {
        Some(value) => put(at, base, body(value)),
        None => delete(at, base),
    };
    match store.of(mandate).propose(vec![op]).await {
        Ok(_) if call == Call::Delete => Told::Answer(Answer::Deleted),
        Ok(committed) => Told::Answer(Answer::Written(committed.versions[0].0)),
        Err(ProposeError::Conflict { current, .. }) => match (call, current) {
            (Call::Create { .. }, Some(_)) => Told::Answer(Answer::Exists),
            (Call::Swap { .. }, Some(_)) => Told::Answer(Answer::Conflict),
            (Call::Swap { .. }, None) => Told::Answer(Answer::Missing),
            // Somebody was quicker than the read before it.
            _ => Told::Nothing,
        },
        Err(error) => told(&error),
    }
}

/// All keys at once.
async fn list(store: &Store, mandate: &Mandate, namespace: &str) -> Option<Listing> {
    let invoked = now();
    mandate.confirm().await.ok()?;
    let range = ListRange {
        kind: KIND.into(),
        namespace: Some(namespace.to_owned()),
        after: None,
        limit: 100,
    };
    let page = store.list(&range).ok()?;
    let object = |record: &Record| (record.key.name.clone(), (value_of(record), record.version.0));
    let objects = page.records.iter().map(object).collect();
    let version = page.version.0;
    Some(Listing { client: 0, invoked, returned: now(), version, objects })
}

/// A client and the store that it uses.
struct Client {
    number: usize,
    doors: Doors,
    at: usize,
    history: History,
}

impl Client {
    /// The store that it uses, or the next one that says that it leads.
    fn store(&mut self) -> Option<(Store, Mandate)> {
        let doors = self.doors.read().expect("whole");
        for tried in 0..doors.len() {
            let at = (self.at + tried) % doors.len();
            let Some(store) = &doors[at] else { continue };
            let mandate = store.reign().borrow().clone();
            if let Some(mandate) = mandate {
                self.at = at;
                return Some((store.clone(), mandate));
            }
        }
        None
    }

    /// Writes something that lives in the leader's memory: only its version is of interest.
    async fn mark(&mut self, store: &Store, mandate: &Mandate, namespace: &str, name: &str) {
        let invoked = now();
        let event = put(key("/events", namespace, name), Base::Any, body(0));
        let written = timeout(PATIENCE, store.of(mandate).propose_memory(vec![event])).await;
        if let Ok(Ok(committed)) = written {
            self.history.marks.push((invoked, now(), committed.versions[0].0));
        }
    }

    /// Takes a step; false when nobody led.
    async fn step(&mut self, namespace: &str, walk: &mut Walk) -> bool {
        if walk.pause(1) == 0 {
            // Another one that says that it leads, if there are two.
            self.at += 1;
        }
        let Some((store, mandate)) = self.store() else { return false };
        if walk.pause(4) == 0 {
            self.mark(&store, &mandate, namespace, &format!("e{}", self.number)).await;
        }
        let (name, call) = match walk.next() {
            Step::One(name, call) => (name, call),
            Step::List => {
                match timeout(PATIENCE, list(&store, &mandate, namespace)).await {
                    Ok(Some(listing)) => self.history.listings.push(listing),
                    _ => self.at += 1,
                }
                return true;
            }
        };
        let invoked = now();
        let asked = one(&store, &mandate, key(KIND, namespace, &name), call);
        let answer = match timeout(PATIENCE, asked).await {
            Ok(Told::Answer(answer)) => Some(answer),
            Ok(Told::Nothing) => {
                self.at += 1;
                walk.heard(&name, None);
                return true;
            }
            Ok(Told::Unknown) | Err(_) => {
                self.at += 1;
                None
            }
        };
        walk.heard(&name, answer);
        let returned = answer.map(|answer| (now(), answer));
        let client = self.number;
        self.history.operations.push(Operation { client, key: name, call, invoked, returned });
        true
    }

    async fn run(mut self, namespace: String, mut walk: Walk) -> History {
        let mut led = Instant::now();
        let mut steps = 0;
        while steps < STEPS && led.elapsed() < LEADERLESS_MAX {
            if self.step(&namespace, &mut walk).await {
                led = Instant::now();
                steps += 1;
            }
            sleep(Duration::from_millis(1 + walk.pause(PAUSE_MILLIS))).await;
        }
        self.history
    }
}

fn open(bed: &Bed, doors: &Doors) {
    let stores = bed.seats.iter().map(|seat| seat.store.clone()).collect();
    *doors.write().expect("whole") = stores;
}

/// Switches boards off and on again after a while.
async fn off(bed: &mut Bed, doors: &Doors, which: &[usize], random: &mut Random) {
    for nth in which {
        doors.write().expect("whole")[*nth] = None;
        bed.kill(*nth).await;
    }
    sleep(Duration::from_millis(random.below(400))).await;
    for nth in which {
        bed.start(*nth).await;
    }
    open(bed, doors);
}

/// Cuts what `cuts` says between a board and the two others for a while.
async fn cut(bed: &Bed, nth: usize, (from, to): (bool, bool), random: &mut Random) {
    let id = |nth: usize| -> MemberId { bed.seats[nth % 3].id };
    for other in [nth + 1, nth + 2] {
        if from {
            bed.net.cut(id(nth), id(other));
        }
        if to {
            bed.net.cut(id(other), id(nth));
        }
    }
    sleep(Duration::from_millis(300 + random.below(900))).await;
    bed.net.heal();
}

async fn inflict(bed: &mut Bed, doors: &Doors, fault: Fault, random: &mut Random) {
    sleep(Duration::from_millis(random.below(80))).await;
    let (leader, _) = bed.leader(20).await;
    let follower = (leader + 1 + random.below(2) as usize) % 3;
    match fault {
        Fault::Nothing => {}
        Fault::LeaderOff => off(bed, doors, &[leader], random).await,
        Fault::FollowerOff => off(bed, doors, &[follower], random).await,
        Fault::AllOff => off(bed, doors, &[0, 1, 2], random).await,
        Fault::LeaderCut => cut(bed, leader, (true, true), random).await,
        Fault::LeaderDeaf => cut(bed, leader, (false, true), random).await,
        Fault::LeaderMute => cut(bed, leader, (true, false), random).await,
        Fault::FollowerCut => cut(bed, follower, (true, true), random).await,
        Fault::Handover => {
            if let Some(group) = &bed.seats[leader].group {
                group.hand_over(None).await;
            }
        }
        Fault::Storm => {
            bed.net.weather(Weather { lost: 150, doubled: 100, delay_ms: 60 });
            sleep(Duration::from_millis(300 + random.below(600))).await;
            bed.net.weather(Weather::default());
        }
    }
}

/// One history; gives how many operations it had and how many of them without an answer.
async fn history_of(bed: &mut Bed, doors: &Doors, seed: u64) -> (usize, usize) {
    let (began, mut random) = (Instant::now(), Random::new(seed));
    let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
    let (namespace, values) = (format!("h{seed}"), Values::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let at = random.below(3) as usize;
            let client = Client { number, doors: doors.clone(), at, history: History::default() };
            let walk = Walk::new(Random::new(random.next()), values.clone(), KEYS);
            tokio::spawn(client.run(namespace.clone(), walk))
        })
        .collect();
    inflict(bed, doors, fault, &mut random).await;
    let mut history = History::default();
    for client in clients {
        history.add(client.await.expect("a client does not panic"));
    }
    // What everybody can read at the end belongs to it.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (leader, mandate) = bed.leader(20).await;
        let store = bed.seats[leader].store.clone().expect("it leads");
        if let Some(listing) = list(&store, &mandate, &namespace).await {
            history.listings.push(listing);
            break;
        }
        assert!(Instant::now() < deadline, "nobody answers after everything is healed");
        sleep(Duration::from_millis(20)).await;
    }
    match check(&history) {
        Ok(checked) => {
            println!("seed {seed}, {fault:?}: {checked:?} in {:.1?}", began.elapsed());
            (checked.operations, checked.unknown)
        }
        Err(violation) => panic!("seed {seed}, {fault:?}: {violation}"),
    }
}

/// A group that goes through histories until there are no more.
async fn go_through(mut seeds: std::ops::Range<u64>) -> (usize, usize) {
    let mut bed = Bed::new(seeds.start, LARGE_LOG).await;
    bed.grow([2, 3], LARGE_LOG).await;
    let doors: Doors = Arc::default();
    open(&bed, &doors);
    let (mut operations, mut unknown) = (0, 0);
    for seed in &mut seeds {
        let (more, open) = history_of(&mut bed, &doors, seed).await;
        (operations, unknown) = (operations + more, unknown + open);
    }
    bed.stop().await;
    (operations, unknown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_of_a_group_under_faults_see_one_store() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("KUMQUAT_SEED").unwrap_or(1);
    let count = number("KUMQUAT_SOAK_ROUNDS").unwrap_or(HISTORIES as u64);
    let each = count.div_ceil(BEDS as u64);
    let began = Instant::now();
    let beds: Vec<_> = (0..BEDS as u64)
        .map(|bed| first + bed * each..first + ((bed + 1) * each).min(count))
        .filter(|seeds| !seeds.is_empty())
        .map(|seeds| tokio::spawn(go_through(seeds)))
        .collect();
    let (mut operations, mut unknown) = (0, 0);
    for bed in beds {
        let (more, open) = bed.await.expect("no history is broken");
        (operations, unknown) = (operations + more, unknown + open);
    }
    println!(
        "{count} histories, {operations} operations, {unknown} unknown, {:.1?}",
        began.elapsed()
    );
}
