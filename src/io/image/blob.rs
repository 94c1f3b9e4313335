//! Gives blobs to other boards: only those that the record names, which are verified.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;
use model::limits::{BLOB_CHUNK_BYTES, IMAGE_DOCUMENT_BYTES_MAX, IMAGE_LAYERS_MAX};
use tokio::sync::mpsc;

use super::digest::Digest;
use super::document::Manifest;
use super::error::ImageError;
use super::record::ImageRecord;
use super::store::ImageStore;

/// Chunks of a blob in order; an error ends it.
pub type Chunks = mpsc::Receiver<Result<Bytes, String>>;

impl ImageStore {
    /// Digest of the manifest of the image with this name; `None` when it is not here.
    pub fn manifest_of(&self, name: &str) -> Option<Digest> {
        self.find(name).ok().map(|(image, _)| image.digest)
    }

    /// Manifest, configuration and layers of the image with this manifest; `None` when it is not
    /// here.
    pub fn blobs_of(&self, manifest: Digest) -> Option<Vec<Digest>> {
        self.with_image(manifest, |image| image.blobs().collect())
    }

    /// Bytes of a blob; `None` when no image here needs it.
    pub fn blob_bytes(&self, digest: Digest) -> Option<u64> {
        self.recorded_blob(digest)
    }

    /// Sends a blob from an offset to its end into `answer`, as fast as that is read. Ends when
    /// nobody reads any more. Blocking.
    pub fn send_blob(
        &self,
        digest: Digest,
        from: u64,
        answer: &mpsc::Sender<Result<Bytes, String>>,
    ) {
        if self.recorded_blob(digest).is_none() {
            let text = format!("blob {digest} is not on this board");
            return drop(answer.blocking_send(Err(text)));
        }
        if let Err(error) = self.try_send_blob(digest, from, answer)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            drop(answer.blocking_send(Err(format!("reading blob {digest}: {error}"))));
        }
    }

    fn try_send_blob(
        &self,
        digest: Digest,
        from: u64,
        answer: &mpsc::Sender<Result<Bytes, String>>,
    ) -> io::Result<()> {
        let mut file = File::open(self.blob_path(digest))?;
        file.seek(SeekFrom::Start(from))?;
        loop {
            let mut chunk = Vec::with_capacity(BLOB_CHUNK_BYTES);
            (&mut file).take(BLOB_CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                return Ok(());
            }
            answer.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
    }

    fn with_image<T>(&self, manifest: Digest, read: impl Fn(&ImageRecord) -> T) -> Option<T> {
        let state = self.state();
        state.record.images.iter().find(|image| image.digest == manifest).map(read)
    }
}

/// The blobs that a manifest names, each with its bytes: configuration, then layers.
///
/// # Errors
/// `Damaged` or `TooLarge` for what is no image manifest.
pub fn blobs_of_manifest(bytes: &[u8]) -> Result<Vec<(Digest, u64)>, ImageError> {
    let manifest = read_manifest(bytes)?;
    let descriptors = std::iter::once(&manifest.config).chain(&manifest.layers);
    Ok(descriptors.map(|descriptor| (descriptor.digest, descriptor.size)).collect())
}

pub(super) fn read_manifest(bytes: &[u8]) -> Result<Manifest, ImageError> {
    let damaged = |error| ImageError::Damaged(format!("an image manifest: {error}"));
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(damaged)?;
    if manifest.layers.len() > IMAGE_LAYERS_MAX {
        let text = format!("{} layers, at most {IMAGE_LAYERS_MAX}", manifest.layers.len());
        return Err(ImageError::TooLarge(text));
    }
    if manifest.config.size > IMAGE_DOCUMENT_BYTES_MAX {
        let text = format!("a configuration of {} bytes", manifest.config.size);
        return Err(ImageError::TooLarge(text));
    }
    Ok(manifest)
}
