//! A board that may hold the log says so, and waits until the leader wants it.
//!
//! The ask stays open on the tunnel's connection for as long as that lasts; it is made anew on the
//! next one, and when the board's addresses change. A leader of the first release does not know it: no
//! harm.

use std::path::PathBuf;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use model::limits::KIT_BYTES_MAX;
use model::masters::{KitAskV1, KitV1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Holds;
use crate::app::addresses::Addresses;
use crate::app::config::Config;
use crate::app::master::reachable;
use crate::io::host::DiskSpace;
use crate::io::peer::{self, Connection};
use crate::node::tunnel::Tunnel;

/// Pause after an ask that came to nothing.
const AGAIN: Duration = Duration::from_secs(2);
/// A kit comes in one piece.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// A board with less free space than this share does not hold the log.
const FREE_PERCENT_MIN: u64 = 10;

/// What the leader said.
#[derive(Clone, Debug)]
pub(in crate::app) enum Said {
    /// The board becomes a member.
    Kit(Box<KitV1>),
    /// It is none any more.
    Gone,
}

/// Asks for the kit.
pub(super) struct Asker {
    pub(super) tunnel: Tunnel,
    pub(super) config: Config,
    pub(super) data: PathBuf,
    pub(super) public_key: Vec<u8>,
    pub(super) addresses: watch::Receiver<Addresses>,
    /// Which member this board is already.
    pub(super) holds: Holds,
    pub(super) said: watch::Sender<Option<Said>>,
    /// Until when a person wishes that the board leaves.
    pub(super) leaving: watch::Receiver<Option<Instant>>,
}

impl Asker {
    /// Asks until the leader has said something, or `stop`.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        // Cancel safety: an ask that is dropped is taken back.
        tokio::select! {
            said = self.ask() => {
                self.said.send_replace(Some(said));
            }
            // An error means that nobody can ask any more.
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        let _asked = stop.wait_for(|stop| *stop).await;
        Ok(())
    }

    async fn ask(&mut self) -> Said {
        let mut connections = self.tunnel.connection();
        loop {
            let open = connections.wait_for(Option::is_some).await.map(|open| open.clone());
            let Ok(Some(connection)) = open else {
                // The tunnel is as old as this.
                return std::future::pending().await;
            };
            let leaving = self.leaving.borrow_and_update().filter(|until| *until > Instant::now());
            let ask = KitAskV1 { leaving: leaving.is_some(), ..self.facts() };
            // Cancel safety: the ask is made anew.
            let answer = tokio::select! {
                answer = send(&connection, &ask) => answer,
                changed = self.addresses.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return std::future::pending().await,
                },
                () = due(leaving) => continue,
                // Who takes the wish goes with the process.
                Ok(()) = self.leaving.changed() => continue,
                () = connection.closed() => continue,
            };
            match answer {
                Ok(said) => return said,
                Err(why) => tracing::debug!(why, "the leader does not take an ask for the log"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn facts(&mut self) -> KitAskV1 {
        let config = &self.config;
        KitAskV1 {
            public_key: self.public_key.clone(),
            role: config.role.into(),
            capable: has_room(&self.data),
            leaving: false,
            member: self.holds.member(),
            pausing: self.holds == Holds::Pausing,
            addresses: reachable(&self.addresses.borrow_and_update()),
            api_port: config.api_port,
            mqtt_port: config.mqtt_port,
            peer_port: config.peer_port,
        }
    }
}

/// Waits for that moment; for ever without one.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn has_room(data: &std::path::Path) -> bool {
    DiskSpace::of(data)
        .is_ok_and(|space| space.available_bytes / FREE_PERCENT_MIN >= space.total_bytes / 100)
}

async fn send(connection: &Connection, ask: &KitAskV1) -> Result<Said, String> {
    let body = serde_json::to_vec(ask).map_err(|error| error.to_string())?;
    let request = Request::post("/v1/kit").body(peer::full(body));
    let request = request.map_err(|error| error.to_string())?;
    let answer: Response<Incoming> =
        connection.send(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if status == StatusCode::GONE {
        return Ok(Said::Gone);
    }
    let reading = peer::read(answer.into_body(), KIT_BYTES_MAX);
    let body = tokio::time::timeout(BODY_WITHIN, reading).await;
    let body = body.map_err(|_| "the kit did not come in time".to_owned())??;
    if !status.is_success() {
        return Err(format!("it answers {status}: {}", String::from_utf8_lossy(&body)));
    }
    serde_json::from_slice(&body)
        .map(|kit| Said::Kit(Box::new(kit)))
        .map_err(|error| error.to_string())
}
