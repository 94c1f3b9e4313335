//! A board joins a cluster, with a token or by a person's word: the board's side of `master::join`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use model::join::{
    BOARD_LABEL, JoinAnswer, JoinRequest, MASTER_LABEL, PENDING_LABEL, PendingAnswer, PendingAsk,
    Sealed,
};
use model::limits::{JOIN_ANSWER_BYTES_MAX, PEER_REFUSAL_BYTES_MAX};
use model::token::{Token, TokenRole};
use model::words::{self, Nonce};
use tokio::time::timeout;

use super::version;
use crate::io::peer::{self, ALPN, Connection, JOIN, PENDING, PeerError};
use crate::io::tls::{
    BoardKey, Credentials, is_proof, pinned_client_config, proof, unpinned_client_config,
};

/// A master that is there answers in less.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// The outcome of a join; nothing of it is on disk yet.
#[derive(Debug)]
pub struct Joined {
    /// What the master said.
    pub answer: JoinAnswer,
    /// The board's key, certificate and authority.
    pub credentials: Credentials,
    key: BoardKey,
}

impl Joined {
    /// Makes the credentials durable in `<data_dir>/pki`.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, data_dir: &Path) -> Result<()> {
        let JoinAnswer { certificate, authority, .. } = &self.answer;
        Credentials::save(data_dir, &self.key, certificate, authority)?;
        Ok(())
    }
}

/// Why a join did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The master could not be reached or is not the one that the token is for: another address may be.
    #[error(transparent)]
    Elsewhere(#[from] anyhow::Error),
    /// The master's answer to this token and name: no other address helps.
    #[error("{address} refuses this board: {why}")]
    Refused {
        /// Of the master.
        address: SocketAddr,
        /// Its words.
        why: String,
    },
}

impl JoinError {
    /// All of it in one line.
    pub fn text(&self) -> String {
        match self {
            Self::Elsewhere(error) => format!("{error:#}"),
            refused @ Self::Refused { .. } => refused.to_string(),
        }
    }
}

/// What a board says of itself.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The name that it wants.
    pub name: String,
    /// Random, new on a fresh disk.
    pub board_id: String,
    /// Its key.
    pub key: BoardKey,
    /// What it may become at most, when its person says so.
    pub role: Option<TokenRole>,
}

impl Newcomer {
    /// One that becomes what the cluster chooses.
    pub fn new(name: &str, board_id: &str, key: &BoardKey) -> Self {
        Self { name: name.into(), board_id: board_id.into(), key: key.clone(), role: None }
    }
}

/// What a board without a token is told.
#[derive(Debug)]
pub enum Waited {
    /// Nobody has let it in yet.
    NotYet,
    /// It is in.
    In(Box<Joined>),
}

/// A board without a token, at the clusters that it waits at: each authority that answers has words of its
/// own, and which is the right one a person sees.
///
/// Whoever is on the link can say "you are in". So that counts only from an authority whose words this
/// board has shown for a while, in which all others are heard, too; and of several none is believed, until
/// a person says at this board which cluster it is for.
#[derive(Debug)]
pub struct Waiting {
    at: Vec<Exchange>,
    words_shown: Duration,
}

impl Default for Waiting {
    fn default() -> Self {
        Self::new(WORDS_SHOWN)
    }
}

/// Words are shown for this long at least before a board is in: two rounds of asking whom it hears.
const WORDS_SHOWN: Duration = Duration::from_secs(5);

/// What a person does about it.
pub(super) const SEVERAL: &str = "several clusters answer on this network, so this board joins none of \
     them: start it again with --peers HOST, the address of the master board, or with --cluster NAME";

/// So many authorities at most: of more than one all but one are strangers.
const AUTHORITIES_MAX: usize = 8;

/// The nonces behind the words at one authority.
#[derive(Debug)]
struct Exchange {
    pin: [u8; 32],
    own: Nonce,
    /// The cluster's.
    other: Option<Nonce>,
    /// Since when the cluster knows this board's: then both sides have the words.
    opened: Option<Instant>,
}

/// Why a board that somebody says is in does not believe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// There were no words that a person could have compared.
    Wordless,
    /// They have not been there for long enough.
    Early,
    /// Other clusters answer, too.
    Several,
}

impl Waiting {
    /// Nobody has answered yet; words are to be shown for so long before a board is in.
    pub fn new(words_shown: Duration) -> Self {
        Self { at: Vec::new(), words_shown }
    }

    /// Whether several clusters have answered: then a person must say which one.
    pub fn is_ambiguous(&self) -> bool {
        self.at.iter().filter(|exchange| exchange.other.is_some()).count() > 1
    }

    /// This authority says that the board is in.
    fn doubt(&mut self, pin: [u8; 32], now: Instant) -> Option<Doubt> {
        let ambiguous = self.is_ambiguous();
        let known = self.at.iter_mut().find(|exchange| exchange.pin == pin);
        let Some(known) = known.filter(|known| known.other.is_some()) else {
            return Some(Doubt::Wordless);
        };
        // It was told this board's nonce with the ask that it has answered.
        let opened = *known.opened.get_or_insert(now);
        match ambiguous {
            true => Some(Doubt::Several),
            false => (now < opened + self.words_shown).then_some(Doubt::Early),
        }
    }

    /// The words to show, for each authority that has both nonces.
    pub fn phrases(&self, key: &BoardKey) -> Vec<String> {
        let opened = self.at.iter().filter(|exchange| exchange.opened.is_some());
        let shown = opened.filter_map(|exchange| {
            let Exchange { pin, own, other, .. } = exchange;
            Some(words::phrase(&key.hash(), pin, [own, other.as_ref()?]))
        });
        shown.collect()
    }

    /// What was said at this authority so far; from the beginning with `anew`.
    fn at(&mut self, pin: [u8; 32], anew: bool) -> Result<&mut Exchange> {
        let known = self.at.iter().position(|exchange| exchange.pin == pin);
        if known.is_none() && self.at.len() == AUTHORITIES_MAX {
            // Who has never answered as a master makes room.
            if let Some(mute) = self.at.iter().position(|exchange| exchange.other.is_none()) {
                self.at.remove(mute);
            }
        }
        let at = match known {
            Some(at) if !anew => at,
            _ => {
                let mut own = [0; 32];
                let filled = getrandom::fill(&mut own);
                filled.map_err(|error| anyhow!("the system gives no randomness: {error}"))?;
                let fresh = Exchange { pin, own, other: None, opened: None };
                match known {
                    Some(at) => {
                        self.at[at] = fresh;
                        at
                    }
                    None if self.at.len() == AUTHORITIES_MAX => {
                        bail!(
                            "too many clusters answer on this network: start this board again with \
                             --peers HOST, then it asks nobody else"
                        )
                    }
                    None => {
                        self.at.push(fresh);
                        self.at.len() - 1
                    }
                }
            }
        };
        Ok(&mut self.at[at])
    }
}

/// Asks the master at `address` to admit this board. A second call with the same key and name is no
/// second use of the token.
///
/// # Errors
/// [`JoinError`]; nothing has been written then.
pub async fn join(
    address: SocketAddr,
    token: &Token,
    newcomer: &Newcomer,
) -> Result<Joined, JoinError> {
    over(&open(address, Some(token.pin)).await?, token, newcomer).await
}

/// A connection to a master at `address`, of the cluster whose authority has this pin; of whichever
/// without one.
///
/// # Errors
/// [`JoinError::Elsewhere`].
pub async fn open(address: SocketAddr, pin: Option<[u8; 32]>) -> Result<Connection, JoinError> {
    let tls = match pin {
        Some(pin) => pinned_client_config(pin, ALPN),
        None => unpinned_client_config(ALPN),
    };
    let tls = tls.context("cannot set up TLS")?;
    let opened = Connection::open(address, tls, CONNECT_WITHIN).await;
    Ok(opened.map_err(|error| match error {
        PeerError::Untrusted { .. } => {
            anyhow!(error).context(format!("{address} belongs to another cluster than the token"))
        }
        error => anyhow!(error),
    })?)
}

/// As [`join`], over a connection that is open.
///
/// # Errors
/// As [`join`].
pub async fn over(
    connection: &Connection,
    token: &Token,
    newcomer: &Newcomer,
) -> Result<Joined, JoinError> {
    let address = connection.address();
    let wish = JoinRequest {
        token: token.id,
        name: newcomer.name.clone(),
        board_id: newcomer.board_id.clone(),
        public_key: newcomer.key.public_key(),
        version: version::TEXT.into(),
        role: newcomer.role,
    };
    let asking = ask(connection, token, &wish);
    let answer = timeout(ANSWER_WITHIN, asking).await.context("the master does not answer")??;
    let joined = check(token.pin, newcomer, answer)
        .with_context(|| format!("the answer of {address} is not to be trusted"))?;
    Ok(joined)
}

/// Asks the master at `address` whether this board, which has no token, has been let in. Whether that is
/// believed, [`Waiting`] says; the words that both sides show tell a person whom it reached.
///
/// # Errors
/// [`JoinError`]; nothing has been written then.
pub async fn wait_at(
    address: SocketAddr,
    waiting: &mut Waiting,
    newcomer: &Newcomer,
) -> Result<Waited, JoinError> {
    wait_over(&open(address, None).await?, waiting, newcomer).await
}

/// As [`wait_at`], over a connection that is open.
///
/// # Errors
/// As [`wait_at`].
pub async fn wait_over(
    connection: &Connection,
    waiting: &mut Waiting,
    newcomer: &Newcomer,
) -> Result<Waited, JoinError> {
    let address = connection.address();
    let named = connection.authority();
    let pin = named.with_context(|| format!("{address} is not a master of any cluster"))?;
    let asking = exchange(connection, pin, waiting, newcomer);
    let body = timeout(ANSWER_WITHIN, asking).await.context("the master does not answer")??;
    let Some(body) = body else { return Ok(Waited::NotYet) };
    let answer = serde_json::from_slice(&body).context("the answer cannot be read")?;
    let joined = check(pin, newcomer, answer)
        .with_context(|| format!("the answer of {address} is not to be trusted"))?;
    Ok(Waited::In(Box::new(joined)))
}

/// Says as much as is due; the answer of who has let the board in.
async fn exchange(
    connection: &Connection,
    pin: [u8; 32],
    waiting: &mut Waiting,
    newcomer: &Newcomer,
) -> Result<Option<Bytes>, JoinError> {
    // The commitment, the nonce, and once more both where the cluster has forgotten what was said.
    for _ in 0..4 {
        let known = waiting.at(pin, false)?;
        let answer = match wait_once(connection, known, newcomer).await? {
            Ok(answer) => answer,
            Err(body) => {
                return match waiting.doubt(pin, Instant::now()) {
                    None => Ok(Some(body)),
                    Some(Doubt::Early) => Ok(None),
                    Some(Doubt::Wordless) => {
                        Err(anyhow!("it takes this board in before there are words to compare")
                            .into())
                    }
                    Some(Doubt::Several) => Err(anyhow!(SEVERAL).into()),
                };
            }
        };
        match known.other {
            None => known.other = Some(answer.nonce),
            Some(other) if other == answer.nonce => {
                known.opened.get_or_insert_with(Instant::now);
                return Ok(None);
            }
            // This board's nonce was opened for another one: it must not count for this one.
            Some(_) => {
                let _anew = waiting.at(pin, true)?;
            }
        }
    }
    Err(anyhow!("{} does not keep to what it says", connection.address()).into())
}

/// One ask, signed with the board's key: what comes next, or the answer of who has let it in.
async fn wait_once(
    connection: &Connection,
    known: &Exchange,
    newcomer: &Newcomer,
) -> Result<Result<PendingAnswer, Bytes>, JoinError> {
    let ask = PendingAsk {
        name: newcomer.name.clone(),
        board_id: newcomer.board_id.clone(),
        public_key: newcomer.key.public_key(),
        version: version::TEXT.into(),
        role: newcomer.role,
        commitment: words::commitment(&newcomer.key.hash(), &known.own),
        nonce: known.other.map(|_| known.own),
    };
    let text = serde_json::to_string(&ask).context("cannot write the request")?;
    let parts = [&connection.exporter()[..], text.as_bytes()];
    let proof = newcomer.key.sign(PENDING_LABEL, &parts);
    let body = serde_json::to_vec(&Sealed { text, proof }).context("cannot write the request")?;
    let request = Request::post(PENDING).body(peer::full(body)).context("cannot ask")?;
    let answer = connection.send(request).await.context("cannot ask the master")?;
    let is_in = answer.status() != StatusCode::ACCEPTED;
    let body = accepted(connection.address(), answer).await?;
    Ok(match is_in {
        true => Err(body),
        false => Ok(serde_json::from_slice(&body).context("the answer cannot be read")?),
    })
}

async fn ask(
    connection: &Connection,
    token: &Token,
    wish: &JoinRequest,
) -> Result<JoinAnswer, JoinError> {
    let address = connection.address();
    let text = serde_json::to_string(wish).context("cannot write the request")?;
    let parts = [&connection.exporter()[..], text.as_bytes()];
    let own = proof(&token.secret, BOARD_LABEL, &parts).to_vec();
    let body = serde_json::to_vec(&Sealed { text, proof: own.clone() })
        .context("cannot write the request")?;
    let request = Request::post(JOIN).body(peer::full(body)).context("cannot write the request")?;
    let answer = connection.send(request).await.context("cannot ask the master")?;
    let body = accepted(address, answer).await?;
    let sealed: Sealed = serde_json::from_slice(&body).context("the answer cannot be read")?;
    let parts = [&connection.exporter()[..], &own, sealed.text.as_bytes()];
    if !is_proof(&sealed.proof, &token.secret, MASTER_LABEL, &parts) {
        return Err(anyhow!("{address} does not know the token's secret").into());
    }
    Ok(serde_json::from_str(&sealed.text).context("the answer cannot be read")?)
}

/// The body of an answer, unless it refuses.
async fn accepted(address: SocketAddr, answer: Response<Incoming>) -> Result<Bytes, JoinError> {
    let status = answer.status();
    if !status.is_success() {
        let text = peer::read(answer.into_body(), PEER_REFUSAL_BYTES_MAX).await;
        let why = text.map(|text| printable(&String::from_utf8_lossy(&text)));
        let why = why.ok().filter(|why| !why.is_empty()).unwrap_or_else(|| status.to_string());
        // What another master may see otherwise, or this one in a moment.
        let passes = [StatusCode::TOO_MANY_REQUESTS, StatusCode::MISDIRECTED_REQUEST];
        if status.is_server_error() || passes.contains(&status) {
            return Err(anyhow!("{address} cannot admit this board: {why}").into());
        }
        return Err(JoinError::Refused { address, why });
    }
    let body = peer::read(answer.into_body(), JOIN_ANSWER_BYTES_MAX).await;
    Ok(body.map_err(|why| anyhow!("the master's answer broke off: {why}"))?)
}

/// Text of whoever answered, without what a terminal would obey.
fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 400;
    text.chars().filter(|one| !one.is_control()).take(CHARS_MAX).collect()
}

fn check(pin: [u8; 32], newcomer: &Newcomer, answer: JoinAnswer) -> Result<Joined> {
    let Newcomer { name, key, .. } = newcomer;
    let credentials = Credentials::new(key, &answer.certificate, &answer.authority)?;
    if credentials.pin() != pin {
        bail!("it names another authority than the one that was asked");
    }
    if credentials.peer().name != *name {
        bail!("the certificate is for board {}", credentials.peer().name);
    }
    Ok(Joined { answer, credentials, key: key.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        assert_eq!(printable("no\u{1b}[2J\u{7}\r\nway"), "no[2Jway");
        assert_eq!(printable(&"x".repeat(10_000)).len(), 400);
    }

    /// A board that has spoken with these, and opened its nonce to those with `true`.
    fn spoken(with: &[(u8, bool)], now: Instant) -> Waiting {
        let at = |(pin, opened): &(u8, bool)| Exchange {
            pin: [*pin; 32],
            own: [0; 32],
            other: Some([1; 32]),
            opened: opened.then_some(now),
        };
        Waiting { at: with.iter().map(at).collect(), words_shown: WORDS_SHOWN }
    }

    #[test]
    fn who_says_that_a_board_is_in_must_have_shown_words_and_be_the_only_one() {
        let now = Instant::now();
        let late = now + WORDS_SHOWN;
        let doubt = |with: &[(u8, bool)], at| spoken(with, now).doubt([7; 32], at);
        assert_eq!(doubt(&[], late), Some(Doubt::Wordless));
        assert_eq!(doubt(&[(7, true)], now), Some(Doubt::Early));
        assert_eq!(doubt(&[(7, true)], late), None);
        assert_eq!(doubt(&[(7, true), (8, false)], late), Some(Doubt::Several));
        // Who answers late with it has its words shown from then on.
        let mut waiting = spoken(&[(7, false)], now);
        assert!(waiting.at.iter().all(|exchange| exchange.opened.is_none()));
        assert_eq!(waiting.doubt([7; 32], late), Some(Doubt::Early));
        assert_eq!(waiting.doubt([7; 32], late + WORDS_SHOWN), None);
        // A known authority whose nonce is not there yet: nothing that a person could compare.
        waiting.at[0].other = None;
        assert_eq!(waiting.doubt([7; 32], late + WORDS_SHOWN), Some(Doubt::Wordless));
    }

    #[test]
    fn authorities_that_never_answered_make_room_and_others_name_the_remedy() {
        let mut waiting = Waiting::default();
        for pin in 0..3 * AUTHORITIES_MAX {
            waiting.at([pin as u8; 32], false).expect("nobody has answered");
        }
        assert_eq!(waiting.at.len(), AUTHORITIES_MAX);
        for exchange in &mut waiting.at {
            exchange.other = Some([1; 32]);
        }
        let said = waiting.at([255; 32], false).expect_err("full").to_string();
        assert!(said.contains("--peers HOST"), "{said}");
        assert!(waiting.is_ambiguous());
    }
}
