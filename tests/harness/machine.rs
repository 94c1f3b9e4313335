//! A board that is emulated: an aarch64 machine in QEMU with Debian's kernel, an address on a test's
//! switch, a disk that outlives it, and a clock of its own that can be set with `date -s`.
//!
//! It is told what to do over its serial console, a line at a time, and answers with what was printed
//! and the exit status. Pulling the plug kills QEMU; the disk stays. Dropping it removes every trace.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use kumquat::app::api_client::ApiClient;
use kumquat::io::net;
use serde_json::Value;

use crate::board::{BRIDGE, Wire, text};
use crate::initramfs::{PROMPT, Parts};
use crate::switch::Switch;

/// The emulator; Debian: qemu-system-arm.
pub const EMULATOR: &str = "qemu-system-aarch64";
/// The clock's chip of a board without a battery.
pub const RTC_1970: &str = "1970-01-01T00:00:00";

/// Emulation is slow, on a machine that is busy slower.
const BOOT_WITHIN: Duration = Duration::from_secs(180);
const COMMAND_WITHIN: Duration = Duration::from_secs(120);
const REQUEST_WITHIN: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(100);
const DISK_BYTES: u64 = 512 * 1024 * 1024;
const FOLDERS: &str = "--data-dir /data/kumquat --run-dir /run/kumquat";

/// One emulated board.
pub struct Machine {
    node: String,
    cluster: String,
    wire: Wire,
    folder: PathBuf,
    kernel: PathBuf,
    kubeconfig: Option<String>,
    power: Option<Power>,
}

/// What there is of a machine that is on.
struct Power {
    emulator: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Machine {
    /// A machine called `board-<number>` for a switch; it is off and its disk is empty.
    pub fn new(switch: &Switch, number: u8, parts: &Parts) -> Self {
        let node = format!("board-{number}");
        let folder = std::env::temp_dir().join(format!("kumquat-vm-{}-{node}", switch.cluster()));
        fs::create_dir_all(&folder).expect("folder of the machine");
        parts.write(&folder, &folder.join("initramfs")).expect("initramfs");
        let disk = folder.join("disk");
        fs::File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).expect("disk");
        let made = Command::new("mkfs.ext4").arg("-qF").arg(&disk).output().expect("mkfs.ext4");
        assert!(made.status.success(), "{}", text(&made));
        Self {
            node,
            cluster: switch.cluster().to_owned(),
            wire: switch.wire(number),
            folder,
            kernel: parts.kernel.clone(),
            kubeconfig: None,
            power: None,
        }
    }

    /// The name of its Node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Switches it on with its clock at `rtc`; gives how long it took until it obeys.
    pub fn boot(&mut self, rtc: &str) -> Duration {
        let began = Instant::now();
        let Wire { switch, port, address } = &self.wire;
        let number = address.octets()[3];
        let tell = format!(
            "console=ttyAMA0 quiet loglevel=1 panic=-1 board.name={} board.address={address}",
            self.node
        );
        let mut command = Command::new(EMULATOR);
        command
            .args(["-M", "virt", "-cpu", "cortex-a53", "-smp", "1", "-m", "768"])
            .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-rtc", &format!("base={rtc}"), "-append", &tell])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(self.folder.join("initramfs"))
            .args(["-netdev", &format!("tap,id=eth,ifname={port},script=no,downscript=no")])
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=eth,mac=52:54:00:00:00:{number:02x},romfile="))
            .arg("-drive")
            .arg(format!("file={},if=none,id=disk,format=raw", self.folder.join("disk").display()))
            .args(["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut emulator = net::inside(switch, || command.spawn()).expect("the emulator starts");
        let input = emulator.stdin.take().expect("a pipe");
        let lines = lines_of(emulator.stdout.take().expect("a pipe"));
        self.power = Some(Power { emulator, input, lines });
        self.plug(began + Duration::from_secs(20));
        let (status, said) = self.answer(BOOT_WITHIN);
        assert!(status == 0 && said.is_empty(), "it complains: {said}");
        began.elapsed()
    }

    /// Puts the emulator's end of the cable into the switch, once it is there.
    fn plug(&self, deadline: Instant) {
        let Wire { switch, port, .. } = &self.wire;
        net::inside(switch, || {
            let mut links = net::Links::open()?;
            while links.find(port)?.is_none() {
                assert!(Instant::now() < deadline, "the emulator makes no network device");
                std::thread::sleep(Duration::from_millis(20));
            }
            links.set_master(port, BRIDGE)?;
            links.set_up(port)
        })
        .expect("the machine's port");
    }

    /// Pulls the plug.
    pub fn pull_the_plug(&mut self) {
        if let Some(mut power) = self.power.take() {
            power.emulator.kill().expect("kill");
            power.emulator.wait().expect("wait");
        }
    }

    /// Runs a line of shell; gives its exit status and what it printed.
    pub fn run(&mut self, line: &str) -> (i32, String) {
        self.run_within(line, COMMAND_WITHIN)
    }

    fn run_within(&mut self, line: &str, within: Duration) -> (i32, String) {
        assert!(!line.contains('\n') && line.len() < 4_000, "one line of a terminal: {line}");
        let power = self.power.as_mut().expect("the machine is on");
        writeln!(power.input, "{line}").expect("the console takes a line");
        self.answer(within)
    }

    /// Reads up to the next prompt.
    fn answer(&mut self, within: Duration) -> (i32, String) {
        let power = self.power.as_mut().expect("the machine is on");
        let deadline = Instant::now() + within;
        let mut said = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match power.lines.recv_timeout(left) {
                Ok(line) => {
                    match line.strip_prefix(PROMPT).and_then(|rest| rest.trim().parse().ok()) {
                        Some(status) => return (status, said.trim().to_owned()),
                        None => said = said + &line + "\n",
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no answer within {within:?}: {said}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the emulator has ended: {said}"),
            }
        }
    }

    /// Runs a line that must succeed; gives what it printed.
    pub fn must(&mut self, line: &str) -> String {
        let (status, said) = self.run(line);
        assert_eq!(status, 0, "{line}: {said}\n{}", self.log());
        said
    }

    /// Runs a kumquat command, which must succeed; gives what it printed.
    pub fn kumquat(&mut self, arguments: &str) -> String {
        self.must(&format!("kumquat {arguments} {FOLDERS}"))
    }

    /// Starts `kumquat up`, without waiting.
    pub fn start(&mut self, arguments: &str) {
        let up = format!(
            "kumquat up --name {} --cluster {} --config /dev/null {arguments} {FOLDERS}",
            self.node, self.cluster
        );
        self.must(&format!("setsid {up} >> /data/up.log 2>&1 &"));
    }

    /// The end of what `kumquat up` has logged.
    pub fn log(&mut self) -> String {
        self.run("tail -n 200 /data/up.log").1
    }

    /// Whether `kumquat up` has logged these words.
    pub fn has_logged(&mut self, words: &str) -> bool {
        self.run(&format!("grep -q \"{words}\" /data/up.log")).0 == 0
    }

    /// Sets the clock; whether the kernel is told that a time server keeps it.
    pub fn set_date(&mut self, seconds: i64, is_synced: bool) {
        // The kernel refuses a time before it was booted.
        self.must(&format!("date -u -s @{}", seconds.max(86_400)));
        if is_synced {
            self.must("adjtimex-debian --status 0 --maxerror 0 --esterror 0");
        }
    }

    /// What its clock shows, as text.
    pub fn date(&mut self) -> String {
        self.must("date -u +%Y-%m-%dT%H:%M:%SZ")
    }

    /// The admin's kubeconfig, with the machine's address on the switch.
    pub fn kubeconfig(&mut self) -> String {
        let server = format!("--server https://{}:6443", self.wire.address);
        if self.kubeconfig.is_none() {
            self.kubeconfig = Some(self.kumquat(&format!("kubeconfig {server}")));
        }
        self.kubeconfig.clone().expect("a kubeconfig")
    }

    /// The next request asks the machine for its kubeconfig again.
    pub fn forget_kubeconfig(&mut self) {
        self.kubeconfig = None;
    }

    /// Runs this machine's own kubectl from the switch; `None` without one here.
    pub fn kubectl(&mut self, arguments: &[&str]) -> Option<String> {
        let path = self.folder.join("kubeconfig");
        fs::write(&path, self.kubeconfig()).expect("kubeconfig");
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&path).arg("--cache-dir").arg(self.folder.join("cache"));
        command.args(["--request-timeout", "20s"]).args(arguments).stdin(Stdio::null());
        let output = match net::inside(&self.wire.switch, || command.output()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            output => output.expect("kubectl starts"),
        };
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output));
        Some(text(&output))
    }

    /// One API request from the switch; the answer as JSON, or the server's words.
    pub fn api(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let kubeconfig = self.kubeconfig();
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("method"))
            .uri(path)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .expect("request");
        let answer = net::inside(&self.wire.switch, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async {
                let client = ApiClient::from_kubeconfig(&kubeconfig, None)?;
                tokio::time::timeout(REQUEST_WITHIN, client.json(request)).await?
            }))
        });
        answer.expect("request thread").map_err(|error| format!("{error:#}"))
    }

    /// POST.
    pub fn create(&mut self, path: &str, body: &Value) -> Value {
        self.api("POST", path, Some(body)).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// GETs until `accept` likes what it sees; panics with the last answer otherwise.
    pub fn wait_for(
        &mut self,
        what: &str,
        path: &str,
        within: Duration,
        accept: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + within;
        let mut last = Err("never asked".to_owned());
        while Instant::now() < deadline {
            last = self.api("GET", path, None);
            if let Ok(answer) = &last
                && accept(answer)
            {
                return answer.clone();
            }
            std::thread::sleep(POLL_EVERY);
        }
        panic!("{what}: not within {within:?}; last answer {last:?}\n{}", self.log());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut power) = self.power.take() {
            let _ended = power.emulator.kill();
            let _ended = power.emulator.wait();
        }
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// What the console prints, by line.
fn lines_of(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1_024);
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// What a right clock shows, in seconds.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_secs()).expect("seconds")
}
