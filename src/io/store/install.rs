//! Taking over a snapshot of another member, in steps that a crash may interrupt anywhere.
//!
//! ```text
//! snapshot named and durable -> marker -> log begins after it -> state rebuilt from it -> marker gone
//! ```
//! While the marker `install` is there, opening repeats everything after it: until the state holds the
//! snapshot, log and state do not belong together.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    file::{self, DiskFile},
    log::{Log, Position, io_error},
    open::{self, Paths},
    snapshot::{self, Head},
    state::{self, State},
    types::{OpenError, Options},
};

/// Bytes of the marker: the position, and whether the log goes on.
const MARKER_BYTES: usize = 41;

/// What a marker says.
struct Marker {
    position: Position,
    /// The log holds the snapshot's last entry and may hold more that was promised after it.
    keeps_log: bool,
}

/// Gives the snapshot `file`, which must be that of `position`, its place and says durably that it is being installed.
pub(super) fn begin(
    paths: &Paths,
    file: &Path,
    position: Position,
    keeps_log: bool,
    options: &Options,
) -> io::Result<(PathBuf, Head)> {
    let (path, head) = snapshot::adopt(&paths.snapshots, file, position, &options.faults)?;
    let mut bytes = state::encode_meta(head.position).to_vec();
    bytes.push(u8::from(keeps_log));
    let temporary = paths.install.with_extension("new");
    file::remove(&temporary, &options.faults)?;
    let marker = DiskFile::create(&temporary, &options.faults)?;
    marker.write_all_at(&bytes, 0)?;
    marker.sync_all()?;
    fs::rename(&temporary, &paths.install)?;
    file::sync_dir(&options.dir, &options.faults)?;
    Ok((path, head))
}

/// Lets the log begin after the snapshot, unless it goes on.
pub(super) fn place_log(log: &mut Log, head: &Head, keeps_log: bool) -> Result<(), OpenError> {
    if keeps_log { Ok(()) } else { log.begin_after(head.position) }
}

/// Makes the state anew from the snapshot.
pub(super) fn place_state(paths: &Paths, path: PathBuf, head: Head) -> Result<State, OpenError> {
    state::remove(&paths.state)?;
    let state = State::open(&paths.state).map_err(open::state_error(&paths.state))?;
    match open::fill(&state, Some((path, head)), paths) {
        Ok(_) => Ok(state),
        Err(error) => {
            state.close();
            Err(error)
        }
    }
}

/// Log and state belong together.
pub(super) fn end(paths: &Paths, options: &Options) -> io::Result<()> {
    file::remove(&paths.install, &options.faults)?;
    file::sync_dir(&options.dir, &options.faults)
}

/// Finishes what a crash has interrupted; nothing when there is no marker.
pub(super) fn resume(paths: &Paths, options: &Options) -> Result<(), OpenError> {
    let failed = |source| io_error("finish the install of a snapshot in", &options.dir)(source);
    let Some(marker) = read_marker(paths).map_err(failed)? else { return Ok(()) };
    let found = snapshot::newest(&paths.snapshots).map_err(failed)?;
    let found = found.filter(|(_, head)| head.position == marker.position);
    let Some((path, head)) = found else { return Err(OpenError::Lost(options.dir.clone())) };
    tracing::warn!(index = head.position.index, "finishing the install of a snapshot");
    if !marker.keeps_log {
        // What is there may be the end of the old log, the beginning of the new one, or both: only
        // files that begin after the snapshot could hold something, and nothing was appended yet.
        let mut log = Log::empty(&paths.log, &options.faults);
        log.remove_files()?;
        log.begin_after(head.position)?;
    }
    place_state(paths, path, head)?.close();
    end(paths, options).map_err(failed)
}

fn read_marker(paths: &Paths) -> io::Result<Option<Marker>> {
    let bytes = match fs::read(&paths.install) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let position = state::decode_meta(bytes.get(..MARKER_BYTES - 1).unwrap_or_default());
    match (position, bytes.get(MARKER_BYTES - 1)) {
        (Some(position), Some(keeps)) => Ok(Some(Marker { position, keeps_log: *keeps == 1 })),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "marker is damaged")),
    }
}
