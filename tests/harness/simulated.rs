//! A simulated board: the real agent over a fake keeper, many of them in one process.
//!
//! Everything of the agent is real: its desired log, its pod machines, its outbox, its files. Only
//! nothing runs. All boards share one image store, as boards with the same images would look.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kumquat::io::clock::Clock;
use kumquat::io::image::build::{SingleFile, write_archive};
use kumquat::io::image::{ImageStore, Source};
use kumquat::io::keeper::{Keeper, KeeperPaths};
use kumquat::io::link::BoardEnd;
use kumquat::node::{self, NodeError, NodeOptions};
use model::ids::Uid;
use model::network::NetState;
use model::timestamp::Timestamp;
use model::wire::{self, MessageKind, NetV1};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fake_keeper::FakeKeeper;

/// Name of the image that every simulated board has.
pub const IMAGE: &str = "kumquat.test/nothing:v1";

/// An image store in `folder` with [`IMAGE`], which holds one small file.
pub fn images(folder: &Path) -> ImageStore {
    let program = folder.join("nothing");
    std::fs::write(&program, b"nothing runs here\n").expect("program");
    let archive = folder.join("nothing.tar");
    let file = SingleFile {
        name: IMAGE,
        program: &program,
        path: "nothing",
        links: &[],
        entrypoint: &["/nothing"],
    };
    let mut writer = std::fs::File::create(&archive).expect("archive");
    write_archive(&file, &mut writer).expect("archive");
    let images = ImageStore::open(folder.join("images")).expect("image store");
    images.import(std::fs::File::open(&archive).expect("archive"), None).expect("imported");
    images
}

/// A folder for simulated boards in memory, where there is such a place; it goes with this value.
pub struct Folder(PathBuf);

impl Folder {
    /// An empty folder; `name` makes it unique within the machine.
    pub fn new(name: &str) -> Self {
        let shm = Path::new("/dev/shm");
        let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("kq-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("folder");
        Self(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// What the agent of a simulated board is made of, besides its link.
#[derive(Clone)]
pub struct Site {
    /// Node name.
    pub name: String,
    /// Folder of this board alone. A folder `host` in it, when there is one, is what the board sees of
    /// its machine.
    pub folder: PathBuf,
    /// What it says its address is.
    pub address: String,
    /// The images that all boards share.
    pub images: ImageStore,
    /// Gives images that this board lacks.
    pub source: Option<Arc<dyn Source>>,
}

/// A running agent and its keeper.
pub struct SimulatedBoard {
    /// What "runs" on the board.
    pub keeper: FakeKeeper,
    run_dir: PathBuf,
    stop: watch::Sender<bool>,
    agent: JoinHandle<Result<(), NodeError>>,
}

impl SimulatedBoard {
    /// Starts keeper and agent; what it is to run comes over `link`.
    pub async fn start(site: Site, link: BoardEnd) -> Self {
        let paths = KeeperPaths {
            run_dir: site.folder.join("run"),
            data_dir: site.folder.join("data"),
            cgroup: "kumquat-simulated".to_owned(),
            // Never run: the fake one listens before anybody asks.
            exe: "/nonexistent".into(),
        };
        std::fs::create_dir_all(&paths.run_dir).expect("folder");
        std::fs::create_dir_all(&paths.data_dir).expect("folder");
        let keeper = FakeKeeper::listen(&paths.run_dir).expect("a socket");
        let client = Keeper::connect_or_spawn(paths.clone()).await.expect("the fake answers");
        let (stop, stopped) = watch::channel(false);
        let run_dir = paths.run_dir.clone();
        let options = NodeOptions {
            name: site.name,
            address: watch::Sender::new(site.address).subscribe(),
            mastery: watch::Sender::default().subscribe(),
            renewals: None,
            version: "v1.36.2+kumquat.simulated".to_owned(),
            root: Some(site.folder.join("host")).filter(|it| it.exists()).unwrap_or("/".into()),
            data_dir: paths.data_dir,
            run_dir: paths.run_dir,
            keeper: client,
            images: site.images,
            clock: Clock::starting_at(Timestamp(0)),
            source: site.source,
            network: None,
            link,
            upgrades: None,
        };
        let agent = tokio::spawn(node::run(options, stopped));
        Self { keeper, run_dir, stop, agent }
    }

    /// What it knows of the network, as it keeps it for its next start.
    pub fn network(&self) -> NetState {
        let bytes = std::fs::read(self.run_dir.join("net.bin")).unwrap_or_default();
        // A head of eight bytes: format and checksum, which is the agent's own business.
        let Some(body) = bytes.get(8..) else { return NetState::default() };
        let (_, whole): (BTreeMap<Uid, Ipv4Addr>, NetV1) =
            wire::decode(MessageKind::Net, body).expect("a whole file");
        NetState::default().apply(whole).expect("a whole state")
    }

    /// Whether the agent still runs.
    pub fn lives(&self) -> bool {
        !self.agent.is_finished()
    }

    /// Ends the agent.
    pub async fn end(self) {
        self.stop.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(20), self.agent).await;
        ended.expect("the agent ends when told").expect("no panic").expect("a clean end");
    }
}
