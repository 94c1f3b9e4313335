//! Spreads an image archive into files, hashing each: its index may come after its blobs, and the
//! stream may not be seekable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use model::limits::{IMAGE_ARCHIVE_BYTES_MAX, IMAGE_ARCHIVE_ENTRIES_MAX, IMAGE_DOCUMENT_BYTES_MAX};

use super::decompress::decompressed;
use super::digest::{Digest, HashingReader};
use super::error::{ImageError, TarFault};
use super::tarstream::{self, Kind};

/// A file of the archive.
#[derive(Clone, Debug)]
pub(super) struct Staged {
    /// Where its bytes are.
    pub(super) path: PathBuf,
    /// Their digest, computed while they were written (or known from the store).
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// The files of an archive by their path in it.
#[derive(Debug, Default)]
pub(super) struct Archive {
    files: BTreeMap<String, Staged>,
    links: BTreeMap<String, String>,
}

impl Archive {
    /// Writes the files of `reader` into `dir`. Blobs that `known` has already are not written again.
    pub(super) fn stage(
        reader: impl Read,
        dir: &Path,
        known: &dyn Fn(Digest) -> Option<Staged>,
    ) -> Result<Self, ImageError> {
        let mut archive = Self::default();
        let stream = decompressed(reader)
            .map(|stream| HashingReader::new(stream, IMAGE_ARCHIVE_BYTES_MAX))
            .map_err(not_an_archive)?;
        let read = tarstream::for_each(stream, IMAGE_ARCHIVE_ENTRIES_MAX, |entry, content| {
            let name = entry.display();
            match entry.kind {
                Kind::File => {
                    let path = dir.join(archive.files.len().to_string());
                    let staged = match digest_of_path(&name).and_then(known) {
                        Some(staged) => staged,
                        None => write(content, &path, entry.size)?,
                    };
                    archive.files.insert(name, staged);
                }
                Kind::Symlink | Kind::HardLink => {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    let base = if entry.kind == Kind::Symlink { name.as_str() } else { "" };
                    archive.links.insert(name.clone(), relative_to(base, &target));
                }
                _ => {}
            }
            Ok(())
        });
        read.map_err(not_an_archive)?;
        Ok(archive)
    }

    /// A file by its path, through at most one link.
    pub(super) fn file(&self, path: &str) -> Option<&Staged> {
        let path = path.trim_start_matches("./");
        self.files.get(path).or_else(|| self.files.get(self.links.get(path)?))
    }

    /// A blob of the OCI layout, its digest checked against its name.
    pub(super) fn blob(&self, digest: Digest) -> Result<&Staged, ImageError> {
        let missing = || ImageError::Damaged(format!("blob {digest} is missing"));
        let staged = self.file(&format!("blobs/sha256/{}", digest.hex())).ok_or_else(missing)?;
        if staged.digest != digest {
            let text = format!("blob {digest} has the digest {}", staged.digest);
            return Err(ImageError::Damaged(text));
        }
        Ok(staged)
    }
}

impl Staged {
    /// The bytes of a document.
    pub(super) fn document(&self, what: &str) -> Result<Vec<u8>, ImageError> {
        if self.bytes > IMAGE_DOCUMENT_BYTES_MAX {
            let text =
                format!("{what} has {} bytes, at most {IMAGE_DOCUMENT_BYTES_MAX}", self.bytes);
            return Err(ImageError::TooLarge(text));
        }
        std::fs::read(&self.path).map_err(ImageError::io(format!("reading {what}")))
    }

    /// A document as its type.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, ImageError> {
        serde_json::from_slice(&self.document(what)?)
            .map_err(|error| ImageError::Damaged(format!("{what}: {error}")))
    }
}

fn not_an_archive(error: io::Error) -> ImageError {
    let is_ours = error.raw_os_error().is_some();
    if is_ours {
        return ImageError::io("unpacking the image archive")(error);
    }
    ImageError::NotAnArchive(error.to_string())
}

fn write(content: &mut dyn Read, path: &Path, bytes_expected: u64) -> io::Result<Staged> {
    let mut reader = HashingReader::new(content, bytes_expected);
    io::copy(&mut reader, &mut File::create(path)?)?;
    let (digest, bytes) = reader.finish()?;
    if bytes != bytes_expected {
        return Err(TarFault("it ends in the middle of a file".to_owned()).into());
    }
    Ok(Staged { path: path.to_owned(), digest, bytes })
}

fn digest_of_path(path: &str) -> Option<Digest> {
    Digest::from_hex(path.strip_prefix("blobs/sha256/")?)
}

/// The path that a link at `base` means; `..` never leaves the archive.
fn relative_to(base: &str, target: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_archive() {
        assert_eq!(relative_to("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(relative_to("a", "../../../b"), "b");
        assert_eq!(relative_to("", "x/y"), "x/y");
    }
}
