//! How a board without an identity gets one: it joins with a token or by a person's word, founds with
//! others, or founds alone when it hears nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use model::leader::SignedRecord;
use model::token::{BootstrapToken, Token, TokenRole};
use model::words;
use tokio::sync::watch;

use super::decide::{self, Start};
use crate::app::cli::Role as Wanted;
use crate::app::config::Config;
use crate::app::dirs::Dirs;
use crate::app::doors::Doors;
use crate::app::genesis::{self, Outcome};
use crate::app::identity::{self, Identity, Role};
use crate::app::join::{self, JoinError, Joined, Newcomer, Waited};
use crate::app::member::dial;
use crate::app::membership::Membership;
use crate::io::clock::Clock;
use crate::io::discovery::{self, Discovery};
use crate::io::tls::BoardKey;

/// How long a board listens for a cluster before it founds one.
const LISTEN: Duration = Duration::from_secs(3);
/// Pause between two attempts to join, unless another leader is heard.
const JOIN_PAUSE: Duration = Duration::from_secs(2);
/// How often a board that finds no master says so.
const SAY_EVERY: Duration = Duration::from_secs(15);

/// Makes the board what `start` says, durably, and gives what it is.
///
/// # Errors
/// A cluster that must be joined with a token, a token that is refused, or the disk.
///
/// # Cancel safety
/// What was not finished is begun anew by the next start; a token is not used up by it.
pub(super) async fn arrive(
    dirs: &Dirs,
    config: &Config,
    clock: &Clock,
    doors: &Doors,
    start: Start,
) -> Result<Identity> {
    match start {
        Start::ComeBack(identity) => Ok(identity),
        Start::Found => {
            let identity = Identity::found(config)?;
            decide::may_found(&listen(config).await, config)?;
            identity.save(dirs)?;
            Ok(identity)
        }
        Start::Join(token) => {
            let newcomer = newcomer(dirs, config)?;
            join(dirs, config, clock, &token, newcomer, Vec::new()).await
        }
        Start::Gather(token) => gather(dirs, config, clock, doors, &token).await,
        Start::Wait => wait(dirs, config, clock).await,
    }
}

fn newcomer(dirs: &Dirs, config: &Config) -> Result<Newcomer> {
    let role = match config.role {
        Wanted::Auto => None,
        Wanted::Master => Some(TokenRole::Master),
        Wanted::Worker => Some(TokenRole::Worker),
    };
    Ok(Newcomer {
        name: identity::board_name(config)?,
        board_id: identity::random_id()?,
        key: BoardKey::open(&dirs.data)?,
        role,
    })
}

/// Founds a cluster with others that have the same bootstrap token, or joins theirs.
async fn gather(
    dirs: &Dirs,
    config: &Config,
    clock: &Clock,
    doors: &Doors,
    token: &BootstrapToken,
) -> Result<Identity> {
    let newcomer = newcomer(dirs, config)?;
    // Before anything is promised: what could not be founded must not be promised either.
    let founder = Identity::found(config)?;
    let Newcomer { name, key, .. } = &newcomer;
    match genesis::gather(dirs, config, token, name, key, &doors.peers).await? {
        Outcome::Found => {
            founder.save(dirs)?;
            tracing::info!(cluster = %founder.cluster, board = %founder.name, "founded");
            Ok(founder)
        }
        Outcome::Join(token, addresses) => {
            doors.peers.close();
            let identity = join(dirs, config, clock, &token, newcomer, addresses).await?;
            genesis::after_joining(dirs)?;
            Ok(identity)
        }
    }
}

/// What is heard on the link within a while; at once nothing, where nothing can be.
async fn listen(config: &Config) -> Vec<SignedRecord> {
    let named = config.interface.clone();
    if !discovery::usable_interfaces(named.as_deref()) {
        return Vec::new();
    }
    let seconds = LISTEN.as_secs();
    tracing::info!(seconds, "listening for a cluster on this network");
    let options = discovery::Options { interface: named, ..Default::default() };
    let discovery = Discovery::start(options);
    let mut heard = discovery.heard();
    let found = |records: &Vec<SignedRecord>| decide::may_found(records, config).is_err();
    let waited = tokio::time::timeout(LISTEN, heard.wait_for(found)).await;
    let records = waited.map_or_else(|_| Vec::new(), |seen| seen.map_or(Vec::new(), |r| r.clone()));
    discovery.stop().await;
    records
}

/// Looks for the token's cluster until it has taken this board, or refuses it.
async fn join(
    dirs: &Dirs,
    config: &Config,
    clock: &Clock,
    token: &Token,
    newcomer: Newcomer,
    first: Vec<SocketAddr>,
) -> Result<Identity> {
    let pin = token.pin;
    let discovery = Discovery::start(discovery::Options {
        interface: config.interface.clone(),
        judge: Arc::new(move |record| pin.starts_with(&record.record().ca)),
    });
    let mut search = Search::new(config, &discovery, first);
    let joined = loop {
        let mut tried = Tried::new();
        let mut joined = None;
        for address in search.candidates().await {
            match join::join(address, token, &newcomer).await {
                Ok(done) => {
                    joined = Some(done);
                    break;
                }
                Err(JoinError::Elsewhere(error)) => tried.push((address, format!("{error:#}"))),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(joined) = joined {
            break joined;
        }
        search.say(&tried);
        search.pause(&discovery).await;
    };
    discovery.stop().await;
    become_member(dirs, config, clock, newcomer, &joined)
}

/// Waits at a cluster until a person lets this board in.
async fn wait(dirs: &Dirs, config: &Config, clock: &Clock) -> Result<Identity> {
    let newcomer = newcomer(dirs, config)?;
    let cluster = config.cluster.clone();
    let discovery = Discovery::start(discovery::Options {
        interface: config.interface.clone(),
        judge: Arc::new(move |record| {
            cluster.as_ref().is_none_or(|cluster| *cluster == record.record().cluster)
        }),
    });
    let mut search = Search::new(config, &discovery, Vec::new());
    let mut pin = None;
    let mut said = None;
    let joined = 'waiting: loop {
        let mut tried = Tried::new();
        search.one_cluster(pin)?;
        for address in search.candidates().await {
            match join::wait_at(address, pin, &newcomer).await {
                Ok(Waited::In(joined)) => break 'waiting joined,
                Ok(Waited::NotYet(authority)) => {
                    pin = Some(authority);
                    tried.clear();
                    show_words(&newcomer, &authority, &mut said);
                    break;
                }
                Err(JoinError::Elsewhere(error)) => tried.push((address, format!("{error:#}"))),
                Err(error) => return Err(error.into()),
            }
        }
        if pin.is_none() || !tried.is_empty() {
            search.say(&tried);
        }
        search.pause(&discovery).await;
    };
    discovery.stop().await;
    become_member(dirs, config, clock, newcomer, &joined)
}

/// Tells a person what to do, now and then.
fn show_words(newcomer: &Newcomer, authority: &[u8; 32], said: &mut Option<Instant>) {
    if said.is_some_and(|at| at.elapsed() < SAY_EVERY) {
        return;
    }
    *said = Some(Instant::now());
    let words = words::phrase(&newcomer.key.hash(), authority);
    tracing::info!(
        words,
        "waiting to be let in: on the master board `kumquat board list` must show the same six \
         words, then `kumquat board approve {}`",
        newcomer.name
    );
}

/// Keeps what a join has brought.
fn become_member(
    dirs: &Dirs,
    config: &Config,
    clock: &Clock,
    newcomer: Newcomer,
    joined: &Joined,
) -> Result<Identity> {
    let answer = &joined.answer;
    if config.cluster.as_ref().is_some_and(|cluster| *cluster != answer.cluster) {
        bail!("the token is of cluster {}: leave --cluster away", answer.cluster);
    }
    clock.follow();
    clock.advance(answer.cluster_time);
    let identity = Identity {
        name: newcomer.name,
        cluster: answer.cluster.clone(),
        id: newcomer.board_id,
        pod_range: answer.pod_range.parse()?,
        service_range: answer.service_range.parse()?,
        role: Role::Member,
    };
    joined.save(&dirs.data)?;
    Membership { leader: answer.leader.clone(), masters: Vec::new() }.save(dirs)?;
    // Last: from here on the board is a member.
    identity.save(dirs)?;
    tracing::info!(cluster = %identity.cluster, board = %identity.name, "joined");
    Ok(identity)
}

/// Why an address was of no use.
type Tried = Vec<(SocketAddr, String)>;

/// Where masters may be.
struct Search<'a> {
    config: &'a Config,
    heard: watch::Receiver<Vec<SignedRecord>>,
    /// Where somebody has said that one is.
    first: Vec<SocketAddr>,
    /// When to tell next that nobody takes this board.
    say_at: Instant,
}

impl<'a> Search<'a> {
    fn new(config: &'a Config, discovery: &Discovery, first: Vec<SocketAddr>) -> Self {
        Self { config, heard: discovery.heard(), first, say_at: Instant::now() + LISTEN }
    }

    /// Whoever waits must know at which cluster: one is heard, or named, or chosen already.
    fn one_cluster(&self, chosen: Option<[u8; 32]>) -> Result<()> {
        let heard = self.heard.borrow();
        let mut authorities: Vec<_> = heard.iter().map(|record| record.record().ca).collect();
        authorities.sort_unstable();
        authorities.dedup();
        if authorities.len() < 2 || chosen.is_some() || !self.config.peers.is_empty() {
            return Ok(());
        }
        let mut names: Vec<&str> = heard.iter().map(|r| r.record().cluster.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        bail!(
            "several clusters are on this network ({}): say which with --cluster NAME, or name a \
             board of it with --peers HOST",
            names.join(", ")
        )
    }

    /// Addresses to try, those of heard leaders first.
    async fn candidates(&mut self) -> Vec<SocketAddr> {
        let heard = self.heard.borrow_and_update().clone();
        let mut all = self.first.clone();
        all.extend(heard.iter().flat_map(|r| dial::addresses(r.record())));
        all.extend(dial::resolve(&self.config.peers).await);
        all.dedup();
        all
    }

    /// Waits until another attempt is worth it.
    async fn pause(&mut self, discovery: &Discovery) {
        discovery.ask();
        // An error means that nothing is heard any more: then only the pause counts.
        let _heard = tokio::time::timeout(JOIN_PAUSE, async {
            if self.heard.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await;
    }

    fn say(&mut self, tried: &Tried) {
        if Instant::now() < self.say_at {
            return;
        }
        self.say_at = Instant::now() + SAY_EVERY;
        if tried.is_empty() {
            tracing::warn!(
                "no master of the cluster is heard; still looking. Start the master board, or name \
                 it with --peers HOST where multicast is filtered"
            );
        }
        for (address, error) in tried {
            tracing::warn!(%address, %error, "no master answers there; still looking");
        }
    }
}
