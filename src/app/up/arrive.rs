//! How a board without an identity gets one: it joins with a token, or founds when it hears nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use model::leader::SignedRecord;
use model::token::Token;
use tokio::sync::watch;

use super::decide::{self, Start};
use crate::app::config::Config;
use crate::app::dirs::Dirs;
use crate::app::identity::{self, Identity, Role};
use crate::app::join::{self, JoinError, Joined};
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
        Start::Join(token) => join(dirs, config, clock, &token).await,
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
async fn join(dirs: &Dirs, config: &Config, clock: &Clock, text: &str) -> Result<Identity> {
    let token: Token = text.parse().context(
        "--token: copy the whole line that `kumquat token create` prints on the master board",
    )?;
    let wish = Wish {
        token: &token,
        name: identity::board_name(config)?,
        id: identity::random_id()?,
        key: BoardKey::open(&dirs.data)?,
    };
    let pin = token.pin;
    let discovery = Discovery::start(discovery::Options {
        interface: config.interface.clone(),
        judge: Arc::new(move |record| pin.starts_with(&record.record().ca)),
    });
    let mut search = Search { config, heard: discovery.heard(), say_at: Instant::now() + LISTEN };
    let joined = loop {
        let (joined, tried) = wish.try_all(search.candidates().await).await?;
        if let Some(joined) = joined {
            break joined;
        }
        search.say(&tried);
        search.pause(&discovery).await;
    };
    discovery.stop().await;
    let answer = &joined.answer;
    if config.cluster.as_ref().is_some_and(|cluster| *cluster != answer.cluster) {
        bail!("the token is of cluster {}: leave --cluster away", answer.cluster);
    }
    clock.advance(answer.cluster_time);
    let identity = Identity {
        name: wish.name,
        cluster: answer.cluster.clone(),
        id: wish.id,
        pod_range: answer.pod_range.parse()?,
        service_range: answer.service_range.parse()?,
        role: Role::Member,
    };
    joined.save(&dirs.data)?;
    Membership { leader: answer.leader.clone() }.save(dirs)?;
    // Last: from here on the board is a member.
    identity.save(dirs)?;
    tracing::info!(cluster = %identity.cluster, board = %identity.name, "joined");
    Ok(identity)
}

/// What a board says to every master it finds.
struct Wish<'a> {
    token: &'a Token,
    name: String,
    id: String,
    key: BoardKey,
}

/// Why an address was of no use.
type Tried = Vec<(SocketAddr, String)>;

impl Wish<'_> {
    /// Asks at each address until one takes this board.
    async fn try_all(&self, addresses: Vec<SocketAddr>) -> Result<(Option<Joined>, Tried)> {
        let mut tried = Tried::new();
        for address in addresses {
            let Self { token, name, id, key } = self;
            match join::join(address, token, name, id, key).await {
                Ok(joined) => return Ok((Some(joined), tried)),
                Err(JoinError::Elsewhere(error)) => tried.push((address, format!("{error:#}"))),
                Err(error) => return Err(error.into()),
            }
        }
        Ok((None, tried))
    }
}

/// Where masters may be.
struct Search<'a> {
    config: &'a Config,
    heard: watch::Receiver<Vec<SignedRecord>>,
    /// When to tell next that nobody takes this board.
    say_at: Instant,
}

impl Search<'_> {
    /// Addresses to try, those of heard leaders first.
    async fn candidates(&mut self) -> Vec<SocketAddr> {
        let heard = self.heard.borrow_and_update().clone();
        let mut all: Vec<_> = heard.iter().flat_map(|r| dial::addresses(r.record())).collect();
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
                "no master of the token's cluster is heard; still looking. Start the master board, \
                 or name it with --peers HOST where multicast is filtered"
            );
        }
        for (address, error) in tried {
            tracing::warn!(%address, %error, "no master answers there; still looking");
        }
    }
}
