//! The vote of this member, and which member it is: two slots in one small file.
//!
//! ```text
//! slot (512 bytes at 0 and at 4096):
//! "KQVT" | format u16 | zero u16 | sequence | epoch | own | term | of | granted u64 | held u64 | zeros | crc32c u32
//! ```
//! Little endian; the crc covers all of the slot before it. Each vote goes to the slot that holds the
//! older one and is synced before it counts: a power cut can spoil only a vote that nobody was told of.
//! `held` is written when the first entry is on the disk and before anybody hears of it: with that mark and
//! without an entry this replica has forgotten what it acknowledged. 0.2.0 knows no such mark and leaves zero.
//! Without the file the store is that of a master which is alone and asks nobody.

use std::{io, path::Path};

use model::masters::{MemberId, VoteV1};

use super::{
    file::{self, DiskFile, Faults},
    log::io_error,
    types::OpenError,
};

const MAGIC: &[u8; 4] = b"KQVT";
const FORMAT: u16 = 1;
const SLOT_BYTES: usize = 512;
/// Slots lie in blocks of their own.
const SLOT_PLACES: [usize; 2] = [0, 4096];
const FILE_BYTES: usize = 8192;
const CRC_AT: usize = SLOT_BYTES - 4;

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ballot {
    /// Epoch of the group.
    pub(super) epoch: u64,
    /// Which member this replica is.
    pub(super) own: MemberId,
    /// Its newest vote; term 0 before the first.
    pub(super) vote: VoteV1,
    /// Whether its log has held an entry, which the group may have counted.
    pub(super) held: bool,
}

/// The open file.
#[derive(Debug)]
pub(super) struct VoteFile {
    file: DiskFile,
    sequence: u64,
    ballot: Ballot,
    /// A write or sync failed: what the disk holds is unknown until the file is opened anew.
    broken: bool,
}

impl VoteFile {
    /// Opens the file; `None` when there is none.
    ///
    /// # Errors
    /// [`OpenError::Vote`] when neither slot can be read: this replica must not vote any more.
    pub(super) fn open(path: &Path, faults: &Faults) -> Result<Option<Self>, OpenError> {
        let file = match DiskFile::open(path, faults) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", path)(error)),
        };
        file::settle(file.inner()).map_err(io_error("sync", path))?;
        let bytes = std::fs::read(path).map_err(io_error("read", path))?;
        let slots = SLOT_PLACES.map(|at| bytes.get(at..at + SLOT_BYTES).and_then(decode));
        let newest = slots.into_iter().flatten().max_by_key(|(sequence, _)| *sequence);
        let Some((sequence, ballot)) = newest else {
            return Err(OpenError::Vote(path.to_owned()));
        };
        Ok(Some(Self { file, sequence, ballot, broken: false }))
    }

    /// Makes the file, durably: from now on this replica is that member.
    pub(super) fn create(path: &Path, ballot: Ballot, faults: &Faults) -> io::Result<Self> {
        let temporary = path.with_extension("new");
        file::remove(&temporary, faults)?;
        let file = DiskFile::create(&temporary, faults)?;
        let mut bytes = vec![0; FILE_BYTES];
        let sequence = 0;
        bytes[..SLOT_BYTES].copy_from_slice(&encode(sequence, &ballot));
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        if let Some(dir) = path.parent() {
            file::sync_dir(dir, faults)?;
        }
        Ok(Self { file, sequence, ballot, broken: false })
    }

    /// What was saved last.
    pub(super) fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Saves a vote, durably. After a failure nothing is saved until the file is opened anew.
    pub(super) fn save(&mut self, vote: VoteV1) -> io::Result<()> {
        self.replace(Ballot { vote, ..self.ballot })
    }

    /// Keeps for good that the log has held an entry; as [`VoteFile::save`].
    pub(super) fn save_held(&mut self) -> io::Result<()> {
        self.replace(Ballot { held: true, ..self.ballot })
    }

    fn replace(&mut self, ballot: Ballot) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier vote could not be saved"));
        }
        let sequence = self.sequence + 1;
        let place = SLOT_PLACES[usize::from(sequence % 2 == 1)] as u64;
        let written = self.file.write_all_at(&encode(sequence, &ballot), place);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            self.broken = true;
            return Err(error);
        }
        self.sequence = sequence;
        self.ballot = ballot;
        Ok(())
    }
}

fn encode(sequence: u64, ballot: &Ballot) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..4].copy_from_slice(MAGIC);
    slot[4..6].copy_from_slice(&FORMAT.to_le_bytes());
    let VoteV1 { term, of, granted } = ballot.vote;
    let (granted, held) = (u64::from(granted), u64::from(ballot.held));
    let words = [sequence, ballot.epoch, ballot.own.0, term, of.0, granted, held];
    for (word, at) in words.into_iter().zip((8..).step_by(8)) {
        slot[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&slot[..CRC_AT]);
    slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, Ballot)> {
    let crc = u32::from_le_bytes(slot.get(CRC_AT..SLOT_BYTES)?.try_into().ok()?);
    let format = u16::from_le_bytes([slot[4], slot[5]]);
    if &slot[..4] != MAGIC || format != FORMAT || crc != crc32c::crc32c(&slot[..CRC_AT]) {
        return None;
    }
    let word = |nth: usize| {
        let at = 8 + 8 * nth;
        u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes of the slot"))
    };
    let vote = VoteV1 { term: word(3), of: MemberId(word(4)), granted: word(5) == 1 };
    let (epoch, own, held) = (word(1), MemberId(word(2)), word(6) == 1);
    Some((word(0), Ballot { epoch, own, vote, held }))
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, os::unix::fs::FileExt, path::PathBuf};

    use super::*;
    use crate::io::store::tests::Dir;

    const FIRST: Ballot = Ballot {
        epoch: 2,
        own: MemberId(3),
        vote: VoteV1 { term: 0, of: MemberId(3), granted: false },
        held: false,
    };

    fn vote(term: u64) -> VoteV1 {
        VoteV1 { term, of: MemberId(term % 3), granted: term.is_multiple_of(2) }
    }

    fn made(dir: &Dir, votes: u64) -> (PathBuf, VoteFile) {
        let path = dir.0.join("vote");
        let mut file = VoteFile::create(&path, FIRST, &Faults::default()).expect("made");
        for term in 1..=votes {
            file.save(vote(term)).expect("saved");
        }
        (path, file)
    }

    fn read(path: &Path) -> Result<Option<Ballot>, OpenError> {
        let opened = VoteFile::open(path, &Faults::default());
        opened.map(|file| file.map(|file| file.ballot()))
    }

    #[test]
    fn golden_bytes_of_a_slot() {
        let ballot = Ballot { vote: VoteV1 { term: 7, of: MemberId(4), granted: true }, ..FIRST };
        let slot = encode(9, &ballot);
        let mut golden = b"KQVT\x01\0\0\0".to_vec();
        for word in [9u64, 2, 3, 7, 4, 1] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&golden);
        golden.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(slot.as_slice(), golden);
        assert_eq!(decode(&slot), Some((9, ballot)));
        let mut held = slot;
        held[8 + 8 * 6] = 1;
        let crc = crc32c::crc32c(&held[..CRC_AT]);
        held[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(encode(9, &Ballot { held: true, ..ballot }), held);
        assert_eq!(decode(&held), Some((9, Ballot { held: true, ..ballot })));
        for at in 0..SLOT_BYTES {
            let mut bad = slot;
            bad[at] ^= 4;
            assert_eq!(decode(&bad), None, "byte {at}");
        }
    }

    #[test]
    fn the_newest_vote_is_read_back_and_no_file_means_alone() {
        let dir = Dir::new();
        assert_eq!(read(&dir.0.join("vote")).expect("read"), None);
        for votes in 0..6 {
            let dir = Dir::new();
            let (path, _) = made(&dir, votes);
            let vote = if votes == 0 { FIRST.vote } else { vote(votes) };
            assert_eq!(read(&path).expect("read"), Some(Ballot { vote, ..FIRST }), "{votes}");
        }
    }

    #[test]
    fn a_mark_outlives_the_votes_after_it() {
        let dir = Dir::new();
        let (path, mut file) = made(&dir, 2);
        file.save_held().expect("saved");
        let kept = Ballot { vote: vote(2), held: true, ..FIRST };
        assert_eq!(read(&path).expect("read"), Some(kept));
        for term in 3..6 {
            file.save(vote(term)).expect("saved");
            let kept = Ballot { vote: vote(term), held: true, ..FIRST };
            assert_eq!(read(&path).expect("read"), Some(kept));
        }
    }

    #[test]
    fn a_vote_cut_while_it_is_written_leaves_the_one_before() {
        for torn in [0, 1, 8, 100, 300, 511] {
            for votes in 1..4 {
                let dir = Dir::new();
                let (path, file) = made(&dir, votes);
                let next = encode(file.sequence + 1, &Ballot { vote: vote(50), ..FIRST });
                let place = SLOT_PLACES[usize::from((file.sequence + 1) % 2 == 1)] as u64;
                let raw = OpenOptions::new().write(true).open(&path).expect("opens");
                raw.write_all_at(&next[..torn], place).expect("written");
                let kept = Ballot { vote: vote(votes), ..FIRST };
                assert_eq!(read(&path).expect("read"), Some(kept), "{torn} bytes, {votes} votes");
            }
        }
    }

    #[test]
    fn a_file_without_a_good_slot_does_not_open() {
        let dir = Dir::new();
        let (path, _) = made(&dir, 3);
        let raw = OpenOptions::new().write(true).open(&path).expect("opens");
        for place in SLOT_PLACES {
            raw.write_all_at(&[0xff; 16], place as u64 + 40).expect("written");
        }
        assert!(matches!(read(&path), Err(OpenError::Vote(_))));
        raw.set_len(100).expect("cut");
        assert!(matches!(read(&path), Err(OpenError::Vote(_))));
    }

    #[test]
    fn after_a_failed_sync_no_vote_is_saved_until_reopened() {
        for nth in 1..=2 {
            let dir = Dir::new();
            let (path, _) = made(&dir, 2);
            let faults = Faults::at(nth, libc::EIO, false);
            let mut file = VoteFile::open(&path, &faults).expect("opens").expect("there");
            assert!(file.save(vote(3)).is_err());
            assert!(file.save(vote(4)).is_err(), "a vote after a failed one counted");
            assert_eq!(file.ballot().vote, vote(2));
            let found = read(&path).expect("read").expect("there").vote;
            assert!(found == vote(2) || found == vote(3), "{found:?}");
        }
    }
}
