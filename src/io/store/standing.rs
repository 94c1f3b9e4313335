//! Who may act: the mandate of one reign, and what ends it.
//!
//! ```text
//! Sole:  lead_alone -> Mandate (always fresh) ... until the store is closed
//! Group: elected, own first entry applied -> Mandate (fresh while a majority answers) ... until deposed
//! ```
//! A mandate is never renewed: leading again is a new reign with a new mandate. Growing from one
//! master to a group keeps the reign, so its mandate begins to ask the majority in place.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use model::masters::{MemberId, Reign};
use tokio::sync::{mpsc, oneshot, watch};

/// This board does not lead, or not any more; nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this board does not lead the cluster")]
pub struct NotLeading {
    /// Who leads, when that is known.
    pub hint: Option<MemberId>,
}

/// Before this much of a lease is left, nothing is begun under it.
const MARGIN_MS: u64 = 50;
/// How long a reader waits for a majority to confirm that this board still leads.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);

/// The right to act as leader in one reign.
#[derive(Clone, Debug)]
pub struct Mandate {
    reign: Reign,
    over: watch::Receiver<bool>,
    /// Empty while nobody else has to be asked.
    quorum: Arc<OnceLock<Quorum>>,
}

/// How a majority is asked.
#[derive(Clone, Debug)]
struct Quorum {
    acked_ms: Arc<AtomicU64>,
    lease_ms: u64,
    /// Says that the engine does not lead any more, before a disk that stalls lets the thread say so.
    over: watch::Receiver<bool>,
    confirm: mpsc::Sender<oneshot::Sender<Result<(), NotLeading>>>,
}

impl Mandate {
    /// Of a master that is alone, and what ends it.
    pub(super) fn alone(reign: Reign) -> (Self, watch::Sender<bool>) {
        let (end, over) = watch::channel(false);
        (Self { reign, over, quorum: Arc::default() }, end)
    }

    /// Of a group's leader. `acked_ms` is the [`boot_ms`] at which the last message was sent that a
    /// majority has answered; `over` turns true when the engine steps down.
    pub(super) fn group(
        reign: Reign,
        acked_ms: Arc<AtomicU64>,
        lease_ms: u64,
        over: watch::Receiver<bool>,
        confirm: mpsc::Sender<oneshot::Sender<Result<(), NotLeading>>>,
    ) -> Self {
        let quorum = Quorum { acked_ms, lease_ms, over: over.clone(), confirm };
        let quorum = Arc::new(OnceLock::from(quorum));
        Self { reign, over, quorum }
    }

    /// Asks from now on the majority that `other`, of the same reign, asks.
    pub(super) fn adopt(&self, other: &Self) {
        if let Some(quorum) = other.quorum.get() {
            self.quorum.get_or_init(|| quorum.clone());
        }
    }

    /// Which reign.
    pub fn reign(&self) -> Reign {
        self.reign
    }

    /// Whether this board may act at this moment: in a group, whether a majority has answered within
    /// the lease.
    pub fn may_act(&self) -> bool {
        if self.is_over() {
            return false;
        }
        self.quorum.get().is_none_or(|quorum| {
            let until = quorum.acked_ms.load(Ordering::Acquire) + quorum.lease_ms;
            boot_ms() + MARGIN_MS < until
        })
    }

    /// Whether the reign has ended.
    pub fn is_over(&self) -> bool {
        is_over(&self.over) || self.quorum.get().is_some_and(|quorum| is_over(&quorum.over))
    }

    /// Waits until the reign has ended.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn over(&self) {
        let mut over = self.over.clone();
        while !self.is_over() {
            let mut quorum = self.quorum.get().map(|quorum| quorum.over.clone());
            let asked = async {
                match &mut quorum {
                    // An error means that the sender is gone, which is an end too.
                    Some(over) => drop(over.changed().await),
                    None => std::future::pending().await,
                }
            };
            // Cancel safety: both only wait.
            tokio::select! {
                _ = over.changed() => {}
                () = asked => {}
            }
        }
    }

    /// Makes sure that this board still leads, and that it has applied whatever was answered before
    /// this call: a read that follows sees the newest state.
    ///
    /// # Errors
    /// [`NotLeading`] when a majority does not confirm it within two seconds.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn confirm(&self) -> Result<(), NotLeading> {
        const NOT: NotLeading = NotLeading { hint: None };
        if self.is_over() {
            return Err(NOT);
        }
        let Some(quorum) = self.quorum.get() else { return Ok(()) };
        let asked = async {
            let (answer, answered) = oneshot::channel();
            quorum.confirm.send(answer).await.map_err(|_| NOT)?;
            answered.await.map_err(|_| NOT)?
        };
        tokio::time::timeout(CONFIRM_WITHIN, asked).await.unwrap_or(Err(NOT))
    }
}

/// A sender that is gone ended without a word: its store or engine is no more.
fn is_over(over: &watch::Receiver<bool>) -> bool {
    *over.borrow() || over.has_changed().is_err()
}

/// Milliseconds since the board started, its sleep included.
pub(super) fn boot_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    // The clock exists since Linux 2.6.39; without it every lease has ended.
    now.map_or(u64::MAX / 2, |now| {
        u64::try_from(Duration::from(now).as_millis()).unwrap_or(u64::MAX / 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REIGN: Reign = Reign { epoch: 1, term: 4 };

    #[tokio::test]
    async fn a_master_that_is_alone_may_act_until_its_end() {
        let (mandate, end) = Mandate::alone(REIGN);
        assert!(mandate.may_act() && !mandate.is_over());
        assert_eq!((mandate.reign(), mandate.confirm().await), (REIGN, Ok(())));
        end.send_replace(true);
        assert!(!mandate.may_act() && mandate.is_over());
        assert!(mandate.confirm().await.is_err());
        mandate.over().await;
        let (mandate, end) = Mandate::alone(REIGN);
        drop(end);
        assert!(!mandate.may_act());
        mandate.over().await;
    }

    #[tokio::test]
    async fn a_leader_of_a_group_acts_only_within_its_lease_and_asks_for_reads() {
        let (sole, _end) = Mandate::alone(REIGN);
        let clone = sole.clone();
        let acked_ms = Arc::new(AtomicU64::new(boot_ms()));
        let (_over, over) = watch::channel(false);
        let (confirm, mut asked) = mpsc::channel(1);
        let group = Mandate::group(REIGN, acked_ms.clone(), 60_000, over, confirm);
        sole.adopt(&group);
        for mandate in [&group, &sole, &clone] {
            assert!(mandate.may_act());
            acked_ms.store(boot_ms().saturating_sub(60_000), Ordering::Release);
            assert!(!mandate.may_act(), "the lease has ended");
            acked_ms.store(boot_ms(), Ordering::Release);
        }
        let reading = tokio::spawn(async move { clone.confirm().await });
        let answer: oneshot::Sender<_> = asked.recv().await.expect("a question");
        answer.send(Ok(())).expect("somebody waits");
        assert_eq!(reading.await.expect("joined"), Ok(()));
        drop(asked);
        assert!(group.confirm().await.is_err(), "nobody is left to ask");
    }
}
