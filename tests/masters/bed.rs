//! A cluster under ten writers to which something happens, and what became of everything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use kumquat::io::net;
use serde_json::{Value, json};

use crate::board::{Board, possible};
use crate::cell::{Cell, Disks, Fault, Role};
use crate::clients::{Client, Doors, Sent, parsed};
use crate::history::{Moment, now};
use crate::linearizable::check;
use crate::reigns;
use crate::switch::{Cluster, is_ready};
use crate::writers::{self, Plan, Written, Wrong};
use crate::{busybox, figures};

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const WRITERS: usize = 10;
/// Quick enough that ten writers show a gap of some milliseconds, and a small machine keeps up.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a write that soon meets the end of a full disk.
const PADDING_TO_FILL: usize = 1 << 10;
/// A client that waits longer turns to another door: shorter than a change of leaders, which is what a
/// gap is to show.
const PATIENCE: Duration = Duration::from_millis(600);
/// Writers run for this long before anything happens.
const BEFORE: Duration = Duration::from_secs(1);
/// A fault lasts at least so long, and until writes have been accepted again for a second.
const LASTS: Duration = Duration::from_secs(6);
const LASTS_AT_MOST: Duration = Duration::from_secs(30);
/// After it everything is well again within this time.
const WELL_WITHIN: Duration = Duration::from_secs(120);
/// Entries that a voter may be behind while writers write.
const LAG_MAX: u64 = 200;
/// Longest time without an accepted write: five times what SPEC promises, since CI has two cores and other
/// work; `cargo xtask soak masters` measures it.
const GAP_MAX: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(100);
/// Seconds that an idle cluster is listened to.
const IDLE_SECONDS: u64 = 30;

/// What one trial showed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    gap: Duration,
    /// The same at the doors of the boards that nothing happens to, the longest of them.
    door_gap: Duration,
    accepted: usize,
    unknown: usize,
    refused: usize,
    lost: usize,
    pub(crate) wrong: Vec<Wrong>,
    pub(crate) leaders: Vec<String>,
    pub(crate) restarted: Vec<String>,
    packets_per_second: f64,
    /// From the end of the fault until all were well.
    well: Duration,
}

impl Outcome {
    /// As the file of a cell holds it.
    pub(crate) fn line(&self, cell: &str, trial: usize) -> Value {
        let millis = |time: Duration| (time.as_secs_f64() * 1e5).round() / 1e2;
        json!({
            "cell": cell, "trial": trial, "gap_ms": millis(self.gap),
            "door_gap_ms": millis(self.door_gap), "accepted": self.accepted,
            "unknown": self.unknown, "refused": self.refused, "lost": self.lost,
            "wrong": self.wrong.len() - self.lost, "leaders": self.leaders.len(),
            "restarted": self.restarted.len(), "well_ms": millis(self.well),
            "packets_per_second": self.packets_per_second,
        })
    }

    /// Fails when a promise was broken.
    pub(crate) fn assert_kept(&self) {
        assert_eq!(self.wrong, [], "what became of writes");
        assert_eq!(self.leaders, [""; 0], "leaders that acted after their successors");
        assert_eq!(self.restarted, [""; 0], "containers started again");
        assert!(self.gap < GAP_MAX, "{:?} without an accepted write", self.gap);
        assert!(self.door_gap < GAP_MAX, "{:?} without one at a sound board's door", self.door_gap);
    }
}

/// A cluster on which trials follow each other. The boards go before their disks.
pub(crate) struct Bed {
    voters: u8,
    pub(crate) cluster: Cluster,
    _disks: Disks,
    pub(crate) doors: Doors,
    plan: Plan,
    has_pods: bool,
    /// How long a fault lasts at least.
    pub(crate) lasts: Duration,
    /// Bytes of each board's log that were looked at.
    read: Vec<usize>,
    /// First versions of reigns, as far as logs were read.
    beginnings: BTreeMap<u64, reigns::Reign>,
}

impl Bed {
    /// A cluster of so many voters that are well, each with a pod; small disks of their own for trials
    /// that fill them.
    pub(crate) fn new(name: &str, voters: u8, small_disks: bool) -> Option<Self> {
        let mut bed = Self::bare(name, voters, small_disks)?;
        bed.has_pods = busybox::present(name);
        bed.start_pods();
        Some(bed)
    }

    /// The same without pods.
    pub(crate) fn bare(name: &str, voters: u8, small_disks: bool) -> Option<Self> {
        if !possible(name) {
            return None;
        }
        let mut disks = Disks::default();
        let mut cluster = Cluster::off(&format!("m-{name}"), voters);
        cluster.role = "auto";
        for board in &mut cluster.boards {
            board.environment(&[("KUMQUAT_LOG", "debug")]);
            if voters == 5 {
                board.configure("[masters]\nvoters = 5\n");
            }
            if small_disks {
                disks.add(board);
            }
        }
        cluster.boards[0].up(&[]);
        for index in 1..cluster.boards.len() {
            cluster.start_joining(index);
        }
        cluster.switch.listen();
        let kubeconfig = std::fs::read_to_string(cluster.master().kubeconfig()).expect("read");
        let address = |board: &Board| SocketAddr::from((board.address(), 6443));
        let doors = Doors::new(&kubeconfig, cluster.boards.iter().map(address).collect());
        let plan = Plan {
            collection: COLLECTION.to_owned(),
            writers: WRITERS,
            padding: 100,
            pause: PAUSE,
            patience: PATIENCE,
            values: Arc::default(),
            last_accepted: Arc::default(),
        };
        let read = vec![0; cluster.boards.len()];
        let beginnings = BTreeMap::new();
        let bed = Self {
            voters,
            cluster,
            _disks: disks,
            doors,
            plan,
            has_pods: false,
            lasts: LASTS,
            read,
            beginnings,
        };
        bed.wait_well();
        Some(bed)
    }

    /// On each board a pod that reads what one of the writers writes: every board is told of each of
    /// those writes.
    fn start_pods(&mut self) {
        if !self.has_pods {
            return;
        }
        let told = json!({"metadata": {"name": writers::TOLD}, "data": {"value": "0"}});
        self.api(&Method::POST, COLLECTION, Some(&told));
        for index in 0..self.cluster.boards.len() {
            self.cluster.import_busybox(index);
            let node = self.cluster.boards[index].node();
            let script = "while true; do sleep 1; done";
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("steady-{node}")},
                "spec": {
                    "nodeName": node,
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "main", "image": busybox::IMAGE,
                        "command": ["/bin/sh", "-c", script],
                        "envFrom": [{"configMapRef": {"name": writers::TOLD}}],
                    }],
                },
            });
            self.api(&Method::POST, PODS, Some(&pod));
        }
        let deadline = Instant::now() + WELL_WITHIN;
        loop {
            let list = self.api(&Method::GET, PODS, None);
            let pods = list["items"].as_array().map_or(&[][..], Vec::as_slice);
            if pods.iter().all(|pod| is_ready(pod) == Some(true)) {
                return;
            }
            assert!(Instant::now() < deadline, "steady pods do not run: {list}");
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// One request at whichever door answers.
    pub(crate) fn api(&self, method: &Method, path: &str, body: Option<&Value>) -> Value {
        self.client(0, |mut client| async move {
            let deadline = Instant::now() + WELL_WITHIN;
            loop {
                match client.ask(method, path, body).await {
                    Sent::Answered { code: 200 | 201, body } => return parsed(&body),
                    other => assert!(Instant::now() < deadline, "{method} {path}: {other:?}"),
                }
                tokio::time::sleep(POLL_EVERY).await;
            }
        })
    }

    /// What a board says of the cluster.
    fn status(&self, index: usize) -> Option<Value> {
        let output = self.cluster.boards[index].command(&["status", "-o", "json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).ok()).flatten()
    }

    /// Index of the board that leads, as those say who know the newest reign.
    pub(crate) fn leader(&self) -> usize {
        let said = (0..self.cluster.boards.len()).filter_map(|index| self.status(index));
        let newest = said.max_by_key(|status| (status["epoch"].as_u64(), status["term"].as_u64()));
        let name = newest.map(|status| status["leader"].clone()).unwrap_or_default();
        let found = self.cluster.boards.iter().position(|board| board.node() == name);
        found.unwrap_or_else(|| panic!("nobody leads: {name}"))
    }

    /// Waits until every board shows all voters, all boards are ready and the leader's door serves.
    pub(crate) fn wait_well(&self) -> Duration {
        let began = Instant::now();
        let mut why = String::new();
        while began.elapsed() < WELL_WITHIN {
            match (0..self.cluster.boards.len()).find_map(|index| self.trouble(index)) {
                None => return began.elapsed(),
                Some(trouble) => why = trouble,
            }
            std::thread::sleep(POLL_EVERY);
        }
        for board in &self.cluster.boards {
            let log = board.log();
            let from = log.len().saturating_sub(20_000);
            eprintln!("end of the log of {}:\n{}", board.node(), log.get(from..).unwrap_or(""));
        }
        panic!("not well within {WELL_WITHIN:?}: {why}");
    }

    fn trouble(&self, index: usize) -> Option<String> {
        let node = self.cluster.boards[index].node();
        let Some(status) = self.status(index) else { return Some(format!("{node} says nothing")) };
        let voters = status["voters"].as_array().map_or(0, Vec::len);
        if voters != usize::from(self.voters) {
            return Some(format!("{node} knows {voters} voters"));
        }
        let boards = status["boards"].as_array().map_or(&[][..], Vec::as_slice);
        let ready = boards.iter().filter(|board| board["ready"] == true).count();
        if ready != self.cluster.boards.len() {
            return Some(format!("{node} knows {ready} ready boards"));
        }
        if status["leader"] != node {
            return None;
        }
        // Not only on the list: each has the log, up to a moment ago.
        for board in boards {
            let lag = board["lag"].as_u64().unwrap_or(0);
            if board["standing"] != "voter" && board["standing"] != "leader" || lag > LAG_MAX {
                return Some(format!(
                    "{} is {} and {lag} entries behind",
                    board["name"], board["standing"]
                ));
            }
        }
        let asked = self.client(index, |mut client| async move {
            client.ask(&Method::GET, "/api/v1/namespaces/default", None).await
        });
        match asked {
            Sent::Answered { code: 200, .. } => None,
            other => Some(format!("the door of {node}: {other:?}")),
        }
    }

    /// Container and restarts of each steady pod.
    fn containers(&self) -> BTreeMap<String, String> {
        if !self.has_pods {
            return BTreeMap::new();
        }
        let list = self.api(&Method::GET, PODS, None);
        let pods = list["items"].as_array().expect("pods").iter();
        let of = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            (name, format!("{} {}", status["containerID"], status["restartCount"]))
        };
        pods.map(of).collect()
    }

    /// One trial of a cell.
    pub(crate) fn trial(&mut self, cell: Cell, trial: usize) -> Outcome {
        if cell.fault == Fault::Idle {
            return self.idle();
        }
        let leader = self.leader();
        let count = self.cluster.boards.len();
        let victim = match cell.role {
            Role::Leader => leader,
            Role::Follower => (leader + 1 + trial % (count - 1)) % count,
        };
        let containers = self.containers();
        let before = self.client(0, |mut client| async move {
            writers::listed(&mut client, COLLECTION, WELL_WITHIN).await
        });
        let (mut written, event, until, well) = self.under_writers(cell.fault, victim, trial);
        written.history.initial = before.objects;
        let (lost, wrong) = self.judge(&written, before.version);
        let after = self.containers();
        let others = (0..count).filter(|door| *door != victim);
        let others = others.map(|door| written.longest_gap_at(door, event, until));
        let restarted = containers.iter().filter(|(name, was)| after.get(*name) != Some(*was));
        Outcome {
            gap: written.longest_gap(event, until),
            door_gap: others.max().unwrap_or_default(),
            accepted: written.accepted().len(),
            unknown: written.history.unknown(),
            refused: written.refused.len(),
            lost,
            wrong,
            leaders: self.leaders_at_once(&written),
            restarted: restarted.map(|(name, was)| format!("{name} had {was}")).collect(),
            packets_per_second: 0.0,
            well,
        }
    }

    /// Writes, breaks, mends; gives what was written, when it broke, until when writes had to go on,
    /// and how long it took to be well again.
    fn under_writers(
        &mut self,
        fault: Fault,
        victim: usize,
        trial: usize,
    ) -> (Written, Moment, Moment, Duration) {
        let (stop, namespace) =
            (AtomicBool::new(false), self.cluster.switch.namespace().to_owned());
        let padding = if fault == Fault::DiskFull { PADDING_TO_FILL } else { self.plan.padding };
        let (doors, plan) = (self.doors.clone(), Plan { padding, ..self.plan.clone() });
        std::thread::scope(|scope| {
            let stopping = Stopping(&stop);
            let writers = scope.spawn(|| writers::write(&namespace, &doors, &plan, &stop));
            std::thread::sleep(BEFORE);
            let event = now();
            fault.inflict(&mut self.cluster.boards[victim], trial);
            let began = Instant::now();
            let mut goes_on_since = None;
            // Without another master nobody takes over.
            let at_most = if self.voters == 1 { BEFORE } else { LASTS_AT_MOST };
            while began.elapsed() < at_most {
                std::thread::sleep(POLL_EVERY);
                let quiet = now().saturating_sub(plan.last_accepted.load(Ordering::SeqCst));
                match Duration::from_nanos(quiet) > POLL_EVERY * 5 {
                    true => goes_on_since = None,
                    false => drop(goes_on_since.get_or_insert_with(Instant::now)),
                }
                let goes_on = goes_on_since.is_some_and(|at| at.elapsed() > BEFORE);
                if began.elapsed() > self.lasts && goes_on {
                    break;
                }
            }
            let until = now();
            fault.heal(&mut self.cluster.boards[victim]);
            let well = self.wait_well();
            std::thread::sleep(BEFORE);
            drop(stopping);
            (writers.join().expect("writers"), event, until, well)
        })
    }

    /// Acknowledged writes that a watch does not show, and everything else that it should not show.
    fn judge(&self, written: &Written, from: u64) -> (usize, Vec<Wrong>) {
        let shown = self.client(0, |mut client| async move {
            writers::watched(&mut client, COLLECTION, from, 2).await
        });
        let shown = shown.unwrap_or_else(|error| panic!("no watch from {from}: {error}"));
        let wrong = writers::judge(written, &shown);
        if let Err(violation) = check(&written.history) {
            panic!("{violation}");
        }
        (wrong.iter().filter(|wrong| matches!(wrong, Wrong::Lost(_))).count(), wrong)
    }

    /// Runs one client, which begins at a door, in the switch's namespace.
    pub(crate) fn client<T: Send, F: Future<Output = T>>(
        &self,
        door: usize,
        work: impl FnOnce(Client) -> F + Send,
    ) -> T {
        let doors = Arc::new(self.doors.clone());
        let done = net::inside(self.cluster.switch.namespace(), || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(work(Client::new(door, doors))))
        });
        done.expect("a client in the namespace")
    }

    /// From the boards' logs since the last look, and the accepted writes.
    fn leaders_at_once(&mut self, written: &Written) -> Vec<String> {
        let mut acts = Vec::new();
        for (board, read) in self.cluster.boards.iter().zip(&mut self.read) {
            let log = board.log();
            // A line that is not whole yet is for the next time.
            let end = log.rfind('\n').map_or(*read, |at| at + 1);
            let new = log.get(*read..end).unwrap_or_default();
            acts.extend(reigns::applied(board.node(), new));
            self.beginnings.extend(reigns::beginnings(new));
            *read = end;
        }
        let told = acts.len();
        acts.extend(reigns::accepted(&written.accepted(), &self.beginnings));
        assert!(told > 0 || !self.has_pods, "boards were told something");
        let found = reigns::violations(&acts);
        found.iter().map(|(later, late)| format!("{late} AFTER {later}")).collect()
    }

    /// Packets a second on the switch while nobody does anything.
    fn idle(&self) -> Outcome {
        let packets = || {
            let ports = (1..=self.cluster.boards.len()).map(|number| {
                let port = format!("port-{number}");
                let counted =
                    net::inside(self.cluster.switch.namespace(), || Ok(figures::traffic(&port)));
                // What boards send; what they receive is the same packets again.
                counted.expect("traffic").received.1
            });
            ports.sum::<u64>()
        };
        let before = packets();
        std::thread::sleep(Duration::from_secs(IDLE_SECONDS));
        let packets_per_second = (packets() - before) as f64 / IDLE_SECONDS as f64;
        Outcome { packets_per_second, ..Outcome::default() }
    }
}

/// Ends the writers, also when the trial fails.
pub(crate) struct Stopping<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
