//! A board's DNS: answers the pods and the board itself at the address of the DNS service.
//!
//! ```text
//!  pods, board ── service address:53 ── nftables ──▶ held sockets ──▶ Resolver ──▶ upstream servers
//!                                                        ▲                ▲
//!                                    keeper's holder ────┘                └── NetState (net.bin, feed)
//! ```
//! One task answers everything that is known at once; questions for upstream servers are tasks of
//! their own, so names of the cluster never wait for them. The sockets belong to the boot and not to
//! the agent: while it restarts, queries wait in them. It decides nothing: see `logic::dns`.

mod clients;
pub(in crate::node) mod host;
mod journey;
mod resolver;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use logic::dns::Ranges;
use model::network::NetState;
use tokio::sync::watch;

pub use clients::serve;

use crate::io::dns::Held;
use crate::io::keeper::{Keeper, KeeperEvent};

/// What the keeper calls the sockets.
const KEPT_AS: &str = "dns";
/// After a keeper that cannot be reached.
const KEEPER_PAUSE: Duration = Duration::from_secs(1);

/// What DNS works with.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    /// What is known of the network.
    pub state: watch::Receiver<Arc<NetState>>,
    /// Addresses that the cluster gives out.
    pub ranges: Ranges,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
}

/// Answers from when the board's block of addresses is known until `stop`, at the address of the block
/// that the board has at the time. `held` tells where queries have to be redirected to.
///
/// # Errors
/// There are no sockets to be had, or they broke.
pub async fn run(
    board: &str,
    options: DnsOptions,
    keeper: &Keeper,
    held: &watch::Sender<Option<SocketAddrV4>>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut state = options.state.clone();
    let mut before = None;
    loop {
        // Cancel safety: neither changes anything.
        let address = tokio::select! {
            address = own_address(board, &mut state, before) => address,
            () = stopped(&mut stop) => return Ok(()),
        };
        let Some(address) = address else { return Ok(()) };
        before = Some(address);
        let sockets = take_over(keeper, address).await?;
        let copies = sockets.copies()?;
        tracing::info!(address = %sockets.address, "DNS answers");
        held.send_replace(Some(sockets.address));
        // Cancel safety: whoever ends first ends the role, and the sockets stay with the keeper; at
        // another address, what waits in those of the old one is lost as on the way to it.
        tokio::select! {
            served = serve(sockets, options.clone(), stop.clone()) => return served,
            () = give_again(keeper, &copies) => return Ok(()),
            () = moved(board, &mut state, address) => (),
        }
    }
}

/// The end is asked for, or nobody is left to ask for it.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _asked = stop.wait_for(|stop| *stop).await;
}

/// The first address of the board's block, other than `before`; `None` when nobody can tell any more.
async fn own_address(
    board: &str,
    state: &mut watch::Receiver<Arc<NetState>>,
    before: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let of = |state: &NetState| {
        state.boards.get(board)?.pods?.nth(1).filter(|address| Some(*address) != before)
    };
    let known = state.wait_for(|state| of(state).is_some()).await.ok()?;
    of(&known)
}

/// The board's block is another one. A Node without a block is about to get one: never then.
async fn moved(board: &str, state: &mut watch::Receiver<Arc<NetState>>, address: Ipv4Addr) {
    if own_address(board, state, Some(address)).await.is_none() {
        // `serve` hears of the end too, and ends properly.
        std::future::pending::<()>().await;
    }
}

/// The sockets of an earlier agent, or new ones.
async fn take_over(keeper: &Keeper, address: Ipv4Addr) -> io::Result<Held> {
    match keeper.kept(KEPT_AS).await {
        Ok(fds) => {
            if let Some(held) = Held::adopt(fds, address) {
                return Ok(held);
            }
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(%error, "the keeper gives no DNS sockets"),
    }
    Held::open(address)
}

/// Gives the keeper copies of the sockets, and every keeper that replaces it.
async fn give_again(keeper: &Keeper, copies: &[OwnedFd]) {
    let mut events = keeper.events();
    loop {
        match events.next().await {
            Ok(KeeperEvent::States(_)) => {
                if let Err(error) = keeper.keep(KEPT_AS, copies).await {
                    tracing::warn!(%error, "queries will not wait while the agent restarts");
                }
            }
            Ok(KeeperEvent::Exited(_)) => {}
            Err(_) => tokio::time::sleep(KEEPER_PAUSE).await,
        }
    }
}
