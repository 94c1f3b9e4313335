//! The backups of a cluster in a folder: their names say which is the newest.
//!
//! `kumquat-<cluster>-<authority>-<date>-v<version>.backup`. Versions only grow, whatever a clock says, so they
//! decide. Many clusters have one name, so the authority tells them apart: nobody else's file is ever touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use model::backup::BackupHeadV1;
use model::timestamp::Timestamp;

use crate::io::backup::{UNFINISHED, remove_abandoned};
use crate::io::tls::pin_of;

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

/// Bytes of the authority's pin in a name.
const PIN_BYTES: usize = 8;

/// The backups of one cluster, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Series {
    /// What all their names begin with.
    prefix: String,
}

impl Series {
    /// Of the cluster with this name and authority.
    pub(super) fn new(cluster: &str, pin: [u8; 32]) -> Self {
        let pin: String = pin[..PIN_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { prefix: format!("kumquat-{cluster}-{pin}-") }
    }

    /// The one that a backup belongs to.
    ///
    /// # Errors
    /// Its authority cannot be read.
    pub(super) fn of(head: &BackupHeadV1) -> Result<Self> {
        let pin = pin_of(&head.authority).context("the backup has no authority")?;
        Ok(Self::new(&head.cluster, pin))
    }

    /// Name of the file of a backup; none of it is more than FAT can hold.
    pub(super) fn name(&self, head: &BackupHeadV1) -> String {
        let date = head.taken.to_string();
        let date: String = date.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{}{date}-v{}.backup", self.prefix, head.version)
    }

    fn parse(&self, name: &str) -> Option<(u64, Timestamp)> {
        let rest = name.strip_prefix(&self.prefix)?;
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

    /// Those in a folder, the newest first.
    pub(super) fn list(&self, folder: &Path) -> io::Result<Vec<Kept>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let parsed = entry.file_name().to_str().and_then(|name| self.parse(name));
            if let Some((version, taken)) = parsed {
                found.push(Kept { version, taken, path: entry.path() });
            }
        }
        found.sort_by_key(|kept| std::cmp::Reverse((kept.version, kept.taken)));
        Ok(found)
    }

    /// Removes all but `written` and the newest others, so that `keep` stay.
    ///
    /// # Errors
    /// One cannot be removed; older ones stay then.
    pub(super) fn prune(&self, folder: &Path, written: &Path, keep: u32) -> Result<()> {
        let found = self.list(folder);
        let found = found.with_context(|| format!("cannot list {}", folder.display()))?;
        let others = found.into_iter().filter(|kept| kept.path != written);
        for old in others.skip((keep as usize).saturating_sub(1)) {
            let failed = || format!("cannot remove the old backup {}", old.path.display());
            fs::remove_file(&old.path).with_context(failed)?;
        }
        Ok(())
    }

    /// Removes what was cut while it was written, by a pulled stick or a lost power.
    ///
    /// # Errors
    /// The folder cannot be listed; a file that cannot be removed stays.
    pub(super) fn sweep(&self, folder: &Path) -> Result<()> {
        let listing = || format!("cannot list {}", folder.display());
        for entry in fs::read_dir(folder).with_context(listing)? {
            let entry = entry.with_context(listing)?;
            let name = entry.file_name();
            let whole = name.to_str().and_then(|name| name.strip_suffix(UNFINISHED));
            if whole.is_some_and(|name| self.parse(name).is_some()) {
                remove_abandoned(&entry.path());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::backup::Unfinished;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("kumquat-folder-{name}-{}", std::process::id());
            let folder = Self(std::env::temp_dir().join(name));
            fs::create_dir_all(&folder.0).expect("tmp");
            folder
        }

        fn save(&self, series: &Series, seconds: i64, version: u64) -> PathBuf {
            let text = format!(
                r#"{{"cluster":"","board":"a","release":"1","taken":{},"epoch":1,"version":{version},
                "podRange":"","serviceRange":"","authority":"","authorityKey":"","snapshotBytes":0}}"#,
                seconds * 1_000_000
            );
            let head: BackupHeadV1 = serde_json::from_str(&text).expect("a head");
            let path = self.0.join(series.name(&head));
            fs::write(&path, "").expect("written");
            path
        }

        fn versions(&self, series: &Series) -> Vec<u64> {
            series.list(&self.0).expect("listed").iter().map(|kept| kept.version).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_newest_stay_whatever_the_clock_says() {
        let (folder, lab) = (Folder::new("newest"), Series::new("lab", [0xab; 32]));
        let first = folder.save(&lab, 1_700_000_000, 10);
        assert_eq!(
            first.file_name().and_then(|name| name.to_str()),
            Some("kumquat-lab-abababababababab-20231114T221320Z-v10.backup")
        );
        folder.save(&lab, 1_800_000_000, 200);
        // The clock of the newest had not been set.
        let newest = folder.save(&lab, 5, 3000);
        for stranger in ["kumquat-lab-abababababababab-x-v1.backup", "notes.txt"] {
            fs::write(folder.0.join(stranger), "").expect("written");
        }
        assert_eq!(folder.versions(&lab), [3000, 200, 10]);
        assert_eq!(lab.list(&folder.0).expect("listed")[1].taken.seconds(), 1_800_000_000);
        lab.prune(&folder.0, &newest, 2).expect("pruned");
        assert_eq!(folder.versions(&lab), [3000, 200]);
        assert_eq!(fs::read_dir(&folder.0).expect("listed").count(), 4);
    }

    #[test]
    fn clusters_of_one_name_leave_each_other_their_files() {
        let folder = Folder::new("clusters");
        let old = Series::new("kumquat", [1; 32]);
        let (new, third) = (Series::new("kumquat", [2; 32]), Series::new("kumquat-2", [2; 32]));
        for version in [7000, 8000] {
            folder.save(&old, 1_700_000_000, version);
        }
        folder.save(&third, 1_700_000_000, 9000);
        let written = folder.save(&new, 1_800_000_000, 40);
        new.prune(&folder.0, &written, 1).expect("pruned");
        assert_eq!(folder.versions(&new), [40]);
        assert_eq!(folder.versions(&old), [8000, 7000]);
        assert_eq!(folder.versions(&third), [9000]);
    }

    #[test]
    fn what_was_just_written_stays_whatever_its_version() {
        let (folder, lab) = (Folder::new("written"), Series::new("lab", [1; 32]));
        for version in [100, 200, 300] {
            folder.save(&lab, 1_700_000_000, version);
        }
        let written = folder.save(&lab, 1_800_000_000, 40);
        lab.prune(&folder.0, &written, 2).expect("pruned");
        assert_eq!(folder.versions(&lab), [300, 40]);
        lab.prune(&folder.0, &written, 1).expect("pruned");
        assert_eq!(folder.versions(&lab), [40]);
    }

    #[test]
    fn what_was_cut_goes_and_what_is_being_written_stays() {
        let folder = Folder::new("cut");
        let (lab, other) = (Series::new("lab", [1; 32]), Series::new("lab", [2; 32]));
        let path = |series: &Series, version: u64| {
            let whole = folder.save(series, 1_700_000_000, version);
            fs::remove_file(&whole).expect("removed");
            whole
        };
        let fresh = |path: &Path| PathBuf::from(format!("{}{UNFINISHED}", path.display()));
        let (cut, others) = (fresh(&path(&lab, 1)), fresh(&path(&other, 1)));
        fs::write(&cut, "half").expect("written");
        fs::write(&others, "half").expect("written");
        let being_written = path(&lab, 2);
        let unfinished = Unfinished::create(&being_written).expect("made");
        lab.sweep(&folder.0).expect("swept");
        assert!(!cut.exists(), "nobody writes it");
        assert!(others.exists(), "another cluster's");
        assert!(fresh(&being_written).exists(), "it is being written");
        unfinished.name().expect("named");
        assert!(being_written.exists());
    }
}
