//! What the keeper knows about a container, on disk under the run-dir: lost with a boot, like the
//! containers themselves, so nothing is synced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wire::ExitV1;

/// Written by the starter before the container's program begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordV1 {
    pub(super) id: String,
    pub(super) pod_uid: String,
    pub(super) pid: u32,
    /// With the pid, the identity of the init process.
    pub(super) start_ticks: u64,
    pub(super) started_at_micros: i64,
    pub(super) writable_dir: PathBuf,
    pub(super) log_path: PathBuf,
}

impl RecordV1 {
    /// Of a container that was made.
    pub(super) fn read(container_dir: &Path) -> io::Result<Self> {
        read(&container_dir.join("record"))
    }

    /// Of a container that was made or begun.
    pub(super) fn read_begun(container_dir: &Path) -> io::Result<Self> {
        Self::read(container_dir).or_else(|_| read(&container_dir.join("begun")))
    }

    /// Says what is about to be made, without a process, for whoever must clean up.
    pub(super) fn write_begun(&self, container_dir: &Path) -> io::Result<()> {
        write(&container_dir.join("begun"), self)
    }

    pub(super) fn write(&self, container_dir: &Path) -> io::Result<()> {
        write(&container_dir.join("record"), self)
    }
}

impl ExitV1 {
    pub(super) fn read(container_dir: &Path) -> io::Result<Self> {
        read(&container_dir.join("exit"))
    }

    pub(super) fn write(&self, container_dir: &Path) -> io::Result<()> {
        write(&container_dir.join("exit"), self)
    }
}

/// First byte of a file: the version of its shape.
const SHAPE: u8 = 1;

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = fs::read(path)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a record of this keeper");
    match bytes.split_first() {
        Some((&SHAPE, body)) => postcard::from_bytes(body).map_err(|_| invalid()),
        _ => Err(invalid()),
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let bytes = postcard::to_extend(value, vec![SHAPE]).map_err(io::Error::other)?;
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, bytes)?;
    fs::rename(unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A keeper reads what the release before has written.
    #[test]
    fn golden_bytes_of_a_record() {
        let dir = std::env::temp_dir().join(format!("kumquat-golden-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("tmp");
        let record = RecordV1 {
            id: "c".into(),
            pod_uid: "p".into(),
            pid: 300,
            start_ticks: 5,
            started_at_micros: -1,
            writable_dir: "/w".into(),
            log_path: "/l".into(),
        };
        record.write(&dir).expect("written");
        let golden = b"\x01\x01c\x01p\xac\x02\x05\x01\x02/w\x02/l";
        assert_eq!(fs::read(dir.join("record")).expect("read"), golden);
        let exit = ExitV1 { code: Some(3), signal: None, at_micros: 150, oom: true };
        exit.write(&dir).expect("written");
        let golden = [1, 1, 6, 0, 0xac, 2, 1];
        assert_eq!(fs::read(dir.join("exit")).expect("read"), golden);
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn records_come_back_and_damage_is_noticed() {
        let dir = std::env::temp_dir().join(format!("kumquat-record-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("tmp");
        let record = RecordV1 {
            id: "c".into(),
            pod_uid: "p".into(),
            pid: 4_000_000,
            start_ticks: u64::MAX,
            started_at_micros: 1_700_000_000_000_000,
            writable_dir: "/w".into(),
            log_path: "/l".into(),
        };
        record.write(&dir).expect("written");
        assert_eq!(RecordV1::read(&dir).expect("read"), record);
        fs::write(dir.join("record"), [1, 9, 9]).expect("damaged");
        assert!(RecordV1::read(&dir).is_err());
        fs::write(dir.join("record"), []).expect("emptied");
        assert!(RecordV1::read(&dir).is_err());
        let exit = ExitV1 { code: None, signal: Some(9), at_micros: 5, oom: true };
        exit.write(&dir).expect("written");
        assert_eq!(ExitV1::read(&dir).expect("read"), exit);
        fs::remove_dir_all(dir).expect("removed");
    }
}
