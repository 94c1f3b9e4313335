//! Blobs that are being fetched: `images/partial/<64 hex>` is what there is of each.
//!
//! What lies there outlives cuts, restarts and power cuts, and proves nothing: it is hashed again
//! when it is opened, and only a blob whose digest is right ever leaves this folder. One image is
//! fetched at a time, as kubelet does. What is left of others is bounded in bytes, the oldest goes.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use model::limits::{BLOB_CHUNK_BYTES, IMAGE_PARTIAL_BYTES_MAX, IMAGE_PARTIAL_SYNC_BYTES};
use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::store::ImageStore;

/// What there is of a blob.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
    synced_bytes: u64,
}

impl Partial {
    /// Opens what there is of a blob and hashes it.
    pub(super) fn open(store: &ImageStore, digest: Digest) -> io::Result<Self> {
        let path = store.partial_path(digest);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        let mut buffer = vec![0; BLOB_CHUNK_BYTES];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => {
                    hash.update(&buffer[..count]);
                    bytes += count as u64;
                }
            }
        }
        Ok(Self { path, file, hash, bytes, synced_bytes: bytes })
    }

    /// Bytes that there are.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Their digest.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    /// Where they lie.
    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Appends; a power cut loses no more than some mebibytes of it.
    pub(super) fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk)?;
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        if self.bytes - self.synced_bytes >= IMAGE_PARTIAL_SYNC_BYTES {
            self.file.sync_data()?;
            self.synced_bytes = self.bytes;
        }
        Ok(())
    }

    /// Begins again from nothing.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hash, self.bytes, self.synced_bytes) = (Sha256::new(), 0, 0);
        Ok(())
    }

    /// Forgets it.
    pub(super) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "partial blob is not removed");
        }
    }
}

impl ImageStore {
    pub(super) fn partials(&self) -> PathBuf {
        self.dir().join("partial")
    }

    pub(super) fn partial_path(&self, digest: Digest) -> PathBuf {
        self.partials().join(digest.hex())
    }

    /// Bytes that there are of a blob that was begun.
    pub(super) fn partial_bytes(&self, digest: Digest) -> u64 {
        fs::metadata(self.partial_path(digest)).map_or(0, |meta| meta.len())
    }

    /// Removes what was begun and is not wanted any more; nothing while an image is fetched.
    /// Blocking.
    pub fn sweep_partials(&self) {
        if let Ok(_fetching) = self.fetching().try_lock() {
            self.bound_partials(&BTreeSet::new(), 0);
        }
    }

    /// Removes what was begun of these blobs.
    pub(super) fn drop_partials(&self, digests: &BTreeSet<Digest>) {
        for digest in digests {
            drop(fs::remove_file(self.partial_path(*digest)));
        }
    }

    /// Removes the oldest of what was begun and is none of these, down to what a board may keep.
    pub(super) fn bound_other_partials(&self, kept: &BTreeSet<Digest>) {
        self.bound_partials(kept, IMAGE_PARTIAL_BYTES_MAX);
    }

    fn bound_partials(&self, kept: &BTreeSet<Digest>, bytes_max: u64) {
        if let Err(error) = self.try_bound_partials(kept, bytes_max) {
            tracing::warn!(%error, "blobs that were begun are not removed");
        }
    }

    fn try_bound_partials(&self, kept: &BTreeSet<Digest>, bytes_max: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.partials())? {
            let entry = entry?;
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if digest.is_none_or(|digest| !kept.contains(&digest)) {
                let meta = entry.metadata()?;
                files.push((meta.modified()?, meta.len(), entry.path()));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in files {
            // Even an empty one goes when nothing is to stay.
            if bytes <= bytes_max && bytes_max > 0 {
                break;
            }
            fs::remove_file(path)?;
            bytes -= size;
        }
        Ok(())
    }
}
