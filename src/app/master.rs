//! Starts the master role: store, views, registry, first objects, controllers, dispatcher, API.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::addresses::{Addresses, Follower, server_names};
use super::config::Config;
use super::dirs::Dirs;
use super::identity::Identity;
use super::up::Loops;
use super::version;
use crate::io::clock::Clock;
use crate::io::link::MasterEnd;
use crate::io::net::AddressChanges;
use crate::io::store::{self, Leadership, Store};
use crate::io::tls::{ApiTls, Pki};
use crate::master::api::{self, ApiOptions, Health, LinkLogs};
use crate::master::contacts::{self, Contacts};
use crate::master::controllers::{self, Views};
use crate::master::dispatcher;
use crate::master::registry::{Registry, RegistryOptions, ServiceRange};

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
    /// This board's addresses, kept up to date from here.
    pub(super) addresses: watch::Sender<Addresses>,
    /// The link to the agent of this board.
    pub(super) link: MasterEnd,
}

/// The running role, as far as others use it.
pub(super) struct Master {
    /// The objects.
    pub(super) registry: Registry,
    /// The store, to be closed last.
    pub(super) store: Store,
    /// Certificates.
    pub(super) pki: Arc<Pki>,
    /// Epoch and term.
    pub(super) leader: Leadership,
}

/// Starts every loop of the role; returns when the API answers.
pub(super) async fn start(
    options: MasterOptions<'_>,
    loops: &mut Loops,
    stop: &watch::Receiver<bool>,
) -> Result<Master> {
    let MasterOptions { dirs, config, identity, clock, addresses, link } = options;
    // Before the addresses are used: no change may fall between.
    let changes = AddressChanges::open().context("address changes cannot be followed")?;
    addresses.send_replace(Addresses::read(config.interface.as_deref()));
    let range = identity.service_range;
    let service_range = ServiceRange::new(range.base, range.prefix)
        .with_context(|| format!("{range} cannot hold services"))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, config.api_port))
        .await
        .with_context(|| format!("port {} is taken: choose another --api-port", config.api_port))?;
    let pki = Arc::new(Pki::open(&dirs.data, clock.now())?);
    let names =
        server_names(&identity.name, service_range.api_address(), &addresses.borrow().clone());
    let tls = Arc::new(ApiTls::new(&pki, &names, clock.clone())?);

    let (views, hook) = Views::new(controllers::all(pki.ca_certificate()), clock.clone());
    let folder = dirs.store();
    let mut of_store = store::Options::new(folder);
    of_store.clock = clock.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(of_store, Box::new(hook)));
    let store = opened.await?.context("cannot open the store")?;
    let registry = Registry::new(store.clone(), clock.clone(), RegistryOptions { service_range })?;
    let follower = Follower {
        interface: config.interface.clone(),
        board: identity.name.clone(),
        registry: registry.clone(),
        pki: Arc::clone(&pki),
        tls: Arc::clone(&tls),
        api_port: config.api_port,
        addresses,
    };
    let complete = follower.bootstrap().await?;
    let following = follower.run(changes, complete, stop.clone());
    loops.spawn(async move { ("addresses", following.await) });

    let leader = store.leadership();
    let Leadership { epoch, term } = leader;
    let logs = LinkLogs { node: identity.name.clone(), epoch, term, streams: link.streams.clone() };
    let failed = store.clone();
    let serving = api::serve(
        ApiOptions {
            registry: registry.clone(),
            tls,
            listeners: vec![listener],
            logs: Arc::new(logs),
            clock,
            health: Health::default().alive_when("store", move || !failed.failed()),
            version: version::TEXT.into(),
        },
        stop.clone(),
    );
    loops.spawn(async move { ("API server", serving.await.map_err(Into::into)) });
    let driver = controllers::run(views.clone(), registry.clone(), stop.clone());
    loops.spawn(async move { ("controllers", driver.await.map_err(Into::into)) });
    let judging = contacts::run(Contacts::new(&views), stop.clone());
    loops.spawn(async move { ("contacts", Ok(judging.await)) });
    let as_leader = dispatcher::Options { epoch, term, ..Default::default() };
    let dispatcher = dispatcher::run(views, registry.clone(), as_leader, link, stop.clone());
    loops.spawn(async move { ("dispatcher", dispatcher.await.map_err(Into::into)) });
    Ok(Master { registry, store, pki, leader })
}
