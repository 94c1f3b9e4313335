//! `kumquat repair --accept-loss-after VERSION [--last-copy]`: goes on with what is left of a damaged log.
//!
//! What LMDB (or a snapshot) holds beyond the damage is kept, since it was checked record by record;
//! what only the damaged part of the log held is given up. Either way versions go on in a new epoch,
//! above everything that the lost part can have used. Of a group's member the same is done only as of its last
//! copy: it has left the group then, as after a promotion, and the new epoch fences the others.

use std::{fs, path::Path};

use model::ids::Version;

use super::{
    entry::{FRAME_BYTES, Frame},
    file::{self, DiskFile, Faults},
    log::{Log, Position, io_error, segment_path, segment_paths},
    open::{self, Paths, last_version, raised_above},
    segment::{self, HEADER_BYTES, HeaderRead, SegmentHeader},
    snapshot::{self, Stop},
    types::OpenError,
    vote::VoteFile,
};

/// See [`super::Store::repair`].
pub(super) fn repair(
    dir: &Path,
    version: Version,
    last_copy_of: Option<u64>,
) -> Result<Version, OpenError> {
    let is_last_copy = last_copy_of.is_some();
    let paths = Paths::of(dir);
    let _lock = paths.lock(dir)?;
    let faults = Faults::default();
    let vote = match VoteFile::open(&paths.vote, &faults) {
        // It votes no more.
        Err(OpenError::Vote(_)) if is_last_copy => None,
        vote => vote?,
    };
    if vote.is_some() && !is_last_copy {
        // Others hold the whole log: this copy is replaced, not repaired.
        return Err(OpenError::Replica { dir: dir.to_owned(), version });
    }
    // What can be read may be of an earlier epoch than what others have.
    let above = last_copy_of.unwrap_or(0).max(epoch_of(vote.as_ref()));
    let last_good = match Log::open(&paths.log, &faults) {
        Ok(log) if is_last_copy => {
            return go_on_alone(dir, &paths, &log, vote.is_some(), version, above);
        }
        Ok(_) => return Err(OpenError::Whole(dir.to_owned())),
        // Who was told of the vote alone does not know of this yet.
        Err(damaged @ OpenError::Damaged { last_good, .. })
            if is_last_copy && version == Version(0) && last_good > version =>
        {
            return Err(damaged);
        }
        Err(OpenError::Damaged { last_good, .. }) => last_good,
        Err(other) => return Err(other),
    };
    if version > last_good {
        return Err(OpenError::BeyondGood { last_good });
    }
    let mut log = good_part(&paths.log, version)?;
    let (state, applied) = open::usable_state(dir, &paths, &log)?;
    let repaired = if applied.index > log.position().index {
        // The state reaches further: it becomes the start, and the next open begins a log after it.
        snapshot::write(&paths.snapshots, &state, &faults, &Stop::default())
            .map_err(io_error("write a snapshot in", &paths.snapshots))
            .and_then(|_| remove_segments(&paths.log, None))
            .and_then(|()| match is_last_copy {
                true => Log::empty(&paths.log, &faults).begin_after(raised_above(applied, above)),
                false => Ok(()),
            })
            .map(|()| last_version(applied))
    } else {
        let end = log.position();
        seal_in_new_epoch(&mut log, raised_above(end, above)).map(|()| last_version(end))
    };
    state.close();
    let kept = repaired?;
    leave_group(dir, &paths)?;
    Ok(kept)
}

/// The last copy of a group whose log is whole as far as it goes: the vote is lost, or what followed.
fn go_on_alone(
    dir: &Path,
    paths: &Paths,
    log: &Log,
    votes: bool,
    version: Version,
    above: u64,
) -> Result<Version, OpenError> {
    let (state, applied) = open::usable_state(dir, paths, log)?;
    state.close();
    let end = log.position();
    let is_short = applied.index > end.index;
    if votes && !is_short && end.index > 0 {
        if end.epoch > above {
            // An earlier repair, or a promotion, was cut off before its last step.
            leave_group(dir, paths)?;
            return Ok(last_version(end));
        }
        return Err(OpenError::Whole(dir.to_owned()));
    }
    let last_good = last_version(if is_short { applied } else { end });
    if version > last_good {
        return Err(OpenError::BeyondGood { last_good });
    }
    promote_locked(dir, paths, above)
}

fn epoch_of(vote: Option<&VoteFile>) -> u64 {
    vote.map_or(0, |vote| vote.ballot().epoch)
}

/// See [`super::Store::promote`].
pub(super) fn promote(dir: &Path, epoch: u64) -> Result<Version, OpenError> {
    let paths = Paths::of(dir);
    let _lock = paths.lock(dir)?;
    let vote = match VoteFile::open(&paths.vote, &Faults::default()) {
        // It votes no more.
        Err(OpenError::Vote(_)) => None,
        vote => vote?,
    };
    promote_locked(dir, &paths, epoch.max(epoch_of(vote.as_ref())))
}

fn promote_locked(dir: &Path, paths: &Paths, above: u64) -> Result<Version, OpenError> {
    let faults = Faults::default();
    let mut log = Log::open(&paths.log, &faults)?;
    let (state, applied) = open::usable_state(dir, paths, &log)?;
    let end = log.position();
    if applied.index == 0 && end.index == 0 {
        state.close();
        return Err(OpenError::Empty(dir.to_owned()));
    }
    let kept = if applied.index > end.index {
        snapshot::write(&paths.snapshots, &state, &faults, &Stop::default())
            .map_err(io_error("write a snapshot in", &paths.snapshots))
            .and_then(|_| log.begin_after(raised_above(applied, above)))
            .map(|()| last_version(applied))
    } else {
        seal_in_new_epoch(&mut log, raised_above(end, above)).map(|()| last_version(end))
    };
    state.close();
    let kept = kept?;
    // Last: until then it is a member that leads nobody.
    leave_group(dir, paths)?;
    Ok(kept)
}

fn leave_group(dir: &Path, paths: &Paths) -> Result<(), OpenError> {
    let faults = Faults::default();
    let removed = file::remove(&paths.vote, &faults).and_then(|()| file::sync_dir(dir, &faults));
    removed.map_err(io_error("remove", &paths.vote))
}

/// The entries up to `version` that are whole; changes nothing on disk.
fn good_part(dir: &Path, version: Version) -> Result<Log, OpenError> {
    let faults = Faults::default();
    let mut log = Log::empty(dir, &faults);
    for path in segment_paths(dir)? {
        let bytes = segment::read(&path).map_err(io_error("read", &path))?;
        let HeaderRead::Good(header) = SegmentHeader::decode(&bytes) else { break };
        let follows = log.segments.is_empty() || log.continued_by(&header);
        if !follows {
            break;
        }
        let kept = &bytes[..kept_bytes(&bytes, &header, version)];
        let found = segment::scan(kept, &header);
        if found.last_frame.is_none() {
            break;
        }
        let whole = segment::scan(&bytes, &header);
        let file = DiskFile::open(&path, &faults).map_err(io_error("open", &path))?;
        log.take_scanned(&path, header, &found, file, bytes.len() as u64);
        if found.good_bytes != whole.good_bytes || whole.end != segment::End::Clean {
            break;
        }
    }
    Ok(log)
}

/// Bytes of the header and of the whole frames up to `version`.
fn kept_bytes(bytes: &[u8], header: &SegmentHeader, version: Version) -> usize {
    let mut at = HEADER_BYTES;
    while let Some((frame, payload)) = Frame::verified(&bytes[at..]) {
        if Version::of_entry(header.base + frame.index, 0) > version {
            break;
        }
        at += FRAME_BYTES + payload.len();
    }
    at
}

/// Ends the log after its good part and begins a new epoch.
///
/// At every point before the last step the log still counts as damaged, so that a crash on the way
/// leads back here: the new segment stands, then what follows it goes, then the damage is cut.
fn seal_in_new_epoch(log: &mut Log, next: Position) -> Result<(), OpenError> {
    let faults = Faults::default();
    let dir = log.dir().to_owned();
    let header = SegmentHeader {
        epoch: next.epoch,
        base: next.base,
        first_index: next.index + 1,
        term: next.term,
        previous: log.previous,
    };
    let path = segment_path(&dir, header.first_index);
    let temporary = dir.join("segment.new");
    let written = (|| {
        file::remove(&temporary, &faults)?;
        let file = DiskFile::create(&temporary, &faults)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        file::sync_dir(&dir, &faults)
    })();
    written.map_err(io_error("write", &path))?;
    remove_segments(&dir, Some(&path))?;
    if let Some(active) = &log.active {
        let cut = active.set_len(log.at).and_then(|()| active.sync_all());
        cut.map_err(io_error("cut the log in", &dir))?;
    }
    Ok(())
}

/// Removes the segments after `last`, or all, newest first.
fn remove_segments(dir: &Path, last: Option<&Path>) -> Result<(), OpenError> {
    let faults = Faults::default();
    for path in segment_paths(dir)?.into_iter().rev() {
        if last.is_none_or(|last| *path > *last) {
            file::remove(&path, &faults).map_err(io_error("remove", &path))?;
        }
    }
    file::sync_dir(dir, &faults).map_err(io_error("sync", dir))
}
