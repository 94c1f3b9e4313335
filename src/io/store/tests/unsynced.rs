//! A power cut without a disk: what was written and not synced is taken back.
//!
//! Every write through `DiskFile` notes what it covered until the file is synced. What LMDB writes and
//! what is renamed counts as durable at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Mutex;

/// One write that the disk may not have yet.
#[derive(Debug)]
struct Undo {
    file: File,
    offset: u64,
    /// What was there.
    bytes: Vec<u8>,
    length: u64,
}

/// Unsynced writes of every file of one store, oldest first.
#[derive(Debug, Default)]
pub(in crate::io::store) struct Unsynced(Mutex<BTreeMap<u64, Vec<Undo>>>);

impl Unsynced {
    /// Notes what a write of so many bytes, or a cut there, is going to cover.
    pub(in crate::io::store) fn note(
        &self,
        file: &File,
        offset: u64,
        bytes: u64,
    ) -> io::Result<()> {
        let metadata = file.metadata()?;
        let length = metadata.len();
        let end = length.min(offset.saturating_add(bytes));
        let mut covered = vec![0; usize::try_from(end.saturating_sub(offset)).expect("small")];
        file.read_exact_at(&mut covered, offset)?;
        let undo = Undo { file: file.try_clone()?, offset, bytes: covered, length };
        self.0.lock().expect("whole").entry(metadata.ino()).or_default().push(undo);
        Ok(())
    }

    /// The file is on the disk.
    pub(in crate::io::store) fn synced(&self, file: &File) -> io::Result<()> {
        self.0.lock().expect("whole").remove(&file.metadata()?.ino());
        Ok(())
    }

    /// Takes back all that is not; gives how many writes.
    pub(in crate::io::store) fn lose(&self) -> usize {
        let mut lost = 0;
        for undo in
            std::mem::take(&mut *self.0.lock().expect("whole")).into_values().flatten().rev()
        {
            undo.file.write_all_at(&undo.bytes, undo.offset).expect("taken back");
            undo.file.set_len(undo.length).expect("taken back");
            lost += 1;
        }
        lost
    }
}

#[test]
fn what_is_not_synced_is_lost() {
    use super::super::file::{DiskFile, Faults};
    let dir = super::Dir::new();
    std::fs::create_dir_all(&dir.0).expect("made");
    let (path, faults) = (dir.0.join("file"), Faults::volatile());
    let file = DiskFile::create(&path, &faults).expect("made");
    file.write_all_at(b"durable", 0).expect("written");
    file.sync_data().expect("synced");
    assert_eq!(faults.lose_unsynced(), 0);
    file.write_all_at(b"lost and more", 0).expect("written");
    file.set_len(3).expect("cut");
    file.write_all_at(b"x", 90).expect("written");
    assert_eq!(faults.lose_unsynced(), 3);
    assert_eq!(std::fs::read(&path).expect("read"), b"durable");
}
