//! The content store: blobs by digest, unpacked layers by chain id, and the record that names them.
//!
//! ```text
//! images/blobs/<64 hex>     images/layers/<32 hex of the chain id>/     images/index.json
//! images/partial/<64 hex>   blobs that are being fetched from other boards, unverified
//! images/tmp/               imports under way; emptied at open
//! ```
//! Order of an import: write under `tmp`, verify digests, `syncfs`, rename into place, sync the
//! directories, and only then record. So whatever the record names is whole and verified, after a
//! power cut at any moment; whatever it does not name is removed at open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use model::limits::IMAGE_DOCUMENT_BYTES_MAX;
use serde::Serialize;
use tokio::sync::watch;

use super::digest::Digest;
use super::document::{ConfigDocument, ImageConfig};
use super::error::ImageError;
use super::name::ImageName;
use super::platform::Platform;
use super::record::{ImageRecord, Record, sync_dir};
use super::{export, import, merged, tarstream};

/// The images of a board; clones share it. All calls block on the disk.
#[derive(Clone, Debug)]
pub struct ImageStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    platform: Platform,
    /// One import, removal or collection at a time.
    writing: Mutex<()>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// One image is fetched at a time.
    fetching: Mutex<()>,
    _lock: nix::fcntl::Flock<File>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) record: Record,
    /// Containers by the image that they were made from.
    holds: BTreeMap<Digest, usize>,
    /// Not all holds are known yet: nothing is removed.
    deferred: bool,
}

/// An image that containers can be made from.
#[derive(Clone, Debug)]
pub struct Image {
    /// Normalised name that it was found under.
    pub name: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Digest of its configuration: the image id.
    pub id: Digest,
    /// Unpacked layers for overlayfs, topmost first.
    pub layers: Vec<PathBuf>,
    /// How to run it.
    pub config: ImageConfig,
}

/// One line of `kumquat image list`.
#[derive(Clone, Debug, Serialize)]
pub struct ImageSummary {
    /// Normalised names; none when only containers keep it.
    pub names: Vec<String>,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Digest of its configuration.
    pub id: Digest,
    /// `amd64`, `arm64`, `arm/v7`.
    pub architecture: String,
    /// Bytes of its blobs.
    pub bytes: u64,
    /// Seconds since 1970.
    pub imported_seconds: i64,
}

/// Keeps an image's layers for as long as it lives.
#[derive(Debug)]
pub struct Hold {
    store: ImageStore,
    digest: Digest,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.store.state();
        if let Some(count) = state.holds.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                state.holds.remove(&self.digest);
            }
        }
    }
}

impl ImageStore {
    /// Opens or makes the store and removes what an interrupted import left.
    ///
    /// # Errors
    /// `Open` when the directory or its record cannot be read, `InUse` when another process has it.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ImageError> {
        Self::open_for(dir, Platform::host())
    }

    /// Opens the store of a board with another processor.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(dir: impl Into<PathBuf>, platform: Platform) -> Result<Self, ImageError> {
        let dir = dir.into();
        let fault = |source| ImageError::Open { path: dir.clone(), source };
        for part in ["blobs", "layers", "partial", "tmp"] {
            fs::create_dir_all(dir.join(part)).map_err(fault)?;
        }
        let lock = File::create(dir.join("lock")).map_err(fault)?;
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock)
            .map_err(|_| ImageError::InUse(dir.clone()))?;
        let record = Record::load(&dir)?;
        let store = Self {
            shared: Arc::new(Shared {
                platform,
                writing: Mutex::new(()),
                state: Mutex::new(State { record, holds: BTreeMap::new(), deferred: false }),
                changes: watch::Sender::new(0),
                fetching: Mutex::new(()),
                _lock: lock,
                dir: dir.clone(),
            }),
        };
        empty(&dir.join("tmp")).map_err(fault)?;
        store.sweep().map_err(fault)?;
        Ok(store)
    }

    /// Imports every image of an archive (OCI or Docker, also compressed) that this board can run,
    /// and gives their names. `name` is for an archive that holds one image without a name.
    ///
    /// # Errors
    /// Nothing of a failed import stays behind.
    pub fn import(
        &self,
        archive: impl Read,
        name: Option<&ImageName>,
    ) -> Result<Vec<ImageName>, ImageError> {
        let _writing = self.writing();
        let stage = self.shared.dir.join("tmp/import");
        let result = import::import(self, archive, name, &stage);
        let cleaned = remove_tree(&stage);
        if result.is_err() {
            // Blobs that were moved but not recorded; they are also swept at the next open.
            let _ = self.sweep();
        }
        let names = result?;
        cleaned.map_err(ImageError::io("removing the staging directory"))?;
        self.added()?;
        Ok(names)
    }

    /// After an image was recorded, with `writing` held: what it has replaced goes, waiters wake.
    pub(super) fn added(&self) -> Result<(), ImageError> {
        self.collect_locked()?;
        self.shared.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Finds an image by any spelling of its name, by name and manifest digest, or by id.
    ///
    /// # Errors
    /// `Absent`, a text that is no name, or an unreadable configuration.
    pub fn resolve(&self, name: &str) -> Result<Image, ImageError> {
        let (record, name) = self.find(name)?;
        let blob = self.blob_path(record.config);
        let read = fs::read(&blob).map_err(ImageError::io(format!("reading {name}")))?;
        if Digest::of(&read) != record.config {
            return Err(ImageError::Damaged(format!("configuration of {name}")));
        }
        let document: ConfigDocument = serde_json::from_slice(&read)
            .map_err(|error| ImageError::Damaged(format!("configuration of {name}: {error}")))?;
        Ok(Image {
            name,
            digest: record.digest,
            id: record.config,
            layers: record.layers.iter().rev().map(|l| self.layer_path(l.chain)).collect(),
            config: document.config.unwrap_or_default(),
        })
    }

    /// Keeps the layers of an image, also when its name is removed, until the hold is dropped.
    /// `None` when the store does not have it.
    pub fn hold(&self, digest: Digest) -> Option<Hold> {
        let mut state = self.state();
        state.record.images.iter().find(|image| image.digest == digest)?;
        *state.holds.entry(digest).or_default() += 1;
        Some(Hold { store: self.clone(), digest })
    }

    /// All images.
    pub fn list(&self) -> Vec<ImageSummary> {
        let summary = |image: &ImageRecord| ImageSummary {
            names: image.names.iter().cloned().collect(),
            digest: image.digest,
            id: image.config,
            architecture: image.architecture.clone(),
            bytes: image.bytes(),
            imported_seconds: image.imported_seconds,
        };
        self.state().record.images.iter().map(summary).collect()
    }

    /// Removes a name; content goes with the last name, unless containers use it: then it goes at
    /// the first [`Self::collect`] after them.
    ///
    /// # Errors
    /// `Absent`, or the disk's.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        let _writing = self.writing();
        let (found, name) = self.find(name)?;
        self.change(|record| {
            for image in record.images.iter_mut().filter(|image| image.digest == found.digest) {
                match image.names.contains(&name) {
                    true => drop(image.names.remove(&name)),
                    false => image.names.clear(),
                }
            }
        })?;
        self.shared.changes.send_modify(|count| *count += 1);
        self.collect_locked()
    }

    /// Removes no content until [`Self::collect`] is called: whoever holds images for containers of
    /// an earlier run has to say so first, and imports and removals may come before that.
    pub fn defer_collection(&self) {
        self.state().deferred = true;
    }

    /// Removes images without a name that no container uses.
    ///
    /// # Errors
    /// The disk's.
    pub fn collect(&self) -> Result<(), ImageError> {
        let _writing = self.writing();
        self.state().deferred = false;
        self.collect_locked()
    }

    /// Writes an image as an OCI archive.
    ///
    /// # Errors
    /// `Absent`, or the writer's and the disk's.
    pub fn export(&self, name: &str, writer: impl Write) -> Result<(), ImageError> {
        let (record, name) = self.find(name)?;
        let _hold = self.hold(record.digest);
        export::export(self, &record, &name, writer)
    }

    /// Counts imports and removals; wakes those who wait for an image or tell which there are.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Reads a small file of an image (`/etc/passwd`), links resolved inside the image; `None`
    /// when it is not there or is no regular file.
    ///
    /// # Errors
    /// The disk's, and a path that leads out of the image.
    pub fn read_file(
        image: &Image,
        path: &str,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let attempt = || ImageError::io(format!("reading {path} of {}", image.name));
        let view = merged::Merged::open(image.layers.iter().map(PathBuf::as_path));
        let parts = tarstream::components(path.as_bytes()).map_err(attempt())?;
        let Some(file) = view.and_then(|view| view.open_file(&parts)).map_err(attempt())? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes).map_err(attempt())?;
        Ok(Some(bytes))
    }

    pub(super) fn find(&self, text: &str) -> Result<(ImageRecord, String), ImageError> {
        let state = self.state();
        let by_id = Digest::parse(text);
        let name = match by_id {
            Some(_) => None,
            None => Some(ImageName::parse(text)?),
        };
        let pinned = name.as_ref().and_then(ImageName::digest);
        let matches = |image: &&ImageRecord| match (&name, by_id, pinned) {
            (_, Some(id), _) => image.config == id || image.digest == id,
            (_, _, Some(digest)) => image.digest == digest,
            (Some(name), _, _) => image.names.contains(name.as_str()),
            _ => false,
        };
        let shown = name.as_ref().map_or_else(|| text.to_owned(), ToString::to_string);
        match state.record.images.iter().find(matches) {
            Some(image) => Ok((image.clone(), shown)),
            None => Err(ImageError::Absent(shown)),
        }
    }

    fn collect_locked(&self) -> Result<(), ImageError> {
        let state = self.state();
        if state.deferred {
            return Ok(());
        }
        let is_rubbish = |image: &ImageRecord| {
            image.names.is_empty() && !state.holds.contains_key(&image.digest)
        };
        let rubbish: BTreeSet<Digest> =
            state.record.images.iter().filter(|i| is_rubbish(i)).map(|i| i.digest).collect();
        drop(state);
        if rubbish.is_empty() {
            return Ok(());
        }
        self.change(|record| record.images.retain(|image| !rubbish.contains(&image.digest)))?;
        self.sweep().map_err(ImageError::io("removing unused image content"))
    }

    /// Removes blobs and layers that the record does not name.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let state = self.state();
        let images = &state.record.images;
        let blobs: BTreeSet<String> =
            images.iter().flat_map(ImageRecord::blobs).map(|blob| blob.hex()).collect();
        let layers: BTreeSet<String> = images
            .iter()
            .flat_map(|image| image.layers.iter().map(|layer| layer_name(layer.chain)))
            .collect();
        drop(state);
        for (part, kept) in [("blobs", blobs), ("layers", layers)] {
            for entry in fs::read_dir(self.shared.dir.join(part))? {
                let entry = entry?;
                if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                    remove_tree(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Changes the record, first on disk, then in memory.
    pub(super) fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), ImageError> {
        let mut record = self.state().record.clone();
        change(&mut record);
        record.save(&self.shared.dir).map_err(ImageError::io("writing the image record"))?;
        self.state().record = record;
        Ok(())
    }

    pub(super) fn dir(&self) -> &Path {
        &self.shared.dir
    }

    pub(super) fn fetching(&self) -> &Mutex<()> {
        &self.shared.fetching
    }

    pub(super) fn blob_path(&self, digest: Digest) -> PathBuf {
        self.shared.dir.join("blobs").join(digest.hex())
    }

    pub(super) fn layer_path(&self, chain: Digest) -> PathBuf {
        self.shared.dir.join("layers").join(layer_name(chain))
    }

    pub(super) fn platform(&self) -> &Platform {
        &self.shared.platform
    }

    /// Makes what was renamed into place durable.
    pub(super) fn sync_places(&self) -> io::Result<()> {
        sync_dir(&self.shared.dir.join("blobs"))?;
        sync_dir(&self.shared.dir.join("layers"))
    }

    /// Whether a verified blob is recorded.
    pub(super) fn recorded_blob(&self, digest: Digest) -> Option<u64> {
        let state = self.state();
        let known = state.record.images.iter().flat_map(ImageRecord::blobs).any(|b| b == digest);
        drop(state);
        let bytes = fs::metadata(self.blob_path(digest)).ok().filter(|_| known)?.len();
        (bytes <= IMAGE_DOCUMENT_BYTES_MAX || known).then_some(bytes)
    }

    /// Whether an unpacked layer is recorded.
    pub(super) fn has_layer(&self, chain: Digest) -> bool {
        let state = self.state();
        state.record.images.iter().any(|image| image.layers.iter().any(|l| l.chain == chain))
    }

    pub(super) fn writing(&self) -> MutexGuard<'_, ()> {
        self.shared.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Half of the chain id: 127 layers have to fit into the mount options, one page.
fn layer_name(chain: Digest) -> String {
    let mut hex = chain.hex();
    hex.truncate(32);
    hex
}

fn empty(dir: &Path) -> io::Result<()> {
    fs::read_dir(dir)?.try_for_each(|entry| remove_tree(&entry?.path()))
}

pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
