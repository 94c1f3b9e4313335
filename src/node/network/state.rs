//! What this board knows of the network: the last state that the master told, for all who need it.
//!
//! ```text
//! NetV1 ──take──▶ fits: applied, with those that came ahead of it ──▶ watch ──▶ rules, routes, DNS
//!                 ahead of what is held: kept, and the master is asked (by a beat)        └─▶ files
//!                 behind: dropped
//! ```
//! Whose messages count is judged before (the agent's fence). A state is held until another one comes,
//! over restarts and reboots too: a board without a master goes on with what it knew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::limits::NET_AHEAD_MAX;
use model::network::NetState;
use model::wire::NetV1;
use tokio::sync::watch;

use super::state_file;
use crate::node::desired::Reign;

/// From the sign that something is missing until the master is asked: it may be on its way.
const ASK_AFTER_MILLIS: u64 = 100;
/// From one question to the next.
const ASK_AGAIN_MILLIS: u64 = 1_000;
/// Questions until the next beat, which asks anyway.
const ASKS_MAX: u32 = 3;

/// The state that is held.
#[derive(Debug)]
pub(crate) struct NetHeld {
    state: watch::Sender<Arc<NetState>>,
    /// The leader that was heard last; that of a file is not known.
    reign: Reign,
    /// The state is none of its words.
    is_of_earlier_leader: bool,
    /// Differences to later states, by their base.
    ahead: BTreeMap<u64, NetV1>,
    /// A difference to exactly this state could not be applied: only a whole one helps.
    needs_whole: bool,
    ask_ticks: Option<u64>,
    asks: u32,
}

impl NetHeld {
    /// What was held before a restart, or before a reboot; else nothing.
    pub(crate) fn open(data_dir: &Path, run_dir: &Path) -> Self {
        let files = [run_dir, data_dir].into_iter();
        let states = files.filter_map(state_file::read).map(|(state, _)| state);
        let newest = states.max_by_key(|state| state.revision);
        Self {
            state: watch::Sender::new(Arc::new(newest.unwrap_or_default())),
            reign: (0, 0),
            is_of_earlier_leader: false,
            ahead: BTreeMap::new(),
            needs_whole: false,
            ask_ticks: None,
            asks: 0,
        }
    }

    /// The state, and every later one.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<NetState>> {
        self.state.subscribe()
    }

    /// The state at this moment.
    pub(crate) fn state(&self) -> Arc<NetState> {
        self.state.borrow().clone()
    }

    /// The revision for beats; 0 asks for a whole state.
    pub(crate) fn revision(&self) -> u64 {
        if self.needs_whole { 0 } else { self.held() }
    }

    fn held(&self) -> u64 {
        self.state.borrow().revision
    }

    /// Takes what the leader of this reign says.
    pub(crate) fn take(&mut self, reign: Reign, message: NetV1, now_ticks: u64) {
        if reign > self.reign {
            (self.reign, self.is_of_earlier_leader) = (reign, true);
            self.ahead.clear();
        }
        if message.is_word_of_newest() {
            // It came behind the difference that leads to it: what is not here is lost.
            return self.expect(message.revision, now_ticks);
        }
        if message.base == 0 {
            // One that is not newer came late, unless it is the first word of another leader.
            let is_newer = message.revision > self.held();
            if is_newer || self.is_of_earlier_leader || self.needs_whole {
                self.apply(message);
            }
        } else if message.base == self.held() {
            self.apply(message);
        } else if message.base > self.held() {
            self.ahead.insert(message.base, message);
            if self.ahead.len() > NET_AHEAD_MAX {
                self.ahead.pop_first();
            }
        }
        while let Some(next) = self.ahead.remove(&self.held()) {
            self.apply(next);
        }
        let held = self.held();
        self.ahead.retain(|base, _| *base > held);
        if self.needs_whole || !self.ahead.is_empty() {
            self.miss(now_ticks);
        } else {
            self.ask_ticks = None;
        }
    }

    fn apply(&mut self, message: NetV1) {
        let applied = self.state.borrow().apply(message);
        match applied {
            Ok(state) => {
                tracing::debug!(revision = state.revision, "network state applied");
                (self.needs_whole, self.is_of_earlier_leader) = (false, false);
                self.state.send_replace(Arc::new(state));
            }
            Err(error) => {
                tracing::warn!(%error, "asking for the whole state of the network");
                self.needs_whole = true;
            }
        }
    }

    /// The master says what its newest revision is.
    pub(crate) fn compare(&mut self, newest: u64, now_ticks: u64) {
        if newest != 0 && newest != self.revision() {
            self.asks = 0;
            self.miss(now_ticks);
        } else if self.ahead.is_empty() {
            self.ask_ticks = None;
        }
    }

    /// A revision has been sent to everybody: asked for at once when it is not here.
    fn expect(&mut self, newest: u64, now_ticks: u64) {
        if newest > self.held() || self.needs_whole {
            self.asks = 0;
            self.ask_ticks = Some(now_ticks);
        }
    }

    fn miss(&mut self, now_ticks: u64) {
        if self.ask_ticks.is_none() && self.asks < ASKS_MAX {
            self.ask_ticks = Some(now_ticks + ASK_AFTER_MILLIS);
        }
    }

    /// When the master is to be asked by a beat.
    pub(crate) fn ask_ticks(&self) -> Option<u64> {
        self.ask_ticks
    }

    /// A beat was sent.
    pub(crate) fn asked(&mut self, now_ticks: u64) {
        self.asks += 1;
        self.ask_ticks = self.ask_ticks.take().filter(|_| self.asks < ASKS_MAX);
        if let Some(at) = &mut self.ask_ticks {
            *at = now_ticks + ASK_AGAIN_MILLIS;
        }
    }

    /// The time of a beat has come, which asks as well.
    pub(crate) fn beat(&mut self) {
        self.asks = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use model::network::NetBoard;

    use super::*;

    fn new() -> NetHeld {
        let nowhere = PathBuf::from("/nonexistent");
        NetHeld::open(&nowhere, &nowhere)
    }

    /// A state with as many boards as its revision.
    fn state(revision: u64) -> NetState {
        let board = |number: u64| {
            let board = NetBoard { name: format!("pi-{number}"), ..NetBoard::default() };
            (board.name.as_str().into(), Arc::new(board))
        };
        NetState { revision, boards: (1..=revision).map(board).collect(), ..NetState::default() }
    }

    fn change(from: u64, to: u64) -> NetV1 {
        state(from).change_to(&state(to))
    }

    #[test]
    fn what_comes_ahead_waits_for_what_is_missing() {
        let mut held = new();
        held.take((1, 1), state(3).whole(), 0);
        held.take((1, 1), change(4, 5), 0);
        held.take((1, 1), change(5, 7), 0);
        assert_eq!((held.revision(), held.ask_ticks()), (3, Some(ASK_AFTER_MILLIS)));
        held.take((1, 1), change(3, 4), 0);
        assert_eq!((held.revision(), held.ask_ticks()), (7, None));
        assert_eq!(**held.subscribe().borrow(), state(7));
        held.take((1, 1), change(4, 5), 0);
        held.take((1, 1), state(5).whole(), 0);
        assert_eq!(held.revision(), 7, "what is behind is dropped");
        held.take((1, 1), change(8, 9), 0);
        held.take((1, 1), state(8).whole(), 0);
        assert_eq!(held.revision(), 9, "a whole one and what was published meanwhile");
    }

    #[test]
    fn a_later_leader_counts_whatever_it_says() {
        let mut held = new();
        held.take((1, 1), state(7).whole(), 0);
        held.take((1, 2), state(5).whole(), 0);
        assert_eq!(held.revision(), 5);
        held.take((1, 2), state(4).whole(), 0);
        assert_eq!(held.revision(), 5);
        held.take((1, 3), change(5, 6), 0);
        held.take((1, 3), state(5).whole(), 0);
        assert_eq!(held.revision(), 6, "its difference was newer");
    }

    #[test]
    fn a_lost_last_difference_is_asked_for_at_once() {
        let mut held = new();
        held.take((1, 1), state(7).whole(), 0);
        let before = held.state();
        for newest in [6, 7] {
            held.take((1, 1), NetV1::newest(newest), 10);
            assert_eq!((held.revision(), held.ask_ticks()), (7, None));
        }
        assert!(Arc::ptr_eq(&before, &held.state()), "nothing changed");
        held.take((1, 1), NetV1::newest(8), 20);
        assert_eq!((held.revision(), held.ask_ticks()), (7, Some(20)));
        held.asked(20);
        held.take((1, 1), change(7, 8), 30);
        assert_eq!((held.revision(), held.ask_ticks()), (8, None));
    }

    #[test]
    fn what_cannot_be_applied_asks_for_everything() {
        let mut held = new();
        held.take((1, 1), state(7).whole(), 0);
        let mut broken = change(7, 8);
        let service = "a/b".into();
        let endpoints = model::wire::NetEndpointsV1 { service, gone: vec![], set: vec![] };
        broken.endpoints.push(endpoints);
        held.take((1, 1), broken, 0);
        assert_eq!(held.revision(), 0);
        assert_eq!(**held.subscribe().borrow(), state(7), "what was known still is");
        assert!(held.ask_ticks().is_some());
        held.take((1, 1), state(7).whole(), 0);
        assert_eq!((held.revision(), held.ask_ticks()), (7, None));
    }

    #[test]
    fn the_master_is_asked_a_few_times_and_then_by_beats() {
        let mut held = new();
        held.compare(0, 0);
        assert_eq!(held.ask_ticks(), None, "the master knows nothing yet");
        held.compare(9, 0);
        let mut at = Vec::new();
        while let Some(ticks) = held.ask_ticks() {
            at.push(ticks);
            held.asked(ticks);
        }
        assert_eq!(at, [100, 1_100, 2_100]);
        held.take((1, 1), change(7, 8), 3_000);
        assert_eq!(held.ask_ticks(), None);
        held.beat();
        held.take((1, 1), change(8, 9), 5_000);
        assert_eq!(held.ask_ticks(), Some(5_100));
        held.take((1, 1), state(9).whole(), 6_000);
        assert_eq!(held.ask_ticks(), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut held = new();
        for number in 1..=3 * NET_AHEAD_MAX as u64 {
            held.take((1, 1), change(2 * number, 2 * number + 1), 0);
        }
        assert_eq!(held.ahead.len(), NET_AHEAD_MAX);
    }
}
