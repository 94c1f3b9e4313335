//! The loops of a master in the test's own process: store, registry, views and controllers.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::path::Path;

use kumquat::io::clock::Clock;
use kumquat::io::store::{Options, Store};
use kumquat::master::controllers::{self, Views};
use kumquat::master::net;
use kumquat::master::registry::{
    DeleteOptions, ListQuery, Registry, RegistryOptions, Target, WriteOptions,
};
use model::network::Ipv4Block;
use model::resource;
use model::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

/// A master without doors: no API port, no bus.
pub struct Loops {
    pub views: Views,
    pub registry: Registry,
    pub clock: Clock,
    /// Ends every loop when it turns true.
    pub stop: watch::Sender<bool>,
}

impl Loops {
    /// Starts them over a new store in `folder`, with the namespaces that every cluster has.
    pub async fn start(folder: &Path) -> Self {
        let clock = Clock::starting_at(Timestamp(0));
        let (stop, stopped) = watch::channel(false);
        let cluster = controllers::Cluster {
            root_ca: "none",
            pods: Ipv4Block::new([10, 0, 0, 0].into(), 8),
            reserved_ports: Vec::new(),
        };
        let (views, hook) = Views::new(controllers::all(cluster), clock.clone());
        let store = Store::open_alone(Options::new(folder.join("store")), Box::new(hook));
        let store = store.expect("store");
        let registry = Registry::new(store, clock.clone(), RegistryOptions::default());
        let registry = registry.expect("registry");
        tokio::spawn(net::run(views.clone(), stopped.clone()));
        tokio::spawn(controllers::run(views.clone(), registry.clone(), stopped));
        let loops = Self { views, registry, clock, stop };
        for name in ["default", "kube-system", "kube-node-lease"] {
            let metadata = json!({"name": name});
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
            loops.create("/namespaces", "", namespace).await;
        }
        loops
    }

    /// Creates an object of a kind such as `/pods` or `apps/deployments`.
    pub async fn create(&self, kind: &str, namespace: &str, object: Value) {
        let target = target(kind, namespace, object["metadata"]["name"].as_str().expect("a name"));
        let created = self.registry.create(&target, object, &WriteOptions::default()).await;
        created.expect("created");
    }

    /// Replaces an object.
    pub async fn update(&self, kind: &str, namespace: &str, object: Value) {
        let target = target(kind, namespace, object["metadata"]["name"].as_str().expect("a name"));
        let updated = self.registry.update(&target, None, object, &WriteOptions::default()).await;
        updated.expect("updated");
    }

    /// Deletes an object; one that is gone already is fine.
    pub async fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let target = target(kind, namespace, name);
        let options = WriteOptions::default();
        match self.registry.delete(&target, &DeleteOptions::default(), &options).await {
            Err(error) if error.code != 404 => panic!("delete {name}: {error}"),
            _ => {}
        }
    }

    /// All objects of a kind.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let row = resource::by_kind_key(kind).expect("in the table");
        let page = self.registry.list(&ListQuery::all(row, None)).expect("a list");
        let items = page.items.iter();
        items.map(|item| serde_json::from_slice(&item.json()).expect("JSON")).collect()
    }
}

fn target(kind: &str, namespace: &str, name: &str) -> Target {
    let row = resource::by_kind_key(kind).expect("in the table");
    Target::new(row, namespace.to_owned(), name.to_owned())
}
