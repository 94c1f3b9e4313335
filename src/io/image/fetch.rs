//! Fetches an image that this board lacks from the cluster: manifest, configuration, layers.
//!
//! Each blob is written under `partial/`, resumed at its end after any cut or restart, and verified
//! by digest; then layers are unpacked, everything is made durable and recorded as in an import. So
//! nothing that is not verified is ever used. Images for another processor are refused before their
//! layers are fetched. Deliberately absent: registries.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use model::limits::{BLOB_IDLE_SECONDS_MAX, IMAGE_ARCHIVE_BYTES_MAX, IMAGE_DOCUMENT_BYTES_MAX};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::archive::Staged;
use super::blob::{Chunks, read_manifest};
use super::digest::Digest;
use super::document::{ConfigDocument, Descriptor};
use super::error::ImageError;
use super::import::{self, Candidate};
use super::name::ImageName;
use super::partial::Partial;
use super::platform::Platform;
use super::store::ImageStore;

/// A blob that brings no byte for this long is given up; what there is of it stays.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waits between tries after a cut.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a long fetch says how far it is.
const TELL: Duration = Duration::from_secs(10);

/// What a source answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// Where a board gets images that it lacks.
pub trait Source: std::fmt::Debug + Send + Sync {
    /// Manifests of the images that the cluster has under this normalised name, those that fit best
    /// first; none when no board has it.
    fn offers<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<Digest>>;

    /// A blob of an image of that name, from an offset to its end.
    fn blob<'a>(&'a self, name: &'a str, digest: Digest, from: u64) -> Answer<'a, Chunks>;
}

/// Why a source gives nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It cannot be asked now.
    #[error("{0}")]
    Away(String),
    /// It does not give this to this board.
    #[error("{0}")]
    Refused(String),
}

/// Why an image was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody has it.
    #[error("no board of this cluster has image {0}: run `kumquat image import` on any of them")]
    Absent(String),
    /// The cluster cannot be asked, or the connection was lost; what there is stays.
    #[error("{0}")]
    Away(String),
    /// The cluster does not give it.
    #[error("{0}")]
    Refused(String),
    /// The image, or this board's disk.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The board is stopping, or nobody wants it any more.
    #[error("interrupted")]
    Stopped,
}

impl FetchError {
    /// The whole chain of causes in one line.
    pub fn text(&self) -> String {
        match self {
            Self::Image(error) => error.text(),
            other => other.to_string(),
        }
    }
}

impl From<SourceError> for FetchError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Away(why) => Self::Away(why),
            SourceError::Refused(why) => Self::Refused(why),
        }
    }
}

/// An image that was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Bytes of its blobs.
    pub bytes: u64,
    /// Bytes that came over the network for it.
    pub received_bytes: u64,
}

impl ImageStore {
    /// Fetches an image from the cluster until it is recorded. Blocking: to be called on a thread
    /// for that, within a runtime. Ends soon after `stop` turns true or its sender is gone.
    ///
    /// # Errors
    /// What was fetched stays for the next try, unless the disk is full or it was not what it should
    /// be.
    pub fn fetch(
        &self,
        name: &ImageName,
        source: Arc<dyn Source>,
        stop: watch::Receiver<bool>,
    ) -> Result<Fetched, FetchError> {
        let _fetching = self.fetching().lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = Handle::current();
        let told = Instant::now();
        let mut fetch =
            Fetch { store: self, name, source, runtime, stop, told, received_bytes: 0, of: 0 };
        let source = fetch.source.clone();
        let offers = fetch.wait(source.offers(name.as_str()))??;
        let mut refused: Option<(String, Vec<String>)> = None;
        for manifest in offers {
            match fetch.image(manifest) {
                Err(FetchError::Image(ImageError::Architecture { built, board, .. })) => {
                    refused.get_or_insert((board, Vec::new())).1.push(built);
                }
                other => return other,
            }
        }
        let name = name.to_string();
        Err(match refused {
            None => FetchError::Absent(name),
            Some((board, built)) => {
                ImageError::Architecture { name, built: built.join(", "), board }.into()
            }
        })
    }
}

struct Fetch<'a> {
    store: &'a ImageStore,
    name: &'a ImageName,
    source: Arc<dyn Source>,
    runtime: Handle,
    stop: watch::Receiver<bool>,
    told: Instant,
    received_bytes: u64,
    /// Bytes of all blobs, once known.
    of: u64,
}

impl Fetch<'_> {
    /// Fetches and records the image with this manifest.
    fn image(&mut self, manifest: Digest) -> Result<Fetched, FetchError> {
        let staged = self.document(manifest, "an image manifest")?;
        let document = read_manifest(&staged.document("an image manifest")?)?;
        let config = self.document(document.config.digest, "an image configuration")?;
        self.check_platform(&config)?;
        self.check_space(&document.layers)?;
        let mut layers = Vec::new();
        for layer in &document.layers {
            match self.blob(layer.digest, Some(layer.size)) {
                Ok(staged) => layers.push(staged),
                Err(error) => {
                    if matches!(error, FetchError::Image(ImageError::NoSpace { .. })) {
                        // The board needs what is left more than this image does.
                        self.store.drop_partials(&digests(&document.layers));
                    }
                    return Err(error);
                }
            }
        }
        let bytes =
            layers.iter().map(|layer| layer.bytes).sum::<u64>() + staged.bytes + config.bytes;
        let candidate =
            Candidate { names: vec![self.name.clone()], manifest: staged, config, layers };
        import::record_fetched(self.store, &candidate)?;
        Ok(Fetched { digest: manifest, bytes, received_bytes: self.received_bytes })
    }

    fn document(&mut self, digest: Digest, what: &str) -> Result<Staged, FetchError> {
        let staged = self.blob(digest, None)?;
        if staged.bytes > IMAGE_DOCUMENT_BYTES_MAX {
            let text = format!("{what} has {} bytes", staged.bytes);
            return Err(ImageError::TooLarge(text).into());
        }
        Ok(staged)
    }

    fn check_platform(&self, config: &Staged) -> Result<(), FetchError> {
        let document: ConfigDocument = config.json("an image configuration")?;
        let platform = Platform::of_image(&document.architecture, document.variant.as_deref());
        let host = self.store.platform();
        if host.fit(&platform).is_some() {
            return Ok(());
        }
        Err(import::refusal(self.name.to_string(), vec![platform.to_string()], host).into())
    }

    /// Begins nothing that cannot end well.
    fn check_space(&mut self, layers: &[Descriptor]) -> Result<(), FetchError> {
        self.of = 0;
        self.store.bound_other_partials(&digests(layers));
        let mut missing: u64 = 0;
        for layer in layers {
            if layer.size > IMAGE_ARCHIVE_BYTES_MAX {
                let text = format!("layer {} has {} bytes", layer.digest, layer.size);
                return Err(ImageError::TooLarge(text).into());
            }
            self.of += layer.size;
            if self.store.recorded_blob(layer.digest).is_none() {
                let there = self.store.partial_bytes(layer.digest);
                missing += layer.size.saturating_sub(there);
            }
        }
        let attempt = || format!("fetching image {}", self.name);
        let free = nix::sys::statvfs::statvfs(&self.store.partials())
            .map_err(|error| ImageError::io(attempt())(error.into()))?;
        #[allow(clippy::useless_conversion, reason = "the widths differ on 32-bit boards")]
        let free = u64::from(free.blocks_available()) * u64::from(free.fragment_size());
        if missing > free {
            self.store.drop_partials(&digests(layers));
            return Err(ImageError::NoSpace { attempt: attempt() }.into());
        }
        Ok(())
    }

    /// A whole blob whose digest is right; `bytes` is known but for documents.
    fn blob(&mut self, digest: Digest, bytes: Option<u64>) -> Result<Staged, FetchError> {
        if let Some(bytes) = self.store.recorded_blob(digest) {
            return Ok(Staged { path: self.store.blob_path(digest), digest, bytes });
        }
        let mut partial = Partial::open(self.store, digest).map_err(self.fault())?;
        if partial.bytes() > bytes.unwrap_or(IMAGE_DOCUMENT_BYTES_MAX) {
            partial.clear().map_err(self.fault())?;
        }
        let whole = |partial: &Partial| bytes.is_none_or(|bytes| partial.bytes() == bytes);
        let is_right = |partial: &Partial| whole(partial) && partial.digest() == digest;
        let mut patience = Patience::new();
        // What was there before may have been damaged by a power cut: then it all comes again.
        let mut doubtful = partial.bytes() > 0;
        while !is_right(&partial) {
            if bytes.is_some() && whole(&partial) && doubtful {
                partial.clear().map_err(self.fault())?;
                doubtful = false;
            }
            let before = partial.bytes();
            let received = self.receive(digest, &mut partial, bytes);
            match received {
                Ok(()) if is_right(&partial) => break,
                Ok(()) if whole(&partial) && doubtful => {
                    partial.clear().map_err(self.fault())?;
                    doubtful = false;
                    continue;
                }
                Ok(()) if whole(&partial) => {
                    partial.remove();
                    let text = format!("blob {digest} of {} came with another digest", self.name);
                    return Err(ImageError::Damaged(text).into());
                }
                Ok(()) => tracing::debug!(blob = %digest, "blob ended early"),
                Err(FetchError::Away(why)) if patience.is_left(partial.bytes() > before) => {
                    tracing::debug!(blob = %digest, why, "blob was cut off");
                }
                Err(error) => {
                    if partial.bytes() == 0 {
                        partial.remove();
                    }
                    return Err(error);
                }
            }
            if !patience.is_left(partial.bytes() > before) {
                let text = format!("image {} came no further for a long time", self.name);
                return Err(FetchError::Away(text));
            }
            self.wait(tokio::time::sleep(patience.pause()))?;
        }
        Ok(Staged { path: partial.path(), digest, bytes: partial.bytes() })
    }

    fn fault(&self) -> impl FnOnce(std::io::Error) -> ImageError + use<> {
        ImageError::io(format!("fetching image {}", self.name))
    }

    /// Appends what comes until the blob ends.
    fn receive(
        &mut self,
        digest: Digest,
        partial: &mut Partial,
        bytes: Option<u64>,
    ) -> Result<(), FetchError> {
        let bytes_max = bytes.unwrap_or(IMAGE_DOCUMENT_BYTES_MAX);
        let source = self.source.clone();
        let mut chunks = self.wait(source.blob(self.name.as_str(), digest, partial.bytes()))??;
        while let Some(chunk) = self.wait(chunks.recv())? {
            let chunk = chunk.map_err(FetchError::Away)?;
            if partial.bytes() + chunk.len() as u64 > bytes_max {
                let text = format!("blob {digest} is longer than its image says");
                partial.clear().map_err(self.fault())?;
                return Err(ImageError::Damaged(text).into());
            }
            partial.append(&chunk).map_err(self.fault())?;
            self.received_bytes += chunk.len() as u64;
            if self.told.elapsed() >= TELL {
                self.told = Instant::now();
                let (received_bytes, of_bytes) = (self.received_bytes, self.of);
                tracing::info!(image = %self.name, received_bytes, of_bytes, "fetching an image");
            }
        }
        Ok(())
    }

    /// Waits for an answer, but neither for ever nor when the board stops.
    fn wait<T>(&mut self, answer: impl Future<Output = T>) -> Result<T, FetchError> {
        let stop = &mut self.stop;
        self.runtime.block_on(async {
            let deadline = Duration::from_secs(BLOB_IDLE_SECONDS_MAX);
            // Cancel safety: what is dropped is not asked again.
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Err(FetchError::Stopped),
                answered = tokio::time::timeout(deadline, answer) => answered.map_err(|_| {
                    FetchError::Away(format!("nothing came for {BLOB_IDLE_SECONDS_MAX} s"))
                }),
            }
        })
    }
}

fn digests(layers: &[Descriptor]) -> BTreeSet<Digest> {
    layers.iter().map(|layer| layer.digest).collect()
}

/// How long a blob that comes no further is waited for.
struct Patience {
    progress_at: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { progress_at: Instant::now(), pause: PAUSE_MIN }
    }

    /// Whether to try again, after a try that brought something or nothing.
    fn is_left(&mut self, progress: bool) -> bool {
        if progress {
            *self = Self::new();
        }
        self.progress_at.elapsed() < PATIENCE
    }

    /// The wait before the next try.
    fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
