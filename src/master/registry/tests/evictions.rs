//! Evictions: what budgets refuse, and what they count.

use super::*;

fn eviction(name: &str) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"}})
}

impl Bed {
    /// A pod that runs on a board.
    async fn running(&self, name: &str, ready: &str) {
        let mut body = pod(name);
        body["metadata"]["labels"] = json!({"app": "web"});
        body["spec"]["nodeName"] = "a".into();
        self.create("/pods", "default", body).await;
        let status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}]}});
        self.patch(&target("/pods", name), Some("status"), status).await.expect("is patched");
    }

    /// A budget as its controller leaves it.
    async fn budget(&self, name: &str, allowed: i64, healthy: i64) {
        let body = json!({"metadata": {"name": name}, "spec": {
            "minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
        self.create(BUDGETS, "default", body).await;
        let status = json!({"status": {"disruptionsAllowed": allowed, "currentHealthy": healthy,
            "desiredHealthy": 1, "expectedPods": healthy, "observedGeneration": 1}});
        self.patch(&target(BUDGETS, name), Some("status"), status).await.expect("is patched");
    }

    async fn evict(&self, name: &str) -> Result<Value, ApiError> {
        let options = WriteOptions::default();
        let written = self.registry.evict(&target("/pods", name), eviction(name), &options).await?;
        Ok(value(&written.object))
    }

    fn is_leaving(&self, name: &str) -> bool {
        let pod = self.get(&target("/pods", name)).expect("it exists");
        pod["metadata"]["deletionTimestamp"].is_string()
    }
}

const BUDGETS: &str = "policy/poddisruptionbudgets";

#[tokio::test]
async fn without_a_budget_a_pod_goes() {
    let bed = Bed::new().await;
    bed.running("p", "True").await;
    assert_eq!(bed.evict("p").await.expect("is evicted")["code"], 201);
    assert!(bed.is_leaving("p"));
    // A pod that is going already may be evicted again.
    bed.evict("p").await.expect("is evicted");
    assert_eq!(refused(bed.evict("none").await).0, 404);
}

#[tokio::test]
async fn a_budget_is_counted_down_and_then_refuses() {
    let bed = Bed::new().await;
    for name in ["p", "q", "r"] {
        bed.running(name, "True").await;
    }
    bed.budget("b", 1, 2).await;
    let (one, two) = tokio::join!(bed.evict("p"), bed.evict("q"));
    let failed = [one, two].into_iter().find_map(Result::err).expect("one of the two is refused");
    assert_eq!((failed.code, failed.reason), (429, "TooManyRequests"));
    assert_eq!(failed.message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = &failed.details["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(
        cause["message"],
        "The disruption budget b needs 1 healthy pods and has 2 currently"
    );
    let status = bed.get(&target(BUDGETS, "b")).expect("it exists")["status"].clone();
    assert_eq!(status["disruptionsAllowed"], 0);
    assert_eq!(status["disruptedPods"].as_object().map(serde_json::Map::len), Some(1));
    assert_ne!(bed.is_leaving("p"), bed.is_leaving("q"));
    assert!(!bed.is_leaving("r"));
}

#[tokio::test]
async fn a_changed_budget_waits_for_its_controller() {
    let bed = Bed::new().await;
    bed.running("p", "True").await;
    bed.budget("b", 1, 2).await;
    let spec = json!({"spec": {"minAvailable": 2}});
    bed.patch(&target(BUDGETS, "b"), None, spec).await.expect("is patched");
    let error = bed.evict("p").await.expect_err("must be refused");
    assert_eq!((error.code, error.retry_after_seconds), (429, Some(10)));
    assert!(!bed.is_leaving("p"));
}

#[tokio::test]
async fn pods_that_are_not_ready_go_while_the_budget_is_healthy() {
    let bed = Bed::new().await;
    bed.running("p", "False").await;
    bed.budget("b", 0, 1).await;
    bed.evict("p").await.expect("is evicted");
    bed.running("q", "False").await;
    let broken = json!({"status": {"currentHealthy": 0}});
    bed.patch(&target(BUDGETS, "b"), Some("status"), broken).await.expect("is patched");
    assert_eq!(refused(bed.evict("q").await).0, 429);
    let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    bed.patch(&target(BUDGETS, "b"), None, always).await.expect("is patched");
    bed.evict("q").await.expect("is evicted");
}

#[tokio::test]
async fn two_budgets_of_a_pod_are_too_many() {
    let bed = Bed::new().await;
    bed.running("p", "True").await;
    bed.budget("b", 1, 2).await;
    bed.budget("c", 1, 2).await;
    let (code, message) = refused(bed.evict("p").await);
    assert_eq!(code, 500);
    assert!(message.starts_with("This pod has more than one PodDisruptionBudget"), "{message}");
    let mut other = pod("other");
    other["spec"]["nodeName"] = "a".into();
    bed.create("/pods", "default", other).await;
    bed.evict("other").await.expect("no budget is about it");
}
