//! The driver over the real registry and the real store.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use logic::contact::Patience;
use model::ids::{ObjectKey, Version};
use model::resource;
use model::timestamp::Timestamp;
use model::view::kind;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::io::clock::Clock;
use crate::io::store::{Options, Store};
use crate::master::bootstrap::{self, ApiAddress};
use crate::master::contacts::{self, Contacts};
use crate::master::registry::{
    DeleteOptions, PatchBody, PatchKind, Registry, RegistryOptions, Target, WriteOptions,
};

fn cluster() -> Cluster<'static> {
    let pods = model::network::Ipv4Block::new([10, 42, 0, 0].into(), 16);
    Cluster { root_ca: "PEM", pods, reserved_ports: Vec::new() }
}

/// A master without HTTP: store, registry, views, first objects, driver.
pub(crate) struct Master {
    pub(crate) registry: Registry,
    pub(crate) views: Views,
    pub(crate) shutdown: watch::Sender<bool>,
    driver: Option<JoinHandle<Result<(), DriverError>>>,
    dir: PathBuf,
}

impl Master {
    pub(crate) async fn new() -> Self {
        Self::with_patience(Patience::default()).await
    }

    /// A master that judges silent boards sooner or later than usual.
    pub(crate) async fn with_patience(patience: Patience) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kumquat-controllers-{}-{count}", std::process::id());
        Self::start(std::env::temp_dir().join(name), patience).await
    }

    async fn start(dir: PathBuf, patience: Patience) -> Self {
        let clock = Clock::starting_at(Timestamp(0));
        let (views, hook) = Views::with_patience(all(cluster()), clock.clone(), patience);
        let store = Store::open_alone(Options::new(&dir), Box::new(hook)).expect("a store opens");
        let registry =
            Registry::new(store, clock, RegistryOptions::default()).expect("it is readable");
        let address = ApiAddress { address: [192, 0, 2, 1].into(), port: 6443, others: Vec::new() };
        bootstrap::run(&registry, address).await.expect("first objects");
        let (shutdown, signal) = watch::channel(false);
        tokio::spawn(contacts::run(Contacts::new(&views), signal.clone()));
        let driver = tokio::spawn(run(views.clone(), registry.clone(), signal));
        Self { registry, views, shutdown, driver: Some(driver), dir }
    }

    pub(crate) async fn stop(&mut self) {
        self.shutdown.send_replace(true);
        let driver = self.driver.take().expect("it runs");
        driver.await.expect("no panic").expect("a clean end");
        self.registry.store().close().await;
    }

    /// Stops and starts again on the same directory.
    pub(crate) async fn restart(mut self) -> Self {
        self.stop().await;
        let dir = std::mem::take(&mut self.dir);
        Self::start(dir, Patience::default()).await
    }

    pub(crate) async fn create(&self, kind: &str, object: Value) {
        let target = target(kind, "");
        let options = WriteOptions::default();
        self.registry.create(&target, object, &options).await.expect("is created");
    }

    pub(crate) async fn patch(&self, kind: &str, name: &str, body: Value) {
        let patch = PatchBody { kind: PatchKind::Merge, body };
        let options = WriteOptions::default();
        let target = target(kind, name);
        self.registry.patch(&target, None, patch, &options).await.expect("is patched");
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        let delete = DeleteOptions::from_object(&json!({"propagationPolicy": "Background"}));
        let options = WriteOptions::default();
        let deleted = self.registry.delete(&target(kind, name), &delete, &options).await;
        deleted.expect("is deleted");
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let object = self.registry.get(&target(kind, name)).ok()?;
        Some(serde_json::from_slice(&object).expect("an object is JSON"))
    }

    /// Waits until the condition holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nothing has been written for a while; gives the version.
    pub(crate) async fn quiet(&self) -> Version {
        let mut version = self.registry.store().version();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let next = self.registry.store().version();
            if next == version {
                return version;
            }
            version = next;
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if !self.dir.as_os_str().is_empty() {
            // What cannot be removed is left in the temporary folder.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn target(kind: &str, name: &str) -> Target {
    let resource = resource::by_kind_key(kind).expect("is in the table");
    Target::new(resource, if resource.namespaced { "default" } else { "" }, name)
}

pub(crate) fn deployment(name: &str, replicas: u32, spec: Value) -> Value {
    let mut pod = json!({"containers": [{"name": "c", "image": "hello:1"}]});
    for (field, value) in spec.as_object().cloned().unwrap_or_default() {
        pod[field] = value;
    }
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod } } })
}

fn has_account_and_certificate(master: &Master, namespace: &str) -> bool {
    let world = master.views.world();
    world.plain(&kind::SERVICE_ACCOUNTS, namespace, "default").is_some()
        && world.plain(&kind::CONFIG_MAPS, namespace, "kube-root-ca.crt").is_some()
}

#[tokio::test]
async fn the_first_objects_come_once() {
    let master = Master::new().await;
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        master
            .until("account and certificate", |it| has_account_and_certificate(it, namespace))
            .await;
    }
    let service = master.get("/services", "kubernetes").expect("exists");
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
    let slice = master.get("discovery.k8s.io/endpointslices", "kubernetes").expect("exists");
    assert_eq!(slice["endpoints"][0]["addresses"][0], "192.0.2.1");
    let version = master.quiet().await;
    let position = version.position();
    let address = ApiAddress { address: [192, 0, 2, 1].into(), port: 6443, others: Vec::new() };
    bootstrap::run(&master.registry, address).await.expect("again");
    assert_eq!(master.registry.store().version(), version, "nothing was written again");
    let mut master = master.restart().await;
    let after = master.quiet().await;
    // A new term may write an entry of its own, but no object changes.
    assert!(after.position() <= position + 1, "{} -> {}", position, after.position());
    let address = ApiAddress { address: [192, 0, 2, 2].into(), port: 6443, others: Vec::new() };
    bootstrap::run(&master.registry, address).await.expect("moved");
    let endpoints = master.get("/endpoints", "kubernetes").expect("exists");
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.0.2.2");
    master.stop().await;
}

#[tokio::test]
async fn pods_of_a_deployment_wait_for_a_board_and_say_why() {
    let mut master = Master::new().await;
    master.create("apps/deployments", deployment("web", 3, json!({}))).await;
    let told = |master: &Master| {
        let world = master.views.world();
        world.pods().count() == 3
            && world.pods().all(|pod| {
                pod.unschedulable.as_deref() == Some("no nodes available to schedule pods")
            })
    };
    master.until("three pods that are told why they wait", told).await;
    let version = master.quiet().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(master.registry.store().version(), version, "waiting writes nothing");
    master.delete("apps/deployments", "web").await;
    master
        .until("all of it is collected", |it| {
            let world = it.views.world();
            world.pods().count() == 0
                && world.replicas_in(&kind::REPLICA_SETS, "default").count() == 0
        })
        .await;
    master.stop().await;
}

#[tokio::test]
async fn a_namespace_is_emptied_and_goes() {
    let mut master = Master::new().await;
    master.create("/namespaces", json!({"metadata": {"name": "shop"}})).await;
    master.until("its account", |it| has_account_and_certificate(it, "shop")).await;
    master.delete("/namespaces", "shop").await;
    master.until("it is gone", |it| it.get("/namespaces", "shop").is_none()).await;
    assert_eq!(master.views.world().contents("shop").count(), 0);
    master.stop().await;
}

#[tokio::test]
async fn work_goes_on_after_a_restart() {
    let master = Master::new().await;
    master.create("apps/deployments", deployment("web", 2, json!({}))).await;
    let mut master = master.restart().await;
    let pods = |master: &Master, count: usize| master.views.world().pods().count() == count;
    master.until("two pods", |it| pods(it, 2)).await;
    master.patch("apps/deployments", "web", json!({"spec": {"replicas": 5}})).await;
    master.until("five pods", |it| pods(it, 5)).await;
    let key =
        ObjectKey { kind: kind::DEPLOYMENTS, namespace: "default".into(), name: "web".into() };
    let version = |master: &Master| master.views.world().meta(&key).map(|meta| meta.version);
    master.quiet().await;
    let stored = master.registry.store().get(&key).expect("readable").map(|it| it.version);
    assert_eq!(version(&master), stored, "the world shows what the store has");
    master.stop().await;
}

#[tokio::test]
async fn the_driver_ends_when_the_store_does() {
    let mut master = Master::new().await;
    master.until("an account", |it| has_account_and_certificate(it, "default")).await;
    master.quiet().await;
    master.registry.store().close().await;
    let clock = master.registry.clock().clone();
    // A change that only the world sees: the plan for it meets the closed store.
    let (views, mut hook) = Views::new(all(cluster()), clock);
    let change = crate::io::store::Change {
        version: Version(1),
        key: ObjectKey { kind: kind::NAMESPACES, namespace: "".into(), name: "default".into() },
        uid: model::ids::Uid([1; 16]),
        body: Some("{\"metadata\":{\"name\":\"default\"}}".into()),
        old: None,
        created: true,
    };
    crate::io::store::Applied::applied(&mut hook, &change);
    let (_shutdown, signal) = watch::channel(false);
    let ended =
        tokio::time::timeout(Duration::from_secs(10), run(views, master.registry.clone(), signal));
    let result = ended.await.expect("it ends by itself");
    assert!(matches!(result, Err(DriverError::Store(_))), "{result:?}");
    master.shutdown.send_replace(true);
    let driver = master.driver.take().expect("it runs");
    driver.await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_name_that_goes_to_another_key_has_boards_judged_anew() {
    let mut master = Master::new().await;
    let mut evictions = master.views.evictions();
    let node = |key: &str| {
        json!({ "metadata": { "name": "pi-2",
            "annotations": { model::join::BOARD_KEY: key } } })
    };
    evictions.mark_unchanged();
    let judged = |evictions: &mut watch::Receiver<()>| {
        let is_new = evictions.has_changed().expect("the views live");
        evictions.mark_unchanged();
        is_new
    };
    master.create("/nodes", node("aa")).await;
    master.patch("/nodes", "pi-2", json!({ "metadata": { "labels": { "a": "b" } } })).await;
    assert!(!judged(&mut evictions), "a new board, and its own news");
    // A person deletes the Node, and another board takes the name.
    master.delete("/nodes", "pi-2").await;
    master.until("its Node is gone", |master| master.get("/nodes", "pi-2").is_none()).await;
    assert!(!judged(&mut evictions), "its board may come back");
    master.create("/nodes", node("aa")).await;
    assert!(!judged(&mut evictions), "it came back");
    master.delete("/nodes", "pi-2").await;
    master.until("its Node is gone", |master| master.get("/nodes", "pi-2").is_none()).await;
    master.create("/nodes", node("bb")).await;
    assert!(judged(&mut evictions), "another board has the name");
    master.patch("/nodes", "pi-2", node("cc")).await;
    assert!(judged(&mut evictions), "and another one");
    let list = json!({ "metadata": { "name": model::join::EVICTED, "namespace": "kube-system" },
        "data": { "cc": "stolen" } });
    let kind = model::resource::by_kind_key("/configmaps").expect("in the table");
    let list_target = Target::new(kind, "kube-system", model::join::EVICTED);
    let created = master.registry.create(&list_target, list, &WriteOptions::default()).await;
    created.expect("is created");
    assert!(judged(&mut evictions), "a key is evicted");
    master.stop().await;
}
