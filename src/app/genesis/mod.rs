//! Identical boards found a cluster together: `kumquat up --token kq0... --expect N`.
//!
//! [`logic::genesis`] decides; this drives it. Boards with the same token find each other over mDNS or
//! `--peers`, and believe only what is proven with the token's secret for the very connection it comes
//! over (`POST /v1/genesis`, port 7443). Whatever a board has promised lies in
//! `<data-dir>/genesis.json` before anybody hears of it.
//!
//! ```text
//!  a cluster has the token ─────────────▶ join it
//!  a majority of N promised this board ─▶ found, keep the token as one of the cluster's, lead
//!  promised another board ──────────────▶ ask until that one, or whoever it joined, has a cluster
//! ```

mod answer;
mod ask;
mod kept;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use logic::genesis::{Action, Genesis, Input, Record, Warning};
use model::genesis::GenesisRecord;
use model::leader::SignedRecord;
use model::limits::{GENESIS_ASK_MS, GENESIS_PEERS_MAX, LEADER_ADDRESSES_MAX};
use model::masters::{FoundedV1, GenesisAnswerV1, GenesisWordV1};
use model::token::{BootstrapToken, Token};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use super::addresses::Addresses;
use super::config::Config;
use super::dirs::Dirs;
use super::doors::Door;
use super::member::dial;
use crate::io::discovery::{self, Discovery};
use crate::io::peer;
use crate::io::tls::{BoardKey, genesis_server_config};
use crate::master::tokens::Tokens;
use answer::{Asked, Handler};
use ask::{AskError, ask};
use kept::Kept;

/// Words of others that wait for this board's decision.
const ASKED_MAX: usize = 16;
/// How long the port may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// Time in which a cluster on this link is heard: discovery takes about one second.
const LISTEN_FIRST: Duration = Duration::from_secs(2);
/// Who does not know the token is not asked again for this long.
const STRANGER_PAUSE: Duration = Duration::from_secs(10);
/// Nor is an address at which nobody answers: a board that has just started may be there soon.
const AWAY_PAUSE: Duration = Duration::from_secs(2);
/// As many addresses as may be announced.
const STRANGERS_MAX: usize = GENESIS_PEERS_MAX * LEADER_ADDRESSES_MAX;
/// How often a board that waits for others says so.
const SAY_EVERY: Duration = Duration::from_secs(15);

/// What came of it.
pub(in crate::app) enum Outcome {
    /// This board founds; to be called again after a crash, until [`after_founding`].
    Found,
    /// There is a cluster: join it with this token, at these addresses first.
    Join(Token, Vec<SocketAddr>),
}

/// Waits with others until there is a cluster for this token, or this board is to found it.
///
/// # Errors
/// The disk, or the port for boards.
///
/// # Cancel safety
/// What was promised lies on the disk; the next start goes on with it.
pub(in crate::app) async fn gather(
    dirs: &Dirs,
    config: &Config,
    token: &BootstrapToken,
    name: &str,
    key: &BoardKey,
    door: &Door,
) -> Result<Outcome> {
    let kept = Kept::load(dirs, token)?;
    let began = Instant::now();
    let founds =
        config.expect.map(|boards| Genesis::new(kept.record.clone(), name.into(), boards, 0));
    let discovery = Discovery::start(discovery::Options {
        interface: config.interface.clone(),
        ..Default::default()
    });
    let (asked, to_answer) = mpsc::channel(ASKED_MAX);
    let tls = genesis_server_config(key, name, peer::ALPN)?;
    let handler = Arc::new(Handler { token: token.clone(), asked });
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(peer::serve(door.listener()?, tls, handler, stopped));
    let mut gathering = Gathering {
        dirs,
        config,
        token,
        name,
        founds,
        kept,
        announced: None,
        asked_at: began,
        began,
        known: Known { fresh: discovery.fresh(), leaders: discovery.heard() },
        strangers: HashMap::new(),
        asks: JoinSet::new(),
        asking: HashSet::new(),
        say_at: began + SAY_EVERY,
    };
    let outcome = gathering.run(to_answer, &discovery).await;
    stop.send_replace(true);
    let _closed = timeout(CLOSE_WITHIN, serving).await;
    discovery.stop().await;
    outcome
}

/// A founder lets in whoever has the token with which it founded; nothing to do for all others.
///
/// # Errors
/// The disk or the store refuses; it is tried again at the next start.
pub(in crate::app) async fn after_founding(dirs: &Dirs, tokens: &Tokens) -> Result<()> {
    if let Some(token) = Kept::token(dirs)? {
        tokens.adopt(&token).await.context("cannot keep the bootstrap token")?;
        Kept::forget(dirs)?;
    }
    Ok(())
}

/// Nothing is promised any more: this board is in a cluster.
///
/// # Errors
/// The disk refuses.
pub(in crate::app) fn after_joining(dirs: &Dirs) -> Result<()> {
    Kept::forget(dirs)
}

fn own_addresses(addresses: &Addresses) -> Vec<Ipv4Addr> {
    let others = addresses.all.iter().filter_map(|address| match address {
        IpAddr::V4(v4) if *v4 != addresses.own => Some(*v4),
        _ => None,
    });
    std::iter::once(addresses.own).chain(others).take(LEADER_ADDRESSES_MAX).collect()
}

/// What is heard on the link.
struct Known {
    fresh: watch::Receiver<Vec<GenesisRecord>>,
    leaders: watch::Receiver<Vec<SignedRecord>>,
}

/// An ask that has ended.
type Ended = (SocketAddr, Result<GenesisAnswerV1, AskError>);

struct Gathering<'a> {
    dirs: &'a Dirs,
    config: &'a Config,
    token: &'a BootstrapToken,
    name: &'a str,
    /// Absent on a board that expects nobody: it founds nothing and is counted by nobody.
    founds: Option<Genesis>,
    kept: Kept,
    announced: Option<GenesisRecord>,
    asked_at: Instant,
    began: Instant,
    known: Known,
    /// When those may be asked again that do not know the token, or do not answer.
    strangers: HashMap<SocketAddr, Instant>,
    asks: JoinSet<Ended>,
    /// Where these go.
    asking: HashSet<SocketAddr>,
    say_at: Instant,
}

impl Gathering<'_> {
    async fn run(
        &mut self,
        mut asked: mpsc::Receiver<Asked>,
        discovery: &Discovery,
    ) -> Result<Outcome> {
        self.announce(discovery);
        let mut next = self.take(Input::Tick, None).await?;
        loop {
            if let Some(outcome) = next {
                return Ok(outcome);
            }
            let wake = self.wake_at();
            // Cancel safety: all lose nothing when dropped.
            next = tokio::select! {
                Some(asked) = asked.recv() => {
                    let outcome = self.take(Input::Asked(asked.word), None).await?;
                    let answer = GenesisAnswerV1 { word: Some(self.word()), founded: None };
                    // Whoever asked may have gone.
                    let _gone = asked.answer.send(answer);
                    outcome
                }
                // One that crashed says nothing; it is not asked again.
                Some(Ok((address, answered))) = self.asks.join_next() => {
                    self.asking.remove(&address);
                    match answered {
                        Ok(answer) => self.take(Input::Answered(answer), Some(address)).await?,
                        Err(error) => {
                            self.note(address, &error);
                            None
                        }
                    }
                }
                Ok(()) = self.known.fresh.changed() => {
                    self.ask_all().await;
                    None
                }
                Ok(()) = self.known.leaders.changed() => {
                    self.ask_all().await;
                    None
                }
                () = sleep_until(wake.into()) => {
                    self.announce(discovery);
                    discovery.ask();
                    self.say();
                    self.take(Input::Tick, None).await?
                }
            };
        }
    }

    /// Tells the link of this board, anew when its addresses have changed. Who expects nobody founds
    /// nothing and is found by nobody.
    fn announce(&mut self, discovery: &Discovery) {
        let Some(expect) = self.config.expect else { return };
        let record = GenesisRecord {
            token: self.token.id,
            id: self.kept.record.id.0,
            expect,
            addresses: own_addresses(&Addresses::read(self.config.interface.as_deref())),
            peer_port: self.config.peer_port,
        };
        if self.announced.as_ref() != Some(&record) {
            discovery.announce_genesis(Some(record.clone()));
            self.announced = Some(record);
        }
    }

    /// Feeds the machine and does what it says; `from` is who spoke.
    async fn take(&mut self, input: Input, from: Option<SocketAddr>) -> Result<Option<Outcome>> {
        let Some(founds) = &mut self.founds else {
            return Ok(match input {
                Input::Answered(GenesisAnswerV1 { founded: Some(founded), .. }) => {
                    Some(self.join(founded, from))
                }
                Input::Tick => {
                    self.ask_all().await;
                    None
                }
                _ => None,
            });
        };
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for action in founds.take(input, now) {
            match action {
                Action::Save(record) => self.keep(record).await?,
                Action::AskAll => self.ask_all().await,
                Action::Found => return Ok(Some(Outcome::Found)),
                Action::Join(founded) => return Ok(Some(self.join(founded, from))),
                Action::Warn(warning) => warn(&warning),
            }
        }
        Ok(None)
    }

    /// When time itself is news.
    fn wake_at(&mut self) -> Instant {
        match &self.founds {
            Some(founds) => self.began + Duration::from_millis(founds.wake_at()),
            None => {
                let due = self.asked_at + Duration::from_millis(GENESIS_ASK_MS);
                due.max(Instant::now())
            }
        }
    }

    fn word(&self) -> GenesisWordV1 {
        match &self.founds {
            Some(founds) => founds.word(),
            None => GenesisWordV1 {
                id: self.kept.record.id,
                name: self.name.to_owned(),
                expect: 0,
                round: 0,
                promise: None,
            },
        }
    }

    async fn keep(&mut self, record: Record) -> Result<()> {
        self.kept.record = record;
        let (kept, dirs) = (self.kept.clone(), self.dirs.clone());
        tokio::task::spawn_blocking(move || kept.save(&dirs)).await?
    }

    fn join(&self, founded: FoundedV1, from: Option<SocketAddr>) -> Outcome {
        let BootstrapToken { id, secret } = self.token.clone();
        let leader = founded.leader.iter().flat_map(|leader| dial::addresses(leader.record()));
        let addresses = leader.chain(from).collect();
        Outcome::Join(Token { id, secret, pin: founded.pin }, addresses)
    }

    /// Asks everybody who may have the token and is not being asked.
    async fn ask_all(&mut self) {
        let now = Instant::now();
        self.asked_at = now;
        self.strangers.retain(|_, until| *until > now);
        let mut addresses: Vec<SocketAddr> = Vec::new();
        // Whoever is asked counts this board: it has heard first whether there is a cluster.
        let has_listened = now >= self.began + LISTEN_FIRST;
        for record in self.known.fresh.borrow_and_update().iter().filter(|_| has_listened) {
            let port = record.peer_port;
            addresses.extend(record.addresses.iter().map(|a| SocketAddr::from((*a, port))));
        }
        for record in self.known.leaders.borrow_and_update().iter() {
            addresses.extend(dial::addresses(record.record()));
        }
        // Anybody may have announced these: no order of theirs decides who is asked.
        dial::shuffle(&mut addresses);
        let named = dial::resolve(&self.config.peers).await;
        let is_named: HashSet<SocketAddr> = named.iter().copied().collect();
        let mut seen = HashSet::new();
        let word = self.word();
        for address in named.into_iter().chain(addresses) {
            let busy = self.strangers.contains_key(&address) || self.asking.contains(&address);
            let full = self.asks.len() >= GENESIS_PEERS_MAX && !is_named.contains(&address);
            if busy || full || !seen.insert(address) {
                continue;
            }
            self.asking.insert(address);
            let (token, word): (BootstrapToken, GenesisWordV1) = (self.token.clone(), word.clone());
            self.asks.spawn(async move { (address, ask(address, &token, word).await) });
        }
    }

    fn note(&mut self, address: SocketAddr, error: &AskError) {
        tracing::debug!(%address, %error, "not of the same token");
        let pause = match error {
            AskError::Stranger(_) => STRANGER_PAUSE,
            AskError::Away(_) => AWAY_PAUSE,
        };
        if self.strangers.len() < STRANGERS_MAX {
            self.strangers.insert(address, Instant::now() + pause);
        }
    }

    fn say(&mut self) {
        if Instant::now() < self.say_at {
            return;
        }
        self.say_at = Instant::now() + SAY_EVERY;
        let heard = self.known.fresh.borrow().len() + 1;
        match self.config.expect {
            Some(expect) => tracing::info!(
                expect,
                heard,
                "waiting for the other boards with this token; a majority of them founds the cluster"
            ),
            None => tracing::warn!(
                "no cluster with this token is heard; still looking. To found one with others, start \
                 each of them with --expect N"
            ),
        }
    }
}

fn warn(warning: &Warning) {
    match warning {
        Warning::Expects { name, boards } => tracing::warn!(
            board = name,
            boards,
            "a board with the same token expects another number of boards: it is not counted"
        ),
        Warning::Waits { name } => tracing::warn!(
            board = name,
            "the board that was chosen to found the cluster is silent: only it can found, or step \
             back. Start it; if it is lost, start the others on empty data-dirs"
        ),
        Warning::More { boards } => tracing::warn!(
            boards,
            "more boards than expected have this token: a majority of all of them founds"
        ),
    }
}
