//! A board leaves the cluster in order: what it does moves to others before it goes.
//!
//! ```text
//! its Node is cordoned ─▶ its pods are evicted ──────────────────────┐
//! the policy is told  ──▶ lead, vote and log go to others (add first) ┴▶ its key is refused, its Node gone
//! ```
//! In: the board's own ask, again and again. Out: the writes above, and what is still waited for. The
//! wish lasts a few moments longer than the last ask, so whoever leads next hears it again, and a board
//! whose person changed their mind stays what it is; only its Node stays cordoned, as after
//! `kubectl drain`.
//! Deliberately absent: throwing out a board that does not ask (`master::evict`).

use std::time::Duration;

use logic::controller::{Op, Propagation};
use logic::world::World;
use model::ids::{Uid, Version};
use model::join::{EVICTED, LEFT_BY_ITSELF, key_text};
use model::leave::LeavingV1;
use model::limits::LEAVE_EVICTIONS_MAX;
use model::resource;
use model::status::ApiError;
use model::view::{Phase, PodView};
use serde_json::{Value, json};

use super::controllers::Views;
use super::keys::{Keys, node_key};
use super::members::Members;
use super::registry::{CommitError, Registry, Target, WriteOptions};
use crate::io::store::StoreError;
use crate::io::tls::BoardPeer;

/// Attempts while others write to the same objects.
const ATTEMPTS_MAX: u32 = 16;
/// A wish to leave lasts so long after the board's last ask.
const ASKED_WITHIN: Duration = Duration::from_secs(15);
/// Pods that a sentence names.
const NAMES_MAX: usize = 3;

/// Why a board cannot leave.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// Nobody is left to take over.
    #[error(
        "board {0} is the only board of its cluster: there is nobody to hand over to. To end the cluster, \
         stop `kumquat up` and remove its data-dir"
    )]
    Only(String),
    /// Pods that nobody would start again.
    #[error(
        "no controller starts these pods elsewhere: {0}. Delete them, or say --force, and they are gone for good"
    )]
    Unmanaged(String),
    /// Something is still waited for.
    #[error("it cannot go yet: {0}")]
    Early(String),
    /// A pod cannot be evicted.
    #[error("pod {0} cannot be evicted: {1}")]
    Pod(String, ApiError),
    /// The store cannot be read.
    #[error("the objects cannot be read")]
    Read(#[from] StoreError),
    /// The store refuses the write.
    #[error("the board's leave cannot be written")]
    Write(#[from] CommitError),
}

/// Lets boards go; clones share it.
#[derive(Clone)]
pub struct Leaver {
    registry: Registry,
    views: Views,
    members: Members,
    own: String,
}

/// What there is of a board that leaves.
struct Board {
    others: usize,
    cordoned: bool,
    /// Pods that have not ended.
    pods: Vec<Pod>,
}

struct Pod {
    namespace: String,
    name: String,
    is_going: bool,
    is_managed: bool,
}

impl Pod {
    fn of(pod: &PodView) -> Self {
        Self {
            namespace: pod.meta.namespace.to_string(),
            name: pod.meta.name.to_string(),
            is_going: pod.meta.deleting.is_some(),
            is_managed: pod.meta.controller().is_some(),
        }
    }

    fn text(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Board {
    fn of(world: &World, name: &str) -> Self {
        let ended = |pod: &&PodView| matches!(pod.phase, Phase::Succeeded | Phase::Failed);
        Self {
            others: world.nodes().filter(|node| *node.meta.name != *name).count(),
            cordoned: world.node(name).is_none_or(|node| node.unschedulable),
            pods: world.pods_on(name).filter(|pod| !ended(pod)).map(Pod::of).collect(),
        }
    }

    /// Why it may not go, whatever is done.
    fn check(&self, name: &str, force: bool) -> Result<(), LeaveError> {
        if self.others == 0 {
            return Err(LeaveError::Only(name.to_owned()));
        }
        let unmanaged = self.pods.iter().filter(|pod| !pod.is_managed && !pod.is_going);
        let unmanaged: Vec<&Pod> = unmanaged.collect();
        match unmanaged.is_empty() || force {
            true => Ok(()),
            false => Err(LeaveError::Unmanaged(named(&unmanaged))),
        }
    }
}

/// The first of these pods, and how many more there are.
fn named(pods: &[&Pod]) -> String {
    let names: Vec<String> = pods.iter().take(NAMES_MAX).map(|pod| pod.text()).collect();
    let more = match pods.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.join(", ") + &more
}

impl Leaver {
    /// For the master on board `own`.
    pub fn new(registry: Registry, views: Views, members: Members, own: &str) -> Self {
        Self { registry, views, members, own: own.to_owned() }
    }

    /// Does the next part of what lets a board go, and says what is waited for. With `force` pods go that
    /// nobody starts again.
    ///
    /// # Errors
    /// [`LeaveError`]; the board stays what it is.
    pub async fn advance(&self, board: &str, force: bool) -> Result<LeavingV1, LeaveError> {
        let seen = Board::of(&self.views.world(), board);
        if let Err(error) = seen.check(board, force) {
            self.members.keep(board);
            return Err(error);
        }
        self.members.let_go(board, ASKED_WITHIN);
        let health = self.members.health();
        let has_heir = health.as_ref().is_some_and(|health| {
            health.members.members.iter().any(|member| member.board != board)
        });
        if board == self.own && !has_heir {
            // Its pods stay until it is known that the board can go.
            let wait = "no other board holds the log yet: one that may become a master takes it over first, and \
                        boards that were let in as workers never do (`kumquat board list`)";
            return Ok(LeavingV1 { ready: false, waits: vec![wait.to_owned()] });
        }
        if !seen.cordoned {
            self.cordon(board).await?;
        }
        let mut waits = self.evict(&seen).await?;
        let is_held = |health: &crate::io::store::GroupHealth| {
            health.members.is_joint() || health.members.of_board(board).is_some()
        };
        if board == self.own {
            waits.push("it leads: another board takes the lead".to_owned());
        } else if health.is_some_and(|health| is_held(&health)) {
            waits.push("it holds the log: another board takes its place".to_owned());
        }
        Ok(LeavingV1 { ready: waits.is_empty(), waits })
    }

    /// Lets a board go for which nothing is waited: its key is refused from here on, wherever it is shown.
    ///
    /// # Errors
    /// [`LeaveError`]; the board is still in then.
    pub async fn end(&self, board: &BoardPeer) -> Result<(), LeaveError> {
        let leaving = self.advance(&board.name, true).await?;
        if !leaving.ready {
            return Err(LeaveError::Early(leaving.waits.join("; ")));
        }
        let keys = Keys::new(self.registry.clone());
        for _ in 0..ATTEMPTS_MAX {
            let now = self.registry.clock().now();
            let said = format!("{} {now} {LEFT_BY_ITSELF}", board.name);
            let list = keys.write(EVICTED, &[(key_text(&board.key), said.into())])?;
            let ops: Vec<Op> = list.into_iter().chain(self.delete_node(&board.name)?).collect();
            if ops.is_empty() {
                return Ok(());
            }
            match self.registry.commit(ops).await {
                // Its beat changed the Node: look again.
                Err(CommitError::Conflict) => {}
                Err(CommitError::Rejected(error)) if error.code == 409 => {}
                Ok(_) => {
                    tracing::info!(node = board.name, "a board has left the cluster");
                    self.members.keep(&board.name);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict.into())
    }

    fn delete_node(&self, name: &str) -> Result<Option<Op>, StoreError> {
        let Some(record) = self.registry.store().get(&node_key(name))? else { return Ok(None) };
        let node: Value = serde_json::from_slice(&record.body).unwrap_or_default();
        let uid = node["metadata"]["uid"].as_str().and_then(Uid::parse).unwrap_or_default();
        let (key, base) = (record.key, record.version);
        let propagation = Propagation::Background;
        Ok(Some(Op::Delete { key, base, uid, grace_seconds: Some(0), propagation }))
    }

    async fn cordon(&self, board: &str) -> Result<(), LeaveError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(record) = self.registry.store().get(&node_key(board))? else { return Ok(()) };
            let (key, base): (_, Version) = (record.key, record.version);
            let merge = json!({ "spec": { "unschedulable": true } });
            let op = Op::Patch { key, base, subresource: None, merge };
            match self.registry.commit(vec![op]).await {
                Err(CommitError::Conflict) => {}
                Err(CommitError::Rejected(error)) if error.code == 409 => {}
                done => return Ok(done.map(drop)?),
            }
        }
        Err(CommitError::Conflict.into())
    }

    /// Evicts what runs there, as far as budgets allow; says what is waited for.
    async fn evict(&self, board: &Board) -> Result<Vec<String>, LeaveError> {
        let mut waits = Vec::new();
        let mut kept = Vec::new();
        let stay = board.pods.iter().filter(|pod| !pod.is_going);
        for pod in stay.take(LEAVE_EVICTIONS_MAX) {
            let resource = resource::find("", "v1", "pods").expect("a kind of the table");
            let target = Target::new(resource, &*pod.namespace, &*pod.name);
            let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": { "name": pod.name, "namespace": pod.namespace } });
            match self.registry.evict(&target, eviction, &WriteOptions::default()).await {
                Err(error) if error.code == 429 => kept.push(pod),
                // It is gone, or changed meanwhile: the next look tells.
                Err(error) if matches!(error.code, 404 | 409) => {}
                Err(error) => return Err(LeaveError::Pod(pod.text(), error)),
                Ok(_) => {}
            }
        }
        if !kept.is_empty() {
            waits.push(format!("a disruption budget keeps {} for now", named(&kept)));
        }
        let going = board.pods.iter().filter(|pod| !kept.iter().any(|it| std::ptr::eq(*it, *pod)));
        let going: Vec<&Pod> = going.collect();
        if !going.is_empty() {
            waits.push(format!("pods stop: {}", named(&going)));
        }
        Ok(waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, is_managed: bool, is_going: bool) -> Pod {
        Pod { namespace: "default".into(), name: name.into(), is_going, is_managed }
    }

    fn check(others: usize, pods: Vec<Pod>, force: bool) -> String {
        let board = Board { others, cordoned: false, pods };
        board.check("pi-3", force).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_keeps_a_board_whatever_is_done() {
        assert_eq!(check(1, Vec::new(), false), "");
        assert!(check(0, Vec::new(), true).contains("only board"), "not by --force");
        assert_eq!(check(2, vec![pod("a", true, false)], false), "", "it starts elsewhere");
        assert_eq!(check(2, vec![pod("a", false, true)], false), "", "it goes already");
        let many = || ["a", "b", "c", "d", "e"].map(|name| pod(name, false, false)).into();
        let refused = check(2, many(), false);
        assert!(refused.contains("default/a, default/b, default/c and 2 more"), "{refused}");
        assert!(refused.contains("--force"), "{refused}");
        assert_eq!(check(2, many(), true), "");
    }
}
