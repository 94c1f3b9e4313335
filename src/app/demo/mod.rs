//! `kumquat demo`: a real cluster with a real workload on this machine, and no trace afterwards.
//!
//! Each board is a network namespace on a bridge, with its own `kumquat up`, data-dir and run-dir;
//! from then on the demo uses only the public API, as kubectl does. A demo owns a *slot*: a folder
//! that it holds locked. A slot whose lock is free belongs to a demo that was killed, and is cleaned
//! first. Two demos use two slots, so they do not meet.

mod bed;
mod image;
mod slot;
mod workload;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::cli::DemoArgs;
use super::client::Ending;
use bed::Bed;
use slot::Slot;

/// A demo that takes longer than this has failed.
const READY_WITHIN: Duration = Duration::from_secs(120);

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
    let mut bed = Bed::new(slot)?;
    let started = Instant::now();
    // Cancel safety: a demo that is dropped half way is cleaned up below from what lies on disk.
    let shown = tokio::select! {
        shown = tokio::time::timeout(READY_WITHIN, show(&mut bed, arguments, started)) => {
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

async fn show(bed: &mut Bed, arguments: &DemoArgs, started: Instant) -> Result<()> {
    say!("starting {} board in a network namespace ...", arguments.boards);
    bed.start_board().await?;
    say!("  API ready after {:.2} s at {}", started.elapsed().as_secs_f64(), bed.server());
    image::import(bed).await?;
    let client = workload::Client::new(bed).await?;
    workload::apply(&client).await?;
    say!("  applied examples/hello.yaml: a ConfigMap and a Deployment of 3 replicas");
    let pods = workload::follow(&client, started).await?;
    for pod in &pods {
        say!("  log of {pod}: {}", workload::first_log_line(&client, pod).await?);
    }
    say!("\ndemo ready in {:.1} s", started.elapsed().as_secs_f64());
    say!("\ntry:\n  kubectl --kubeconfig {} get pods -o wide", bed.kubeconfig().display());
    Ok(())
}
