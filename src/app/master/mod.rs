//! The leading role: views, registry, first objects, controllers, dispatcher, API, the leader record.
//! It is made for one reign and dies with it; store, authority and the port for boards are the
//! [`Standing`]'s and stay.
//!
//! Invariant: nothing of it acts once its [`Mandate`] does not allow it any more. Writes meet that in
//! the store; the bus, the own board's link, tunnels and announcements have a gate each.

mod announce;
mod audited;
mod peers;
mod reach;
mod reign;
mod saving;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use model::leader::SignedRecord;
use model::masters::{MasterAtV1, MemberId, Part};
use tokio::sync::watch;

use super::addresses::Addresses;
use super::backup::Worry;
use super::control::Commands;
use super::genesis;
use super::identity::Identity;
use super::loops::Loops;
use super::port::{Place, Sitting};
use super::seat::Base;
use super::standing::Standing;
use super::status::ClusterStatus;
use super::upgrade::{FILES, Rollout, RolloutOptions};
use super::version;
use crate::io::bus::external::{ExternalOptions, Sessions};
use crate::io::link::MasterEnd;
use crate::io::store::{Mandate, Store};
use crate::io::tls::{Credentials, Pki};
use crate::master::accounts::Accounts;
use crate::master::api::{self, ApiOptions, Health};
use crate::master::audit::{Audit, AuditLines};
use crate::master::authority;
use crate::master::boards::{self, BoardsOptions, BusOver, Messages};
use crate::master::contacts::{self, Contacts};
use crate::master::controllers::{self, Views};
use crate::master::dispatcher;
use crate::master::evict::Evictor;
use crate::master::join::{JoinOptions, Joining};
use crate::master::keys::Keys;
use crate::master::leave::Leaver;
use crate::master::members::{Leading, Members};
use crate::master::net;
use crate::master::pending::PendingBoards;
use crate::master::registry::{Registry, RegistryOptions, ServiceRange};
use crate::master::secrets;
use crate::master::tokens::Tokens;
use crate::master::tunnel::{Images, Routes, Streams};
use announce::Announcer;
pub(super) use announce::reachable;
use audited::audit;
use peers::Peers;
pub(super) use peers::{LEADER, STATUS};
use reach::Reach;
pub(super) use reach::server_names;
use reign::{gate, mapped, say_began, say_ended};

/// Why this board leads.
pub(super) enum Lead {
    /// The cluster has no other master: it begins a reign of its own.
    Alone,
    /// The masters have elected it.
    Elected(Mandate),
}

/// The newest record, and a leader of a later epoch, if one is heard.
type Announced = (watch::Receiver<SignedRecord>, watch::Receiver<Option<SignedRecord>>);

/// The running role.
pub(super) struct MasterRole {
    /// Its loops.
    pub(super) loops: Loops,
    /// What it knows of the cluster.
    pub(super) status: Arc<ClusterStatus>,
    /// The images of all boards.
    pub(super) images: Images,
    /// Takes boards in.
    pub(super) joining: Arc<Joining>,
    /// Throws boards out.
    pub(super) evictor: Evictor,
    /// Lets boards go.
    pub(super) leaver: Leaver,
    /// Gives boards another binary.
    pub(super) rollout: Rollout,
    /// A leader of a later epoch, if one is heard.
    pub(super) rivals: watch::Receiver<Option<SignedRecord>>,
    /// In whose name it acts.
    pub(super) mandate: Mandate,
    store: Store,
    place: Place,
    /// Where clients of the API come.
    sitting: api::Sitting,
    members: Members,
}

/// What the loops of the role share.
struct Core<'a> {
    base: &'a Base,
    standing: &'a Standing,
    /// Bound to the reign.
    store: Store,
    mandate: Mandate,
    views: Views,
    registry: Registry,
    accounts: Accounts,
    pki: Arc<Pki>,
    credentials: Credentials,
    streams: Streams,
    images: Images,
    /// The boards that wait for a person's word.
    pending: PendingBoards,
    /// Keys of the bus, when it goes over somebody else's broker.
    bus_keys: Option<Sessions>,
}

impl MasterRole {
    /// Starts every loop of the role; returns when the API answers.
    ///
    /// # Errors
    /// The store refuses, or the reign is over already.
    pub(super) async fn start(
        base: &Base,
        standing: &Standing,
        lead: Lead,
        link: MasterEnd,
    ) -> Result<Self> {
        let core = Core::open(base, standing, lead, &link).await?;
        let mut loops = Loops::new();
        core.keep_reachable(&mut loops).await?;
        let (audit, told) = audit(&base.config, &mut loops);
        let sitting = core.serve_api(audit, &mut loops);
        let status = Arc::new(core.run_controllers(&mut loops));
        let (record, rivals) = core.announce(&mut loops)?;
        let newest = mapped(record.clone(), |record| Some(record.clone()));
        let noting = standing.roll.clone().follow(newest, loops.stop_signal());
        loops.spawn("roll of masters", async move { anyhow::Ok(noting.await) });
        let messages = Messages::default();
        core.serve_bus(record.clone(), messages.clone(), told, &mut loops)?;
        let joining = Arc::new(core.joining(record.clone()));
        // Before anybody asks: the boards that founded with this one come at once.
        let tokens = Tokens::new(core.registry.clone(), core.pki.pin());
        genesis::after_founding(&base.dirs, &tokens).await?;
        let evictor = core.evictor();
        let rollout = core.rollout(&status);
        let commands = core.commands(tokens, &joining, &evictor);
        let leaver = core.leaver();
        let peers =
            core.peers(commands, record, messages, &status, rollout.clone(), leaver.clone());
        let place = standing.port.sit(peers);
        core.serve_own_board(link, &mut loops);
        core.lead_members();
        core.keep_saving(&status.backups, &mut loops);
        let disk = Arc::clone(&standing.disk);
        let driving = authority::drive(core.registry.clone(), disk, loops.stop_signal());
        loops.spawn("another authority", driving);
        say_began(&core.mandate, &core.store);
        let members = standing.members.clone();
        let Core { store, mandate, images, .. } = core;
        Ok(Self {
            loops,
            status,
            images,
            joining,
            evictor,
            leaver,
            rollout,
            rivals,
            mandate,
            store,
            place,
            sitting,
            members,
        })
    }

    /// Ends every loop; requests under way may finish.
    pub(super) async fn stop(self) {
        self.members.lead(None);
        self.sitting.leave().await;
        self.loops.stop().await;
        drop(self.place);
        self.store.detach().await;
        say_ended(&self.mandate);
    }

    /// Ends every loop at once: the reign is over. The store stays open.
    pub(super) async fn cut(self) {
        self.members.lead(None);
        drop(self.sitting);
        drop(self.place);
        self.loops.cut().await;
        say_ended(&self.mandate);
        // A store that waits for its disk does it before it shows its objects to anybody else.
        let _ = tokio::time::timeout(Duration::from_millis(300), self.store.detach()).await;
    }
}

impl<'a> Core<'a> {
    async fn open(
        base: &'a Base,
        standing: &'a Standing,
        lead: Lead,
        link: &MasterEnd,
    ) -> Result<Self> {
        let Base { config, identity, clock, images, .. } = base;
        let range = identity.service_range;
        let service_range = ServiceRange::new(range.base, range.prefix)
            .with_context(|| format!("{range} cannot hold services"))?;
        let of_controllers = controllers::all(controllers::Cluster {
            root_ca: standing.pki.ca_certificate(),
            pods: identity.pod_range.into(),
            reserved_ports: config.own_ports(),
        });
        let (views, hook) = Views::new(of_controllers, clock.clone());
        let mandate = match lead {
            Lead::Alone => standing.store.lead_alone(Box::new(hook)).await?,
            Lead::Elected(mandate) => {
                standing.store.lead(&mandate, Box::new(hook)).await?;
                mandate
            }
        };
        let store = standing.store.of(&mandate);
        let options = RegistryOptions { service_range, token_volumes: true };
        let registry = Registry::new(store.clone(), clock.clone(), options)?;
        let token_keys = standing.token_keys.clone();
        let accounts = Accounts::new(token_keys, views.clone(), registry.clone());
        let reign = mandate.reign();
        let streams = Streams::new(reign.epoch, reign.term).gated(gate(&mandate));
        streams.register(&identity.name, link.streams.clone());
        let (images, seen) = (images.clone(), views.clone());
        let images = Images::new(&identity.name, images, seen, registry.clone(), streams.clone());
        let bus_keys = config.broker.as_ref().map(|_| Sessions::new()).transpose()?;
        Ok(Self {
            base,
            standing,
            store,
            mandate,
            views,
            registry,
            accounts,
            pki: Arc::clone(&standing.pki),
            credentials: standing.credentials.clone(),
            streams,
            images,
            pending: PendingBoards::new(standing.pki.pin()),
            bus_keys,
        })
    }

    async fn keep_reachable(&self, loops: &mut Loops) -> Result<()> {
        let mut reach = Reach {
            registry: self.registry.clone(),
            api_port: self.base.config.api_port,
            addresses: self.base.addresses.clone(),
            own: self.base.identity.name.clone(),
            book: self.standing.members.grouping().book(),
        };
        let complete = reach.bootstrap().await?;
        loops.spawn("first objects", reach.run(complete, loops.stop_signal()));
        Ok(())
    }

    fn serve_api(&self, audit: Audit, loops: &mut Loops) -> api::Sitting {
        let failed = self.store.clone();
        let api = ApiOptions {
            registry: self.registry.clone(),
            views: self.views.clone(),
            tokens: Arc::new(self.accounts.clone()),
            audit,
            both: self.standing.both(self.base),
            logs: Arc::new(self.streams.clone()),
            clock: self.base.clock.clone(),
            health: Health::default().alive_when("store", move || !failed.failed()),
            version: version::TEXT.into(),
        };
        self.standing.gateway.lead(api, loops.stop_signal())
    }

    fn run_controllers(&self, loops: &mut Loops) -> ClusterStatus {
        let (views, registry) = (self.views.clone(), self.registry.clone());
        let contacts = Contacts::new(&views);
        let status = ClusterStatus {
            identity: self.base.identity.clone(),
            leader: self.mandate.reign(),
            registry: registry.clone(),
            views: views.clone(),
            contacts: contacts.clone(),
            pending: self.pending.clone(),
            members: self.standing.members.clone(),
            both: self.standing.both(self.base),
            backups: Worry::default(),
        };
        let driver = controllers::run(views.clone(), registry, loops.stop_signal());
        loops.spawn("controllers", driver);
        let telling = net::run(views.clone(), loops.stop_signal());
        loops.spawn("network of the boards", async move { anyhow::Ok(telling.await) });
        let (store, keys) = (self.store.clone(), self.standing.secrets_keys.clone());
        let sealing = secrets::run(store, keys, loops.stop_signal());
        loops.spawn("Secrets at rest", async move { anyhow::Ok(sealing.await) });
        let judging = contacts::run(contacts, loops.stop_signal());
        loops.spawn("contacts", async move { anyhow::Ok(judging.await) });
        status
    }

    fn announce(&self, loops: &mut Loops) -> Result<Announced> {
        let announcer = Announcer::start(
            &self.base.config,
            &self.base.identity,
            self.mandate.reign(),
            (Arc::clone(&self.pki), &self.credentials),
            self.base.addresses.clone(),
            (self.views.net().clone(), self.standing.seeking.clone()),
        )?;
        let announced = (announcer.record(), announcer.rivals());
        loops.spawn("leader record", announcer.run(loops.stop_signal()));
        Ok(announced)
    }

    /// The boards that have joined come here to be led.
    fn serve_bus(
        &self,
        record: watch::Receiver<SignedRecord>,
        messages: Messages,
        audit: Option<AuditLines>,
        loops: &mut Loops,
    ) -> Result<()> {
        let identity = &self.base.identity;
        let keys = Keys::new(self.registry.clone());
        let boards = BoardsOptions {
            cluster: identity.cluster.clone(),
            own: identity.name.clone(),
            over: self.bus_over()?,
            credentials: self.credentials.clone(),
            admitted: Arc::new(move |board| keys.is_admitted(board)),
            turned_out: self.standing.port.turned_out(),
            views: self.views.clone(),
            registry: self.registry.clone(),
            contacts: Contacts::new(&self.views),
            as_leader: self.as_leader(identity),
            gate: gate(&self.mandate),
            record,
            messages,
            audit,
        };
        loops.spawn("bus", boards::run(boards, loops.stop_signal()));
        Ok(())
    }

    /// The own broker on its port, or somebody else's.
    fn bus_over(&self) -> Result<BusOver> {
        let Base { config, identity, doors, .. } = self.base;
        if let Some(door) = &doors.bus {
            return Ok(BusOver::Own(door.listener()?));
        }
        let broker = config.broker.as_ref().context("the bus has no broker")?;
        let pki = Arc::clone(&self.pki);
        Ok(BusOver::External(ExternalOptions {
            cluster: identity.cluster.clone(),
            name: identity.name.clone(),
            url: broker.url.clone(),
            tls: broker.tls()?,
            sessions: self.bus_keys.clone().context("the bus has no keys")?,
            sign: Arc::new(move |bytes| pki.sign(bytes)),
        }))
    }

    /// Boards join here, and open their tunnels.
    fn peers(
        &self,
        commands: Commands,
        record: watch::Receiver<SignedRecord>,
        messages: Messages,
        status: &Arc<ClusterStatus>,
        rollout: Rollout,
        leaver: Leaver,
    ) -> Sitting {
        let routes = Routes::new(self.streams.clone(), self.images.clone(), messages);
        let routes = routes.with_bus(self.bus_keys.clone());
        let (status, desk) = (Arc::clone(status), self.standing.members.desk().clone());
        let authority = self.standing.port.authority();
        let peers = Peers { commands, status, record, desk, routes, authority, rollout, leaver };
        let peers = Arc::new(peers);
        Arc::new(move |caller, request| Box::pin(Arc::clone(&peers).answer(caller, request)))
    }

    fn rollout(&self, status: &Arc<ClusterStatus>) -> Rollout {
        Rollout::new(RolloutOptions {
            status: Arc::clone(status),
            streams: self.streams.clone(),
            images: self.images.clone(),
            folder: self.base.dirs.data.join(FILES),
            mandate: self.mandate.clone(),
        })
    }

    /// What other masters may have done in a person's name.
    fn commands(&self, tokens: Tokens, joining: &Arc<Joining>, evictor: &Evictor) -> Commands {
        let keys = Keys::new(self.registry.clone());
        Commands { keys, tokens, joining: Arc::clone(joining), evictor: evictor.clone() }
    }

    /// Throws boards out; one that holds the log leaves the group first.
    fn evictor(&self) -> Evictor {
        let (registry, views) = (self.registry.clone(), self.views.clone());
        let members = self.standing.members.clone();
        let (own, key) = (&self.base.identity.name, self.credentials.peer().key);
        Evictor::new(registry, views, own, &key).telling(Arc::new(move |board: String| {
            let members = members.clone();
            Box::pin(async move { members.take_out(&board).await })
        }))
    }

    /// Lets boards go that wish so.
    fn leaver(&self) -> Leaver {
        let (registry, views) = (self.registry.clone(), self.views.clone());
        let members = self.standing.members.clone();
        Leaver::new(registry, views, members, &self.base.identity.name)
    }

    fn joining(&self, newest: watch::Receiver<SignedRecord>) -> Joining {
        let Identity { name, cluster, pod_range, service_range, .. } = &self.base.identity;
        let reign = self.mandate.reign();
        Joining::new(JoinOptions {
            registry: self.registry.clone(),
            pki: Arc::clone(&self.pki),
            own: name.clone(),
            cluster: cluster.clone(),
            pod_range: pod_range.to_string(),
            service_range: service_range.to_string(),
            epoch: reign.epoch,
            term: reign.term,
            pending: self.pending.clone(),
            leader: Box::new(move || Some(newest.borrow().clone())),
        })
    }

    /// The group of masters is this board's to change.
    fn lead_members(&self) {
        let Base { config, identity, addresses, .. } = self.base;
        let (name, key) = (identity.name.clone(), self.credentials.peer().key);
        let ports = (config.api_port, config.mqtt_port, config.peer_port);
        let place = move |addresses: &Addresses| MasterAtV1 {
            member: MemberId(0),
            board: name.clone(),
            key,
            addresses: reachable(addresses),
            api_port: ports.0,
            mqtt_port: ports.1,
            peer_port: ports.2,
            part: Part::Learner,
        };
        self.standing.members.lead(Some(Leading {
            registry: self.registry.clone(),
            views: self.views.clone(),
            mandate: self.mandate.clone(),
            pki: Arc::clone(&self.pki),
            secrets_keys: self.standing.secrets_keys.clone(),
            at: mapped(addresses.clone(), place),
            token_keys: self.standing.token_keys.clone(),
            wanted: config.masters,
        }));
    }

    fn as_leader(&self, identity: &Identity) -> dispatcher::Options {
        let reign = self.mandate.reign();
        let pod_range = Some(identity.pod_range.into());
        dispatcher::Options {
            epoch: reign.epoch,
            term: reign.term,
            pod_range,
            accounts: Some(self.accounts.clone()),
            ..Default::default()
        }
    }

    /// The board of this process is served over memory; its end is the end of the role.
    fn serve_own_board(&self, link: MasterEnd, loops: &mut Loops) {
        let as_leader = self.as_leader(&self.base.identity);
        let (views, registry) = (self.views.clone(), self.registry.clone());
        let (own, stop) = (self.base.identity.name.clone(), loops.stop_signal());
        let link = link.gated(&gate(&self.mandate));
        let serving = dispatcher::run(views, registry, as_leader, own, link, stop);
        loops.spawn("dispatcher", serving);
    }
}
