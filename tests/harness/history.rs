//! What concurrent clients asked of one store and what they heard, for the checker in
//! `harness/linearizable.rs`.
//!
//! A key is a register with compare-and-put: a ConfigMap, whose only content is one value. Values are
//! never used twice in a history, so a value tells which write it comes from. An operation whose
//! answer never came may have happened at any later time, or never.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::BTreeMap;
use std::fmt;

/// A resourceVersion.
pub type Version = u64;
/// What a write puts into its key; unique within a history.
pub type Value = u64;
/// Nanoseconds of `CLOCK_BOOTTIME`, which all boards and clients of one machine share.
pub type Moment = u64;

/// What time it is.
pub fn now() -> Moment {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("this clock");
    let seconds = u64::try_from(time.tv_sec()).expect("after the boot");
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).expect("not negative")
}

/// What a client asks of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Makes the key; refused when it is there.
    Create { value: Value },
    /// Replaces whatever the key holds; refused when it is not there.
    Put { value: Value },
    /// Replaces exactly the version `base`.
    Swap { value: Value, base: Version },
    /// Removes the key.
    Delete,
    /// Reads the key.
    Get,
}

impl Call {
    /// The value that it writes.
    pub fn value(&self) -> Option<Value> {
        match self {
            Self::Create { value } | Self::Put { value } | Self::Swap { value, .. } => Some(*value),
            Self::Delete | Self::Get => None,
        }
    }

    /// Whether it changes anything when it happens.
    pub fn writes(&self) -> bool {
        *self != Self::Get
    }
}

/// What the store said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, at this version.
    Written(Version),
    /// Deleted.
    Deleted,
    /// The key holds this.
    Found { value: Value, version: Version },
    /// There is no such key.
    Missing,
    /// There is one already.
    Exists,
    /// The key is not at the base.
    Conflict,
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    pub client: usize,
    pub key: String,
    pub call: Call,
    pub invoked: Moment,
    /// When what was answered; `None` when no answer came, or one that tells nothing.
    pub returned: Option<(Moment, Answer)>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, call, invoked, returned } = self;
        write!(f, "[{:>13}", invoked / 1_000)?;
        match returned {
            Some((at, answer)) => {
                write!(f, " {:>13}] client {client} {key} {call:?}: {answer:?}", at / 1_000)
            }
            None => write!(f, "            ...] client {client} {key} {call:?}: unknown"),
        }
    }
}

/// All keys read at once.
#[derive(Clone, Debug)]
pub struct Listing {
    pub client: usize,
    pub invoked: Moment,
    pub returned: Moment,
    /// The version of the list itself.
    pub version: Version,
    /// What was in it.
    pub objects: BTreeMap<String, (Value, Version)>,
}

/// What several clients did.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What the keys held before.
    pub initial: BTreeMap<String, (Value, Version)>,
    pub operations: Vec<Operation>,
    pub listings: Vec<Listing>,
    /// Versions given to writes of other things, which nobody reads: when asked for, when told.
    pub marks: Vec<(Moment, Moment, Version)>,
}

impl History {
    /// Takes in what another client did.
    pub fn add(&mut self, other: Self) {
        self.initial.extend(other.initial);
        self.operations.extend(other.operations);
        self.listings.extend(other.listings);
        self.marks.extend(other.marks);
    }

    /// Every key that an operation or a list named.
    pub fn keys(&self) -> Vec<String> {
        let named = self.operations.iter().map(|operation| operation.key.clone());
        let listed = self.listings.iter().flat_map(|listing| listing.objects.keys().cloned());
        let mut keys: Vec<_> = named.chain(listed).chain(self.initial.keys().cloned()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// How many operations never had an answer.
    pub fn unknown(&self) -> usize {
        self.operations.iter().filter(|operation| operation.returned.is_none()).count()
    }
}
