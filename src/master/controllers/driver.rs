//! The loop: plan what is due, commit, back off where that failed.

use logic::controller::Op;
use model::ids::ObjectKey;
use model::status::ApiError;
use model::view::kind;
use tokio::sync::watch;

use super::views::{Planned, Views, Work};
use crate::io::store::StoreError;
use crate::master::registry::{CommitError, Registry};

/// Why the driver ended; the role ends with it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The store takes no more writes.
    #[error("controllers cannot write")]
    Store(#[source] CommitError),
}

/// Runs the controllers until `shutdown` turns true.
///
/// # Errors
/// When the store is closed or failed under it.
pub async fn run(
    views: Views,
    registry: Registry,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), DriverError> {
    loop {
        if *shutdown.borrow() {
            return Ok(());
        }
        let plans = views.plan_due();
        if !plans.is_empty() {
            match commit_all(&views, &registry, plans).await {
                Err(_) if *shutdown.borrow() => return Ok(()),
                result => result?,
            }
            continue;
        }
        // Cancel safety: both arms only wait.
        tokio::select! {
            () = views.due() => (),
            changed = shutdown.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Commits the plans together; if that fails, each by itself.
async fn commit_all(
    views: &Views,
    registry: &Registry,
    plans: Vec<Planned>,
) -> Result<(), DriverError> {
    if plans.len() > 1 {
        let ops = plans.iter().flat_map(|planned| planned.plan.ops.iter().cloned()).collect();
        match registry.commit(ops).await {
            Ok(_) => {
                plans.iter().for_each(|planned| views.succeeded(&planned.work));
                return Ok(());
            }
            Err(error @ CommitError::Closed) => return Err(DriverError::Store(error)),
            // A reign that is over ends this loop with its role: until then the work waits.
            Err(CommitError::NoSpace | CommitError::NotLeading | CommitError::Late) => {
                for planned in plans {
                    views.failed(planned.work);
                }
                return Ok(());
            }
            Err(CommitError::Conflict | CommitError::Rejected(_)) => (),
        }
    }
    for planned in plans {
        commit_one(views, registry, planned).await?;
    }
    Ok(())
}

async fn commit_one(
    views: &Views,
    registry: &Registry,
    planned: Planned,
) -> Result<(), DriverError> {
    let Planned { work, plan } = planned;
    let mut outcome = attempt(registry, plan.ops.clone()).await?;
    let groups = if plan.independent { groups(plan.ops) } else { Vec::new() };
    if outcome != Outcome::Done && groups.len() > 1 {
        outcome = Outcome::Done;
        for group in groups {
            match attempt(registry, group).await? {
                Outcome::Done => (),
                failed => outcome = failed,
            }
        }
    }
    match outcome {
        Outcome::Done => views.succeeded(&work),
        Outcome::Overtaken => {
            views.failed(work);
        }
        Outcome::Refused(error) => refused(views, registry, work, &error).await?,
    }
    Ok(())
}

async fn refused(
    views: &Views,
    registry: &Registry,
    work: Work,
    error: &ApiError,
) -> Result<(), DriverError> {
    let ops = views.refused(&work, error);
    let (controller, object) = (views.controller(&work), work.1.to_string());
    // The first refusals may be a race (a namespace that is not there yet).
    if views.failed(work) == 3 {
        tracing::warn!(controller, object, %error, "the API refuses what a controller wants");
    }
    if !ops.is_empty() {
        attempt(registry, ops).await?;
    }
    Ok(())
}

#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Done,
    Overtaken,
    Refused(ApiError),
}

async fn attempt(registry: &Registry, ops: Vec<Op>) -> Result<Outcome, DriverError> {
    match registry.commit(ops).await {
        Ok(_) => Ok(Outcome::Done),
        Err(
            CommitError::Conflict
            | CommitError::NoSpace
            | CommitError::NotLeading
            | CommitError::Late,
        ) => Ok(Outcome::Overtaken),
        // Something of that name was made meanwhile, or the object is gone: plan again.
        Err(CommitError::Rejected(error)) if matches!(error.code, 404 | 409) => {
            Ok(Outcome::Overtaken)
        }
        // A store that is closed or failed shows as an internal error of whatever it was read for.
        Err(error @ CommitError::Rejected(_)) if broken(registry) => Err(DriverError::Store(error)),
        Err(CommitError::Rejected(error)) => Ok(Outcome::Refused(error)),
        Err(error @ CommitError::Closed) => Err(DriverError::Store(error)),
    }
}

fn broken(registry: &Registry) -> bool {
    let somewhere =
        ObjectKey { kind: kind::NAMESPACES, namespace: String::new(), name: "default".into() };
    let store = registry.store();
    store.failed() || matches!(store.get(&somewhere), Err(StoreError::Closed))
}

/// Operations that do not depend on each other; an event stays with the operation before it, and so
/// does a deletion with the conditions of the same object.
fn groups(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut groups: Vec<Vec<Op>> = Vec::new();
    for op in ops {
        let same_object = |group: &Vec<Op>| match (group.last(), &op) {
            (Some(Op::Conditions { key: one, .. }), Op::Delete { key, .. }) => one == key,
            _ => matches!(op, Op::Event(_)),
        };
        match groups.last_mut().filter(|group| same_object(group)) {
            Some(group) => group.push(op),
            _ => groups.push(vec![op]),
        }
    }
    groups
}
