//! Secrets at rest: sealed before they are proposed, opened where they are read.
//!
//! ```text
//! propose ─▶ sealed ─▶ log, overlay, history, LMDB, snapshots, other masters
//!                        └─▶ get, list, watch, hook ─▶ opened
//! sealed = 1 (u8) | key id (u8) | nonce (12) | ChaCha20-Poly1305 of the object with tag (16)
//! ```
//! Only the leader seals, so that what is replicated and applied is the same everywhere. The key and the
//! uid of the object are authenticated: nobody puts one Secret in another's place. What an earlier
//! version stored in the open begins with `{` and is read as it is. The keys are in
//! `<data-dir>/pki/secrets.key`, a line `<id> <base64>` each, the last one seals. This protects copies,
//! backups and snapshots of the store; it does not protect a stolen card, which carries the keys too.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use model::ids::{KindKey, ObjectKey, Uid};
use model::limits::{SECRETS_KEYS_MAX, STORE_LIST_BYTES_MAX};
use model::masters::{SecretBytes, SecretsKeyV1};
use model::view::kind;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tokio::sync::watch;

use super::{Applied, Change, ListRange, Op, Record, Store, StoreError};
use crate::io::durable;

/// First byte of a sealed object: no JSON begins so.
const SEALED: u8 = 1;
/// What precedes the nonce.
const HEAD: usize = 2;
const KEY_BYTES: usize = 32;

/// Namespace and name of a Secret.
type SecretName = (String, String);

/// The keys of Secrets; clones share them.
#[derive(Clone)]
pub struct SecretsKeys(Arc<Shared>);

struct Shared {
    path: PathBuf,
    keys: RwLock<Vec<Key>>,
    /// Number of the key that seals.
    current: watch::Sender<u8>,
}

struct Key {
    id: u8,
    bytes: [u8; KEY_BYTES],
    key: LessSafeKey,
}

impl fmt::Debug for SecretsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys().iter().map(|key| key.id)).finish()
    }
}

impl SecretsKeys {
    /// The keys in `<data_dir>/pki`; the first one is made, durably, when there is none.
    ///
    /// # Errors
    /// The disk refuses, or the file holds something else: it is left as it is, because another key
    /// would open nothing.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = path_in(data_dir)?;
        let keys = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).ok_or_else(|| damaged(&path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = vec![Key::random(1)?];
                save(&path, &keys)?;
                keys
            }
            Err(error) => return Err(error),
        };
        Ok(Self::with(path, keys))
    }

    /// Takes over the keys of another master, durably; the first of them seals.
    ///
    /// # Errors
    /// They are none, or the disk refuses.
    pub fn install(data_dir: &Path, keys: &[SecretsKeyV1]) -> io::Result<Self> {
        let path = path_in(data_dir)?;
        let key = |key: &SecretsKeyV1| Key::new(key.id, key.key.0.as_slice().try_into().ok()?);
        let keys: Option<Vec<Key>> = keys.iter().rev().map(key).collect();
        let keys = keys.filter(|keys| !keys.is_empty() && keys.len() <= SECRETS_KEYS_MAX);
        let keys = keys.ok_or_else(|| damaged(&path))?;
        save(&path, &keys)?;
        Ok(Self::with(path, keys))
    }

    fn with(path: PathBuf, keys: Vec<Key>) -> Self {
        let current = keys.last().map_or(0, |key| key.id);
        let (keys, current) = (RwLock::new(keys), watch::Sender::new(current));
        Self(Arc::new(Shared { path, keys, current }))
    }

    /// The keys for another master, the one that seals first: secret.
    pub fn export(&self) -> Vec<SecretsKeyV1> {
        let keys = self.keys();
        let export = |key: &Key| SecretsKeyV1 { id: key.id, key: SecretBytes(key.bytes.to_vec()) };
        keys.iter().rev().map(export).collect()
    }

    /// Makes another key, durably, which seals from now on; the oldest of too many is forgotten. Gives
    /// its number. What it replaces has to be sealed anew before the next time.
    ///
    /// # Errors
    /// The disk or the kernel's randomness refuses; nothing has changed then.
    pub fn rotate(&self) -> io::Result<u8> {
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        let last = keys.last().map_or(0, |key| key.id);
        let mut new: Vec<Key> = keys.iter().filter_map(|key| Key::new(key.id, key.bytes)).collect();
        new.drain(..new.len().saturating_sub(SECRETS_KEYS_MAX - 1));
        new.push(Key::random(last.checked_add(1).unwrap_or(1))?);
        save(&self.0.path, &new)?;
        *keys = new;
        let id = keys.last().map_or(0, |key| key.id);
        drop(keys);
        self.0.current.send_replace(id);
        Ok(id)
    }

    /// What [`SecretsKeys::export`] would give after a rotation: nothing of it is kept yet.
    ///
    /// # Errors
    /// The kernel's randomness refuses.
    pub fn with_another(&self) -> io::Result<Vec<SecretsKeyV1>> {
        let mut keys = self.export();
        let last = keys.first().map_or(0, |key| key.id);
        let fresh = Key::random(last.checked_add(1).unwrap_or(1))?;
        keys.truncate(SECRETS_KEYS_MAX - 1);
        keys.insert(0, SecretsKeyV1 { id: fresh.id, key: SecretBytes(fresh.bytes.to_vec()) });
        Ok(keys)
    }

    /// Number of the key that seals; changes with a rotation.
    pub fn current(&self) -> watch::Receiver<u8> {
        self.0.current.subscribe()
    }

    fn keys(&self) -> RwLockReadGuard<'_, Vec<Key>> {
        // Whole lists replace each other.
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals the Secrets among these operations.
    pub(super) fn seal_all(&self, ops: &mut [Op]) -> io::Result<()> {
        for op in ops.iter_mut().filter(|op| is_secret(&op.key.kind)) {
            if let Some(body) = &op.body {
                op.body = Some(self.seal(&op.key, op.uid, body)?);
            }
        }
        Ok(())
    }

    fn seal(&self, at: &ObjectKey, uid: Uid, plain: &[u8]) -> io::Result<Bytes> {
        let mut nonce = [0; NONCE_LEN];
        // 96 random bits: a cluster writes far fewer Secrets than would make two meet.
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let keys = self.keys();
        let key = keys.last().ok_or_else(|| damaged(&self.0.path))?;
        let mut sealed = Vec::with_capacity(HEAD + NONCE_LEN + plain.len() + 16);
        sealed.extend_from_slice(&[SEALED, key.id]);
        sealed.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.key
            .seal_in_place_append_tag(nonce, Aad::from(bound(at, uid)), &mut body)
            .map_err(|_| io::Error::other("a Secret cannot be sealed"))?;
        sealed.extend_from_slice(&body);
        Ok(sealed.into())
    }

    /// The object in the open; `None` when no key opens it.
    pub(super) fn open_body(&self, at: &ObjectKey, uid: Uid, body: &Bytes) -> Option<Bytes> {
        if body.first() != Some(&SEALED) {
            return Some(body.clone());
        }
        let (head, rest) = body.split_at_checked(HEAD)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id == head[1])?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let opened = key.key.open_in_place(nonce, Aad::from(bound(at, uid)), &mut plain);
        let length = opened.ok()?.len();
        plain.truncate(length);
        Some(plain.into())
    }

    /// Whether these bytes were sealed with the key that seals now.
    fn is_fresh(&self, body: &[u8]) -> bool {
        let current = *self.0.current.borrow();
        body.first() == Some(&SEALED) && body.get(1) == Some(&current)
    }

    /// A record in the open, and whether it was sealed as it should be.
    pub(super) fn record(&self, record: Record) -> Result<(Record, bool), StoreError> {
        if !is_secret(&record.key.kind) {
            return Ok((record, true));
        }
        let fresh = self.is_fresh(&record.body);
        let body = self.open_body(&record.key, record.uid, &record.body);
        let body = body.ok_or_else(|| StoreError::Sealed(record.key.to_string()))?;
        Ok((Record { body, ..record }, fresh))
    }

    /// A change in the open; `None` when no key opens it.
    pub(super) fn change(&self, change: &Change) -> Option<Change> {
        let open = |body: &Option<Bytes>| match body {
            Some(body) => self.open_body(&change.key, change.uid, body).map(Some),
            None => Some(None),
        };
        let (body, old) = (open(&change.body)?, open(&change.old)?);
        Some(Change { body, old, key: change.key.clone(), ..*change })
    }
}

impl Store {
    /// The hook as it sees Secrets in the open.
    pub(super) fn opening(&self, hook: Box<dyn Applied>) -> Box<dyn Applied> {
        match &self.secrets {
            Some(keys) => Box::new(Opening { hook, keys: keys.clone() }),
            None => hook,
        }
    }

    /// Some of the Secrets after `after`, and those among them that lie in the open or under an earlier
    /// key: to be written again.
    ///
    /// # Errors
    /// [`StoreError`] when the state cannot be read.
    pub fn stale_secrets(
        &self,
        after: Option<SecretName>,
        limit: usize,
    ) -> Result<(Vec<Record>, Option<SecretName>), StoreError> {
        let range = ListRange { kind: kind::SECRETS, namespace: None, after, limit };
        let page = self.shared.list(&range, STORE_LIST_BYTES_MAX)?;
        let last = page.records.last().filter(|_| page.more);
        let next = last.map(|record| (record.key.namespace.clone(), record.key.name.clone()));
        let mut stale = Vec::new();
        for record in page.records {
            let (record, is_fresh) = self.opened(record)?;
            if !is_fresh {
                stale.push(record);
            }
        }
        Ok((stale, next))
    }

    /// A record in the open, and whether it is sealed as it should be.
    pub(super) fn opened(&self, record: Record) -> Result<(Record, bool), StoreError> {
        match &self.secrets {
            Some(keys) => keys.record(record),
            None => Ok((record, true)),
        }
    }
}

/// Shows changes to a hook in the open.
pub(super) struct Opening {
    pub(super) hook: Box<dyn Applied>,
    pub(super) keys: SecretsKeys,
}

impl Applied for Opening {
    fn applied(&mut self, change: &Change) {
        if !is_secret(&change.key.kind) {
            return self.hook.applied(change);
        }
        match self.keys.change(change) {
            Some(open) => self.hook.applied(&open),
            None => {
                tracing::error!(key = %change.key, "a Secret cannot be opened: its key is missing in pki/secrets.key");
                // It exists, though nobody can read it.
                self.hook.applied(change);
            }
        }
    }

    fn opened(&mut self, version: model::ids::Version) {
        self.hook.opened(version);
    }
}

/// Whether objects of a kind are sealed.
pub(super) fn is_secret(of: &KindKey) -> bool {
    *of == kind::SECRETS
}

impl Key {
    fn new(id: u8, bytes: [u8; KEY_BYTES]) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?);
        Some(Self { id, bytes, key })
    }

    fn random(id: u8) -> io::Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Self::new(id, bytes).ok_or_else(|| io::Error::other("a key cannot be used"))
    }
}

fn path_in(data_dir: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = data_dir.join("pki");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    Ok(folder.join("secrets.key"))
}

fn damaged(path: &Path) -> io::Error {
    let text = format!("{} holds no keys of Secrets: restore it from a backup", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn parse(text: &str) -> Option<Vec<Key>> {
    let key = |line: &str| {
        let (id, key) = line.split_once(' ')?;
        Key::new(id.parse().ok()?, STANDARD.decode(key).ok()?.try_into().ok()?)
    };
    let keys: Vec<Key> = text.lines().map(key).collect::<Option<_>>()?;
    (!keys.is_empty() && keys.len() <= SECRETS_KEYS_MAX).then_some(keys)
}

fn save(path: &Path, keys: &[Key]) -> io::Result<()> {
    let line = |key: &Key| format!("{} {}\n", key.id, STANDARD.encode(key.bytes));
    let text: String = keys.iter().map(line).collect();
    durable::replace(path, text.as_bytes(), durable::SECRET)
}

/// What a sealed object is bound to.
fn bound(at: &ObjectKey, uid: Uid) -> Vec<u8> {
    let mut bound = uid.0.to_vec();
    for part in [&*at.kind, &at.namespace, &at.name] {
        bound.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bound.extend_from_slice(part.as_bytes());
    }
    bound
}
