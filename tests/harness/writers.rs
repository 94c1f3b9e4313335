//! Writers that never stop writing, and what became of their writes.
//!
//! Each writer replaces the value of a key of its own, at whichever door answers. Around an event the
//! longest time without an accepted write is the time to the next accepted one. Afterwards a watch
//! from before the beginning shows every write that happened: none that was acknowledged may be
//! missing, none may show twice, and none of which the store said that it surely did not happen.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use kumquat::io::net;
use serde_json::Value;

use crate::clients::{Client, Doors, Sent, parsed, value_of, version_of};
use crate::history::{Answer, Call, History, Listing, Moment, now};
use crate::walk::Values;

/// Key of one more, slower writer: for pods that must be told of what it writes.
pub const TOLD: &str = "told";
/// Between two of its writes.
const TOLD_PAUSE: Duration = Duration::from_millis(200);

/// A watch is asked for so often while doors are closed.
const WATCH_TRIES: usize = 100;

/// What writers do.
#[derive(Clone)]
pub struct Plan {
    /// Where their ConfigMaps are.
    pub collection: String,
    pub writers: usize,
    /// Bytes of a write beside its value.
    pub padding: usize,
    /// Between two writes of one writer.
    pub pause: Duration,
    /// How long one waits for an answer before it turns to another door.
    pub patience: Duration,
    /// Never used twice within a cluster.
    pub values: Values,
    /// When a write was accepted last.
    pub last_accepted: Arc<AtomicU64>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub history: History,
    /// Values of writes that were refused before they could happen.
    pub refused: BTreeSet<u64>,
    /// When writes were accepted, and at which door.
    pub through: BTreeSet<(Moment, usize)>,
}

/// One accepted write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub invoked: Moment,
    pub returned: Moment,
    pub value: u64,
    pub version: u64,
}

impl Written {
    /// Accepted writes in the order of their answers.
    pub fn accepted(&self) -> Vec<Accepted> {
        let accepted = self.history.operations.iter().filter_map(|operation| {
            let (returned, Answer::Written(version)) = operation.returned? else { return None };
            let value = operation.call.value()?;
            Some(Accepted { invoked: operation.invoked, returned, value, version })
        });
        let mut accepted: Vec<_> = accepted.collect();
        accepted.sort_unstable_by_key(|accepted| accepted.returned);
        accepted
    }

    /// The longest time without an answer to an accepted write that ended after `from`, looking no
    /// further than `until`.
    pub fn longest_gap(&self, from: Moment, until: Moment) -> Duration {
        gap(self.accepted().iter().map(|accepted| accepted.returned), from, until)
    }

    /// The same of writes at one of the doors.
    pub fn longest_gap_at(&self, door: usize, from: Moment, until: Moment) -> Duration {
        let through = self.through.iter().filter(|(_, through)| *through == door);
        gap(through.map(|(at, _)| *at), from, until)
    }
}

/// The longest time between two moments of an ordered list, see [`Written::longest_gap`].
fn gap(moments: impl Iterator<Item = Moment>, from: Moment, until: Moment) -> Duration {
    let mut last = None;
    let mut longest = 0;
    for at in moments {
        if at >= from {
            let since = last.unwrap_or(from);
            longest = longest.max(at.min(until).saturating_sub(since));
        }
        if at >= until {
            return Duration::from_nanos(longest);
        }
        last = Some(at);
    }
    let open = until.saturating_sub(last.unwrap_or(from));
    Duration::from_nanos(longest.max(open))
}

/// Runs writers in a namespace until told to stop.
pub fn write(namespace: &Path, doors: &Doors, plan: &Plan, stop: &AtomicBool) -> Written {
    let written = net::inside(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let doors = Arc::new(doors.clone());
            let writers = (0..=plan.writers).map(|number| {
                let mut client = Client::new(number, doors.clone());
                client.patience = plan.patience;
                let (key, pause) = match number == plan.writers {
                    true => (TOLD.to_owned(), TOLD_PAUSE),
                    false => {
                        client.padding = plan.padding;
                        client.stays = number < doors.addresses.len();
                        (format!("writer-{number}"), plan.pause)
                    }
                };
                write_one(client, key, pause, plan, stop)
            });
            let mut written = Written::default();
            for client in crate::walk::all(writers).await {
                written.history.add(client.history);
                written.refused.extend(client.refused);
                written.through.extend(client.through);
            }
            written
        }))
    });
    written.expect("writers in the namespace")
}

async fn write_one(
    mut client: Client,
    key: String,
    pause: Duration,
    plan: &Plan,
    stop: &AtomicBool,
) -> Client {
    let mut is_there = true;
    while !stop.load(Ordering::SeqCst) {
        let value = plan.values.fetch_add(1, Ordering::SeqCst) + 1;
        let call = if is_there { Call::Put { value } } else { Call::Create { value } };
        match client.call(&plan.collection, &key, call).await {
            Some(Answer::Missing) => is_there = false,
            Some(Answer::Written(_)) => {
                is_there = true;
                plan.last_accepted.fetch_max(now(), Ordering::SeqCst);
            }
            Some(Answer::Exists) => is_there = true,
            _ => {}
        }
        tokio::time::sleep(pause).await;
    }
    client
}

/// What a watch showed of one write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub key: String,
    pub value: u64,
    pub version: u64,
}

/// What is wrong with what a watch showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Acknowledged, and not there.
    Lost(Accepted),
    /// One write shown twice.
    Twice(Shown),
    /// A version that is not larger than the one before.
    Back(Shown),
    /// The store had said that it did not happen.
    Refused(Shown),
}

/// Compares what was acknowledged with what a watch showed.
pub fn judge(written: &Written, shown: &[Shown]) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let (mut values, mut newest) = (BTreeMap::new(), 0);
    for write in shown {
        if write.version <= newest {
            wrong.push(Wrong::Back(write.clone()));
        }
        newest = newest.max(write.version);
        if values.insert(write.value, write.version).is_some() {
            wrong.push(Wrong::Twice(write.clone()));
        }
        if written.refused.contains(&write.value) {
            wrong.push(Wrong::Refused(write.clone()));
        }
    }
    let lost = |write: &&Accepted| values.get(&write.value) != Some(&write.version);
    wrong.extend(written.accepted().iter().filter(lost).copied().map(Wrong::Lost));
    wrong
}

/// All of a collection as one of the doors says.
pub async fn listed(client: &mut Client, collection: &str, within: Duration) -> Listing {
    let deadline = tokio::time::Instant::now() + within;
    while !client.list(collection).await {
        assert!(tokio::time::Instant::now() < deadline, "no door gives a list");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.history.listings.pop().expect("noted")
}

/// Everything that a watch shows from `from` up to the end of `seconds`.
///
/// # Errors
/// What the server said, when it has no such history any more.
pub async fn watched(
    client: &mut Client,
    collection: &str,
    from: u64,
    seconds: u64,
) -> Result<Vec<Shown>, String> {
    let path = format!("{collection}?watch=true&resourceVersion={from}&timeoutSeconds={seconds}");
    client.patience = Duration::from_secs(seconds + 30);
    let mut tries = WATCH_TRIES;
    let body = loop {
        match client.ask(&Method::GET, &path, None).await {
            Sent::Answered { code: 200, body } => break body,
            // Another door may be open.
            Sent::Not(_) | Sent::Answered { code: 503, .. } if tries > 0 => tries -= 1,
            other => return Err(format!("{other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut shown = Vec::new();
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let event = parsed(line);
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => shown.extend(shown_in(&event["object"])),
            Some("DELETED" | "BOOKMARK") => {}
            _ => return Err(event.to_string()),
        }
    }
    Ok(shown)
}

fn shown_in(object: &Value) -> Option<Shown> {
    let key = object["metadata"]["name"].as_str()?.to_owned();
    Some(Shown { key, value: value_of(object)?, version: version_of(object)? })
}
