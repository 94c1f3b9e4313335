//! Create, update, patch, and subresources: request -> answer.

use super::*;

#[tokio::test]
async fn a_new_object_has_the_servers_metadata() {
    let bed = Bed::new().await;
    let mut object = config_map("a");
    object["metadata"]["uid"] = "forged".into();
    object["metadata"]["creationTimestamp"] = Value::Null;
    object["data"] = json!({"k": "v"});
    let made = bed.create("/configmaps", "default", object).await;
    assert_eq!(made["kind"], "ConfigMap");
    assert_eq!(made["apiVersion"], "v1");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(model::ids::Uid::parse(made["metadata"]["uid"].as_str().expect("uid")).is_some());
    assert!(made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(bed.get(&target("/configmaps", "a")).expect("exists"), made);
}

#[tokio::test]
async fn refusals_of_create_have_the_real_words() {
    let bed = Bed::new().await;
    bed.create("/configmaps", "default", config_map("a")).await;
    let with = |path: &str, value: Value| {
        let mut object = config_map("b");
        *object.pointer_mut(path).expect("path") = value;
        object
    };
    let mut elsewhere = config_map("b");
    elsewhere["metadata"]["namespace"] = "other".into();
    let mut versioned = config_map("b");
    versioned["metadata"]["resourceVersion"] = "7".into();
    for (namespace, object, code, message) in [
        ("default", config_map("a"), 409, "configmaps \"a\" already exists"),
        ("nope", config_map("b"), 404, "namespaces \"nope\" not found"),
        (
            "default",
            elsewhere,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "default",
            with("/kind", "Secret".into()),
            400,
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to \
             (core.ConfigMap): unknown conversion",
        ),
        (
            "default",
            with("/apiVersion", "v2".into()),
            400,
            "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is \
             registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            "default",
            with("/metadata/name", true.into()),
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal \
             bool into Go struct field ObjectMeta.metadata.name of type string",
        ),
        (
            "default",
            with("/metadata", json!({})),
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is \
             required",
        ),
        ("default", versioned, 500, "resourceVersion should not be set on objects to be created"),
    ] {
        let answer = refused(bed.try_create("/configmaps", namespace, object).await);
        assert_eq!(answer, (code, message.to_owned()));
    }
}

#[tokio::test]
async fn unknown_fields_warn_or_refuse() {
    let bed = Bed::new().await;
    let mut object = config_map("a");
    object["dat"] = json!({});
    let place = target("/configmaps", "");
    for (validation, expected) in [
        (FieldValidation::Ignore, Ok(vec![])),
        (FieldValidation::Warn, Ok(vec!["unknown field \"dat\"", "duplicate field \"data.x\""])),
        (
            FieldValidation::Strict,
            Err("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding \
                 error: unknown field \"dat\", duplicate field \"data.x\""),
        ),
    ] {
        let options = WriteOptions {
            dry_run: true,
            field_validation: validation,
            decode_issues: vec!["duplicate field \"data.x\"".into()],
            ..WriteOptions::default()
        };
        let answer = bed.registry.create(&place, object.clone(), &options).await;
        match expected {
            Ok(warnings) => {
                let written = answer.expect("is accepted");
                assert_eq!(written.warnings, warnings);
                assert!(value(&written.object).get("dat").is_none());
            }
            Err(message) => assert_eq!(answer.expect_err("is refused").message, message),
        }
    }
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let bed = Bed::new().await;
    let before = bed.registry.store().version();
    let options = WriteOptions { dry_run: true, ..WriteOptions::default() };
    let place = target("/configmaps", "");
    let written = bed.registry.create(&place, config_map("d"), &options).await.expect("accepted");
    assert!(value(&written.object)["metadata"].get("resourceVersion").is_none());
    assert_eq!(bed.registry.store().version(), before);
    bed.create("/configmaps", "default", config_map("d")).await;
    let again = bed.registry.create(&place, config_map("d"), &options).await;
    assert_eq!(again.expect_err("exists").code, 409);
}

#[tokio::test]
async fn names_are_generated() {
    let bed = Bed::new().await;
    let object = json!({"metadata": {"generateName": "g-"}});
    let made = bed.create("/configmaps", "default", object).await;
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn a_stale_update_conflicts_and_an_equal_one_changes_nothing() {
    let bed = Bed::new().await;
    let place = target("/configmaps", "a");
    let first = bed.create("/configmaps", "default", config_map("a")).await;
    let mut second = first.clone();
    second["data"] = json!({"k": "v"});
    let second = bed.update(&place, second).await.expect("is updated");
    assert!(version(&second) > version(&first));
    let same = bed.update(&place, second.clone()).await.expect("is accepted");
    assert_eq!(same, second);
    let mut forced = second.clone();
    forced["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    assert_eq!(bed.update(&place, forced).await.expect("unconditional"), second);
    let stale = refused(bed.update(&place, first.clone()).await);
    let message = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; \
                   please apply your changes to the latest version and try again";
    assert_eq!(stale, (409, message.to_owned()));
    let mut other = second.clone();
    other["metadata"]["uid"] = "8d2b6f3e-0000-4000-8000-000000000000".into();
    let (code, message) = refused(bed.update(&place, other).await);
    assert_eq!(code, 409);
    assert!(message.contains("Precondition failed: UID in precondition: 8d2b6f3e"), "{message}");
}

#[tokio::test]
async fn a_put_creates_only_where_a_real_server_does() {
    let bed = Bed::new().await;
    let answer = refused(bed.update(&target("/configmaps", "n"), config_map("n")).await);
    assert_eq!(answer, (404, "configmaps \"n\" not found".to_owned()));
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}});
    let place = target("coordination.k8s.io/leases", "l");
    let written = bed.registry.update(&place, None, lease.clone(), &WriteOptions::default()).await;
    assert!(written.expect("is created").created);
    let answer = refused(bed.update(&place, lease).await);
    let message = "Lease.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid \
                   value: 0: must be specified for an update";
    assert_eq!(answer, (422, message.to_owned()));
    let answer = refused(bed.update(&target("/configmaps", "x"), config_map("y")).await);
    let message = "the name of the object (y) does not match the name on the URL (x)";
    assert_eq!(answer, (400, message.to_owned()));
}

#[tokio::test]
async fn generation_counts_changes_of_the_spec() {
    let bed = Bed::new().await;
    let place = target("apps/deployments", "d");
    let made = bed.create("apps/deployments", "default", deployment("d")).await;
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["status"], json!({}));
    let status = json!({"spec": {"replicas": 7}, "status": {"replicas": 7}});
    let made = bed.patch(&place, Some("status"), status.clone()).await.expect("status");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!((&made["spec"]["replicas"], &made["status"]["replicas"]), (&json!(1), &json!(7)));
    let noop = bed.patch(&place, Some("status"), status).await.expect("status");
    assert_eq!(version(&noop), version(&made), "the same status again writes nothing");
    let body = json!({"spec": {"replicas": 3}, "status": {"replicas": 9}});
    let made = bed.patch(&place, None, body).await.expect("spec");
    assert_eq!(made["metadata"]["generation"], 2);
    assert_eq!((&made["spec"]["replicas"], &made["status"]["replicas"]), (&json!(3), &json!(7)));
    let labelled = json!({"metadata": {"labels": {"x": "1"}}});
    let made = bed.patch(&place, None, labelled).await.expect("labels");
    assert_eq!(made["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_patch_that_names_another_version_conflicts() {
    let bed = Bed::new().await;
    let place = target("/configmaps", "a");
    bed.create("/configmaps", "default", config_map("a")).await;
    let body = json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "v"}});
    assert_eq!(refused(bed.patch(&place, None, body).await).0, 409);
    let body = json!({"metadata": {"name": "b"}});
    assert_eq!(refused(bed.patch(&place, None, body).await).0, 400);
    let missing = target("/configmaps", "zz");
    let answer = refused(bed.patch(&missing, None, json!({})).await);
    assert_eq!(answer, (404, "configmaps \"zz\" not found".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_from_many_hands_are_all_kept() {
    let bed = Bed::new().await;
    bed.create("/configmaps", "default", config_map("a")).await;
    let mut tasks = Vec::new();
    for hand in 0..4 {
        let registry = bed.registry.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..20 {
                let key = format!("h{hand}-{round}");
                let body = json!({"data": {key: "x"}});
                // A real server gives up after five conflicts too; its clients then try again.
                loop {
                    let patch = PatchBody { kind: PatchKind::Merge, body: body.clone() };
                    let place = target("/configmaps", "a");
                    let options = WriteOptions::default();
                    match registry.patch(&place, None, patch, &options).await {
                        Ok(_) => break,
                        Err(error) => assert_eq!(error.code, 409),
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("no panic");
    }
    let object = bed.get(&target("/configmaps", "a")).expect("exists");
    assert_eq!(object["data"].as_object().map(|data| data.len()), Some(80));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_updates_on_one_version_exactly_one_wins() {
    let bed = Bed::new().await;
    let made = bed.create("/configmaps", "default", config_map("a")).await;
    let mut tasks = Vec::new();
    for hand in 0..8 {
        let registry = bed.registry.clone();
        let mut object = made.clone();
        object["data"] = json!({"hand": hand.to_string()});
        tasks.push(tokio::spawn(async move {
            let place = target("/configmaps", "a");
            registry.update(&place, None, object, &WriteOptions::default()).await.is_ok()
        }));
    }
    let mut won = 0;
    for task in tasks {
        won += u32::from(task.await.expect("no panic"));
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn scale_reads_and_writes_replicas() {
    let bed = Bed::new().await;
    let place = target("apps/deployments", "d");
    let made = bed.create("apps/deployments", "default", deployment("d")).await;
    let scale = value(&bed.registry.get_scale(&place).expect("exists"));
    let meta = &made["metadata"];
    assert_eq!(
        scale,
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {
            "name": "d", "namespace": "default", "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "creationTimestamp": meta["creationTimestamp"],
        }, "spec": {"replicas": 1}, "status": {"replicas": 0, "selector": "a=b"}})
    );
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 5.into();
    let options = WriteOptions::default();
    let written = bed.registry.update(&place, Some("scale"), wanted.clone(), &options).await;
    assert_eq!(value(&written.expect("is scaled").object)["spec"]["replicas"], 5);
    let stale = bed.registry.update(&place, Some("scale"), wanted, &options).await;
    assert_eq!(stale.expect_err("is stale").code, 409);
    let scaled = bed.patch(&place, Some("scale"), json!({"spec": {"replicas": 2}})).await;
    assert_eq!(scaled.expect("is scaled")["spec"]["replicas"], 2);
    let object = bed.get(&place).expect("exists");
    assert_eq!(object["spec"]["replicas"], 2);
    assert_eq!(object["metadata"]["generation"], 3);
    let answer = bed.patch(&place, Some("scale"), json!({"spec": {"replicas": -1}})).await;
    let message = "Scale.autoscaling \"d\" is invalid: spec.replicas: Invalid value: -1: must be \
                   greater than or equal to 0";
    assert_eq!(refused(answer), (422, message.to_owned()));
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let bed = Bed::new().await;
    let place = target("/pods", "p");
    let made = bed.create("/pods", "default", pod("p")).await;
    assert_eq!(made["status"]["phase"], "Pending");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "pi-3"}});
    let options = WriteOptions::default();
    let written = bed.registry.bind(&place, binding.clone(), &options).await.expect("is bound");
    assert!(written.created);
    assert_eq!(value(&written.object)["status"], "Success");
    let bound = bed.get(&place).expect("exists");
    assert_eq!(bound["spec"]["nodeName"], "pi-3");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let again = bed.registry.bind(&place, binding, &options).await.expect_err("is bound already");
    let message = "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned \
                   to node \"pi-3\"";
    assert_eq!((again.code, again.message.as_str()), (409, message));
}

#[tokio::test]
async fn a_pod_gets_the_token_of_its_account_unless_it_or_the_account_says_no() {
    let bed = Bed::new().await;
    let quiet = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "quiet"},
        "automountServiceAccountToken": false});
    bed.create("/serviceaccounts", "default", quiet).await;
    let check = async |spec: Value, expected: &[bool]| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        pod["spec"]
            .as_object_mut()
            .expect("fields")
            .extend(spec.as_object().expect("fields").clone());
        let pod = bed.create("/pods", "default", pod).await;
        let path = "/var/run/secrets/kubernetes.io/serviceaccount";
        let mounted = |container: &Value| {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            mounts
                .filter(|mount| mount["name"].as_str().is_some_and(|n| n.starts_with("kube-api-")))
                .any(|mount| mount["mountPath"] == path)
        };
        let lists = ["initContainers", "containers"];
        let containers = lists.iter().filter_map(|list| pod["spec"][list].as_array()).flatten();
        assert_eq!(containers.map(mounted).collect::<Vec<_>>(), expected, "{spec}");
        let volumes = pod["spec"]["volumes"].as_array().map_or(0, Vec::len);
        assert_eq!(volumes, usize::from(expected.contains(&true)), "{spec}");
    };
    check(json!({}), &[true]).await;
    check(json!({"serviceAccountName": "unknown"}), &[true]).await;
    check(json!({"automountServiceAccountToken": false}), &[false]).await;
    check(json!({"serviceAccountName": "quiet"}), &[false]).await;
    check(json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true}), &[true])
        .await;
    check(json!({"initContainers": [{"name": "i", "image": "i:1"}]}), &[true, true]).await;
}

#[tokio::test]
async fn a_master_that_leads_no_more_tells_nothing_of_what_it_has_stored() {
    let bed = Bed::new().await;
    let (there, absent) = (target("/configmaps", "there"), target("/configmaps", "absent"));
    let same = bed.create("/configmaps", "default", config_map("there")).await;
    let mut old = same.clone();
    old["metadata"]["resourceVersion"] = "1".into();
    let options = WriteOptions::default();
    let outcomes = async || {
        let deleted = bed.registry.delete(&absent, &DeleteOptions::default(), &options).await;
        let code = |outcome: Result<(), ApiError>| outcome.err().map_or(200, |error| error.code);
        [
            code(bed.update(&absent, config_map("absent")).await.map(drop)),
            code(bed.patch(&absent, None, json!({"data": {"a": "b"}})).await.map(drop)),
            code(deleted.map(drop)),
            code(bed.update(&there, old.clone()).await.map(drop)),
            code(bed.try_create("/configmaps", "nope", config_map("a")).await.map(drop)),
            code(bed.update(&there, same.clone()).await.map(drop)),
        ]
    };
    assert_eq!(outcomes().await, [404, 404, 404, 409, 404, 200]);
    bed.registry.store().depose().await;
    assert_eq!(outcomes().await, [503; 6]);
}
