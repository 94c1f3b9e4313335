//! Loops that start and end together: what a role is made of.
//!
//! A loop that ends although nobody asked it to is a failure of its role ([`Loops::failed`]); whoever
//! holds the role decides what that means. Nothing is restarted here.

use std::future::Future;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

/// How long the loops may take to stop; the API lets requests under way finish within this.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How long the loops of a role that is taken away may take to end by themselves.
const CUT_WITHIN: Duration = Duration::from_millis(200);

/// Named loops with one signal to end.
#[derive(Debug)]
pub(super) struct Loops {
    running: JoinSet<(&'static str, Result<()>)>,
    stopper: watch::Sender<bool>,
}

impl Loops {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { running: JoinSet::new(), stopper: watch::Sender::new(false) }
    }

    /// Turns true when the loops shall end.
    pub(super) fn stop_signal(&self) -> watch::Receiver<bool> {
        self.stopper.subscribe()
    }

    /// Starts a loop, which must end soon after [`Loops::stop_signal`] turns true.
    pub(super) fn spawn<E: Into<Error>>(
        &mut self,
        name: &'static str,
        running: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.running.spawn(async move { (name, running.await.map_err(Into::into)) });
    }

    /// Waits for a loop that ends unasked, and says why it did.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub(super) async fn failed(&mut self) -> Error {
        match self.running.join_next().await {
            Some(ended) => failure(ended),
            // Nothing runs, so nothing can fail.
            None => std::future::pending().await,
        }
    }

    /// Asks every loop to end, and waits until they have.
    pub(super) async fn stop(mut self) {
        self.stopper.send_replace(true);
        let ended = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!(within = ?STOP_WITHIN, "parts of the board did not stop in time");
        }
    }
}

impl Loops {
    /// Ends every loop at once: those that do not end by themselves within a moment are dropped where
    /// they are.
    pub(super) async fn cut(mut self) {
        self.stopper.send_replace(true);
        let ended = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(CUT_WITHIN, ended).await.is_err() {
            self.running.shutdown().await;
        }
    }
}

/// What a loop that ended unasked ended with.
fn failure(ended: Result<(&'static str, Result<()>), JoinError>) -> Error {
    match ended {
        Ok((name, Err(error))) => error.context(format!("{name} failed")),
        Ok((name, Ok(()))) => anyhow!("{name} ended by itself"),
        Err(error) => Error::from(error).context("a part of the board crashed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(mut stop: watch::Receiver<bool>) -> Result<()> {
        let _asked = stop.wait_for(|stop| *stop).await;
        Ok(())
    }

    #[tokio::test]
    async fn what_ends_by_itself_is_a_failure_and_the_rest_still_stops() {
        let mut loops = Loops::new();
        loops.spawn("patient", until(loops.stop_signal()));
        loops.spawn("broken", async { Err::<(), _>(anyhow!("no disk")) });
        loops.spawn("hasty", async { anyhow::Ok(()) });
        let mut said = [loops.failed().await, loops.failed().await].map(|e| format!("{e:#}"));
        said.sort();
        assert_eq!(said, ["broken failed: no disk", "hasty ended by itself"]);
        loops.stop().await;
    }

    #[tokio::test]
    async fn what_does_not_end_by_itself_is_cut() {
        let mut loops = Loops::new();
        loops.spawn("patient", until(loops.stop_signal()));
        loops.spawn("deaf", async {
            std::future::pending::<()>().await;
            anyhow::Ok(())
        });
        let began = std::time::Instant::now();
        loops.cut().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
