//! Keeps the kernel's routes as the cluster is: to the pods of this board, to those of the others.
//!
//! ```text
//!  what the master says of boards ─┐                 ┌─▶ own address of the block on `lo`
//!  this board's address ───────────┼─▶ one pass: ────┼─▶ routes, tunnel, links of pods
//!  the kernel's announcements ─────┘   list, compare └─▶ MTU for new pods, who cannot be reached
//! ```
//! Level-triggered: each pass reads what the kernel has and changes the difference, so it does not
//! matter who took a route away (a cable, a lease, a network manager) or which message was lost.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::ids::Uid;
use model::network::{Ipv4Block, NetState};
use tokio::sync::watch;

use super::kernel::{Done, Kernel, Mended, Wish};
use super::sandbox::PodNetwork;
use crate::io::durable;
use crate::io::keeper::Keeper;
use crate::io::net::{AddressChanges, Links};
use crate::node::driver::blocking;

/// Changes of the kernel's come in groups, ours among them; what comes within this is one pass.
const SETTLE: Duration = Duration::from_millis(200);
/// A pass that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(2);

/// What the loop is started with.
#[derive(Debug)]
pub(super) struct RouteLoop {
    /// This board.
    pub(super) name: String,
    /// Where its block is kept.
    pub(super) data_dir: PathBuf,
    /// Where all pods have their addresses.
    pub(super) pod_range: Ipv4Block,
    /// Where all services have theirs.
    pub(super) service_range: Ipv4Block,
    /// What the master says.
    pub(super) state: watch::Receiver<Arc<NetState>>,
    /// This board's address.
    pub(super) address: watch::Receiver<String>,
    /// This board's pods.
    pub(super) pods: PodNetwork,
    /// Knows where their namespaces are.
    pub(super) keeper: Keeper,
    /// Tells the board's block.
    pub(super) block: watch::Sender<Option<Ipv4Block>>,
    /// Tells the MTU of new pods.
    pub(super) mtu: watch::Sender<u32>,
    /// Tells what came of the last pass.
    pub(super) outcome: watch::Sender<Outcome>,
}

/// What came of a pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Counts passes that changed something.
    pub(super) changes: u64,
    /// What this board lacks, in sentences.
    pub(super) problems: Vec<String>,
    /// Boards to which there is no way, whatever they answer.
    pub(super) cut_off: BTreeSet<String>,
}

/// The block as it was last kept; a board has the same one for life.
pub(super) fn kept_block(data_dir: &Path) -> Option<Ipv4Block> {
    fs::read_to_string(block_path(data_dir)).ok()?.trim().parse().ok()
}

fn block_path(data_dir: &Path) -> PathBuf {
    data_dir.join("node").join("pod-block")
}

impl RouteLoop {
    /// Runs until a channel closes.
    ///
    /// # Errors
    /// The kernel's announcements end, or give no socket.
    pub(super) async fn run(mut self) -> io::Result<()> {
        // Before the first pass reads: no change may fall between.
        let mut changes = AddressChanges::open()?;
        let mut kernel = Kernel::open()?;
        let mut block = kept_block(&self.data_dir);
        let mut failure = None;
        loop {
            let state = self.state.borrow_and_update().clone();
            let told = state.boards.get(self.name.as_str()).and_then(|own| own.pods);
            if let Some(told) = told.filter(|told| block != Some(*told)) {
                self.keep_block(told).await;
                block = Some(told);
            }
            let wish = self.wish(state.clone(), block);
            let Some((back, mut done)) = blocking(move || kernel.pass(wish)).await else {
                return Ok(());
            };
            kernel = back;
            self.keep_mended(std::mem::take(&mut done.mended)).await;
            if let Some(error) = done.failure.as_ref().filter(|new| failure.as_ref() != Some(*new))
            {
                tracing::warn!(error, "the pod network is not complete; trying again");
            }
            failure = done.failure.take();
            self.tell(done);
            if !self.changed(&mut changes, &state, failure.is_none()).await? {
                return Ok(());
            }
        }
    }

    fn wish(&mut self, state: Arc<NetState>, block: Option<Ipv4Block>) -> Wish {
        let address = self.address.borrow_and_update().parse().ok();
        let records = self.pods.records();
        let netns = |uid: &Uid| (*uid, self.keeper.sandbox_netns(&uid.to_string()));
        Wish {
            name: self.name.clone(),
            pod_range: self.pod_range,
            service_range: self.service_range,
            block,
            address: address.filter(|address: &Ipv4Addr| !address.is_loopback()),
            namespaces: records.keys().map(netns).collect(),
            records,
            state,
        }
    }

    /// Has the links recorded that were made anew; one of a pod that went meanwhile goes too.
    async fn keep_mended(&self, mended: Vec<Mended>) {
        for Mended { uid, lost, record } in mended {
            let veth = record.veth.clone();
            if self.pods.mended(uid, &lost, record) {
                tracing::warn!(pod = %uid, veth, "the pod's link was lost; it has another");
                continue;
            }
            let removed = blocking(move || Links::open()?.delete(&veth)).await;
            if let Some(Err(error)) = removed {
                tracing::warn!(pod = %uid, %error, "the link of a pod that went is not removed");
            }
        }
    }

    /// Tells what came of a pass.
    fn tell(&self, done: Done) {
        let Done { changes, mtu, block, problems, cut_off, .. } = done;
        // Whatever else failed: pods of this board can start, and reach those that can be reached.
        if block.is_some() {
            self.block.send_if_modified(|known| std::mem::replace(known, block) != block);
        }
        self.mtu.send_if_modified(|known| std::mem::replace(known, mtu) != mtu);
        self.outcome.send_if_modified(|known| {
            let fresh = Outcome { changes: known.changes + changes, problems, cut_off };
            for problem in fresh.problems.iter().filter(|new| !known.problems.contains(new)) {
                tracing::error!("{problem}");
            }
            let modified = *known != fresh;
            *known = fresh;
            modified
        });
    }

    /// Waits for something that a pass can see; false when the board stops.
    async fn changed(
        &mut self,
        changes: &mut AddressChanges,
        seen: &NetState,
        complete: bool,
    ) -> io::Result<bool> {
        let retry = tokio::time::sleep(RETRY);
        tokio::pin!(retry);
        loop {
            // Cancel safety: all lose nothing when dropped.
            tokio::select! {
                changed = self.state.changed() => {
                    if changed.is_err() {
                        return Ok(false);
                    }
                    if self.state.borrow_and_update().boards != seen.boards {
                        return Ok(true);
                    }
                }
                changed = self.address.changed() => return Ok(changed.is_ok()),
                changed = changes.changed() => {
                    changed?;
                    tokio::time::sleep(SETTLE).await;
                    return Ok(true);
                }
                () = &mut retry, if !complete => return Ok(true),
            }
        }
    }

    /// A board that boots without its master has to know its block.
    async fn keep_block(&self, block: Ipv4Block) {
        let path = block_path(&self.data_dir);
        let kept = blocking(move || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            durable::replace(&path, format!("{block}\n").as_bytes(), durable::PUBLIC)
        });
        tracing::info!(%block, "pods of this board have addresses of");
        if let Some(Err(error)) = kept.await {
            tracing::warn!(%error, "the block of pod addresses is not kept: free space on the data-dir");
        }
    }
}
