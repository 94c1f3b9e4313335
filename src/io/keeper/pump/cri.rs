//! The container runtime interface's log format: `TIME STREAM TAG TEXT\n`, tag F for a full line and
//! P for a part of one. Pure.
//!
//! Source: kubernetes/design-proposals, node/kubelet-cri-logging.md.

use model::limits::{LOG_CHUNK_BYTES_MAX, LOG_LINE_BYTES_MAX};
use model::timestamp::Timestamp;

/// Which of a container's outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in crate::io::keeper) enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// Its name in the log and as a FIFO in the bundle.
    pub(in crate::io::keeper) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How many of the waiting bytes to log now: whole lines, or a part when the line is too long or when
/// nothing more is awaited (`flush`). Zero: wait for the rest of the line.
pub(super) fn take(waiting: &[u8], flush: bool) -> usize {
    match waiting.iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => newline + 1,
        None if flush || waiting.len() >= LOG_LINE_BYTES_MAX => waiting.len(),
        None => 0,
    }
}

/// Writes `text` as log lines through `write`, in pieces of bounded size; returns whether it ended in
/// the middle of a line. The `last` text of an output ends its line.
pub(super) fn format<E>(
    micros: i64,
    output: Output,
    text: &[u8],
    last: bool,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<bool, E> {
    let prefix = prefix(micros, output);
    let mut out = Vec::with_capacity(LOG_CHUNK_BYTES_MAX.min(text.len() * 2 + 64));
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let (body, full) = match line.split_last() {
            Some((b'\n', body)) => (body, true),
            _ => (line, last),
        };
        let mut parts = body.chunks(LOG_LINE_BYTES_MAX).peekable();
        if parts.peek().is_none() {
            push(&mut out, &prefix, b'F', &[]);
        }
        while let Some(part) = parts.next() {
            let tag = if full && parts.peek().is_none() { b'F' } else { b'P' };
            push(&mut out, &prefix, tag, part);
        }
        if out.len() + LOG_LINE_BYTES_MAX > LOG_CHUNK_BYTES_MAX {
            write(&out)?;
            out.clear();
        }
    }
    if !out.is_empty() {
        write(&out)?;
    }
    Ok(!last && text.last().is_some_and(|&byte| byte != b'\n'))
}

fn push(out: &mut Vec<u8>, prefix: &[u8], tag: u8, text: &[u8]) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(&[tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

fn prefix(micros: i64, output: Output) -> Vec<u8> {
    let micro = Timestamp(micros).micro();
    format!("{}000Z {} ", micro.trim_end_matches('Z'), output.name()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], last: bool) -> (Vec<String>, bool) {
        let mut all = Vec::new();
        let sink = |bytes: &[u8]| {
            all.extend_from_slice(bytes);
            Ok::<(), ()>(())
        };
        let open =
            format(1_763_795_777_000_001, Output::Stderr, text, last, sink).expect("no error");
        let text = String::from_utf8_lossy(&all);
        (text.lines().map(str::to_owned).collect(), open)
    }

    #[test]
    fn lines_carry_time_stream_and_tag() {
        let (found, open) = lines(b"one\n\ntwo", false);
        let at = "2025-11-22T07:16:17.000001000Z stderr";
        assert_eq!(found, [format!("{at} F one"), format!("{at} F "), format!("{at} P two")]);
        assert!(open);
        assert!(!lines(b"x\n", false).1);
        let (found, open) = lines(b"one\ntwo", true);
        assert_eq!(found[1], format!("{at} F two"));
        assert!(!open);
    }

    #[test]
    fn long_lines_come_in_parts_that_join() {
        let check = |length: usize, parts: usize| {
            let mut text = vec![b'a'; length];
            text.push(b'\n');
            let (found, open) = lines(&text, false);
            assert_eq!(found.len(), parts, "{length}");
            assert!(!open);
            let joined: usize = found.iter().map(|line| line.len() - 40).sum();
            assert_eq!(joined, length);
            for (index, line) in found.iter().enumerate() {
                let tag = if index + 1 == parts { "F" } else { "P" };
                assert_eq!(&line[38..39], tag, "{length}: {index}");
            }
        };
        check(LOG_LINE_BYTES_MAX - 1, 1);
        check(LOG_LINE_BYTES_MAX, 1);
        check(LOG_LINE_BYTES_MAX + 1, 2);
        check(LOG_LINE_BYTES_MAX * 3 + 5, 4);
    }

    #[test]
    fn nothing_is_taken_before_its_line_is_whole() {
        let check = |text: &[u8], flush, expected| assert_eq!(take(text, flush), expected);
        check(b"", false, 0);
        check(b"", true, 0);
        check(b"ab", false, 0);
        check(b"ab", true, 2);
        check(b"ab\ncd", false, 3);
        check(b"ab\ncd", true, 3);
        check(&[b'x'; LOG_LINE_BYTES_MAX], false, LOG_LINE_BYTES_MAX);
        check(&[b'x'; LOG_LINE_BYTES_MAX - 1], false, 0);
    }
}
