//! Where the keeper's files lie: everything under the board's run-dir, gone with a boot.
//!
//! ```text
//! <run-dir>/keeper/keeper.sock              requests
//!                  holder.lock pump.lock    one process each (fcntl locks name their owner)
//!                  keeper.log               panics and warnings of the holder and its workers
//!                  stage pump.state         the chunk of log that the pump has in hand
//!                  containers/<id>/         bundle: config.json rootfs/ l/ stdout stderr record exit
//!                  runtime/<id>/            state of libcontainer
//! <run-dir>/sandboxes/<pod uid>/            net ipc uts: pinned namespaces
//! ```

use std::io;
use std::path::{Path, PathBuf};

use model::limits::CONTAINER_ID_BYTES_MAX;

/// Annotation of a spec whose container shares the processes of its pod, when it is `true`.
pub const SHARED_PROCESSES_ANNOTATION: &str = "dev.kumquat.shared-processes";

/// Annotation of a spec whose container's input is held open: `once` or `open`.
pub const STDIN_ANNOTATION: &str = "dev.kumquat.stdin";
/// Where clients attach to a container's input, in its bundle.
pub(super) const ATTACH_SOCKET: &str = "attach.sock";

/// What a keeper is told about its board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperPaths {
    /// The board's run-dir (absolute).
    pub run_dir: PathBuf,
    /// The board's data-dir (absolute); the keeper only unmounts what lies under it.
    pub data_dir: PathBuf,
    /// Name of the cgroup that holds everything of this board: `kumquat-<cluster>-<board>`.
    pub cgroup: String,
    /// The binary that the keeper runs, normally this one.
    pub exe: PathBuf,
}

/// Names of files, derived from the run-dir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) run_dir: PathBuf,
}

impl Layout {
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned() }
    }

    pub(super) fn keeper(&self) -> PathBuf {
        self.run_dir.join("keeper")
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.keeper().join(name)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.file("keeper.sock")
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.file("containers")
    }

    pub(super) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    pub(super) fn runtime(&self) -> PathBuf {
        self.file("runtime")
    }

    pub(super) fn sandboxes(&self) -> PathBuf {
        self.run_dir.join("sandboxes")
    }

    pub(super) fn sandbox(&self, uid: &str) -> PathBuf {
        self.sandboxes().join(uid)
    }
}

/// Refuses ids that are not a plain file name of moderate length.
pub(super) fn check_id(id: &str) -> io::Result<()> {
    check_name(id, CONTAINER_ID_BYTES_MAX)
}

/// Refuses the name of a board's cgroup that is not a plain file name.
pub(super) fn check_cgroup(name: &str) -> io::Result<()> {
    check_name(name, FILE_NAME_BYTES_MAX)
}

/// The kernel's NAME_MAX.
const FILE_NAME_BYTES_MAX: usize = 255;

fn check_name(id: &str, bytes_max: usize) -> io::Result<()> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > bytes_max || id.starts_with('.') || !id.bytes().all(plain) {
        let text = format!("{id:?} is not an id: letters, digits, '-', '_' and '.' only");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_names() {
        for good in ["a", "0b-1_c.d", &"x".repeat(CONTAINER_ID_BYTES_MAX)] {
            assert!(check_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a/b", "a b", "ä", &"x".repeat(CONTAINER_ID_BYTES_MAX + 1)]
        {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        assert!(check_cgroup(&"x".repeat(255)).is_ok());
        assert!(check_cgroup("a/../b").is_err());
    }
}
