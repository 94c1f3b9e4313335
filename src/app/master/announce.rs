//! What a leader says of itself on the site: the signed leader record (who leads and where, for mDNS,
//! the bus and whoever asks), and the names of the load balancers.
//!
//! The record is signed anew when this board's addresses change; names follow the network, gathered
//! for a second. All is withdrawn when the role stops.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use logic::network::site_names;
use model::leader::{LeaderRecord, SignedRecord};
use model::limits::LEADER_ADDRESSES_MAX;
use model::masters::Reign;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::app::addresses::Addresses;
use crate::app::config::Config;
use crate::app::identity::Identity;
use crate::app::member::locate;
use crate::io::discovery::{self, Discovery, Options};
use crate::io::tls::{Credentials, Pki};
use crate::master::net::Net;

/// Signs and announces.
pub(super) struct Announcer {
    /// Everything but the addresses.
    template: LeaderRecord,
    pki: Arc<Pki>,
    addresses: watch::Receiver<Addresses>,
    record: watch::Sender<SignedRecord>,
    discovery: Discovery,
    net: Net,
    /// A leader of a later epoch, as heard.
    rivals: watch::Sender<Option<SignedRecord>>,
}

/// Changes of the network that come this close together are announced at once.
const GATHER: Duration = Duration::from_secs(1);

impl Announcer {
    /// Signs the first record and announces it.
    ///
    /// # Errors
    /// The record cannot be: the name of the board or cluster is no label.
    pub(super) fn start(
        config: &Config,
        identity: &Identity,
        leader: Reign,
        (pki, credentials): (Arc<Pki>, &Credentials),
        mut addresses: watch::Receiver<Addresses>,
        (net, seeking): (Net, discovery::Members),
    ) -> Result<Self> {
        let pin = pki.pin();
        let template = LeaderRecord {
            cluster: identity.cluster.clone(),
            epoch: leader.epoch,
            term: leader.term,
            name: identity.name.clone(),
            addresses: Vec::new(),
            api_port: config.api_port,
            mqtt_port: config.mqtt_port,
            peer_port: config.peer_port,
            ca: pin[..16].try_into().expect("the first half of 32 bytes"),
        };
        let first = sign(&template, &addresses.borrow_and_update(), &pki)?;
        // A leader listens for one thing: somebody else was promoted. What is heard may have been
        // recorded long ago, so it only makes this one look there.
        let (rivals, epoch) = (watch::Sender::new(None::<SignedRecord>), leader.epoch);
        let (heard, genuine) = (rivals.clone(), locate::judge(credentials, &identity.cluster));
        let discovery = Discovery::start(Options {
            interface: config.interface.clone(),
            judge: Arc::new(move |record| {
                if record.record().epoch > epoch && genuine(record) {
                    heard.send_if_modified(|known| {
                        let rank = |record: &SignedRecord| record.record().rank();
                        let is_new = known.as_ref().is_none_or(|known| rank(known) < rank(record));
                        if is_new {
                            *known = Some(record.clone());
                        }
                        is_new
                    });
                }
                false
            }),
            members: Some(seeking),
        });
        discovery.announce(first.clone());
        let record = watch::Sender::new(first);
        Ok(Self { template, pki, addresses, record, discovery, net, rivals })
    }

    /// The newest record.
    pub(super) fn record(&self) -> watch::Receiver<SignedRecord> {
        self.record.subscribe()
    }

    /// The newest leader of a later epoch that is heard: this one may have been fenced.
    pub(super) fn rivals(&self) -> watch::Receiver<Option<SignedRecord>> {
        self.rivals.subscribe()
    }

    /// Follows the addresses until `stop`.
    ///
    /// # Errors
    /// A record cannot be signed.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let mut published = self.net.published();
        published.mark_changed();
        let mut due: Option<Instant> = None;
        loop {
            // Cancel safety: none loses anything when dropped; what is due stays so.
            tokio::select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.discovery.name(site_names(&self.net.state()));
                    continue;
                }
                // The sender is as old as `self.net`.
                changed = published.changed() => {
                    let now = changed.map(|()| Instant::now());
                    due = due.or(now.ok().map(|now| now + GATHER));
                    continue;
                }
                // The board itself ends when nobody tells addresses any more.
                changed = self.addresses.changed() => if changed.is_err() {
                    break;
                },
                // An error means that nobody can ask any more.
                _ = stop.wait_for(|stop| *stop) => break,
            }
            let fresh = sign(&self.template, &self.addresses.borrow_and_update(), &self.pki)?;
            if fresh.record() != self.record.borrow().record() {
                self.discovery.announce(fresh.clone());
                self.record.send_replace(fresh);
            }
        }
        self.discovery.stop().await;
        Ok(())
    }
}

fn sign(template: &LeaderRecord, addresses: &Addresses, pki: &Pki) -> Result<SignedRecord> {
    let record = LeaderRecord { addresses: reachable(addresses), ..template.clone() };
    SignedRecord::sign(record, |bytes| pki.sign(bytes)).context("cannot sign the leader record")
}

/// The best addresses, the board's own first.
pub(in crate::app) fn reachable(addresses: &Addresses) -> Vec<Ipv4Addr> {
    let others = addresses.all.iter().filter_map(|address| match address {
        IpAddr::V4(v4) if *v4 != addresses.own => Some(*v4),
        _ => None,
    });
    std::iter::once(addresses.own).chain(others).take(LEADER_ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_address_comes_first_and_few_are_named() {
        let all: Vec<IpAddr> = (1..9).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let own = Ipv4Addr::new(10, 0, 0, 3);
        let named = reachable(&Addresses { own, all });
        assert_eq!(named.len(), LEADER_ADDRESSES_MAX);
        assert_eq!(named[0], own);
        assert_eq!(named.iter().filter(|address| **address == own).count(), 1);
        let alone = Addresses { own: Ipv4Addr::LOCALHOST, all: Vec::new() };
        assert_eq!(reachable(&alone), [Ipv4Addr::LOCALHOST]);
    }
}
