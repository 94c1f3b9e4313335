//! The world as the store's thread keeps it, the queue of keys, and who is to be woken.
//!
//! The locks are held for short, synchronous pieces of work, never across an await. Time in the
//! queue is monotonic (milliseconds since start): cluster time may stand still or jump.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use logic::contact::Patience;
use logic::controller::{Controller, KeyQueue, Op, Plan};
use logic::world::{Changed, World};
use model::ids::{ObjectKey, Version};
use model::join::BOARD_KEY;
use model::limits::{BATCH_KEYS_MAX, NODE_KEYS_MAX, PLAN_OPS_MAX, RESYNC_KEYS_MAX};
use model::status::ApiError;
use model::timestamp::Timestamp;
use model::view::{View, kind};
use tokio::sync::{Notify, watch};

use crate::io::clock::Clock;
use crate::io::store::{Applied, Change};
use crate::master::contacts::Listening;
use crate::master::keys::is_evicted_list;
use crate::master::net::Net;

/// A key of one controller.
pub(super) type Work = (usize, ObjectKey);

/// What one controller wants for one key.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) work: Work,
    pub(super) plan: Plan,
}

/// The views; clones share them.
#[derive(Clone)]
pub struct Views(Arc<Shared>);

struct Shared {
    world: RwLock<World>,
    controllers: Vec<Box<dyn Controller>>,
    queue: Mutex<Queue>,
    /// There may be something to plan.
    wake: Notify,
    boards: Mutex<HashMap<String, Arc<Notify>>>,
    /// Changes with the list of evicted keys, and with the key of a Node.
    evictions: watch::Sender<()>,
    listening: Listening,
    net: Net,
    clock: Clock,
    start: Instant,
}

#[derive(Default)]
struct Queue {
    keys: KeyQueue<Work>,
    /// Keys were dropped: objects from this place on have yet to be looked at again.
    resync_from: Option<usize>,
    /// When keys were last committed, if that was a moment ago.
    committed: BTreeMap<Work, Timestamp>,
}

/// Reports of one key wait until this long after its last commit.
const REPORT_EVERY_MILLIS: i64 = 200;
/// Of these, the ones that matter no more are forgotten.
const COMMITTED_MAX: usize = 256;

impl Queue {
    fn note_commit(&mut self, work: &Work, now: Timestamp) {
        if self.committed.len() >= COMMITTED_MAX {
            self.committed.retain(|_, at| at.plus_millis(REPORT_EVERY_MILLIS) > now);
        }
        if self.committed.len() < COMMITTED_MAX {
            self.committed.insert(work.clone(), now);
        }
    }

    /// When a report of this key may be written, if not now.
    fn reports_at(&self, work: &Work, now: Timestamp) -> Option<Timestamp> {
        let at = self.committed.get(work)?.plus_millis(REPORT_EVERY_MILLIS);
        (at > now).then_some(at)
    }
}

/// What the store calls for every change.
pub struct Hook {
    views: Views,
    /// The last key of each Node, gone ones too: a connection may be older than a Node's deletion.
    keys: HashMap<Box<str>, Box<str>>,
}

impl Views {
    /// Empty views for these controllers, and the hook that fills them.
    pub fn new(controllers: Vec<Box<dyn Controller>>, clock: Clock) -> (Self, Hook) {
        Self::with_patience(controllers, clock, Patience::default())
    }

    /// The same, with another patience with silent boards.
    pub fn with_patience(
        controllers: Vec<Box<dyn Controller>>,
        clock: Clock,
        patience: Patience,
    ) -> (Self, Hook) {
        let views = Self(Arc::new(Shared {
            world: RwLock::default(),
            controllers,
            queue: Mutex::default(),
            wake: Notify::new(),
            boards: Mutex::default(),
            evictions: watch::Sender::new(()),
            listening: Listening::new(patience),
            net: Net::default(),
            clock,
            start: Instant::now(),
        }));
        (views.clone(), Hook { views, keys: HashMap::new() })
    }

    /// The world; not to be held across an await, because the store's thread waits for it.
    pub fn world(&self) -> RwLockReadGuard<'_, World> {
        // A poisoned world is as good as before: `apply` replaces whole views.
        self.0.world.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is notified whenever the pods of a board, or what they need, may have changed.
    pub fn board(&self, node: &str) -> Arc<Notify> {
        let mut boards = self.0.boards.lock().unwrap_or_else(PoisonError::into_inner);
        boards.entry(node.to_owned()).or_default().clone()
    }

    /// Stops remembering a board.
    pub fn forget_board(&self, node: &str) {
        self.0.boards.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// Changes when a board may not be admitted any more: its key is listed as evicted, or its Node has
    /// another one.
    pub fn evictions(&self) -> watch::Receiver<()> {
        self.0.evictions.subscribe()
    }

    /// What boards are told of the network.
    pub fn net(&self) -> &Net {
        &self.0.net
    }

    /// Who is heard.
    pub(in crate::master) fn listening(&self) -> &Listening {
        &self.0.listening
    }

    /// Shows the world how these boards are judged, and brings their keys to the controllers.
    pub(in crate::master) fn show_contacts(&self, boards: &[&str]) {
        let mut world = self.0.world.write().unwrap_or_else(PoisonError::into_inner);
        let silence = self.judge_world(&mut world, boards);
        let mut keys: Vec<ObjectKey> = boards.iter().map(|board| node_key(board)).collect();
        if silence {
            // Whether pods leave silent boards changes for all of these.
            keys.extend(self.0.listening.book().lost().map(node_key));
        }
        for key in keys {
            let Some(uid) = world.meta(&key).map(|meta| meta.uid) else { continue };
            self.enqueue(&world, &Changed { key, uid, old: None, gone: false });
        }
        drop(world);
        self.0.wake.notify_one();
    }

    /// Copies judgements to the world. `true` when it became another matter whether most are silent.
    fn judge_world(&self, world: &mut World, boards: &[&str]) -> bool {
        let book = self.0.listening.book();
        for board in boards {
            world.set_contact(board, book.contact(board));
        }
        let (silence, (lost, all)) = (book.mass_silence(), book.lost_of());
        let changed = world.set_mass_silence(silence);
        match (changed, silence) {
            (true, true) => tracing::warn!(lost, all, "most boards are silent: nobody is evicted"),
            (true, false) => tracing::info!(lost, all, "most boards are back: eviction goes on"),
            _ => (),
        }
        changed
    }

    /// A Node came or went.
    fn note_node(&self, world: &mut World, node: &str, gone: bool) {
        let listening = &self.0.listening;
        match gone {
            true => listening.book().node_gone(node),
            false => listening.book().node_exists(node, listening.now()),
        }
        self.judge_world(world, &[node]);
        listening.wake();
    }

    /// Cluster time.
    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn elapsed(&self) -> Timestamp {
        let micros = self.0.start.elapsed().as_micros();
        Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a key may be due.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    pub(super) async fn due(&self) {
        let deadline = self.queue().keys.deadline();
        let Some(deadline) = deadline else { return self.0.wake.notified().await };
        let micros = deadline.0.saturating_sub(self.elapsed().0);
        let wait = Duration::from_micros(u64::try_from(micros).unwrap_or_default());
        tokio::select! {
            () = self.0.wake.notified() => (),
            () = tokio::time::sleep(wait) => (),
        }
    }

    /// Plans the keys that are due, as many as fit one commit. Plans with nothing to do are left
    /// out, and no two plans touch the same object.
    pub(super) fn plan_due(&self) -> Vec<Planned> {
        let elapsed = self.elapsed();
        self.resync_some();
        let world = self.world();
        let now = self.now();
        let mut batch = Batch::default();
        for _ in 0..BATCH_KEYS_MAX {
            let Some(work) = self.queue().keys.pop(elapsed) else { break };
            let plan = self.0.controllers[work.0].plan(&world, &work.1, now);
            if let Some(again) = plan.again_at {
                // Cluster time may stand still: never at once again.
                let wait = (again.0 - now.0).max(1_000);
                self.queue().keys.add(work.clone(), Timestamp(elapsed.0.saturating_add(wait)));
            }
            let later =
                if plan.is_report() { self.queue().reports_at(&work, elapsed) } else { None };
            if plan.ops.is_empty() {
                self.queue().keys.succeed(&work);
            } else if let Some(later) = later {
                self.queue().keys.add(work, later);
            } else if let Some(refused) = batch.add(Planned { work, plan }) {
                self.queue().keys.add(refused, elapsed);
                break;
            }
        }
        batch.plans
    }

    /// A plan was committed.
    pub(super) fn succeeded(&self, work: &Work) {
        let elapsed = self.elapsed();
        let mut queue = self.queue();
        queue.keys.succeed(work);
        queue.note_commit(work, elapsed);
    }

    /// A plan was not committed. Gives the failures in a row.
    pub(super) fn failed(&self, work: Work) -> u32 {
        let elapsed = self.elapsed();
        self.queue().keys.retry(work, elapsed)
    }

    /// What to record about a plan that the API refused.
    pub(super) fn refused(&self, work: &Work, error: &ApiError) -> Vec<Op> {
        let now = self.now();
        self.0.controllers[work.0].refused(&self.world(), &work.1, error, now)
    }

    /// Name of the controller that a key belongs to.
    pub(super) fn controller(&self, work: &Work) -> &'static str {
        self.0.controllers[work.0].name()
    }

    /// After keys were dropped: adds the keys of the next objects, when there is room.
    fn resync_some(&self) {
        let from = {
            let mut queue = self.queue();
            if queue.keys.take_overflow() {
                tracing::warn!("too many keys wait for controllers, looking at every object again");
                queue.resync_from = Some(0);
            }
            match queue.resync_from {
                Some(from) if queue.keys.len() < RESYNC_KEYS_MAX => from,
                _ => return,
            }
        };
        let world = self.world();
        let keys: Vec<ObjectKey> = world.keys().skip(from).take(RESYNC_KEYS_MAX).collect();
        self.queue().resync_from = (!keys.is_empty()).then_some(from + keys.len());
        for key in keys {
            let Some(uid) = world.meta(&key).map(|meta| meta.uid) else { continue };
            self.enqueue(&world, &Changed { key, uid, old: None, gone: false });
        }
    }

    fn enqueue(&self, world: &World, changed: &Changed) {
        let elapsed = self.elapsed();
        let mut keys = Vec::new();
        for (index, controller) in self.0.controllers.iter().enumerate() {
            keys.clear();
            controller.keys_for(world, changed, &mut keys);
            if !keys.is_empty() {
                let mut queue = self.queue();
                keys.drain(..).for_each(|key| queue.keys.add((index, key), elapsed));
            }
        }
    }

    fn wake_boards(&self, world: &World, changed: &Changed) {
        let wake = |node: &str| {
            let boards = self.0.boards.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(board) = boards.get(node) {
                board.notify_one();
            }
        };
        let key = &changed.key;
        if key.kind == kind::PODS {
            let old = match &changed.old {
                Some(View::Pod(pod)) => Some(pod),
                _ => None,
            };
            let new = world.pod(&key.namespace, &key.name);
            // A new status comes from the board itself and is no news for it.
            if old.map(|pod| (pod.wish_hash, pod.meta.uid))
                != new.map(|pod| (pod.wish_hash, pod.meta.uid))
            {
                old.into_iter().chain(new).for_each(|pod| wake(&pod.node));
            }
        } else if key.kind == kind::CONFIG_MAPS || key.kind == kind::SECRETS {
            world.nodes_needing(key).into_iter().for_each(wake);
        } else if key.kind == kind::NODES {
            let node = world.node(&key.name);
            // A board that is heard has to say again how it is.
            if node.is_none_or(|node| node.conditions.get("Ready") == Some("Unknown")) {
                wake(&key.name);
            }
        }
    }
}

impl Hook {
    /// Whether a Node belongs to another board than the last that it belonged to.
    fn has_other_key(&mut self, world: &World, changed: &Changed) -> bool {
        let name = changed.key.name.as_str();
        if changed.key.kind != kind::NODES {
            return false;
        }
        let node = world.node(name);
        let Some(key) = node.and_then(|node| node.meta.annotations.get(BOARD_KEY)) else {
            return false;
        };
        if self.keys.get(name).is_some_and(|known| **known == *key) {
            return false;
        }
        if self.keys.len() >= NODE_KEYS_MAX {
            self.keys.retain(|name, _| world.node(name).is_some());
        }
        self.keys.insert(name.into(), key.into()).is_some()
    }
}

impl Applied for Hook {
    fn applied(&mut self, change: &Change) {
        let views = self.views.clone();
        let mut world = views.0.world.write().unwrap_or_else(PoisonError::into_inner);
        let body = change.body.as_deref();
        world.set_time(views.now());
        let changed = match world.apply(&change.key, change.version, change.uid, body) {
            Ok(changed) => changed,
            Err(error) => {
                let cause = &error.source;
                tracing::error!(object = %change.key, %cause, "controllers skip an object that cannot be read");
                return;
            }
        };
        if changed.key.kind == kind::NODES && (changed.gone || changed.old.is_none()) {
            views.note_node(&mut world, &changed.key.name, changed.gone);
        }
        let judges_boards = is_evicted_list(&change.key) || self.has_other_key(&world, &changed);
        views.enqueue(&world, &changed);
        views.net().note(&world, &changed);
        views.wake_boards(&world, &changed);
        drop(world);
        if judges_boards {
            views.0.evictions.send_replace(());
        }
        views.0.wake.notify_one();
    }

    fn opened(&mut self, version: Version) {
        let mut world = self.views.0.world.write().unwrap_or_else(PoisonError::into_inner);
        world.raise_version(version);
    }
}

/// Plans for one commit.
#[derive(Default)]
struct Batch {
    plans: Vec<Planned>,
    touched: std::collections::HashSet<ObjectKey>,
    ops: usize,
}

impl Batch {
    /// Takes a plan in, or gives its key back when it does not fit with the others.
    fn add(&mut self, planned: Planned) -> Option<Work> {
        let touched: Vec<ObjectKey> = planned.plan.ops.iter().filter_map(object_of).collect();
        let full = !self.plans.is_empty() && self.ops + planned.plan.ops.len() > PLAN_OPS_MAX;
        if full || touched.iter().any(|key| self.touched.contains(key)) {
            return Some(planned.work);
        }
        self.ops += planned.plan.ops.len();
        self.touched.extend(touched);
        self.plans.push(planned);
        None
    }
}

fn node_key(name: &str) -> ObjectKey {
    ObjectKey { kind: kind::NODES, namespace: String::new(), name: name.to_owned() }
}

/// The object that an operation changes.
fn object_of(op: &Op) -> Option<ObjectKey> {
    match op {
        Op::Create { kind, object } => {
            let text = |field: &str| {
                object["metadata"][field].as_str().map(str::to_owned).unwrap_or_default()
            };
            Some(ObjectKey { kind: kind.clone(), namespace: text("namespace"), name: text("name") })
        }
        Op::Patch { key, .. }
        | Op::Conditions { key, .. }
        | Op::Delete { key, .. }
        | Op::Bind { pod: key, .. } => Some(key.clone()),
        Op::Event(_) => None,
    }
}
