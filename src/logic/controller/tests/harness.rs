//! A cluster in miniature: objects, the world, the queue, and boards that make progress at random.
//!
//! It keeps the rules of the API that controllers rely on (base versions, all or nothing,
//! generation, finalizers, grace) and refuses whatever breaks the rules of plans. The real registry
//! under the real driver is tested in `tests/`.

use std::collections::{BTreeMap, BTreeSet};

use model::ids::{KindKey, ObjectKey, Uid, Version};
use model::limits::PLAN_OPS_MAX;
use model::timestamp::Timestamp;
use model::view::kind;
use serde_json::{Value, json};

use crate::contact::Contact;
use crate::controller::{Controller, Event, KeyQueue, Op, Propagation};
use crate::world::{Changed, World};

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[derive(Clone, Debug)]
struct Stored {
    uid: Uid,
    version: Version,
    body: Value,
}

pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) now: Timestamp,
    pub(crate) random: Random,
    pub(crate) events: Vec<Event>,
    /// Changes of objects so far.
    pub(crate) writes: u64,
    /// Whether commits fail at random.
    pub(crate) fails: bool,
    objects: BTreeMap<ObjectKey, Stored>,
    controllers: Vec<Box<dyn Controller>>,
    queue: KeyQueue<(usize, ObjectKey)>,
}

pub(crate) fn key(kind: KindKey, name: &str) -> ObjectKey {
    let of_cluster = [kind::NAMESPACES, kind::NODES, kind::CLUSTER_ROLES].contains(&kind);
    let namespace = if of_cluster { "" } else { "shop" };
    ObjectKey { kind, namespace: namespace.into(), name: name.into() }
}

impl Cluster {
    /// A cluster with the namespace `shop`.
    pub(crate) fn new(seed: u64, controllers: Vec<Box<dyn Controller>>) -> Self {
        let mut cluster = Self {
            world: World::default(),
            now: Timestamp::from_seconds(1_800_000_000),
            random: Random::seeded(seed),
            events: Vec::new(),
            writes: 0,
            fails: true,
            objects: BTreeMap::new(),
            controllers,
            queue: KeyQueue::default(),
        };
        cluster.create(kind::NAMESPACES, "shop", json!({"spec": {"finalizers": ["kubernetes"]}}));
        cluster
    }

    pub(crate) fn create(&mut self, kind: KindKey, name: &str, mut body: Value) -> Uid {
        let key = key(kind, name);
        body["metadata"]["name"] = name.into();
        self.insert(key, body)
    }

    pub(crate) fn body(&self, key: &ObjectKey) -> Option<&Value> {
        self.objects.get(key).map(|stored| &stored.body)
    }

    pub(crate) fn keys(&self, kind: &str) -> Vec<ObjectKey> {
        self.objects.keys().filter(|key| key.kind == kind).cloned().collect()
    }

    /// A client's merge patch.
    pub(crate) fn patch(&mut self, key: &ObjectKey, patch: Value) {
        let mut body = self.objects[key].body.clone();
        merge(&mut body, &patch);
        self.update(key, body);
    }

    /// A client's delete.
    pub(crate) fn delete(&mut self, key: &ObjectKey, propagation: Propagation) {
        let mut body = self.objects[key].body.clone();
        if body["metadata"]["deletionTimestamp"].is_null() {
            let extra = match propagation {
                Propagation::Background => None,
                Propagation::Foreground => Some("foregroundDeletion"),
                Propagation::Orphan => Some("orphan"),
            };
            let mut finalizers =
                body["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            finalizers.extend(extra.map(Value::from));
            body["metadata"]["finalizers"] = finalizers.into();
            body["metadata"]["deletionTimestamp"] = self.now.to_string().into();
            self.update(key, body);
        }
    }

    /// Judges a board, as the master's contacts do.
    pub(crate) fn set_contact(&mut self, node: &str, contact: Contact) {
        self.world.set_contact(node, contact);
        self.enqueue_node(node);
    }

    /// Says that most boards are silent, or are not any more.
    pub(crate) fn set_mass_silence(&mut self, silence: bool) {
        if self.world.set_mass_silence(silence) {
            let nodes = self.keys("/nodes");
            nodes.iter().for_each(|node| self.enqueue_node(&node.name));
        }
    }

    fn enqueue_node(&mut self, name: &str) {
        let key = key(kind::NODES, name);
        let uid = self.objects[&key].uid;
        self.enqueue(&Changed { key, uid, old: None, gone: false });
    }

    fn enqueue(&mut self, changed: &Changed) {
        let mut keys = Vec::new();
        for (index, controller) in self.controllers.iter().enumerate() {
            keys.clear();
            controller.keys_for(&self.world, changed, &mut keys);
            for key in &keys {
                self.queue.add((index, key.clone()), self.now);
            }
        }
    }

    /// Removes an object without asking, as a board's final delete does.
    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        let stored = self.objects.remove(key).expect("it exists");
        self.apply(key, stored.uid, None);
    }

    fn insert(&mut self, key: ObjectKey, mut body: Value) -> Uid {
        assert!(!self.objects.contains_key(&key), "created twice: {key}");
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(self.writes + 1).to_be_bytes());
        let uid = Uid(bytes);
        body["metadata"]["uid"] = uid.to_string().into();
        body["metadata"]["creationTimestamp"] = self.now.to_string().into();
        body["metadata"]["generation"] = 1.into();
        self.apply(&key, uid, Some(body));
        uid
    }

    fn update(&mut self, key: &ObjectKey, mut body: Value) {
        let before = &self.objects[key];
        let uid = before.uid;
        if before.body == body {
            return;
        }
        if before.body["spec"] != body["spec"] {
            let generation = body["metadata"]["generation"].as_i64().unwrap_or_default();
            body["metadata"]["generation"] = (generation + 1).into();
        }
        let empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
        let held = !empty(&body["metadata"]["finalizers"])
            || (key.kind == kind::NAMESPACES && !empty(&body["spec"]["finalizers"]))
            // A bound pod goes when its board says so.
            || (key.kind == kind::PODS && body["spec"]["nodeName"].is_string());
        if body["metadata"]["deletionTimestamp"].is_string() && !held {
            self.remove(key);
        } else {
            self.apply(key, uid, Some(body));
        }
    }

    fn apply(&mut self, key: &ObjectKey, uid: Uid, body: Option<Value>) {
        self.writes += 1;
        let version = Version(self.writes);
        self.world.set_time(self.now);
        let bytes = body.as_ref().map(|body| body.to_string().into_bytes());
        let changed = self.world.apply(key, version, uid, bytes.as_deref()).expect("a good shape");
        self.enqueue(&changed);
        if let Some(body) = body {
            self.objects.insert(key.clone(), Stored { uid, version, body });
        }
    }

    /// Plans one key that is due. `false` when none is.
    pub(crate) fn step(&mut self) -> bool {
        let Some((index, key)) = self.queue.pop(self.now) else { return false };
        let plan = self.controllers[index].plan(&self.world, &key, self.now);
        let name = self.controllers[index].name();
        assert!(plan.ops.len() <= PLAN_OPS_MAX, "{name} planned too much for {key}");
        if let Some(due) = plan.again_at {
            assert!(due > self.now, "{name} wants {key} again without end");
            self.queue.add((index, key.clone()), due);
        }
        let unlucky = self.fails && self.random.below(3) == 0;
        if !plan.ops.is_empty() && (unlucky || !self.commit(plan.ops)) {
            self.queue.retry((index, key), self.now);
        } else {
            self.queue.succeed(&(index, key));
        }
        true
    }

    /// Plans until nothing is due; a back-off passes at once. Gives the changes made.
    pub(crate) fn settle(&mut self) -> u64 {
        let before = self.writes;
        for steps in 0.. {
            assert!(steps < 20_000, "does not settle");
            if self.step() {
                continue;
            }
            // Only back-offs (up to 30 s) are waited for, not deadlines of minutes.
            match self.queue.deadline() {
                Some(due) if due < self.now.plus_millis(31_000) => self.now = due,
                _ => break,
            }
        }
        self.writes - before
    }

    fn commit(&mut self, ops: Vec<Op>) -> bool {
        let mut touched = BTreeSet::new();
        let mut conditioned = BTreeSet::new();
        for op in &ops {
            let (key, base) = match op {
                Op::Create { kind, object } => {
                    let name = object["metadata"]["name"].as_str().expect("a name");
                    (key(kind.clone(), name), None)
                }
                Op::Patch { key, base, .. }
                | Op::Conditions { key, base, .. }
                | Op::Delete { key, base, .. } => (key.clone(), Some(*base)),
                Op::Bind { pod, base, .. } => (pod.clone(), Some(*base)),
                Op::Event(_) => continue,
            };
            let after_conditions = matches!(op, Op::Delete { .. }) && conditioned.contains(&key);
            if matches!(op, Op::Conditions { .. }) {
                conditioned.insert(key.clone());
            }
            assert!(touched.insert(key.clone()) || after_conditions, "two operations on {key}");
            if self.objects.get(&key).map(|stored| stored.version) != base {
                return false;
            }
        }
        for op in ops {
            self.carry_out(op);
        }
        true
    }

    fn carry_out(&mut self, op: Op) {
        match op {
            Op::Create { kind, object } => {
                let name = object["metadata"]["name"].as_str().expect("a name");
                self.insert(key(kind, name), object);
            }
            Op::Patch { key, subresource, merge, .. } => {
                let spec = self.objects[&key].body["spec"].clone();
                self.patch(&key, merge);
                if subresource == Some("status") {
                    assert_eq!(self.objects[&key].body["spec"], spec, "a status changes no spec");
                }
            }
            Op::Conditions { key, set, .. } => {
                let mut body = self.objects[&key].body.clone();
                crate::controller::set_conditions(&mut body, set);
                self.update(&key, body);
            }
            Op::Delete { key, uid, propagation, grace_seconds, .. } => {
                assert_eq!(self.objects[&key].uid, uid);
                if grace_seconds == Some(0) {
                    self.remove(&key);
                } else {
                    self.delete(&key, propagation);
                }
            }
            Op::Bind { pod, node, .. } => {
                self.patch(&pod, json!({"spec": {"nodeName": node}}));
            }
            Op::Event(event) => self.events.push(event),
        }
    }

    /// The boards make some progress: bind, run, become ready, stop. Gives the changes made.
    pub(crate) fn boards(&mut self, luck: u64) -> u64 {
        let before = self.writes;
        for key in self.keys("/pods") {
            if self.random.below(luck) != 0 {
                continue;
            }
            let body = &self.objects[&key].body;
            if body["metadata"]["deletionTimestamp"].is_string() {
                self.remove(&key);
            } else if body["spec"]["nodeName"].is_null() {
                let node = ["a", "b"][self.random.below(2) as usize];
                self.patch(&key, json!({"spec": {"nodeName": node}}));
            } else if body["status"]["conditions"].is_null() {
                let since = self.now.to_string();
                self.patch(
                    &key,
                    json!({"status": { "phase": "Running", "conditions": [
                        {"type": "Ready", "status": "True", "lastTransitionTime": since}] }}),
                );
            }
        }
        self.writes - before
    }

    /// Boards and controllers until both rest.
    pub(crate) fn rest(&mut self) {
        for rounds in 0.. {
            assert!(rounds < 500, "does not rest");
            let moved = self.settle() + self.boards(2);
            if moved == 0 && self.boards(1) == 0 && self.settle() == 0 {
                return;
            }
            self.now = self.now.plus_millis(1_000);
        }
    }
}

/// JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().expect("made one above");
    for (name, value) in fields {
        if value.is_null() {
            map.remove(name);
        } else {
            merge(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}
