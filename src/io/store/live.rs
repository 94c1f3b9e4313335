//! What readers share with the store's thread: overlay, memory-only objects, counts, history.
//!
//! Only the store's thread changes it, a few inserts at a time; nobody holds the lock while a disk
//! is read or written. A reader takes its view
//! under the read lock (overlay rows, and an LMDB transaction begun there) and copies LMDB rows out
//! after letting go of it: what it sees is the state at one version.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use model::{
    ids::{KindKey, ObjectKey, Uid, Version},
    limits::STORE_MEMORY_KIND_BYTES_MAX,
};

use super::{
    history::History,
    log::Segment,
    membership::Membership,
    memory::Memory,
    record,
    state::{Reading, State},
    types::{Change, ListRange, Options, Page, Record, StoreError},
};

/// A write that LMDB does not hold yet.
#[derive(Clone, Debug)]
pub(super) struct Latest {
    /// Its version.
    pub(super) version: Version,
    /// Uid.
    pub(super) uid: Uid,
    /// Bytes, or deleted.
    pub(super) body: Option<Bytes>,
}

/// Writes since the last flush, by encoded key.
pub(super) type Overlay = BTreeMap<Vec<u8>, Latest>;

/// How many objects of each kind there are in each namespace.
#[derive(Default)]
pub(super) struct Counts(HashMap<KindKey, BTreeMap<String, usize>>);

impl Counts {
    /// Counts an object that appears or goes.
    pub(super) fn change(&mut self, key: &ObjectKey, existed: bool, exists: bool) {
        if existed == exists {
            return;
        }
        let namespaces = self.0.entry(key.kind.clone()).or_default();
        if exists {
            *namespaces.entry(key.namespace.clone()).or_default() += 1;
        } else if let Some(count) = namespaces.get_mut(&key.namespace) {
            *count -= 1;
            if *count == 0 {
                namespaces.remove(&key.namespace);
            }
        }
    }
}

/// Shared by the store's thread and everybody who reads.
#[derive(Debug)]
pub(super) struct Shared {
    live: RwLock<Live>,
}

/// The part of the store that is in memory.
pub(super) struct Live {
    /// LMDB; `None` when closed, and while a snapshot replaces it.
    pub(super) state: Option<State>,
    /// A snapshot replaces the state.
    pub(super) installing: bool,
    /// The group as of what is applied.
    pub(super) membership: Option<Membership>,
    /// Writes since the last flush; shared only while it is read without the lock.
    pub(super) overlay: Arc<Overlay>,
    /// Bytes in the overlay.
    pub(super) overlay_bytes: usize,
    /// Memory-only objects.
    pub(super) memory: Memory,
    /// Recent changes.
    pub(super) history: History,
    /// The log's files, for watches that start in the past.
    pub(super) segments: Vec<Segment>,
    /// The newest version given out.
    pub(super) version: Version,
    /// Whether the disk failed: writes are refused.
    pub(super) failed: bool,
    /// Objects by kind and namespace.
    pub(super) counts: Counts,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Live {
    /// Of a store that opens at `version`.
    pub(super) fn new(state: State, version: Version, options: &Options) -> Self {
        let kinds = &options.memory_kinds;
        Self {
            state: Some(state),
            installing: false,
            membership: None,
            overlay: Arc::default(),
            overlay_bytes: 0,
            memory: Memory::new(kinds, STORE_MEMORY_KIND_BYTES_MAX),
            history: History::new(version, options.history_bytes, kinds),
            segments: Vec::new(),
            version,
            failed: false,
            counts: Counts::default(),
        }
    }

    /// Begins the history anew at `version`, which is known only when all is replayed.
    pub(super) fn restart_history(&mut self, version: Version) {
        self.version = version;
        self.history.restart(version);
    }

    /// Forgets the memory-only objects: they were those of another leader.
    pub(super) fn forget_memory(&mut self) {
        for key in self.memory.clear() {
            self.count(&key, true, false);
        }
        let now = self.version;
        self.history.forget_memory(now);
    }

    /// Whether nothing comes any more.
    pub(super) fn is_closed(&self) -> bool {
        self.state.is_none() && !self.installing
    }

    /// LMDB, or why it cannot be read.
    pub(super) fn state(&self) -> Result<&State, StoreError> {
        let missing = if self.installing { StoreError::Installing } else { StoreError::Closed };
        self.state.as_ref().ok_or(missing)
    }

    /// Puts a change of the log over LMDB.
    pub(super) fn overlay_put(&mut self, key: Vec<u8>, latest: Latest) {
        let bytes = |key: &[u8], latest: &Latest| {
            key.len() + latest.body.as_ref().map_or(0, Bytes::len) + size_of::<Latest>()
        };
        self.overlay_bytes += bytes(&key, &latest);
        // The key of a replaced entry stays, so the sum counts it once.
        let key_bytes = key.clone();
        if let Some(before) = Arc::make_mut(&mut self.overlay).insert(key, latest) {
            self.overlay_bytes -= bytes(&key_bytes, &before);
        }
    }

    /// LMDB holds everything.
    pub(super) fn overlay_clear(&mut self) {
        self.overlay = Arc::default();
        self.overlay_bytes = 0;
    }

    /// Counts an object that appears or goes.
    pub(super) fn count(&mut self, key: &ObjectKey, existed: bool, exists: bool) {
        self.counts.change(key, existed, exists);
    }

    /// Adds a change to the history.
    pub(super) fn remember(&mut self, change: Change) -> Arc<Change> {
        self.version = change.version;
        let change = Arc::new(change);
        self.history.push(change.clone());
        change
    }
}

impl Shared {
    /// Around what open has built.
    pub(super) fn new(live: Live) -> Self {
        Self { live: RwLock::new(live) }
    }

    /// To read. A panic elsewhere leaves whole values behind: each write is one insert.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To write: the store's thread, and watches that begin.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a kind in the history.
    pub(super) fn kind_id(&self, kind: &KindKey) -> usize {
        let known = self.read().history.known(kind);
        known.unwrap_or_else(|| self.write().history.id(kind))
    }

    /// One object.
    pub(super) fn get(&self, key: &ObjectKey) -> Result<Option<Record>, StoreError> {
        let Some(encoded) = record::encode_key(key) else { return Ok(None) };
        let live = self.read();
        let state = live.state()?.clone();
        if live.memory.holds(&key.kind) {
            return Ok(live.memory.get(key));
        }
        let record = |version, uid, body| Record { key: key.clone(), version, uid, body };
        if let Some(latest) = live.overlay.get(&encoded) {
            let body = latest.body.clone();
            return Ok(body.map(|body| record(latest.version, latest.uid, body)));
        }
        let reading = state.read()?;
        drop(live);
        let found = reading.get(&encoded)?;
        Ok(found.map(|(version, uid, body)| record(version, uid, body)))
    }

    /// One page of a LIST.
    pub(super) fn list(&self, range: &ListRange, bytes_max: usize) -> Result<Page, StoreError> {
        let prefix = record::prefix(&range.kind, range.namespace.as_deref());
        let start = match &range.after {
            Some((namespace, name)) => {
                let mut start = record::prefix(&range.kind, Some(namespace));
                start.extend_from_slice(name.as_bytes());
                Bound::Excluded(start)
            }
            None => Bound::Included(prefix.clone()),
        };
        let live = self.read();
        let version = live.version;
        let state = live.state()?.clone();
        if let Some((records, more)) = live.memory.list(range) {
            return Ok(Page { records, version, more });
        }
        let overlaid: Vec<(Vec<u8>, Latest)> = live
            .overlay
            .range((start.clone(), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(key, latest)| (key.clone(), latest.clone()))
            .collect();
        let reading = state.read()?;
        drop(live);
        let (records, more) = merge(&reading, start, &prefix, overlaid, (range.limit, bytes_max))?;
        Ok(Page { records, version, more })
    }

    /// Objects of a kind, in one namespace or all.
    pub(super) fn count(&self, kind: &KindKey, namespace: Option<&str>) -> usize {
        let live = self.read();
        let Some(namespaces) = live.counts.0.get(kind) else { return 0 };
        match namespace {
            Some(namespace) => namespaces.get(namespace).copied().unwrap_or(0),
            None => namespaces.values().sum(),
        }
    }
}

/// Rows of LMDB and overlay in key order, the overlay first where both have a key.
fn merge(
    reading: &Reading<'_>,
    start: Bound<Vec<u8>>,
    prefix: &[u8],
    overlaid: Vec<(Vec<u8>, Latest)>,
    (limit, bytes_max): (usize, usize),
) -> Result<(Vec<Record>, bool), StoreError> {
    let mut page = Paging { records: Vec::new(), bytes: 0, limit, bytes_max };
    let mut overlaid = overlaid.into_iter().peekable();
    for row in reading.range(start.as_ref().map(Vec::as_slice), prefix)? {
        let row = row?;
        while let Some((key, latest)) = overlaid.next_if(|(key, _)| key.as_slice() < row.key) {
            if !page.overlaid(&key, latest) {
                return Ok((page.records, true));
            }
        }
        let fits = match overlaid.next_if(|(key, _)| key.as_slice() == row.key) {
            Some((key, latest)) => page.overlaid(&key, latest),
            None => page.push(row.key, row.version, row.uid, || Bytes::copy_from_slice(row.body)),
        };
        if !fits {
            return Ok((page.records, true));
        }
    }
    for (key, latest) in overlaid {
        if !page.overlaid(&key, latest) {
            return Ok((page.records, true));
        }
    }
    Ok((page.records, false))
}

struct Paging {
    records: Vec<Record>,
    bytes: usize,
    limit: usize,
    bytes_max: usize,
}

impl Paging {
    fn overlaid(&mut self, key: &[u8], latest: Latest) -> bool {
        let Some(body) = latest.body else { return true };
        self.push(key, latest.version, latest.uid, || body)
    }

    /// False when the page is full and the row belongs to the next one.
    fn push(
        &mut self,
        key: &[u8],
        version: Version,
        uid: Uid,
        body: impl FnOnce() -> Bytes,
    ) -> bool {
        if self.records.len() >= self.limit || self.bytes >= self.bytes_max {
            return false;
        }
        // Keys were checked when they were written; one that is not a key is no object.
        let Some(key) = record::decode_key(key) else { return true };
        let body = body();
        self.bytes += body.len();
        self.records.push(Record { key, version, uid, body });
        true
    }
}
