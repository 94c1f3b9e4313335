//! The record of what the store holds: one small JSON file, replaced as a whole.
//!
//! It is written last, after everything that it names is durable; what it does not name is rubbish
//! of an interrupted import.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::ImageError;
use crate::io::durable;

const FORMAT: u32 = 1;
const FILE: &str = "index.json";

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    /// Digest of the blob, as in the manifest.
    pub(super) blob: Digest,
    /// Chain id (OCI image config): names the unpacked directory, which depends on all layers below.
    pub(super) chain: Digest,
    /// Bytes of the blob.
    pub(super) bytes: u64,
}

/// An image; without names it stays for as long as containers use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) names: BTreeSet<String>,
    /// Digest of the manifest.
    pub(super) digest: Digest,
    pub(super) manifest_bytes: u64,
    /// Digest of the configuration: the image id.
    pub(super) config: Digest,
    pub(super) architecture: String,
    /// Lowest first.
    pub(super) layers: Vec<LayerRecord>,
    /// Seconds since 1970, by the system clock.
    pub(super) imported_seconds: i64,
}

impl ImageRecord {
    /// Digests of all blobs that the image needs.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.layers.iter().map(|layer| layer.blob).chain([self.digest, self.config])
    }

    /// Bytes of its blobs.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum::<u64>() + self.manifest_bytes
    }
}

/// All images.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    pub(super) images: Vec<ImageRecord>,
}

impl Record {
    /// Reads the record; a missing one is empty.
    pub(super) fn load(dir: &Path) -> Result<Self, ImageError> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ImageError::Open { path, source }),
        };
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::Record { path: path.clone(), why: error.to_string() })?;
        if record.format != FORMAT {
            let why = format!("it has format {}, this build reads {FORMAT}", record.format);
            return Err(ImageError::Record { path, why });
        }
        Ok(record)
    }

    /// Replaces the record durably.
    pub(super) fn save(&mut self, dir: &Path) -> io::Result<()> {
        self.format = FORMAT;
        durable::replace(&dir.join(FILE), &serde_json::to_vec(self)?, durable::PUBLIC)
    }

    /// Puts an image in and moves its name to it.
    pub(super) fn put(&mut self, image: ImageRecord) {
        for other in &mut self.images {
            other.names.retain(|name| !image.names.contains(name));
        }
        match self.images.iter_mut().find(|other| other.digest == image.digest) {
            Some(same) => same.names.extend(image.names),
            None => self.images.push(image),
        }
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
