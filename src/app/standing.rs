//! What every master has, whether it leads or not: the store, the authority, the port for boards.
//!
//! It outlives the seats of this board, so that a change of leader moves no file and closes no
//! connection between masters.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use model::masters::{ClusterTimeV1, MemberId};
use tokio::sync::watch;

use super::addresses::Addresses;
use super::authority::{self, AuthorityDisk, ByStore};
use super::backup;
use super::certificates;
use super::dirs::Dirs;
use super::identity::Identity;
use super::loops::Loops;
use super::master::server_names;
use super::mastership::Mastership;
use super::port::Port;
use super::roll::Roll;
use super::seat::Base;
use super::seeking::Seeking;
use crate::io::clock::Clock;
use crate::io::discovery;
use crate::io::peer::{self, Connection};
use crate::io::store::{self, SecretsKeys, Store};
use crate::io::tls::{ApiTls, Clients, Credentials, Pki, TokenKeys};
use crate::master;
use crate::master::api::Gateway;
use crate::master::both::Both;
use crate::master::elector::{Book, GroupClock};
use crate::master::evictions::{self, Evicted};
use crate::master::keys::Keys;
use crate::master::members::{self, FOUNDER, Grouping, GroupingOptions, Members, Note};
use crate::master::registry::{Registry, ServiceRange};
use crate::master::way;

/// How often the clock is told who votes.
const VOTERS_EVERY: Duration = Duration::from_secs(5);

/// A master's things.
pub(super) struct Standing {
    /// The log and the state.
    pub(super) store: Store,
    /// The cluster's authority.
    pub(super) pki: Arc<Pki>,
    /// This board's certificate, with the masters' group.
    pub(super) credentials: Credentials,
    /// The API's certificate.
    pub(super) tls: Arc<ApiTls>,
    /// What service accounts' tokens are signed with.
    pub(super) token_keys: TokenKeys,
    /// What Secrets are sealed with.
    pub(super) secrets_keys: SecretsKeys,
    /// The port for boards.
    pub(super) port: Arc<Port>,
    /// The port for clients of the API.
    pub(super) gateway: Gateway,
    /// The connection to the leader, while that is another board.
    pub(super) line: watch::Receiver<Option<Connection>>,
    /// Who leads, and who the masters are.
    pub(super) roll: Roll,
    /// The group of masters, as far as there is one.
    pub(super) members: Members,
    /// What the board's responder says and hears of the members.
    pub(super) seeking: discovery::Members,
    /// Which authority counts, where that is another one than this was opened with.
    pub(super) due: watch::Sender<Option<[u8; 32]>>,
    /// Where the keys of another authority lie.
    pub(super) disk: Arc<AuthorityDisk>,
    /// Loops that do not depend on who leads.
    pub(super) loops: Loops,
}

impl Standing {
    /// Opens what lies on the disk, and serves other masters.
    ///
    /// # Errors
    /// The store, the certificates or the ports cannot be had.
    pub(super) async fn open(base: &Base, mastership: Option<&Mastership>) -> Result<Self> {
        base.doors.bind()?;
        let Base { dirs, identity, clock, .. } = base;
        if let Some(kept) = certificates::kept(dirs) {
            clock.confirmed_before(kept);
        }
        authority::finish(dirs, clock.now())?;
        let pki = Arc::new(Pki::open(&dirs.data, clock.now())?);
        let credentials = Credentials::founder(&pki, &dirs.data, &identity.name)?;
        let names = server_names(&identity.name, api_address(identity)?, &base.addresses.borrow());
        let tls = Arc::new(ApiTls::new(&pki, &names, clock.clone())?);
        let token_keys = TokenKeys::open(&dirs.data)?;
        let secrets_keys =
            SecretsKeys::open(&dirs.data).context("cannot have the keys of Secrets")?;
        let store = open_store(base, mastership, secrets_keys.clone()).await?;
        let mastership = mastership.filter(|it| !it.is_promoted(&store));
        let known = mastership.map(|mastership| mastership.masters.clone()).unwrap_or_default();
        let credentials = credentials.pinning(Arc::new(ByStore::new(&store, &known)));
        let book = watch::Sender::new(Arc::new(known));
        let evicted = watch::Sender::default();
        let grouping = Grouping::new(GroupingOptions {
            store: store.clone(),
            credentials: credentials.clone(),
            book: book.subscribe(),
            clock: Arc::new(OwnClock(clock.clone())),
            incoming: dirs.store().join("incoming"),
            evicted: evicted.subscribe(),
            cluster: name_of_group(dirs, &credentials)?,
            note: note(base),
        });
        let gateway = Gateway::default();
        let roll = Roll::new(grouping.book(), store.clone());
        let keys = Keys::of(store.clone());
        let disk = Arc::new(AuthorityDisk {
            data: dirs.data.clone(),
            credentials: credentials.clone(),
            secrets_keys: secrets_keys.clone(),
            book: grouping.book(),
        });
        let desk = disk.desk(Arc::clone(&pki), token_keys.clone(), keys.clone());
        let port = Port::new(keys, grouping.engine(), gateway.clone(), roll.clone(), desk);
        let (members, mut loops) = (Members::new(grouping), Loops::new());
        let seeking = seek(base, &members, &pki, &credentials, &mut loops);
        let (to_leader, line) = watch::channel(None);
        let mut standing = Self {
            store,
            pki,
            credentials,
            tls,
            token_keys,
            secrets_keys,
            port,
            gateway,
            line,
            roll,
            members,
            seeking,
            due: watch::Sender::default(),
            disk,
            loops,
        };
        standing.serve_boards(base)?;
        standing.serve_clients(base, to_leader)?;
        standing.keep_certified(base)?;
        standing.keep_time(base, mastership.is_some());
        standing.follow_evictions(evicted);
        standing.follow_authority();
        standing.follow_members(book, mastership.map_or(FOUNDER, |it| it.member));
        Ok(standing)
    }

    /// Takes part in the group that the log or a fresh kit names; whether there is one.
    ///
    /// # Errors
    /// The engine does not start.
    pub(super) async fn enter(&self, dirs: &Dirs, mastership: Option<&Mastership>) -> Result<bool> {
        let (own, epoch) = match (self.store.standing(), mastership) {
            (store::Standing::Member { own, epoch }, _) => (own, epoch),
            (store::Standing::Sole, Some(mastership)) => (mastership.member, mastership.epoch),
            (store::Standing::Sole, None) => return Ok(false),
        };
        let entered = self.members.grouping().enter(own, epoch).await;
        entered.context("cannot take part in the group of masters")?;
        // Also after a promotion that came to nothing.
        if mastership.is_none_or(|it| !it.entered || it.promoting) {
            let dirs = dirs.clone();
            tokio::task::spawn_blocking(move || Mastership::note(&dirs, own, epoch)).await??;
        }
        tracing::info!(member = %own, epoch, "this board holds the log");
        Ok(true)
    }

    /// Whether writes wait for a second board.
    pub(super) fn both(&self, base: &Base) -> Both {
        let grouping = self.members.grouping().clone();
        Both::new(grouping, self.store.clone(), base.config.masters)
    }

    fn follow_members(&mut self, book: watch::Sender<Book>, own: MemberId) {
        let following = members::follow_book(self.store.clone(), book, self.loops.stop_signal());
        self.loops.spawn("book of the masters", following);
        let driving = members::run(self.members.clone(), own, self.loops.stop_signal());
        self.loops.spawn("members of the group", async move { anyhow::Ok(driving.await) });
    }

    /// An evicted board is cut off from every master, whoever leads.
    fn follow_evictions(&mut self, evicted: watch::Sender<Evicted>) {
        let (store, turned_out) = (self.store.clone(), self.port.turned_out());
        let following = evictions::follow(store, evicted, turned_out, self.loops.stop_signal());
        self.loops.spawn("evicted boards", following);
    }

    /// Another authority may come to count, whoever leads.
    fn follow_authority(&mut self) {
        let (store, disk) = (self.store.clone(), Arc::clone(&self.disk));
        let due = self.due.clone();
        let following = master::authority::follow(store, disk, due, self.loops.stop_signal());
        self.loops.spawn("authority of the cluster", following);
    }

    /// The voters' clocks make cluster time, and certificates are renewed by it.
    fn keep_time(&mut self, base: &Base, is_member: bool) {
        let parts = (Arc::clone(&self.pki), Arc::clone(&self.tls));
        let renewing = certificates::renew(
            parts,
            base.dirs.clone(),
            base.clock.clone(),
            self.loops.stop_signal(),
        );
        self.loops.spawn("certificates", async move { anyhow::Ok(renewing.await) });
        match (self.store.standing(), self.store.members()) {
            (store::Standing::Member { own, .. }, Some(members))
                if !members.voters().is_empty() =>
            {
                base.clock.voters(Some(own), members.voters());
            }
            (store::Standing::Sole, _) if !is_member => base.clock.voters(None, BTreeSet::new()),
            // Until the log says who votes.
            _ => base.clock.wait(),
        }
        let (members, clock) = (self.members.clone(), base.clock.clone());
        let telling = tell_voters(members, clock, self.loops.stop_signal());
        self.loops.spawn("clocks of the voters", async move { anyhow::Ok(telling.await) });
    }

    fn serve_boards(&mut self, base: &Base) -> Result<()> {
        let tls = self.credentials.server_config(Clients::Optional, peer::ALPN)?;
        let (listener, port) = (base.doors.peers.listener()?, Arc::clone(&self.port));
        let serving = peer::serve(listener, tls, port, self.loops.stop_signal());
        self.loops.spawn("port for boards", async move { anyhow::Ok(serving.await) });
        Ok(())
    }

    /// Clients of the API are served here, whoever leads.
    fn serve_clients(
        &mut self,
        base: &Base,
        to_leader: watch::Sender<Option<Connection>>,
    ) -> Result<()> {
        let listeners = vec![base.doors.api.listener()?];
        let serving =
            self.gateway.serve(Arc::clone(&self.tls), listeners, self.loops.stop_signal());
        self.loops.spawn("API server", serving);
        let following =
            way::follow(self.members.grouping().engine(), to_leader, self.loops.stop_signal());
        self.loops.spawn("way to the leader", async move { anyhow::Ok(following.await) });
        let asking = self.roll.clone().ask_leader(self.line.clone(), self.loops.stop_signal());
        self.loops.spawn("question to the leader", async move { anyhow::Ok(asking.await) });
        Ok(())
    }

    /// The API's certificate has the names that this board has.
    fn keep_certified(&mut self, base: &Base) -> Result<()> {
        let certificate = Certificate {
            board: base.identity.name.clone(),
            service: api_address(&base.identity)?,
            pki: Arc::clone(&self.pki),
            tls: Arc::clone(&self.tls),
        };
        let following = certificate.follow(base.addresses.clone(), self.loops.stop_signal());
        self.loops.spawn("API certificate", following);
        Ok(())
    }

    /// What a backup of this master is made of.
    pub(super) fn backup(&self, identity: &Identity, registry: &Registry) -> backup::Source {
        backup::Source {
            store: self.store.clone(),
            pki: Arc::clone(&self.pki),
            token_keys: self.token_keys.clone(),
            secrets_keys: self.secrets_keys.clone(),
            identity: identity.clone(),
            clock: registry.clock().clone(),
        }
    }

    /// Ends its loops at once, then closes the store.
    pub(super) async fn cut(self) {
        self.gateway.close();
        self.members.grouping().stop().await;
        self.loops.cut().await;
        self.store.close().await;
    }

    /// Ends its loops, then closes the store.
    pub(super) async fn close(self) {
        self.gateway.close();
        self.members.grouping().stop().await;
        self.loops.stop().await;
        self.store.close().await;
    }
}

/// Masters find each other again when nobody leads and their addresses have changed.
fn seek(
    base: &Base,
    members: &Members,
    pki: &Arc<Pki>,
    credentials: &Credentials,
    loops: &mut Loops,
) -> discovery::Members {
    let seeking = Seeking {
        engine: members.grouping().engine(),
        addresses: base.addresses.clone(),
        peer_port: base.config.peer_port,
        peers: base.config.peers.clone(),
        pki: Arc::clone(pki),
        announced: watch::Sender::default(),
    };
    let responder = seeking.responder(credentials);
    let looking = seeking.run(loops.stop_signal());
    loops.spawn("search for the masters", async move { anyhow::Ok(looking.await) });
    responder
}

/// The log, unless what this board had of it is lost.
async fn open_store(
    base: &Base,
    mastership: Option<&Mastership>,
    secrets_keys: SecretsKeys,
) -> Result<Store> {
    let mut options = store::Options::new(base.dirs.store());
    options.clock = base.clock.clone();
    options.secrets = Some(secrets_keys);
    let opened = tokio::task::spawn_blocking(move || Store::open(options));
    let store = opened.await?.context("cannot open the store")?;
    if mastership.is_some_and(|it| it.is_lost(&store)) {
        store.close().await;
        return Err(store::OpenError::Lost(base.dirs.store()).into());
    }
    Ok(store)
}

/// What names the group in its messages: the first half of its first authority's pin.
fn name_of_group(dirs: &Dirs, credentials: &Credentials) -> Result<[u8; 16]> {
    let first = || credentials.pin()[..16].try_into().expect("the first half of 32 bytes");
    Ok(authority::group(&dirs.data)?.unwrap_or_else(first))
}

/// Keeps that a master which led alone belongs to a group from now on.
fn note(base: &Base) -> Note {
    let dirs = base.dirs.clone();
    Arc::new(move |own, epoch| {
        let noted = Mastership::note(&dirs, own, epoch);
        noted.map_err(|error| std::io::Error::other(format!("{error:#}")))
    })
}

/// The API's address among the Services.
fn api_address(identity: &Identity) -> Result<std::net::Ipv4Addr> {
    let range = identity.service_range;
    let range = ServiceRange::new(range.base, range.prefix)
        .with_context(|| format!("{range} cannot hold services"))?;
    Ok(range.api_address())
}

/// Tells the clock whose clocks count, until `stop`.
async fn tell_voters(members: Members, clock: Clock, mut stop: watch::Receiver<bool>) {
    let mut told = None;
    loop {
        // Cancel safety: both only wait. An error means that nobody can ask any more.
        tokio::select! {
            () = tokio::time::sleep(VOTERS_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let own = members.grouping().engine().borrow().as_ref().map(|engine| engine.own);
        let Some(health) = members.health() else { continue };
        let voters = health.members.voters();
        // A fresh member has no log yet: nobody's clock counts until it says whose do.
        if !voters.is_empty() && told.as_ref() != Some(&(own, voters.clone())) {
            clock.voters(own, voters.clone());
            told = Some((own, voters));
        }
    }
}

/// The clock of this board, for the other masters.
struct OwnClock(Clock);

impl GroupClock for OwnClock {
    fn say(&self) -> ClusterTimeV1 {
        self.0.say()
    }

    fn hear(&self, from: MemberId, time: ClusterTimeV1) {
        self.0.hear(from, time);
    }
}

struct Certificate {
    board: String,
    service: std::net::Ipv4Addr,
    pki: Arc<Pki>,
    tls: Arc<ApiTls>,
}

impl Certificate {
    async fn follow(
        self,
        mut addresses: watch::Receiver<Addresses>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        loop {
            // Cancel safety: both lose nothing when dropped. An error of either means that the board
            // ends.
            tokio::select! {
                changed = addresses.changed() => if changed.is_err() {
                    return Ok(());
                },
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
            let names = server_names(&self.board, self.service, &addresses.borrow_and_update());
            let (tls, pki) = (Arc::clone(&self.tls), Arc::clone(&self.pki));
            let issued = tokio::task::spawn_blocking(move || tls.set_names(&pki, &names)).await?;
            if let Err(error) = issued {
                // The old certificate still serves the old names; clients of the new ones are refused.
                tracing::error!(%error, "no certificate for the new addresses");
            }
        }
    }
}
