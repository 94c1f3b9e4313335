//! Discovery: who leads a cluster on this link, by mDNS (`_kumquat._tcp`, RFC 6762 and 6763).
//!
//! In: leader records, names, the wish to found a cluster and where a member of the masters is to announce,
//! and a judge of what is heard. Out: the records heard, newest last known per cluster and board, on a
//! watch channel. A record is a hint: mDNS can be forged by everybody
//! on the link, so a caller that knows its cluster's authority passes a judge that checks signatures,
//! and nothing else takes up room. It is no failure detector: a board that is killed stays up to 90 s.
//!
//! Only interfaces shared with other boards are used ([`model::interfaces`]); those that come and go are
//! followed. Everything is bounded: the library's cache grows with what strangers send, so its daemon
//! is replaced when the cache does ([`driver`]). IPv4 only. No default route is needed.

mod driver;
mod fresh;
mod heard;
mod judging;
mod members;
mod names;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use model::genesis::GenesisRecord;
use model::interfaces;
use model::leader::SignedRecord;
use nix::net::if_::InterfaceFlags;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use driver::Driver;
use fresh::Fresh;
use members::Company;

pub use members::{HearMember, Members};
pub use names::Names;

/// How long the goodbye may take.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Says whether a heard record counts; it is called for each different one and may check a signature.
pub type Judge = Arc<dyn Fn(&SignedRecord) -> bool + Send + Sync>;

/// What to listen for, and where.
#[derive(Clone)]
pub struct Options {
    /// The only interface to use, also if it looks like one of containers; else all that do not.
    pub interface: Option<String>,
    /// Which records count.
    pub judge: Judge,
    /// For a member of the group of masters.
    pub members: Option<Members>,
}

impl Default for Options {
    /// Everybody's records, on every shared interface.
    fn default() -> Self {
        Self { interface: None, judge: Arc::new(|_| true), members: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("interface", &self.interface).finish_non_exhaustive()
    }
}

/// A responder and listener that runs until it is stopped or dropped.
pub struct Discovery {
    announced: watch::Sender<Option<SignedRecord>>,
    names: watch::Sender<Names>,
    judge: watch::Sender<Judge>,
    heard: watch::Receiver<Vec<SignedRecord>>,
    genesis: watch::Sender<Option<GenesisRecord>>,
    fresh: watch::Receiver<Vec<GenesisRecord>>,
    asked: Arc<Notify>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heard = self.heard.borrow().len();
        f.debug_struct("Discovery").field("heard", &heard).finish_non_exhaustive()
    }
}

impl Discovery {
    /// Starts to listen in the network namespace of the calling thread. A link without multicast is
    /// no error: nothing is heard then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(options: Options) -> Self {
        let (announced, to_announce) = watch::channel(None);
        let (names, to_name) = watch::channel(Names::new());
        let (judge, judged_by) = watch::channel(options.judge);
        let (publish, heard) = watch::channel(Vec::new());
        let (genesis, to_found) = watch::channel(None);
        let (found, fresh) = watch::channel(Vec::new());
        let asked = Arc::new(Notify::new());
        let driver = Driver::new(
            options.interface,
            (to_announce, to_name),
            judged_by,
            publish,
            Arc::clone(&asked),
            Fresh::new(to_found, found),
            Company(options.members),
        );
        let task = tokio::spawn(driver.run());
        Self { announced, names, judge, heard, genesis, fresh, asked, task }
    }

    /// The records heard from others that count, the greatest rank first.
    pub fn heard(&self) -> watch::Receiver<Vec<SignedRecord>> {
        self.heard.clone()
    }

    /// Announces this board's record, in place of the one before.
    pub fn announce(&self, record: SignedRecord) {
        self.announced.send_replace(Some(record));
    }

    /// Announces that this board wants to found a cluster, or (with `None`) that it does not any more.
    pub fn announce_genesis(&self, record: Option<GenesisRecord>) {
        self.genesis.send_replace(record);
    }

    /// The boards heard that want to found a cluster with the same token, while this one announces it.
    pub fn fresh(&self) -> watch::Receiver<Vec<GenesisRecord>> {
        self.fresh.clone()
    }

    /// Says goodbye to the record that was announced.
    pub fn withdraw(&self) {
        self.announced.send_replace(None);
    }

    /// Announces these names of the site, in place of those before. The link must be one on which
    /// their addresses lie.
    pub fn name(&self, names: Names) {
        self.names.send_if_modified(|before| {
            let is_new = *before != names;
            *before = names;
            is_new
        });
    }

    /// Judges anew what was heard, and everything from here on: for a board that has learned its
    /// cluster's authority.
    pub fn judge_by(&self, judge: Judge) {
        self.judge.send_replace(judge);
    }

    /// Asks the link again, at most once a second; for a board whose leader does not answer.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Says goodbye and ends.
    pub async fn stop(self) {
        let Self { announced, names, judge, heard, genesis, fresh, asked, mut task } = self;
        drop((announced, names, judge, heard, genesis, fresh, asked));
        if tokio::time::timeout(STOP_WITHIN, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Whether there is an interface that is up, takes multicast and is shared with other boards. It may
/// have no address yet.
pub fn usable_interfaces(named: Option<&str>) -> bool {
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST;
    nix::ifaddrs::getifaddrs().is_ok_and(|mut all| {
        all.any(|entry| {
            entry.flags.contains(wanted)
                && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
                && interfaces::is_shared(&entry.interface_name, named)
        })
    })
}
