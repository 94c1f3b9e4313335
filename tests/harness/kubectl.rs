//! Real kubectl binaries, and a transcript of what they print.
//!
//! Versions are called by path (`kubectl.1.NN` beside the resolved `kubectl`); those that are not
//! here are named and passed over. Set `KUMQUAT_UPDATE_SNAPSHOTS=1` to write transcripts anew.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The minor versions that the project promises to serve.
pub const MINORS: [u8; 7] = [27, 28, 29, 30, 31, 32, 33];

/// How long [`Transcript::until`] waits.
const UNTIL: Duration = Duration::from_secs(40);

/// One kubectl with a configuration and caches of its own.
pub struct Kubectl {
    /// Minor version.
    pub minor: u8,
    program: PathBuf,
    kubeconfig: PathBuf,
    folder: PathBuf,
    /// Network namespace in which it runs; its own when absent.
    namespace: Option<PathBuf>,
}

/// The kubectl binaries that this machine has.
pub fn programs() -> Vec<(u8, PathBuf)> {
    let mut found = Vec::new();
    for minor in MINORS {
        match program(minor) {
            Some(path) => found.push((minor, path)),
            None => println!("not run: kubectl 1.{minor} is not on this machine"),
        }
    }
    found
}

fn program(minor: u8) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let kubectl = std::env::split_paths(&path).map(|folder| folder.join("kubectl"));
    let resolved = kubectl.filter_map(|path| path.canonicalize().ok());
    let beside =
        resolved.filter_map(|path| Some(path.parent()?.join(format!("kubectl.1.{minor}"))));
    let usual = [PathBuf::from(format!("/usr/bin/kubectl.1.{minor}"))];
    usual.into_iter().chain(beside).find(|path| path.is_file())
}

impl Kubectl {
    /// A kubectl whose files lie in `folder`.
    pub fn new(minor: u8, program: PathBuf, kubeconfig: &Path, folder: &Path) -> Self {
        let folder = folder.join(format!("kubectl-{minor}"));
        std::fs::create_dir_all(&folder).expect("folder for kubectl");
        Self { minor, program, kubeconfig: kubeconfig.into(), folder, namespace: None }
    }

    /// The same, run in a network namespace.
    pub fn inside(self, namespace: &Path) -> Self {
        Self { namespace: Some(namespace.into()), ..self }
    }

    fn spawn(&self, mut command: Command) -> Child {
        let child = match &self.namespace {
            Some(namespace) => kumquat::io::net::inside(namespace, || command.spawn()),
            None => command.spawn(),
        };
        child.expect("kubectl runs")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--cache-dir")
            .arg(self.folder.join("cache"))
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.folder)
            .env("KUBECACHEDIR", self.folder.join("cache"))
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end; gives what was printed, errors and the exit code behind the output.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.run_with(arguments, "")
    }

    /// Runs with `input` on standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command);
        let mut stdin = child.stdin.take().expect("piped");
        // A command that fails early does not read its input.
        let _unread = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl ends");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            let _ = writeln!(text, "exit code {}", output.status.code().unwrap_or(-1));
        }
        text
    }

    /// Starts a command with these streams.
    pub fn start(&self, arguments: &[&str], streams: [Stdio; 3]) -> Child {
        let mut command = self.command(arguments);
        let [stdin, stdout, stderr] = streams;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        self.spawn(command)
    }

    /// Starts a command that goes on (`get -w`, `logs -f`).
    pub fn follow(&self, arguments: &[&str]) -> Followed {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped());
        let mut child = self.spawn(command);
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::sync_channel(64);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Followed { child, lines }
    }
}

/// A kubectl that goes on; dropping it ends it.
pub struct Followed {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Followed {
    /// The next line, within 20 seconds.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| "no line".into())
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Commands and their output, volatile words replaced.
#[derive(Default)]
pub struct Transcript(Vec<(String, String)>);

impl Transcript {
    /// Runs a command and notes what it printed.
    pub fn run(&mut self, kubectl: &Kubectl, command: &str) {
        let arguments = words(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.note(command, &kubectl.run(&arguments));
    }

    /// The same with a file on standard input.
    pub fn run_with(&mut self, kubectl: &Kubectl, command: &str, input: &str) {
        let arguments: Vec<&str> = command.split(' ').collect();
        self.note(command, &kubectl.run_with(&arguments, input));
    }

    /// Runs a command again and again until it prints `wanted`, and notes that output.
    pub fn until(&mut self, kubectl: &Kubectl, command: &str, wanted: &str) {
        let arguments = words(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let deadline = Instant::now() + UNTIL;
        let mut output = kubectl.run(&arguments);
        while !output.contains(wanted) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            output = kubectl.run(&arguments);
        }
        self.note(command, &output);
    }

    /// Notes an output got in another way.
    pub fn note(&mut self, command: &str, output: &str) {
        self.0.push((command.to_owned(), normalize(output)));
    }
}

/// Splits at spaces outside single quotes.
pub fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in command.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            letter => words.last_mut().expect("never empty").push(letter),
        }
    }
    words
}

/// Joins the transcripts of all versions: an output stands once for all that agree on it.
pub fn merge(transcripts: &[(u8, Transcript)]) -> String {
    let mut text = String::new();
    let Some((_, first)) = transcripts.first() else { return text };
    for (index, (command, _)) in first.0.iter().enumerate() {
        let _ = writeln!(text, "$ kubectl {command}");
        let mut groups: Vec<(Vec<u8>, &str)> = Vec::new();
        for (minor, transcript) in transcripts {
            let (same, output) = &transcript.0[index];
            assert_eq!(same, command, "all versions run the same commands");
            match groups.iter_mut().find(|(_, known)| known == output) {
                Some((minors, _)) => minors.push(*minor),
                None => groups.push((vec![*minor], output)),
            }
        }
        for (minors, output) in &groups {
            if groups.len() > 1 {
                let names: Vec<_> = minors.iter().map(|minor| format!("1.{minor}")).collect();
                let _ = writeln!(text, "[{}]", names.join(" "));
            }
            text.push_str(output);
        }
        text.push('\n');
    }
    text
}

/// Compares with the checked-in transcript, or writes it when asked to.
pub fn compare(path: &Path, text: &str) {
    if std::env::var_os("KUMQUAT_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(path, text).expect("transcript");
        return;
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    if stored == text {
        return;
    }
    let mut different = stored.lines().zip(text.lines()).enumerate();
    let first = different.find(|(_, (stored, found))| stored != found);
    let fresh = std::env::temp_dir().join(path.file_name().expect("a file"));
    std::fs::write(&fresh, text).expect("transcript");
    panic!(
        "{} differs, first at {first:?}; the new one is {}; KUMQUAT_UPDATE_SNAPSHOTS=1 accepts it",
        path.display(),
        fresh.display()
    );
}

/// Replaces ages, uids, times, versions, addresses and generated names, and makes column gaps two
/// spaces wide.
fn normalize(output: &str) -> String {
    let mut text = String::new();
    for line in output.lines() {
        let line = without_pod_addresses(&without_dates(line));
        let mut words = Vec::new();
        let indent = line.len() - line.trim_start().len();
        for column in line.trim().split("  ").map(str::trim).filter(|column| !column.is_empty()) {
            let parts: Vec<_> = column.split(' ').map(normalize_word).collect();
            words.push(without_repeats(&parts.join(" ")));
        }
        let line = format!("{}{}", " ".repeat(indent), words.join("  "));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// `Sun, 22 Nov 2026 14:51:19 +0000`, as `kubectl describe` prints times.
fn without_dates(line: &str) -> String {
    const BYTES: usize = "Sun, 22 Nov 2026 14:51:19 +0000".len();
    let mut line = line.to_owned();
    while let Some(end) = line.find(" +0000").map(|at| at + " +0000".len()) {
        let Some(start) = end.checked_sub(BYTES) else { break };
        line.replace_range(start..end, "TIME");
    }
    line
}

/// Addresses of pods, of the default range: which one a pod gets depends on what ran before it.
fn without_pod_addresses(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("10.42.") {
        let (before, address) = rest.split_at(at);
        let is_inside = |letter: char| letter.is_ascii_digit() || letter == '.';
        let end = address.find(|letter| !is_inside(letter)).unwrap_or(address.len());
        text.push_str(before);
        text.push_str("POD-IP");
        rest = &address[end..];
    }
    text.push_str(rest);
    text
}

/// `AGE (x3 over AGE)`: how often something happened by then depends on the machine.
fn without_repeats(column: &str) -> String {
    let repeats = column.strip_prefix("AGE (x").is_some_and(|rest| rest.ends_with(" over AGE)"));
    if repeats { "AGE".to_owned() } else { column.to_owned() }
}

fn normalize_word(word: &str) -> String {
    let word = generated(word);
    let bare = word.trim_matches(['"', ',', '\'', ':', '(', ')']);
    let volatile = if is_age(bare) {
        "AGE"
    } else if is_uid(bare) {
        "UID"
    } else if is_time(bare) {
        "TIME"
    } else if bare.starts_with("10.43.") {
        "CLUSTER-IP"
    } else if bare.len() >= 6 && bare.bytes().all(|byte| byte.is_ascii_digit()) {
        "NUMBER"
    } else if word.starts_with('(')
        && bare.strip_suffix('%').is_some_and(|share| share.parse::<u32>().is_ok())
    {
        "SHARE"
    } else {
        return word;
    };
    word.replace(bare, volatile)
}

/// Replaces the generated parts of names within a word: `web-7cc5f5477d-2mzbq`, digests, uids and
/// this build's version.
fn generated(word: &str) -> String {
    let mut text = String::new();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let mut rest = word;
    while !rest.is_empty() {
        let length = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(length);
        text.push_str(&generated_name(name));
        let other = after.find(is_name).unwrap_or(after.len());
        text.push_str(&after[..other]);
        rest = &after[other..];
    }
    let version = env!("CARGO_PKG_VERSION");
    text.replace(&format!("kumquat.{version}"), "kumquat.VERSION")
        .replace(&format!("kumquat://{version}"), "kumquat://VERSION")
}

fn generated_name(name: &str) -> String {
    // The letters of `k8s.io/apimachinery/pkg/util/rand`.
    let random =
        |part: &str| part.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte));
    // A number alone is a version.
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_hash = |part: &str| (8..=10).contains(&part.len()) && random(part);
    let is_suffix = |part: &str| part.len() == 5 && random(part);
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return "DIGEST".into();
    }
    if is_uid(name) {
        return "UID".into();
    }
    let parts: Vec<&str> = name.split('-').collect();
    let last = parts.len() - 1;
    let part = |(index, part): (usize, &&str)| match index {
        1.. if is_hash(part) => "HASH".to_owned(),
        0 if is_hash(part) && last == 0 && !is_number(part) => "HASH".to_owned(),
        2.. if index == last && is_suffix(part) && is_hash(parts[index - 1]) => "POD".to_owned(),
        1 if last == 1 && is_suffix(part) => "SUFFIX".to_owned(),
        // The volume with a service account's token.
        3 if last == 3 && name.starts_with("kube-api-access-") && is_suffix(part) => {
            "SUFFIX".to_owned()
        }
        _ => (*part).to_owned(),
    };
    let parts: Vec<String> = parts.iter().enumerate().map(part).collect();
    parts.join("-")
}

/// `12s`, `2m3s`, `7h59m`, `6y325d`: how kubectl and the Table write ages.
fn is_age(word: &str) -> bool {
    const UNITS: [char; 5] = ['s', 'm', 'h', 'd', 'y'];
    word.starts_with(|letter: char| letter.is_ascii_digit())
        && word.ends_with(UNITS)
        && word.len() <= 7
        && word.chars().all(|letter| letter.is_ascii_digit() || UNITS.contains(&letter))
}

fn is_uid(word: &str) -> bool {
    model::ids::Uid::parse(word).is_some()
}

fn is_time(word: &str) -> bool {
    model::timestamp::Timestamp::parse(word).is_some()
}
