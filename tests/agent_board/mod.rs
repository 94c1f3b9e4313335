//! A board whose master is the test: real agent, real keeper, real images, the in-memory link.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kumquat::io::clock::Clock;
use kumquat::io::image::ImageStore;
use kumquat::io::keeper::{Keeper, KeeperPaths, cleanup};
use kumquat::io::link::{Gate, MasterEnd, StreamOpen, ToBoard, pair};
use kumquat::node::{self, NodeError, NodeOptions};
use model::ids::Uid;
use model::timestamp::Timestamp;
use model::wire::{
    BeatDownV1, BeatUpV1, DesiredPodV1, DesiredV1, Header, HelloV1, LogsRequestV1, MessageKind,
    ObjectV1, PodStatusV1, StatusV1, StreamRequestV1, decode, encode,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Directories of one test's board.
pub struct Board {
    pub dir: PathBuf,
    pub paths: KeeperPaths,
}

/// Runs a test on a fresh board, if this machine can.
pub fn run(name: &str, test: impl AsyncFnOnce(&Board)) {
    if !nix::unistd::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
        println!("not run: needs root and busybox-static");
        return;
    }
    let dir = PathBuf::from(format!("/tmp/kqa-{}-{name}", std::process::id()));
    let paths = KeeperPaths {
        run_dir: dir.join("run"),
        data_dir: dir.join("data"),
        cgroup: format!("kumquat-agent-{}-{name}", std::process::id()),
        exe: std::env::var_os("KUMQUAT_BINARY")
            .map_or_else(|| env!("CARGO_BIN_EXE_kumquat").into(), PathBuf::from),
    };
    std::fs::create_dir_all(&paths.run_dir).expect("tmp");
    std::fs::create_dir_all(&paths.data_dir).expect("tmp");
    let board = Board { dir, paths };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(test(&board));
}

impl Drop for Board {
    fn drop(&mut self) {
        cleanup(&self.paths).expect("everything of the board goes");
        std::fs::remove_dir_all(&self.dir).expect("nothing is mounted any more");
    }
}

impl Board {
    /// Imports the test image.
    pub fn import(&self, images: &ImageStore) {
        let archive = super::busybox::archive(&self.dir);
        images.import(std::fs::File::open(archive).expect("there"), None).expect("imported");
    }

    pub fn images(&self) -> ImageStore {
        ImageStore::open(self.paths.data_dir.join("images")).expect("image store")
    }

    /// Starts an agent and hears its Hello.
    pub async fn agent(&self, images: &ImageStore) -> Master {
        let (end, link) = pair();
        let keeper = Keeper::connect_or_spawn(self.paths.clone()).await.expect("a keeper");
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(node::run(
            NodeOptions {
                name: "pi-1".to_owned(),
                address: tokio::sync::watch::Sender::new("10.1.2.3".to_owned()).subscribe(),
                mastery: watch::Sender::default().subscribe(),
                renewals: None,
                version: "v1.36.2+kumquat.test".to_owned(),
                root: "/".into(),
                data_dir: self.paths.data_dir.clone(),
                run_dir: self.paths.run_dir.clone(),
                keeper: keeper.clone(),
                images: images.clone(),
                clock: Clock::starting_at(Timestamp(0)),
                source: None,
                network: None,
                link,
                upgrades: None,
            },
            stopped,
        ));
        let mut master = Master {
            end,
            stop,
            task,
            keeper,
            revision: 0,
            statuses: BTreeMap::new(),
            events: Vec::new(),
            hello: None,
            acknowledged: 0,
            held: 0,
        };
        master.until("a hello", |master| master.hello.is_some()).await;
        master.revision = master.hello.as_ref().map_or(0, |hello| hello.desired_revision);
        master
    }

    /// What a boot does: no process, no mount and no run-dir is left.
    pub fn reboot(&self) {
        cleanup(&self.paths).expect("all processes go");
        std::fs::remove_dir_all(&self.paths.run_dir).expect("nothing is mounted any more");
        std::fs::create_dir_all(&self.paths.run_dir).expect("tmp");
    }
}

/// The test's end of the link.
pub struct Master {
    end: MasterEnd,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), NodeError>>,
    pub keeper: Keeper,
    pub revision: u64,
    pub statuses: BTreeMap<Uid, (Value, bool)>,
    pub events: Vec<Value>,
    pub hello: Option<HelloV1>,
    acknowledged: u64,
    /// Revision in the newest beat.
    pub held: u64,
}

/// What leads from a desired set to the next one.
fn difference(base: u64, pods: &[Value], objects: &[(&str, Value)], gone: &[Uid]) -> DesiredV1 {
    let revision = base + 1;
    let pod = |pod: &Value| DesiredPodV1 {
        uid: uid_of(pod),
        version: revision,
        pod: Bytes::from(pod.to_string()),
    };
    let object = |(key, object): &(&str, Value)| ObjectV1 {
        key: (*key).to_owned(),
        version: revision,
        object: Bytes::from(object.to_string()),
    };
    DesiredV1 {
        revision,
        base,
        pods: pods.iter().map(pod).collect(),
        pods_gone: gone.to_vec(),
        objects: objects.iter().map(object).collect(),
        objects_gone: Vec::new(),
    }
}

impl Master {
    /// Sends a difference and waits until the board holds it durably.
    pub async fn desire(&mut self, pods: &[Value], objects: &[(&str, Value)], gone: &[Uid]) {
        let message = difference(self.revision, pods, objects, gone);
        self.revision = message.revision;
        self.send(MessageKind::Desired, &message).await;
        let revision = self.revision;
        self.until("the revision in a beat", |master| master.held == revision).await;
    }

    /// Sends a difference as a leader does whose time has run out meanwhile.
    pub async fn desire_too_late(&mut self, pods: &[Value]) {
        let gate = Gate::new(|| false);
        self.send_through(gate, MessageKind::Desired, &difference(self.revision, pods, &[], &[]))
            .await;
    }

    async fn send(&self, kind: MessageKind, body: &impl serde::Serialize) {
        self.send_through(Gate::open(), kind, body).await;
    }

    async fn send_through(&self, gate: Gate, kind: MessageKind, body: &impl serde::Serialize) {
        let header = Header { kind, epoch: 1, term: 1, sequence: 1 };
        let message = Bytes::from(encode(header, body));
        self.end.down.send(ToBoard { message, gate }).await.expect("the agent runs");
    }

    /// Takes messages until `done`.
    pub async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match tokio::time::timeout(left, self.end.up.recv()).await {
                Ok(Some(message)) => self.take(&message).await,
                Ok(None) => panic!("the agent ended while waiting for {what}"),
                Err(_) => panic!("no {what}: {:#?}\n{:#?}", self.statuses, self.events),
            }
        }
    }

    async fn take(&mut self, message: &[u8]) {
        let (header, body) = Header::split(message).expect("a message");
        match header.kind {
            MessageKind::Hello => self.hello = Some(decode(header.kind, body).expect("a hello")),
            MessageKind::BeatUp => {
                let beat: BeatUpV1 = decode(header.kind, body).expect("a beat");
                self.held = beat.desired_revision;
                let answer = BeatDownV1 {
                    desired_revision: self.revision,
                    net_revision: 0,
                    status_sequence: self.acknowledged,
                    cluster_time: Timestamp(0),
                };
                self.send(MessageKind::BeatDown, &answer).await;
            }
            MessageKind::Status => {
                let status: StatusV1 = decode(header.kind, body).expect("statuses");
                self.acknowledged = status.sequence;
                for PodStatusV1 { uid, status, removable, .. } in status.pods {
                    let status = serde_json::from_slice(&status).expect("json");
                    self.statuses.insert(uid, (status, removable));
                }
                for event in status.events {
                    self.events.push(serde_json::from_slice(&event).expect("json"));
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn status(&self, uid: Uid) -> &Value {
        self.statuses.get(&uid).map_or(&Value::Null, |(status, _)| status)
    }

    /// Waits for a value somewhere in a pod's status.
    pub async fn await_status(&mut self, uid: Uid, pointer: &str, value: impl Into<Value>) {
        let value = value.into();
        let what = format!("{pointer} = {value} of {uid}");
        self.until(&what, |master| master.status(uid).pointer(pointer) == Some(&value)).await;
    }

    pub async fn await_ready(&mut self, uid: Uid) {
        self.await_status(uid, "/containerStatuses/0/ready", true).await;
    }

    pub async fn await_event(&mut self, reason: &str, text: &str) {
        let matches = |event: &Value| {
            event["reason"] == reason && event["message"].as_str().is_some_and(|m| m.contains(text))
        };
        let what = format!("event {reason} {text}");
        self.until(&what, |master| master.events.iter().any(matches)).await;
    }

    /// Asks for a log and reads the stream to its end.
    pub async fn logs(&self, request: LogsRequestV1) -> Result<String, String> {
        let (answer, mut chunks) = mpsc::channel(16);
        let header = Header { kind: MessageKind::Stream, epoch: 1, term: 1, sequence: 1 };
        let request = Bytes::from(encode(header, &StreamRequestV1::Logs(request)));
        self.end
            .streams
            .send(StreamOpen { request, answer, input: None, gate: Gate::open() })
            .await
            .expect("the agent runs");
        let mut text = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            text.extend_from_slice(&chunk?);
        }
        Ok(String::from_utf8(text).expect("text"))
    }

    pub async fn log(&self, pod: Uid, container: &str) -> String {
        let request = LogsRequestV1 { pod, container: container.to_owned(), ..Default::default() };
        self.logs(request).await.expect("a log")
    }

    /// Polls a log until it holds `text`.
    pub async fn await_log(&self, pod: Uid, container: &str, text: &str) {
        let begun = Instant::now();
        loop {
            let log = self.log(pod, container).await;
            if log.contains(text) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{text:?} is not in {log:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the agent; containers go on.
    pub async fn end(self) {
        let _ = self.stop.send(true);
        self.task.await.expect("no panic").expect("a clean end");
    }

    pub async fn pids(&self) -> Vec<(String, u32)> {
        let states = self.keeper.list().await.expect("list");
        states.into_iter().map(|state| (state.id, state.pid)).collect()
    }
}

pub fn uid(number: u8) -> Uid {
    Uid::from_random([number; 16])
}

fn uid_of(pod: &Value) -> Uid {
    Uid::parse(pod["metadata"]["uid"].as_str().expect("a uid")).expect("a uid")
}

/// A pod of one shell script; `change` makes it special.
pub fn pod(number: u8, script: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": "default",
            "uid": uid(number).to_string(), "labels": {"app": "test"}},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "restartPolicy": "Always",
            "containers": [{
                "name": "main", "image": super::busybox::IMAGE, "command": ["/bin/sh", "-c", script],
            }],
        },
    });
    change(&mut pod);
    pod
}

/// The pod as the API shows it after a delete.
pub fn deleted(mut pod: Value, grace_seconds: u32) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T07:16:17Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_seconds);
    pod
}
