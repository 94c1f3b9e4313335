//! Asks every board on the pod network whether it is there.
//!
//! Each board that is Ready is asked for an echo at its own pod address: every half minute or so, and
//! soon after the ways to boards changed. Who does not answer is asked twice more at once. One small
//! packet to each board and half minute is all there is on a network where nothing is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use logic::network::address_pool::own_address;
use logic::network::reach::{MISSES_MAX, Reach};
use model::limits::ECHO_BOARDS_MAX;
use model::network::{Ipv4Block, NetState};
use tokio::sync::watch;

use super::routes::Outcome;
use super::sandbox::random;
use crate::io::net::Echo;

/// From one round to the next, a quarter more or less.
const EVERY: Duration = Duration::from_secs(30);
/// The same while a board does not answer: it is told soon when it does again.
const EVERY_WHILE_LOST: Duration = Duration::from_secs(10);
/// After a change: routes of both sides are there by then.
const AFTER_CHANGE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(1);

/// What the loop is started with.
#[derive(Debug)]
pub(super) struct ProbeLoop {
    /// This board.
    pub(super) name: String,
    /// Which boards there are.
    pub(super) state: watch::Receiver<Arc<NetState>>,
    /// This board's block.
    pub(super) block: watch::Receiver<Option<Ipv4Block>>,
    /// Tells when ways have changed.
    pub(super) outcome: watch::Receiver<Outcome>,
    /// Takes the names of boards that do not answer.
    pub(super) lost: watch::Sender<BTreeSet<String>>,
}

impl ProbeLoop {
    /// Runs until a channel closes.
    pub(super) async fn run(mut self) {
        let mut reach = Reach::default();
        let mut asked_last = String::new();
        let mut pause = AFTER_CHANGE;
        loop {
            let boards = self.boards();
            if !self.wait(pause, &boards).await {
                return;
            }
            let boards = self.boards();
            reach.ask(boards.iter().map(|(name, at)| (name.clone(), at.1)));
            let own = self.block.borrow_and_update().map(own_address);
            if let Some(own) = own.filter(|_| !boards.is_empty()) {
                self.round(own, &mut reach, &mut asked_last).await;
            }
            let lost = reach.lost();
            pause = match lost.is_empty() {
                true => jittered(EVERY),
                false => jittered(EVERY_WHILE_LOST),
            };
            self.tell(lost);
        }
    }

    /// Boards that should answer: where they are, and at which pod address.
    fn boards(&mut self) -> BTreeMap<String, (Ipv4Addr, Ipv4Addr)> {
        let state = self.state.borrow_and_update();
        let others = state.boards.values().filter(|board| board.ready && board.name != self.name);
        let at = others.filter_map(|board| {
            Some((board.name.clone(), (board.address?, own_address(board.pods?))))
        });
        at.collect()
    }

    /// Waits for the next round; false when the board stops.
    async fn wait(
        &mut self,
        pause: Duration,
        boards: &BTreeMap<String, (Ipv4Addr, Ipv4Addr)>,
    ) -> bool {
        let due = tokio::time::sleep(pause);
        tokio::pin!(due);
        loop {
            // Cancel safety: all lose nothing when dropped.
            let changed = tokio::select! {
                () = &mut due => return true,
                changed = self.state.changed() => {
                    // Services come and go all the time; that says nothing of boards.
                    changed.map(|()| self.boards() != *boards)
                }
                changed = self.block.changed() => changed.map(|()| {
                    self.block.borrow_and_update();
                    true
                }),
                changed = self.outcome.changed() => changed.map(|()| {
                    self.outcome.borrow_and_update();
                    true
                }),
            };
            let Ok(changed) = changed else { return false };
            let soon = tokio::time::Instant::now() + AFTER_CHANGE;
            if changed && soon < due.deadline() {
                due.as_mut().reset(soon);
            }
        }
    }

    /// Asks those whose turn it is, and again those who do not answer.
    async fn round(&self, own: Ipv4Addr, reach: &mut Reach, asked_last: &mut String) {
        let mut echo = match Echo::open(own) {
            Ok(echo) => echo,
            Err(error) => {
                tracing::debug!(%error, "boards are not asked for an echo");
                return;
            }
        };
        let mut asked: BTreeSet<Ipv4Addr> = turn(reach, asked_last);
        for _ in 0..MISSES_MAX {
            match echo.ask(&asked, WITHIN).await {
                Ok(answered) => reach.heard(&asked, &answered),
                Err(error) => return tracing::debug!(%error, "echoes are not heard"),
            }
            asked = reach.doubtful().map(|(_, address)| address).collect();
            if asked.is_empty() {
                return;
            }
        }
    }

    fn tell(&self, lost: BTreeSet<String>) {
        self.lost.send_if_modified(|known| {
            for board in lost.difference(known) {
                tracing::warn!(board, "pods of this board do not reach those of another one");
            }
            for board in known.difference(&lost) {
                tracing::info!(board, "another board is reached again, or gone");
            }
            let changed = *known != lost;
            *known = lost;
            changed
        });
    }
}

/// The next boards in the order of their names, [`ECHO_BOARDS_MAX`] at most.
fn turn(reach: &Reach, last: &mut String) -> BTreeSet<Ipv4Addr> {
    let all: Vec<(&str, Ipv4Addr)> = reach.peers().collect();
    let first = all.partition_point(|(name, _)| *name <= last.as_str());
    let order = all[first..].iter().chain(&all[..first]).take(ECHO_BOARDS_MAX);
    let chosen: Vec<_> = order.collect();
    if let Some((name, _)) = chosen.last() {
        *last = (*name).to_owned();
    }
    chosen.into_iter().map(|(_, address)| *address).collect()
}

fn jittered(pause: Duration) -> Duration {
    let share = random().map_or(128, |bytes| u32::from(bytes[0]));
    pause * 3 / 4 + pause * share / 510
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn() {
        let mut reach = Reach::default();
        let address = |number: u32| Ipv4Addr::from_bits(0x0a2a_0001 + (number << 7));
        reach.ask((0..150).map(|number| (format!("board-{number:03}"), address(number))));
        let mut last = String::new();
        let mut seen = BTreeSet::new();
        for round in 1..=3 {
            let chosen = turn(&reach, &mut last);
            assert_eq!(chosen.len(), ECHO_BOARDS_MAX);
            seen.extend(chosen);
            assert_eq!(seen.len(), (round * ECHO_BOARDS_MAX).min(150));
        }
    }

    #[test]
    fn pauses_vary_by_a_quarter() {
        for _ in 0..100 {
            let pause = jittered(EVERY);
            assert!(pause >= EVERY * 3 / 4 && pause <= EVERY * 5 / 4, "{pause:?}");
        }
    }
}
