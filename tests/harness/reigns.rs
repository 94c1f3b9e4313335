//! Whether two leaders ever acted at once.
//!
//! All boards of a trial share one kernel and so one clock since boot. Whoever follows a leader leaves
//! a trace with its reign (epoch and term) and the time: a board that applied a desired set says so in
//! its log, a client knows when its write was accepted and, by its version, in which reign. Put in
//! order over all boards and clients, a reign never decreases. An event that has a length (a write
//! between call and answer) is judged by the side that proves something: it acts at its beginning at
//! the earliest, and surely has acted at its end. A board begins with a desired set right before it asks
//! whether its leader still leads, and ends when the set is on its disk.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::BTreeMap;
use std::fmt;

use crate::history::Moment;
use crate::writers::Accepted;

/// What an agent logs when it has applied what a leader told it.
const APPLIED: &str = "desired set applied";
/// What a master logs when its reign begins to act.
const BEGAN: &str = "reign began";

/// Epoch and term.
pub type Reign = (u64, u64);

/// Something that happened because a leader said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub reign: Reign,
    /// Not before.
    pub from: Moment,
    /// Not after.
    pub to: Moment,
    pub what: String,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reign, from, to, what } = self;
        let (from, to) = (from / 1_000_000, to / 1_000_000);
        write!(f, "{from}..{to} ms, epoch {} term {}: {what}", reign.0, reign.1)
    }
}

/// The desired sets that a board applied, from its log.
pub fn applied(board: &str, log: &str) -> Vec<Act> {
    let lines = log.lines().filter(|line| line.contains(APPLIED));
    let act = |line: &str| {
        Some(Act {
            reign: reign(line)?,
            from: field(line, "taken_ms")? * 1_000_000,
            to: field(line, "applied_ms")? * 1_000_000 + 999_999,
            what: format!("{board} applied revision {}", field(line, "revision")?),
        })
    };
    lines.map(|line| act(line).unwrap_or_else(|| panic!("not understood: {line}"))).collect()
}

/// The first version of each reign, from the log of a board.
pub fn beginnings(log: &str) -> BTreeMap<u64, Reign> {
    let lines = log.lines().filter(|line| line.contains(BEGAN));
    let began = |line: &str| Some((field(line, "version")?, reign(line)?));
    lines.map(|line| began(line).unwrap_or_else(|| panic!("not understood: {line}"))).collect()
}

/// Accepted writes, each in the reign that its version lies in.
pub fn accepted(writes: &[Accepted], beginnings: &BTreeMap<u64, Reign>) -> Vec<Act> {
    let act = |write: &Accepted| {
        let (_, reign) = beginnings.range(..=write.version).next_back()?;
        let what = format!("version {} accepted", write.version);
        Some(Act { reign: *reign, from: write.invoked, to: write.returned, what })
    };
    writes.iter().filter_map(act).collect()
}

/// Every act of a reign after a later reign had acted, with what that was.
pub fn violations(acts: &[Act]) -> Vec<(Act, Act)> {
    let mut by_end: Vec<&Act> = acts.iter().collect();
    by_end.sort_by_key(|act| act.to);
    let mut by_begin: Vec<&Act> = acts.iter().collect();
    by_begin.sort_by_key(|act| act.from);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<&Act> = None;
    let mut found = Vec::new();
    for act in by_begin {
        while let Some(before) = ended.next_if(|before| before.to < act.from) {
            if highest.is_none_or(|highest| before.reign > highest.reign) {
                highest = Some(before);
            }
        }
        if let Some(later) = highest.filter(|highest| highest.reign > act.reign) {
            found.push((later.clone(), act.clone()));
        }
    }
    found
}

fn reign(line: &str) -> Option<Reign> {
    Some((field(line, "epoch")?, field(line, "term")?))
}

/// A field of a line of the log: `name=12`.
fn field(line: &str, name: &str) -> Option<u64> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}
