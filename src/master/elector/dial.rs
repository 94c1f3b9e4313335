//! How another member is reached, wherever it may be ([`Places`](super::places::Places)).
//!
//! Addresses are dialed one after the other, the best first, and one that is slow is not waited for. The
//! first at which somebody proves the member's key is taken; who proves to be another member there is
//! remembered for its own sake.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use model::limits::MEMBERS_MET_MAX;
use model::masters::MemberId;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::places::Places;
use super::{CONNECT_WITHIN, Elector, LOST_AFTER};
use crate::io::peer::Connection;
use crate::io::tls::BoardPeer;

/// An address that has not answered for so long does not keep the next one waiting.
const NEXT_AFTER: Duration = Duration::from_millis(100);

/// Where a master has met others, `<member>=<address>:<port>` with commas between, in its answer to a stream.
pub(super) const MET: HeaderName = HeaderName::from_static("kumquat-members");

impl Elector {
    /// A connection to a member: to the board that the book names, where it may be. What is sent and
    /// `unanswered` for so long ends it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self, to: MemberId, unanswered: Duration) -> Result<Connection, String> {
        let at = self.at(to).ok_or_else(|| format!("nobody knows where member {to} is"))?;
        let tls = (self.options.tls)().ok_or("this board has no certificate")?;
        let lost = self.is_lost();
        let mut waiting = self.places().of(&at, lost, Instant::now()).into_iter();
        let mut why = format!("member {to} has no address");
        // Dropped with this: dials that are not needed any more end.
        let mut dials = JoinSet::new();
        loop {
            match waiting.next() {
                Some(address) => {
                    let tls = tls.clone();
                    dials.spawn(async move {
                        let within = CONNECT_WITHIN;
                        (address, Connection::open_lasting(address, tls, within, unanswered).await)
                    });
                }
                None if dials.is_empty() => return Err(why),
                None => {}
            }
            let patience = if waiting.len() > 0 { NEXT_AFTER } else { CONNECT_WITHIN };
            let Ok(Some(Ok((address, dialed)))) = timeout(patience, dials.join_next()).await else {
                continue;
            };
            match dialed {
                Ok(connection) if connection.master().key == at.key => {
                    self.places().reached(to, address);
                    return Ok(connection);
                }
                Ok(connection) => {
                    why = format!("{address} is another board than member {to}");
                    self.places().failed(to, address);
                    if let Some(other) = self.member_with(connection.master()) {
                        self.places().reached(other, address);
                    }
                }
                Err(error) => {
                    why = error.to_string();
                    self.places().failed(to, address);
                }
            }
        }
    }

    /// Whether neither this member leads nor another one was heard to, for so long that the rows of the
    /// book may be wrong: only a leader keeps them.
    pub fn is_lost(&self) -> bool {
        let Some(group) = self.group() else { return false };
        if group.health().borrow().leads {
            return false;
        }
        let led = *self.led.lock().unwrap_or_else(PoisonError::into_inner);
        led.map_or(self.began, |(_, at)| at).elapsed() >= LOST_AFTER
    }

    /// A member says that it is there. Whatever that is, it is only dialed.
    pub fn hint(&self, member: MemberId, addresses: &[Ipv4Addr], port: u16) {
        if member != self.options.own && self.at(member).is_some() {
            self.places().hint(member, addresses, port);
        }
    }

    /// The boards that the user named are there: each may be any member.
    pub fn name(&self, addresses: Vec<SocketAddr>) {
        let book = self.options.book.borrow().clone();
        let mut places = self.places();
        places.keep(|member| book.iter().any(|at| at.member == member));
        places.name(addresses);
    }

    /// Where a board came from that has proven its key; whether it is a member.
    pub(super) fn note_seen(&self, board: &BoardPeer, from: IpAddr) -> bool {
        if self.options.evicted.borrow().contains(&board.key) {
            return false;
        }
        let Some(at) = self.member_with(board).and_then(|member| self.at(member)) else {
            return false;
        };
        self.places().seen(at.member, (from.to_canonical(), at.peer_port).into());
        true
    }

    /// Where this member has met others, for one that came here: with one board that all of them know,
    /// everybody meets everybody.
    pub(super) fn tell_met(&self) -> Option<HeaderValue> {
        let met: Vec<String> = self
            .places()
            .met()
            .map(|(member, address)| format!("{member}={address}"))
            .take(MEMBERS_MET_MAX)
            .collect();
        HeaderValue::from_str(&met.join(",")).ok().filter(|_| !met.is_empty())
    }

    /// Where another member says that it has met others: hints, like all that is not proven here.
    pub(super) fn hear_met(&self, headers: &HeaderMap) {
        let said = headers.get(MET).and_then(|said| said.to_str().ok()).unwrap_or_default();
        for one in said.split(',').take(MEMBERS_MET_MAX) {
            let Some((member, address)) = one.split_once('=') else { continue };
            if let (Ok(member), Ok(address)) = (member.parse(), address.parse::<SocketAddrV4>()) {
                self.hint(MemberId(member), &[*address.ip()], address.port());
            }
        }
    }

    /// The member that the book names with this board's key.
    fn member_with(&self, board: &BoardPeer) -> Option<MemberId> {
        let book = self.options.book.borrow();
        book.iter().find(|at| at.key == board.key).map(|at| at.member)
    }

    pub(super) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
