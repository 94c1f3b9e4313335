//! What can happen to a master of a running cluster, and how it ends.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::board::{Board, Lost};
use crate::disk::Disk;

/// A disk that is soon full.
pub(crate) const DISK_MEGABYTES: u64 = 64;
/// A jump of a clock by half a year.
const JUMP_SECONDS: i64 = 180 * 86_400;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL of `kumquat up`.
    Killed,
    /// SIGTERM of `kumquat up`: a planned stop, which hands the lead over.
    Stopped,
    /// SIGSTOP of all its processes.
    Frozen,
    /// The cable is pulled at the switch.
    LinkDown,
    /// Packets of one direction are dropped: odd trials those to it, even trials those from it.
    OneWay,
    /// Its data-dir is filled to the last block.
    DiskFull,
    /// Every sync fails with EIO.
    SyncFails,
    /// Its system clock jumps.
    ClockJump,
    /// Nothing: what an idle cluster does.
    Idle,
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Leader,
    Follower,
}

/// Names of all faults, the quickest to heal first.
pub(crate) const FAULTS: [&str; 7] =
    ["clock-jump", "frozen", "link-down", "one-way", "killed", "disk-full", "sync-fails"];

/// One cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) fault: Fault,
    pub(crate) role: Role,
    pub(crate) voters: u8,
}

impl FromStr for Cell {
    type Err = String;

    /// Reads a name such as `link-down-leader-3`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("no cell is called {text}");
        let (rest, voters) = text.rsplit_once('-').ok_or_else(wrong)?;
        let (fault, role) = rest.rsplit_once('-').ok_or_else(wrong)?;
        let fault = match fault {
            "killed" => Fault::Killed,
            "stopped" => Fault::Stopped,
            "frozen" => Fault::Frozen,
            "link-down" => Fault::LinkDown,
            "one-way" => Fault::OneWay,
            "disk-full" => Fault::DiskFull,
            "sync-fails" => Fault::SyncFails,
            "clock-jump" => Fault::ClockJump,
            "idle" => Fault::Idle,
            _ => return Err(wrong()),
        };
        let role = match role {
            "leader" => Role::Leader,
            "follower" | "none" => Role::Follower,
            _ => return Err(wrong()),
        };
        Ok(Self { fault, role, voters: voters.parse().map_err(|_| wrong())? })
    }
}

impl Fault {
    /// Whether the build must know how to fail (`--features fault-injection`).
    pub(crate) fn needs_faulty_build(self) -> bool {
        matches!(self, Self::SyncFails | Self::ClockJump)
    }

    /// Whether each board needs a small disk of its own.
    pub(crate) fn needs_disks(self) -> bool {
        self == Self::DiskFull
    }

    /// Does it to a board.
    pub(crate) fn inflict(self, board: &mut Board, trial: usize) {
        match self {
            Self::Killed => board.kill(),
            Self::Stopped => board.stop(),
            Self::Frozen => board.freeze(),
            Self::LinkDown => board.unplug(),
            Self::OneWay if trial % 2 == 1 => board.lose(Lost::Incoming),
            Self::OneWay => board.lose(Lost::Outgoing),
            Self::DiskFull => fill(&filler(board)),
            Self::SyncFails => replace(&board.run_dir().join("faults"), "sync eio\n"),
            Self::ClockJump => {
                let seconds = if trial % 2 == 1 { JUMP_SECONDS } else { -JUMP_SECONDS };
                replace(&board.run_dir().join("clock-shift"), &format!("{seconds} unsynced\n"));
            }
            Self::Idle => {}
        }
    }

    /// Ends it.
    pub(crate) fn heal(self, board: &mut Board) {
        match self {
            Self::Killed | Self::Stopped => board.start(&[]),
            Self::Frozen => board.thaw(),
            Self::LinkDown => board.replug(),
            Self::OneWay => board.lose_nothing(),
            Self::DiskFull => remove(&filler(board)),
            Self::SyncFails => remove(&board.run_dir().join("faults")),
            Self::ClockJump => remove(&board.run_dir().join("clock-shift")),
            Self::Idle => {}
        }
    }
}

fn filler(board: &Board) -> PathBuf {
    board.data_dir().join("filler")
}

/// Fills the disk under `path` to the last block.
fn fill(path: &Path) {
    let mut file = File::options().create(true).append(true).open(path).expect("filler");
    for size in [1 << 20, 64 << 10, 4 << 10, 512, 1] {
        let piece = vec![b'f'; size];
        while file.write_all(&piece).is_ok() {}
    }
    let _full = file.sync_all();
}

/// Readers see the old file or the new one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::rename(&new, path).expect("renamed");
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("removed: {error}"),
        _ => {}
    }
}

/// Disks of boards, mounted at their data-dirs. Dropped after the boards.
#[derive(Default)]
pub(crate) struct Disks(Vec<(Option<Disk>, PathBuf)>);

impl Disks {
    /// Gives a board that never ran a disk of its own.
    pub(crate) fn add(&mut self, board: &Board) {
        let disk = Disk::at(&board.data_dir(), board.name(), DISK_MEGABYTES);
        let folder = board.data_dir().parent().expect("folder of the board").to_owned();
        self.0.push((Some(disk), folder));
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for (disk, folder) in &mut self.0 {
            drop(disk.take());
            let _gone = fs::remove_dir_all(folder);
        }
    }
}
