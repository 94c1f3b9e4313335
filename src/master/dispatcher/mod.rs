//! Feeds boards with their desired pods and takes their statuses.
//!
//! One task per connected board, over `io::link::MasterEnd` with the messages of `model::wire`:
//!
//! ```text
//! Hello   -> Node object, whole desired set          changes of its pods -> difference, coalesced
//! Status  -> pod statuses and removals, one commit   every 5 s           -> BeatDown
//! BeatUp  -> revisions compared: what is behind is sent again; the board's Lease is renewed
//! network -> its changes, unless the bus carries them to all; what a beat shows to be missing
//! ```
//! Level-triggered: any message may be lost, the beats reveal it. A session knows which board it
//! serves: a Hello of another name is refused, as is a status or event about what is not that
//! board's, and addresses and labels that are not its own (`claims`). Deliberately absent: judging silent boards (node lifecycle), and how messages travel.

mod again;
mod claims;
mod desired;
mod net;
mod node;
mod session;
mod status;
mod tokens;

use std::time::Duration;

use model::network::Ipv4Block;
use model::timestamp::Timestamp;
use model::wire::WireError;
use tokio::sync::watch;

use crate::io::link::MasterEnd;
use crate::io::store::StoreError;
use crate::master::accounts::Accounts;
use crate::master::controllers::Views;
use crate::master::registry::{CommitError, Registry};

use session::Session;

/// How often both sides tell what they have, unless a test is in a hurry.
pub const BEAT: Duration = Duration::from_secs(5);
/// Changes that come this close together travel as one message.
const COALESCE: Duration = Duration::from_millis(5);

/// Why a board's session ended.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The board hung up.
    #[error("the board's link is closed")]
    LinkClosed,
    /// The store cannot be read.
    #[error("cannot read what the board should run")]
    Read(#[source] StoreError),
    /// The store takes no more writes.
    #[error("cannot record what the board reports")]
    Write(#[source] CommitError),
}

/// Who speaks, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cluster epoch of the leader.
    pub epoch: u64,
    /// Its term.
    pub term: u64,
    /// How often both sides tell what they have.
    pub beat: Duration,
    /// The key that the board has shown, which is written into its Node; none for the leader's own
    /// board.
    pub board_key: Option<[u8; 32]>,
    /// The board hears what all boards are told; else the session tells it.
    pub hears_all: bool,
    /// Where all pods have their addresses, and so no board; `None` when that is not known.
    pub pod_range: Option<Ipv4Block>,
    /// Gives tokens for pods; `None` gives none.
    pub accounts: Option<Accounts>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            epoch: 0,
            term: 0,
            beat: BEAT,
            board_key: None,
            hears_all: false,
            pod_range: None,
            accounts: None,
        }
    }
}

/// Serves one board until `shutdown` turns true. `name` is the board's, and proven: its
/// certificate's, or that of this very board.
///
/// # Errors
/// When the link or the store is closed under it.
pub async fn run(
    views: Views,
    registry: Registry,
    options: Options,
    name: String,
    link: MasterEnd,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), DispatchError> {
    let served = serve(views, registry, options, name, link, &mut shutdown).await;
    // At the end of the process the board's role may be the first to go.
    if *shutdown.borrow() && matches!(served, Err(DispatchError::LinkClosed)) {
        return Ok(());
    }
    served
}

async fn serve(
    views: Views,
    registry: Registry,
    options: Options,
    name: String,
    link: MasterEnd,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<(), DispatchError> {
    let MasterEnd { down, mut up, streams: _streams } = link;
    let every = options.beat;
    let mut session = Session::new(views, registry, options, name, down);
    session.ask_hello().await?;
    let mut beat = tokio::time::interval(every);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if *shutdown.borrow() {
            return Ok(());
        }
        // Cancel safety: recv, tick, notified and changed lose nothing when dropped.
        tokio::select! {
            message = up.recv() => match message {
                Some(bytes) => match session.receive(&bytes).await {
                    Ok(()) => (),
                    Err(Trouble::Message(error)) => {
                        session.complain("a message of a board cannot be read", &error);
                    }
                    Err(Trouble::End(error)) => return Err(error),
                },
                None => return Err(DispatchError::LinkClosed),
            },
            () = session.changed() => {
                tokio::time::sleep(COALESCE).await;
                session.send_difference().await?;
            }
            () = session.net_changed() => session.tell_net().await?,
            _ = beat.tick() => session.beat().await?,
            changed = shutdown.changed() => if changed.is_err() {
                return Ok(());
            },
        }
    }
}

/// What can go wrong with one message.
#[derive(Debug)]
enum Trouble {
    /// The message is bad; the session goes on.
    Message(WireError),
    /// The session ends.
    End(DispatchError),
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        Self::Message(error)
    }
}

impl From<DispatchError> for Trouble {
    fn from(error: DispatchError) -> Self {
        Self::End(error)
    }
}

/// A time as conditions and Leases carry it.
fn text(now: Timestamp) -> String {
    now.to_string()
}

#[cfg(test)]
mod tests;
