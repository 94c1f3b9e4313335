//! Names of Event objects: the object's name and the time of the first occurrence.
//!
//! So events list in the order in which they happened, as on a real server, where clients sort by
//! whole seconds only. An occurrence of the same happening finds the name again, as through
//! client-go's `EventCorrelator`; after a new start it begins another event, as there. Bounded: the
//! oldest happening is forgotten first.

use std::collections::{HashMap, VecDeque};

use model::limits::EVENT_NAMES_MAX;
use model::timestamp::Timestamp;

/// Which happening has which time in its name.
#[derive(Debug, Default)]
pub(super) struct EventNames {
    stamps: HashMap<u64, u64>,
    /// Happenings, oldest first.
    order: VecDeque<u64>,
    last: u64,
}

impl EventNames {
    /// The time in the name of a happening's event, in nanoseconds; no two happenings share one.
    pub(super) fn stamp(&mut self, happening: u64, now: Timestamp) -> u64 {
        if let Some(stamp) = self.stamps.get(&happening) {
            return *stamp;
        }
        let nanos = u64::try_from(now.0).unwrap_or_default().saturating_mul(1_000);
        self.last = nanos.max(self.last + 1);
        if self.order.len() == EVENT_NAMES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.stamps.remove(&oldest);
        }
        self.order.push_back(happening);
        self.stamps.insert(happening, self.last);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_and_stay_with_their_happening() {
        let mut names = EventNames::default();
        let now = Timestamp::from_seconds(10);
        let first = names.stamp(7, now);
        let second = names.stamp(8, now);
        assert_eq!((first, second), (10_000_000_000, 10_000_000_001));
        assert_eq!(names.stamp(7, Timestamp::from_seconds(20)), first);
        for happening in 100..100 + EVENT_NAMES_MAX as u64 {
            names.stamp(happening, now);
        }
        assert_eq!((names.stamps.len(), names.order.len()), (EVENT_NAMES_MAX, EVENT_NAMES_MAX));
        assert!(names.stamp(7, now) > second, "forgotten, so it begins anew");
    }
}
