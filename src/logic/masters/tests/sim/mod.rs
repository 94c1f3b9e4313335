//! Whole clusters under faults, in virtual time: the real policy, genesis and cluster time on a model
//! of Raft.
//!
//! A seed is a cluster with its faults. At each step nothing forbidden may be seen from outside
//! (`checks`); after the healing all must be as wished within two minutes, and stay so. A failing
//! seed is printed; `KUMQUAT_SIM_SEED=<seed> cargo test -p kumquat-logic one_seed -- --nocapture`
//! replays it and tells what happens, `KUMQUAT_SIM_SEEDS=<count>` runs more of them.
//!
//! The simulation can fail: [`Mutant`]s are mistakes in the model around the real parts, one by one,
//! and each must be found.

mod board;
mod checks;
mod driver;
mod faults;
mod random;
mod replica;
mod words;
mod world;

/// A mistake in what is around the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// A change of voters leaves one out.
    EvenVoters,
    /// A voter goes before its replacement is there.
    RemoveBeforeAdd,
    /// From one configuration to another without the joint one.
    NotJoint,
    /// A board founds as soon as it stands.
    FoundsWithoutMajority,
    /// What a board promised does not survive a crash.
    PromiseForgotten,
    /// The id of a new member is one more than the others'.
    IdReused,
    /// A leader acts without looking when it was last acknowledged.
    ExpiredAck,
    /// The lease is five times as long as votes are held back.
    LongLease,
    /// Learners count for majorities.
    LearnersCount,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs a share of the seeds; the shares run side by side.
fn share(which: u64) {
    let seeds = number("KUMQUAT_SIM_SEEDS").unwrap_or(10_000);
    let (mut failed, mut virtual_ms, mut lost) = (Vec::new(), 0, 0);
    for seed in (0..seeds).filter(|seed| seed % 4 == which) {
        match world::run(seed, Mutant::None, false) {
            Ok(end) => {
                virtual_ms += end.ms;
                lost += u64::from(end.lost);
            }
            Err(problem) => failed.push(problem),
        }
        assert!(failed.len() < 3, "{}", failed.join("\n\n"));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    println!("{} seeds, {} virtual hours, {lost} lost", seeds / 4, virtual_ms / 3_600_000);
    assert!(lost <= 2 + seeds / 500, "{lost} clusters moved their votes to lost replicas");
}

#[test]
fn clusters_survive_first_share() {
    share(0);
}

#[test]
fn clusters_survive_second_share() {
    share(1);
}

#[test]
fn clusters_survive_third_share() {
    share(2);
}

#[test]
fn clusters_survive_fourth_share() {
    share(3);
}

#[test]
fn one_seed_replays() {
    let seed = number("KUMQUAT_SIM_SEED").unwrap_or(1);
    let once = world::run(seed, Mutant::None, std::env::var_os("KUMQUAT_SIM_SEED").is_some());
    let again = world::run(seed, Mutant::None, false);
    assert_eq!(once, again, "the same seed is another walk");
    once.unwrap_or_else(|problem| panic!("{problem}"));
}

/// The mistake is found, and by what should find it.
fn check(mutant: Mutant, expected: &str) {
    let mut others = Vec::new();
    for seed in 0..4_000 {
        if let Err(problem) = world::run(seed, mutant, false) {
            if problem.contains(expected) {
                println!("{mutant:?}: {problem}");
                return;
            }
            others.push(problem);
        }
    }
    panic!("{mutant:?} is not found; only {others:?}");
}

#[test]
fn mistakes_are_found() {
    check(Mutant::EvenVoters, "voters");
    check(Mutant::RemoveBeforeAdd, "voters");
    check(Mutant::NotJoint, "without a joint step");
    check(Mutant::FoundsWithoutMajority, "two founders");
    check(Mutant::PromiseForgotten, "two founders");
    check(Mutant::IdReused, "again on");
}

#[test]
fn mistakes_in_leases_and_votes_are_found() {
    check(Mutant::ExpiredAck, "acts after");
    check(Mutant::LongLease, "acts after");
    check(Mutant::LearnersCount, "");
}
