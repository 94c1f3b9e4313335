//! How often a board is asked again.

use std::time::{Duration, Instant};

/// Between two times that a board is asked for what is refused each time.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(300);

/// When a board is asked again for what was refused: it says the same for as long as its reason lasts
/// (two boards with one address), so each time later.
#[derive(Default)]
pub(super) struct Again {
    asks: u32,
    not_before: Option<Instant>,
}

impl Again {
    /// Whether to ask now, if something is missing; counts that as asked.
    pub(super) fn ask(&mut self, is_missing: bool, beat: Duration) -> bool {
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        if !is_missing {
            *self = Self::default();
            return false;
        }
        // Half a beat less, or the beat that it means would come a moment too early.
        let wait = beat.saturating_mul(1 << self.asks.min(16)).min(ASK_AGAIN_MAX);
        self.not_before = Some(Instant::now() + wait.saturating_sub(beat / 2));
        self.asks = self.asks.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_asked_later_each_time() {
        let beat = Duration::from_millis(40);
        let mut again = Again::default();
        assert!(again.ask(true, beat) && !again.ask(true, beat));
        let mut waited = Vec::new();
        for _ in 0..3 {
            let began = Instant::now();
            while !again.ask(true, beat) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            waited.push(began.elapsed());
        }
        assert!(waited.windows(2).all(|pair| pair[0] < pair[1]), "{waited:?}");
        while again.not_before.is_some() {
            assert!(!again.ask(false, beat));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(again.ask(true, beat), "after a time without trouble at once");
    }
}
