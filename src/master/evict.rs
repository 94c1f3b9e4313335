//! A board is thrown out for good: its key is refused from then on, wherever it shows it.
//!
//! In: a person's word: a name, or the key of a card whose name another one has. Out: one write that lists
//! the key and removes the Node, then the pods of the board are removed so that others take their place,
//! and what its pods could read is told, because whoever has the board has that. Of a board that ever had
//! the keys of the cluster the same write says that they are lost and removes the join tokens, also when
//! its Node is gone, or it has said that it left. Live connections end by themselves: the list of evicted keys is
//! watched ([`super::controllers::Views::evictions`]).
//! The board's name is free afterwards; its key never is.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use logic::controller::{Op, Propagation};
use model::ids::{ObjectKey, Uid, Version};
use model::join::{EVICTED, key_text, parse_key};
use model::limits::{PLAN_OPS_MAX, TOKENS_MAX};
use model::status::ApiError;
use model::view::{Meta, kind};
use serde::Serialize;
use serde_json::Value;

use super::authority;
use super::controllers::Views;
use super::keys::{Keys, board_key, node_key};
use super::members::Rows;
use super::registry::{CommitError, ListQuery, Registry};
use super::tokens::{TokenError, removal};
use crate::io::store::{Record, StoreError};

/// Attempts while others write to the same objects.
const ATTEMPTS_MAX: u32 = 16;

/// What a board could read that was thrown out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evicted {
    /// Its name.
    pub board: String,
    /// Its key, as [`model::join::key_text`]; several with commas when it had several.
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
    /// No Node of that name, and no such board ever had keys of the cluster that count.
    #[error("there is no board {0}: `kumquat board list` shows those that there are")]
    Absent(String),
    /// It is the board that answers.
    #[error(
        "board {0} leads this cluster: let another board lead first (stop `kumquat up` there, or run `kumquat board leave`)"
    )]
    Leads(String),
    /// Its Node names no key: it has never been let in.
    #[error("board {0} has not shown a key yet: delete its Node instead")]
    NoKey(String),
    /// The join tokens cannot be listed.
    #[error(transparent)]
    Tokens(#[from] TokenError),
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

/// What is thrown out.
struct Target {
    name: String,
    /// Its Node and the Node's uid; none when it is gone, or is another card's.
    node: Option<(Record, Uid)>,
    /// Whether a board of that name stays.
    stays: bool,
    keys: BTreeSet<String>,
    /// Those of them that have the keys of the cluster which count, or are about to.
    holders: BTreeMap<String, String>,
}

/// Throws boards out; clones share it.
#[derive(Clone)]
pub struct Evictor {
    registry: Registry,
    keys: Keys,
    views: Views,
    own: String,
    own_key: String,
    take_out: Option<TakeOut>,
}

impl Evictor {
    /// For the master on board `own`, which has this key.
    pub fn new(registry: Registry, views: Views, own: &str, own_key: &[u8; 32]) -> Self {
        let keys = Keys::new(registry.clone());
        let (own, own_key) = (own.to_owned(), key_text(own_key));
        Self { registry, keys, views, own, own_key, take_out: None }
    }

    /// Tells whoever keeps the group of masters, once a key is refused.
    #[must_use]
    pub fn telling(self, take_out: TakeOut) -> Self {
        Self { take_out: Some(take_out), ..self }
    }

    /// Throws a board out for good, by its name, or by its key when another one has the name.
    ///
    /// # Errors
    /// [`EvictError`]; the board is still in then.
    pub async fn evict(&self, said: &str) -> Result<Evicted, EvictError> {
        let target = self.target(said)?;
        let held = if target.stays { None } else { Some(self.held_by(&target.name)) };
        let (pods, mut secrets) = held.unwrap_or_default();
        let foreseen = !target.holders.is_empty();
        if foreseen {
            self.add_all(&mut secrets)?;
        }
        let Target { name, stays, keys, holders, .. } = self.write(said).await?;
        let master = !holders.is_empty();
        let key = keys.into_iter().collect::<Vec<_>>().join(", ");
        tracing::warn!(node = name, key, pods, master, "a board was evicted for good");
        if master && !foreseen {
            // It is out, whatever comes of this.
            let added = self.add_all(&mut secrets);
            added.unwrap_or_else(|error| tracing::warn!(%error, "its Secrets cannot be told"));
        }
        if !stays {
            self.take_out(&name);
            self.remove_pods(&name).await;
        }
        Ok(Evicted { board: name, key, master, secrets, pods })
    }

    /// Boards that were given the keys of the cluster that count, or are about to: their keys and names.
    fn held(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let store = self.registry.store();
        let mut held = self.keys.holders()?;
        let (rows, _) = Rows::read(store)?;
        held.extend(rows.members.into_values().map(|at| (key_text(&at.key), at.board)));
        let members = store.members().unwrap_or_default().members;
        held.extend(members.into_iter().map(|member| (key_text(&member.key), member.board)));
        let answered = authority::Said::read(store)?.answered;
        held.retain(|key, _| !answered.contains(key));
        Ok(held)
    }

    /// What a person means by a name or a key. A name means every key that had it: a stolen board may have
    /// taken its leave or another key, and a person may have deleted its Node.
    fn target(&self, said: &str) -> Result<Target, EvictError> {
        let absent = || EvictError::Absent(said.to_owned());
        let mut holders = self.held()?;
        let by_key = parse_key(said).map(|key| key_text(&key));
        let name = match &by_key {
            Some(key) => holders.get(key).cloned().ok_or_else(absent)?,
            None => said.to_owned(),
        };
        let node = self.registry.store().get(&node_key(&name))?;
        let shown = node.as_ref().and_then(board_key);
        // It may have been called otherwise when it was given the keys.
        let is_named = |key: &String, board: &String| *board == name || Some(key) == shown.as_ref();
        holders.retain(|key, board| {
            by_key.as_ref().map_or_else(|| is_named(key, board), |by| by == key)
        });
        let is_meant = by_key.is_none() || by_key == shown;
        let mut keys: BTreeSet<String> = holders.keys().cloned().collect();
        keys.extend(shown.filter(|_| is_meant));
        if keys.contains(&self.own_key) || (is_meant && name == self.own) {
            return Err(EvictError::Leads(name));
        }
        if keys.is_empty() {
            return Err(if node.is_some() { EvictError::NoKey(name) } else { absent() });
        }
        let stays = !is_meant && (node.is_some() || name == self.own);
        let uid = |record: &Record| {
            let node: Value = serde_json::from_slice(&record.body).unwrap_or_default();
            node["metadata"]["uid"].as_str().and_then(Uid::parse).unwrap_or_default()
        };
        let node = node.filter(|_| is_meant).map(|record| {
            let uid = uid(&record);
            (record, uid)
        });
        Ok(Target { name, node, stays, keys, holders })
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

    /// Lists the keys and removes the Node, together; and says that the cluster's keys are lost, if so.
    async fn write(&self, said: &str) -> Result<Target, EvictError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut target = self.target(said)?;
            let now = self.registry.clock().now();
            let entry = |key: &String| (key.clone(), format!("{} {now}", target.name).into());
            let entries: Vec<(String, Value)> = target.keys.iter().map(entry).collect();
            let list = self.keys.write(EVICTED, &entries)?;
            let node = target.node.as_ref();
            let gone = node.map(|(record, uid)| delete(record.key.clone(), record.version, *uid));
            let loss = self.loss(&target.holders)?;
            let ops = list.into_iter().chain(gone).chain(loss).collect();
            // Its beat changed the Node, or another board is thrown out: look again.
            if self.commit(ops).await? {
                self.lose_late(&mut target).await?;
                return Ok(target);
            }
        }
        Err(CommitError::Conflict.into())
    }

    /// The writes that say that the keys of the cluster are lost with these boards. The secrets of all tokens
    /// are, too; should there be more than there may be, the rest goes with the next authority, and admits
    /// nobody until then.
    fn loss(&self, holders: &BTreeMap<String, String>) -> Result<Vec<Op>, EvictError> {
        let lost = authority::lose(self.registry.store(), holders)?;
        let Some(lost) = lost else { return Ok(Vec::new()) };
        let tokens = removal(&self.registry)?.into_iter().take(TOKENS_MAX);
        Ok(tokens.chain([lost]).collect())
    }

    /// The keys of the cluster may have been given to the board in the moment in which it was thrown out:
    /// whoever gives them lists it first, and then looks whether it is out.
    async fn lose_late(&self, target: &mut Target) -> Result<(), EvictError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut held = self.held()?;
            held.retain(|key, _| target.keys.contains(key));
            let loss = self.loss(&held)?;
            let is_said = loss.is_empty();
            target.holders.extend(held);
            if is_said || self.commit(loss).await? {
                return Ok(());
            }
        }
        Err(CommitError::Conflict.into())
    }

    /// Whether it is written; not when others were faster.
    async fn commit(&self, ops: Vec<Op>) -> Result<bool, CommitError> {
        match self.registry.commit(ops).await {
            Err(CommitError::Conflict) => Ok(false),
            Err(CommitError::Rejected(error)) if error.code == 409 => Ok(false),
            committed => committed.map(|_| true),
        }
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

#[cfg(test)]
mod tests {
    use model::join::{BOARD_KEY, HOLDERS, LEFT_BY_ITSELF};
    use model::token::TokenRole;
    use serde_json::json;

    use super::*;
    use crate::master::controllers::tests::Master;
    use crate::master::tokens::{NewToken, Tokens};

    fn key(of: u8) -> String {
        key_text(&[of; 32])
    }

    async fn list(master: &Master, name: &'static str, entries: &[(u8, &str)]) {
        let entries: Vec<(String, Value)> =
            entries.iter().map(|(of, said)| (key(*of), (*said).into())).collect();
        let op = Keys::new(master.registry.clone()).write(name, &entries).expect("readable");
        master.registry.commit(op.into_iter().collect()).await.expect("written");
    }

    async fn node(master: &Master, name: &str, of: u8) {
        let annotations = json!({ BOARD_KEY: key(of) });
        let node = json!({ "metadata": { "name": name, "annotations": annotations } });
        master.create("/nodes", node).await;
    }

    fn lost(master: &Master) -> Vec<(String, String)> {
        let said = authority::Said::read(master.registry.store()).expect("readable");
        said.lost
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stolen_master_without_a_node_is_thrown_out() {
        let mut master = Master::new().await;
        let evictor = Evictor::new(master.registry.clone(), master.views.clone(), "pi-1", &[1; 32]);
        let holders =
            [(1, "pi-1 t"), (2, "pi-2 t"), (3, "pi-3 t"), (4, "pi-1 t"), (5, "pi-5 t"), (7, "x t")];
        list(&master, HOLDERS, &holders).await;
        let left = format!("pi-2 t {LEFT_BY_ITSELF}");
        list(&master, EVICTED, &[(2, &left)]).await;
        for (name, of) in [("pi-1", 1), ("pi-3", 9), ("pi-6", 6), ("pi-7", 7)] {
            node(&master, name, of).await;
        }
        let evict = async |said: &str| {
            let done = evictor.evict(said).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((done.board, done.key, done.master))
        };
        let keys = Keys::new(master.registry.clone());
        let wish = NewToken { uses: 1, ttl_seconds: 60, role: TokenRole::Worker };
        let tokens = Tokens::new(master.registry.clone(), [0; 32]);
        for _ in 0..2 {
            tokens.create(wish).await.expect("a token");
        }
        let holder: BTreeMap<_, _> = [(key(2), "pi-2".to_owned())].into();
        let ops = evictor.loss(&holder).expect("readable");
        assert_eq!(ops.len(), 3, "the tokens go in the write that says it");

        // It took its leave, so that nobody looks for it.
        assert_eq!(keys.lost_holders().expect("readable"), Vec::<String>::new());
        assert_eq!(evict("pi-2").await, Ok(("pi-2".into(), key(2), true)));
        assert_eq!(lost(&master), [(key(2), "pi-2".into())]);
        assert_eq!(keys.lost_holders().expect("readable"), ["pi-2"]);
        assert!(tokens.list().expect("tokens").is_empty());
        assert_eq!(evict("pi-2").await, Ok(("pi-2".into(), key(2), true)), "the answer was lost");
        // A person deleted its Node.
        assert_eq!(evict("pi-5").await, Ok(("pi-5".into(), key(5), true)));
        assert!(keys.is_evicted(&key(5)).expect("readable"));
        // Another card has its name, as a worker.
        assert_eq!(evict(&key(3)).await, Ok(("pi-3".into(), key(3), true)));
        assert!(master.get("/nodes", "pi-3").is_some(), "that one stays");
        assert_eq!(evict(&key(4)).await, Ok(("pi-1".into(), key(4), true)), "an old card of ours");
        assert_eq!(evict("pi-7").await, Ok(("pi-7".into(), key(7), true)), "called x before");
        assert_eq!(lost(&master).len(), 5);
        assert_eq!(evict("pi-6").await, Ok(("pi-6".into(), key(6), false)));
        assert_eq!(
            evict("pi-3").await,
            Ok(("pi-3".into(), format!("{}, {}", key(3), key(9)), true))
        );
        assert!(master.get("/nodes", "pi-3").is_none());

        for own in ["pi-1", key(1).as_str()] {
            assert!(evict(own).await.is_err_and(|why| why.contains("leads")), "{own}");
        }
        for none in ["pi-6", "pi-9", key(6).as_str(), key(8).as_str()] {
            assert!(evict(none).await.is_err_and(|why| why.contains("no board")), "{none}");
        }
        assert!(!keys.is_evicted(&key(1)).expect("readable"));
        master.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keys_that_it_was_given_meanwhile_are_lost_too() {
        let mut master = Master::new().await;
        let evictor = Evictor::new(master.registry.clone(), master.views.clone(), "pi-1", &[1; 32]);
        node(&master, "pi-2", 2).await;
        let mut target = evictor.target("pi-2").expect("there");
        assert!(target.holders.is_empty());
        list(&master, HOLDERS, &[(2, "pi-2 t"), (3, "pi-3 t")]).await;
        evictor.lose_late(&mut target).await.expect("written");
        assert_eq!(target.holders.keys().collect::<Vec<_>>(), [&key(2)]);
        assert_eq!(lost(&master), [(key(2), "pi-2".into())]);
        master.stop().await;
    }
}
