//! The scheduler: filter, score, bind or reasons.
