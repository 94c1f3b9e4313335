//! The registry over a real store on a temporary directory.

mod allocations;
mod commits;
mod deletes;
mod evictions;
mod lists;
mod recorded;
mod watches;
mod writes;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use model::resource::{self, Resource};
use model::status::ApiError;
use model::timestamp::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::io::store::Options;

/// A registry with the namespace `default`, and the directory that its store lives in.
struct Bed {
    registry: Registry,
    dir: PathBuf,
}

impl Bed {
    async fn new() -> Self {
        Self::with_range("10.43.0.0/16").await
    }

    async fn with_range(range: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kumquat-registry-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let bed = Self { registry: open(&dir, range), dir };
        bed.create("/namespaces", "", json!({"metadata": {"name": "default"}})).await;
        bed
    }

    /// Closes the store and opens it again, as a restart does.
    async fn reopen(&mut self, range: &str) {
        self.registry.store().close().await;
        self.registry = open(&self.dir, range);
    }

    async fn create(&self, kind: &str, namespace: &str, object: Value) -> Value {
        self.try_create(kind, namespace, object).await.expect("is created")
    }

    async fn try_create(
        &self,
        kind: &str,
        namespace: &str,
        object: Value,
    ) -> Result<Value, ApiError> {
        let target = Target::new(of(kind), namespace, "");
        let written = self.registry.create(&target, object, &WriteOptions::default()).await?;
        assert!(written.created);
        Ok(value(&written.object))
    }

    async fn update(&self, target: &Target, object: Value) -> Result<Value, ApiError> {
        let written = self.registry.update(target, None, object, &WriteOptions::default()).await?;
        Ok(value(&written.object))
    }

    async fn patch(
        &self,
        target: &Target,
        subresource: Option<&str>,
        body: Value,
    ) -> Result<Value, ApiError> {
        let patch = PatchBody { kind: PatchKind::Merge, body };
        let options = WriteOptions::default();
        let written = self.registry.patch(target, subresource, patch, &options).await?;
        Ok(value(&written.object))
    }

    async fn delete(&self, target: &Target, options: Value) -> Result<Value, ApiError> {
        let options = DeleteOptions::from_object(&options);
        let deleted = self.registry.delete(target, &options, &WriteOptions::default()).await?;
        Ok(value(&deleted.object))
    }

    fn get(&self, target: &Target) -> Result<Value, ApiError> {
        self.registry.get(target).map(|object| value(&object))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The directory may be in use for a moment more; what is left is in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn open(dir: &std::path::Path, range: &str) -> Registry {
    let store = Store::open_alone(Options::new(dir), Box::new(())).expect("a store opens");
    let service_range = ServiceRange::parse(range).expect("a range");
    let clock = Clock::starting_at(Timestamp(0));
    Registry::new(store, clock, RegistryOptions { service_range, token_volumes: true })
        .expect("the store is readable")
}

fn of(kind: &str) -> &'static Resource {
    resource::by_kind_key(kind).expect("is in the table")
}

fn target(kind: &str, name: &str) -> Target {
    let resource = of(kind);
    Target::new(resource, if resource.namespaced { "default" } else { "" }, name)
}

fn value(object: &Bytes) -> Value {
    serde_json::from_slice(object).expect("an answer is JSON")
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }})
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// Code and message of a refusal.
fn refused(result: Result<Value, ApiError>) -> (u16, String) {
    let error = result.expect_err("must be refused");
    (error.code, error.message)
}

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str().expect("has a version");
    text.parse().expect("is a number")
}
