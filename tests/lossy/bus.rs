//! Loss on the bus itself: the real broker and clients with a bad wire between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kumquat::master::dispatcher;
use model::leader::LeaderRecord;
use model::network::NetState;

use crate::bed::{self, Bed, until};
use crate::fake_keeper::FakeKeeper;
use crate::loss::{Random, Tally, seed};
use crate::network;
use crate::proxy::{Badness, Proxy};
use crate::world::{Watched, churn, converge};
use crate::{BOARDS, FAULT_PERCENT, operations};

impl Watched for bed::Board {
    fn keeper(&self) -> &FakeKeeper {
        &self.agent.keeper
    }

    fn network(&self) -> NetState {
        self.agent.network()
    }

    fn lives(&self) -> bool {
        self.lives()
    }
}

async fn trial(name: &str, seed: u64, badness: Badness) -> (Duration, usize) {
    let mut bed = Bed::new(name).await;
    bed.beat = dispatcher::BEAT;
    let master = bed.master((1, 1)).await;
    let (mut random, tally) = (Random::new(seed), Arc::<Tally>::default());
    let draws = Random::new(random.next());
    let authority = bed.authority.clone();
    let proxy = Proxy::start(authority, master.port, badness, draws, tally.clone()).await;
    let record = LeaderRecord { mqtt_port: proxy.port, ..master.signed.record().clone() };
    let mut boards = BTreeMap::new();
    for number in 0..BOARDS {
        let name = format!("sim-{number}");
        boards.insert(name.clone(), bed.board_by(&name, record.clone()).await);
    }
    until("every Node", || bed.loops.views.world().nodes().count() == BOARDS).await;
    let begun = Instant::now();
    let services = network::churn(&bed.loops, operations(), Random::new(random.next()));
    let (asked, ()) = tokio::join!(churn(&bed.loops, operations(), random), services);
    let worked = begun.elapsed();
    let converged = converge(&bed.loops, &boards, &asked).await;
    println!(
        "{name}: {} operations in {:.1} s, the same everywhere {:.1} s later; {tally:?}",
        operations(),
        worked.as_secs_f64(),
        converged.as_secs_f64()
    );
    assert_eq!(tally.faults() > 0, badness.percent > 0, "{tally:?}");
    for board in boards.into_values() {
        board.end().await;
    }
    master.stop().await;
    (converged, asked.pods.len())
}

/// A cut repairs what was lost before it, because a board that comes back says Hello; so the loss is
/// tried without cuts too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_loses_a_fifth_and_is_cut_ends_like_one_that_loses_nothing() {
    let seed = seed("bus");
    let (_, clean) = trial("lossless", seed, Badness { percent: 0, cuts: false }).await;
    for (name, cuts) in [("lossy", false), ("lossy-cut", true)] {
        let (_, pods) = trial(name, seed, Badness { percent: FAULT_PERCENT, cuts }).await;
        assert_eq!(clean, pods, "pods that were asked for");
    }
}
