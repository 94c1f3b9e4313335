//! Streams a container's log to the master: CRI files in, plain lines out.
//!
//! A log is `<path>.1` (the older part after a rotation) followed by `<path>`. Lines are
//! `<time> stdout|stderr F|P <text>`; `P` is a part of a longer line. Following polls while somebody
//! follows, and ends when the container has ended and everything is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::timestamp::Timestamp;
use model::wire::LogsRequestV1;
use tokio::sync::mpsc;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Bytes gathered before they are sent.
const CHUNK_BYTES: usize = 16 * 1024;

type Answer = mpsc::Sender<Result<Bytes, String>>;

/// How often a log is looked at whose container has just said something.
const POLL_TALKING: Duration = Duration::from_millis(20);
/// How long a conversation counts as going on.
const TALKING: Duration = Duration::from_secs(3);

/// Where the reader stands.
struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    inode: u64,
}

/// What goes out, by the options of the request.
struct Output {
    timestamps: bool,
    since_micros: i64,
    skip_lines: u64,
    bytes_left: u64,
    at_line_start: bool,
    buffer: Vec<u8>,
}

/// Streams until the end, or for as long as `lives` says that the container runs. Blocking.
pub(crate) fn stream(
    path: &Path,
    request: &LogsRequestV1,
    lives: impl Fn() -> bool,
    answer: &Answer,
) {
    if let Err(error) = try_stream(path, request, lives, answer) {
        // Nobody listens any more when this fails.
        let _ = answer.blocking_send(Err(format!("reading the log: {error}")));
    }
}

fn try_stream(
    path: &Path,
    request: &LogsRequestV1,
    lives: impl Fn() -> bool,
    answer: &Answer,
) -> io::Result<()> {
    let since_micros = request.since_micros.unwrap_or(i64::MIN);
    let mut output = Output {
        timestamps: request.timestamps,
        since_micros,
        skip_lines: 0,
        bytes_left: request.limit_bytes.unwrap_or(u64::MAX),
        at_line_start: true,
        buffer: Vec::new(),
    };
    let older = path.with_extension("log.1");
    if let Some(tail) = request.tail_lines {
        let lines = count_lines(&older, since_micros)? + count_lines(path, since_micros)?;
        output.skip_lines = lines.saturating_sub(tail);
    }
    if let Some(mut reader) = Reader::open(&older)? {
        while reader.read_lines(&mut output, answer)? {}
    }
    let mut current = Reader::open(path)?;
    loop {
        // Looked at before reading: what was written before the end is then read too.
        let alive = lives();
        if current.is_none() {
            current = Reader::open(path)?;
        }
        if let Some(reader) = &mut current {
            while reader.read_lines(&mut output, answer)? {}
            if reader.was_replaced() {
                while reader.read_lines(&mut output, answer)? {}
                current = Reader::open(path)?;
                continue;
            }
        }
        output.flush(answer)?;
        if !request.follow || !alive || output.bytes_left == 0 || answer.is_closed() {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

/// Gives `take` what a container says from now on, as it was said and with the name of the stream,
/// until it does not live and everything is read, or nobody listens. Blocking.
///
/// # Errors
/// What the disk or `take` says.
pub(crate) fn follow_from_now(
    path: &Path,
    lives: impl Fn() -> bool,
    is_closed: impl Fn() -> bool,
    mut take: impl FnMut(&str, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut current = Reader::open(path)?;
    if let Some(reader) = &mut current {
        reader.skip_to_end()?;
    }
    let mut spoke = Instant::now();
    loop {
        // Looked at before reading: what was written before the end is then read too.
        let alive = lives();
        if current.is_none() {
            current = Reader::open(path)?;
        }
        if let Some(reader) = &mut current {
            let replaced = reader.was_replaced();
            while let Some(line) = reader.whole_line()? {
                if let Some(Line { stream, whole, text, .. }) = Line::parse(&line) {
                    take(stream, text)?;
                    if whole {
                        take(stream, b"\n")?;
                    }
                    spoke = Instant::now();
                }
            }
            if replaced {
                current = None;
                continue;
            }
        }
        if !alive || is_closed() {
            return Ok(());
        }
        let talking = spoke.elapsed() < TALKING;
        std::thread::sleep(if talking { POLL_TALKING } else { POLL });
    }
}

impl Reader {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let inode = file.metadata()?.ino();
        Ok(Some(Self { path: path.to_owned(), file: BufReader::new(file), inode }))
    }

    /// A rotation has put another file in its place.
    fn was_replaced(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|meta| meta.ino() != self.inode)
    }

    /// To the first line that begins at or after the end.
    fn skip_to_end(&mut self) -> io::Result<()> {
        if self.file.seek(SeekFrom::End(0))? > 0 {
            self.file.seek(SeekFrom::End(-1))?;
            self.file.skip_until(b'\n')?;
        }
        Ok(())
    }

    /// The next line without its end; `None` at the end.
    fn whole_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let count = self.file.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            // Half a line: the pump is still writing it.
            self.file.seek(SeekFrom::Current(-i64::try_from(count).unwrap_or(0)))?;
            return Ok(None);
        }
        line.pop();
        Ok(Some(line))
    }

    /// Reads one whole line; `false` at the end.
    fn read_lines(&mut self, output: &mut Output, answer: &Answer) -> io::Result<bool> {
        let Some(line) = self.whole_line()? else { return Ok(false) };
        output.put(&line);
        if output.buffer.len() >= CHUNK_BYTES {
            output.flush(answer)?;
        }
        Ok(output.bytes_left > 0)
    }
}

impl Output {
    fn put(&mut self, line: &[u8]) {
        let Some(Line { time, whole, text, .. }) = Line::parse(line) else { return };
        if !is_since(time, self.since_micros) {
            return;
        }
        if self.skip_lines > 0 {
            self.skip_lines -= u64::from(whole);
            return;
        }
        if self.timestamps && self.at_line_start {
            self.add(time.as_bytes());
            self.add(b" ");
        }
        self.add(text);
        if whole {
            self.add(b"\n");
        }
        self.at_line_start = whole;
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = usize::try_from(self.bytes_left).unwrap_or(usize::MAX).min(bytes.len());
        self.buffer.extend_from_slice(&bytes[..room]);
        self.bytes_left -= room as u64;
    }

    fn flush(&mut self, answer: &Answer) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        answer.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    whole: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = std::str::from_utf8(parts.next()?).ok()?;
        let tag = parts.next()?;
        Some(Self { time, stream, whole: tag == b"F", text: parts.next().unwrap_or_default() })
    }
}

fn is_since(time: &str, since_micros: i64) -> bool {
    since_micros == i64::MIN
        || Timestamp::parse(time).is_none_or(|time| time >= Timestamp(since_micros))
}

fn count_lines(path: &Path, since_micros: i64) -> io::Result<u64> {
    let Some(mut reader) = Reader::open(path)? else { return Ok(0) };
    let mut count = 0;
    let mut line = Vec::new();
    while reader.file.read_until(b'\n', &mut line)? > 0 {
        if line.pop() == Some(b'\n')
            && let Some(Line { time, whole: true, .. }) = Line::parse(&line)
        {
            count += u64::from(is_since(time, since_micros));
        }
        line.clear();
    }
    Ok(count)
}

/// The last bytes of a log as plain text, for a termination message.
pub(crate) fn last_lines(path: &Path, lines: u64, bytes_max: usize) -> io::Result<String> {
    let total = count_lines(path, i64::MIN)?;
    let Some(mut reader) = Reader::open(path)? else { return Ok(String::new()) };
    let mut output = Output {
        timestamps: false,
        since_micros: i64::MIN,
        skip_lines: total.saturating_sub(lines),
        bytes_left: u64::MAX,
        at_line_start: true,
        buffer: Vec::new(),
    };
    let mut line = Vec::new();
    while reader.file.read_until(b'\n', &mut line)? > 0 {
        if line.pop() == Some(b'\n') {
            output.put(&line);
        }
        line.clear();
        let excess = output.buffer.len().saturating_sub(bytes_max);
        output.buffer.drain(..excess);
    }
    Ok(String::from_utf8_lossy(&output.buffer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn log(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("kumquat-log-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("made");
        dir.join("0.log")
    }

    fn read(path: &Path, request: &LogsRequestV1) -> String {
        let (sender, mut receiver) = mpsc::channel(1_000);
        stream(path, request, || false, &sender);
        drop(sender);
        let mut text = Vec::new();
        while let Some(chunk) = receiver.blocking_recv() {
            text.extend_from_slice(&chunk.expect("no error"));
        }
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn options_choose_lines() {
        let path = log("options");
        let line = |second: u32, tag: &str, text: &str| {
            format!("2026-11-22T07:16:{second:02}.000000000Z stdout {tag} {text}\n")
        };
        let older = line(1, "F", "one") + &line(2, "F", "two");
        fs::write(path.with_extension("log.1"), older).expect("written");
        let newer = line(3, "P", "thr") + &line(3, "F", "ee") + &line(4, "F", "") + "half";
        fs::write(&path, newer).expect("written");
        let ask = |change: fn(&mut LogsRequestV1)| {
            let mut request = LogsRequestV1::default();
            change(&mut request);
            read(&path, &request)
        };
        assert_eq!(ask(|_| ()), "one\ntwo\nthree\n\n");
        assert_eq!(ask(|request| request.tail_lines = Some(2)), "three\n\n");
        assert_eq!(ask(|request| request.tail_lines = Some(0)), "");
        assert_eq!(ask(|request| request.limit_bytes = Some(5)), "one\nt");
        assert_eq!(
            ask(|request| {
                request.timestamps = true;
                request.tail_lines = Some(2);
            }),
            "2026-11-22T07:16:03.000000000Z three\n2026-11-22T07:16:04.000000000Z \n"
        );
        let since = |request: &mut LogsRequestV1| {
            request.since_micros = Timestamp::parse("2026-11-22T07:16:02Z").map(|time| time.0);
        };
        assert_eq!(ask(since), "two\nthree\n\n");
        fs::remove_dir_all(path.parent().expect("dir")).expect("removable");
    }

    #[test]
    fn who_attaches_hears_what_comes_after_as_it_was_said() {
        let path = log("attach");
        let line = |stream: &str, tag: &str, text: &str| {
            format!("2026-11-22T07:16:01.0Z {stream} {tag} {text}\n")
        };
        fs::write(&path, line("stdout", "F", "before")).expect("written");
        let looks = std::cell::Cell::new(0);
        let lives = || {
            let more = [
                line("stdout", "P", "/ # ") + &line("stderr", "F", "oops"),
                line("stdout", "F", "after"),
            ];
            if let Some(text) = more.get(looks.get()) {
                let mut file = fs::OpenOptions::new().append(true).open(&path).expect("there");
                file.write_all(text.as_bytes()).expect("written");
                looks.set(looks.get() + 1);
                return true;
            }
            false
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let take = |stream: &str, text: &[u8]| {
            if stream == "stderr" { &mut err } else { &mut out }.extend_from_slice(text);
            Ok(())
        };
        // The first look comes when the reader stands at the end.
        follow_from_now(&path, lives, || false, take).expect("readable");
        assert_eq!(String::from_utf8_lossy(&out), "/ # after\n");
        assert_eq!(String::from_utf8_lossy(&err), "oops\n");
        fs::remove_dir_all(path.parent().expect("dir")).expect("removable");
    }

    #[test]
    fn a_log_that_begins_while_it_is_followed_is_read_to_its_end() {
        let path = log("late");
        let (sender, mut receiver) = mpsc::channel(1_000);
        let request = LogsRequestV1 { follow: true, ..LogsRequestV1::default() };
        let alive = std::cell::Cell::new(true);
        // The container says its only words just before it is seen to have ended.
        let lives = || {
            let answer = alive.get();
            if !answer {
                fs::write(&path, "2026-11-22T07:16:01.0Z stdout F bye\n").expect("written");
            }
            alive.set(false);
            answer
        };
        stream(&path, &request, lives, &sender);
        drop(sender);
        let chunk = receiver.blocking_recv().expect("a chunk").expect("no error");
        assert_eq!(chunk, "bye\n");
        fs::remove_dir_all(path.parent().expect("dir")).expect("removable");
    }

    #[test]
    fn following_survives_a_rotation_and_ends_with_the_container() {
        let path = log("follow");
        let alive = AtomicBool::new(true);
        let (sender, mut receiver) = mpsc::channel(1_000);
        let line = |text: &str| format!("2026-11-22T07:16:01.0Z stdout F {text}\n");
        fs::write(&path, line("a")).expect("written");
        let request = LogsRequestV1 { follow: true, ..LogsRequestV1::default() };
        let mut text = Vec::new();
        std::thread::scope(|scope| {
            let (path, alive) = (&path, &alive);
            scope.spawn(move || {
                stream(path, &request, || alive.load(Ordering::SeqCst), &sender);
            });
            let mut wait = |upto: &str| {
                while !text.ends_with(upto.as_bytes()) {
                    let chunk = receiver.blocking_recv().expect("goes on").expect("no error");
                    text.extend_from_slice(&chunk);
                }
            };
            wait("a\n");
            let mut file = fs::OpenOptions::new().append(true).open(path).expect("there");
            file.write_all(line("b").as_bytes()).expect("written");
            fs::rename(path, path.with_extension("log.1")).expect("rotated");
            fs::write(path, line("c")).expect("written");
            wait("c\n");
            file = fs::OpenOptions::new().append(true).open(path).expect("there");
            file.write_all(line("d").as_bytes()).expect("written");
            alive.store(false, Ordering::SeqCst);
            wait("d\n");
        });
        assert_eq!(String::from_utf8(text).expect("text"), "a\nb\nc\nd\n");
        fs::remove_dir_all(path.parent().expect("dir")).expect("removable");
    }
}
