//! Delete: who goes at once, who waits, and what is answered.

use super::*;

#[tokio::test]
async fn a_plain_object_goes_at_once_and_is_named() {
    let bed = Bed::new().await;
    let made = bed.create("/configmaps", "default", config_map("a")).await;
    let place = target("/configmaps", "a");
    let answer = bed.delete(&place, Value::Null).await.expect("is deleted");
    assert_eq!(
        answer,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}})
    );
    let again = refused(bed.delete(&place, Value::Null).await);
    assert_eq!(again, (404, "configmaps \"a\" not found".to_owned()));
}

#[tokio::test]
async fn preconditions_have_the_real_words() {
    let bed = Bed::new().await;
    let made = bed.create("/configmaps", "default", config_map("b")).await;
    let uid = made["metadata"]["uid"].as_str().expect("uid");
    let version = made["metadata"]["resourceVersion"].as_str().expect("version");
    let place = target("/configmaps", "b");
    for (options, code, message) in [
        (
            json!({"preconditions": {"uid": "x"}}),
            409,
            format!(
                "Operation cannot be fulfilled on ConfigMap \"b\": the UID in the precondition (x) \
                 does not match the UID in record ({uid}). The object might have been deleted and \
                 then recreated"
            ),
        ),
        (
            json!({"preconditions": {"resourceVersion": "1"}}),
            409,
            format!(
                "Operation cannot be fulfilled on ConfigMap \"b\": the ResourceVersion in the \
                 precondition (1) does not match the ResourceVersion in record ({version}). The \
                 object might have been modified"
            ),
        ),
        (
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            422,
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \
             \"Orphan\": orphanDependents and deletionPropagation cannot be both set"
                .to_owned(),
        ),
    ] {
        assert_eq!(refused(bed.delete(&place, options).await), (code, message));
    }
    let exact = json!({"preconditions": {"uid": uid, "resourceVersion": version}});
    bed.delete(&place, exact).await.expect("is deleted");
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_removed() {
    let bed = Bed::new().await;
    let mut object = config_map("f");
    object["metadata"]["finalizers"] = json!(["x.y/z"]);
    bed.create("/configmaps", "default", object).await;
    let place = target("/configmaps", "f");
    let waiting = bed.delete(&place, Value::Null).await.expect("begins");
    assert_eq!(waiting["metadata"]["deletionGracePeriodSeconds"], 0);
    assert!(waiting["metadata"]["deletionTimestamp"].is_string());
    let again = bed.delete(&place, Value::Null).await.expect("goes on");
    assert_eq!(version(&again), version(&waiting));
    let taken = refused(bed.try_create("/configmaps", "default", config_map("f")).await);
    let message = "object is being deleted: configmaps \"f\" already exists";
    assert_eq!(taken, (409, message.to_owned()));
    let more = json!({"metadata": {"finalizers": ["x.y/z", "x.y/w"]}});
    assert_eq!(refused(bed.patch(&place, None, more).await).0, 422);
    bed.patch(&place, None, json!({"data": {"k": "v"}})).await.expect("may change");
    bed.patch(&place, None, json!({"metadata": {"finalizers": null}})).await.expect("is let go");
    assert_eq!(refused(bed.get(&place)).0, 404);
}

#[tokio::test]
async fn propagation_leaves_its_finalizer() {
    let bed = Bed::new().await;
    for (name, kind, policy, expected) in [
        ("a", "apps/deployments", json!({"propagationPolicy": "Foreground"}), "foregroundDeletion"),
        ("b", "apps/deployments", json!({"propagationPolicy": "Orphan"}), "orphan"),
        ("c", "apps/deployments", json!({"orphanDependents": true}), "orphan"),
    ] {
        bed.create(kind, "default", deployment(name)).await;
        let object = bed.delete(&target(kind, name), policy).await.expect("begins");
        assert_eq!(object["metadata"]["finalizers"], json!([expected]));
        assert_eq!(object["metadata"]["generation"], 2);
    }
    for policy in [Value::Null, json!({"propagationPolicy": "Background"})] {
        bed.create("apps/deployments", "default", deployment("d")).await;
        let answer = bed.delete(&target("apps/deployments", "d"), policy).await.expect("goes");
        assert_eq!(answer["status"], "Success");
        assert_eq!(answer["details"]["group"], "apps");
    }
}

async fn running_pod(bed: &Bed, name: &str) -> Target {
    let place = target("/pods", name);
    bed.create("/pods", "default", pod(name)).await;
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
    bed.registry.bind(&place, binding, &WriteOptions::default()).await.expect("is bound");
    place
}

fn seconds_until_end(pod: &Value) -> i64 {
    let at = |field: &str| {
        let text = pod["metadata"][field].as_str().expect("a time");
        Timestamp::parse(text).expect("RFC 3339").seconds()
    };
    at("deletionTimestamp") - at("creationTimestamp")
}

#[tokio::test]
async fn a_running_pod_gets_its_grace_and_may_only_be_hurried() {
    let bed = Bed::new().await;
    let place = running_pod(&bed, "p").await;
    let ending = bed.delete(&place, Value::Null).await.expect("begins");
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!((29..=32).contains(&seconds_until_end(&ending)), "{ending}");
    let longer = bed.delete(&place, json!({"gracePeriodSeconds": 60})).await.expect("goes on");
    assert_eq!(version(&longer), version(&ending));
    let sooner = bed.delete(&place, json!({"gracePeriodSeconds": 5})).await.expect("is hurried");
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!(seconds_until_end(&ending) - seconds_until_end(&sooner), 25);
    let gone = bed.delete(&place, json!({"gracePeriodSeconds": 0})).await.expect("goes");
    assert_eq!(gone["kind"], "Pod");
    assert_eq!(refused(bed.get(&place)).0, 404);
}

#[tokio::test]
async fn a_pod_with_nothing_to_stop_goes_at_once() {
    let bed = Bed::new().await;
    bed.create("/pods", "default", pod("unscheduled")).await;
    bed.delete(&target("/pods", "unscheduled"), Value::Null).await.expect("goes");
    assert_eq!(refused(bed.get(&target("/pods", "unscheduled"))).0, 404);
    let place = running_pod(&bed, "done").await;
    let status = json!({"status": {"phase": "Succeeded"}});
    bed.patch(&place, Some("status"), status).await.expect("ends");
    bed.delete(&place, Value::Null).await.expect("goes");
    assert_eq!(refused(bed.get(&place)).0, 404);
    let place = running_pod(&bed, "evicted").await;
    let eviction =
        json!({"metadata": {"name": "evicted"}, "deleteOptions": {"gracePeriodSeconds": 0}});
    let answer = bed.registry.evict(&place, eviction, &WriteOptions::default()).await;
    let expected = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Success", "code": 201});
    assert_eq!(value(&answer.expect("is evicted").object), expected);
    assert_eq!(refused(bed.get(&place)).0, 404);
}

#[tokio::test]
async fn a_namespace_terminates_takes_nothing_new_and_ends_with_its_finalizer() {
    let bed = Bed::new().await;
    bed.create("/namespaces", "", json!({"metadata": {"name": "tt"}})).await;
    let place = target("/namespaces", "tt");
    let ending = bed.delete(&place, Value::Null).await.expect("begins");
    assert_eq!(ending["status"]["phase"], "Terminating");
    assert_eq!(ending["spec"]["finalizers"], json!(["kubernetes"]));
    assert!(ending["metadata"].get("deletionGracePeriodSeconds").is_none());
    let error = bed.try_create("/configmaps", "tt", config_map("q")).await.expect_err("refused");
    assert_eq!(
        error.to_status(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "configmaps \"q\" is forbidden: unable to create new content in namespace tt \
                        because it is being terminated",
            "reason": "Forbidden", "details": {"name": "q", "kind": "configmaps", "causes": [{
                "reason": "NamespaceTerminating", "message": "namespace tt is being terminated",
                "field": "metadata.namespace"}]}, "code": 403})
    );
    let kept = bed.patch(&place, None, json!({"spec": {"finalizers": []}})).await.expect("ignored");
    assert_eq!(kept["spec"]["finalizers"], json!(["kubernetes"]));
    let end = json!({"spec": {"finalizers": []}});
    bed.patch(&place, Some("finalize"), end).await.expect("is finalized");
    assert_eq!(refused(bed.get(&place)).0, 404);
    let message = "namespaces \"default\" is forbidden: this namespace may not be deleted";
    let answer = refused(bed.delete(&target("/namespaces", "default"), Value::Null).await);
    assert_eq!(answer, (403, message.to_owned()));
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let bed = Bed::new().await;
    for name in ["a", "b", "c"] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"x": if name == "b" { "keep" } else { "go" }});
        bed.create("/configmaps", "default", object).await;
    }
    let mut query = ListQuery::all(of("/configmaps"), Some("default".into()));
    query.labels = "x=go".into();
    let options = WriteOptions::default();
    let deleted = bed.registry.delete_collection(&query, &DeleteOptions::default(), &options).await;
    assert_eq!(deleted.expect("are deleted").items.len(), 2);
    query.labels.clear();
    assert_eq!(bed.registry.list(&query).expect("a page").items.len(), 1);
}

/// Without it masters would forget each other, and ids be given twice.
#[tokio::test]
async fn nobody_deletes_the_object_of_the_masters() {
    let bed = Bed::new().await;
    bed.create("/namespaces", "", json!({"metadata": {"name": "kube-system"}})).await;
    let made = bed.create("/configmaps", "kube-system", config_map("kumquat-masters")).await;
    let target = Target::new(of("/configmaps"), "kube-system", "kumquat-masters");
    let (code, why) = refused(bed.delete(&target, Value::Null).await);
    assert_eq!(code, 403, "{why}");
    let query = ListQuery::all(of("/configmaps"), Some("kube-system".into()));
    let (delete, options) = (DeleteOptions::default(), WriteOptions::default());
    let collected = bed.registry.delete_collection(&query, &delete, &options).await;
    let error = collected.expect_err("must be refused");
    assert_eq!((error.code, error.message), (403, why));
    assert_eq!(bed.get(&target).expect("is there"), made);
    // Nor which authority counts, who had its keys, and who was thrown out.
    for kept in ["kumquat-authority", "kumquat-holders", "kumquat-evicted"] {
        bed.create("/configmaps", "kube-system", config_map(kept)).await;
        let target = Target::new(of("/configmaps"), "kube-system", kept);
        assert_eq!(refused(bed.delete(&target, Value::Null).await).0, 403, "{kept}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_slips_into_a_namespace_that_began_to_terminate() {
    for round in 0..16 {
        let bed = Bed::new().await;
        bed.create("/namespaces", "", json!({"metadata": {"name": "tt"}})).await;
        let mut hands = Vec::new();
        for hand in 0..24 {
            let registry = bed.registry.clone();
            hands.push(tokio::spawn(async move {
                let place = Target::new(of("/configmaps"), "tt", "");
                for count in 0.. {
                    let object = config_map(&format!("h{hand}-{count}"));
                    let made = registry.create(&place, object, &WriteOptions::default()).await;
                    if let Err(error) = made {
                        return error.code;
                    }
                }
                unreachable!("the namespace ends");
            }));
        }
        // Let the hands get going: how far they come differs from round to round.
        let query = ListQuery::all(of("/configmaps"), Some("tt".into()));
        while bed.registry.list(&query).expect("a page").items.len() < 4 + round {
            tokio::time::sleep(std::time::Duration::from_micros(200)).await;
        }
        let ending = bed.delete(&target("/namespaces", "tt"), Value::Null).await.expect("begins");
        for hand in hands {
            assert_eq!(hand.await.expect("no panic"), 403);
        }
        for item in bed.registry.list(&query).expect("a page").items {
            let made = value(&item.json());
            assert!(version(&made) < version(&ending), "round {round}: {made} slipped in");
        }
    }
}
