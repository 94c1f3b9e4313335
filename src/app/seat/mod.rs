//! What this board is in its cluster at the moment, and how that changes while it runs.
//!
//! ```text
//!                kit of the leader               a reign begins
//!   Working ───────────────────────▶ Following ─────────────────▶ Leading
//!      ▲    not a member any more       │  ▲     the reign is over    │
//!      └────────────────────────────────┘  └──────────────────────────┘
//!   a founder without other masters begins a reign of its own at its start
//!   an engine that fails (disk): Working meanwhile, and the log is opened anew
//! ```
//! One loop owns the seat. The agent, its link's socket, the ports and the control socket outlive every
//! exchange; a master's [`Standing`] outlives the exchanges between leading and following. Invariant:
//! what led is cut before anything else sits, and it is cut at once. A loop of a seat that fails
//! because the reign ended is no failure; any other ends the process.

mod another;
mod begin;
mod fence;
mod images;
mod make;
mod promotion;
mod reopen;
mod wait;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use model::leader::SignedRecord;
use model::masters::{CertifiedV1, KitV1};
use tokio::sync::{mpsc, oneshot, watch};

use super::addresses::Addresses;
use super::config::Config;
use super::control::{ControlSeat, FollowerSeat, MasterSeat};
use super::dirs::Dirs;
use super::doors::Doors;
use super::follower::FollowerRole;
use super::identity::{Identity, Role};
use super::loops::Loops;
use super::master::MasterRole;
use super::mastership::Mastership;
use super::member::{Holds, MemberRole, Said};
use super::standing::Standing;
use crate::io::clock::Clock;
use crate::io::image::ImageStore;
use crate::io::link::Socket;
use crate::io::peer::Connection;
use crate::io::store::{Group, Mandate};
use crate::master::tokens::Tokens;
use crate::node::Mastery;
use begin::begin;
use fence::{Reigning, follow_later, other_masters};
pub(super) use images::SeatImages;
use make::{follower, forget_keys, leave, open_held, reopen_log, sit, take_kit, worker};
use promotion::Asking;
pub(super) use promotion::Promotion;
use promotion::asked;
use reopen::Reopen;
use wait::{certified, deposed, due, engine_failed, is_due, led_again, over, reign_changes, told};

/// A loop that fails this long before its reign is known to be over failed because of that.
const OVER_WITHIN: Duration = Duration::from_secs(2);

/// How long another voter may take to begin its reign when this board stops.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);

/// What every seat is made from.
pub(super) struct Base {
    /// Folders.
    pub(super) dirs: Dirs,
    /// Configuration.
    pub(super) config: Config,
    /// This board.
    pub(super) identity: Identity,
    /// Cluster time.
    pub(super) clock: Clock,
    /// The images of this board.
    pub(super) images: ImageStore,
    /// This board's addresses.
    pub(super) addresses: watch::Receiver<Addresses>,
    /// Its ports.
    pub(super) doors: Doors,
    /// Until when a person wishes that it leaves its cluster.
    pub(super) leaving: watch::Receiver<Option<tokio::time::Instant>>,
}

/// What others see of the seat.
pub(super) struct Shown {
    /// Answers the control socket.
    pub(super) control: watch::Receiver<ControlSeat>,
    /// Whether the board holds the log.
    pub(super) mastery: watch::Receiver<Mastery>,
    /// Where its images come from.
    pub(super) images: SeatImages,
    /// Takes a person's wish that it leads.
    pub(super) promote: mpsc::Sender<Promotion>,
    /// Changes when the tokens of pods are good no more.
    pub(super) renewals: watch::Receiver<u64>,
}

/// The seat of this board.
pub(super) struct Seats {
    base: Base,
    socket: Socket,
    standing: Option<Standing>,
    seat: Seat,
    control: watch::Sender<ControlSeat>,
    mastery: watch::Sender<Mastery>,
    images: SeatImages,
    reopen: Reopen,
    promotions: mpsc::Receiver<Promotion>,
    /// A wish of which the others are asked at this moment.
    asking: Option<Asking>,
    renewals: watch::Sender<u64>,
}

/// What a board is besides a board.
enum Seat {
    /// It leads.
    Leading(Box<MasterRole>),
    /// It holds the log, and another master leads, or none.
    Following(FollowerRole),
    /// Others hold the log.
    Working(MemberRole),
}

/// What makes a seat change.
enum Event {
    /// The board ends.
    Stop,
    /// A reign of this board began.
    Lead(Mandate),
    /// The reign is over.
    Follow,
    /// The leader wants this board to hold the log.
    Join(Box<KitV1>),
    /// It wants that no more.
    Leave,
    /// The engine has failed.
    Fail(String),
    /// It is time to open the log anew. `is_led`: this board has been led for a while.
    Reopen { is_led: bool },
    /// A person wants this board to lead although the others do not answer.
    Promote(oneshot::Sender<Result<(), String>>),
    /// What was asked is refused.
    Nothing,
    /// Somebody was promoted while this board was away or cut off.
    Deposed(Box<SignedRecord>),
    /// A leader answers the board that was one.
    Led,
    /// Another authority counts, and its keys lie ready.
    Rekey,
    /// The cluster has another authority, and this is what this board shows.
    Certified(Box<CertifiedV1>),
}

impl Seats {
    /// Takes the first seat. A founder's API answers when this returns; a member waits for nobody.
    ///
    /// # Errors
    /// What a role cannot be started without.
    pub(super) async fn take(base: Base, socket: Socket, began: Instant) -> Result<(Self, Shown)> {
        let mastership = Mastership::load(&base.dirs)?;
        let mut base = base;
        let holds = mastership.is_some() || base.identity.role == Role::Founder;
        let mut reopen = Reopen::default();
        let standing = match holds {
            true => open_held(&mut base, mastership.as_ref(), &mut reopen).await?,
            false => None,
        };
        let seat = match &standing {
            None => Seat::Working(worker(&base, &socket, reopen.holds())?),
            Some(standing) => sit(&mut base, &socket, standing, mastership, began).await?,
        };
        let images = SeatImages::default();
        let control = watch::Sender::new(seat.control(standing.as_ref()));
        let mastery = watch::Sender::default();
        let (promote, promotions) = mpsc::channel(1);
        let asking = None;
        let renewals = watch::Sender::default();
        let seats = Self {
            base,
            socket,
            standing,
            seat,
            control,
            mastery,
            images,
            reopen,
            promotions,
            asking,
            renewals,
        };
        seats.show();
        let shown = Shown {
            control: seats.control.subscribe(),
            mastery: seats.mastery.subscribe(),
            images: seats.images.clone(),
            promote,
            renewals: seats.renewals.subscribe(),
        };
        Ok((seats, shown))
    }

    /// Exchanges the seat whenever that is due, until `stop`; then gives everything up.
    ///
    /// # Errors
    /// A loop of the seat, or of the master's standing, ended although nobody asked it to.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let ended = loop {
            match self.next(&mut stop).await {
                Ok(Event::Stop) => break Ok(()),
                Ok(Event::Nothing) => {}
                Ok(Event::Led) => forget_keys(&self.base).await,
                Ok(event) => match self.exchange(event).await {
                    Ok(next) => self = next,
                    // Everything of it is dropped; the process ends.
                    Err(error) => return Err(error),
                },
                Err(error) => break Err(error),
            }
        };
        // The others need not wait until they miss this leader.
        let succeeded = match &self.standing {
            Some(standing) => retire(standing).await,
            None => None,
        };
        self.seat.stop().await;
        if let Some(group) = succeeded {
            // Whoever took over may need this board's vote for the first entry of its reign.
            let _late = tokio::time::timeout(HAND_OVER_WITHIN, group.succeeded()).await;
        }
        if let Some(standing) = self.standing {
            standing.close().await;
        }
        ended
    }

    /// Waits for what changes the seat.
    async fn next(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Event> {
        let reigns = self.standing.as_ref().map(|standing| standing.store.reign());
        let engine = self.standing.as_ref().map(|standing| standing.members.grouping().engine());
        let (own, said) = (self.seat.mandate().cloned(), self.seat.said());
        let rivals = self.seat.rivals();
        let another = self.standing.as_ref().map(|standing| standing.due.subscribe());
        let certificates = self.seat.certified();
        let reign = self.standing.as_ref().map(|standing| Reigning::of(&self.base, standing));
        let confirmed = |rival| Reigning::is_over(reign.clone(), rival);
        let fenced = Reigning::fenced(reign.clone().filter(|_| own.is_some()));
        let led = self.seat.tunnel().filter(|_| self.reopen.waits);
        let left_over = self.seat.tunnel().filter(|_| Mastership::left_keys(&self.base.dirs));
        // Cancel safety: all of them lose nothing when dropped.
        let failed = tokio::select! {
            // An error means that nobody can ask any more.
            _ = async { stop.wait_for(|stop| *stop).await.map(drop) } => return Ok(Event::Stop),
            event = reign_changes(reigns.clone(), own.as_ref()) => return Ok(event),
            () = over(own.as_ref()) => return Ok(Event::Follow),
            why = engine_failed(engine) => return Ok(Event::Fail(why)),
            event = told(said, self.standing.is_some()) => return Ok(event),
            () = due(self.reopen.at) => return Ok(Event::Reopen { is_led: false }),
            () = led_again(led) => return Ok(Event::Reopen { is_led: true }),
            Some(promotion) = self.promotions.recv(), if self.asking.is_none() => {
                self.asking = self.hear_out(promotion);
                return Ok(Event::Nothing);
            }
            allowed = asked(&mut self.asking) => return Ok(self.judge(allowed)),
            later = deposed(rivals, confirmed) => return Ok(Event::Deposed(Box::new(later))),
            later = fenced => return Ok(Event::Deposed(Box::new(later))),
            () = led_again(left_over) => return Ok(Event::Led),
            () = is_due(another) => return Ok(Event::Rekey),
            certified = certified(certificates) => return Ok(Event::Certified(certified)),
            error = self.seat.loops().failed() => error,
            error = standing_failed(&mut self.standing) => return Err(error),
        };
        let alone = |standing: &Standing| standing.members.grouping().engine().borrow().is_none();
        let alone = self.standing.as_ref().is_none_or(alone);
        if own.is_none() || alone {
            return Err(failed);
        }
        // Whatever failed may have met the end of the reign before it was told here.
        // Cancel safety: both only wait.
        let ends = async {
            tokio::select! {
                event = reign_changes(reigns, own.as_ref()) => event,
                () = over(own.as_ref()) => Event::Follow,
            }
        };
        let Ok(event) = tokio::time::timeout(OVER_WITHIN, ends).await else { return Err(failed) };
        let error = format!("{failed:#}");
        tracing::debug!(error, "a part of the leader ended with its reign");
        Ok(event)
    }

    async fn exchange(self, event: Event) -> Result<Self> {
        let Self { mut base, socket, standing, seat, mut reopen, .. } = self;
        let (control, mastery, images) = (self.control, self.mastery, self.images);
        let (promotions, asking, renewals) = (self.promotions, self.asking, self.renewals);
        let began = Instant::now();
        // No reign begins under an authority that counts no more.
        let is_due = standing.as_ref().is_some_and(|standing| standing.due.borrow().is_some());
        let is_due = is_due && matches!(event, Event::Lead(_) | Event::Follow);
        let event = if is_due { Event::Rekey } else { event };
        seat.cut().await;
        let (standing, seat) = match (event, standing) {
            (Event::Lead(mandate), Some(standing)) => {
                begin(&mut base, &socket, standing, mandate, &mut reopen, began).await?
            }
            (Event::Join(kit), None) => take_kit(&mut base, &socket, kit, &mut reopen).await?,
            (Event::Promote(answer), Some(standing)) => {
                standing.close().await;
                promotion::promote(&mut base, &socket, answer, &mut reopen).await?
            }
            (Event::Leave, Some(standing)) => {
                standing.close().await;
                let holds = leave(&mut base, &mut reopen).await;
                (None, Seat::Working(worker(&base, &socket, holds)?))
            }
            (Event::Deposed(record), Some(standing)) => {
                let masters = other_masters(&base, &standing);
                standing.close().await;
                let holds = follow_later(&mut base, *record, masters, &mut reopen).await;
                (None, Seat::Working(worker(&base, &socket, holds)?))
            }
            (Event::Fail(why), Some(standing)) => {
                let pause = reopen.next();
                tracing::error!(why, ?pause, "this board cannot hold the log: check its disk");
                standing.close().await;
                (None, Seat::Working(worker(&base, &socket, Holds::Pausing)?))
            }
            (Event::Rekey, Some(standing)) => {
                another::rekey(&mut base, &socket, standing, &mut reopen, &renewals).await?
            }
            (Event::Certified(certificate), None) => {
                another::certified(&base, &socket, certificate, &reopen, &renewals).await?
            }
            (Event::Reopen { is_led }, None) => {
                reopen_log(&mut base, &socket, &mut reopen, is_led).await?
            }
            (_, Some(standing)) => {
                tracing::info!(millis = began.elapsed().as_millis(), "another master may lead");
                let seat = Seat::Following(follower(&base, &socket, &standing)?);
                (Some(standing), seat)
            }
            (_, None) => (None, Seat::Working(worker(&base, &socket, reopen.holds())?)),
        };
        let seats = Self {
            base,
            socket,
            standing,
            seat,
            control,
            mastery,
            images,
            reopen,
            promotions,
            asking,
            renewals,
        };
        seats.show();
        Ok(seats)
    }

    /// Tells the rest of the board what it is.
    fn show(&self) {
        let source = match &self.seat {
            Seat::Leading(master) => master.images.for_own_board(),
            Seat::Following(follower) => follower.member.images(),
            Seat::Working(member) => member.images(),
        };
        self.images.follow(source);
        self.control.send_replace(self.seat.control(self.standing.as_ref()));
        let mastery = match &self.standing {
            Some(_) => Mastery::Master,
            None if self.reopen.at.is_some() => Mastery::DiskFailed,
            None => Mastery::Worker,
        };
        self.mastery.send_if_modified(|said| std::mem::replace(said, mastery) != mastery);
    }
}

impl Seat {
    fn mandate(&self) -> Option<&Mandate> {
        match self {
            Self::Leading(master) => Some(&master.mandate),
            Self::Following(_) | Self::Working(_) => None,
        }
    }

    fn loops(&mut self) -> &mut Loops {
        match self {
            Self::Leading(master) => &mut master.loops,
            Self::Following(follower) => &mut follower.member.loops,
            Self::Working(member) => &mut member.loops,
        }
    }

    /// The way to the leader of a board that holds no log.
    fn tunnel(&self) -> Option<watch::Receiver<Option<Connection>>> {
        let Self::Working(member) = self else { return None };
        Some(member.connection())
    }

    /// A leader of a later epoch, if one is heard.
    fn rivals(&self) -> Option<watch::Receiver<Option<SignedRecord>>> {
        match self {
            Self::Leading(master) => Some(master.rivals.clone()),
            Self::Following(_) | Self::Working(_) => None,
        }
    }

    /// What the leader has to say to this board.
    fn said(&self) -> Option<watch::Receiver<Option<Said>>> {
        match self {
            Self::Leading(_) => None,
            Self::Following(follower) => Some(follower.member.said()),
            Self::Working(member) => Some(member.said()),
        }
    }

    /// What a board without the log shows under another authority.
    fn certified(&self) -> Option<watch::Receiver<Option<CertifiedV1>>> {
        let Self::Working(member) = self else { return None };
        Some(member.certified())
    }

    fn control(&self, standing: Option<&Standing>) -> ControlSeat {
        match (self, standing) {
            (Self::Leading(master), Some(standing)) => ControlSeat::Master(MasterSeat {
                status: Arc::clone(&master.status),
                pki: Arc::clone(&standing.pki),
                tokens: Tokens::new(master.status.registry.clone(), standing.pki.pin()),
                joining: Arc::clone(&master.joining),
                evictor: master.evictor.clone(),
                leaver: master.leaver.clone(),
                secrets_keys: standing.secrets_keys.clone(),
                backup: Arc::new(standing.backup(&master.status.identity, &master.status.registry)),
                rollout: master.rollout.clone(),
            }),
            (Self::Following(follower), Some(standing)) => {
                let (pki, line) = (Arc::clone(&standing.pki), standing.line.clone());
                ControlSeat::Follower(FollowerSeat { view: follower.member.view(), pki, line })
            }
            (Self::Leading(_) | Self::Following(_), None) => ControlSeat::Nobody,
            (Self::Working(member), _) => ControlSeat::Member(member.view()),
        }
    }

    /// Ends it, with time for what is under way.
    async fn stop(self) {
        match self {
            Self::Leading(master) => master.stop().await,
            Self::Following(follower) => follower.stop().await,
            Self::Working(member) => member.stop().await,
        }
    }

    /// Ends it at once.
    async fn cut(self) {
        match self {
            Self::Leading(master) => master.cut().await,
            Self::Following(follower) => follower.cut().await,
            Self::Working(member) => member.cut().await,
        }
    }
}

/// Gives the lead away for good, if this board has it; the group, when another one took over.
async fn retire(standing: &Standing) -> Option<Group> {
    let retiring = standing.members.grouping().retire();
    let succeeded = tokio::time::timeout(HAND_OVER_WITHIN, retiring).await.ok().flatten();
    tracing::debug!(handed = succeeded.is_some(), "the lead is handed over");
    succeeded
}

async fn standing_failed(standing: &mut Option<Standing>) -> Error {
    match standing {
        Some(standing) => standing.loops.failed().await,
        None => std::future::pending().await,
    }
}
