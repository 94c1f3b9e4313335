//! Eviction of pods: a delete that PodDisruptionBudgets may refuse (upstream's `eviction.go`).
//!
//! An eviction that a budget allows is first counted down in the budget's status, with its version as
//! the base, so that two evictions at once never take the same allowance. The controller
//! (`logic::controller`) counts anew when the pod goes.

use model::ids::Version;
use model::resource::{self, Resource};
use model::selector::LabelSelector;
use model::status::ApiError;
use model::view::kind;
use serde_json::{Value, json};

use super::delete::DeleteOptions;
use super::errors::{MODIFIED, read_failed};
use super::object::{self, is_deleting};
use super::pods::created_status;
use super::types::{Target, WriteOptions, Written};
use super::write::UPDATE_ATTEMPTS;
use super::{Registry, body};
use crate::io::store::{ListRange, Record};

/// Budgets read from the store at a time.
const SCAN_RECORDS: usize = 100;
/// Evictions that a budget waits to see confirmed (upstream's `MaxDisruptedPodSize`).
const DISRUPTED_PODS_MAX: usize = 2_000;
const VIOLATED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

impl Registry {
    /// Evicts a pod: POST of an Eviction.
    ///
    /// # Errors
    /// As [`Self::delete`]; 400 when the Eviction names another pod, 429 when a budget does not allow
    /// it, 500 when the pod has several budgets.
    pub async fn evict(
        &self,
        pod: &Target,
        eviction: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let (this, pod, options) = (self.clone(), pod.clone(), options.clone());
        self.detached(async move { this.evict_here(&pod, eviction, &options).await }).await
    }

    async fn evict_here(
        &self,
        pod: &Target,
        mut eviction: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let wanted = body::Type::of("policy", "v1", "Eviction");
        let warnings = body::check_as(wanted, &mut eviction, options)?;
        body::check_name(pod, &mut eviction)?;
        let mut delete = DeleteOptions::from_object(&eviction["deleteOptions"]);
        delete.propagation = delete.propagation.or_else(|| Some("Background".into()));
        let dry_run =
            eviction["deleteOptions"]["dryRun"].as_array().is_some_and(|all| !all.is_empty());
        let options = WriteOptions { dry_run: options.dry_run || dry_run, ..options.clone() };
        let asked_version = delete.resource_version.clone();
        for _ in 0..UPDATE_ATTEMPTS {
            let record = self.record(pod)?;
            let permit = self.permit(pod, &record, options.dry_run).await?;
            let delete = DeleteOptions {
                resource_version: asked_version
                    .clone()
                    .or_else(|| permit.only_this_version.then(|| record.version.to_string())),
                ..delete.clone()
            };
            match self.delete(pod, &delete, &options).await {
                // The pod may have become ready meanwhile: it is looked at again.
                Err(error)
                    if error.code == 409 && permit.only_this_version && asked_version.is_none() => {
                }
                result => {
                    result?;
                    return Ok(Written { object: created_status(), warnings, created: true });
                }
            }
        }
        Err(pod.conflict(MODIFIED))
    }

    /// Asks the budgets of a pod.
    async fn permit(
        &self,
        pod: &Target,
        record: &Record,
        dry_run: bool,
    ) -> Result<Permit, ApiError> {
        let object = object::parse(&record.body);
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        if is_deleting(&object) || matches!(phase, "Succeeded" | "Failed") {
            return Ok(Permit { only_this_version: false });
        }
        if phase == "Pending" {
            return Ok(Permit { only_this_version: true });
        }
        for _ in 0..UPDATE_ATTEMPTS {
            let mut budgets = self.budgets_of(&object, &pod.namespace)?;
            let Some((target, budget)) = budgets.pop() else {
                return Ok(Permit { only_this_version: false });
            };
            if !budgets.is_empty() {
                return Err(ApiError::new(
                    500,
                    "",
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                     does not support.",
                ));
            }
            let value = object::decode(target.resource, &budget.body, budget.version);
            if !is_ready(&object) && spares_unready(&value) {
                return Ok(Permit { only_this_version: true });
            }
            let counted = count_down(value, &pod.name, self.inner.clock.now().to_string())?;
            if self.write_status(&target, &budget, counted, dry_run).await? {
                return Ok(Permit { only_this_version: false });
            }
        }
        Err(pod.conflict(MODIFIED))
    }

    /// The budgets that choose a pod.
    fn budgets_of(&self, pod: &Value, namespace: &str) -> Result<Vec<(Target, Record)>, ApiError> {
        let mut found = Vec::new();
        let Some(resource) = resource::by_kind_key(&kind::DISRUPTION_BUDGETS) else {
            return Ok(found);
        };
        let mut after = None;
        loop {
            let range = ListRange {
                kind: resource.kind_key(),
                namespace: Some(namespace.to_owned()),
                after: after.take(),
                limit: SCAN_RECORDS,
            };
            let page = self.inner.store.list(&range).map_err(|error| read_failed(&error))?;
            for record in page.records {
                after = Some((record.key.namespace.clone(), record.key.name.clone()));
                if chooses(&object::parse(&record.body), pod) {
                    found.push((target_of(resource, &record), record));
                }
            }
            if !page.more || after.is_none() {
                return Ok(found);
            }
        }
    }

    /// Writes a budget's new status; whether it still was what was read.
    async fn write_status(
        &self,
        target: &Target,
        record: &Record,
        mut new: Value,
        dry_run: bool,
    ) -> Result<bool, ApiError> {
        object::meta_mut(&mut new).remove("resourceVersion");
        let prepared = self.prepare_update(target, record, Some("status"), new, None)?;
        let written: Option<Version> = self.commit_one(target, &prepared, dry_run, None).await?;
        Ok(written.is_some())
    }
}

/// A pod may go.
struct Permit {
    /// Only as it was when it was looked at.
    only_this_version: bool,
}

fn target_of(resource: &'static Resource, record: &Record) -> Target {
    Target::new(resource, record.key.namespace.as_str(), record.key.name.as_str())
}

/// Whether a budget is about a pod; one without a selector is about none.
fn chooses(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    !selector.is_null()
        && LabelSelector::from_object(selector)
            .is_ok_and(|selector| selector.matches_labels(&pod["metadata"]["labels"]))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .is_some_and(|all| all.iter().any(|it| it["type"] == "Ready" && it["status"] == "True"))
}

/// Whether pods that are not ready may go whatever the budget's count: they add nothing to it.
fn spares_unready(budget: &Value) -> bool {
    let status = &budget["status"];
    let count = |name: &str| status[name].as_i64().unwrap_or_default();
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy")
}

/// The budget with one allowance less (`checkAndDecrement`).
fn count_down(mut budget: Value, pod: &str, now: String) -> Result<Value, ApiError> {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or_default();
    let status = &mut budget["status"];
    let count = |status: &Value, name: &str| status[name].as_i64().unwrap_or_default();
    if count(status, "observedGeneration") < generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(too_many_requests(&why, Some(10)));
    }
    let waiting = status["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if waiting > DISRUPTED_PODS_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden("policy", "poddisruptionbudgets", &name, why));
    }
    let allowed = count(status, "disruptionsAllowed");
    if allowed <= 0 {
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            count(status, "desiredHealthy"),
            count(status, "currentHealthy")
        );
        return Err(too_many_requests(&why, None));
    }
    status["disruptionsAllowed"] = (allowed - 1).into();
    if status["disruptedPods"].is_null() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod] = now.clone().into();
    let conditions = status["conditions"].as_array_mut().into_iter().flatten();
    if allowed == 1 {
        for condition in conditions.filter(|it| it["type"] == "DisruptionAllowed") {
            condition["status"] = "False".into();
            condition["reason"] = "InsufficientPods".into();
            condition["lastTransitionTime"] = now.clone().into();
        }
    }
    Ok(budget)
}

fn too_many_requests(why: &str, seconds: Option<u32>) -> ApiError {
    let mut error = ApiError::new(429, "TooManyRequests", VIOLATED);
    error.details = json!({ "causes": [{ "reason": "DisruptionBudget", "message": why }] });
    if let Some(seconds) = seconds {
        error.details["retryAfterSeconds"] = seconds.into();
        error.retry_after_seconds = Some(seconds);
    }
    error
}
