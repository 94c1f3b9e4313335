//! Boards over the in-memory link, with the real store, registry and controllers behind it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use logic::contact::Patience;
use model::ids::Uid;
use model::view::{Phase, PodView, kind};
use model::wire::{
    self, BeatDownV1, BeatUpV1, CommandV1, DesiredV1, Header, HelloV1, MessageKind, PodStatusV1,
    StatusV1, TokenAskV1, TokenV1, TokenWantV1, TokensV1,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{DispatchError, Options, run, status};
use crate::io::link::{self, BoardEnd};
use crate::io::tls::TokenKeys;
use crate::master::accounts::Accounts;
use crate::master::contacts::Contacts;
use crate::master::controllers::tests::{Master, deployment};

/// What a board hears.
#[derive(Debug)]
enum Heard {
    Desired(DesiredV1),
    Command(CommandV1),
    Beat(BeatDownV1),
    Tokens(TokensV1),
}

/// A board without containers: it says what the test tells it to say.
struct Board {
    link: BoardEnd,
    dispatcher: JoinHandle<Result<(), DispatchError>>,
    sequence: u64,
    revision: u64,
    pods: BTreeMap<Uid, Value>,
}

impl Board {
    fn connect(master: &Master) -> Self {
        let pod_range = "10.42.0.0/16".parse().ok();
        Self::connect_with(master, Options { pod_range, ..Options::default() })
    }

    fn connect_with(master: &Master, options: Options) -> Self {
        let (end, link) = link::pair();
        let options = Options { beat: Duration::from_millis(50), ..options };
        let signal = master.shutdown.subscribe();
        let (views, registry) = (master.views.clone(), master.registry.clone());
        let name = "pi-1".to_owned();
        let dispatcher = tokio::spawn(run(views, registry, options, name, end, signal));
        Self { link, dispatcher, sequence: 0, revision: 0, pods: BTreeMap::new() }
    }

    async fn say<T: Serialize>(&mut self, kind: MessageKind, body: &T) {
        self.say_as(1, kind, body).await;
    }

    async fn say_as<T: Serialize>(&mut self, sequence: u64, kind: MessageKind, body: &T) {
        let header = Header { kind, epoch: 0, term: 0, sequence };
        self.link.up.send(wire::encode(header, body).into()).await.expect("the master listens");
    }

    async fn hear(&mut self) -> Heard {
        let told = tokio::time::timeout(Duration::from_secs(20), self.link.down.recv()).await;
        let told = told.expect("the master speaks").expect("the link is open");
        let (header, body) = Header::split(&told.message).expect("a message");
        match header.kind {
            MessageKind::Desired => Heard::Desired(wire::decode(header.kind, body).expect("ours")),
            MessageKind::Command => Heard::Command(wire::decode(header.kind, body).expect("ours")),
            MessageKind::BeatDown => Heard::Beat(wire::decode(header.kind, body).expect("ours")),
            MessageKind::Tokens => Heard::Tokens(wire::decode(header.kind, body).expect("ours")),
            other => panic!("not for boards: {other:?}"),
        }
    }

    /// Asks for tokens and gives the answers in the order of the wishes.
    async fn ask(&mut self, wants: &[TokenWantV1]) -> Vec<Result<TokenV1, String>> {
        self.say(MessageKind::TokenAsk, &TokenAskV1 { wants: wants.to_vec() }).await;
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < Duration::from_secs(10), "no tokens");
            let Heard::Tokens(tokens) = self.hear().await else { continue };
            assert!(tokens.answers.iter().map(|answer| &answer.want).eq(wants));
            return tokens.answers.into_iter().map(|answer| answer.token).collect();
        }
    }

    /// The next desired set or difference, taken over.
    async fn desired(&mut self) -> DesiredV1 {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < Duration::from_secs(10), "nothing more is desired");
            let Heard::Desired(desired) = self.hear().await else { continue };
            if desired.base == 0 {
                self.pods.clear();
            } else {
                assert_eq!(desired.base, self.revision, "a difference to what the board has");
            }
            self.revision = desired.revision;
            desired.pods_gone.iter().for_each(|uid| drop(self.pods.remove(uid)));
            for pod in &desired.pods {
                self.pods.insert(pod.uid, serde_json::from_slice(&pod.pod).expect("a pod"));
            }
            return desired;
        }
    }

    async fn hello(&mut self) {
        self.hello_with(json!([{ "type": "Ready", "status": "True", "reason": "KubeletReady" }]))
            .await;
    }

    async fn hello_with(&mut self, conditions: Value) {
        self.hello_as("pi-1", conditions).await;
    }

    async fn hello_as(&mut self, name: &str, conditions: Value) {
        let node = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/arch": "arm64" } },
            "status": {
                "capacity": { "cpu": "4", "memory": "1Gi", "pods": "110" },
                "allocatable": { "cpu": "4", "memory": "1Gi", "pods": "110" },
                "conditions": conditions,
            },
        });
        let node = node.to_string().into();
        let hello = HelloV1 { boot: 7, desired_revision: self.revision, node };
        self.say(MessageKind::Hello, &hello).await;
    }

    async fn report(&mut self, pods: Vec<PodStatusV1>, events: Vec<Bytes>) {
        self.sequence += 1;
        let sequence = self.sequence;
        let status = StatusV1 { sequence, pods, node_status: Bytes::new(), events };
        self.say(MessageKind::Status, &status).await;
    }

    /// Runs every pod that it was told to run, and stops those that are leaving.
    async fn live(&mut self) {
        let reports = self.pods.iter().map(|(uid, pod)| status_of(*uid, pod)).collect();
        self.report(reports, Vec::new()).await;
    }
}

fn status_of(uid: Uid, pod: &Value) -> PodStatusV1 {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
    let since = "2026-11-22T10:00:00Z";
    let status = json!({ "phase": "Running", "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": since }] });
    PodStatusV1 {
        uid,
        namespace: text("namespace"),
        name: text("name"),
        status: status.to_string().into(),
        removable: pod["metadata"]["deletionTimestamp"].is_string(),
    }
}

fn running(master: &Master) -> usize {
    master.views.world().pods().filter(|pod| pod.phase == Phase::Running).count()
}

#[tokio::test]
async fn a_deployment_runs_on_a_board_and_leaves_it() {
    let mut master = Master::new().await;
    let mut board = Board::connect(&master);
    board.hello().await;
    let first = board.desired().await;
    assert_eq!((first.base, first.pods.len()), (0, 0));
    master.create("apps/deployments", deployment("web", 3, json!({}))).await;
    while board.pods.len() < 3 {
        board.desired().await;
    }
    board.live().await;
    master.until("three run", |it| running(it) == 3).await;
    master
        .until("it is available", |it| {
            let deployment = it.get("apps/deployments", "web").expect("exists");
            deployment["status"]["availableReplicas"] == 3
                && deployment["status"]["observedGeneration"]
                    == deployment["metadata"]["generation"]
        })
        .await;
    let pod = board.pods.values().next().expect("three").clone();
    let pod = master.get("/pods", pod["metadata"]["name"].as_str().expect("named"));
    let conditions = pod.expect("exists")["status"]["conditions"].clone();
    let types: Vec<&str> =
        conditions.as_array().into_iter().flatten().filter_map(|it| it["type"].as_str()).collect();
    assert!(types.contains(&"PodScheduled") && types.contains(&"Ready"), "{types:?}");

    master.delete("apps/deployments", "web").await;
    while !board.pods.values().all(|pod| pod["metadata"]["deletionTimestamp"].is_string()) {
        board.desired().await;
    }
    board.live().await;
    while !board.pods.is_empty() {
        board.desired().await;
    }
    assert_eq!(master.views.world().pods().count(), 0);
    master.stop().await;
    board.dispatcher.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_board_gets_what_its_pods_need_and_only_what_changed() {
    let mut master = Master::new().await;
    let map = |value: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "page" },
            "data": { "index.html": value } })
    };
    master.create("/configmaps", map("one")).await;
    let mut board = Board::connect(&master);
    board.hello().await;
    board.desired().await;
    let volumes = json!({"volumes": [{"name": "v", "configMap": {"name": "page"}}]});
    master.create("apps/deployments", deployment("web", 1, volumes)).await;
    let told = board.desired().await;
    assert_eq!((told.pods.len(), told.objects.len()), (1, 1));
    assert_eq!(told.objects[0].key, "configmaps default/page");
    // A status comes from the board and is no news for it: the next news is the new map.
    board.live().await;
    master.until("it runs", |it| running(it) == 1).await;
    master.patch("/configmaps", "page", map("two")).await;
    let told = board.desired().await;
    assert!(told.pods.is_empty(), "{told:?}");
    assert!(String::from_utf8_lossy(&told.objects[0].object).contains("two"));
    master.patch("apps/deployments", "web", json!({"spec": {"replicas": 0}})).await;
    board.desired().await;
    board.live().await;
    let told = board.desired().await;
    assert_eq!(told.pods_gone.len(), 1);
    assert_eq!(told.objects_gone, ["configmaps default/page"]);
    master.stop().await;
}

#[tokio::test]
async fn a_board_that_fell_behind_gets_everything_again() {
    let mut master = Master::new().await;
    master.create("apps/deployments", deployment("web", 2, json!({}))).await;
    let mut board = Board::connect(&master);
    assert!(matches!(board.hear().await, Heard::Command(CommandV1::SayHello)));
    board.hello().await;
    while board.pods.len() < 2 {
        board.desired().await;
    }
    let behind = BeatUpV1 { boot: 7, desired_revision: 1, net_revision: 0, status_sequence: 0 };
    tokio::time::sleep(Duration::from_millis(60)).await;
    board.say(MessageKind::BeatUp, &behind).await;
    let told = board.desired().await;
    assert_eq!((told.base, told.pods.len()), (0, 2));
    // A lost status is asked for again, another boot has to say Hello.
    let lost = BeatUpV1 { desired_revision: board.revision, status_sequence: 9, ..behind.clone() };
    board.say(MessageKind::BeatUp, &lost).await;
    while !matches!(board.hear().await, Heard::Command(CommandV1::ResendStatus)) {}
    board.say(MessageKind::BeatUp, &BeatUpV1 { boot: 8, ..behind }).await;
    while !matches!(board.hear().await, Heard::Command(CommandV1::SayHello)) {}
    // What is durable is acknowledged.
    board.live().await;
    loop {
        if let Heard::Beat(beat) = board.hear().await
            && beat.status_sequence == 1
        {
            assert_eq!(running(&master), 2);
            break;
        }
    }
    master.stop().await;
}

#[tokio::test]
async fn a_lost_status_is_not_acknowledged_by_the_next_one() {
    let mut master = Master::new().await;
    master.create("apps/deployments", deployment("web", 2, json!({}))).await;
    let mut board = Board::connect(&master);
    board.hello().await;
    while board.pods.len() < 2 {
        board.desired().await;
    }
    let reports: Vec<_> = board.pods.iter().map(|(uid, pod)| status_of(*uid, pod)).collect();
    let status = |sequence, pods: &[PodStatusV1]| StatusV1 {
        sequence,
        pods: pods.to_vec(),
        node_status: Bytes::new(),
        events: Vec::new(),
    };
    let revision = board.revision;
    let beat = |status_sequence| BeatUpV1 {
        boot: 7,
        desired_revision: revision,
        net_revision: 0,
        status_sequence,
    };
    // Message 2, the first status, is lost.
    board.say_as(3, MessageKind::Status, &status(2, &reports[1..])).await;
    board.say_as(4, MessageKind::BeatUp, &beat(2)).await;
    loop {
        match board.hear().await {
            Heard::Command(CommandV1::SayHello) if running(&master) == 1 => break,
            Heard::Beat(beat) => assert_eq!(beat.status_sequence, 0, "one was lost"),
            _ => {}
        }
    }
    let node = json!({ "metadata": { "name": "pi-1" }, "status": {} }).to_string().into();
    let hello = HelloV1 { boot: 7, desired_revision: revision, node };
    board.say_as(5, MessageKind::Hello, &hello).await;
    board.say_as(6, MessageKind::Status, &status(3, &reports)).await;
    loop {
        match board.hear().await {
            Heard::Beat(beat) if beat.status_sequence == 3 => break,
            Heard::Desired(desired) => panic!("it has all that is desired: {desired:?}"),
            _ => {}
        }
    }
    assert_eq!(running(&master), 2);
    // What was said before the Hello arrives only now: the pod was starting then.
    let mut overtaken = reports[..1].to_vec();
    overtaken[0].status = json!({ "phase": "Pending" }).to_string().into();
    board.say_as(2, MessageKind::Status, &status(1, &overtaken)).await;
    board.say_as(7, MessageKind::BeatUp, &beat(3)).await;
    board.say_as(8, MessageKind::Status, &status(4, &[])).await;
    while !matches!(board.hear().await, Heard::Beat(beat) if beat.status_sequence == 4) {}
    assert_eq!(running(&master), 2, "what is newer stays");
    master.stop().await;
}

#[tokio::test]
async fn a_pod_that_the_api_does_not_know_has_to_go() {
    let mut master = Master::new().await;
    let mut board = Board::connect(&master);
    board.hello().await;
    board.desired().await;
    let stranger = json!({"metadata": {"name": "old", "namespace": "default"}});
    board.report(vec![status_of(Uid([9; 16]), &stranger)], Vec::new()).await;
    let told = board.desired().await;
    assert_eq!(told.pods_gone, [Uid([9; 16])]);
    master.stop().await;
}

#[tokio::test]
async fn a_node_keeps_what_people_set_and_comes_back_when_deleted() {
    let mut master = Master::new().await;
    let mut board = Board::connect(&master);
    board.hello().await;
    board.desired().await;
    let node = master.get("/nodes", "pi-1").expect("registered");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "pi-1");
    assert_eq!(node["status"]["allocatable"]["cpu"], "4");
    let change = json!({"spec": {"unschedulable": true}, "metadata": {"labels": {"mine": "x"}}});
    master.patch("/nodes", "pi-1", change).await;
    let version = master.quiet().await;
    board.hello().await;
    board.desired().await;
    let node = master.get("/nodes", "pi-1").expect("registered");
    assert_eq!(
        (&node["spec"]["unschedulable"], &node["metadata"]["labels"]["mine"]),
        (&json!(true), &json!("x"),)
    );
    assert_eq!(
        node["metadata"]["resourceVersion"].as_str().map(str::len),
        Some(version.to_string().len())
    );
    assert!(node["metadata"]["resourceVersion"].as_str() <= Some(version.to_string().as_str()));
    let lease = master
        .views
        .world()
        .plain("coordination.k8s.io/leases", "kube-node-lease", "pi-1")
        .map(|lease| lease.meta.owners.len());
    assert_eq!(lease, Some(1));
    master.delete("/nodes", "pi-1").await;
    while !matches!(board.hear().await, Heard::Command(CommandV1::SayHello)) {}
    board.hello().await;
    board.desired().await;
    assert!(master.views.world().node("pi-1").is_some());
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_node_comes_back_as_what_its_key_was_let_in_for() {
    use model::join::{BOARD_KEY, EVICTED, WORKERS, key_text};

    let mut master = Master::new().await;
    let list = async |name: &str, key: [u8; 32]| {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": "kube-system" },
            "data": { key_text(&key): "pi-1" } });
        let op = logic::controller::Op::Create { kind: kind::CONFIG_MAPS, object };
        master.registry.commit(vec![op]).await.expect("written");
    };
    list(WORKERS, [7; 32]).await;
    let options = || Options { board_key: Some([7; 32]), ..Options::default() };
    let mut board = Board::connect_with(&master, options());
    board.hello().await;
    board.desired().await;
    let node = master.get("/nodes", "pi-1").expect("registered");
    let annotations = &node["metadata"]["annotations"];
    assert_eq!(annotations["kumquat.dev/role"], "worker", "whoever deleted it changed nothing");
    assert_eq!(annotations[BOARD_KEY], key_text(&[7; 32]));
    // Nor does a session that lives on bring back a board that was thrown out.
    list(EVICTED, [7; 32]).await;
    master.delete("/nodes", "pi-1").await;
    board.hello().await;
    // It is answered once it was judged.
    board.desired().await;
    assert!(master.get("/nodes", "pi-1").is_none(), "evicted");
    master.stop().await;
}

fn event(kind: &str, name: &str, host: &str) -> Value {
    json!({ "involvedObject": { "kind": kind, "namespace": "default", "name": name },
        "reason": "Pulled", "message": "Container image already present", "type": "Normal",
        "source": { "component": "kubelet", "host": host } })
}

#[tokio::test]
async fn events_of_a_board_are_counted() {
    let mut master = Master::new().await;
    let mut board = Board::connect(&master);
    board.hello().await;
    board.desired().await;
    let event = event("Node", "pi-1", "pi-1");
    for _ in 0..2 {
        board.report(Vec::new(), vec![event.to_string().into()]).await;
    }
    let happening = logic::controller::Event::happening_of(&event);
    let name = master.registry.event_name("pi-1", happening);
    master
        .until("counted", |it| it.get("/events", &name).is_some_and(|event| event["count"] == 2))
        .await;
    master.stop().await;
}

#[tokio::test]
async fn a_board_speaks_for_itself_only() {
    let mut master = Master::new().await;
    let mut board = Board::connect(&master);
    board.hello_as("pi-2", json!([])).await;
    board.hello().await;
    board.desired().await;
    let names: Vec<String> =
        master.views.world().nodes().map(|node| node.meta.name.to_string()).collect();
    assert_eq!(names, ["pi-1"], "a Hello for another board registers nobody");

    let pod = |name: &str, node: &str| {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] } })
    };
    master.create("/pods", pod("mine", "pi-1")).await;
    master.create("/pods", pod("theirs", "pi-9")).await;
    while board.pods.is_empty() {
        board.desired().await;
    }
    let uid_of = |name: &str| {
        let pod = master.get("/pods", name).expect("exists");
        Uid::parse(pod["metadata"]["uid"].as_str().expect("a uid")).expect("a uid")
    };
    let reports = ["mine", "theirs"].map(|name| {
        status_of(uid_of(name), &json!({ "metadata": { "namespace": "default", "name": name } }))
    });
    let events = [("Pod", "mine"), ("Pod", "theirs"), ("Node", "pi-9"), ("Secret", "token")];
    let events = events.map(|(kind, name)| event(kind, name, "pi-9"));
    let said = events.iter().map(|event| Bytes::from(event.to_string())).collect();
    board.report(reports.into(), said).await;
    master.until("its own pod runs", |it| running(it) == 1).await;
    // Acknowledged: all of the message has been dealt with.
    while !matches!(board.hear().await, Heard::Beat(beat) if beat.status_sequence == 1) {}
    let theirs = master.get("/pods", "theirs").expect("exists");
    assert_ne!(theirs["status"]["phase"], "Running");
    let recorded = events.map(|event| {
        let happening = logic::controller::Event::happening_of(&event);
        let about = event["involvedObject"]["name"].as_str().expect("a name");
        master.get("/events", &master.registry.event_name(about, happening))
    });
    let [Some(mine), None, None, None] = recorded else { panic!("{recorded:?}") };
    assert_eq!(mine["source"]["host"], "pi-1", "whatever it says of itself");
    master.stop().await;
}

/// A pod with a volume that asks for a token.
fn pod_with_token(name: &str, node: &str, account: &str) -> Value {
    let mut pod = pod_on(name, node, false);
    let source = json!({ "serviceAccountToken": { "path": "t", "expirationSeconds": 3607 } });
    pod["spec"]["volumes"] = json!([{ "name": "v", "projected": { "sources": [source] } }]);
    pod["spec"]["serviceAccountName"] = account.into();
    pod
}

#[tokio::test]
async fn a_board_gets_the_tokens_that_its_own_pods_ask_for() {
    let mut master = Master::new().await;
    let folder = std::env::temp_dir().join(format!("kumquat-dispatched-{}", std::process::id()));
    let keys = TokenKeys::open(&folder).expect("keys");
    let accounts = Accounts::new(keys.clone(), master.views.clone(), master.registry.clone());
    let options = Options { accounts: Some(accounts), ..Options::default() };
    let mut board = Board::connect_with(&master, options);
    board.hello().await;
    board.desired().await;
    master.until("the account is made", |it| it.get("/serviceaccounts", "default").is_some()).await;
    master.create("/pods", pod_with_token("mine", "pi-1", "default")).await;
    master.create("/pods", pod_with_token("theirs", "pi-9", "default")).await;
    master.create("/pods", pod_with_token("waits", "pi-1", "absent")).await;
    let want = |name: &str, audience: &str| {
        let pod = master.get("/pods", name).expect("exists");
        TokenWantV1 {
            pod: Uid::parse(pod["metadata"]["uid"].as_str().expect("a uid")).expect("a uid"),
            namespace: "default".into(),
            name: name.into(),
            audience: audience.into(),
            seconds: 3607,
        }
    };
    let other = TokenWantV1 { pod: Uid([9; 16]), ..want("mine", "") };
    let wants =
        [want("mine", ""), want("theirs", ""), want("mine", "vault"), other, want("waits", "")];
    let answers = board.ask(&wants).await;
    let refusals: Vec<&str> =
        answers.iter().map(|it| it.as_ref().map_or_else(String::as_str, |_| "")).collect();
    let expected =
        ["", "not on this board", "no such token", "not on this board", "absent not found"];
    for (refusal, expected) in refusals.iter().zip(expected) {
        assert!(refusal.ends_with(expected), "{refusals:?}");
    }
    let token = answers[0].as_ref().expect("its own");
    let claims = keys.verify(&token.text).expect("signed");
    let claims: Value = serde_json::from_slice(&claims).expect("claims");
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "mine");
    assert_eq!(claims["kubernetes.io"]["node"]["name"], "pi-1");
    let life = token.expires.seconds() - token.issued.seconds();
    assert_eq!((life, claims["exp"].as_i64()), (3607, Some(token.expires.seconds())));
    std::fs::remove_dir_all(folder).expect("removed");
    master.stop().await;
}

fn pod_on(name: &str, node: &str, host_network: bool) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": {
        "nodeName": node, "hostNetwork": host_network,
        "containers": [{ "name": "c", "image": "i" }] } })
}

fn block_of(master: &Master, name: &str) -> Option<String> {
    let node = master.get("/nodes", name)?;
    node["spec"]["podCIDR"].as_str().map(ToOwned::to_owned)
}

#[tokio::test]
async fn addresses_that_are_not_the_boards_are_refused() {
    let mut master = Master::new().await;
    let status = json!({ "addresses": [{ "type": "InternalIP", "address": "192.0.2.9" }],
        "conditions": [{ "type": "Ready", "status": "True" }] });
    master.create("/nodes", json!({ "metadata": { "name": "pi-9" }, "status": status })).await;
    master.until("it has a block", |it| block_of(it, "pi-9").is_some()).await;
    let key = Options {
        board_key: Some([3; 32]),
        pod_range: "10.42.0.0/16".parse().ok(),
        ..Options::default()
    };
    let mut board = Board::connect_with(&master, key);
    let hello = |address: &str| {
        let node = json!({
            "metadata": { "name": "pi-1", "finalizers": ["x.dev/stays"], "labels": {
                "kubernetes.io/hostname": "pi-9", "kumquat.dev/board": "rpi",
                "node-restriction.kubernetes.io/secret": "yes" } },
            "spec": { "podCIDR": "10.43.0.0/16", "podCIDRs": ["10.43.0.0/16"],
                "taints": [{ "key": "k", "effect": "NoExecute" }], "unschedulable": true },
            "status": { "addresses": [{ "type": "InternalIP", "address": address },
                { "type": "Hostname", "address": "pi-1" }] },
        });
        HelloV1 { boot: 7, desired_revision: 0, node: node.to_string().into() }
    };
    let addresses = |master: &Master| {
        let node = master.get("/nodes", "pi-1").expect("registered");
        let list = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
        list.iter().map(|it| it["address"].as_str().unwrap_or_default().to_owned()).collect()
    };
    for address in ["192.0.2.9", "10.42.3.4", "10.43.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1"] {
        board.say(MessageKind::Hello, &hello(address)).await;
        board.desired().await;
        let found: Vec<String> = addresses(&master);
        assert_eq!(found, ["pi-1"], "{address}");
    }
    let node = master.get("/nodes", "pi-1").expect("registered");
    assert_eq!(node["spec"]["unschedulable"], Value::Null);
    assert!(!node["spec"]["taints"].to_string().contains("NoExecute"), "{node}");
    assert_eq!(node["metadata"]["finalizers"], Value::Null);
    let labels = json!({ "kubernetes.io/hostname": "pi-1", "kumquat.dev/board": "rpi" });
    assert_eq!(node["metadata"]["labels"], labels);
    board.say(MessageKind::Hello, &hello("192.0.2.1")).await;
    board.desired().await;
    let found: Vec<String> = addresses(&master);
    assert_eq!(found, ["192.0.2.1", "pi-1"]);
    master.until("it has a block", |it| block_of(it, "pi-1").is_some()).await;
    let block = block_of(&master, "pi-1").expect("waited for");
    assert!(block.starts_with("10.42."), "{block}");

    master.create("/pods", pod_on("web", "pi-1", false)).await;
    master.create("/pods", pod_on("host", "pi-1", true)).await;
    while board.pods.len() < 2 {
        board.desired().await;
    }
    let own = block.replace(".0/25", ".5").replace(".128/25", ".133");
    let theirs = block_of(&master, "pi-9").expect("waited for");
    let theirs = theirs.replace(".0/25", ".5").replace(".128/25", ".133");
    let mut number = 0;
    let checks = [
        ("web", own.as_str(), own.as_str(), "192.0.2.1", true),
        ("web", theirs.as_str(), own.as_str(), "192.0.2.1", false),
        ("web", own.as_str(), theirs.as_str(), "192.0.2.1", false),
        ("web", "10.43.0.1", "10.43.0.1", "192.0.2.1", false),
        ("web", "192.0.2.1", "192.0.2.1", "192.0.2.1", false),
        ("host", "192.0.2.1", "192.0.2.1", "192.0.2.1", true),
        ("host", own.as_str(), own.as_str(), "192.0.2.9", false),
    ];
    for (name, one, listed, host, right) in checks {
        number += 1;
        let (uid, pod) = board
            .pods
            .iter()
            .find(|(_, pod)| pod["metadata"]["name"] == name)
            .map(|(uid, pod)| (*uid, pod.clone()))
            .expect("desired");
        let mut status = status_of(uid, &pod);
        let said_as = number.to_string();
        let said = json!({ "phase": "Running", "message": said_as, "podIP": one,
            "podIPs": [{ "ip": listed }], "hostIP": host, "hostIPs": [{ "ip": host }] });
        status.status = said.to_string().into();
        board.report(vec![status], Vec::new()).await;
        let heard = |it: &Master| {
            it.get("/pods", name).is_some_and(|pod| pod["status"]["message"] == said_as)
        };
        master.until("it is heard", heard).await;
        let kept = master.get("/pods", name).expect("exists")["status"].clone();
        let expected = if right { json!(one) } else { Value::Null };
        assert_eq!(kept["podIP"], expected, "{name} {one} {listed}");
        assert_eq!(kept["podIPs"].is_array(), right, "{name} {one} {listed}");
        let expected = if host == "192.0.2.1" { json!(host) } else { Value::Null };
        assert_eq!((&kept["hostIP"], kept["hostIPs"].is_array()), (&expected, host == "192.0.2.1"));
    }
    master.stop().await;
}

#[tokio::test]
async fn how_a_pod_ended_is_told_before_it_is_gone() {
    let mut master = Master::new().await;
    let mut board = Board::connect(&master);
    board.hello().await;
    board.desired().await;
    master.create("/pods", pod_on("web", "pi-1", false)).await;
    while board.pods.is_empty() {
        board.desired().await;
    }
    let (uid, pod) = board.pods.first_key_value().map(|(a, b)| (*a, b.clone())).expect("one");
    master.delete("/pods", "web").await;
    let store = master.registry.store();
    let mut changes = store.watch_kind(&kind::PODS, None, store.version()).expect("a watch");
    let mut left = PodStatusV1 { removable: true, ..status_of(uid, &pod) };
    left.status = json!({ "phase": "Failed" }).to_string().into();
    board.report(vec![left], Vec::new()).await;
    let mut phases = Vec::new();
    while !phases.contains(&None) {
        let change = changes.next().await.expect("a change");
        let body: Option<Value> =
            change.body.as_ref().map(|body| serde_json::from_slice(body).expect("JSON"));
        phases.push(body.map(|body| body["status"]["phase"].clone()));
    }
    assert_eq!(phases, [Some(json!("Failed")), None]);
    master.stop().await;
}

#[tokio::test]
async fn events_about_pods_that_are_gone_are_the_boards_or_nobodys() {
    let mut master = Master::new().await;
    let mut board = Board::connect(&master);
    board.hello().await;
    board.desired().await;
    master.create("/pods", pod_on("web", "pi-1", false)).await;
    master.create("/pods", pod_on("theirs", "pi-9", false)).await;
    while board.pods.is_empty() {
        board.desired().await;
    }
    let (uid, pod) = board.pods.first_key_value().map(|(a, b)| (*a, b.clone())).expect("one");
    master.delete("/pods", "web").await;
    let left = PodStatusV1 { removable: true, ..status_of(uid, &pod) };
    board.report(vec![left], Vec::new()).await;
    while !board.pods.is_empty() {
        board.desired().await;
    }
    let about = |name: &str, uid: Option<Uid>| {
        let mut event = event("Pod", name, "pi-1");
        event["involvedObject"]["uid"] = json!(uid.map(|uid| uid.to_string()));
        event
    };
    // The same name, but another pod, on another board: it is the old one that is spoken of.
    master.create("/pods", pod_on("web", "pi-9", false)).await;
    let theirs = master.get("/pods", "theirs").expect("exists");
    let theirs = Uid::parse(theirs["metadata"]["uid"].as_str().expect("a uid"));
    let events = [
        about("web", Some(uid)),
        about("never", Some(Uid([5; 16]))),
        about("theirs", theirs),
        about("web", None),
    ];
    let owners = events.each_ref().map(|event| {
        let world = master.views.world();
        let had = |about| about == uid;
        status::About::of(event).expect("about something").owner(&world, "pi-1", had)
    });
    use status::Owner::{Another, Board as Own, Nobody};
    assert_eq!(owners, [Own, Nobody, Another, Another]);
    let said = events.iter().map(|event| Bytes::from(event.to_string())).collect();
    board.report(Vec::new(), said).await;
    let recorded = |it: &Master, event: &Value| {
        let happening = logic::controller::Event::happening_of(event);
        let about = event["involvedObject"]["name"].as_str().expect("a name");
        it.get("/events", &it.registry.event_name(about, happening)).is_some()
    };
    master.until("its own is recorded", |it| recorded(it, &events[0])).await;
    assert!(!events[1..3].iter().any(|event| recorded(&master, event)));
    master.stop().await;
}

#[tokio::test]
async fn nonsense_on_the_link_does_no_harm() {
    let mut master = Master::new().await;
    let mut board = Board::connect(&master);
    for bytes in [&b""[..], b"garbage", &[1; 200]] {
        board.link.up.send(Bytes::copy_from_slice(bytes)).await.expect("the master listens");
    }
    let nameless = HelloV1 { boot: 1, desired_revision: 0, node: Bytes::from_static(b"{}") };
    board.say(MessageKind::Hello, &nameless).await;
    board.report(vec![], vec![Bytes::from_static(b"{{")]).await;
    // Where an object belongs: text, a number, a list.
    board.hello_with(json!(["x", 1, [], { "type": "Ready", "status": "True" }])).await;
    let odd = ["metadata", "source", "involvedObject"].map(|field| {
        let mut event = event("Node", "pi-1", "pi-1");
        event[field] = json!(1);
        Bytes::from(event.to_string())
    });
    board.report(vec![], odd.to_vec()).await;
    board.hello().await;
    assert_eq!(board.desired().await.base, 0);
    assert_eq!(master.views.world().nodes().count(), 1);
    let wrong = PodStatusV1 {
        uid: Uid([1; 16]),
        namespace: "default".into(),
        name: "web".into(),
        status: Bytes::from_static(b"[]"),
        removable: false,
    };
    board.report(vec![wrong], Vec::new()).await;
    board.desired().await;
    assert!(master.views.world().pod("default", "web").is_none());
    drop(board.link);
    let ended = board.dispatcher.await.expect("no panic");
    assert!(matches!(ended, Err(DispatchError::LinkClosed)), "{ended:?}");
    let world_has_pods = master.views.world().pods().count();
    assert_eq!((world_has_pods, kind::PODS.as_ref()), (0, "/pods"));
    master.stop().await;
}

fn condition(master: &Master, kind: &str, name: &str, condition: &str) -> Option<Value> {
    let object = master.get(kind, name)?;
    let all = object["status"]["conditions"].as_array()?;
    all.iter().find(|it| it["type"] == condition).cloned()
}

fn count(master: &Master, counts: impl Fn(&PodView) -> bool) -> usize {
    master.views.world().pods().filter(|pod| counts(pod)).count()
}

#[tokio::test]
async fn a_silent_board_is_lost_replaced_and_comes_back_with_the_same_status() {
    let patience = Patience { gone_millis: 100, silence_millis: 700, grace_millis: 2_000 };
    let mut master = Master::with_patience(patience).await;
    let contacts = Contacts::new(&master.views);
    let mut board = Board::connect(&master);
    let ready = json!({ "type": "Ready", "status": "True", "reason": "KubeletReady" });
    let lacks = json!({ "type": "MemoryLimitsMissing", "status": "True" });
    board.hello_with(json!([ready, lacks])).await;
    board.desired().await;
    let bears = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
        "effect": "NoExecute", "tolerationSeconds": 1}]);
    master.create("apps/deployments", deployment("web", 2, json!({"tolerations": bears}))).await;
    while board.pods.len() < 2 {
        board.desired().await;
    }
    board.live().await;
    master.until("both run", |it| running(it) == 2).await;
    // Two other boards that go on speaking; from now on the first says nothing.
    for name in ["pi-2", "pi-3"] {
        let status = json!({ "allocatable": { "cpu": "4", "memory": "1Gi", "pods": "110" },
            "conditions": [{ "type": "Ready", "status": "True" }] });
        master.create("/nodes", json!({"metadata": {"name": name}, "status": status})).await;
    }
    let speaking = tokio::spawn({
        let contacts = contacts.clone();
        async move {
            loop {
                contacts.heard("pi-2");
                contacts.heard("pi-3");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    let unknown = |master: &Master| {
        condition(master, "/nodes", "pi-1", "Ready").is_some_and(|it| it["status"] == "Unknown")
    };
    master.until("it is lost", unknown).await;
    master.until("no pod is ready", |it| count(it, |pod| pod.ready_since.is_some()) == 0).await;
    assert_eq!(contacts.warning(), None);
    let replaced = |master: &Master| {
        count(master, |pod| &*pod.node == "pi-1" && pod.meta.deleting.is_some()) == 2
            && count(master, |pod| &*pod.node != "pi-1" && pod.active()) == 2
    };
    master.until("its pods are replaced", replaced).await;
    master.quiet().await;
    assert!(replaced(&master), "they wait for their board");
    // One beat, and it is asked how it is; it says what it said before, but nothing is missing.
    while !board.pods.values().all(|pod| pod["metadata"]["deletionTimestamp"].is_string()) {
        board.desired().await;
    }
    let revision = board.revision;
    let beat =
        BeatUpV1 { boot: 7, desired_revision: revision, net_revision: 0, status_sequence: 1 };
    board.say(MessageKind::BeatUp, &beat).await;
    while !matches!(board.hear().await, Heard::Command(CommandV1::SayHello)) {}
    board.hello().await;
    board.live().await;
    let speaks = |master: &Master| {
        contacts.heard("pi-1");
        condition(master, "/nodes", "pi-1", "Ready").is_some_and(|it| it["status"] == "True")
            && master.views.world().node("pi-1").is_some_and(|node| node.taints.is_empty())
    };
    master.until("it is ready", speaks).await;
    master.until("its old pods are gone", |it| count(it, |_| true) == 2).await;
    assert_eq!(condition(&master, "/nodes", "pi-1", "MemoryLimitsMissing"), None, "remedied");
    speaking.abort();
    let all = "3 of 3 boards are silent (pi-1, pi-2, pi-3)";
    let all_silent = |_: &Master| contacts.warning().is_some_and(|it| it.starts_with(all));
    master.until("all are silent", all_silent).await;
    master.stop().await;
}
