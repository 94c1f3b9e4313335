//! A watch: changes in order from a version on, out of the history in memory or the log on disk.
//!
//! A cursor holds a position and no changes (but those of one log entry while it reads the disk), so
//! that a slow watcher costs nothing; when the log is cut past its position it expires.

use std::{collections::VecDeque, fs::File, os::unix::fs::FileExt, sync::Arc};

use model::ids::{KindKey, Version};
use tokio::sync::watch;

use super::{
    entry::{EntryV1, FRAME_BYTES, Frame},
    live::{Live, Shared},
    log::Segment,
    secrets::{self, SecretsKeys},
    segment::HEADER_BYTES,
    types::{Change, Expired, WatchError},
};

/// Log entries read in one go before other tasks get a turn.
const ENTRIES_PER_TURN: usize = 64;

/// Follows the changes of one kind, or of all.
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    kind: Option<usize>,
    kind_key: Option<KindKey>,
    namespace: Option<String>,
    position: Version,
    wake: watch::Receiver<()>,
    /// Of the history when this began.
    generation: (u64, u64),
    disk: Option<DiskReader>,
    /// What Secrets are opened with.
    secrets: Option<SecretsKeys>,
}

enum Step {
    Found(Arc<Change>),
    Again,
    Wait,
}

impl Cursor {
    pub(super) fn new(
        shared: &Arc<Shared>,
        kind: Option<KindKey>,
        namespace: Option<String>,
        position: Version,
    ) -> Result<Self, Expired> {
        let id = kind.as_ref().map(|kind| shared.kind_id(kind));
        let live = shared.read();
        let oldest = oldest(&live, id);
        if position < oldest || was_given_up(&live.segments, position) {
            return Err(Expired { oldest });
        }
        let wake = live.history.subscribe(id);
        let generation = live.history.generation(id);
        drop(live);
        let shared = shared.clone();
        let disk = None;
        let (kind_key, secrets) = (kind, None);
        Ok(Self {
            shared,
            kind: id,
            kind_key,
            namespace,
            position,
            wake,
            generation,
            disk,
            secrets,
        })
    }

    /// The next change above the position.
    ///
    /// # Errors
    /// `Expired` when the history was cut past the position, `Closed` when the store is closed.
    ///
    /// # Cancel safety
    /// Safe: the position moves only when a change is returned.
    pub async fn next(&mut self) -> Result<Arc<Change>, WatchError> {
        loop {
            self.wake.mark_unchanged();
            match self.step()? {
                Step::Found(change) => return self.opened(change),
                Step::Again => tokio::task::yield_now().await,
                Step::Wait => self.wake.changed().await.map_err(|_| WatchError::Closed)?,
            }
        }
    }

    /// Every change that this cursor follows up to this version was returned: what a bookmark says.
    pub fn position(&self) -> Version {
        self.position
    }

    /// The same cursor, which shows Secrets in the open.
    pub(super) fn opening(self, secrets: Option<SecretsKeys>) -> Self {
        Self { secrets, ..self }
    }

    fn opened(&self, change: Arc<Change>) -> Result<Arc<Change>, WatchError> {
        match self.secrets.as_ref().filter(|_| secrets::is_secret(&change.key.kind)) {
            // Nobody can follow what cannot be opened.
            Some(keys) => keys.change(&change).map(Arc::new).ok_or(WatchError::Expired),
            None => Ok(change),
        }
    }

    fn step(&mut self) -> Result<Step, WatchError> {
        let shared = self.shared.clone();
        let live = shared.read();
        if self.generation != live.history.generation(self.kind) {
            return Err(WatchError::Expired);
        }
        if self.position >= live.history.floor(self.kind) {
            self.disk = None;
            let found = live.history.next(self.kind, self.position, |change| self.wants(change));
            if let Some(change) = found {
                self.position = change.version;
                return Ok(Step::Found(change));
            }
            self.position = self.position.max(live.version);
            return if live.is_closed() { Err(WatchError::Closed) } else { Ok(Step::Wait) };
        }
        if self.position < live.history.memory_floor(self.kind) {
            return Err(WatchError::Expired);
        }
        let floor = live.history.floor(self.kind);
        let (newest, segments) = (live.version, live.segments.clone());
        drop(live);
        self.step_on_disk(&segments, newest, floor)
    }

    fn wants(&self, change: &Change) -> bool {
        self.kind_key.as_ref().is_none_or(|kind| *kind == change.key.kind)
            && self.namespace.as_ref().is_none_or(|wanted| *wanted == change.key.namespace)
    }

    /// Reads entries up to `newest`; at their end everything up to `floor` was seen.
    fn step_on_disk(
        &mut self,
        segments: &[Segment],
        newest: Version,
        floor: Version,
    ) -> Result<Step, WatchError> {
        let mut disk = match self.disk.take() {
            Some(disk) => disk,
            None => DiskReader::at(segments, self.position)?,
        };
        for _ in 0..ENTRIES_PER_TURN {
            while let Some(change) = disk.changes.pop_front() {
                if change.version > self.position && self.wants(&change) {
                    self.position = change.version;
                    self.disk = Some(disk);
                    return Ok(Step::Found(Arc::new(change)));
                }
            }
            if !disk.read_entry(segments, newest)? {
                self.position = self.position.max(floor);
                return Ok(Step::Again);
            }
        }
        self.disk = Some(disk);
        Ok(Step::Again)
    }
}

/// The oldest version from which a watch of `kind` can start.
pub(super) fn oldest(live: &Live, kind: Option<usize>) -> Version {
    let logged = match live.segments.first() {
        Some(segment) if !is_beginning(segment) => start_of(segment),
        _ => Version(0),
    };
    // A log without files holds nothing before the state that was opened.
    let logged = if live.segments.is_empty() { live.history.floor(kind) } else { logged };
    logged.max(live.history.memory_floor(kind))
}

/// Whether nothing was ever written before the segment.
fn is_beginning(segment: &Segment) -> bool {
    segment.header.first_index == 1 && segment.header.base == 0
}

/// Whether `position` belongs to writes that a repair gave up: above the end of one epoch and below
/// the start of the next.
fn was_given_up(segments: &[Segment], position: Version) -> bool {
    segments.windows(2).any(|pair| {
        let last_position = pair[0].header.base + pair[1].header.first_index - 1;
        position.position() > last_position && position < start_of(&pair[1])
    })
}

/// The version before the first one of a segment.
fn start_of(segment: &Segment) -> Version {
    let header = &segment.header;
    Version(Version::of_entry(header.base + header.first_index, 0).0 - 1)
}

#[derive(Debug)]
struct DiskReader {
    file: File,
    base: u64,
    offset: u64,
    next_index: u64,
    changes: VecDeque<Change>,
}

impl DiskReader {
    /// Opens the segment with the first entry above `position`.
    fn at(segments: &[Segment], position: Version) -> Result<Self, WatchError> {
        let after = segments.partition_point(|segment| start_of(segment) <= position);
        let from_start = segments.first().is_some_and(is_beginning);
        match after.checked_sub(1) {
            Some(nth) => Self::open(&segments[nth]),
            None if from_start => Self::open(&segments[0]),
            None => Err(WatchError::Expired),
        }
    }

    fn open(segment: &Segment) -> Result<Self, WatchError> {
        // The file may have been removed since the list was taken.
        let file = File::open(&segment.path).map_err(|_| WatchError::Expired)?;
        Ok(Self {
            file,
            base: segment.header.base,
            offset: HEADER_BYTES as u64,
            next_index: segment.header.first_index,
            changes: VecDeque::new(),
        })
    }

    /// Reads the next entry up to version `newest`; false at the end of the log.
    fn read_entry(&mut self, segments: &[Segment], newest: Version) -> Result<bool, WatchError> {
        if Version::of_entry(self.base + self.next_index, 0) > newest {
            return Ok(false);
        }
        if let Some((frame, payload)) = self.read_frame() {
            let entry = EntryV1::decode(&payload).ok_or(WatchError::Expired)?;
            self.changes.extend(entry.changes(self.base + frame.index));
            self.offset += (FRAME_BYTES + payload.len()) as u64;
            self.next_index += 1;
            return Ok(true);
        }
        let next = segments.iter().find(|segment| segment.header.first_index == self.next_index);
        if let Some(next) = next
            && self.offset > HEADER_BYTES as u64
        {
            *self = Self::open(next)?;
            return Ok(true);
        }
        // The entry exists, so its file was removed or it is damaged.
        Err(WatchError::Expired)
    }

    fn read_frame(&self) -> Option<(Frame, Vec<u8>)> {
        let mut bytes = vec![0; FRAME_BYTES];
        self.file.read_exact_at(&mut bytes, self.offset).ok()?;
        let length = Frame::read(&bytes)?.length as usize;
        if length == 0 || length > model::limits::STORE_ENTRY_BYTES_MAX {
            return None;
        }
        bytes.resize(FRAME_BYTES + length, 0);
        self.file
            .read_exact_at(&mut bytes[FRAME_BYTES..], self.offset + FRAME_BYTES as u64)
            .ok()?;
        let (frame, _) = Frame::verified(&bytes)?;
        (frame.index == self.next_index).then(|| (frame, bytes.split_off(FRAME_BYTES)))
    }
}
