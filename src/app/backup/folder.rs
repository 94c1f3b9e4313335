//! The backups of a cluster in a folder: their names say which is the newest.
//!
//! `kumquat-<cluster>-<date>-v<version>.backup`. Versions only grow, whatever a clock says, so they decide.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use model::backup::BackupHeadV1;
use model::timestamp::Timestamp;

/// A backup by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its newest version.
    pub(super) version: u64,
    /// When it was taken.
    pub(super) taken: Timestamp,
    /// The file.
    pub(super) path: PathBuf,
}

/// Name of the file of a backup; none of it is more than FAT can hold.
pub(super) fn name(head: &BackupHeadV1) -> String {
    let date: String = head.taken.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
    format!("kumquat-{}-{date}-v{}.backup", head.cluster, head.version)
}

fn parse(name: &str, cluster: &str) -> Option<(u64, Timestamp)> {
    let rest = name.strip_prefix("kumquat-")?.strip_prefix(cluster)?.strip_prefix('-')?;
    let (date, version) = rest.strip_suffix(".backup")?.split_once("-v")?;
    let field = |from: usize, to: usize| date.get(from..to);
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        field(0, 4)?,
        field(4, 6)?,
        field(6, 8)?,
        field(9, 11)?,
        field(11, 13)?,
        field(13, 15)?
    );
    Some((version.parse().ok()?, Timestamp::parse(&text)?))
}

/// The backups of a cluster, the newest first.
pub(super) fn list(folder: &Path, cluster: &str) -> io::Result<Vec<Kept>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let parsed = entry.file_name().to_str().and_then(|name| parse(name, cluster));
        if let Some((version, taken)) = parsed {
            found.push(Kept { version, taken, path: entry.path() });
        }
    }
    found.sort_by_key(|kept| std::cmp::Reverse((kept.version, kept.taken)));
    Ok(found)
}

/// Removes all but the newest `keep`.
///
/// # Errors
/// One cannot be removed; older ones stay then.
pub(super) fn prune(folder: &Path, cluster: &str, keep: u32) -> Result<()> {
    let found =
        list(folder, cluster).with_context(|| format!("cannot list {}", folder.display()))?;
    for old in found.into_iter().skip(keep as usize) {
        let failed = || format!("cannot remove the old backup {}", old.path.display());
        fs::remove_file(&old.path).with_context(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_whatever_the_clock_says() {
        let folder = std::env::temp_dir().join(format!("kumquat-folder-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("tmp");
        let file = |cluster: &str, seconds: i64, version: u64| {
            let text = format!(
                r#"{{"cluster":"{cluster}","board":"a","release":"1","taken":{},"epoch":1,"version":{version},
                "podRange":"","serviceRange":"","authority":"","authorityKey":"","snapshotBytes":0}}"#,
                seconds * 1_000_000
            );
            let head: BackupHeadV1 = serde_json::from_str(&text).expect("a head");
            fs::write(folder.join(name(&head)), "").expect("written");
            name(&head)
        };
        // The clock of the newest had not been set.
        let names = [
            file("lab", 1_700_000_000, 10),
            file("lab", 1_800_000_000, 200),
            file("lab", 5, 3000),
            file("lab-2", 1_900_000_000, 1),
        ];
        assert_eq!(names[0], "kumquat-lab-20231114T221320Z-v10.backup");
        for stranger in
            ["kumquat-lab-x-v1.backup", "notes.txt", "kumquat-lab-20231114T221320Z-v9.backup.new"]
        {
            fs::write(folder.join(stranger), "").expect("written");
        }
        let versions = || -> Vec<u64> {
            list(&folder, "lab").expect("listed").iter().map(|kept| kept.version).collect()
        };
        assert_eq!(versions(), [3000, 200, 10]);
        assert_eq!(list(&folder, "lab").expect("listed")[1].taken.seconds(), 1_800_000_000);
        prune(&folder, "lab", 2).expect("pruned");
        assert_eq!(versions(), [3000, 200]);
        assert_eq!(list(&folder, "lab-2").expect("listed").len(), 1, "another cluster's");
        assert_eq!(fs::read_dir(&folder).expect("listed").count(), 6);
        fs::remove_dir_all(folder).expect("removed");
    }
}
