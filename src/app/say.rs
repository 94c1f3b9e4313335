//! Printing to standard output for people and pipes.
//!
//! `println!` panics when the reader is gone (`kumquat status | head -1`); these do not: who does
//! not read on has seen enough.

use std::io::Write;

/// Prints a line.
macro_rules! say {
    ($($text:tt)*) => { $crate::app::say::line(format_args!($($text)*)) };
}

/// Prints one line and sees that it arrives before a long wait.
pub(super) fn line(text: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _reader_is_gone = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints text that has its own line ends.
pub(super) fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    let _reader_is_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
