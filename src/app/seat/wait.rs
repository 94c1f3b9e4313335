//! What a seat waits for.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Event;
use crate::app::member::Said;
use crate::io::store::Mandate;
use crate::master::members::Engine;

/// Resolves when the reign is over; never without one.
pub(super) async fn over(own: Option<&Mandate>) {
    match own {
        Some(own) => own.over().await,
        None => std::future::pending().await,
    }
}

/// Resolves when this board shall lead otherwise than in `own`, or lead no more.
pub(super) async fn reign_changes(
    reigns: Option<watch::Receiver<Option<Mandate>>>,
    own: Option<&Mandate>,
) -> Event {
    let Some(mut reigns) = reigns else { return std::future::pending().await };
    loop {
        // The store's thread says late that a reign is over when it waits for the disk.
        let mandate = reigns.borrow_and_update().clone().filter(|mandate| !mandate.is_over());
        match (mandate, own) {
            (Some(mandate), Some(own)) if mandate.reign() == own.reign() => {}
            (Some(mandate), _) => return Event::Lead(mandate),
            (None, Some(_)) => return Event::Follow,
            (None, None) => {}
        }
        if reigns.changed().await.is_err() {
            // The store is closed: that shows elsewhere.
            return std::future::pending().await;
        }
    }
}

/// Waits until the leader wants a board to hold the log, or a member to do so no more.
pub(super) async fn told(said: Option<watch::Receiver<Option<Said>>>, is_member: bool) -> Event {
    let Some(mut said) = said else { return std::future::pending().await };
    let word = said.wait_for(Option::is_some).await.map(|said| said.clone());
    match (word, is_member) {
        (Ok(Some(Said::Kit(kit))), false) => Event::Join(kit),
        (Ok(Some(Said::Gone)), true) => Event::Leave,
        // It does not ask, or is told what it is already.
        _ => std::future::pending().await,
    }
}

/// Waits for that moment; for ever without one.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for the engine to fail, and says why.
pub(super) async fn engine_failed(engine: Option<watch::Receiver<Option<Engine>>>) -> String {
    let Some(mut engine) = engine else { return std::future::pending().await };
    let running = engine.wait_for(Option::is_some).await.map(|running| running.clone());
    let Ok(Some(running)) = running else { return std::future::pending().await };
    let mut health = running.group.health();
    let failed = health.wait_for(|health| health.failed.is_some()).await;
    let failed = failed.map(|health| health.failed.clone().unwrap_or_default());
    match failed {
        Ok(why) => why,
        // It was asked to end.
        Err(_) => std::future::pending().await,
    }
}

/// Waits until a leader of a later epoch is heard of.
pub(super) async fn deposed(rivals: Option<watch::Receiver<bool>>) {
    let Some(mut rivals) = rivals else { return std::future::pending().await };
    let heard = rivals.wait_for(|heard| *heard).await.is_ok();
    if !heard {
        // Nobody listens any more: that shows elsewhere.
        std::future::pending().await
    }
}
