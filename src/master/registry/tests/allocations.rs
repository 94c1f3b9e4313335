//! ClusterIPs and node ports: no leak, no double, the same after a restart.

use std::collections::BTreeSet;

use super::*;

fn ports() -> Value {
    json!([{"port": 80}])
}

async fn counts(bed: &Bed) -> (usize, usize) {
    bed.registry.inner.services.lock().await.counts()
}

fn address(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().expect("an address").to_owned()
}

#[tokio::test]
async fn an_address_is_chosen_kept_and_given_back() {
    let bed = Bed::new().await;
    let place = target("/services", "s");
    let made = bed.create("/services", "default", service("s", json!({"ports": ports()}))).await;
    assert_eq!(made["spec"]["clusterIPs"], json!([address(&made)]));
    assert!(address(&made).starts_with("10.43."), "{made}");
    let mut bare = service("s", json!({"ports": [{"port": 81}]}));
    bare["metadata"]["labels"] = json!({"a": "b"});
    let updated = bed.update(&place, bare).await.expect("is updated");
    assert_eq!(address(&updated), address(&made), "a PUT without an address keeps it");
    assert_eq!(counts(&bed).await, (1, 0));
    bed.delete(&place, Value::Null).await.expect("is deleted");
    assert_eq!(counts(&bed).await, (0, 0));
    let again = service("s", json!({"ports": ports(), "clusterIP": address(&made)}));
    assert_eq!(address(&bed.create("/services", "default", again).await), address(&made));
}

#[tokio::test]
async fn refusals_have_the_real_words_and_leak_nothing() {
    let bed = Bed::new().await;
    let taken = json!({"type": "NodePort", "clusterIP": "10.43.7.7",
        "ports": [{"port": 80, "nodePort": 30080}]});
    bed.create("/services", "default", service("taken", taken)).await;
    let before = counts(&bed).await;
    for (spec, message) in [
        (
            json!({"clusterIP": "1.2.3.4", "ports": ports()}),
            "Service \"x\" is invalid: spec.clusterIPs: Invalid value: [\"1.2.3.4\"]: failed to \
             allocate IP 1.2.3.4: the provided IP (1.2.3.4) is not in the valid range. The range \
             of valid IPs is 10.43.0.0/16",
        ),
        (
            json!({"clusterIP": "10.43.7.7", "ports": ports()}),
            "Service \"x\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.7.7\"]: failed to \
             allocate IP 10.43.7.7: provided IP is already allocated",
        ),
        (
            json!({"clusterIP": "10.43.0.1", "ports": ports()}),
            "Service \"x\" is invalid: spec.clusterIPs: Invalid value: [\"10.43.0.1\"]: failed to \
             allocate IP 10.43.0.1: provided IP is already allocated",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "Service \"x\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is \
             not in the valid range. The range of valid ports is 30000-32767",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
            "Service \"x\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port \
             is already allocated",
        ),
    ] {
        let answer = bed.try_create("/services", "default", service("x", spec)).await;
        assert_eq!(refused(answer), (422, message.to_owned()));
        assert_eq!(counts(&bed).await, before);
    }
    let twice = bed.try_create("/services", "default", service("taken", json!({"ports": ports()})));
    assert_eq!(refused(twice.await).0, 409);
    assert_eq!(counts(&bed).await, before);
}

#[tokio::test]
async fn a_dry_run_takes_nothing() {
    let bed = Bed::new().await;
    let options = WriteOptions { dry_run: true, ..WriteOptions::default() };
    let object = service("x", json!({"type": "NodePort", "ports": ports()}));
    let written = bed.registry.create(&target("/services", ""), object, &options).await;
    let spec = &value(&written.expect("is accepted").object)["spec"];
    assert_eq!(spec["clusterIP"], "10.43.0.0");
    assert_eq!(spec["ports"][0]["nodePort"], 32_769);
    assert_eq!(counts(&bed).await, (0, 0));
}

#[tokio::test]
async fn types_change_what_is_held() {
    let bed = Bed::new().await;
    let place = target("/services", "s");
    let object = service(
        "s",
        json!({"type": "NodePort", "ports": [
            {"name": "a", "port": 53, "protocol": "UDP", "nodePort": 30053},
            {"name": "b", "port": 53, "protocol": "TCP", "nodePort": 30053},
            {"name": "c", "port": 80},
        ]}),
    );
    let made = bed.create("/services", "default", object).await;
    assert_eq!(counts(&bed).await, (1, 2), "one number serves two protocols");
    let chosen = made["spec"]["ports"][2]["nodePort"].as_u64().expect("a port");
    assert!((30_000..=32_767).contains(&chosen));
    let plain =
        bed.patch(&place, None, json!({"spec": {"type": "ClusterIP"}})).await.expect("plain");
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none(), "{plain}");
    assert_eq!(counts(&bed).await, (1, 0));
    let away = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
    let away = bed.patch(&place, None, away).await.expect("external");
    assert!(away["spec"].get("clusterIP").is_none(), "{away}");
    assert_eq!(counts(&bed).await, (0, 0));
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null}});
    let back = bed.patch(&place, None, back).await.expect("comes back");
    assert!(address(&back).starts_with("10.43."));
    assert_eq!(counts(&bed).await, (1, 0));
    let headless = service("h", json!({"clusterIP": "None", "ports": ports()}));
    let headless = bed.create("/services", "default", headless).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = service("e", json!({"type": "ExternalName", "externalName": "a.b"}));
    let external = bed.create("/services", "default", external).await;
    assert!(external["spec"].get("clusterIP").is_none(), "{external}");
    assert_eq!(counts(&bed).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_hands_never_share_and_a_restart_forgets_nothing() {
    const RANGE: &str = "10.9.0.0/28";
    let mut bed = Bed::with_range(RANGE).await;
    let kubernetes = service("kubernetes", json!({"clusterIP": "10.9.0.1", "ports": ports()}));
    bed.create("/services", "default", kubernetes).await;
    let mut tasks = Vec::new();
    for hand in 0..24 {
        let registry = bed.registry.clone();
        tasks.push(tokio::spawn(async move {
            let object =
                service(&format!("s{hand}"), json!({"type": "NodePort", "ports": ports()}));
            let place = target("/services", "");
            registry.create(&place, object, &WriteOptions::default()).await
        }));
    }
    let (mut addresses, mut node_ports, mut full) = (BTreeSet::new(), BTreeSet::new(), 0);
    for task in tasks {
        match task.await.expect("no panic") {
            Ok(written) => {
                let made = value(&written.object);
                assert!(addresses.insert(address(&made)), "{made} has an address twice");
                assert!(node_ports.insert(made["spec"]["ports"][0]["nodePort"].to_string()));
            }
            Err(error) => {
                assert!(error.message.ends_with("range is full"), "{}", error.message);
                full += 1;
            }
        }
    }
    // 14 usable addresses, less that of the API and that of DNS.
    assert_eq!((addresses.len(), full), (12, 12));
    assert!(!addresses.contains("10.9.0.10"));
    let before = counts(&bed).await;
    assert_eq!(before, (13, 12));
    bed.reopen(RANGE).await;
    assert_eq!(counts(&bed).await, before);
}

#[tokio::test]
async fn addresses_stay_and_one_family_is_served() {
    let bed = Bed::new().await;
    let place = target("/services", "s");
    bed.create("/services", "default", service("s", json!({"ports": ports()}))).await;
    let before = counts(&bed).await;
    for (spec, message) in [
        (
            json!({"clusterIP": "10.43.9.9"}),
            "Service \"s\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.43.9.9\"]: may not \
             change once set",
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "Service \"s\" is invalid: spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": \
             this cluster is not configured for dual-stack services",
        ),
        (
            json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
            "Service \"s\" is invalid: spec.ipFamilies[1]: Invalid value: \"IPv6\": not configured \
             on this cluster",
        ),
    ] {
        let (code, text) = refused(bed.patch(&place, None, json!({"spec": spec})).await);
        assert_eq!((code, text.as_str()), (422, message));
    }
    let prefer = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    let both = bed.patch(&place, None, prefer).await.expect("one family is what there is");
    assert_eq!(both["spec"]["ipFamilies"], json!(["IPv4"]));
    let free = json!({"clusterIP": "None", "ports": ports()});
    let free = bed.create("/services", "default", service("free", free)).await;
    assert_eq!(free["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]), "whoever writes its endpoints");
    assert_eq!(counts(&bed).await, before);
}
