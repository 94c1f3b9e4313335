//! How a board without an identity gets one: it joins with a token or by a person's word, founds with
//! others, or founds alone when it hears nobody.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use model::leader::SignedRecord;
use model::token::{BootstrapToken, Token, TokenRole};
use tokio::sync::watch;

use super::decide::{self, Start};
use crate::app::cli::Role as Wanted;
use crate::app::config::Config;
use crate::app::dirs::Dirs;
use crate::app::doors::Doors;
use crate::app::genesis::{self, Outcome};
use crate::app::identity::{self, Identity, Role};
use crate::app::join::{self, Calls, JoinError, Joined, Newcomer, Waiting};
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
        members: None,
    });
    let mut search = Search::new(config, &discovery, first);
    let joined = loop {
        let mut tried = Tried::new();
        let candidates = search.candidates().await;
        let joined = join_any(candidates, token, &newcomer, &mut tried).await?;
        if let Some(joined) = joined {
            break joined;
        }
        search.say(&tried);
        search.pause(&discovery).await;
    };
    discovery.stop().await;
    become_member(dirs, config, clock, newcomer, &joined)
}

/// Joins at the first address at which a master of the token's cluster answers.
async fn join_any(
    candidates: Vec<SocketAddr>,
    token: &Token,
    newcomer: &Newcomer,
    tried: &mut Tried,
) -> Result<Option<Joined>> {
    let pin = Some(token.pin);
    let mut dials = Calls::new(candidates, |address| join::open(address, pin));
    while let Some((address, opened)) = dials.next().await {
        let joined = match opened {
            Ok(connection) => join::over(&connection, token, newcomer).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(joined) => return Ok(Some(joined)),
            Err(JoinError::Elsewhere(error)) => tried.push((address, format!("{error:#}"))),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
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
        members: None,
    });
    let mut search = Search::new(config, &discovery, Vec::new());
    // Nothing but the person's word tells the right cluster: who is named is asked alone.
    search.named_only = !config.peers.is_empty();
    let waiting = Waiting::default();
    let mut said = None;
    let joined = loop {
        let round = waiting.round(search.candidates().await, &newcomer).await;
        if let Some(joined) = round.joined {
            break joined;
        }
        show_words(&newcomer, &waiting, &mut said);
        let tried = round.failed.into_iter().map(|(address, error)| (address, error.text()));
        search.say(&tried.collect());
        search.pause(&discovery).await;
    };
    discovery.stop().await;
    become_member(dirs, config, clock, newcomer, &joined)
}

/// What a person was told last.
type Said = Option<(Instant, Vec<String>)>;

/// Tells a person what to do, now and then, and when the words are others.
fn show_words(newcomer: &Newcomer, waiting: &Waiting, said: &mut Said) {
    let phrases = waiting.phrases(&newcomer.key);
    let is_told = said.as_ref().is_some_and(|(at, shown)| {
        let every = if *shown == phrases { SAY_EVERY } else { JOIN_PAUSE };
        at.elapsed() < every
    });
    if phrases.is_empty() || is_told {
        return;
    }
    if waiting.is_ambiguous() {
        tracing::warn!("{}", join::SEVERAL);
    }
    for words in &phrases {
        tracing::info!(
            words,
            "waiting to be let in: on the master board `kumquat board list` must show the same six \
             words, then `kumquat board approve {} --words \"{words}\"`",
            newcomer.name
        );
    }
    waiting.shown(&newcomer.key, &phrases);
    *said = Some((Instant::now(), phrases));
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
    /// Whether those that are heard are left out.
    named_only: bool,
    /// When to tell next that nobody takes this board.
    say_at: Instant,
}

impl<'a> Search<'a> {
    fn new(config: &'a Config, discovery: &Discovery, first: Vec<SocketAddr>) -> Self {
        let say_at = Instant::now() + LISTEN;
        Self { config, heard: discovery.heard(), first, named_only: false, say_at }
    }

    /// Addresses to try: those that a person has named first, then those of heard leaders, in no order,
    /// because anybody may have announced them.
    async fn candidates(&mut self) -> Vec<SocketAddr> {
        let heard = self.heard.borrow_and_update().clone();
        let mut all = self.first.clone();
        all.extend(dial::resolve(&self.config.peers).await);
        let mut heard: Vec<SocketAddr> =
            heard.iter().flat_map(|r| dial::addresses(r.record())).collect();
        if self.named_only {
            heard.clear();
        }
        dial::shuffle(&mut heard);
        all.extend(heard);
        let mut seen = BTreeSet::new();
        all.retain(|address| seen.insert(*address));
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
