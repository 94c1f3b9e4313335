//! How many pods a PodDisruptionBudget lets go (upstream's `disruption.go`): its status, which the
//! eviction of a pod reads and counts down.
//!
//! An eviction that was allowed counts as a pod less until the pod is seen to go, or two minutes have
//! passed. What cannot be counted (a pod whose controller is of a kind that is not served) allows
//! nothing.

use std::collections::BTreeMap;

use model::ids::{ObjectKey, Uid};
use model::timestamp::Timestamp;
use model::view::{DisruptionBudgetView, DisruptionLimit, Meta, PodView, View, kind};
use serde_json::{Map, Value, json};

use super::{Controller, Event, ObjectReference, Op, Plan};
use crate::world::{Changed, World};

const COMPONENT: &str = "controllermanager";
/// How long an allowed eviction may take to be seen (upstream's `DeletionTimeout`).
const DELETION_MILLIS: i64 = 120_000;
const CONDITION: &str = "DisruptionAllowed";

/// The controller of PodDisruptionBudgets.
#[derive(Debug)]
pub struct DisruptionController;

/// What there is and what must be.
struct Count {
    expected: i64,
    desired: i64,
    /// Pods that nobody manages, of a budget that needs to know how many there should be.
    has_unmanaged: bool,
}

impl Controller for DisruptionController {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        let key = &changed.key;
        if key.kind == kind::DISRUPTION_BUDGETS {
            keys.push(key.clone());
            return;
        }
        let budgets = world.budgets_in(&key.namespace);
        if key.kind == kind::PODS {
            let old = match &changed.old {
                Some(View::Pod(old)) => Some(old),
                _ => None,
            };
            let new = world.pod(&key.namespace, &key.name);
            if old.map(relevant) == new.map(relevant) {
                return;
            }
            let labels = || old.into_iter().chain(new).map(|pod| &pod.meta.labels);
            let chosen = budgets.filter(|budget| labels().any(|it| budget.selector.matches(it)));
            keys.extend(chosen.map(|budget| budget.meta.key(kind::DISRUPTION_BUDGETS)));
        } else if is_scaled(key) {
            let before = changed.old.as_ref().map(|old| old.meta().generation);
            if before != world.meta(key).map(|meta| meta.generation) {
                keys.extend(budgets.map(|budget| budget.meta.key(kind::DISRUPTION_BUDGETS)));
            }
        }
    }

    fn plan(&self, world: &World, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(budget) = world.budget(&key.namespace, &key.name) else { return plan };
        let pods = world.pods_in(&key.namespace);
        let pods: Vec<&PodView> =
            pods.filter(|pod| budget.selector.matches(&pod.meta.labels)).collect();
        let disrupted = disrupted(budget, &pods, now, &mut plan);
        let gone = |pod: &PodView| disrupted.contains_key(&*pod.meta.name);
        let healthy = pods
            .iter()
            .filter(|pod| pod.meta.deleting.is_none() && pod.ready_since.is_some() && !gone(pod));
        let healthy = healthy.count() as i64;
        let counted = count(world, budget, &pods);
        let status = match &counted {
            Ok(count) => {
                let allowed = match count.expected {
                    ..=0 => 0,
                    _ => (healthy - count.desired).max(0),
                };
                json!({
                    "currentHealthy": healthy, "desiredHealthy": count.desired,
                    "expectedPods": count.expected, "disruptionsAllowed": allowed,
                })
            }
            Err(_) => json!({ "disruptionsAllowed": 0 }),
        };
        if let Some(op) = report(budget, status, &disrupted, counted.as_ref().err(), now) {
            plan.ops.push(op);
            plan.ops.extend(event(budget, &pods, &counted));
        }
        plan
    }
}

/// What of a pod a budget counts.
fn relevant(pod: &PodView) -> (Uid, bool, bool, &model::view::Labels) {
    (pod.meta.uid, pod.ready_since.is_some(), pod.meta.deleting.is_some(), &pod.meta.labels)
}

fn is_scaled(key: &ObjectKey) -> bool {
    [kind::DEPLOYMENTS, kind::REPLICA_SETS, kind::REPLICATION_CONTROLLERS].contains(&key.kind)
}

/// The pods that are about to go, and since when; asks to look again when that is too long ago.
fn disrupted<'a>(
    budget: &'a DisruptionBudgetView,
    pods: &[&PodView],
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<&'a str, &'a str> {
    let status = &budget.status;
    let mut disrupted = BTreeMap::new();
    for (name, since) in &status.disrupted_pods {
        let mut pods = pods.iter().filter(|pod| *pod.meta.name == **name);
        let stays = pods.any(|pod| pod.meta.deleting.is_none());
        let due = status.disrupted_since(name).unwrap_or_default().plus_millis(DELETION_MILLIS);
        if stays && due > now {
            disrupted.insert(&**name, &**since);
            plan.again(due);
        }
    }
    disrupted
}

/// How many pods there should be, and how many must stay.
fn count(world: &World, budget: &DisruptionBudgetView, pods: &[&PodView]) -> Result<Count, String> {
    use model::view::Amount;
    let (amount, is_floor) = match budget.limit {
        DisruptionLimit::MinAvailable(Amount::Count(floor)) => {
            let expected = pods.len() as i64;
            return Ok(Count { expected, desired: floor.into(), has_unmanaged: false });
        }
        DisruptionLimit::MinAvailable(amount) => (amount, true),
        DisruptionLimit::MaxUnavailable(amount) => (amount, false),
        DisruptionLimit::Unlimited => {
            return Ok(Count { expected: 0, desired: 0, has_unmanaged: false });
        }
    };
    let (expected, has_unmanaged) = expected(world, pods)?;
    let part = i64::from(amount.of(expected, true));
    let expected = i64::from(expected);
    let desired = if is_floor { part } else { (expected - part).max(0) };
    Ok(Count { expected, desired, has_unmanaged })
}

/// The sum of what the pods' controllers want, and whether there are pods without one.
fn expected(world: &World, pods: &[&PodView]) -> Result<(u32, bool), String> {
    let mut scales: BTreeMap<Uid, u32> = BTreeMap::new();
    let mut has_unmanaged = false;
    for pod in pods {
        let Some(owner) = pod.meta.controller() else {
            has_unmanaged = true;
            continue;
        };
        let Some((uid, scale)) = scale(world, &pod.meta, owner.uid) else {
            return Err(format!("found no controllers for pod {:?}", pod.meta.name));
        };
        scales.insert(uid, scale);
    }
    Ok((scales.into_values().fold(0, u32::saturating_add), has_unmanaged))
}

/// The uppermost controller, and how many pods it wants.
fn scale(world: &World, pod: &Meta, owner: Uid) -> Option<(Uid, u32)> {
    let key = world.by_uid(owner).filter(|key| *key.namespace == *pod.namespace)?;
    let set = world.replicas(key)?;
    if set.kind != key.kind {
        return None;
    }
    let above = set.meta.controller().and_then(|above| world.by_uid(above.uid));
    let deployment = above.filter(|above| above.kind == kind::DEPLOYMENTS);
    match deployment.and_then(|key| world.deployment(&key.namespace, &key.name)) {
        Some(deployment) => Some((deployment.meta.uid, deployment.replicas)),
        None => Some((owner, set.replicas)),
    }
}

/// The change of the status, if there is one.
fn report(
    budget: &DisruptionBudgetView,
    mut status: Value,
    disrupted: &BTreeMap<&str, &str>,
    failure: Option<&String>,
    now: Timestamp,
) -> Option<Op> {
    let before = &budget.status;
    let generation = budget.meta.generation;
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or_default();
    let (word, reason) = match (failure, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, 0) => ("False", "InsufficientPods"),
        (None, _) => ("True", "SufficientPods"),
    };
    let condition = before.conditions.iter().find(|it| *it.r#type == *CONDITION);
    let number = |name: &str, before: i64| status.get(name).is_none_or(|it| *it == before);
    let same = number("disruptionsAllowed", before.disruptions_allowed)
        && number("currentHealthy", before.current_healthy)
        && number("desiredHealthy", before.desired_healthy)
        && number("expectedPods", before.expected_pods)
        && before.disrupted_pods.keys().map(|name| &**name).eq(disrupted.keys().copied())
        && (failure.is_some() || before.observed_generation == generation)
        && condition.is_some_and(|it| {
            *it.status == *word && (failure.is_some() || it.observed_generation == generation)
        });
    if same {
        return None;
    }
    let forgotten = before.disrupted_pods.keys().filter(|name| !disrupted.contains_key(&***name));
    let forgotten: Map<String, Value> =
        forgotten.map(|name| (name.to_string(), Value::Null)).collect();
    if !forgotten.is_empty() {
        status["disruptedPods"] = match disrupted.is_empty() {
            true => Value::Null,
            false => forgotten.into(),
        };
    }
    if failure.is_none() {
        status["observedGeneration"] = generation.into();
    }
    let since = condition.filter(|it| *it.status == *word).map(|it| it.since.to_string());
    status["conditions"] = json!([{
        "type": CONDITION, "status": word, "reason": reason,
        "message": failure.map_or("", String::as_str), "observedGeneration": generation,
        "lastTransitionTime": since.unwrap_or_else(|| now.to_string()),
    }]);
    Some(Op::Patch {
        key: budget.meta.key(kind::DISRUPTION_BUDGETS),
        base: budget.meta.version,
        subresource: Some("status"),
        merge: json!({ "status": status }),
    })
}

/// What people should know about a budget whose status changes.
fn event(
    budget: &DisruptionBudgetView,
    pods: &[&PodView],
    counted: &Result<Count, String>,
) -> Option<Op> {
    let (warning, reason, message) = match counted {
        Err(why) => (
            true,
            "CalculateExpectedPodCountFailed",
            format!("Failed to calculate the number of expected pods: {why}"),
        ),
        Ok(count) if count.has_unmanaged => (
            true,
            "UnmanagedPods",
            "pods without a controller are selected: set .spec.minAvailable to a number, so that \
             they are counted"
                .to_owned(),
        ),
        Ok(_) if pods.is_empty() => (false, "NoPods", "No matching pods found".to_owned()),
        Ok(_) => return None,
    };
    let about = ObjectReference::of("policy/v1", "PodDisruptionBudget", &budget.meta);
    Some(Op::Event(Event { about, warning, reason, message, component: COMPONENT }))
}
