//! This board's part in the group of masters: none yet, or a running engine.
//!
//! A cluster of one master runs no engine; the first board that may hold the log starts it while this
//! board leads, in the same reign ([`Grouping::grow`]).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use model::masters::{MemberId, MemberV1, Part};
use tokio::sync::{Mutex, watch};

use crate::io::peer;
use crate::io::store::{Group, GroupError, GroupHealth, GroupOptions, Store, Timing};
use crate::io::tls::Credentials;
use crate::master::elector::{Book, Elector, ElectorOptions, GroupClock, Wire};
use crate::master::evictions::Evicted;

/// Id of the member that founded the cluster.
pub const FOUNDER: MemberId = MemberId(1);

/// What an engine is started with.
pub struct GroupingOptions {
    /// The log.
    pub store: Store,
    /// This board, and how it shows itself to other masters.
    pub credentials: Credentials,
    /// Where the other masters are.
    pub book: watch::Receiver<Book>,
    /// Cluster time.
    pub clock: Arc<dyn GroupClock>,
    /// Where snapshots of other masters arrive.
    pub incoming: PathBuf,
    /// Keys that were thrown out.
    pub evicted: watch::Receiver<Evicted>,
    /// What names the group in its messages: it stays when the authority does not.
    pub cluster: [u8; 16],
    /// Kept before another board gets the log.
    pub note: Note,
}

/// Makes durable that this board is that member of a group of that epoch; it blocks.
pub type Note = Arc<dyn Fn(MemberId, u64) -> io::Result<()> + Send + Sync>;

/// Starts the engine when that is due; clones share it.
#[derive(Clone)]
pub struct Grouping(Arc<Shared>);

struct Shared {
    options: GroupingOptions,
    /// Held while the engine is started or stopped.
    starting: Mutex<()>,
    /// Whether it is kept that this board has founded a group.
    noted: Mutex<bool>,
    engine: watch::Sender<Option<Engine>>,
}

/// A running engine.
#[derive(Clone)]
pub struct Engine {
    /// Which member this board is.
    pub own: MemberId,
    /// The group.
    pub group: Group,
    /// Its port.
    pub elector: Arc<Elector>,
}

impl Grouping {
    /// No engine runs.
    pub fn new(options: GroupingOptions) -> Self {
        let engine = watch::Sender::new(None);
        let (starting, noted) = Default::default();
        Self(Arc::new(Shared { options, starting, noted, engine }))
    }

    /// The engine, when one runs.
    pub fn engine(&self) -> watch::Receiver<Option<Engine>> {
        self.0.engine.subscribe()
    }

    /// Where the masters are.
    pub fn book(&self) -> watch::Receiver<Book> {
        self.0.options.book.clone()
    }

    /// What names the group, where that is not the authority's pin any more.
    pub(super) fn own_name(&self) -> Option<[u8; 16]> {
        let GroupingOptions { cluster, credentials, .. } = &self.0.options;
        Some(*cluster).filter(|cluster| !credentials.pin().starts_with(cluster))
    }

    /// This board, as a member of that id.
    pub fn member(&self, id: MemberId, part: Part) -> MemberV1 {
        let peer = self.0.options.credentials.peer();
        MemberV1 { id, board: peer.name.clone(), key: peer.key, part }
    }

    /// Takes part in the group as this member: after a start, or with a fresh kit.
    ///
    /// # Errors
    /// The engine does not start.
    pub async fn enter(&self, own: MemberId, epoch: u64) -> Result<(), GroupError> {
        self.start(own, epoch, None).await.map(drop)
    }

    /// The group, which a master that leads alone founds at the first call; its reign goes on. It is kept
    /// by then that this board is a member, so that it never founds the cluster once more.
    ///
    /// # Errors
    /// The engine does not start, or the disk refuses.
    pub async fn grow(&self, epoch: u64) -> Result<Group, GroupError> {
        let found = self.member(FOUNDER, Part::Voter);
        let engine = self.start(FOUNDER, epoch, Some(found)).await?;
        let mut noted = self.0.noted.lock().await;
        if !*noted {
            let (note, own) = (Arc::clone(&self.0.options.note), engine.own);
            let noting = tokio::task::spawn_blocking(move || note(own, epoch)).await;
            noting.map_err(io::Error::other).flatten().map_err(GroupError::Note)?;
            *noted = true;
        }
        Ok(engine.group)
    }

    async fn start(
        &self,
        own: MemberId,
        epoch: u64,
        found: Option<MemberV1>,
    ) -> Result<Engine, GroupError> {
        let _starting = self.0.starting.lock().await;
        if let Some(engine) = self.0.engine.borrow().clone() {
            return Ok(engine);
        }
        let GroupingOptions { store, credentials, book, clock, incoming, evicted, cluster, .. } =
            &self.0.options;
        let of_tls = credentials.clone();
        let elector = Elector::new(ElectorOptions {
            own,
            epoch,
            cluster: *cluster,
            tls: Arc::new(move || of_tls.client_config(peer::ALPN).ok()),
            book: book.clone(),
            clock: Arc::clone(clock),
            incoming: incoming.clone(),
            evicted: evicted.clone(),
        });
        let wire = Arc::new(Wire(Arc::clone(&elector)));
        let timing = Timing::default();
        let options = GroupOptions { own, epoch, found, timing, wire };
        let group = store.join_group(options).await?;
        elector.seat(Some(group.clone()));
        let engine = Engine { own, group, elector };
        self.0.engine.send_replace(Some(engine.clone()));
        Ok(engine)
    }

    /// Lets another voter lead, if this board does and one can; whether one took over.
    ///
    /// Cancel safety: the transfer goes on.
    pub async fn hand_over(&self) -> bool {
        let engine = self.0.engine.borrow().clone();
        match engine {
            Some(engine) if can_hand_over(&engine.group.health().borrow()) => {
                engine.group.hand_over(None).await
            }
            _ => false,
        }
    }

    /// The same for good, of a board that is about to stop. With `Some`, when another one took over: who
    /// waits for it leaves nobody alone with the beginning of a reign.
    ///
    /// Cancel safety: the transfer goes on.
    pub async fn retire(&self) -> Option<Group> {
        let engine = self.0.engine.borrow().clone()?;
        let can = can_hand_over(&engine.group.health().borrow());
        (can && engine.group.retire().await).then_some(engine.group)
    }

    /// Ends the engine.
    pub async fn stop(&self) {
        let _starting = self.0.starting.lock().await;
        let engine = self.0.engine.send_replace(None);
        if let Some(engine) = engine {
            engine.elector.seat(None);
            engine.group.stop().await;
        }
    }
}

/// Whether there is a lead to give, and somebody who could take it: nobody waits for a learner.
fn can_hand_over(health: &GroupHealth) -> bool {
    health.leads && health.members.voters().len() > 1
}
