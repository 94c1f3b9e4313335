//! Binaries of kumquat that the leader gives to boards: files on its disk, by digest.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use model::limits::{PEER_CHUNK_BYTES, TUNNEL_CHUNKS_MAX, UPGRADE_FILES_MAX};
use tokio::sync::mpsc;

use crate::io::image::{Chunks, Digest, SourceError};

/// What a board names as the image: no image can have this name.
pub const BINARY_NAME: &str = "kumquat binary";

/// The files, oldest first.
#[derive(Debug, Default)]
pub(super) struct Binaries(Mutex<VecDeque<(Digest, PathBuf)>>);

impl Binaries {
    /// One more; the oldest goes when there are too many.
    pub(super) fn lend(&self, digest: Digest, path: PathBuf) {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|(other, _)| *other != digest);
        while files.len() >= UPGRADE_FILES_MAX {
            files.pop_front();
        }
        files.push_back((digest, path));
    }

    /// Begins to read one.
    pub(super) fn open(&self, digest: Digest, from: u64) -> Result<Chunks, SourceError> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = files.iter().find(|(other, _)| *other == digest);
        let Some(path) = found.map(|(_, path)| path.clone()) else {
            return Err(SourceError::Refused(format!("there is no binary {digest}")));
        };
        drop(files);
        let (answer, chunks) = mpsc::channel(TUNNEL_CHUNKS_MAX);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = send(&path, from, &answer) {
                // An error means that nobody reads it any more.
                let _gone = answer.blocking_send(Err(error.to_string()));
            }
        });
        Ok(chunks)
    }
}

fn send(
    path: &PathBuf,
    from: u64,
    answer: &mpsc::Sender<Result<Bytes, String>>,
) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut piece = vec![0; PEER_CHUNK_BYTES];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 || answer.blocking_send(Ok(Bytes::copy_from_slice(&piece[..count]))).is_err()
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_given_by_digest_and_from_an_offset() {
        let path = std::env::temp_dir().join(format!("kumquat-binary-{}", std::process::id()));
        std::fs::write(&path, b"new binary").expect("written");
        let (binaries, digest) = (Binaries::default(), Digest::of(b"new binary"));
        assert!(matches!(binaries.open(digest, 0), Err(SourceError::Refused(_))));
        binaries.lend(digest, path.clone());
        for (from, expected) in [(0, &b"new binary"[..]), (4, b"binary"), (99, b"")] {
            let mut chunks = binaries.open(digest, from).expect("lent");
            let mut bytes = Vec::new();
            while let Some(chunk) = chunks.recv().await {
                bytes.extend_from_slice(&chunk.expect("read"));
            }
            assert_eq!(bytes, expected);
        }
        for other in 0..UPGRADE_FILES_MAX {
            binaries.lend(Digest::of(&[u8::try_from(other).expect("few")]), path.clone());
        }
        assert!(binaries.open(digest, 0).is_err(), "the oldest goes");
        std::fs::remove_file(&path).expect("removed");
    }
}
