//! Stands in for the crate `base2histogram`, by `[patch.crates-io]`.
//!
//! The Raft engine counts what it does in histograms that only its feature `runtime-stats` shows, which is
//! off. The crate of that name makes tables for sixteen precisions at the first value: 27 MB for as long as
//! the process lives, more than the rest of a master. This one has the names that the engine uses, counts
//! values and keeps none. Whoever turns that feature on must take this crate out.

use std::fmt;
use std::marker::PhantomData;

/// How many values there were. `T` names the slots of the original.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    samples: u64,
    slots: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// Without values.
    pub fn new() -> Self {
        Self { samples: 0, slots: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, _value: u64) {
        self.samples += 1;
    }

    /// Counts a value that came several times.
    pub fn record_n(&mut self, _value: u64, times: u64) {
        self.samples += times;
    }

    /// What is known of the values: their number.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats { samples: self.samples, ..PercentileStats::default() }
    }
}

/// Values below which shares of all lie; all of them zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "shares of a hundred, as their names say")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}]", self.samples)
    }
}

/// A drawing of nothing.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// Without histograms.
    pub fn new() -> Self {
        Self
    }

    /// With one more, which is not drawn.
    pub fn add(self, _name: impl Into<String>, _histogram: Histogram) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_forgotten() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(7);
        histogram.record_n(u64::MAX, 2);
        assert_eq!(histogram.percentile_stats().samples, 3);
        assert_eq!(size_of::<Histogram>(), size_of::<u64>());
    }
}
