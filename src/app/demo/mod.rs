//! `kumquat demo`: a real cluster with a real workload on this machine, and no trace afterwards.
//!
//! Each board is a network namespace on a switch, with its own `kumquat up`, data-dir and run-dir; the
//! first founds the cluster, the others find it over mDNS and join with a token. From then on the demo
//! uses only the public API, as kubectl does, and the switch: it pulls one board's cable and puts it
//! back. A demo owns a *slot*: a folder that it holds locked. A slot whose lock is free belongs to a
//! demo that was killed, and is cleaned first. Two demos use two slots, so they do not meet.

mod bed;
mod board;
mod calls;
mod fault;
mod image;
mod nodes;
mod slot;
mod workload;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::cli::DemoArgs;
use super::client::Ending;
use bed::Bed;
use slot::Slot;

/// Boards that a demo may have.
pub(super) const BOARDS_MAX: u8 = 10;
/// A demo that takes longer than this has failed.
const READY_WITHIN: Duration = Duration::from_secs(240);

/// Runs the demo to its end and removes everything, also when it fails.
pub(super) async fn run(arguments: &DemoArgs) -> Result<Ending> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the demo makes network namespaces and containers: run it as root (sudo kumquat demo)"
        );
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let slot = Slot::take()?;
    let mut bed = Bed::new(slot, arguments.boards)?;
    let started = Instant::now();
    // Cancel safety: a demo that is dropped half way is cleaned up below from what lies on disk.
    let shown = tokio::select! {
        shown = tokio::time::timeout(READY_WITHIN, show(&mut bed, started)) => {
            shown.unwrap_or_else(|_| bail!("not ready after {READY_WITHIN:?}"))
        }
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to stop")),
    };
    if shown.is_ok() && !arguments.once {
        say!("\nCtrl-C ends the demo and removes all of it.");
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
    }
    if shown.is_err() {
        bed.explain();
    }
    say!("cleaning up ...");
    bed.remove().await.context("the demo left something behind: run it again to clean up")?;
    say!("nothing is left");
    shown.map(|()| Ending::Done)
}

async fn show(bed: &mut Bed, started: Instant) -> Result<()> {
    let seconds = || started.elapsed().as_secs_f64();
    let count = bed.boards().len();
    match count {
        1 => say!("starting a board in a network namespace ..."),
        _ => say!("starting {count} boards in network namespaces on a switch ..."),
    }
    bed.wire().context("cannot make the network namespaces")?;
    let client = found(bed).await?;
    say!(
        "  {:6.2} s  {} has founded the cluster: {}",
        seconds(),
        bed.master().name(),
        bed.server()
    );
    join(bed).await?;
    nodes::wait_ready(&client, bed, started).await?;
    say!("  {:6.2} s  boards Ready: {count} of {count}", seconds());

    image::import(bed).await?;
    workload::apply(&client).await?;
    say!("  applied examples/hello.yaml: a ConfigMap, a Deployment of 3 replicas and its Service");
    let pods = workload::follow(&client, started).await?;
    say!("  spread: {}", workload::spread(&pods));
    for pod in &pods {
        let line = workload::first_log_line(&client, &pod.name).await?;
        say!("  log of {} on {}: {line}", pod.name, pod.node);
    }
    calls::from_each_board(&client, bed).await?;
    if count > 1 {
        fault::cut_off_and_rejoin(&client, bed).await?;
    }
    say!("\ndemo ready in {:.1} s", seconds());
    say!("\ntry:\n  kubectl --kubeconfig {} get pods -o wide", bed.kubeconfig().display());
    Ok(())
}

/// Has the first board found the cluster.
async fn found(bed: &mut Bed) -> Result<workload::Client> {
    let kubeconfig = bed.kubeconfig();
    let master = &mut bed.boards_mut()[0];
    master.start(&[])?;
    tokio::fs::write(&kubeconfig, master.kubeconfig().await?).await?;
    workload::Client::new(bed).await
}

/// Has the other boards join it, each with a token of its own.
async fn join(bed: &mut Bed) -> Result<()> {
    let (master, others) = bed.boards_mut().split_at_mut(1);
    for board in others {
        let token = master[0].token().await?;
        board.start(&["--token", &token])?;
    }
    Ok(())
}
