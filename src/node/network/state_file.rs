//! The network state on disk.
//!
//! `net.bin` = `kqn` and a format byte, crc32c of the rest (u32, little endian), postcard [`FileV2`]. In
//! the run-dir, which is memory, soon after each change: an agent that restarts goes on with it. In
//! the data-dir seldom, because it is flash: a board that comes up without a master has services, and
//! its pods have the addresses that services and policies know.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::future::pending;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::ids::Uid;
use model::network::{Ipv4Block, NetState};
use model::wire::{self, MessageKind, NetV1};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::io::durable;
use crate::node::driver::blocking;
use crate::node::place::replace;

const FILE: &str = "net.bin";
/// The begin of every file, with the format's number.
const FILE_HEAD: &[u8; 4] = b"kqn\x02";
/// Least time between two files in memory.
const RUN_EVERY: Duration = Duration::from_secs(1);
/// Least time between two files on flash.
const DATA_EVERY: Duration = Duration::from_secs(300);
/// Changes of this time go to flash together.
const DATA_GATHER: Duration = Duration::from_secs(10);

/// Addresses of this board's pods.
pub(crate) type Addresses = BTreeMap<Uid, Ipv4Addr>;

/// What a file holds; frozen like what travels on the wire.
#[derive(Serialize, Deserialize)]
struct FileV2 {
    /// Of this board's pods; none in the run-dir, where each pod has a record of its own.
    addresses: Addresses,
    /// A whole one.
    net: NetV1,
}

/// Reads what a folder has; `None` when there is nothing, or nothing that can be read.
pub(super) fn read(folder: &Path) -> Option<(NetState, Addresses)> {
    let path = folder.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "network state cannot be read");
            return None;
        }
    };
    let read = decode(&bytes);
    if read.is_none() {
        // Of another build, or cut short by a board that lost power: the master has it.
        tracing::warn!(path = %path.display(), "network state is damaged and left out");
    }
    read
}

fn decode(bytes: &[u8]) -> Option<(NetState, Addresses)> {
    let (checksum, body) = bytes.strip_prefix(FILE_HEAD)?.split_first_chunk()?;
    if u32::from_le_bytes(*checksum) != crc32c::crc32c(body) {
        return None;
    }
    let FileV2 { addresses, net } = wire::decode(MessageKind::Net, body).ok()?;
    Some((NetState::default().apply(net).ok()?, addresses))
}

fn encode(state: &NetState, addresses: &Addresses) -> Vec<u8> {
    let body = FileV2 { addresses: addresses.clone(), net: state.whole() };
    let body = wire::encode_body(&body);
    [&FILE_HEAD[..], &crc32c::crc32c(&body).to_le_bytes(), &body].concat()
}

/// Keeps the files up to date.
pub(crate) struct NetFiles {
    state: watch::Receiver<Arc<NetState>>,
    addresses: watch::Sender<Arc<Addresses>>,
    /// Name of this board: its own block of addresses goes to flash at once.
    board: String,
    data_dir: PathBuf,
    run_dir: PathBuf,
    in_run_dir: Kept,
    in_data_dir: Kept,
}

/// What a file holds.
struct Kept {
    state: Arc<NetState>,
    addresses: Arc<Addresses>,
    at: Option<Instant>,
}

impl Kept {
    fn read(folder: &Path) -> Self {
        let (state, addresses) = read(folder).unwrap_or_default();
        Self { state: Arc::new(state), addresses: Arc::new(addresses), at: None }
    }

    /// Whether there is anything else to say than the file does, its revision apart.
    fn differs(&self, state: &NetState, addresses: &Addresses) -> bool {
        let kept = &self.state;
        *self.addresses != *addresses
            || (&kept.boards, &kept.services, &kept.policies)
                != (&state.boards, &state.services, &state.policies)
    }
}

impl NetFiles {
    /// Files for this state, which was read from them.
    pub(crate) fn new(
        state: watch::Receiver<Arc<NetState>>,
        board: &str,
        data_dir: &Path,
        run_dir: &Path,
    ) -> Self {
        let in_data_dir = Kept::read(data_dir);
        Self {
            addresses: watch::Sender::new(in_data_dir.addresses.clone()),
            in_data_dir,
            in_run_dir: Kept::read(run_dir),
            board: board.to_owned(),
            data_dir: data_dir.to_owned(),
            run_dir: run_dir.to_owned(),
            state,
        }
    }

    /// The addresses of this board's pods: as the data-dir has them, until somebody says better.
    pub(crate) fn addresses(&self) -> watch::Sender<Arc<Addresses>> {
        self.addresses.clone()
    }

    /// Writes until it is dropped.
    ///
    /// # Cancel safety
    /// A file is old or new, and [`NetFiles::finish`] writes what is left.
    pub(crate) async fn run(&mut self) -> Infallible {
        let mut changed_at: Option<Instant> = None;
        let mut addresses = self.addresses.subscribe();
        loop {
            let (run_at, data_at) = self.due(changed_at);
            // Cancel safety: all arms only wait.
            tokio::select! {
                changed = self.state.changed() => match changed {
                    Ok(()) => drop(changed_at.get_or_insert_with(Instant::now)),
                    Err(_) => return pending().await,
                },
                Ok(()) = addresses.changed() => drop(changed_at.get_or_insert_with(Instant::now)),
                () = until(run_at) => self.write_run().await,
                () = until(data_at) => {
                    self.write_data().await;
                    changed_at = None;
                }
            }
        }
    }

    /// When which file is to be written.
    fn due(&self, changed_at: Option<Instant>) -> (Option<Instant>, Option<Instant>) {
        let state = self.state.borrow();
        let not_before = |kept: &Kept, every| kept.at.map_or_else(Instant::now, |at| at + every);
        let run_at = (self.in_run_dir.state.revision != state.revision)
            .then(|| not_before(&self.in_run_dir, RUN_EVERY));
        let gathered = changed_at.map(|at| at + DATA_GATHER);
        let mut data_at = gathered.map(|at| at.max(not_before(&self.in_data_dir, DATA_EVERY)));
        if self.block(&state) != self.block(&self.in_data_dir.state) {
            data_at = Some(not_before(&self.in_data_dir, RUN_EVERY));
        }
        (run_at, data_at)
    }

    fn block(&self, state: &NetState) -> Option<Ipv4Block> {
        state.boards.get(self.board.as_str())?.pods
    }

    async fn write_run(&mut self) {
        let (state, folder) = (self.state.borrow().clone(), self.run_dir.clone());
        (self.in_run_dir.state, self.in_run_dir.at) = (state.clone(), Some(Instant::now()));
        let write = move || replace(&folder.join(FILE), &encode(&state, &Addresses::new()));
        let written = blocking(write).await;
        complain(&self.run_dir, written);
    }

    async fn write_data(&mut self) {
        let (state, folder) = (self.state.borrow().clone(), self.data_dir.clone());
        let addresses = self.addresses.borrow().clone();
        let differs = self.in_data_dir.differs(&state, &addresses);
        if !differs {
            return;
        }
        self.in_data_dir.at = Some(Instant::now());
        (self.in_data_dir.state, self.in_data_dir.addresses) = (state.clone(), addresses.clone());
        let path = folder.join(FILE);
        let write = move || durable::replace(&path, &encode(&state, &addresses), durable::PUBLIC);
        complain(&self.data_dir, blocking(write).await);
    }

    /// Writes what is not there yet: the agent ends, and the board may be about to be switched off.
    pub(crate) fn finish(&self) {
        let state = self.state.borrow().clone();
        if state.revision != self.in_run_dir.state.revision {
            let bytes = encode(&state, &Addresses::new());
            complain(&self.run_dir, Some(replace(&self.run_dir.join(FILE), &bytes)));
        }
        let addresses = self.addresses.borrow().clone();
        if self.in_data_dir.differs(&state, &addresses) {
            let bytes = encode(&state, &addresses);
            let path = self.data_dir.join(FILE);
            complain(&self.data_dir, Some(durable::replace(&path, &bytes, durable::PUBLIC)));
        }
    }
}

/// A file that cannot be written is written with the next change.
fn complain(folder: &Path, written: Option<io::Result<()>>) {
    if let Some(Err(error)) = written {
        let folder = folder.display();
        tracing::warn!(%folder, %error, "network state is not kept: free space there");
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use model::network::NetBoard;

    use super::*;

    fn state(revision: u64, block: &str) -> Arc<NetState> {
        let pods = block.parse().ok();
        let board = NetBoard { name: "pi-1".into(), pods, ..NetBoard::default() };
        let boards = [("pi-1".into(), Arc::new(board))].into();
        Arc::new(NetState { revision, boards, ..NetState::default() })
    }

    struct Folders(PathBuf);

    impl Folders {
        fn new(name: &str) -> Self {
            let folder = format!("kumquat-net-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(folder);
            for part in ["data", "run"] {
                fs::create_dir_all(folder.join(part)).expect("made");
            }
            Self(folder)
        }

        fn both(&self) -> (PathBuf, PathBuf) {
            (self.0.join("data"), self.0.join("run"))
        }
    }

    impl Drop for Folders {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_comes_back_and_a_damaged_one_does_not() {
        let folders = Folders::new("file");
        let (data, _) = folders.both();
        let before = state(7, "10.42.0.0/25");
        let addresses = Addresses::from([(Uid([7; 16]), Ipv4Addr::new(10, 42, 0, 9))]);
        let bytes = encode(&before, &addresses);
        let head = [&b"kqn\x02"[..], &bytes[4..8], b"\x01", &[7; 16], &[10, 42, 0, 9, 7]].concat();
        assert_eq!(bytes[..head.len()], head, "the form is frozen");
        fs::write(data.join(FILE), &bytes).expect("written");
        assert_eq!(read(&data), Some((NetState::clone(&before), addresses)));
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 4;
            assert_eq!(decode(&rotten), None, "byte {at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_written_soon_and_flash_seldom() {
        let folders = Folders::new("seldom");
        let (data, run) = folders.both();
        let sender = watch::Sender::new(Arc::<NetState>::default());
        let mut files = NetFiles::new(sender.subscribe(), "pi-1", &data, &run);
        let addresses = files.addresses();
        let writing = tokio::spawn(async move { files.run().await });
        let revision = |folder| read(folder).map(|(state, _)| state.revision);
        let revisions = || (revision(&data), revision(&run));
        // The clock stands still while a file is written, and jumps to the next deadline.
        let pass = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        pass(60).await;
        assert_eq!(revisions(), (None, None), "nothing is written when nothing happens");
        sender.send_replace(state(1, "10.42.0.0/25"));
        pass(2).await;
        assert_eq!(revisions(), (Some(1), Some(1)), "its own block at once");
        let boards = |revision| {
            let mut state = NetState::clone(&state(revision, "10.42.0.0/25"));
            let name = format!("pi-{revision}");
            state.boards.insert(name.into(), Arc::default());
            Arc::new(state)
        };
        sender.send_replace(boards(2));
        pass(2).await;
        sender.send_replace(boards(3));
        pass(200).await;
        assert_eq!(revisions(), (Some(1), Some(3)));
        pass(200).await;
        assert_eq!(revisions(), (Some(3), Some(3)));
        let mut same = NetState::clone(&boards(3));
        same.revision = 4;
        sender.send_replace(Arc::new(same.clone()));
        pass(700).await;
        assert_eq!(revisions(), (Some(3), Some(4)), "what says the same is not written to flash");
        let pods = |last| Addresses::from([(Uid([7; 16]), Ipv4Addr::new(10, 42, 0, last))]);
        let kept = |folder| read(folder).map(|(_, addresses)| addresses);
        for last in [2, 3] {
            addresses.send_replace(Arc::new(pods(last)));
            pass(15).await;
            assert_eq!(kept(&data), Some(pods(2)), "seldom");
        }
        pass(400).await;
        assert_eq!((kept(&data), kept(&run)), (Some(pods(3)), Some(Addresses::new())));
        // A comparison without result does not put off the next write.
        same.revision = 5;
        sender.send_replace(same.into());
        pass(310).await;
        addresses.send_replace(Arc::new(pods(4)));
        pass(15).await;
        assert_eq!(kept(&data), Some(pods(4)));
        writing.abort();
        let files = NetFiles::new(sender.subscribe(), "pi-1", &data, &run);
        files.addresses().send_replace(Arc::new(pods(5)));
        files.finish();
        assert_eq!(kept(&data), Some(pods(5)), "a clean stop keeps it all");
    }
}
