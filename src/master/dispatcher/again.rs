//! How often a board is asked again.

use std::time::{Duration, Instant};

/// Between two times that a board is asked for what is refused each time.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(300);

/// When a board is asked again for what is missing: with its next beat when the question or the answer
/// was lost. What was refused is asked for later each time: the board says the same for as long as its
/// reason lasts (two boards with one address).
#[derive(Default)]
pub(super) struct Again {
    asked: Option<Instant>,
    /// What was asked last has come.
    is_answered: bool,
    /// Questions in a row whose answers did not help.
    answers: u32,
}

impl Again {
    /// Whether to ask now, if something is missing; counts that as asked.
    pub(super) fn ask(&mut self, is_missing: bool, beat: Duration, now: Instant) -> bool {
        if self.asked.is_some_and(|at| now.saturating_duration_since(at) < self.wait(beat)) {
            return false;
        }
        if !is_missing {
            *self = Self::default();
            return false;
        }
        (self.asked, self.is_answered) = (Some(now), false);
        true
    }

    /// The board has said what it was asked for.
    pub(super) fn answered(&mut self) {
        if self.asked.is_some() && !self.is_answered {
            self.is_answered = true;
            self.answers = self.answers.saturating_add(1);
        }
    }

    /// Half a beat less than is meant, or the beat that it means would come a moment too early.
    fn wait(&self, beat: Duration) -> Duration {
        let doubled = if self.is_answered { self.answers.saturating_sub(1).min(16) } else { 0 };
        beat.saturating_mul(1 << doubled).min(ASK_AGAIN_MAX).saturating_sub(beat / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(5);

    /// Beats after which it is asked, of the next `beats`; `answers` says whether it hears back.
    fn asks(again: &mut Again, beats: u32, answers: bool) -> Vec<u32> {
        let began = Instant::now() + Duration::from_secs(1_000);
        let mut asked = Vec::new();
        for beat in 0..beats {
            if again.ask(true, BEAT, began + beat * BEAT) {
                asked.push(beat);
                if answers {
                    again.answered();
                }
            }
        }
        asked
    }

    #[test]
    fn what_is_refused_is_asked_for_later_each_time() {
        let mut again = Again::default();
        assert_eq!(asks(&mut again, 40, true), [0, 1, 3, 7, 15, 31]);
        let later = Instant::now() + Duration::from_secs(10_000);
        assert!(!again.ask(false, BEAT, later));
        assert_eq!(asks(&mut again, 3, true), [0, 1], "after a time without trouble at once");
    }

    #[test]
    fn a_question_that_is_lost_is_asked_with_the_next_beat() {
        assert_eq!(asks(&mut Again::default(), 6, false), [0, 1, 2, 3, 4, 5]);
    }
}
