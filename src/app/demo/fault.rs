//! What the demo breaks: one board's cable is pulled and put back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::bed::Bed;
use super::nodes;
use super::workload::{self, Client, Pod};

const POLL_EVERY: Duration = Duration::from_millis(20);

/// Cuts a worker off until its pods are replaced, then lets it come back.
///
/// # Errors
/// The API does not answer, or the system refuses.
pub(super) async fn cut_off_and_rejoin(client: &Client, bed: &Bed) -> Result<()> {
    let before = workload::pods(client).await?;
    let index = busiest_worker(bed, &before);
    let board = bed.boards()[index].name();
    let lost = before.iter().filter(|pod| pod.node == board).count();
    say!("\npulling the cable of {board}, which runs {lost} of the pods ...");
    say!("  (they tolerate a lost board for 2 s, as the manifest says; the default is 25 s)");
    bed.set_cable(index, false).context("cannot pull the cable")?;
    let cut = Instant::now();
    nodes::wait_for(client, board, false).await?;
    say!("  {:6.2} s  {board} is NotReady", cut.elapsed().as_secs_f64());
    let moved = wait_for_pods(client, |pods| {
        pods.iter().filter(|pod| pod.is_ready && pod.node != board).count() >= workload::REPLICAS
    });
    let moved: Vec<Pod> = moved.await?.into_iter().filter(|pod| pod.node != board).collect();
    say!("  {:6.2} s  pods replaced: {}", cut.elapsed().as_secs_f64(), workload::spread(&moved));

    say!("putting it back ...");
    bed.set_cable(index, true).context("cannot put the cable back")?;
    let back = Instant::now();
    nodes::wait_for(client, board, true).await?;
    say!("  {:6.2} s  {board} is Ready", back.elapsed().as_secs_f64());
    let settled = wait_for_pods(client, |pods| {
        pods.len() == workload::REPLICAS && pods.iter().all(|pod| pod.is_ready)
    });
    let spread = workload::spread(&settled.await?);
    say!("  {:6.2} s  surplus pods gone: {spread}", back.elapsed().as_secs_f64());
    Ok(())
}

/// The worker that runs most of the pods; the last of equals.
fn busiest_worker(bed: &Bed, pods: &[Pod]) -> usize {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        *counts.entry(&pod.node).or_default() += 1;
    }
    let workers = 1..bed.boards().len();
    let count = |index: &usize| counts.get(bed.boards()[*index].name()).copied().unwrap_or(0);
    workers.max_by_key(count).unwrap_or(0)
}

async fn wait_for_pods(client: &Client, accept: impl Fn(&[Pod]) -> bool) -> Result<Vec<Pod>> {
    loop {
        let pods = workload::pods(client).await?;
        if accept(&pods) {
            return Ok(pods);
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
