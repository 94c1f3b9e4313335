//! A board without a token waits at the clusters that answer, until a person lets it in.
//!
//! It goes in rounds: who is there is asked at all addresses at once ([`Waiting::round`]), then the words are
//! shown and that is said ([`Waiting::shown`]). Each authority that answers has words of its own, and which is
//! the right one a person sees. Anybody on the link can say "you are in", so that is judged when a round is
//! through, and counts only
//! - from an authority whose words were shown for a while before the round began, so that whoever else is
//!   there was heard and is asked in it, and
//! - when no other authority has answered lately: of several none is believed, until a person says at this
//!   board which cluster it is for.
//!
//! An authority that has not answered for some time is forgotten, with its words: the cluster was founded anew,
//! or a stranger has left.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use model::join::{PENDING_LABEL, PendingAnswer, PendingAsk, Sealed};
use model::words::{self, Nonce};
use tokio::time::timeout;

use super::{Calls, JoinError, Joined, Newcomer, accepted, check, open};
use crate::app::version;
use crate::io::peer::{self, Connection, PENDING};
use crate::io::tls::BoardKey;

/// Words are shown for this long at least before a board is in.
const WORDS_SHOWN: Duration = Duration::from_secs(5);

/// All that is said to one address in a round takes less; whoever is slower is asked again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// An authority that has not answered for this long, nor in the round before, is forgotten.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// What a person does about it.
pub(in crate::app) const SEVERAL: &str = "several clusters answer on this network, so this board joins \
     none of them: start it again with --peers HOST, the address of the master board, or with --cluster \
     NAME; where one of them is gone for good it is forgotten after a minute";

/// So many authorities at most: of more than one all but one are strangers.
const AUTHORITIES_MAX: usize = 8;

/// A board that waits; clones are the same.
#[derive(Clone, Debug)]
pub struct Waiting(Arc<Mutex<Talks>>);

/// What came of a round.
#[derive(Debug)]
pub struct Round {
    /// The board is in.
    pub joined: Option<Box<Joined>>,
    /// Where nobody takes it, and why. Anybody may have said so: nothing of it ends the wait.
    pub failed: Vec<(SocketAddr, JoinError)>,
}

/// What was said, at each authority.
#[derive(Debug)]
struct Talks {
    with: Vec<Exchange>,
    words_shown: Duration,
    /// When this round began.
    began: Instant,
}

/// The nonces behind the words at one authority.
#[derive(Clone, Debug)]
struct Exchange {
    pin: [u8; 32],
    own: Nonce,
    /// The cluster's.
    other: Option<Nonce>,
    /// Whether the cluster knows this board's: then both sides have the words.
    is_opened: bool,
    /// Since when a person can read the words here.
    shown: Option<Instant>,
    /// When the authority answered last, whatever it said.
    answered: Instant,
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

impl Default for Waiting {
    fn default() -> Self {
        Self::new(WORDS_SHOWN)
    }
}

impl Waiting {
    /// Nobody has answered yet; words are to be shown for so long before a board is in.
    pub fn new(words_shown: Duration) -> Self {
        let talks = Talks { with: Vec::new(), words_shown, began: Instant::now() };
        Self(Arc::new(Mutex::new(talks)))
    }

    fn talks(&self) -> MutexGuard<'_, Talks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks at all these addresses whether this board, which has no token, has been let in.
    ///
    /// # Cancel safety
    /// What was said so far stays; the next round goes on with it.
    pub async fn round(&self, addresses: Vec<SocketAddr>, newcomer: &Newcomer) -> Round {
        self.talks().begin(Instant::now());
        let (waiting, board) = (self.clone(), newcomer.clone());
        let mut calls = Calls::new(addresses, move |address| {
            let (waiting, board) = (waiting.clone(), board.clone());
            async move { ask_at(address, &waiting, &board).await }
        });
        let (mut let_in, mut failed) = (Vec::new(), Vec::new());
        while let Some((address, answered)) = calls.next().await {
            match answered {
                Ok(Some(joined)) => let_in.push((address, joined)),
                Ok(None) => {}
                Err(error) => failed.push((address, error)),
            }
        }
        let mut believed = None;
        for (address, joined) in let_in {
            match self.talks().doubt(joined.credentials.pin()) {
                None => believed = Some(joined),
                Some(Doubt::Early) => {}
                Some(Doubt::Wordless) => {
                    let why = anyhow!("it takes this board in before there are words to compare");
                    failed.push((address, why.into()));
                }
                Some(Doubt::Several) => failed.push((address, anyhow!(SEVERAL).into())),
            }
        }
        Round { joined: believed, failed }
    }

    /// Whether several clusters answer: then a person must say which one.
    pub fn is_ambiguous(&self) -> bool {
        self.talks().is_ambiguous()
    }

    /// The words to show, for each authority that has both nonces.
    pub fn phrases(&self, key: &BoardKey) -> Vec<String> {
        self.talks().with.iter().filter_map(|exchange| exchange.phrase(key)).collect()
    }

    /// These words can be read by a person.
    pub fn shown(&self, key: &BoardKey, phrases: &[String]) {
        self.talks().shown(key, phrases, Instant::now());
    }
}

impl Exchange {
    fn begin(pin: [u8; 32], now: Instant) -> Result<Self> {
        let mut own = [0; 32];
        let filled = getrandom::fill(&mut own);
        filled.map_err(|error| anyhow!("the system gives no randomness: {error}"))?;
        Ok(Self { pin, own, other: None, is_opened: false, shown: None, answered: now })
    }

    fn phrase(&self, key: &BoardKey) -> Option<String> {
        let other = self.other.as_ref().filter(|_| self.is_opened)?;
        Some(words::phrase(&key.hash(), &self.pin, [&self.own, other]))
    }
}

impl Talks {
    /// Forgets who has not answered lately. A round may be long: who answered in the one before counts.
    fn begin(&mut self, now: Instant) {
        let before = std::mem::replace(&mut self.began, now);
        let is_known = |one: &Exchange| one.answered >= before || now < one.answered + KNOWN_FOR;
        self.with.retain(is_known);
    }

    /// What was said at this authority so far, which answers.
    fn at(&mut self, pin: [u8; 32], now: Instant) -> Result<&mut Exchange> {
        let at = match self.with.iter().position(|exchange| exchange.pin == pin) {
            Some(at) => at,
            None => {
                self.make_room()?;
                self.with.push(Exchange::begin(pin, now)?);
                self.with.len() - 1
            }
        };
        self.with[at].answered = now;
        Ok(&mut self.with[at])
    }

    /// Who has never answered as a master makes room.
    fn make_room(&mut self) -> Result<()> {
        if self.with.len() < AUTHORITIES_MAX {
            return Ok(());
        }
        let Some(mute) = self.with.iter().position(|exchange| exchange.other.is_none()) else {
            bail!(
                "too many clusters answer on this network: start this board again with --peers HOST, \
                 then it asks nobody else"
            )
        };
        self.with.remove(mute);
        Ok(())
    }

    /// The exchange that `said` was a moment ago, unless another call has begun it anew meanwhile.
    fn same(&mut self, said: &Exchange) -> Option<&mut Exchange> {
        self.with.iter_mut().find(|one| one.pin == said.pin && one.own == said.own)
    }

    /// The authority's nonce, in the answer to what was `said`; gives whether all has been said.
    fn hear(&mut self, said: &Exchange, nonce: Nonce, now: Instant) -> Result<bool> {
        let Some(known) = self.same(said) else { return Ok(false) };
        match known.other {
            None => known.other = Some(nonce),
            Some(other) if other == nonce => known.is_opened |= said.other.is_some(),
            // This board's nonce was opened for another one: it must not count for this one.
            Some(_) => *known = Exchange::begin(said.pin, now)?,
        }
        Ok(known.is_opened)
    }

    /// The authority says that the board is in, in the answer to what was `said`.
    fn hear_in(&mut self, said: &Exchange) {
        if let Some(known) = self.same(said) {
            // It was told this board's nonce with the ask that it has answered.
            known.is_opened |= said.other.is_some();
        }
    }

    fn shown(&mut self, key: &BoardKey, phrases: &[String], now: Instant) {
        for exchange in &mut self.with {
            if exchange.phrase(key).is_some_and(|phrase| phrases.contains(&phrase)) {
                exchange.shown.get_or_insert(now);
            }
        }
    }

    fn is_ambiguous(&self) -> bool {
        self.with.len() > 1
    }

    /// This authority says that the board is in, and the round is through.
    fn doubt(&self, pin: [u8; 32]) -> Option<Doubt> {
        let known = self.with.iter().find(|exchange| exchange.pin == pin);
        let Some(known) = known.filter(|known| known.is_opened) else {
            return Some(Doubt::Wordless);
        };
        if self.is_ambiguous() {
            return Some(Doubt::Several);
        }
        let is_long = known.shown.is_some_and(|shown| shown + self.words_shown <= self.began);
        (!is_long).then_some(Doubt::Early)
    }
}

/// Asks the master at `address`; what a board becomes that it has let in.
async fn ask_at(
    address: SocketAddr,
    waiting: &Waiting,
    newcomer: &Newcomer,
) -> Result<Option<Box<Joined>>, JoinError> {
    let connection = open(address, None).await?;
    let named = connection.authority();
    let pin = named.with_context(|| format!("{address} is not a master of any cluster"))?;
    let asking = exchange(&connection, pin, waiting, newcomer);
    let body = timeout(ANSWERS_WITHIN, asking).await.context("the master does not answer")??;
    let Some(body) = body else { return Ok(None) };
    let answer = serde_json::from_slice(&body).context("the answer cannot be read")?;
    let joined = check(pin, newcomer, answer)
        .with_context(|| format!("the answer of {address} is not to be trusted"))?;
    Ok(Some(Box::new(joined)))
}

/// Says as much as is due; the answer of who has let the board in.
async fn exchange(
    connection: &Connection,
    pin: [u8; 32],
    waiting: &Waiting,
    newcomer: &Newcomer,
) -> Result<Option<Bytes>, JoinError> {
    // The commitment, the nonce, and once more both where the cluster has forgotten what was said.
    for _ in 0..4 {
        let said = waiting.talks().at(pin, Instant::now())?.clone();
        match ask(connection, &said, newcomer).await? {
            Ok(answer) => {
                if waiting.talks().hear(&said, answer.nonce, Instant::now())? {
                    return Ok(None);
                }
            }
            Err(body) => {
                waiting.talks().hear_in(&said);
                return Ok(Some(body));
            }
        }
    }
    Err(anyhow!("{} does not keep to what it says", connection.address()).into())
}

/// One ask, signed with the board's key: what comes next, or the answer of who has let it in.
async fn ask(
    connection: &Connection,
    said: &Exchange,
    newcomer: &Newcomer,
) -> Result<Result<PendingAnswer, Bytes>, JoinError> {
    let ask = PendingAsk {
        name: newcomer.name.clone(),
        board_id: newcomer.board_id.clone(),
        public_key: newcomer.key.public_key(),
        version: version::TEXT.into(),
        role: newcomer.role,
        commitment: words::commitment(&newcomer.key.hash(), &said.own),
        nonce: said.other.map(|_| said.own),
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

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_secs(2);

    /// A board that has opened its nonce to these.
    fn spoken(with: &[u8], now: Instant) -> Talks {
        let at = |pin: &u8| Exchange {
            pin: [*pin; 32],
            own: [*pin; 32],
            other: Some([1; 32]),
            is_opened: true,
            shown: None,
            answered: now,
        };
        Talks { with: with.iter().map(at).collect(), words_shown: WORDS_SHOWN, began: now }
    }

    fn key() -> BoardKey {
        BoardKey::generate().expect("a key")
    }

    fn show(talks: &mut Talks, key: &BoardKey, now: Instant) {
        let all: Vec<String> = talks.with.iter().filter_map(|one| one.phrase(key)).collect();
        talks.shown(key, &all, now);
    }

    #[test]
    fn words_count_once_shown_and_only_for_a_round_that_begins_long_after() {
        let (now, key) = (Instant::now(), key());
        let mut talks = spoken(&[7], now);
        // However long a round takes: nobody has read anything.
        talks.begin(now + WORDS_SHOWN);
        assert_eq!(talks.doubt([7; 32]), Some(Doubt::Early), "not shown yet");
        let shown = now + WORDS_SHOWN + ROUND;
        talks.shown(&key, &["other words".to_owned()], now);
        show(&mut talks, &key, shown);
        assert_eq!(talks.doubt([7; 32]), Some(Doubt::Early), "the round began before");
        talks.begin(shown + WORDS_SHOWN - Duration::from_millis(1));
        assert_eq!(talks.doubt([7; 32]), Some(Doubt::Early));
        talks.begin(shown + WORDS_SHOWN);
        assert_eq!(talks.doubt([7; 32]), None);
        assert_eq!(talks.doubt([8; 32]), Some(Doubt::Wordless), "never heard of");
        talks.at([8; 32], shown + WORDS_SHOWN).expect("room");
        assert_eq!(talks.doubt([7; 32]), Some(Doubt::Several), "it may be what the person means");
    }

    #[test]
    fn an_authority_without_words_is_not_believed() {
        let now = Instant::now();
        let mut talks = spoken(&[7], now);
        talks.with[0].is_opened = false;
        let mut said = talks.with[0].clone();
        said.other = None;
        talks.hear_in(&said);
        assert_eq!(talks.doubt([7; 32]), Some(Doubt::Wordless), "it did not know this nonce");
        said.other = Some([1; 32]);
        talks.hear_in(&said);
        assert_eq!(talks.doubt([7; 32]), Some(Doubt::Early));
    }

    #[test]
    fn who_has_not_answered_lately_is_forgotten() {
        let (now, key) = (Instant::now(), key());
        let mut talks = spoken(&[7, 8], now);
        show(&mut talks, &key, now);
        let mut at = now;
        // One of them is founded anew, or was a stranger.
        while at < now + KNOWN_FOR {
            at += ROUND;
            talks.begin(at);
            talks.at([7; 32], at).expect("known");
            let expected = (at < now + KNOWN_FOR).then_some(Doubt::Several);
            assert_eq!(talks.doubt([7; 32]), expected, "after {:?}", at - now);
        }
        // A round took its time: who answered in it is not forgotten for that.
        let mut slow = spoken(&[7], now);
        slow.begin(now + ROUND);
        slow.at([8; 32], now + 2 * ROUND).expect("room");
        slow.begin(now + 10 * KNOWN_FOR);
        assert_eq!(slow.with.iter().map(|one| one.pin[0]).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn a_nonce_is_opened_for_one_other_only() {
        let now = Instant::now();
        let mut talks = spoken(&[], now);
        let said = talks.at([7; 32], now).expect("room").clone();
        assert!(!talks.hear(&said, [1; 32], now).expect("randomness"));
        assert!(!talks.hear(&said, [1; 32], now).expect("a second address"), "not opened to it");
        let said = talks.with[0].clone();
        assert!(talks.hear(&said, [1; 32], now).expect("randomness"));
        // It changes its own once it has seen the board's.
        assert!(!talks.hear(&said, [2; 32], now).expect("randomness"));
        assert!(talks.with[0].own != said.own && talks.with[0].other.is_none());
        talks.hear_in(&said);
        assert!(!talks.hear(&said, [1; 32], now).expect("randomness"));
        assert_eq!(talks.doubt([7; 32]), Some(Doubt::Wordless), "what was said before is void");
    }

    #[test]
    fn authorities_that_never_answered_make_room_and_others_name_the_remedy() {
        let now = Instant::now();
        let mut talks = spoken(&[], now);
        for pin in 0..3 * AUTHORITIES_MAX {
            talks.at([pin as u8; 32], now).expect("nobody has answered");
        }
        assert_eq!(talks.with.len(), AUTHORITIES_MAX);
        for exchange in &mut talks.with {
            exchange.other = Some([1; 32]);
        }
        let said = talks.at([255; 32], now).expect_err("full").to_string();
        assert!(said.contains("--peers HOST"), "{said}");
        assert!(talks.is_ambiguous());
    }
}
