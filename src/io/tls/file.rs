//! The files of keys and certificates, with errors that name them.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::TlsError;
use crate::io::durable;
pub(super) use crate::io::durable::{PUBLIC, SECRET};

/// Makes the folder (and its parents) if it is not there, readable by its owner only.
pub(super) fn make_folder(path: &Path) -> Result<(), TlsError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| TlsError::Write { path: path.into(), source })
}

/// The file's text, `None` when there is no such file. Bytes that are no text do not fail here: what
/// they were is for the caller to judge, who knows whether it can be made again.
pub(super) fn read(path: &Path) -> Result<Option<String>, TlsError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::Read { path: path.into(), source }),
    }
}

/// Removes the file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), TlsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(TlsError::Write { path: path.into(), source: error })
        }
        _ => Ok(()),
    }
}

/// Replaces the file with `text`; once this returns, the text survives a power cut.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    durable::replace(path, text.as_bytes(), mode)
        .map_err(|source| TlsError::Write { path: path.into(), source })
}
