//! How masters find each other again when the addresses of most of them have changed: another router, or
//! leases that a power cut of the whole site has ended.
//!
//! Where each member is stands in rows that only a leader writes, and without a majority that is reached
//! there is no leader. So a member that has heard none for a while says over mDNS where it is, signed by
//! the cluster's authority, and looks for the others where they say that they are and where the user's
//! boards are (`--peers`). Both are hints: the elector dials, few and rarely, and whoever answers proves
//! its key. Once somebody leads, nothing is announced any more, and the rows follow.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::member::{MemberRecord, SignedMember};
use tokio::sync::watch;
use tokio::time::sleep;

use super::addresses::Addresses;
use super::config::Peer;
use super::master::reachable;
use super::member::dial;
use crate::io::discovery;
use crate::io::tls::{self, Credentials, Pki};
use crate::master::members::Engine;

/// How often a member looks whether somebody leads.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often names of boards are looked up meanwhile.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// A member is announced for so long after somebody leads: the others may not have heard yet.
const LINGER: Duration = Duration::from_secs(10);

/// Says where this member is, as long as nobody leads.
pub(super) struct Seeking {
    /// This board's part in the group.
    pub(super) engine: watch::Receiver<Option<Engine>>,
    /// Where it is.
    pub(super) addresses: watch::Receiver<Addresses>,
    /// Its port for boards.
    pub(super) peer_port: u16,
    /// Boards that the user named.
    pub(super) peers: Vec<Peer>,
    /// Signs.
    pub(super) pki: Arc<Pki>,
    /// What is announced.
    pub(super) announced: watch::Sender<Option<SignedMember>>,
}

impl Seeking {
    /// What this board's responder needs, whatever its seat is.
    pub(super) fn responder(&self, credentials: &Credentials) -> discovery::Members {
        let (engine, authority) = (self.engine.clone(), credentials.authority().clone());
        discovery::Members {
            ca: credentials.pin()[..16].try_into().expect("the first half of 32 bytes"),
            own: self.announced.subscribe(),
            hear: Arc::new(move |heard| {
                let Some(engine) = engine.borrow().clone() else { return };
                let said = heard.record();
                if tls::verify(&authority, &said.signed_bytes(), heard.signature()) {
                    engine.elector.hint(said.member, &said.addresses, said.peer_port);
                } else {
                    tracing::debug!(member = %said.member, "a forged record of a member is ignored");
                }
            }),
        }
    }

    /// Looks until `stop`.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        // Cancel safety: nothing is used after this. An error means that nobody can ask any more.
        tokio::select! {
            () = self.look() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn look(&mut self) {
        let (mut led, mut resolved): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            // Cancel safety: both only wait; without a sender the board is about to end.
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                Ok(()) = self.addresses.changed() => {}
            }
            let engine = self.engine.borrow().clone();
            let Some(lost) = engine.filter(|engine| engine.elector.is_lost()) else {
                if led.get_or_insert_with(Instant::now).elapsed() >= LINGER {
                    self.announce(None);
                }
                continue;
            };
            led = None;
            let record = self.record(&lost);
            self.announce(record);
            if !self.peers.is_empty() && resolved.is_none_or(|at| at.elapsed() >= RESOLVE_EVERY) {
                resolved = Some(Instant::now());
                lost.elector.name(dial::resolve(&self.peers).await);
            }
        }
    }

    fn record(&mut self, engine: &Engine) -> Option<MemberRecord> {
        let mut addresses = reachable(&self.addresses.borrow_and_update());
        addresses.retain(|address| !address.is_loopback());
        (!addresses.is_empty()).then(|| MemberRecord {
            member: engine.own,
            addresses,
            peer_port: self.peer_port,
            ca: self.pki.pin()[..16].try_into().expect("the first half of 32 bytes"),
        })
    }

    /// Signs and announces, if that is announced anew.
    fn announce(&self, record: Option<MemberRecord>) {
        if self.announced.borrow().as_ref().map(SignedMember::record) == record.as_ref() {
            return;
        }
        let signed = match record {
            None => None,
            Some(record) => {
                let addresses = &record.addresses;
                tracing::info!(?addresses, "nobody leads: this master says where it is");
                let signed = SignedMember::sign(record, |bytes| self.pki.sign(bytes));
                signed.inspect_err(|error| tracing::warn!(%error, "it cannot")).ok()
            }
        };
        self.announced.send_replace(signed);
    }
}
