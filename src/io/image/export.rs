//! Writes an image as an OCI archive (image layout 1.0.0 in a tar).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};

use super::document::{
    ANNOTATION_NAME, ANNOTATION_REF, Descriptor, Index, MEDIA_INDEX, MEDIA_MANIFEST,
};
use super::error::ImageError;
use super::record::ImageRecord;
use super::store::ImageStore;

pub(super) fn export(
    store: &ImageStore,
    image: &ImageRecord,
    name: &str,
    writer: impl Write,
) -> Result<(), ImageError> {
    let attempt = || ImageError::io(format!("exporting {name}"));
    let mut archive = tar::Builder::new(writer);
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(attempt())?;
    let blobs: BTreeSet<_> = image.blobs().collect();
    for blob in blobs {
        let mut file = File::open(store.blob_path(blob)).map_err(attempt())?;
        let mut header = header(file.metadata().map_err(attempt())?.len());
        let path = format!("blobs/sha256/{}", blob.hex());
        archive.append_data(&mut header, path, &mut file).map_err(attempt())?;
    }
    let index = serde_json::to_vec(&index(store, image, name).map_err(attempt())?)
        .expect("plain data with string keys always encodes");
    append(&mut archive, "index.json", &index).map_err(attempt())?;
    archive.into_inner().and_then(|mut writer| writer.flush()).map_err(attempt())
}

fn index(store: &ImageStore, image: &ImageRecord, name: &str) -> io::Result<Index> {
    let annotations = [(ANNOTATION_NAME, name), (ANNOTATION_REF, name)];
    let annotations: BTreeMap<String, String> =
        annotations.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let manifest = Descriptor {
        media_type: MEDIA_MANIFEST.to_owned(),
        digest: image.digest,
        size: store.blob_path(image.digest).metadata()?.len(),
        annotations: Some(annotations),
        platform: None,
    };
    Ok(Index { schema_version: 2, media_type: MEDIA_INDEX.to_owned(), manifests: vec![manifest] })
}

fn header(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(bytes);
    header
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), path, bytes)
}
