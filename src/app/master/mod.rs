//! The master role: store, views, registry, first objects, controllers, dispatcher, API, the leader
//! record. A board starts it and stops it; it is a value, and nothing of it is left when it has
//! stopped.

mod announce;
mod peers;
mod reach;

use std::sync::Arc;

use anyhow::{Context, Result};
use model::leader::SignedRecord;
use tokio::sync::watch;

use super::addresses::Addresses;
use super::config::Config;
use super::dirs::Dirs;
use super::doors::Doors;
use super::genesis;
use super::identity::Identity;
use super::loops::Loops;
use super::status::ClusterStatus;
use super::version;
use crate::io::bus::external::{ExternalOptions, Sessions};
use crate::io::clock::Clock;
use crate::io::image::ImageStore;
use crate::io::link::MasterEnd;
use crate::io::peer;
use crate::io::store::{self, Leadership, Store};
use crate::io::tls::{ApiTls, Clients, Credentials, Pki};
use crate::master::api::{self, ApiOptions, Health};
use crate::master::audit::Audit;
use crate::master::boards::{self, BoardsOptions, BusOver, Messages};
use crate::master::contacts::{self, Contacts};
use crate::master::controllers::{self, Views};
use crate::master::dispatcher;
use crate::master::evict::Evictor;
use crate::master::join::{JoinOptions, Joining};
use crate::master::keys::Keys;
use crate::master::net;
use crate::master::pending::PendingBoards;
use crate::master::registry::{Registry, RegistryOptions, ServiceRange};
use crate::master::tokens::Tokens;
use crate::master::tunnel::{Images, Routes, Streams};
use announce::Announcer;
use peers::Peers;
pub(super) use peers::{LEADER, STATUS};
use reach::{Reach, server_names};

/// What the role is started with.
pub(super) struct MasterOptions<'a> {
    /// Folders.
    pub(super) dirs: &'a Dirs,
    /// Configuration.
    pub(super) config: &'a Config,
    /// This board.
    pub(super) identity: &'a Identity,
    /// Cluster time.
    pub(super) clock: Clock,
    /// This board's addresses.
    pub(super) addresses: watch::Receiver<Addresses>,
    /// The images of this board.
    pub(super) images: ImageStore,
    /// Its ports.
    pub(super) doors: &'a Doors,
    /// The link to the agent of this board.
    pub(super) link: MasterEnd,
}

/// The running role.
pub(super) struct MasterRole {
    /// Its loops.
    pub(super) loops: Loops,
    /// What it knows of the cluster.
    pub(super) status: Arc<ClusterStatus>,
    /// Certificates.
    pub(super) pki: Arc<Pki>,
    /// The images of all boards.
    pub(super) images: Images,
    /// Takes boards in.
    pub(super) joining: Arc<Joining>,
    /// Throws boards out.
    pub(super) evictor: Evictor,
    store: Store,
}

/// What the loops of the role share.
struct Core {
    store: Store,
    views: Views,
    registry: Registry,
    pki: Arc<Pki>,
    credentials: Credentials,
    tls: Arc<ApiTls>,
    streams: Streams,
    images: Images,
    /// The boards that wait for a person's word.
    pending: PendingBoards,
    /// Told when boards were evicted.
    turned_out: watch::Sender<()>,
    /// Keys of the bus, when it goes over somebody else's broker.
    bus_keys: Option<Sessions>,
}

impl MasterRole {
    /// Starts every loop of the role; returns when the API answers.
    ///
    /// # Errors
    /// The store, the certificates or the ports cannot be had.
    pub(super) async fn start(options: MasterOptions<'_>) -> Result<Self> {
        options.doors.bind()?;
        let core = Core::open(&options).await?;
        let mut loops = Loops::new();
        core.keep_reachable(&options, &mut loops).await?;
        core.serve_api(&options, &mut loops)?;
        let status = Arc::new(core.run_controllers(&options, &mut loops));
        let record = core.announce(&options, &mut loops)?;
        let messages = Messages::default();
        core.serve_bus(&options, record.clone(), messages.clone(), &mut loops)?;
        let joining = Arc::new(core.joining(options.identity, record.clone()));
        // Before anybody asks: the boards that founded with this one come at once.
        genesis::after_founding(options.dirs, &core.tokens()).await?;
        let evictor =
            Evictor::new(core.registry.clone(), core.views.clone(), &options.identity.name);
        let peers = (options.doors, Arc::clone(&joining));
        core.serve_peers(peers, record, messages, &status, &mut loops)?;
        core.serve_own_board(options, &mut loops);
        let Core { pki, images, store, .. } = core;
        Ok(Self { loops, status, pki, images, joining, evictor, store })
    }

    /// Ends every loop, then closes the store.
    pub(super) async fn stop(self) {
        self.loops.stop().await;
        self.store.close().await;
    }
}

impl Core {
    async fn open(options: &MasterOptions<'_>) -> Result<Self> {
        let MasterOptions { dirs, config, identity, clock, addresses, images, link, .. } = options;
        let range = identity.service_range;
        let service_range = ServiceRange::new(range.base, range.prefix)
            .with_context(|| format!("{range} cannot hold services"))?;
        let pki = Arc::new(Pki::open(&dirs.data, clock.now())?);
        let credentials = Credentials::founder(&pki, &dirs.data, &identity.name)?;
        let service = service_range.api_address();
        let names = server_names(&identity.name, service, &addresses.borrow().clone());
        let tls = Arc::new(ApiTls::new(&pki, &names, clock.clone())?);
        let of_controllers = controllers::all(controllers::Cluster {
            root_ca: pki.ca_certificate(),
            pods: identity.pod_range.into(),
            reserved_ports: config.own_ports(),
        });
        let (views, hook) = Views::new(of_controllers, clock.clone());
        let mut of_store = store::Options::new(dirs.store());
        of_store.clock = clock.clone();
        let opened =
            tokio::task::spawn_blocking(move || Store::open_alone(of_store, Box::new(hook)));
        let store = opened.await?.context("cannot open the store")?;
        let options = RegistryOptions { service_range };
        let registry = Registry::new(store.clone(), clock.clone(), options)?;
        let Leadership { epoch, term } = store.leadership();
        let streams = Streams::new(epoch, term);
        streams.register(&identity.name, link.streams.clone());
        let (images, seen) = (images.clone(), views.clone());
        let images = Images::new(&identity.name, images, seen, registry.clone(), streams.clone());
        let pending = PendingBoards::new(pki.pin());
        let bus_keys = config.broker.as_ref().map(|_| Sessions::new()).transpose()?;
        Ok(Self {
            store,
            views,
            registry,
            pki,
            credentials,
            tls,
            streams,
            images,
            pending,
            turned_out: watch::Sender::new(()),
            bus_keys,
        })
    }

    async fn keep_reachable(&self, options: &MasterOptions<'_>, loops: &mut Loops) -> Result<()> {
        let mut reach = Reach {
            board: options.identity.name.clone(),
            registry: self.registry.clone(),
            pki: Arc::clone(&self.pki),
            tls: Arc::clone(&self.tls),
            api_port: options.config.api_port,
            addresses: options.addresses.clone(),
        };
        let complete = reach.bootstrap().await?;
        loops.spawn("API address", reach.run(complete, loops.stop_signal()));
        Ok(())
    }

    fn serve_api(&self, options: &MasterOptions<'_>, loops: &mut Loops) -> Result<()> {
        let failed = self.store.clone();
        let api = ApiOptions {
            registry: self.registry.clone(),
            views: self.views.clone(),
            tokens: Arc::new(api::NoTokens),
            audit: Audit::off(),
            tls: Arc::clone(&self.tls),
            listeners: vec![options.doors.api.listener()?],
            logs: Arc::new(self.streams.clone()),
            clock: options.clock.clone(),
            health: Health::default().alive_when("store", move || !failed.failed()),
            version: version::TEXT.into(),
        };
        loops.spawn("API server", api::serve(api, loops.stop_signal()));
        Ok(())
    }

    fn run_controllers(&self, options: &MasterOptions<'_>, loops: &mut Loops) -> ClusterStatus {
        let (views, registry) = (self.views.clone(), self.registry.clone());
        let contacts = Contacts::new(&views);
        let status = ClusterStatus {
            identity: options.identity.clone(),
            leader: self.store.leadership(),
            registry: registry.clone(),
            views: views.clone(),
            contacts: contacts.clone(),
            pending: self.pending.clone(),
        };
        let driver = controllers::run(views.clone(), registry, loops.stop_signal());
        loops.spawn("controllers", driver);
        let telling = net::run(views.clone(), loops.stop_signal());
        loops.spawn("network of the boards", async move {
            telling.await;
            anyhow::Ok(())
        });
        let judging = contacts::run(contacts, loops.stop_signal());
        loops.spawn("contacts", async move {
            judging.await;
            anyhow::Ok(())
        });
        status
    }

    fn announce(
        &self,
        options: &MasterOptions<'_>,
        loops: &mut Loops,
    ) -> Result<watch::Receiver<SignedRecord>> {
        let announcer = Announcer::start(
            options.config,
            options.identity,
            self.store.leadership(),
            Arc::clone(&self.pki),
            options.addresses.clone(),
            self.views.net().clone(),
        )?;
        let record = announcer.record();
        loops.spawn("leader record", announcer.run(loops.stop_signal()));
        Ok(record)
    }

    /// The boards that have joined come here to be led.
    fn serve_bus(
        &self,
        options: &MasterOptions<'_>,
        record: watch::Receiver<SignedRecord>,
        messages: Messages,
        loops: &mut Loops,
    ) -> Result<()> {
        let keys = Keys::new(self.registry.clone());
        let boards = BoardsOptions {
            cluster: options.identity.cluster.clone(),
            own: options.identity.name.clone(),
            over: self.bus_over(options)?,
            credentials: self.credentials.clone(),
            admitted: Arc::new(move |board| keys.is_admitted(board)),
            turned_out: self.turned_out.clone(),
            views: self.views.clone(),
            registry: self.registry.clone(),
            contacts: Contacts::new(&self.views),
            as_leader: self.as_leader(options.identity),
            record,
            messages,
        };
        loops.spawn("bus", boards::run(boards, loops.stop_signal()));
        Ok(())
    }

    /// The own broker on its port, or somebody else's.
    fn bus_over(&self, options: &MasterOptions<'_>) -> Result<BusOver> {
        if let Some(door) = &options.doors.bus {
            return Ok(BusOver::Own(door.listener()?));
        }
        let broker = options.config.broker.as_ref().context("the bus has no broker")?;
        let pki = Arc::clone(&self.pki);
        Ok(BusOver::External(ExternalOptions {
            cluster: options.identity.cluster.clone(),
            name: options.identity.name.clone(),
            url: broker.url.clone(),
            tls: broker.tls()?,
            sessions: self.bus_keys.clone().context("the bus has no keys")?,
            sign: Arc::new(move |bytes| pki.sign(bytes)),
        }))
    }

    /// Boards join here, and open their tunnels.
    fn serve_peers(
        &self,
        (doors, joining): (&Doors, Arc<Joining>),
        record: watch::Receiver<SignedRecord>,
        messages: Messages,
        status: &Arc<ClusterStatus>,
        loops: &mut Loops,
    ) -> Result<()> {
        let keys = Keys::new(self.registry.clone());
        let routes = Routes::new(self.streams.clone(), self.images.clone(), messages);
        let routes = routes.with_bus(self.bus_keys.clone());
        let (turned_out, status) = (self.turned_out.subscribe(), Arc::clone(status));
        let peers = Arc::new(Peers { joining, keys, turned_out, status, record, routes });
        let tls = self.credentials.server_config(Clients::Optional, peer::ALPN)?;
        let listener = doors.peers.listener()?;
        let serving = peer::serve(listener, tls, peers, loops.stop_signal());
        loops.spawn("port for boards", async move { anyhow::Ok(serving.await) });
        Ok(())
    }

    fn joining(&self, identity: &Identity, newest: watch::Receiver<SignedRecord>) -> Joining {
        let Identity { name, cluster, pod_range, service_range, .. } = identity;
        let Leadership { epoch, term } = self.store.leadership();
        Joining::new(JoinOptions {
            registry: self.registry.clone(),
            pki: Arc::clone(&self.pki),
            own: name.clone(),
            cluster: cluster.clone(),
            pod_range: pod_range.to_string(),
            service_range: service_range.to_string(),
            epoch,
            term,
            pending: self.pending.clone(),
            leader: Box::new(move || Some(newest.borrow().clone())),
        })
    }

    fn tokens(&self) -> Tokens {
        Tokens::new(self.registry.clone(), self.pki.pin())
    }

    fn as_leader(&self, identity: &Identity) -> dispatcher::Options {
        let Leadership { epoch, term } = self.store.leadership();
        let pod_range = Some(identity.pod_range.into());
        dispatcher::Options { epoch, term, pod_range, ..Default::default() }
    }

    /// The board of this process is served over memory; its end is the end of the role.
    fn serve_own_board(&self, options: MasterOptions<'_>, loops: &mut Loops) {
        let as_leader = self.as_leader(options.identity);
        let (views, registry) = (self.views.clone(), self.registry.clone());
        let (own, stop) = (options.identity.name.clone(), loops.stop_signal());
        let serving = dispatcher::run(views, registry, as_leader, own, options.link, stop);
        loops.spawn("dispatcher", serving);
    }
}
