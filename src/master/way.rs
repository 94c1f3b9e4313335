//! A master's way to whoever leads: one connection, kept ready.
//!
//! Who leads is what the engine says, in the same moment in which this master votes; the leader's record,
//! which everybody else goes by, is asked for over the connection as soon as there is one. Whoever answers
//! must have the key that the list of members has. A leader that falls silent is no way for new requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::masters::MemberId;
use tokio::sync::watch;
use tokio::time::sleep;

use super::members::Engine;
use crate::io::peer::Connection;
use crate::io::store::Timing;

/// A leader that was not heard for so long is not asked: it missed five heartbeats.
const SILENCE_MAX: Duration = Duration::from_millis(5 * Timing::DEFAULT.heartbeat_ms);
/// How often one that fell silent is listened for.
const LISTEN_AGAIN: Duration = Duration::from_millis(100);
/// What is sent and not answered for so long ends the connection.
const UNANSWERED: Duration = Duration::from_secs(5);
/// Pause between two attempts to reach the leader, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// Keeps the connection until `stop`.
pub async fn follow(
    engine: watch::Receiver<Option<Engine>>,
    line: watch::Sender<Option<Connection>>,
    mut stop: watch::Receiver<bool>,
) {
    // Cancel safety: nothing is used after this. An error means that nobody can ask any more.
    tokio::select! {
        () = keep(engine, &line) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    line.send_replace(None);
}

async fn keep(
    mut engine: watch::Receiver<Option<Engine>>,
    line: &watch::Sender<Option<Connection>>,
) {
    loop {
        let running = engine.borrow_and_update().clone();
        let following = async {
            match running {
                Some(engine) => follow_engine(&engine, line).await,
                None => std::future::pending().await,
            }
        };
        // Cancel safety: the connection is closed below.
        tokio::select! {
            () = following => {}
            changed = engine.changed() => if changed.is_err() {
                return;
            },
        }
        line.send_replace(None);
    }
}

/// Ends with the engine.
async fn follow_engine(engine: &Engine, line: &watch::Sender<Option<Connection>>) {
    let mut health = engine.group.health();
    loop {
        let leader = health.borrow_and_update().leader;
        let other = leader.filter(|leader| *leader != engine.own);
        let connecting = async {
            match other {
                Some(leader) => connect(engine, leader, line).await,
                None => std::future::pending().await,
            }
        };
        // Cancel safety: the connection is closed below. An error means that the engine has ended.
        tokio::select! {
            () = connecting => {}
            changed = health.wait_for(|health| health.leader != leader) => if changed.is_err() {
                return;
            },
        }
        line.send_replace(None);
    }
}

/// Shows a connection for as long as whoever is at its other end speaks as a leader does.
async fn show(
    engine: &Engine,
    leader: MemberId,
    connection: &Connection,
    line: &watch::Sender<Option<Connection>>,
) {
    let began = Instant::now();
    loop {
        let silence = engine.elector.silence(leader).unwrap_or_else(|| began.elapsed());
        let left = SILENCE_MAX.saturating_sub(silence);
        let shown = (!left.is_zero()).then(|| connection.clone());
        line.send_if_modified(|line| {
            let is_new = line.is_some() != shown.is_some();
            *line = shown;
            is_new
        });
        sleep(if left.is_zero() { LISTEN_AGAIN } else { left }).await;
    }
}

/// Keeps a connection to one leader for as long as this is polled.
async fn connect(engine: &Engine, leader: MemberId, line: &watch::Sender<Option<Connection>>) {
    let elector = Arc::clone(&engine.elector);
    let mut pause = PAUSE.0;
    loop {
        match elector.connect(leader, UNANSWERED).await {
            Ok(connection) => {
                pause = PAUSE.0;
                // Cancel safety: the line is taken down below.
                tokio::select! {
                    () = show(engine, leader, &connection, line) => {}
                    () = connection.closed() => {}
                }
                line.send_replace(None);
            }
            Err(why) => tracing::debug!(member = %leader, why, "no way to the leader yet"),
        }
        sleep(pause).await;
        pause = (2 * pause).min(PAUSE.1);
    }
}
