//! Controllers' commits: all or nothing, on the versions that were planned on.

use logic::controller::{Event, ObjectReference, Op, Propagation};
use model::ids::{ObjectKey, Uid, Version};

use super::*;

fn base(object: &Value) -> Version {
    Version(version(object))
}

fn uid(object: &Value) -> Uid {
    Uid::parse(object["metadata"]["uid"].as_str().expect("uid")).expect("a UUID")
}

fn key(kind: &'static str, name: &str) -> ObjectKey {
    target(kind, name).key()
}

fn create_map(name: &str) -> Op {
    let mut object = config_map(name);
    object["metadata"]["namespace"] = "default".into();
    Op::Create { kind: "/configmaps".into(), object }
}

fn patch(object: &Value, name: &str, merge: Value) -> Op {
    Op::Patch { key: key("/configmaps", name), base: base(object), subresource: None, merge }
}

#[tokio::test]
async fn a_plan_is_committed_whole_or_not_at_all() {
    let bed = Bed::new().await;
    let made = bed.create("/configmaps", "default", config_map("a")).await;
    let change = |value: &str| json!({"data": {"k": value}});
    let plan = vec![create_map("b"), patch(&made, "a", change("v"))];
    let version = bed.registry.commit(plan.clone()).await.expect("is committed");
    let changed = bed.get(&target("/configmaps", "a")).expect("exists");
    assert_eq!(base(&changed), version);
    let stale = vec![create_map("c"), patch(&made, "a", change("w"))];
    assert!(matches!(bed.registry.commit(stale).await, Err(CommitError::Conflict)));
    assert_eq!(refused(bed.get(&target("/configmaps", "c"))).0, 404);
    let exists = bed.registry.commit(vec![create_map("c"), create_map("b")]).await;
    let Err(CommitError::Rejected(error)) = exists else { panic!("{exists:?}") };
    assert_eq!(error.message, "configmaps \"b\" already exists");
    assert_eq!(refused(bed.get(&target("/configmaps", "c"))).0, 404);
    let wrong =
        patch(&changed, "a", json!({"data": {"a b": "x"}, "metadata": {"labels": {"a b": "c"}}}));
    let wrong = bed.registry.commit(vec![create_map("c"), wrong]).await;
    assert!(matches!(wrong, Err(CommitError::Rejected(error)) if error.code == 422));
}

#[tokio::test]
async fn operations_on_one_object_build_on_each_other() {
    let bed = Bed::new().await;
    let made = bed.create("/configmaps", "default", config_map("a")).await;
    let plan = vec![
        patch(&made, "a", json!({"data": {"k": "v"}})),
        patch(&made, "a", json!({"data": {"l": "w"}})),
    ];
    bed.registry.commit(plan).await.expect("is committed");
    let changed = bed.get(&target("/configmaps", "a")).expect("exists");
    assert_eq!(changed["data"], json!({"k": "v", "l": "w"}));
}

#[tokio::test]
async fn a_patch_that_changes_nothing_writes_nothing() {
    let bed = Bed::new().await;
    let made = bed.create("/pods", "default", pod("p")).await;
    let before = bed.registry.store().version();
    let status = Op::Patch {
        key: key("/pods", "p"),
        base: base(&made),
        subresource: Some("status"),
        merge: json!({"status": {"phase": "Pending"}}),
    };
    bed.registry.commit(vec![status]).await.expect("is accepted");
    assert_eq!(bed.registry.store().version(), before);
}

#[tokio::test]
async fn pods_are_bound_reported_and_removed() {
    let bed = Bed::new().await;
    let made = bed.create("/pods", "default", pod("p")).await;
    let pod_key = key("/pods", "p");
    let bind =
        Op::Bind { pod: pod_key.clone(), base: base(&made), uid: uid(&made), node: "pi-3".into() };
    bed.registry.commit(vec![bind.clone()]).await.expect("is bound");
    assert!(matches!(bed.registry.commit(vec![bind]).await, Err(CommitError::Conflict)));
    let bound = bed.get(&target("/pods", "p")).expect("exists");
    assert_eq!(bound["spec"]["nodeName"], "pi-3");
    let delete = |object: &Value, grace| Op::Delete {
        key: pod_key.clone(),
        base: base(object),
        uid: uid(object),
        grace_seconds: grace,
        propagation: Propagation::Background,
    };
    bed.registry.commit(vec![delete(&bound, None)]).await.expect("begins");
    let ending = bed.get(&target("/pods", "p")).expect("has its grace");
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    bed.registry.commit(vec![delete(&ending, Some(0))]).await.expect("goes");
    assert_eq!(refused(bed.get(&target("/pods", "p"))).0, 404);
}

/// Nor does the garbage collector, whatever owner somebody gave it.
#[tokio::test]
async fn no_controller_deletes_the_object_of_the_masters() {
    let bed = Bed::new().await;
    bed.create("/namespaces", "", json!({"metadata": {"name": "kube-system"}})).await;
    let made = bed.create("/configmaps", "kube-system", config_map("kumquat-masters")).await;
    let place = Target::new(of("/configmaps"), "kube-system", "kumquat-masters");
    let delete = Op::Delete {
        key: place.key(),
        base: base(&made),
        uid: uid(&made),
        grace_seconds: None,
        propagation: Propagation::Background,
    };
    let committed = bed.registry.commit(vec![delete]).await;
    let refused = matches!(&committed, Err(CommitError::Rejected(error)) if error.code == 403);
    assert!(refused, "{committed:?}");
    assert_eq!(bed.get(&place).expect("is there"), made);
}

#[tokio::test]
async fn a_repeated_event_is_counted_up_in_memory() {
    let bed = Bed::new().await;
    let event = Event {
        about: ObjectReference {
            api_version: "v1",
            kind: "Pod",
            namespace: "default".into(),
            name: "p".into(),
            uid: Uid([7; 16]),
        },
        warning: true,
        reason: "FailedScheduling",
        message: "0/1 nodes are available".into(),
        component: "default-scheduler",
    };
    for _ in 0..3 {
        bed.registry.commit(vec![Op::Event(event.clone())]).await.expect("never fails");
    }
    let events = ListQuery::all(of("/events"), Some("default".into()));
    let page = bed.registry.list(&events).expect("a page");
    assert_eq!(page.items.len(), 1);
    assert_eq!(value(&page.items[0].json())["count"], 3);
    let mut elsewhere = event;
    elsewhere.about.namespace = "nope".into();
    bed.registry.commit(vec![Op::Event(elsewhere)]).await.expect("never fails");
}
