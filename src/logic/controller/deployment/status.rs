//! What a Deployment reports: counts and the conditions `Available` and `Progressing`, worded as
//! upstream words them, because `kubectl rollout status` and `kubectl wait` read them.

use model::timestamp::Timestamp;
use model::view::{Condition, DeploymentStatus, ReplicasView, kind};
use serde_json::{Value, json};

use super::super::{Op, Plan};
use super::{Family, rolling};

/// What `kubectl rollout status` fails at.
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// Whether every wished pod is of the present template and available, and no other is left.
pub(super) fn complete(family: &Family<'_>) -> bool {
    let deployment = family.deployment;
    completes(family, &deployment.status)
}

fn completes(family: &Family<'_>, status: &DeploymentStatus) -> bool {
    let wished = family.deployment.replicas;
    family.new.is_some()
        && status.updated_replicas == wished
        && status.replicas == wished
        && status.available_replicas == wished
        && status.observed_generation >= family.deployment.meta.generation
}

/// Plans a status update when what is reported is no longer true.
pub(super) fn report(family: &Family<'_>, now: Timestamp, plan: &mut Plan) {
    let deployment = family.deployment;
    let before = &deployment.status;
    let mut status = counts(family);
    let wished = vec![
        available(family, &status),
        progressing(family, &status, now, plan),
        replica_failure(family),
    ];
    let known = ["Available", "Progressing", "ReplicaFailure"];
    let others = before.conditions.iter().filter(|it| !known.contains(&&*it.r#type));
    status.conditions = others.cloned().collect();
    for condition in wished.into_iter().flatten() {
        let old = before.conditions.iter().find(|it| it.r#type == condition.r#type);
        status.conditions.push(stamp(condition, old, now));
    }
    status.conditions.sort_by(|a, b| a.r#type.cmp(&b.r#type));
    let mut sorted_before = before.clone();
    sorted_before.conditions.sort_by(|a, b| a.r#type.cmp(&b.r#type));
    if status == sorted_before {
        return;
    }
    plan.reports = plan.ops.is_empty() && status.observed_generation == before.observed_generation;
    plan.ops.push(Op::Patch {
        key: deployment.meta.key(kind::DEPLOYMENTS),
        base: deployment.meta.version,
        subresource: Some("status"),
        merge: json!({ "status": to_value(&status) }),
    });
}

fn to_value(status: &DeploymentStatus) -> Value {
    // Zero is absent, as upstream's omitempty.
    let count = |count: u32| if count == 0 { Value::Null } else { count.into() };
    json!({
        "replicas": count(status.replicas),
        "updatedReplicas": count(status.updated_replicas),
        "readyReplicas": count(status.ready_replicas),
        "availableReplicas": count(status.available_replicas),
        "unavailableReplicas": count(status.unavailable_replicas),
        "terminatingReplicas": status.terminating_replicas,
        "observedGeneration": status.observed_generation,
        "conditions": status.conditions,
    })
}

fn counts(family: &Family<'_>) -> DeploymentStatus {
    let sum = |of: fn(&ReplicasView) -> u32| {
        family.all().fold(0_u32, |sum, set| sum.saturating_add(of(set)))
    };
    let available = sum(|set| set.status.available_replicas);
    DeploymentStatus {
        replicas: sum(|set| set.status.replicas),
        updated_replicas: family.new.map_or(0, |set| set.status.replicas),
        ready_replicas: sum(|set| set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: sum(|set| set.replicas).saturating_sub(available),
        terminating_replicas: terminating(family),
        observed_generation: family.deployment.meta.generation,
        collision_count: family.deployment.status.collision_count,
        conditions: Vec::new(),
    }
}

/// Unknown while one of the sets has not said it.
fn terminating(family: &Family<'_>) -> Option<u32> {
    family
        .all()
        .try_fold(0_u32, |sum, set| Some(sum.saturating_add(set.status.terminating_replicas?)))
}

/// What keeps a set from making its pods: of the newest set, else of any.
fn replica_failure(family: &Family<'_>) -> Option<Condition> {
    let failure = |set: &ReplicasView| {
        let mut conditions = set.status.conditions.iter();
        conditions.find(|it| &*it.r#type == "ReplicaFailure").cloned()
    };
    let found = family.new.and_then(failure);
    let mut found = found.or_else(|| family.old.iter().find_map(|set| failure(set)))?;
    found.last_update_time = found.last_transition_time.clone();
    Some(found)
}

fn condition(kind: &str, status: &str, reason: &str, message: String) -> Option<Condition> {
    Some(Condition {
        r#type: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        ..Condition::default()
    })
}

/// Times of a condition: those of `old` when nothing changed, else now.
fn stamp(mut condition: Condition, old: Option<&Condition>, now: Timestamp) -> Condition {
    let text: Box<str> = now.to_string().into();
    let old = old.filter(|old| old.status == condition.status);
    condition.last_transition_time =
        old.map_or_else(|| text.clone(), |old| old.last_transition_time.clone());
    let same = old.filter(|old| old.reason == condition.reason && old.message == condition.message);
    if condition.last_update_time.is_empty() {
        condition.last_update_time = same.map_or(text, |old| old.last_update_time.clone());
    }
    condition
}

fn available(family: &Family<'_>, status: &DeploymentStatus) -> Option<Condition> {
    let deployment = family.deployment;
    let least = deployment.replicas - rolling::tolerated(deployment);
    if status.available_replicas >= least {
        let message = "Deployment has minimum availability.";
        condition("Available", "True", "MinimumReplicasAvailable", message.into())
    } else {
        let message = "Deployment does not have minimum availability.";
        condition("Available", "False", "MinimumReplicasUnavailable", message.into())
    }
}

fn progressing(
    family: &Family<'_>,
    status: &DeploymentStatus,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Condition> {
    let deployment = family.deployment;
    let deadline_seconds = deployment.progress_deadline_seconds?;
    let is = |status, reason, message| condition("Progressing", status, reason, message);
    let old = deployment.status.conditions.iter().find(|it| &*it.r#type == "Progressing");
    let timed_out = old.is_some_and(|old| &*old.reason == TIMED_OUT);
    if deployment.paused && !timed_out {
        return is("Unknown", "DeploymentPaused", "Deployment is paused".into());
    }
    if old.is_some_and(|old| &*old.reason == "DeploymentPaused") {
        return is("Unknown", "DeploymentResumed", "Deployment is resumed".into());
    }
    let Some(new) = family.new else { return old.cloned() };
    let name = &new.meta.name;
    let of_this_set = old.filter(|old| {
        old.message.contains(&format!("\"{name}\"")) && &*old.reason != "ReplicaSetCreateError"
    });
    let done = of_this_set.is_some_and(|old| &*old.reason == "NewReplicaSetAvailable");
    if done || completes(family, status) {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        return is("True", "NewReplicaSetAvailable", message);
    }
    let Some(old) = of_this_set else {
        let again = new.meta.annotations.get(super::REVISION_HISTORY).is_some();
        return if again {
            is("True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\""))
        } else {
            is("True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""))
        };
    };
    let before = &deployment.status;
    let rest = |it: &DeploymentStatus| it.replicas.saturating_sub(it.updated_replicas);
    let moved = status.updated_replicas > before.updated_replicas
        || rest(status) < rest(before)
        || status.ready_replicas > before.ready_replicas
        || status.available_replicas > before.available_replicas;
    if moved {
        // A new time even though the words stay: the deadline counts from the last progress.
        let mut fresh =
            is("True", "ReplicaSetUpdated", format!("ReplicaSet \"{name}\" is progressing."))?;
        fresh.last_update_time = now.to_string().into();
        return Some(fresh);
    }
    if timed_out {
        return Some(old.clone());
    }
    let since = Timestamp::parse(&old.last_update_time).unwrap_or(now);
    let due = since.plus_millis(i64::from(deadline_seconds) * 1_000);
    if due <= now {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        return is("False", TIMED_OUT, message);
    }
    plan.again(due);
    Some(old.clone())
}
