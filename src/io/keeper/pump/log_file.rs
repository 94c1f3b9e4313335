//! One container's log: an append-only file that is rotated once. Never synced: a log is not worth
//! the wear of a flash card.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::limits::CONTAINER_LOG_BYTES_MAX;

/// Shortest time between two complaints about one log.
const SILENCE: Duration = Duration::from_secs(600);

/// An open log.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    /// When a failed write was last told of.
    told: Option<Instant>,
}

impl LogFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, bytes: 0, told: None }
    }

    /// A write failed: leaves no half line behind, and tells of it now and then.
    pub(super) fn fails(&mut self, offset: u64, error: &io::Error) -> io::Result<()> {
        let cut = self.cut_back(offset);
        self.file = None;
        if self.told.is_none_or(|told| told.elapsed() >= SILENCE) {
            self.told = Some(Instant::now());
            eprintln!("log pump: {}: lines are lost: {error}", self.path.display());
        }
        cut
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens or rotates where needed; returns the offset at which the next write lands.
    pub(super) fn prepare(&mut self) -> io::Result<u64> {
        if self.file.is_some() && self.bytes >= CONTAINER_LOG_BYTES_MAX {
            self.file = None;
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, older)?;
        }
        if self.file.is_none() {
            if let Some(dir) = self.path.parent() {
                fs::create_dir_all(dir)?;
            }
            let file = File::options().create(true).append(true).open(&self.path)?;
            self.bytes = file.metadata()?.len();
            self.file = Some(file);
        }
        Ok(self.bytes)
    }

    /// Appends to the prepared file.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("log is not open"))?;
        file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Cuts the file back to `bytes` if it is longer: what follows was not finished.
    pub(super) fn cut_back(&mut self, bytes: u64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        if file.metadata()?.len() > bytes {
            file.set_len(bytes)?;
        }
        self.bytes = file.metadata()?.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_once_and_keeps_the_older_part() {
        let dir = std::env::temp_dir().join(format!("kumquat-log-{}", std::process::id()));
        let mut log = LogFile::new(dir.join("deep/0.log"));
        let block = vec![b'x'; 1024 * 1024];
        for round in 0..25_u64 {
            let offset = log.prepare().expect("open");
            assert_eq!(offset, round % 10 * block.len() as u64, "{round}");
            log.append(&block).expect("room");
        }
        let bytes = |name: &str| fs::metadata(dir.join("deep").join(name)).expect("there").len();
        assert_eq!(bytes("0.log.1"), CONTAINER_LOG_BYTES_MAX);
        assert_eq!(bytes("0.log"), 5 * block.len() as u64);
        log.cut_back(3).expect("open");
        log.cut_back(1000).expect("open");
        assert_eq!((bytes("0.log"), log.prepare().expect("open")), (3, 3));
        fs::remove_dir_all(dir).expect("removed");
    }
}
