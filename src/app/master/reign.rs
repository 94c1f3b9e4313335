//! The marks of a reign: when it began and ended, and whether it may still act.

use model::masters::Reign;
use tokio::sync::watch;

use crate::io::link::Gate;
use crate::io::store::{Mandate, Store};

/// What another channel says, in other words; ends with it.
pub(super) fn mapped<T: Send + Sync + 'static, U: Send + Sync + 'static>(
    mut from: watch::Receiver<T>,
    map: impl Fn(&T) -> U + Send + 'static,
) -> watch::Receiver<U> {
    let (sender, receiver) = watch::channel(map(&from.borrow_and_update()));
    tokio::spawn(async move {
        // Cancel safety: both only wait.
        loop {
            tokio::select! {
                changed = from.changed() => if changed.is_err() {
                    return;
                },
                () = sender.closed() => return,
            }
            sender.send_replace(map(&from.borrow_and_update()));
        }
    });
    receiver
}

/// For whoever compares what several boards did: this one acts from here on.
pub(super) fn say_began(mandate: &Mandate, store: &Store) {
    let (Reign { epoch, term }, version) = (mandate.reign(), store.version().0);
    tracing::info!(epoch, term, version, boottime_ms = boot_ms(), "reign began");
}

/// And from here on it does not: every gate is shut.
pub(super) fn say_ended(mandate: &Mandate) {
    let Reign { epoch, term } = mandate.reign();
    tracing::info!(epoch, term, boottime_ms = boot_ms(), "reign ended");
}

/// Milliseconds since the board started.
fn boot_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(0, |now| {
        u64::try_from(std::time::Duration::from(now).as_millis()).unwrap_or(u64::MAX)
    })
}

/// Shut once the leader may not act any more.
pub(super) fn gate(mandate: &Mandate) -> Gate {
    let mandate = mandate.clone();
    Gate::new(move || mandate.may_act())
}
