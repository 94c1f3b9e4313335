//! Small files that are either old or new, never half: write, sync, rename, sync the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::TlsError;

/// Permission of a file that holds a key.
pub(super) const SECRET: u32 = 0o600;
/// Permission of a file that anyone on the board may read.
pub(super) const PUBLIC: u32 = 0o644;

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

/// Replaces the file with `text`; once this returns, the text survives a power cut.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    replace(path, text, mode).map_err(|source| TlsError::Write { path: path.into(), source })
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // A leftover of a cut would keep its old mode: start from nothing.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    File::open(folder)?.sync_all()
}
