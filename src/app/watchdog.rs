//! Feeds the hardware watchdog, where the configuration asks for it (`watchdog = true`).
//!
//! It is fed by the same threads that run the board: a board that hangs feeds nobody and is restarted
//! by its hardware. A board without one, or whose watchdog systemd has, goes on without.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::io::host::{self, HostFacts, Watchdog};

/// Where boards without a profile have it.
const DEVICE: &str = "/dev/watchdog0";
/// The longest time that a board without a profile may hang; every watchdog takes it.
const SECONDS: u32 = 15;

/// Feeds it until `stop` turns true; then it is disarmed.
///
/// # Errors
/// It takes no more food.
pub(super) async fn run(mut stop: watch::Receiver<bool>) -> Result<()> {
    let armed = tokio::task::spawn_blocking(|| {
        let known = host::profile(&HostFacts::read().compatible).watchdog;
        let (device, seconds) = match known {
            Some(known) => (PathBuf::from(known.device), known.seconds_max.min(SECONDS)),
            None => (PathBuf::from(DEVICE), SECONDS),
        };
        arm(&device, seconds)
    });
    let mut armed = armed.await?;
    let every = armed.as_ref().map(Watchdog::every);
    let mut meal = tokio::time::interval(every.unwrap_or(std::time::Duration::from_secs(3_600)));
    meal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Cancel safety: both lose nothing when dropped.
        tokio::select! {
            _ = meal.tick() => if let Some(watchdog) = &mut armed {
                watchdog.feed()?;
            },
            // An error means that nobody can ask any more.
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

fn arm(device: &Path, seconds: u32) -> Option<Watchdog> {
    match Watchdog::arm(device, seconds) {
        Ok(watchdog) => {
            let seconds = watchdog.seconds();
            tracing::info!(device = %device.display(), seconds, "watchdog is armed");
            Some(watchdog)
        }
        Err(error) => {
            tracing::warn!(
                device = %device.display(), %error,
                "watchdog is not armed: see `kumquat doctor`; when systemd has it (RuntimeWatchdogSec), \
                 remove `watchdog` from the configuration"
            );
            None
        }
    }
}
