//! Faults beside the recorded answers (those are replayed in `tests/recorded.rs`).
