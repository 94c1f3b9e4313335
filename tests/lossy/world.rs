//! Random creations and deletions of pods, and whether boards and API agree in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use model::network::NetState;
use serde_json::{Value, json};

use crate::fake_keeper::FakeKeeper;
use crate::loops::Loops;
use crate::loss::Random;
use crate::network;
use crate::simulated::{IMAGE, SimulatedBoard};

/// Longest wait for everything to agree after the last operation.
const PATIENCE: Duration = Duration::from_secs(180);
/// What takes longer than a few lost beats is told.
const LATE: Duration = Duration::from_secs(15);
/// Operations come this close together on the average.
const PAUSE_MILLIS: u64 = 20;

/// A board whose keeper can be looked into.
pub(crate) trait Watched {
    /// What "runs" on it.
    fn keeper(&self) -> &FakeKeeper;
    /// What it knows of the network.
    fn network(&self) -> NetState;
    /// Whether it still works.
    fn lives(&self) -> bool;
}

impl Watched for SimulatedBoard {
    fn keeper(&self) -> &FakeKeeper {
        &self.keeper
    }

    fn network(&self) -> NetState {
        self.network()
    }

    fn lives(&self) -> bool {
        self.lives()
    }
}

/// What was asked for.
pub(crate) struct Asked {
    /// Pods that should be there.
    pub(crate) pods: BTreeSet<String>,
    created: usize,
    deleted: usize,
}

/// Creates and deletes pods: the same ones for the same numbers.
pub(crate) async fn churn(loops: &Loops, count: usize, mut random: Random) -> Asked {
    let mut asked = Asked { pods: BTreeSet::new(), created: 0, deleted: 0 };
    for _ in 0..count {
        if asked.pods.is_empty() || random.chance(60) {
            let name = format!("pod-{}", asked.created);
            loops.create("/pods", "default", pod(&name)).await;
            asked.pods.insert(name);
            asked.created += 1;
        } else {
            let at = random.below(asked.pods.len() as u64) as usize;
            let name = asked.pods.iter().nth(at).expect("below their number").clone();
            loops.delete("/pods", "default", &name).await;
            asked.pods.remove(&name);
            asked.deleted += 1;
        }
        tokio::time::sleep(Duration::from_millis(random.below(2 * PAUSE_MILLIS))).await;
    }
    asked
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 2,
            "containers": [{"name": "main", "image": IMAGE}],
        },
    })
}

/// Waits until the API and every board's keeper show what was asked for; gives how long it took.
pub(crate) async fn converge(
    loops: &Loops,
    boards: &BTreeMap<String, impl Watched>,
    asked: &Asked,
) -> Duration {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let pods = loops.list("/pods");
        let difference =
            difference(&pods, boards, asked).or_else(|| network::difference(loops, boards));
        let Some(difference) = difference else { break };
        if begun.elapsed() > PATIENCE {
            panic!("after {PATIENCE:?}: {difference}");
        }
        if begun.elapsed() > LATE && told != difference {
            println!("after {:.1} s: {difference}", begun.elapsed().as_secs_f64());
            told = difference;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = begun.elapsed();
    let starts: u64 = boards.values().map(|board| board.keeper().starts()).sum();
    assert!(starts <= asked.created as u64, "{starts} starts of {} pods", asked.created);
    println!("{} created, {} deleted, {starts} starts", asked.created, asked.deleted);
    took
}

/// What does not agree, in words; none when all is well.
fn difference(
    pods: &[Value],
    boards: &BTreeMap<String, impl Watched>,
    asked: &Asked,
) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = pods.iter().map(|pod| text(&pod["metadata"]["name"])).collect();
    if names != asked.pods {
        let more: Vec<_> = names.difference(&asked.pods).collect();
        let fewer: Vec<_> = asked.pods.difference(&names).collect();
        return Some(format!("pods on the API: too many {more:?}, missing {fewer:?}"));
    }
    let unready = |pod: &&Value| {
        let status = &pod["status"]["containerStatuses"][0];
        pod["status"]["phase"] != "Running"
            || status["ready"] != true
            || status["restartCount"] != 0
    };
    if let Some(pod) = pods.iter().find(unready) {
        return Some(format!("not ready or restarted: {pod}"));
    }
    for (name, board) in boards {
        assert!(board.lives(), "the agent of {name} has ended");
        let here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == *name);
        let wanted: BTreeSet<String> = here.map(|pod| text(&pod["metadata"]["uid"])).collect();
        let runs = board.keeper().running_pods();
        if runs != wanted {
            return Some(format!("{name} runs {runs:?} instead of {wanted:?}"));
        }
        let holds = board.keeper().holds();
        if holds != (wanted.len(), wanted.len()) {
            return Some(format!("{name} holds {holds:?} for {} pods", wanted.len()));
        }
    }
    None
}
