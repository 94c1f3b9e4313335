//! Another authority, after a board with the authority's key was thrown out.
//!
//! ```text
//!            a master is evicted: "lost-KEY"      every other member has the keys on its disk
//!  current ──────────────────────────────▶ offered ─────────────────────────────▶ current
//!                                              │ a leader without these keys offers others, and so
//!                                              └──▶ offered    does any after another eviction
//! ```
//! In: the object `kube-system/kumquat-authority`, which says whose keys are lost and which authority's
//! certificate is offered or current. Out: that object, written by whoever leads ([`drive`]), and to every
//! master what it has to do ([`follow`]). Invariants: the log holds nothing secret; what is current lies on
//! the disks of all who were members when it became that; nobody who was evicted before has it. How keys are made, kept and fetched is [`Disk`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use model::ids::ObjectKey;
use model::join::{key_text, parse_key};
use model::limits::TOKENS_MAX;
use model::masters::{AUTHORITY_OBJECT, MemberV1};
use model::status::ApiError;
use model::view::kind;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::keys::SYSTEM;
use super::members::Rows;
use super::registry::{CommitError, Registry};
use super::tokens::removal;
use crate::io::store::{Record, Store, StoreError};
use crate::io::tls::pin_of;
use logic::controller::Op;

/// Start of the keys of boards whose loss no authority answers yet, and of those that one has answered.
const LOST: &str = "lost-";
const ANSWERED: &str = "answered-";
/// Says that join tokens of before are still to be removed under the authority that counts.
const TOKENS: &str = "tokens";
const DUE: &str = "due";
/// Pause before members that lack the keys are asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// Pause after the object could not be read or written, or keys not be had.
const LATER: Duration = Duration::from_secs(1);

/// How often a master looks whether keys that are offered lie ready still.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What the object says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Certificate of the authority that is offered or current, PEM; the founder's is in none.
    pub certificate: Option<String>,
    /// Whether it counts.
    pub is_current: bool,
    /// Pin of the authority that counts, also while another one is offered; nobody says the founder's
    /// before one is.
    pub current: Option<[u8; 32]>,
    /// Keys of boards that were thrown out with the keys that count, and their names.
    pub lost: Vec<(String, String)>,
    /// The same of boards whose keys count no more.
    pub answered: BTreeSet<String>,
    /// Whether there may be join tokens from before the authority that is current.
    pub has_old_tokens: bool,
}

impl Said {
    /// What this master's copy of the object says.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn read(store: &Store) -> Result<Self, StoreError> {
        Ok(Self::with_record(store)?.0)
    }

    fn with_record(store: &Store) -> Result<(Self, Option<Record>), StoreError> {
        let record = store.get(&key())?;
        let said = record.as_ref().map(|record| Self::parse(&record.body));
        Ok((said.unwrap_or_default(), record))
    }

    fn parse(body: &[u8]) -> Self {
        let object: Value = serde_json::from_slice(body).unwrap_or_default();
        let data = object["data"].as_object().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = |start: &'static str| {
            let entries = data.iter().filter_map(move |(key, value)| {
                let key = key.strip_prefix(start)?;
                parse_key(key).map(|_| (key.to_owned(), text(value)))
            });
            entries.collect::<Vec<_>>()
        };
        let certificate = data.get("certificate").map(text);
        let is_current = data.get("state").is_some_and(|state| state == "current");
        let said = data.get("current").and_then(|pin| parse_key(pin.as_str()?));
        let counts = || pin_of(certificate.as_deref().filter(|_| is_current)?);
        Self {
            current: said.or_else(counts),
            certificate,
            is_current,
            lost: of(LOST),
            answered: of(ANSWERED).into_iter().map(|(key, _)| key).collect(),
            has_old_tokens: data.get(TOKENS).is_some_and(|tokens| tokens == DUE),
        }
    }

    /// Whether nobody joins: whoever has the keys of the cluster may have made the token.
    pub fn lets_nobody_in(&self) -> bool {
        !self.lost.is_empty() || self.has_old_tokens
    }

    /// Pin of that authority.
    pub fn pin(&self) -> Option<[u8; 32]> {
        pin_of(self.certificate.as_deref()?)
    }
}

/// The object.
pub(super) fn key() -> ObjectKey {
    let (namespace, name) = (SYSTEM.into(), AUTHORITY_OBJECT.into());
    ObjectKey { kind: kind::CONFIG_MAPS, namespace, name }
}

/// Whether this is the object's key.
pub fn is_key(it: &ObjectKey) -> bool {
    *it == key()
}

/// Why clients do not write the object.
pub fn kept() -> ApiError {
    let why = "the masters keep it: it says which authority the cluster has";
    ApiError::forbidden("", "configmaps", AUTHORITY_OBJECT, why)
}

/// The write that says that the keys of the cluster were lost with these boards, given as keys and names;
/// none when it is said or answered already.
pub(super) fn lose(
    store: &Store,
    boards: &BTreeMap<String, String>,
) -> Result<Option<Op>, StoreError> {
    let (said, record) = Said::with_record(store)?;
    let is_new =
        |key: &str| !said.answered.contains(key) && !said.lost.iter().any(|(lost, _)| lost == key);
    let news = boards.iter().filter(|(key, _)| is_new(key));
    let mut data: Map<String, Value> =
        news.map(|(key, name)| (format!("{LOST}{key}"), name.as_str().into())).collect();
    if data.is_empty() {
        return Ok(None);
    }
    if said.certificate.is_some() && !said.is_current {
        // Until this write the board could fetch the keys that are offered.
        data.insert("certificate".into(), Value::Null);
        data.insert("state".into(), Value::Null);
    }
    Ok(Some(write(record, &data.into())))
}

fn write(found: Option<Record>, data: &Value) -> Op {
    match found {
        Some(record) => Op::Patch {
            key: record.key,
            base: record.version,
            subresource: None,
            merge: json!({ "data": data }),
        },
        None => Op::Create {
            kind: kind::CONFIG_MAPS,
            object: json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": { "name": AUTHORITY_OBJECT, "namespace": SYSTEM } }),
        },
    }
}

/// What comes of a question to the disk or to another master.
pub type Doing<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// Where keys are made and kept, and whoever else has them.
pub trait Disk: Send + Sync + 'static {
    /// Pin of the authority that this board has taken over.
    fn own(&self) -> [u8; 32];
    /// Pin of the one whose keys lie ready.
    fn ready(&self) -> Option<[u8; 32]>;
    /// Makes keys, durably; gives the authority's certificate.
    fn make(&self) -> Doing<String>;
    /// Makes the keys that another master has lie ready here.
    fn fetch(&self, pin: [u8; 32]) -> Doing<()>;
    /// Whether that member has them; false also when it does not answer.
    fn has(&self, member: MemberV1, pin: [u8; 32]) -> Doing<bool>;
}

/// What is to be done for a loss.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing is lost.
    Rest,
    /// This board leads under an authority that counts no more: it has to take the other one over first.
    Wait,
    /// Keys are to be made and offered.
    Offer,
    /// Those that are offered go on once everybody has them.
    Spread,
    /// Tokens from before this authority are to be removed.
    Sweep,
}

fn step(said: &Said, own: [u8; 32], ready: Option<[u8; 32]>) -> Step {
    if said.lost.is_empty() {
        let is_own = said.current == Some(own);
        return if is_own && said.has_old_tokens { Step::Sweep } else { Step::Rest };
    }
    if said.current.is_some_and(|pin| pin != own) {
        return Step::Wait;
    }
    match said.pin() {
        // One of an earlier loss, or the keys lie on another board.
        Some(pin) if said.is_current || pin == own || ready != Some(pin) => Step::Offer,
        None => Step::Offer,
        Some(_) => Step::Spread,
    }
}

/// Answers losses for as long as this board leads, until `stop`.
pub async fn drive(
    registry: Registry,
    disk: Arc<dyn Disk>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    let driving = async {
        loop {
            let from = registry.store().version();
            match answer(&registry, &*disk).await {
                Ok(true) => changed(registry.store(), from).await,
                Ok(false) => sleep(AGAIN).await,
                Err(why) => {
                    tracing::warn!(why, "the cluster does not have another authority yet");
                    sleep(LATER).await;
                }
            }
        }
    };
    // Cancel safety: whoever leads next begins with what is written. An error means that nobody can ask.
    tokio::select! {
        () = driving => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

/// One step; whether nothing is left to do.
async fn answer(registry: &Registry, disk: &dyn Disk) -> Result<bool, String> {
    let store = registry.store();
    let (said, record) = Said::with_record(store).map_err(|error| error.to_string())?;
    match step(&said, disk.own(), disk.ready()) {
        Step::Rest => return Ok(true),
        Step::Wait => return Err("this board lacks the keys of the one that counts".into()),
        Step::Offer => {
            let certificate = disk.make().await?;
            let current = key_text(&said.current.unwrap_or(disk.own()));
            let data =
                json!({ "certificate": certificate, "state": "offered", "current": current });
            commit(registry, vec![write(record, &data)]).await?;
            tracing::warn!(lost = ?names(&said), "the keys of the cluster are lost: others are made");
            return Ok(false);
        }
        Step::Sweep => {
            let tokens = removal(registry).map_err(|error| error.to_string())?;
            let is_rest = tokens.len() <= TOKENS_MAX;
            let done = is_rest.then(|| write(record, &json!({ TOKENS: null })));
            commit(registry, tokens.into_iter().take(TOKENS_MAX).chain(done).collect()).await?;
            return Ok(false);
        }
        Step::Spread => {}
    }
    let pin = said.pin().ok_or("no certificate is offered")?;
    let members = store.members().unwrap_or_default().members;
    for member in members {
        if said.lost.iter().any(|(key, _)| *key == key_text(&member.key)) {
            tracing::debug!(board = member.board, "an evicted board still has a vote");
            return Ok(false);
        }
        if !disk.has(member.clone(), pin).await? {
            tracing::debug!(board = member.board, "a master lacks the keys of the new authority");
            return Ok(false);
        }
    }
    let mut data = Map::new();
    data.insert("state".into(), "current".into());
    data.insert("current".into(), key_text(&pin).into());
    // Until the old reign is over, whoever has its keys may make more of them.
    data.insert(TOKENS.into(), DUE.into());
    for (key, name) in &said.lost {
        data.insert(format!("{LOST}{key}"), Value::Null);
        data.insert(format!("{ANSWERED}{key}"), name.as_str().into());
    }
    let mut ops = vec![write(record, &Value::Object(data))];
    let tokens = removal(registry).map_err(|error| error.to_string())?;
    ops.extend(tokens.into_iter().take(TOKENS_MAX));
    // Boards would be told of a row as of a master.
    let is_lost = |key: &[u8; 32]| said.lost.iter().any(|(lost, _)| *lost == key_text(key));
    ops.extend(Rows::without_keys(store, is_lost).map_err(|error| error.to_string())?);
    commit(registry, ops).await?;
    tracing::warn!(lost = ?names(&said), "the cluster has another authority");
    Ok(false)
}

fn names(said: &Said) -> Vec<&str> {
    said.lost.iter().map(|(_, name)| name.as_str()).collect()
}

async fn commit(registry: &Registry, ops: Vec<Op>) -> Result<(), String> {
    match registry.commit(ops).await {
        // Somebody was faster: the next step looks again.
        Ok(_) | Err(CommitError::Conflict) => Ok(()),
        Err(CommitError::Rejected(error)) if error.code == 409 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits for the object to change after that version.
async fn changed(store: &Store, from: model::ids::Version) {
    let Ok(mut cursor) = store.watch_kind(&kind::CONFIG_MAPS, Some(SYSTEM), from) else {
        return sleep(LATER).await;
    };
    loop {
        match cursor.next().await {
            Ok(change) if change.key == key() => return,
            Ok(_) => {}
            Err(_) => return sleep(LATER).await,
        }
    }
}

/// The authority whose keys a board with this one is to have ready: what counts goes before what is offered.
fn wanted(said: &Said, own: [u8; 32]) -> Option<[u8; 32]> {
    let is_other = |pin: &[u8; 32]| *pin != own;
    said.current.filter(is_other).or_else(|| said.pin().filter(is_other))
}

/// Keeps the keys ready that are offered, on every master and whoever leads, and tells `due` which authority
/// counts when that is another one than this board's; until `stop`.
pub async fn follow(
    store: Store,
    disk: Arc<dyn Disk>,
    due: watch::Sender<Option<[u8; 32]>>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), StoreError> {
    let following = async {
        loop {
            let from = store.version();
            let said = Said::read(&store).unwrap_or_default();
            let Some(pin) = wanted(&said, disk.own()) else {
                changed(&store, from).await;
                continue;
            };
            if disk.ready() != Some(pin)
                && let Err(why) = disk.fetch(pin).await
            {
                tracing::debug!(why, "the keys of the new authority cannot be had yet");
                sleep(LATER).await;
                continue;
            }
            if said.current == Some(pin) {
                due.send_replace(Some(pin));
            }
            // A reign that is over may have made others meanwhile, which lie in their place then.
            let _looked = timeout(LOOK_AGAIN, changed(&store, from)).await;
        }
    };
    // Cancel safety: keys are kept whole or not at all. An error means that nobody can ask any more.
    tokio::select! {
        () = following => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Mutex;

    use model::token::TokenRole;

    use super::*;
    use crate::io::tls::Pki;
    use crate::master::controllers::tests::Master;
    use crate::master::tokens::{NewToken, Tokens};

    fn said(state: &str, lost: bool) -> Said {
        let authority = Pki::another().expect("made").0;
        let mut data = json!({ "certificate": authority, "state": state,
            format!("{ANSWERED}{}", key_text(&[8; 32])): "pi-8", "lost-none": "x" });
        if lost {
            data[format!("{LOST}{}", key_text(&[7; 32]))] = "pi-7".into();
        }
        Said::parse(json!({ "data": data }).to_string().as_bytes())
    }

    /// Keys in memory; every member has them at once.
    #[derive(Default)]
    struct InMemory {
        own: Mutex<[u8; 32]>,
        ready: Mutex<Option<[u8; 32]>>,
    }

    impl Disk for InMemory {
        fn own(&self) -> [u8; 32] {
            *self.own.lock().expect("no panic")
        }

        fn ready(&self) -> Option<[u8; 32]> {
            *self.ready.lock().expect("no panic")
        }

        fn make(&self) -> Doing<String> {
            let (certificate, _) = Pki::another().expect("made");
            *self.ready.lock().expect("no panic") = pin_of(&certificate);
            Box::pin(ready(Ok(certificate)))
        }

        fn fetch(&self, _: [u8; 32]) -> Doing<()> {
            Box::pin(ready(Ok(())))
        }

        fn has(&self, _: MemberV1, _: [u8; 32]) -> Doing<bool> {
            Box::pin(ready(Ok(true)))
        }
    }

    async fn lost(registry: &Registry, key: u8) -> bool {
        let boards: BTreeMap<_, _> = [(key_text(&[key; 32]), format!("pi-{key}"))].into();
        let op = lose(registry.store(), &boards).expect("readable");
        let is_news = op.is_some();
        registry.commit(op.into_iter().collect()).await.expect("written");
        is_news
    }

    async fn token(registry: &Registry) {
        let wish = NewToken { uses: 1, ttl_seconds: 60, role: TokenRole::Worker };
        Tokens::new(registry.clone(), [0; 32]).create(wish).await.expect("a token");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_is_evicted_while_keys_are_offered_does_not_have_those_that_count() {
        let mut master = Master::new().await;
        let (registry, disk) = (&master.registry, InMemory::default());
        let said = || Said::read(registry.store()).expect("readable");
        let answer = async || answer(registry, &disk).await.expect("answered");
        assert!(lost(registry, 7).await);
        assert!(!lost(registry, 7).await, "it is said");
        answer().await;
        let first = said().pin().expect("keys are offered");
        assert!(lost(registry, 6).await, "a second one is thrown out, which may have them");
        assert_eq!(step(&said(), disk.own(), Some(first)), Step::Offer);
        answer().await;
        let second = said().pin().expect("others are offered");
        assert_ne!(second, first);
        assert!(!said().is_current);

        let row = json!({ "board": "pi-6", "key": key_text(&[6; 32]) }).to_string();
        let rows = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "member-4": row },
            "metadata": { "name": "kumquat-masters", "namespace": SYSTEM } });
        let op = Op::Create { kind: kind::CONFIG_MAPS, object: rows };
        registry.commit(vec![op]).await.expect("written");
        token(registry).await;
        answer().await;
        assert_eq!((said().is_current, said().pin()), (true, Some(second)));
        assert!(said().lost.is_empty() && said().answered.len() == 2);
        assert!(!lost(registry, 6).await, "it is answered");
        assert_eq!(Rows::read(registry.store()).expect("readable").0.members.len(), 0);
        assert_eq!(removal(registry).expect("a list").len(), 0);

        // Made with the old keys in the last moment of the old reign.
        token(registry).await;
        assert!(said().lets_nobody_in());
        assert!(answer().await, "not under the old keys");
        *disk.own.lock().expect("no panic") = second;
        answer().await;
        assert_eq!(removal(registry).expect("a list").len(), 0);
        assert!(!said().lets_nobody_in());
        token(registry).await;
        assert!(answer().await, "nothing is left to do");
        assert_eq!(removal(registry).expect("a list").len(), 1);
        assert!(lost(registry, 5).await);
        assert_eq!(said().pin(), Some(second), "what is current is what boards have");
        master.stop().await;
    }

    #[test]
    fn a_loss_is_answered_by_keys_that_everybody_has_before_they_count() {
        let (old, none) = ([1; 32], None);
        assert_eq!(step(&Said::default(), old, none), Step::Rest);
        let founder = Said { lost: vec![(key_text(&[7; 32]), "pi-7".into())], ..Said::default() };
        assert_eq!(step(&founder, old, none), Step::Offer);
        let offered = said("offered", true);
        assert_eq!(names(&offered), ["pi-7"]);
        assert!(offered.answered.contains(&key_text(&[8; 32])));
        let pin = offered.pin().expect("a certificate");
        assert_eq!(step(&offered, old, Some(pin)), Step::Spread);
        assert_eq!(step(&offered, old, none), Step::Offer, "made by a leader that is gone");
        let current = said("current", false);
        assert_eq!(step(&current, current.pin().expect("one"), none), Step::Rest);
        let again = said("current", true);
        let pin = again.pin();
        assert_eq!(step(&again, pin.expect("one"), pin), Step::Offer, "a second one was stolen");
        assert_eq!(step(&again, old, pin), Step::Wait, "it would offer what fits the one before");
        assert_eq!(Said::parse(b"broken"), Said::default());
    }

    #[test]
    fn which_authority_counts_is_known_while_another_one_is_offered() {
        let (old, first) = ([1; 32], [2; 32]);
        let current = said("current", false);
        assert_eq!(current.current, current.pin(), "as it was said before");
        assert_eq!(wanted(&current, old), current.pin());
        assert_eq!(wanted(&current, current.pin().expect("one")), None);
        let offered = said("offered", true);
        assert_eq!((offered.current, wanted(&offered, old)), (None, offered.pin()));
        let over = Said { current: Some(first), ..offered };
        assert_eq!(wanted(&over, old), Some(first), "a master that was off takes that over first");
        assert_eq!(wanted(&over, first), over.pin());
        assert_eq!(step(&over, old, None), Step::Wait);
        assert_eq!(step(&over, first, None), Step::Offer);
        assert_eq!(step(&over, first, over.pin()), Step::Spread);
    }
}
