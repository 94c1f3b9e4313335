//! The scheduler: filter, score, bind or reasons.
//!
//! It has the shape of a controller with a single key: one plan places all waiting pods in order of
//! priority, counting what it has just given away, so that two pods never get the same place. A pod
//! that fits nowhere is told why (condition `PodScheduled`, event `FailedScheduling`, in upstream's
//! words) once per change of the reasons, and is looked at again when a pod, a node or the pod
//! itself changes: there is no polling.
//!
//! Deliberately absent: preemption, volumes.

mod board;
mod census;
mod company;
mod score;

use std::collections::{BTreeMap, HashMap};

use model::ids::{ObjectKey, Uid};
use model::limits::PLAN_PODS_MAX;
use model::timestamp::Timestamp;
use model::view::{PodView, Scheduling, View, kind};
use serde_json::json;

use crate::controller::{Controller, Event, ObjectReference, Op, Plan};
use crate::world::{Changed, World};

use board::{Board, Refusal};
use census::Census;
use company::Company;

const COMPONENT: &str = "default-scheduler";

/// The scheduler.
#[derive(Debug)]
pub struct Scheduler;

/// The one key.
fn key() -> ObjectKey {
    ObjectKey { kind: kind::PODS, namespace: String::new(), name: String::new() }
}

impl Controller for Scheduler {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let relevant = if changed.key.kind == kind::NODES {
            !changed.gone
        } else if changed.key.kind == kind::PODS {
            let new = world.pod(&changed.key.namespace, &changed.key.name);
            let waits = new.is_some_and(|pod| pod.scheduling.is_some() && pod.active());
            let took = |pod: &PodView| !pod.node.is_empty() && !pod.finished();
            let took_before = matches!(&changed.old, Some(View::Pod(pod)) if took(pod));
            waits || (took_before && !new.is_some_and(took))
        } else {
            false
        };
        if relevant && world.pods_waiting().next().is_some() {
            keys.push(key());
        }
    }

    fn plan(&self, world: &World, _: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan { independent: true, ..Plan::default() };
        let mut waiting: Vec<(&PodView, &Scheduling)> = world
            .pods_waiting()
            .filter_map(|pod| Some((pod, pod.scheduling.as_deref()?)))
            .collect();
        if waiting.is_empty() {
            return plan;
        }
        waiting.sort_by_key(|(pod, wish)| (-wish.priority, pod.meta.created));
        let mut boards: Vec<Board<'_>> =
            world.nodes().map(|node| Board::new(node, world.pods_on(&node.meta.name))).collect();
        let mut census = Census::new(world, &boards);
        let mut refused = Refused::default();
        let mut changes = 0;
        for (pod, wish) in waiting {
            if changes == PLAN_PODS_MAX {
                // A bound pod is no reason to plan, so the rest would wait for somebody else.
                plan.again(now.plus_millis(1));
                break;
            }
            let outcome = match refused.like(pod) {
                Some(reasons) => Err(reasons),
                None => place(pod, wish, &mut boards, &mut census),
            };
            let ops = match outcome {
                Ok(node) => {
                    refused = Refused::default();
                    bind(pod, node)
                }
                Err(reasons) => {
                    refused.note(pod, &reasons);
                    explain(pod, reasons, now)
                }
            };
            changes += usize::from(!ops.is_empty());
            plan.ops.extend(ops);
        }
        plan
    }
}

/// Why pods fit nowhere, by their controller, since a pod was last placed: a thousand replicas for
/// which there is no room are looked at once.
#[derive(Default)]
struct Refused<'a>(HashMap<Uid, (&'a PodView, String)>);

impl<'a> Refused<'a> {
    fn like(&self, pod: &PodView) -> Option<String> {
        let (other, reasons) = self.0.get(&pod.meta.controller()?.uid)?;
        let same = other.scheduling == pod.scheduling
            && other.tolerations == pod.tolerations
            && other.apart == pod.apart
            && other.requests == pod.requests
            && other.host_ports == pod.host_ports
            && other.meta.labels == pod.meta.labels
            && other.meta.namespace == pod.meta.namespace;
        same.then(|| reasons.clone())
    }

    fn note(&mut self, pod: &'a PodView, reasons: &str) {
        if let Some(owner) = pod.meta.controller() {
            self.0.entry(owner.uid).or_insert_with(|| (pod, reasons.to_owned()));
        }
    }
}

/// Takes the best board that fits, or says why none does.
fn place<'a>(
    pod: &'a PodView,
    wish: &'a Scheduling,
    boards: &mut [Board<'a>],
    census: &mut Census<'a>,
) -> Result<&'a str, String> {
    let company = Company::new(pod, wish, boards, census);
    let mut refusals = Vec::new();
    let mut fitting = Vec::new();
    for (index, board) in boards.iter().enumerate() {
        match board.check(pod, wish).and_then(|()| company.check(board)) {
            Ok(()) => fitting.push(index),
            Err(refusal) => refusals.push(refusal),
        }
    }
    let Some(best) = score::best(pod, wish, boards, &fitting, &company, census) else {
        return Err(sentence(boards.len(), &refusals));
    };
    boards[best].take(pod);
    census.take(best, pod);
    Ok(boards[best].name())
}

/// Upstream's `FitError` with the answer of its preemption, which cannot help here.
fn sentence(boards: usize, refusals: &[Refusal]) -> String {
    if boards == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let mut preemption: BTreeMap<&str, usize> = BTreeMap::new();
    for refusal in refusals {
        for reason in &refusal.reasons {
            *reasons.entry(reason).or_default() += 1;
        }
        let answer = match refusal.final_for_now {
            true => "Preemption is not helpful for scheduling",
            false => "No preemption victims found for incoming pod",
        };
        *preemption.entry(answer).or_default() += 1;
    }
    let list = |counts: BTreeMap<&str, usize>| {
        let mut texts: Vec<String> =
            counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        texts.join(", ")
    };
    let intro = format!("0/{boards} nodes are available");
    format!("{intro}: {}. preemption: {intro}: {}.", list(reasons), list(preemption))
}

fn bind(pod: &PodView, node: &str) -> Vec<Op> {
    let meta = &pod.meta;
    let message = format!("Successfully assigned {}/{} to {node}", meta.namespace, meta.name);
    vec![
        Op::Bind {
            pod: meta.key(kind::PODS),
            base: meta.version,
            uid: meta.uid,
            node: node.to_owned(),
        },
        event(pod, false, "Scheduled", message),
    ]
}

fn explain(pod: &PodView, reasons: String, now: Timestamp) -> Vec<Op> {
    if pod.unschedulable.as_deref() == Some(reasons.as_str()) {
        return Vec::new();
    }
    let condition = json!([{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reasons,
        "lastProbeTime": null, "lastTransitionTime": now.to_string(),
    }]);
    vec![
        Op::Patch {
            key: pod.meta.key(kind::PODS),
            base: pod.meta.version,
            subresource: Some("status"),
            merge: json!({ "status": { "phase": "Pending", "conditions": condition } }),
        },
        event(pod, true, "FailedScheduling", reasons),
    ]
}

fn event(pod: &PodView, warning: bool, reason: &'static str, message: String) -> Op {
    Op::Event(Event {
        about: ObjectReference {
            api_version: "v1",
            kind: "Pod",
            namespace: pod.meta.namespace.to_string(),
            name: pod.meta.name.to_string(),
            uid: pod.meta.uid,
        },
        warning,
        reason,
        message,
        component: COMPONENT,
    })
}

#[cfg(test)]
mod tests;
