//! The master role: store, views, registry, first objects, controllers, dispatcher, API. A board
//! starts it and stops it; it is a value, and nothing of it is left when it has stopped.

mod reach;

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::addresses::Addresses;
use super::config::Config;
use super::dirs::Dirs;
use super::identity::Identity;
use super::loops::Loops;
use super::version;
use crate::io::clock::Clock;
use crate::io::link::MasterEnd;
use crate::io::store::{self, Leadership, Store};
use crate::io::tls::{ApiTls, Pki};
use crate::master::api::{self, ApiOptions, Health, LinkLogs};
use crate::master::contacts::{self, Contacts};
use crate::master::controllers::{self, Views};
use crate::master::dispatcher;
use crate::master::registry::{Registry, RegistryOptions, ServiceRange};
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
    /// The link to the agent of this board.
    pub(super) link: MasterEnd,
}

/// The running role.
pub(super) struct MasterRole {
    /// Its loops.
    pub(super) loops: Loops,
    /// The objects.
    pub(super) registry: Registry,
    /// Certificates.
    pub(super) pki: Arc<Pki>,
    /// Epoch and term.
    pub(super) leader: Leadership,
    store: Store,
}

impl MasterRole {
    /// Starts every loop of the role; returns when the API answers.
    ///
    /// # Errors
    /// The store, the certificates or the port cannot be had.
    pub(super) async fn start(options: MasterOptions<'_>) -> Result<Self> {
        let MasterOptions { dirs, config, identity, clock, addresses, link } = options;
        let range = identity.service_range;
        let service_range = ServiceRange::new(range.base, range.prefix)
            .with_context(|| format!("{range} cannot hold services"))?;
        let listener = listen("--api-port", config.api_port).await?;
        let pki = Arc::new(Pki::open(&dirs.data, clock.now())?);
        let names =
            server_names(&identity.name, service_range.api_address(), &addresses.borrow().clone());
        let tls = Arc::new(ApiTls::new(&pki, &names, clock.clone())?);

        let (views, hook) = Views::new(controllers::all(pki.ca_certificate()), clock.clone());
        let mut of_store = store::Options::new(dirs.store());
        of_store.clock = clock.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(of_store, Box::new(hook)));
        let store = opened.await?.context("cannot open the store")?;
        let options = RegistryOptions { service_range };
        let registry = Registry::new(store.clone(), clock.clone(), options)?;

        let mut loops = Loops::new();
        let mut reach = Reach {
            board: identity.name.clone(),
            registry: registry.clone(),
            pki: Arc::clone(&pki),
            tls: Arc::clone(&tls),
            api_port: config.api_port,
            addresses,
        };
        let complete = reach.bootstrap().await?;
        loops.spawn("API address", reach.run(complete, loops.stop_signal()));

        let leader = store.leadership();
        let Leadership { epoch, term } = leader;
        let (node, streams) = (identity.name.clone(), link.streams.clone());
        let failed = store.clone();
        let api = ApiOptions {
            registry: registry.clone(),
            tls,
            listeners: vec![listener],
            logs: Arc::new(LinkLogs { node, epoch, term, streams }),
            clock,
            health: Health::default().alive_when("store", move || !failed.failed()),
            version: version::TEXT.into(),
        };
        loops.spawn("API server", api::serve(api, loops.stop_signal()));
        let driver = controllers::run(views.clone(), registry.clone(), loops.stop_signal());
        loops.spawn("controllers", driver);
        let judging = contacts::run(Contacts::new(&views), loops.stop_signal());
        loops.spawn("contacts", async move { anyhow::Ok(judging.await) });
        let as_leader = dispatcher::Options { epoch, term, ..Default::default() };
        let dispatcher =
            dispatcher::run(views, registry.clone(), as_leader, link, loops.stop_signal());
        loops.spawn("dispatcher", dispatcher);
        Ok(Self { loops, registry, pki, leader, store })
    }

    /// Ends every loop, then closes the store.
    pub(super) async fn stop(self) {
        self.loops.stop().await;
        self.store.close().await;
    }
}

/// Listens on a port of this board, on all addresses.
async fn listen(flag: &str, port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .await
        .with_context(|| format!("port {port} is taken: choose another {flag}"))
}
