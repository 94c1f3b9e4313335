//! The parts of a board that is in a cluster: what every board has, its place in the cluster, and the
//! board role.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use tokio::sync::watch;

use crate::app::addresses::{self, Addresses};
use crate::app::board::{BoardOptions, BoardRole};
use crate::app::config::Config;
use crate::app::control::{Control, MasterSeat, Seat};
use crate::app::dirs::Dirs;
use crate::app::doors::Doors;
use crate::app::identity::{Identity, Role};
use crate::app::loops::Loops;
use crate::app::master::{MasterOptions, MasterRole};
use crate::app::member::{MemberOptions, MemberRole};
use crate::app::watchdog;
use crate::io::clock::Clock;
use crate::io::control;
use crate::io::image::{ImageStore, Source};
use crate::io::keeper::KeeperPaths;
use crate::io::link::{self, MasterEnd, Socket};
use crate::io::net::AddressChanges;
use crate::master::dispatcher::DispatchError;
use crate::master::tokens::Tokens;
use crate::node::NodeError;

/// How long loops that fail because another one has failed may take to say so.
const CAUSE_WITHIN: Duration = Duration::from_millis(500);

/// A running board.
pub(super) struct Running {
    /// What every board has.
    loops: Loops,
    place: Place,
    board: BoardRole,
    keeper: KeeperPaths,
    /// Its end closes the link.
    _socket: Socket,
}

/// What a board is in its cluster, besides a board.
enum Place {
    Master(Box<MasterRole>),
    Member(MemberRole),
}

/// What every role is started with.
struct Base<'a> {
    dirs: &'a Dirs,
    config: &'a Config,
    identity: &'a Identity,
    clock: Clock,
    images: ImageStore,
    addresses: watch::Receiver<Addresses>,
    doors: &'a Doors,
}

impl Running {
    /// Starts every role of this board. A member's pods run before its master is found.
    ///
    /// # Errors
    /// What a role cannot be started without.
    pub(super) async fn start(
        dirs: &Dirs,
        config: &Config,
        identity: &Identity,
        clock: Clock,
        doors: &Doors,
        began: Instant,
    ) -> Result<Self> {
        let mut loops = Loops::new();
        // Before the addresses are read: no change may fall between.
        let changes = AddressChanges::open().context("address changes cannot be followed")?;
        let sender = watch::Sender::new(Addresses::read(config.interface.as_deref()));
        let addresses = sender.subscribe();
        let following =
            addresses::follow(config.interface.clone(), changes, sender, loops.stop_signal());
        loops.spawn("addresses", following);
        if config.watchdog {
            loops.spawn("watchdog", watchdog::run(loops.stop_signal()));
        }
        let keeper = KeeperPaths {
            run_dir: dirs.run.clone(),
            data_dir: dirs.data.clone(),
            cgroup: identity.cgroup(),
            exe: std::env::current_exe()?,
        };
        let images =
            ImageStore::open(dirs.data.join("images")).context("cannot open the image store")?;
        // The control socket answers before the agent knows which containers run on which image.
        images.defer_collection();
        let base = Base { dirs, config, identity, clock, images, addresses, doors };
        let (socket, board_end) = link::socket();
        let (place, seat) = base.take_place(socket.plug(), began).await?;
        base.serve_control(seat, &mut loops)?;
        let board = BoardRole::start(BoardOptions {
            dirs,
            config,
            identity,
            keeper: &keeper,
            clock: base.clock,
            images: base.images,
            addresses: base.addresses,
            source: place.images(),
            link: board_end,
            is_master: watch::Sender::new(matches!(place, Place::Master(_))).subscribe(),
        });
        let board = board.await?;
        Ok(Self { loops, place, board, keeper, _socket: socket })
    }

    /// Waits for a loop that ends although nobody asked it to, and says why it did.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub(super) async fn failed(&mut self) -> Error {
        let first = self.any_failed().await;
        if !is_consequence(&first) {
            return first;
        }
        let cause = tokio::time::timeout(CAUSE_WITHIN, self.any_failed()).await;
        cause.unwrap_or(first)
    }

    async fn any_failed(&mut self) -> Error {
        // Cancel safety: `Loops::failed` loses nothing.
        tokio::select! {
            error = self.loops.failed() => error,
            error = self.place.loops().failed() => error,
            error = self.board.loops.failed() => error,
        }
    }

    /// Ends every role; containers go on. Gives where their keeper works.
    pub(super) async fn stop(self) -> KeeperPaths {
        let Self { loops, place, board, keeper, .. } = self;
        tokio::join!(loops.stop(), place.stop(), board.stop());
        keeper
    }
}

impl Place {
    fn loops(&mut self) -> &mut Loops {
        match self {
            Self::Master(master) => &mut master.loops,
            Self::Member(member) => &mut member.loops,
        }
    }

    /// Where images come from that this board lacks.
    fn images(&self) -> Option<Arc<dyn Source>> {
        match self {
            Self::Master(master) => Some(master.images.for_own_board()),
            Self::Member(member) => Some(member.images()),
        }
    }

    async fn stop(self) {
        match self {
            Self::Master(master) => master.stop().await,
            Self::Member(member) => member.stop().await,
        }
    }
}

impl Base<'_> {
    /// Becomes what this board is in its cluster, at the other end of its agent's link.
    async fn take_place(&self, link: MasterEnd, began: Instant) -> Result<(Place, Seat)> {
        match self.identity.role {
            Role::Founder => {
                let master = MasterRole::start(MasterOptions {
                    dirs: self.dirs,
                    config: self.config,
                    identity: self.identity,
                    clock: self.clock.clone(),
                    addresses: self.addresses.clone(),
                    images: self.images.clone(),
                    doors: self.doors,
                    link,
                });
                let master = master.await?;
                let own = self.addresses.borrow().own;
                let api = format!("https://{own}:{}", self.config.api_port);
                tracing::info!(%api, millis = began.elapsed().as_millis(), "API ready");
                let seat = Seat::Master(MasterSeat {
                    status: Arc::clone(&master.status),
                    pki: Arc::clone(&master.pki),
                    tokens: Tokens::new(master.status.registry.clone(), master.pki.pin()),
                    joining: Arc::clone(&master.joining),
                    evictor: master.evictor.clone(),
                    api_port: self.config.api_port,
                });
                Ok((Place::Master(Box::new(master)), seat))
            }
            Role::Member => {
                let member = MemberRole::start(MemberOptions {
                    dirs: self.dirs,
                    config: self.config,
                    identity: self.identity,
                    link,
                })?;
                let view = member.view();
                Ok((Place::Member(member), Seat::Member(view)))
            }
        }
    }

    fn serve_control(&self, seat: Seat, loops: &mut Loops) -> Result<()> {
        let control = Control {
            identity: self.identity.clone(),
            images: self.images.clone(),
            addresses: self.addresses.clone(),
            seat,
        };
        let socket = self.dirs.socket();
        let listener = control::bind(&socket).context("cannot make the control socket")?;
        let stop = loops.stop_signal();
        loops.spawn("control socket", async move {
            control::serve(listener, Arc::new(control), stop).await;
            anyhow::Ok(())
        });
        Ok(())
    }
}

/// Whether a loop only failed because the one at the other end of its link did.
fn is_consequence(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(NodeError::LinkClosed))
        || matches!(error.downcast_ref(), Some(DispatchError::LinkClosed))
}
