//! The log: segment files in order, appended to in groups, one fdatasync per group.
//!
//! Writing stays inside zero-filled space of the newest segment, so that a sync moves data pages and
//! no file system metadata. Invariants: a group is durable before [`Log::append`] returns it; after
//! a full disk the tail is cut back durably before anything else is written; after any other
//! failure nothing is written until the log is opened anew, because the page cache may show what the
//! disk does not hold.
//!
//! Reading is in `read`, taking away at either end in `cut`. Deliberately absent: what entries mean
//! (`entry`), what they change (`writer`).

mod cut;
mod read;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use model::{
    ids::Version,
    limits::{STORE_SEGMENT_BYTES, STORE_SEGMENT_STEP_BYTES},
    timestamp::Timestamp,
};

use super::{
    entry::Frame,
    file::{self, DiskFile, Faults},
    segment::{self, End, HEADER_BYTES, HeaderRead, Scan, SegmentHeader},
    types::OpenError,
};

pub(super) use read::Logged;

/// A segment file, as the log and watches know it.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The file.
    pub(super) path: PathBuf,
    /// Its header.
    pub(super) header: SegmentHeader,
    /// Bytes of header and frames; of the newest segment only known to the log itself.
    pub(super) bytes: u64,
}

/// Why a group was not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// The disk is full; the log is as before.
    Full,
    /// No file can be opened at the moment; the log is as before.
    Descriptors,
    /// The disk failed; the log refuses everything until it is opened anew.
    Failed(io::Error),
}

/// Entries on their way to the disk together.
#[derive(Debug, Default)]
pub(super) struct Group {
    frames: Vec<u8>,
    count: u32,
    previous: u32,
    /// Of the last entry.
    term: u64,
}

impl Group {
    /// Bytes so far.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The open log.
#[derive(Debug)]
pub(super) struct Log {
    /// Where the segments are.
    pub(super) dir: PathBuf,
    faults: Faults,
    /// Oldest first; the last one is active.
    pub(super) segments: Vec<Segment>,
    /// The file of the newest segment.
    pub(super) active: Option<DiskFile>,
    /// End of the good frames in the active segment.
    pub(super) at: u64,
    /// Size of the active file; from `at` on it is zeros.
    allocated: u64,
    epoch: u64,
    base: u64,
    /// Of the last entry, or of a term that is about to begin.
    pub(super) term: u64,
    /// Of the last entry.
    last_term: u64,
    /// Of the entry to come.
    pub(super) next_index: u64,
    /// Checksum of the last frame.
    pub(super) previous: u32,
    last_version: Version,
    /// Cluster time of the newest entry found at open.
    last_time: Timestamp,
    /// Bytes of the groups appended since open.
    appended_bytes: u64,
    /// The cut after a full disk failed, or a write or sync did.
    broken: bool,
    /// A full disk left bytes behind `at` that are not cut yet.
    dirty_tail: bool,
}

/// Where a log stands: what a scan found, or where a new one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Cluster epoch.
    pub(super) epoch: u64,
    /// Epoch base of versions.
    pub(super) base: u64,
    /// Term of the last entry.
    pub(super) term: u64,
    /// Index of the last entry.
    pub(super) index: u64,
}

impl Position {
    /// Before the first entry of a new cluster.
    pub(super) const START: Self = Self { epoch: 1, base: 0, term: 0, index: 0 };

    /// Where the entry stands in versions.
    pub(super) fn place(&self) -> u64 {
        self.base + self.index
    }
}

impl Log {
    /// Reads and checks every segment, cuts a torn tail, and stands ready to append.
    pub(super) fn open(dir: &Path, faults: &Faults) -> Result<Self, OpenError> {
        let mut log = Self::empty(dir, faults);
        let paths = segment_paths(dir)?;
        for (nth, path) in paths.iter().enumerate() {
            log.take_segment(path, nth + 1 == paths.len())?;
        }
        Ok(log)
    }

    /// No segments.
    pub(super) fn empty(dir: &Path, faults: &Faults) -> Self {
        let Position { epoch, base, term, index } = Position::START;
        Self {
            dir: dir.to_owned(),
            faults: faults.clone(),
            segments: Vec::new(),
            active: None,
            at: 0,
            allocated: 0,
            epoch,
            base,
            term,
            last_term: term,
            next_index: index + 1,
            previous: 0,
            last_version: Version(0),
            last_time: Timestamp::default(),
            appended_bytes: 0,
            broken: false,
            dirty_tail: false,
        }
    }

    /// Checks the next segment and makes it the active one.
    pub(super) fn take_segment(&mut self, path: &Path, newest: bool) -> Result<(), OpenError> {
        let file = DiskFile::open(path, &self.faults).map_err(io_error("open", path))?;
        if newest {
            file::settle(file.inner()).map_err(io_error("sync", path))?;
        }
        let bytes = segment::read(path).map_err(io_error("read", path))?;
        let header = match SegmentHeader::decode(&bytes) {
            HeaderRead::Good(header) => header,
            HeaderRead::Format(format) => {
                return Err(OpenError::Format { path: path.to_owned(), format });
            }
            HeaderRead::Bad if newest && !segment::has_frames(&bytes) => {
                // Its creation was cut before anything in it was acknowledged.
                file::remove(path, &self.faults).map_err(io_error("remove", path))?;
                return file::sync_dir(&self.dir, &self.faults).map_err(io_error("sync", path));
            }
            HeaderRead::Bad => return Err(self.damaged(path, 0)),
        };
        if !self.segments.is_empty() && !self.continued_by(&header) {
            return Err(self.damaged(path, 0));
        }
        let found = segment::scan(&bytes, &header);
        if let Some(at) = found.last_frame {
            let (version, time) = segment::last_of(&bytes[at..], header.base);
            self.last_version = version;
            self.last_time = self.last_time.max(time);
        }
        if found.end == End::Damaged || (found.end == End::Torn && !newest) {
            return Err(self.damaged(path, found.good_bytes as u64));
        }
        self.take_scanned(path, header, &found, file, bytes.len() as u64);
        if found.end == End::Torn {
            let cut_bytes = self.allocated - self.at;
            tracing::warn!(path = %path.display(), cut_bytes, "cut an unfinished write off the log");
            self.cut_tail().map_err(io_error("cut", path))?;
        }
        Ok(())
    }

    /// Makes a segment the active one, up to where its frames are good.
    pub(super) fn take_scanned(
        &mut self,
        path: &Path,
        header: SegmentHeader,
        found: &Scan,
        file: DiskFile,
        allocated: u64,
    ) {
        self.seal();
        self.segments.push(Segment { path: path.to_owned(), header, bytes: 0 });
        self.epoch = header.epoch;
        self.base = header.base;
        self.at = found.good_bytes as u64;
        self.allocated = allocated;
        self.term = found.term;
        self.last_term = found.term;
        self.next_index = found.next_index;
        self.previous = found.previous;
        self.active = Some(file);
    }

    fn seal(&mut self) {
        if let Some(newest) = self.segments.last_mut() {
            newest.bytes = self.at;
        }
    }

    /// Whether a segment goes on where this log ends.
    pub(super) fn continued_by(&self, header: &SegmentHeader) -> bool {
        let same_epoch = header.epoch == self.epoch && header.base == self.base;
        let raised = header.epoch > self.epoch && header.base > self.base;
        header.first_index == self.next_index
            && header.previous == self.previous
            && (same_epoch || raised)
    }

    /// Where the segments are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn damaged(&self, path: &Path, offset: u64) -> OpenError {
        OpenError::Damaged { path: path.to_owned(), offset, last_good: self.last_version }
    }

    /// Where the log stands.
    pub(super) fn position(&self) -> Position {
        Position { epoch: self.epoch, base: self.base, term: self.term, index: self.next_index - 1 }
    }

    /// Index of the oldest entry; one past the end when there is none.
    pub(super) fn first_index(&self) -> u64 {
        self.segments.first().map_or(self.next_index, |segment| segment.header.first_index)
    }

    /// The segments, oldest first.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Bytes of entries on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum::<u64>() + self.at
    }

    /// Bytes appended since open.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Cluster time of the newest entry found at open.
    pub(super) fn last_time(&self) -> Timestamp {
        self.last_time
    }

    /// Begins a later term.
    pub(super) fn begin_term(&mut self) {
        self.term += 1;
    }

    /// An empty group.
    pub(super) fn group(&self) -> Group {
        Group { frames: Vec::new(), count: 0, previous: self.previous, term: self.term }
    }

    /// Adds an encoded entry of this log's term; gives its position.
    pub(super) fn add(&self, group: &mut Group, payload: &[u8]) -> Position {
        self.add_of_term(group, self.term, payload)
    }

    /// Adds an encoded entry of a term that is no earlier than that of the entry before.
    pub(super) fn add_of_term(&self, group: &mut Group, term: u64, payload: &[u8]) -> Position {
        let index = self.next_index + u64::from(group.count);
        let frame = Frame {
            length: 0,
            crc: 0,
            previous: group.previous,
            group_offset: group.count,
            epoch: self.epoch,
            term,
            index,
        };
        group.term = term;
        group.previous = frame.write(payload, &mut group.frames);
        group.count += 1;
        Position { epoch: self.epoch, base: self.base, term, index }
    }

    /// Makes the group durable, or changes nothing.
    pub(super) fn append(&mut self, group: &Group) -> Result<(), AppendError> {
        if self.broken {
            return Err(AppendError::Failed(io::Error::other("an earlier write failed")));
        }
        if group.count == 0 {
            return Ok(());
        }
        match self.write(group) {
            Ok(()) => {
                self.at += group.frames.len() as u64;
                self.appended_bytes += group.frames.len() as u64;
                self.next_index += u64::from(group.count);
                self.previous = group.previous;
                self.term = group.term;
                self.last_term = group.term;
                Ok(())
            }
            Err(error) => Err(self.refuse(error)),
        }
    }

    /// Makes room for `bytes` of entries behind `reserved` bytes that are still to be appended, so that
    /// appending them meets no full disk. False when they belong into a segment of their own, which
    /// is begun only when nothing is reserved in this one.
    pub(super) fn reserve(&mut self, reserved: u64, bytes: u64) -> Result<bool, AppendError> {
        if self.broken {
            return Err(AppendError::Failed(io::Error::other("an earlier write failed")));
        }
        let end = self.at + reserved + bytes;
        let full = self.at > HEADER_BYTES as u64 && end > STORE_SEGMENT_BYTES as u64;
        let roll = self.active.is_none() || full;
        if roll && reserved > 0 {
            return Ok(false);
        }
        let made = if roll { self.roll(bytes) } else { self.allocate(end) };
        made.map(|()| true).map_err(|error| self.refuse(error))
    }

    /// Extends the active segment by zeros up to at least `end`.
    fn allocate(&mut self, end: u64) -> io::Result<()> {
        if end <= self.allocated {
            return Ok(());
        }
        let Some(active) = &self.active else { return Ok(()) };
        let allocated = end.next_multiple_of(STORE_SEGMENT_STEP_BYTES as u64);
        let zeros = vec![0; usize::try_from(allocated - self.at).map_err(io::Error::other)?];
        active.write_all_at(&zeros, self.at)?;
        active.sync_data()?;
        self.allocated = allocated;
        Ok(())
    }

    /// What a failed write means: the log is as before, or broken.
    fn refuse(&mut self, error: io::Error) -> AppendError {
        if file::is_full(&error) {
            self.dirty_tail = self.active.is_some();
            return match self.clean_tail() {
                Ok(()) => AppendError::Full,
                Err(error) => self.break_down(error),
            };
        }
        // Files are opened only for a new segment, before anything refers to it.
        if file::out_of_descriptors(&error) {
            return AppendError::Descriptors;
        }
        self.break_down(error)
    }

    fn break_down(&mut self, error: io::Error) -> AppendError {
        self.broken = true;
        AppendError::Failed(error)
    }

    fn write(&mut self, group: &Group) -> io::Result<()> {
        let length = group.frames.len() as u64;
        let roll = self.at > HEADER_BYTES as u64 && self.at + length > STORE_SEGMENT_BYTES as u64;
        if self.active.is_none() || roll {
            self.roll(length)?;
        }
        let Some(active) = &self.active else {
            return Err(io::Error::other("log has no active segment"));
        };
        let end = self.at + length;
        if end <= self.allocated {
            active.write_all_at(&group.frames, self.at)?;
            return active.sync_data();
        }
        let allocated = end.next_multiple_of(STORE_SEGMENT_STEP_BYTES as u64);
        let mut bytes = Vec::with_capacity(usize::try_from(allocated - self.at).unwrap_or(0));
        bytes.extend_from_slice(&group.frames);
        bytes.resize(usize::try_from(allocated - self.at).map_err(io::Error::other)?, 0);
        active.write_all_at(&bytes, self.at)?;
        active.sync_data()?;
        self.allocated = allocated;
        Ok(())
    }

    /// Starts a new segment. Everything in the one before is durable already.
    fn roll(&mut self, group_bytes: u64) -> io::Result<()> {
        let header = SegmentHeader {
            epoch: self.epoch,
            base: self.base,
            first_index: self.next_index,
            term: self.last_term,
            previous: self.previous,
        };
        let path = segment_path(&self.dir, self.next_index);
        let made = self.create_segment(&path, &header, group_bytes);
        let (file, allocated) = match made {
            Ok(made) => made,
            Err(error) => {
                // Nothing refers to it yet: a leftover is removed at the next open as well.
                file::remove(&path, &self.faults)?;
                return Err(error);
            }
        };
        self.seal();
        self.segments.push(Segment { path, header, bytes: 0 });
        self.active = Some(file);
        self.at = HEADER_BYTES as u64;
        self.allocated = allocated;
        Ok(())
    }

    fn create_segment(
        &self,
        path: &Path,
        header: &SegmentHeader,
        group_bytes: u64,
    ) -> io::Result<(DiskFile, u64)> {
        let file = DiskFile::create(path, &self.faults)?;
        let allocated =
            (HEADER_BYTES as u64 + group_bytes).next_multiple_of(STORE_SEGMENT_STEP_BYTES as u64);
        let mut bytes = vec![0; usize::try_from(allocated).map_err(io::Error::other)?];
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        file::sync_dir(&self.dir, &self.faults)?;
        Ok((file, allocated))
    }
}

/// Turns an io error into an [`OpenError`] about `path`.
pub(super) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}

/// The file of the segment that starts with entry `first_index`.
pub(super) fn segment_path(dir: &Path, first_index: u64) -> PathBuf {
    dir.join(format!("{first_index:016x}.log"))
}

/// The segment files of a log, oldest first.
pub(super) fn segment_paths(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let mut paths = Vec::new();
    for found in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = found.map_err(io_error("list", dir))?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
