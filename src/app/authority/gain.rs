//! How a board that holds no log comes to a certificate of another authority.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use model::limits::{KIT_BYTES_MAX, MASTERS_MAX};
use model::masters::{CertifiedV1, MasterAtV1};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::CERTIFY;
use crate::app::dirs::Dirs;
use crate::app::mastership::Mastership;
use crate::app::roll;
use crate::io::peer::{self, ALPN, Connection};
use crate::io::tls::Credentials;
use crate::master::elector::Book;
use crate::node::tunnel::Tunnel;

/// Pause before the same connection is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Asks; clones share what they get.
#[derive(Clone)]
pub(in crate::app) struct Certifying {
    /// What this board shows.
    pub(in crate::app) credentials: Credentials,
    /// Its public key, DER SubjectPublicKeyInfo.
    pub(in crate::app) public_key: Vec<u8>,
    /// Where its keys lie.
    pub(in crate::app) dirs: Dirs,
    /// The masters that it knows.
    pub(in crate::app) book: watch::Sender<Book>,
    /// What came of it: the first answer counts.
    pub(in crate::app) certified: watch::Sender<Option<CertifiedV1>>,
}

impl Certifying {
    /// Looks at each connection to the leader, until `stop`.
    pub(in crate::app) async fn run(self, tunnel: Tunnel, mut stop: watch::Receiver<bool>) {
        let mut connections = tunnel.connection();
        let looking = async {
            loop {
                let now = connections.borrow_and_update().clone();
                let asking = async {
                    match now {
                        Some(connection) if self.is_other(&connection) => {
                            self.ask(&connection).await
                        }
                        _ => std::future::pending().await,
                    }
                };
                // Cancel safety: an answer that is dropped is asked for again.
                tokio::select! {
                    Err(why) = asking => {
                        tracing::debug!(why, "no certificate of the new authority");
                        sleep(AGAIN).await;
                    }
                    changed = connections.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        };
        // Cancel safety: as above. An error means that nobody can ask any more.
        tokio::select! {
            () = looking => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Asks the leader at that address, unless it has this board's authority.
    pub(in crate::app) async fn ask_at(&self, address: SocketAddr) -> Result<(), String> {
        let connection = self.open(address).await?;
        match self.is_other(&connection) {
            true => self.ask(&connection).await,
            false => Err("it has no other authority, or is not known".into()),
        }
    }

    /// Takes the word of the master at that address, which this board knows by its key and which has another
    /// authority, for the key of whoever leads: that one may have come while this board was away.
    pub(in crate::app) async fn meet(
        &self,
        address: SocketAddr,
        leader: &str,
    ) -> Result<(), String> {
        let connection = self.open(address).await?;
        if !self.is_other(&connection) {
            return Err("it has no other authority, or is not known".into());
        }
        let asked = timeout(ANSWER_WITHIN, roll::ask(&connection, None)).await;
        let said = asked.ok().and_then(Result::ok).ok_or("it does not say who the masters are")?;
        let named = said.masters.into_iter().find(|at| at.board == leader);
        let named = named.ok_or("it does not name that master")?;
        // A board with a new card has its old name and another key.
        let is_named = |at: &MasterAtV1| at.board == named.board && at.key == named.key;
        if self.book.borrow().iter().any(is_named) {
            return Ok(());
        }
        if self.book.borrow().len() >= MASTERS_MAX {
            return Err("too many masters were named".into());
        }
        self.book.send_modify(|book| Arc::make_mut(book).push(named));
        Ok(())
    }

    async fn open(&self, address: SocketAddr) -> Result<Connection, String> {
        let tls = self.credentials.client_config(ALPN).map_err(|error| error.to_string())?;
        let opened = Connection::open(address, tls, ANSWER_WITHIN).await;
        opened.map_err(|error| error.to_string())
    }

    /// Whether a master that this board knows by its key names an authority that it does not know.
    fn is_other(&self, connection: &Connection) -> bool {
        let authority = connection.authority();
        authority.is_some_and(|pin| pin != self.credentials.pin())
            && self.credentials.pins_master(connection.master())
    }

    /// Whether this board is no master, nor may become one again with what it holds.
    pub(in crate::app) fn may_ask(&self) -> bool {
        may_take(&self.dirs)
    }

    async fn ask(&self, connection: &Connection) -> Result<(), String> {
        if !self.may_ask() {
            return Err("this board is a master under the earlier authority still".into());
        }
        let request = Request::post(CERTIFY).body(peer::full(self.public_key.clone()));
        let request = request.map_err(|error| error.to_string())?;
        let asked = timeout(ANSWER_WITHIN, async {
            let answer = connection.send(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = peer::read(answer.into_body(), KIT_BYTES_MAX).await?;
            match status {
                StatusCode::OK => Ok(body),
                _ => Err(format!("it answers {status}")),
            }
        });
        let body = asked.await.map_err(|_| "no answer in time".to_owned())??;
        let mut certified: CertifiedV1 =
            serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        if certified.masters.is_empty() {
            // Of the masters that are known it alone is known to have that authority.
            let (key, book) = (connection.master().key, self.book.borrow());
            certified.masters = book.iter().filter(|at| at.key == key).cloned().collect();
        }
        self.certified.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert(certified);
            is_first
        });
        Ok(())
    }
}

/// Whether a certificate of another authority is for this board: it holds none of the log, and what it may
/// have of an authority's key is left over.
pub(super) fn may_take(dirs: &Dirs) -> bool {
    !dirs.data.join("pki/ca.key").exists() || Mastership::left_keys(dirs)
}
