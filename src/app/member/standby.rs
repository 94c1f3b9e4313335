//! Ears at masters that do not lead, so that a board hears of a new leader when they do.
//!
//! The leader says over the tunnel's connection who the masters are. Of the others a board keeps a
//! connection to at most [`STANDBY_CONNECTIONS_MAX`], each with one question open (`app::roll`). Boards
//! spread over the masters by their names.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::leader::{LeaderRecord, SignedRecord};
use model::limits::STANDBY_CONNECTIONS_MAX;
use model::masters::{MasterAtV1, MastersV1, Part};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::app::roll;
use crate::io::peer::{ALPN, Connection};
use crate::io::tls::Credentials;
use crate::node::tunnel::Tunnel;

/// How long one address of a master is tried.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two attempts to reach a master, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Pause between two questions that the leader answers.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// Listens.
#[derive(Clone)]
pub(super) struct Standby {
    /// This board.
    pub(super) own: String,
    /// Its certificate.
    pub(super) credentials: Credentials,
    /// The way to the leader.
    pub(super) tunnel: Tunnel,
    /// Who leads.
    pub(super) leader: watch::Receiver<Option<LeaderRecord>>,
    /// Everybody who holds the log, as far as known.
    pub(super) masters: watch::Sender<Arc<Vec<MasterAtV1>>>,
    /// Records that were heard; their signatures are not checked yet.
    pub(super) told: watch::Sender<Option<SignedRecord>>,
}

impl Standby {
    /// Listens until `stop`.
    pub(super) async fn run(self, mut stop: watch::Receiver<bool>) {
        let places: [usize; STANDBY_CONNECTIONS_MAX] = std::array::from_fn(|place| place);
        let [first, second] = places.map(|place| self.clone().listen(place));
        // Cancel safety: questions are taken back, connections closed. An error of the last means that
        // nobody can ask any more.
        tokio::select! {
            () = self.ask_leader() => {}
            () = first => {}
            () = second => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Asks whoever leads who the masters are.
    async fn ask_leader(&self) {
        let mut connections = self.tunnel.connection();
        loop {
            let now = connections.borrow_and_update().clone();
            let asking = async {
                match now {
                    Some(connection) => self.ask(&connection, true).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel safety: a question is taken back. An error means that the role ends.
            tokio::select! {
                pause = asking => sleep(pause).await,
                changed = connections.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    /// Keeps a connection to the master of that place.
    async fn listen(self, place: usize) {
        let (mut masters, mut leader) = (self.masters.subscribe(), self.leader.clone());
        loop {
            let chosen = {
                let leads = leader.borrow_and_update();
                let leads = leads.as_ref().map(|record| record.name.as_str());
                choose(&masters.borrow_and_update(), &self.own, leads, place)
            };
            let listening = async {
                match &chosen {
                    Some(master) => self.listen_to(master).await,
                    None => std::future::pending().await,
                }
            };
            let other = async {
                // Cancel safety: both only wait. An error means that the role ends.
                loop {
                    tokio::select! {
                        changed = masters.changed() => changed?,
                        changed = leader.changed() => changed?,
                    }
                    let leads = leader.borrow_and_update().as_ref().map(|it| it.name.clone());
                    let now =
                        choose(&masters.borrow_and_update(), &self.own, leads.as_deref(), place);
                    if now != chosen {
                        return Ok::<(), watch::error::RecvError>(());
                    }
                }
            };
            // Cancel safety: the connection is closed.
            tokio::select! {
                () = listening => {}
                changed = other => if changed.is_err() {
                    return;
                },
            }
        }
    }

    async fn listen_to(&self, master: &MasterAtV1) {
        let mut pause = PAUSE.0;
        loop {
            match self.dial(master).await {
                Ok(connection) => {
                    pause = PAUSE.0;
                    let first = self.ask(&connection, false);
                    // Cancel safety: a question is taken back.
                    tokio::select! {
                        again = first => sleep(again).await,
                        () = connection.closed() => {}
                    }
                }
                Err(why) => tracing::debug!(master = master.board, why, "no ear at a master"),
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE.1);
        }
    }

    async fn dial(&self, master: &MasterAtV1) -> Result<Connection, String> {
        let tls = self.credentials.client_config(ALPN).map_err(|error| error.to_string())?;
        let mut why = "it has no address".to_owned();
        for address in &master.addresses {
            let address = SocketAddr::from((*address, master.peer_port));
            match Connection::open(address, tls.clone(), DIAL_WITHIN).await {
                Ok(connection) if connection.master().key == master.key => return Ok(connection),
                Ok(_) => why = format!("{address} is another board"),
                Err(error) => why = error.to_string(),
            }
        }
        Err(why)
    }

    /// Asks until that fails: at first for what there is. The list counts when the leader tells it.
    async fn ask(&self, connection: &Connection, leads: bool) -> Duration {
        let mut known = None;
        loop {
            let MastersV1 { leader, masters } = match roll::ask(connection, known.as_ref()).await {
                Ok(said) => said,
                Err(pause) => return pause,
            };
            if leads && !masters.is_empty() {
                let fresh = Arc::new(masters);
                self.masters.send_if_modified(|old| {
                    let is_new = *old != fresh;
                    *old = fresh;
                    is_new
                });
            }
            if let Some(record) = leader {
                self.told.send_replace(Some(record.clone()));
                known = Some(record);
            } else {
                sleep(ASKED_AGAIN).await;
            }
        }
    }
}

/// The master that a board listens to in one of its places.
fn choose(
    masters: &[MasterAtV1],
    own: &str,
    leader: Option<&str>,
    place: usize,
) -> Option<MasterAtV1> {
    let other = |master: &&MasterAtV1| master.board != own && Some(&*master.board) != leader;
    let mut others: Vec<&MasterAtV1> = masters.iter().filter(other).collect();
    others.sort_by_key(|master| {
        let mut hasher = DefaultHasher::new();
        (own, &master.board).hash(&mut hasher);
        (master.part != Part::Voter, hasher.finish())
    });
    others.get(place).map(|master| (*master).clone())
}

#[cfg(test)]
mod tests {
    use model::masters::MemberId;

    use super::*;

    fn master(board: &str, part: Part) -> MasterAtV1 {
        MasterAtV1 {
            member: MemberId(1),
            board: board.into(),
            key: [0; 32],
            addresses: Vec::new(),
            api_port: 0,
            mqtt_port: 0,
            peer_port: 0,
            part,
        }
    }

    #[test]
    fn voters_that_do_not_lead_are_chosen_and_boards_spread() {
        let names = ["a", "b", "c", "d", "e"];
        let mut masters: Vec<_> = names.map(|name| master(name, Part::Voter)).into();
        masters.push(master("f", Part::Learner));
        let mut first = std::collections::BTreeSet::new();
        for own in ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "a"] {
            let places = [0, 1, 4, 5].map(|place| choose(&masters, own, Some("c"), place));
            let boards = places.map(|chosen| chosen.map(|master| master.board));
            assert!(boards.iter().flatten().all(|board| board != "c" && board != own));
            assert_ne!(boards[0], boards[1]);
            assert_eq!(boards[3], None);
            let last = if own == "a" { None } else { Some("f".to_owned()) };
            assert_eq!(boards[2], last, "a learner last");
            first.extend(boards[0].clone());
        }
        assert!(first.len() > 1, "{first:?}");
        assert_eq!(choose(&[], "a", None, 0), None);
    }
}
