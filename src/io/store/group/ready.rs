//! The ways to the other voters are kept open, whoever leads.
//!
//! A member that is to lead asks all others for their votes, and whoever follows has nothing else to ask
//! them: its first question would wait for a connection and a TLS handshake, longer than a vote may take.
//! In: who votes, and that another member has come. Out: questions that change nothing, more often than a
//! [`GroupWire`] closes what is idle. Deliberately absent: what became of them; an election asks anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::masters::{GroupAskV1, MemberId};
use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::types::Types;
use super::{Engine, GroupWire};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(20);
/// Whoever has come is asked so much later, with others that come meanwhile.
const GATHER: Duration = Duration::from_millis(500);
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(2);

/// Asks the other voters now and then, at once when they are others, and soon after `came`; until the engine
/// ends.
pub(super) async fn keep_ready(engine: Engine, wire: Arc<dyn GroupWire>, came: Arc<Notify>) {
    let mut metrics = engine.server_metrics();
    loop {
        let others = others(&metrics.borrow_watched());
        // Dropped with the round: nobody waits for an answer.
        let mut asked = JoinSet::new();
        for to in others.iter().copied() {
            let wire = Arc::clone(&wire);
            asked.spawn(async move { wire.ask(to, GroupAskV1::Standing, WITHIN).await.is_ok() });
        }
        let next = Instant::now() + EVERY;
        loop {
            // Cancel safety: all three only wait.
            tokio::select! {
                () = sleep_until(next) => break,
                () = came.notified() => {
                    sleep(GATHER).await;
                    break;
                }
                changed = metrics.changed() => if changed.is_err() {
                    return;
                },
            }
            if self::others(&metrics.borrow_watched()) != others {
                break;
            }
        }
    }
}

/// The voters that this member, if it is one, may have to ask for their votes.
fn others(metrics: &RaftServerMetrics<Types>) -> BTreeSet<MemberId> {
    let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
    let own = metrics.id;
    let is_voter = voters.contains(&own);
    voters.into_iter().filter(|id| is_voter && *id != own).map(MemberId).collect()
}
