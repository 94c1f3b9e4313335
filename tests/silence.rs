//! A board that falls silent and comes back: real agents over fake keepers, the real loops of a
//! master, and wires between them that can be cut.

#[path = "harness/fake_keeper.rs"]
mod fake_keeper;
#[path = "harness/loops.rs"]
mod loops;
#[path = "harness/simulated.rs"]
mod simulated;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kumquat::io::link::{self, BoardEnd, MasterEnd};
use kumquat::master::contacts::{self, Contacts};
use kumquat::master::dispatcher;
use loops::Loops;
use model::limits::LINK_FRAMES_MAX;
use model::view::PodView;
use serde_json::{Value, json};
use simulated::{Folder, SimulatedBoard, Site, images};
use tokio::sync::mpsc;

const BOARDS: [&str; 3] = ["pi-1", "pi-2", "pi-3"];
/// Longer than it takes to be lost and found, with a margin for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pair of ends; while `cut` is true, nothing passes either way.
fn wire(cut: Arc<AtomicBool>) -> (MasterEnd, BoardEnd) {
    let (master, board) = link::pair();
    let (near_down, far_down) = mpsc::channel(LINK_FRAMES_MAX);
    let (far_up, near_up) = mpsc::channel(LINK_FRAMES_MAX);
    tokio::spawn(pass(far_down, master.down, cut.clone()));
    tokio::spawn(pass(master.up, far_up, cut));
    (MasterEnd { down: near_down, up: near_up, streams: master.streams }, board)
}

async fn pass<T>(mut from: mpsc::Receiver<T>, to: mpsc::Sender<T>, cut: Arc<AtomicBool>) {
    while let Some(frame) = from.recv().await {
        if !cut.load(Ordering::Relaxed) && to.send(frame).await.is_err() {
            return;
        }
    }
}

struct Cluster {
    loops: Loops,
    boards: Vec<SimulatedBoard>,
    cuts: Vec<Arc<AtomicBool>>,
    _folder: Folder,
}

impl Cluster {
    async fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let loops = Loops::start(folder.path()).await;
        tokio::spawn(contacts::run(Contacts::new(&loops.views), loops.stop.subscribe()));
        let images = images(folder.path());
        let (mut boards, mut cuts) = (Vec::new(), Vec::new());
        for name in BOARDS {
            let cut = Arc::new(AtomicBool::new(false));
            let (end, link) = wire(cut.clone());
            let (views, registry) = (loops.views.clone(), loops.registry.clone());
            let (options, stop) = (dispatcher::Options::default(), loops.stop.subscribe());
            tokio::spawn(dispatcher::run(views, registry, options, name.to_owned(), end, stop));
            let site = Site {
                name: name.to_owned(),
                folder: folder.path().join(name),
                address: "10.0.0.1".to_owned(),
                images: images.clone(),
                source: None,
            };
            boards.push(SimulatedBoard::start(site, link).await);
            cuts.push(cut);
        }
        let cluster = Self { loops, boards, cuts, _folder: folder };
        // A board that comes late gets no pod of a deployment that is there already.
        let known = |it: &Self| BOARDS.iter().all(|board| it.condition(board) == "True");
        cluster.until("all boards are ready", known).await;
        cluster
    }

    async fn deployment(&self, replicas: usize, bears_seconds: u32) {
        let bears = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": bears_seconds}]);
        let pod = json!({"containers": [{"name": "c", "image": simulated::IMAGE}],
            "tolerations": bears, "terminationGracePeriodSeconds": 1});
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod});
        let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": template});
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        self.loops.create("apps/deployments", "default", object).await;
    }

    fn count(&self, board: &str, counts: impl Fn(&PodView) -> bool) -> usize {
        self.loops.views.world().pods_on(board).filter(|pod| counts(pod)).count()
    }

    /// Ready pods by board.
    fn ready(&self) -> [usize; 3] {
        BOARDS.map(|board| self.count(board, |pod| pod.active() && pod.ready_since.is_some()))
    }

    fn condition(&self, board: &str) -> Value {
        let nodes = self.loops.list("/nodes");
        let node = nodes.iter().find(|node| node["metadata"]["name"] == board);
        let all = node.and_then(|node| node["status"]["conditions"].as_array().cloned());
        let all = all.unwrap_or_default();
        all.into_iter().find(|it| it["type"] == "Ready").unwrap_or_default()["status"].clone()
    }

    fn taints(&self, board: &str) -> usize {
        self.loops.views.world().node(board).map_or(0, |node| node.taints.len())
    }

    /// Containers started so far on each board.
    fn starts(&self) -> Vec<u64> {
        self.boards.iter().map(|board| board.keeper.starts()).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "never: {what}; ready pods {:?}", self.ready());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        start.elapsed()
    }

    async fn end(self) {
        for board in self.boards {
            board.end().await;
        }
        self.loops.stop.send_replace(true);
        self.loops.registry.store().close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_that_was_away_for_a_while_restarts_nothing() {
    let cluster = Cluster::new("away").await;
    cluster.deployment(6, 300).await;
    cluster.until("two pods on each board", |it| it.ready() == [2; 3]).await;
    let starts = cluster.starts();
    cluster.cuts[2].store(true, Ordering::Relaxed);
    let lost = cluster.until("it is lost", |it| it.condition("pi-3") == "Unknown").await;
    let unready = cluster.until("its pods are not ready", |it| it.ready() == [2, 2, 0]).await;
    cluster.cuts[2].store(false, Ordering::Relaxed);
    let back = cluster.until("it is back", |it| it.condition("pi-3") == "True").await;
    let healed = cluster.until("its pods are ready", |it| it.ready() == [2; 3]).await;
    cluster.until("no taint is left", |it| it.taints("pi-3") == 0).await;
    println!("lost {lost:?}, not ready +{unready:?}, back {back:?}, healed +{healed:?}");
    assert!(lost < Duration::from_secs(11), "{lost:?}");
    assert_eq!(cluster.starts(), starts, "nothing was started again");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_lost_board_are_replaced_and_let_go_on_return() {
    let cluster = Cluster::new("replaced").await;
    // Longer than a beat: of two boards that are cut off at once, one may be lost so much earlier.
    cluster.deployment(6, 6).await;
    cluster.until("two pods on each board", |it| it.ready() == [2; 3]).await;
    cluster.cuts[2].store(true, Ordering::Relaxed);
    let replaced = cluster.until("its pods are replaced", |it| it.ready() == [3, 3, 0]).await;
    let leaving = cluster.count("pi-3", |pod| pod.meta.deleting.is_some());
    assert_eq!(leaving, 2, "they wait for their board");
    assert_eq!(cluster.boards[2].keeper.running_pods().len(), 2, "which still runs them");
    cluster.cuts[2].store(false, Ordering::Relaxed);
    let back = cluster.until("it lets go of them", |it| it.count("pi-3", |_| true) == 0).await;
    cluster.until("it is ready", |it| it.condition("pi-3") == "True").await;
    cluster.until("they have ended", |it| it.boards[2].keeper.running_pods().is_empty()).await;
    println!("replaced {replaced:?}, let go {back:?}");
    // Two boards of three: perhaps it is the master that is cut off.
    cluster.cuts[1..].iter().for_each(|cut| cut.store(true, Ordering::Relaxed));
    cluster.until("both are lost", |it| it.condition("pi-2") == "Unknown").await;
    cluster.until("both are lost", |it| it.condition("pi-3") == "Unknown").await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(cluster.count("pi-2", |pod| pod.meta.deleting.is_some()), 0, "nobody is evicted");
    assert!(Contacts::new(&cluster.loops.views).warning().is_some());
    cluster.end().await;
}
