//! A bound on log lines that strangers can cause: a few at once, then one per period.
//!
//! Pure: the caller says what time it is (monotonic milliseconds). What was left out is counted and
//! told with the next line.

/// How many lines of one kind may still be written.
#[derive(Clone, Copy, Debug)]
pub struct LineBudget {
    lines_max: u64,
    period_millis: u64,
    /// When the budget would be spent at one line per period: a token bucket told as a time.
    paid_millis: u64,
    left_out: u64,
}

impl LineBudget {
    /// `lines_max` at once, then one per `period_millis`.
    pub const fn new(lines_max: u64, period_millis: u64) -> Self {
        Self { lines_max, period_millis, paid_millis: 0, left_out: 0 }
    }

    /// Whether a line may be written: the number of lines left out before it, or `None`.
    pub fn line(&mut self, now_millis: u64) -> Option<u64> {
        let ahead = self.paid_millis.saturating_sub(now_millis);
        if ahead + self.period_millis > self.lines_max * self.period_millis {
            self.left_out += 1;
            return None;
        }
        self.paid_millis = self.paid_millis.max(now_millis) + self.period_millis;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_then_one_per_period_and_none_is_forgotten() {
        let mut budget = LineBudget::new(3, 1_000);
        let lines: Vec<_> = (0..5).map(|at| budget.line(10_000 + at)).collect();
        assert_eq!(lines, [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(budget.line(11_100), Some(2));
        assert_eq!(budget.line(11_200), None);
        assert_eq!(budget.line(60_000), Some(1));
        let flood = (60_001..120_000).filter_map(|now| budget.line(now)).count();
        assert!((59..=63).contains(&flood), "{flood}");
    }
}
