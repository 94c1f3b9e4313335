//! Whether a history of concurrent clients could have come from one store that does one thing at a
//! time (linearizability, Herlihy and Wing 1990).
//!
//! The search is Wing and Gong's (1993) with Lowe's memory of configurations that led nowhere (2017):
//! take any operation that began before the first one still open returned, let it happen if the
//! register allows its answer, go on; at a dead end take back the last. Keys are independent, so each
//! is searched alone. An operation without an answer is tried last: it need not happen, so of two ways
//! to the same place the one that used fewer of them is as good as the other. Before that, versions are judged over all keys: none is given twice, none goes
//! back in time, and a list is one moment.
//!
//! A search that takes too long is a failure of its own, never a pass.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::history::{Answer, Call, History, Listing, Moment, Operation, Value, Version};

/// Configurations that one key may take.
const CONFIGURATIONS_MAX: usize = 2_000_000;
/// Operations shown around a dead end.
const SHOWN: usize = 24;
/// Stands for every value that nobody has read: they are all alike.
const UNREAD: Value = Value::MAX;

/// Why a history is not that of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The write of one value was seen at two versions: it was applied twice.
    AppliedTwice { value: Value, versions: [Version; 2] },
    /// Two writes were given the same version.
    VersionReused { version: Version, values: [Value; 2] },
    /// A write was given a smaller version than one that had been seen before it began.
    VersionWentBack { version: Version, before: Version },
    /// A value was read that nobody wrote.
    NeverWritten { key: String, value: Value },
    /// A list is older than what was seen before it was asked for.
    StaleList { version: Version, before: Version },
    /// A list does not show one moment.
    TornList { key: String, version: Version },
    /// No order of a key's operations explains their answers.
    NotLinearizable { key: String, told: String },
    /// The search was given up.
    Undecided { key: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable { key, told } => {
                write!(f, "{key} is not linearizable:\n{told}")
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// What a check went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub operations: usize,
    pub unknown: usize,
    pub configurations: usize,
}

/// Judges a history.
///
/// # Errors
/// The first thing found that one store would not have done.
pub fn check(history: &History) -> Result<Checked, Violation> {
    let versions = versions(history)?;
    check_times(history, &versions)?;
    history.listings.iter().try_for_each(|listing| check_list(history, listing, &versions))?;
    let mut checked = Checked { unknown: history.unknown(), ..Checked::default() };
    for key in history.keys() {
        let operations = of_key(history, &key);
        let initial = history.initial.get(&key).copied();
        let mut written: HashSet<Value> = initial.iter().map(|(value, _)| *value).collect();
        written.extend(operations.iter().filter_map(|operation| operation.call.value()));
        for operation in &operations {
            match operation.returned {
                Some((_, Answer::Found { value, .. })) if !written.contains(&value) => {
                    return Err(Violation::NeverWritten { key, value });
                }
                _ => {}
            }
        }
        checked.operations += operations.len();
        checked.configurations += Search::new(&operations, &versions).run(&key, initial)?;
    }
    Ok(checked)
}

/// The operations on one key; a list is a read of each.
fn of_key(history: &History, key: &str) -> Vec<Operation> {
    let own = history.operations.iter().filter(|operation| operation.key == key).cloned();
    let listed = history.listings.iter().map(|listing| {
        let answer = match listing.objects.get(key) {
            Some(&(value, version)) => Answer::Found { value, version },
            None => Answer::Missing,
        };
        Operation {
            client: listing.client,
            key: key.to_owned(),
            call: Call::Get,
            invoked: listing.invoked,
            returned: Some((listing.returned, answer)),
        }
    });
    own.chain(listed).filter(tells).collect()
}

/// A read without an answer tells nothing, and a put without a base may lose a race with another.
fn tells(operation: &Operation) -> bool {
    !matches!(
        (&operation.call, &operation.returned),
        (Call::Get, None) | (Call::Put { .. } | Call::Delete, Some((_, Answer::Conflict)))
    )
}

/// At which version each value was written, as writers and readers were told.
fn versions(history: &History) -> Result<BTreeMap<Value, Version>, Violation> {
    let told = history.operations.iter().filter_map(|operation| match operation.returned {
        Some((_, Answer::Written(version))) => Some((operation.call.value()?, version)),
        Some((_, Answer::Found { value, version })) => Some((value, version)),
        _ => None,
    });
    let listed = history.listings.iter().flat_map(|listing| listing.objects.values().copied());
    let initial = history.initial.values().copied();
    let (mut of_value, mut of_version) = (BTreeMap::new(), BTreeMap::new());
    for (value, version) in initial.chain(told).chain(listed) {
        let before = *of_value.entry(value).or_insert(version);
        if before != version {
            return Err(Violation::AppliedTwice { value, versions: [before, version] });
        }
        let other = *of_version.entry(version).or_insert(value);
        if other != value {
            return Err(Violation::VersionReused { version, values: [other, value] });
        }
    }
    for (_, _, version) in &history.marks {
        if let Some(other) = of_version.insert(*version, UNREAD) {
            return Err(Violation::VersionReused { version: *version, values: [other, UNREAD] });
        }
    }
    Ok(of_value)
}

/// Every version that anybody was told, with when; in the order of time.
fn sightings(history: &History) -> Vec<(Moment, Version)> {
    let told = history.operations.iter().filter_map(|operation| match operation.returned {
        Some((at, Answer::Written(version) | Answer::Found { version, .. })) => Some((at, version)),
        _ => None,
    });
    let listed = history.listings.iter().map(|listing| (listing.returned, listing.version));
    let marked = history.marks.iter().map(|(_, returned, version)| (*returned, *version));
    let mut all: Vec<_> = told.chain(listed).chain(marked).collect();
    all.sort_unstable();
    all
}

/// What begins after a version was seen gets a larger one.
fn check_times(history: &History, versions: &BTreeMap<Value, Version>) -> Result<(), Violation> {
    let writes = history.operations.iter().filter_map(|operation| {
        let version = *versions.get(&operation.call.value()?)?;
        Some((operation.invoked, version, true))
    });
    let lists = history.listings.iter().map(|list| (list.invoked, list.version, false));
    let marks = history.marks.iter().map(|(invoked, _, version)| (*invoked, *version, true));
    let mut begun: Vec<_> = writes.chain(lists).chain(marks).collect();
    begun.sort_unstable();
    let seen = sightings(history);
    let (mut next, mut highest) = (0, 0);
    for (invoked, version, is_write) in begun {
        while let Some((_, known)) = seen.get(next).filter(|(at, _)| *at < invoked) {
            highest = highest.max(*known);
            next += 1;
        }
        if is_write && version <= highest {
            return Err(Violation::VersionWentBack { version, before: highest });
        }
        if version < highest {
            return Err(Violation::StaleList { version, before: highest });
        }
    }
    Ok(())
}

/// A list at a version holds no newer object, and no object that was replaced by then.
fn check_list(
    history: &History,
    listing: &Listing,
    versions: &BTreeMap<Value, Version>,
) -> Result<(), Violation> {
    let torn = |key: &str, version| Violation::TornList { key: key.to_owned(), version };
    for (key, (_, shown)) in &listing.objects {
        if *shown > listing.version {
            return Err(torn(key, *shown));
        }
    }
    for operation in &history.operations {
        let written = operation.call.value().and_then(|value| versions.get(&value));
        let (Some(version), Some((_, shown))) = (written, listing.objects.get(&operation.key))
        else {
            continue;
        };
        if shown < version && *version <= listing.version {
            return Err(torn(&operation.key, *version));
        }
    }
    Ok(())
}

/// What a key holds, and the newest version that it is known to have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Register {
    value: Option<Value>,
    newest: Version,
}

impl Register {
    /// What is there after an operation; `None` when it cannot have happened here with its answer.
    fn after(self, operation: &Operation, versions: &BTreeMap<Value, Version>) -> Option<Self> {
        let version_of = |value: Value| versions.get(&value).copied();
        let at_base = |base: Version| self.value.and_then(version_of) == Some(base);
        let answer = operation.returned.map(|(_, answer)| answer);
        // A version that nobody was told is larger than the one before, and no more is known.
        let put = |value: Value| match version_of(value) {
            Some(version) if version <= self.newest => None,
            Some(newest) => Some(Self { value: Some(value), newest }),
            None => Some(Self { value: Some(UNREAD), ..self }),
        };
        match (operation.call, answer) {
            (Call::Create { value }, None | Some(Answer::Written(_))) => {
                self.value.is_none().then(|| put(value))?
            }
            (Call::Create { .. }, Some(Answer::Exists)) => self.value.map(|_| self),
            (Call::Put { value }, None | Some(Answer::Written(_))) => {
                self.value.is_some().then(|| put(value))?
            }
            (Call::Swap { value, base }, None | Some(Answer::Written(_))) => {
                at_base(base).then(|| put(value))?
            }
            (Call::Swap { base, .. }, Some(Answer::Conflict)) => {
                (self.value.is_some() && !at_base(base)).then_some(self)
            }
            (Call::Delete, None | Some(Answer::Deleted)) => {
                self.value.map(|_| Self { value: None, ..self })
            }
            (Call::Get, Some(Answer::Found { value, .. })) => {
                (self.value == Some(value)).then_some(self)
            }
            (_, Some(Answer::Missing)) => self.value.is_none().then_some(self),
            _ => None,
        }
    }
}

/// A beginning or an end in the list of what is still to be ordered.
#[derive(Clone, Copy)]
struct Entry {
    operation: usize,
    is_call: bool,
    previous: usize,
    next: usize,
}

/// A set of operations.
type Bits = Vec<u64>;

/// Which operations have happened, and every such configuration that was met before.
struct Met {
    answered: Bits,
    unanswered: Bits,
    /// By what was answered and what the register holds: the sets of unanswered operations with which
    /// that was met.
    before: HashMap<(Bits, Register), Vec<Bits>>,
    count: usize,
}

impl Met {
    fn new(operations: usize) -> Self {
        let none = vec![0; operations.div_ceil(64)];
        Self { answered: none.clone(), unanswered: none, before: HashMap::new(), count: 0 }
    }

    fn has(&self, unanswered: usize) -> bool {
        self.unanswered[unanswered / 64] & 1 << (unanswered % 64) != 0
    }

    fn flip(&mut self, operation: usize, is_answered: bool) {
        let bits = if is_answered { &mut self.answered } else { &mut self.unanswered };
        bits[operation / 64] ^= 1 << (operation % 64);
    }

    fn take_back(&mut self, operation: usize, is_answered: bool) {
        self.flip(operation, is_answered);
    }

    /// Adds an operation that leaves the register so, unless this place was met before with no more
    /// unanswered operations: what came to nothing there comes to nothing here.
    fn goes_on(&mut self, operation: usize, is_answered: bool, register: Register) -> bool {
        self.flip(operation, is_answered);
        let sets = self.before.entry((self.answered.clone(), register)).or_default();
        let own = &self.unanswered;
        let within = |set: &Bits| set.iter().zip(own).all(|(set, own)| set & !own == 0);
        if sets.iter().any(within) {
            self.flip(operation, is_answered);
            return false;
        }
        sets.push(own.clone());
        self.count += 1;
        true
    }
}

/// The search over one key.
struct Search<'a> {
    operations: &'a [Operation],
    versions: &'a BTreeMap<Value, Version>,
    /// A doubly linked list; the first entry is its head and its end.
    entries: Vec<Entry>,
    /// Entries of each operation: its call and, if it returned, its return.
    places: Vec<(usize, Option<usize>)>,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation], versions: &'a BTreeMap<Value, Version>) -> Self {
        let mut events: Vec<(Moment, bool, usize)> = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            events.push((operation.invoked, true, index));
            events.extend(operation.returned.map(|(at, _)| (at, false, index)));
        }
        // At one moment calls come first: what touches may overlap.
        events.sort_unstable_by_key(|(at, is_call, index)| (*at, !is_call, *index));
        let mut entries = vec![Entry { operation: 0, is_call: false, previous: 0, next: 0 }];
        let mut places = vec![(0, None); operations.len()];
        for (number, (_, is_call, operation)) in events.iter().enumerate() {
            let at = number + 1;
            entries.push(Entry {
                operation: *operation,
                is_call: *is_call,
                previous: number,
                next: 0,
            });
            entries[number].next = at;
            entries[0].previous = at;
            match is_call {
                true => places[*operation].0 = at,
                false => places[*operation].1 = Some(at),
            }
        }
        Self { operations, versions, entries, places }
    }

    fn unlink(&mut self, at: usize) {
        let Entry { previous, next, .. } = self.entries[at];
        self.entries[previous].next = next;
        self.entries[next].previous = previous;
    }

    fn relink(&mut self, at: usize) {
        let Entry { previous, next, .. } = self.entries[at];
        self.entries[previous].next = at;
        self.entries[next].previous = at;
    }

    fn lift(&mut self, operation: usize) {
        let (call, back) = self.places[operation];
        self.unlink(call);
        if let Some(back) = back {
            self.unlink(back);
        }
    }

    fn lower(&mut self, operation: usize) {
        let (call, back) = self.places[operation];
        if let Some(back) = back {
            self.relink(back);
        }
        self.relink(call);
    }

    /// Which unanswered operation must be used before this one: the one before it of those that do
    /// the same. Which of them happened, nobody could tell.
    fn twins(&self) -> Vec<Option<usize>> {
        let mut last: BTreeMap<u8, usize> = BTreeMap::new();
        let mut order: Vec<usize> = (0..self.operations.len()).collect();
        order.sort_by_key(|index| self.places[*index].0);
        let mut twins = vec![None; self.operations.len()];
        for index in order {
            let operation = &self.operations[index];
            let unread = |value: Value| !self.versions.contains_key(&value);
            let class = match operation.call {
                _ if operation.returned.is_some() => continue,
                Call::Delete => 0,
                Call::Put { value } if unread(value) => 1,
                Call::Create { value } if unread(value) => 2,
                _ => continue,
            };
            twins[index] = last.insert(class, index);
        }
        twins
    }

    /// Gives how many configurations were met.
    fn run(mut self, key: &str, initial: Option<(Value, Version)>) -> Result<usize, Violation> {
        let answered: Vec<bool> = self.operations.iter().map(|it| it.returned.is_some()).collect();
        let twins = self.twins();
        let mut open = answered.iter().filter(|answered| **answered).count();
        let mut register = match initial {
            Some((value, newest)) => Register { value: Some(value), newest },
            None => Register::default(),
        };
        let mut met = Met::new(self.operations.len());
        let mut order: Vec<(usize, Register)> = Vec::new();
        let mut longest: Vec<usize> = Vec::new();
        // Those with an answer are tried first, then those without.
        let (mut at, mut tries_answered) = (self.entries[0].next, true);
        while open > 0 {
            let Entry { operation, is_call, next, .. } = self.entries[at];
            if at == 0 || !is_call {
                // Something returned before anything else could happen.
                if tries_answered {
                    (at, tries_answered) = (self.entries[0].next, false);
                    continue;
                }
                let Some((last, before)) = order.pop() else {
                    let told = self.tell(&longest);
                    return Err(Violation::NotLinearizable { key: key.to_owned(), told });
                };
                register = before;
                met.take_back(last, answered[last]);
                open += usize::from(answered[last]);
                self.lower(last);
                (at, tries_answered) = (self.entries[self.places[last].0].next, answered[last]);
                continue;
            }
            let is_next = answered[operation] == tries_answered
                && twins[operation].is_none_or(|twin| met.has(twin));
            let after = is_next
                .then(|| register.after(&self.operations[operation], self.versions))
                .flatten();
            let Some(after) = after.filter(|after| met.goes_on(operation, tries_answered, *after))
            else {
                at = next;
                continue;
            };
            if met.count > CONFIGURATIONS_MAX {
                return Err(Violation::Undecided { key: key.to_owned() });
            }
            order.push((operation, register));
            register = after;
            open -= usize::from(tries_answered);
            self.lift(operation);
            (at, tries_answered) = (self.entries[0].next, true);
            if order.len() > longest.len() {
                longest = order.iter().map(|(operation, _)| *operation).collect();
            }
        }
        Ok(met.count)
    }

    /// The end of the longest order that was found, and what did not fit behind it.
    fn tell(&self, longest: &[usize]) -> String {
        let mut told = String::from("  possible so far, in this order:\n");
        for operation in &longest[longest.len().saturating_sub(SHOWN)..] {
            told += &format!("    {}\n", self.operations[*operation]);
        }
        told += "  and then none of these:\n";
        let mut rest: Vec<_> =
            (0..self.operations.len()).filter(|index| !longest.contains(index)).collect();
        rest.sort_by_key(|index| self.operations[*index].invoked);
        for operation in rest.iter().take(SHOWN) {
            told += &format!("    {}\n", self.operations[*operation]);
        }
        told
    }
}
