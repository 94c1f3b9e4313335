//! A board is thrown out for good: its key is refused from then on, wherever it shows it.
//!
//! In: a person's word. Out: one write that lists the key and removes the Node, then the pods of the
//! board are removed so that others take their place, and what its pods could read is told, because
//! whoever has the board has that. Live connections end by themselves: the list of evicted keys is
//! watched ([`super::controllers::Views::evictions`]).
//! The board's name is free afterwards; its key never is.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use logic::controller::{Op, Propagation};
use model::ids::{ObjectKey, Uid, Version};
use model::join::{BOARD_KEY, EVICTED};
use model::limits::PLAN_OPS_MAX;
use model::status::ApiError;
use model::view::{Meta, kind};
use serde::Serialize;
use serde_json::Value;

use super::controllers::Views;
use super::keys::{Keys, node_key};
use super::members::Rows;
use super::registry::{CommitError, ListQuery, Registry};
use crate::io::store::{Record, StoreError};

/// Attempts while others write to the same objects.
const ATTEMPTS_MAX: u32 = 16;

/// What a board could read that was thrown out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evicted {
    /// Its name.
    pub board: String,
    /// Its key, as [`model::join::key_text`].
    pub key: String,
    /// Whether it is or was a master: then it has the keys of the cluster, and all that was written.
    pub master: bool,
    /// Secrets that it can read: those that its pods used; all of them when it is or was a master.
    pub secrets: Vec<Exposed>,
    /// Pods that it had.
    pub pods: usize,
}

/// A Secret that a board has had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exposed {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Pods of the board that use it.
    pub pods: Vec<String>,
}

/// Why a board was not thrown out.
#[derive(Debug, thiserror::Error)]
pub enum EvictError {
    /// No Node of that name.
    #[error("there is no board {0}: `kumquat board list` shows those that there are")]
    Absent(String),
    /// It is the board that answers.
    #[error("board {0} leads this cluster: let another board lead before it is evicted")]
    Leads(String),
    /// Its Node names no key: it has never been let in.
    #[error("board {0} has not shown a key yet: delete its Node instead")]
    NoKey(String),
    /// The API refuses to list Secrets.
    #[error("the Secrets cannot be listed: {0}")]
    List(ApiError),
    /// The store cannot be read.
    #[error("the objects cannot be read")]
    Read(#[from] StoreError),
    /// The store refuses the write.
    #[error("the eviction cannot be written")]
    Write(#[from] CommitError),
}

/// Takes a board out of the group of masters, if it is one.
pub type TakeOut = Arc<dyn Fn(String) -> Taking + Send + Sync>;
/// The answer on its way.
pub type Taking = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Throws boards out; clones share it.
#[derive(Clone)]
pub struct Evictor {
    registry: Registry,
    keys: Keys,
    views: Views,
    own: String,
    take_out: Option<TakeOut>,
}

impl Evictor {
    /// For the master on board `own`.
    pub fn new(registry: Registry, views: Views, own: &str) -> Self {
        let keys = Keys::new(registry.clone());
        Self { registry, keys, views, own: own.to_owned(), take_out: None }
    }

    /// Tells whoever keeps the group of masters, once a key is refused.
    #[must_use]
    pub fn telling(self, take_out: TakeOut) -> Self {
        Self { take_out: Some(take_out), ..self }
    }

    /// Throws a board out for good.
    ///
    /// # Errors
    /// [`EvictError`]; the board is still in then.
    pub async fn evict(&self, name: &str) -> Result<Evicted, EvictError> {
        if name == self.own {
            return Err(EvictError::Leads(name.into()));
        }
        let (pods, mut secrets) = self.held_by(name);
        let (_, _, key) = self.key_of(name)?;
        let master = self.has_been_master(name, &key)?;
        if master {
            self.add_all(&mut secrets)?;
        }
        let key = self.write(name).await?;
        tracing::warn!(node = name, key, pods, master, "a board was evicted for good");
        self.take_out(name);
        self.remove_pods(name).await;
        Ok(Evicted { board: name.into(), key, master, secrets, pods })
    }

    /// Whether this board was ever given the keys of the cluster, or is about to.
    fn has_been_master(&self, name: &str, key: &str) -> Result<bool, StoreError> {
        let (rows, _) = Rows::read(self.registry.store())?;
        let is_member = rows.members.values().any(|at| at.board == name);
        Ok(is_member || self.keys.is_holder(key)?)
    }

    /// Adds the Secrets that no pod of the board uses.
    fn add_all(&self, secrets: &mut Vec<Exposed>) -> Result<(), EvictError> {
        let kind = model::resource::find("", "v1", "secrets").expect("a kind of the table");
        let page = self.registry.list(&ListQuery::all(kind, None)).map_err(EvictError::List)?;
        for item in page.items {
            let secret: Value = serde_json::from_slice(&item.json()).unwrap_or_default();
            let text = |field: &str| secret["metadata"][field].as_str().unwrap_or_default();
            let (namespace, name) = (text("namespace").to_owned(), text("name").to_owned());
            if !secrets.iter().any(|one| one.namespace == namespace && one.name == name) {
                secrets.push(Exposed { namespace, name, pods: Vec::new() });
            }
        }
        secrets.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(())
    }

    /// Its key is refused already; that it leaves the group of masters may take as long as it does.
    fn take_out(&self, name: &str) {
        let Some(take_out) = self.take_out.clone() else { return };
        let name = name.to_owned();
        tokio::spawn(async move {
            if let Err(why) = take_out(name.clone()).await {
                tracing::warn!(
                    node = name,
                    why,
                    "an evicted board is still counted as a master; it is taken out as soon as the \
                     others can"
                );
            }
        });
    }

    fn key_of(&self, name: &str) -> Result<(Record, Value, String), EvictError> {
        let record = self.registry.store().get(&node_key(name))?;
        let record = record.ok_or_else(|| EvictError::Absent(name.into()))?;
        let node: Value = serde_json::from_slice(&record.body).unwrap_or_default();
        let key = node["metadata"]["annotations"][BOARD_KEY].as_str().map(str::to_owned);
        let key = key.ok_or_else(|| EvictError::NoKey(name.into()))?;
        Ok((record, node, key))
    }

    /// Lists the key and removes the Node, together.
    async fn write(&self, name: &str) -> Result<String, EvictError> {
        for _ in 0..ATTEMPTS_MAX {
            let (record, node, key) = self.key_of(name)?;
            let uid = node["metadata"]["uid"].as_str().and_then(Uid::parse).unwrap_or_default();
            let now = self.registry.clock().now();
            let list =
                self.keys.write(EVICTED, &[(key.clone(), format!("{name} {now}").into())])?;
            let gone = delete(record.key.clone(), record.version, uid);
            match self.registry.commit(list.into_iter().chain([gone]).collect()).await {
                // Its beat changed the Node, or another board is thrown out: look again.
                Err(CommitError::Conflict) => {}
                Err(CommitError::Rejected(error)) if error.code == 409 => {}
                committed => return Ok(committed.map(|_| key)?),
            }
        }
        Err(CommitError::Conflict.into())
    }

    /// The number of pods of a board, and the Secrets that they use.
    fn held_by(&self, name: &str) -> (usize, Vec<Exposed>) {
        let world = self.views.world();
        let mut pods = 0;
        let mut secrets: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for pod in world.pods_on(name) {
            pods += 1;
            let used = pod.needs.iter().filter(|(kind, _)| *kind == kind::SECRETS);
            for (_, secret) in used {
                let namespace = pod.meta.namespace.to_string();
                let users = secrets.entry((namespace, secret.to_string())).or_default();
                users.push(pod.meta.name.to_string());
            }
        }
        let exposed = secrets.into_iter().map(|((namespace, name), mut pods)| {
            pods.sort();
            Exposed { namespace, name, pods }
        });
        (pods, exposed.collect())
    }

    /// Removes its pods at once: nobody will ever say that they have ended. What is not removed here is
    /// removed with the pods of all Nodes that are gone.
    async fn remove_pods(&self, name: &str) {
        for _ in 0..ATTEMPTS_MAX {
            let ops: Vec<Op> = {
                let world = self.views.world();
                let pods = world.pods_on(name).map(|pod| &pod.meta);
                // Those with a finalizer stay until that is done; that they are deleted ends their tokens.
                let due = |pod: &&Meta| pod.finalizers.is_empty() || pod.deleting.is_none();
                let pods = pods.filter(due).take(PLAN_OPS_MAX);
                pods.map(|pod| delete(pod.key(kind::PODS), pod.version, pod.uid)).collect()
            };
            if ops.is_empty() {
                return;
            }
            match self.registry.commit(ops).await {
                Ok(_) | Err(CommitError::Conflict) => {}
                Err(error) => {
                    tracing::warn!(node = name, %error, "pods of an evicted board stay for a while");
                    return;
                }
            }
        }
    }
}

fn delete(key: ObjectKey, base: Version, uid: Uid) -> Op {
    Op::Delete { key, base, uid, grace_seconds: Some(0), propagation: Propagation::Background }
}
