//! Files of a volume replaced all at once (kubelet `volume/util/atomic_writer.go`).
//!
//! ```text
//! <volume>/..2026_1/key      the files, written first
//! <volume>/..data -> ..2026_1   swapped by a rename
//! <volume>/key -> ..data/key    what containers open
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::payload::Payload;
use crate::node::place::entries;

const DATA: &str = "..data";

/// Makes `dir` show exactly `payload`; does nothing when it does already.
pub(super) fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.is_some() && shows(&dir.join(DATA), payload) {
        return Ok(());
    }
    let generation = next_generation(dir)?;
    let fresh = dir.join(&generation);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, (bytes, mode)) in payload {
        let file = fresh.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, bytes)?;
        let group_mode = if fs_group.is_some() { 0o440 } else { 0 };
        if let Some(gid) = fs_group {
            chown(&file, None, Some(gid))?;
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(mode & 0o777 | group_mode))?;
    }
    let link = dir.join("..data_tmp");
    let _ = fs::remove_file(&link);
    symlink(&generation, &link)?;
    fs::rename(&link, dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old.filter(|old| old.to_str() != Some(generation.as_str())) {
        super::super::place::remove_dir(&dir.join(old))?;
    }
    Ok(())
}

fn shows(data: &Path, payload: &Payload) -> bool {
    let mut count = 0;
    let same = payload.iter().all(|(path, (bytes, mode))| {
        count += 1;
        let file = data.join(path);
        let has_mode = |meta: fs::Metadata| meta.permissions().mode() & mode == mode & 0o777;
        fs::read(&file).is_ok_and(|read| read == *bytes) && fs::metadata(file).is_ok_and(has_mode)
    });
    same && count_files(data).is_ok_and(|found| found == count)
}

fn count_files(dir: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

fn next_generation(dir: &Path) -> io::Result<String> {
    let number = |name: &String| name.strip_prefix("..v")?.parse::<u64>().ok();
    let newest = entries(dir)?.iter().filter_map(number).max().unwrap_or(0);
    Ok(format!("..v{}", newest + 1))
}

/// One link for each first component; links of what is no longer there go.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = payload.keys().map(first).collect();
    for name in &names {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for name in entries(dir)? {
        if !name.starts_with("..") && !names.contains(&name) {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let entry =
            |(path, text): &(&str, &str)| ((*path).to_owned(), (text.as_bytes().to_vec(), 0o640));
        files.iter().map(entry).collect()
    }

    #[test]
    fn a_volume_changes_as_a_whole() {
        let dir = std::env::temp_dir().join(format!("kumquat-atomic-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        write(&dir, &payload(&[("a", "1"), ("d/b", "2")]), None).expect("written");
        let first = fs::read_link(dir.join(DATA)).expect("linked");
        write(&dir, &payload(&[("a", "1"), ("d/b", "2")]), None).expect("the same");
        assert_eq!(fs::read_link(dir.join(DATA)).expect("linked"), first, "nothing was written");
        write(&dir, &payload(&[("d/b", "3"), ("e", "4")]), None).expect("changed");
        assert_eq!(fs::read_to_string(dir.join("d/b")).expect("there"), "3");
        assert_eq!(fs::metadata(dir.join("e")).expect("there").permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(dir.join("a")).is_err() && !dir.join(first).exists());
        fs::remove_dir_all(dir).expect("removable");
    }
}
