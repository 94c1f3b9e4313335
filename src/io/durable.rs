//! Small files that are either old or new after a power cut, never half: write, sync, rename, sync the
//! folder.
//!
//! For whole files that are replaced now and then. Logs and the store have their own ways, because
//! they append.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Permission of a file that holds a key.
pub const SECRET: u32 = 0o600;
/// Permission of a file that anyone on the board may read.
pub const PUBLIC: u32 = 0o644;

/// Replaces the file at `path` with `bytes`; once this returns, they survive a power cut. The
/// unfinished file beside it ends in `.new`.
///
/// # Errors
/// The disk's; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // A leftover of a cut would keep its old mode: start from nothing.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whatever_a_cut_left_beside_it() {
        let folder = std::env::temp_dir().join(format!("kumquat-durable-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("tmp");
        let path = folder.join("key");
        fs::write(folder.join("key.new"), "half of an earlier one").expect("written");
        for text in ["first", "second"] {
            replace(&path, text.as_bytes(), SECRET).expect("replaced");
            assert_eq!(fs::read_to_string(&path).expect("read"), text);
        }
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, SECRET, "a leftover's mode does not stay");
        assert!(!folder.join("key.new").exists());
        assert!(replace(&folder.join("missing/key"), b"", PUBLIC).is_err());
        fs::remove_dir_all(folder).expect("removed");
    }
}
