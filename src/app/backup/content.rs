//! The plain content of a backup: `length u32 | head as JSON | snapshot`.

use std::io::{self, Cursor, Read, Seek, Write};
use std::sync::Arc;

use anyhow::{Context, Result};
use model::backup::BackupHeadV1;
use model::ids::{KindKey, ObjectKey};
use model::join::EVICTED;
use model::limits::BACKUP_HEAD_BYTES_MAX;
use model::masters::SecretBytes;
use model::view::kind;
use serde_json::Value;

use super::folder::Series;
use crate::app::identity::Identity;
use crate::app::version;
use crate::io::backup::BackupError;
use crate::io::clock::Clock;
use crate::io::store::{Capture, ListRange, SecretsKeys, Store};
use crate::io::tls::{Pki, TokenKeys};

/// Nodes that are looked at in one go.
const PAGE: usize = 64;

/// What a leader makes a backup of; clones share it.
#[derive(Clone)]
pub(in crate::app) struct Source {
    /// The objects.
    pub(in crate::app) store: Store,
    /// The authority.
    pub(in crate::app) pki: Arc<Pki>,
    /// Sign tokens.
    pub(in crate::app) token_keys: TokenKeys,
    /// Seal Secrets.
    pub(in crate::app) secrets_keys: SecretsKeys,
    /// This board.
    pub(in crate::app) identity: Identity,
    /// Cluster time.
    pub(in crate::app) clock: Clock,
}

/// A cluster at one moment.
pub(in crate::app) struct Content {
    /// All but the objects.
    pub(super) head: BackupHeadV1,
    capture: Capture,
}

impl Source {
    /// The cluster as of now.
    ///
    /// # Errors
    /// The store refuses.
    pub(in crate::app) async fn take(&self) -> Result<Content> {
        let capture = self.store.capture().await.context("cannot take a snapshot of the store")?;
        let text = |pem: String| SecretBytes(pem.into_bytes());
        let head = BackupHeadV1 {
            cluster: self.identity.cluster.clone(),
            board: self.identity.name.clone(),
            release: version::TEXT.to_owned(),
            taken: self.clock.now(),
            epoch: capture.facts.epoch,
            version: capture.facts.version.0,
            pod_range: self.identity.pod_range.to_string(),
            service_range: self.identity.service_range.to_string(),
            authority: self.pki.ca_certificate().to_owned(),
            authority_key: SecretBytes(self.pki.authority_key()),
            secrets_keys: self.secrets_keys.export(),
            token_keys: self.token_keys.pems().into_iter().map(text).collect(),
            boards: self.boards()?,
            evicted: self.evicted()?,
            snapshot_bytes: capture.bytes,
        };
        Ok(Content { head, capture })
    }

    fn boards(&self) -> Result<Vec<String>> {
        let (mut boards, mut after) = (Vec::new(), None);
        loop {
            let (kind, limit): (KindKey, _) = (kind::NODES, PAGE);
            let page = self.store.list(&ListRange { kind, namespace: None, after, limit })?;
            boards.extend(page.records.into_iter().map(|record| record.key.name));
            match boards.last() {
                Some(last) if page.more => after = Some((String::new(), last.clone())),
                _ => return Ok(boards),
            }
        }
    }

    fn evicted(&self) -> Result<Vec<String>> {
        let (kind, namespace) = (kind::CONFIG_MAPS, "kube-system".to_owned());
        let key = ObjectKey { kind, namespace, name: EVICTED.to_owned() };
        let Some(record) = self.store.get(&key)? else { return Ok(Vec::new()) };
        let map: Value = serde_json::from_slice(&record.body)?;
        let keys = map["data"].as_object().into_iter().flatten().map(|(key, _)| key.clone());
        Ok(keys.collect())
    }

    /// Its backups in a folder.
    pub(super) fn series(&self) -> Series {
        Series::new(&self.identity.cluster, self.pki.pin())
    }
}

impl Content {
    /// The snapshot, from its beginning.
    pub(super) fn into_snapshot(self) -> io::Result<(BackupHeadV1, impl Read + Send)> {
        let mut file = self.capture.file;
        file.rewind()?;
        Ok((self.head, file.take(self.capture.bytes)))
    }

    /// All of it, to be read once.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::app) fn into_reader(self) -> io::Result<impl Read + Send> {
        let (head, snapshot) = self.into_snapshot()?;
        let mut begin = Vec::new();
        write_head(&head, &mut begin)?;
        Ok(Cursor::new(begin).chain(snapshot))
    }
}

/// Writes what comes before the snapshot.
pub(super) fn write_head(head: &BackupHeadV1, to: &mut impl Write) -> io::Result<()> {
    let bytes = serde_json::to_vec(head)?;
    if bytes.len() > BACKUP_HEAD_BYTES_MAX {
        return Err(io::Error::other("the cluster has too many boards for a backup"));
    }
    let length = u32::try_from(bytes.len()).expect("bounded one line above");
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&bytes)
}

/// Reads it.
pub(super) fn read_head(from: &mut impl Read) -> io::Result<BackupHeadV1> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > BACKUP_HEAD_BYTES_MAX {
        return Err(BackupError::Content(format!("{length} bytes before the snapshot")).into());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    let head = serde_json::from_slice(&bytes);
    head.map_err(|error| BackupError::Content(error.to_string()).into())
}
