//! A real board for tests: `kumquat up` in a network namespace of its own, on folders of its own.
//!
//! A board stands alone; `harness/switch.rs` plugs several into a switch and makes a cluster of them.
//! The board is asked over its public API with the admin's certificate, and over its command line.
//! Dropping it removes every trace. A test that finds a leak compares [`Traces`] before and after.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use kumquat::app::api_client::ApiClient;
use kumquat::io::{keeper, net};
use serde_json::Value;

const POLL_EVERY: Duration = Duration::from_millis(20);

/// Whether this machine lets a test make boards; says so when not.
pub fn possible(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("not run: {test} needs root for namespaces and containers");
    }
    root
}

/// How a board hangs on a switch: the switch's namespace, its port there, and the board's address.
#[derive(Clone, Debug)]
pub struct Wire {
    /// File on which the switch's namespace is pinned.
    pub switch: PathBuf,
    /// Name of the port, in the switch's namespace.
    pub port: String,
    /// Address of the board's `eth0`, in a /24.
    pub address: Ipv4Addr,
}

impl Wire {
    /// Makes the pair of links, gives the board its address.
    pub fn plug(&self, namespace: &Path) -> std::io::Result<()> {
        let board = File::open(namespace)?;
        net::inside(&self.switch, || {
            let mut links = net::Links::open()?;
            // The old pair goes with its namespace, in the kernel's own time.
            links.delete(&self.port)?;
            links.add_veth(&self.port, ETH, std::os::fd::AsFd::as_fd(&board))?;
            links.set_master(&self.port, BRIDGE)
        })?;
        net::inside(namespace, || {
            let mut links = net::Links::open()?;
            links.add_address(ETH, self.address, 24)?;
            links.set_up(ETH)
        })
    }
}

/// Name of a board's interface on the switch.
pub const ETH: &str = "eth0";
/// Name of the bridge in the switch's namespace.
pub const BRIDGE: &str = "br0";

/// Which packets of a board are lost.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    /// What others send to it.
    Incoming,
    /// What it sends.
    Outgoing,
    /// What is sent to everybody: it hears no announcement.
    Multicast,
}

/// Rounds of a repeated trial: few in CI, many in `cargo xtask soak`.
pub fn rounds(short: usize) -> usize {
    std::env::var("KUMQUAT_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// One board.
pub struct Board {
    /// Unique within the machine: folders, namespace and cgroup hold it.
    name: String,
    node: String,
    cluster: String,
    wire: Option<Wire>,
    folder: PathBuf,
    namespace: PathBuf,
    environment: Vec<(String, String)>,
    config: PathBuf,
    up: Option<Child>,
}

impl Board {
    /// An empty board; `test` makes its names unique within the machine.
    pub fn new(test: &str) -> Self {
        Self::on(test, &std::env::temp_dir())
    }

    /// An empty board whose folders lie in `parent`.
    pub fn on(test: &str, parent: &Path) -> Self {
        let name = format!("{test}-{}", std::process::id());
        Self::make(name.clone(), "board", name, parent)
    }

    /// An empty board called `node` for a cluster, plugged into a switch.
    pub fn plugged(cluster: &str, node: &str, wire: Wire) -> Self {
        let name = format!("{cluster}-{node}");
        let mut board = Self::make(name, node, cluster.to_owned(), &std::env::temp_dir());
        wire.plug(&board.namespace).expect("board plugged into the switch");
        board.wire = Some(wire);
        board
    }

    fn make(name: String, node: &str, cluster: String, parent: &Path) -> Self {
        let folder = parent.join(format!("kumquat-test-{name}"));
        let namespace = PathBuf::from(format!("/run/netns/kumquat-test-{name}"));
        let board = Self {
            name,
            node: node.to_owned(),
            cluster,
            wire: None,
            folder,
            namespace,
            environment: Vec::new(),
            config: "/dev/null".into(),
            up: None,
        };
        fs::create_dir_all(board.data_dir()).expect("folder for the board");
        fs::create_dir_all(board.run_dir()).expect("folder for the board");
        net::create(&board.namespace).expect("network namespace");
        board
    }

    /// The name of its Node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The name of the cluster that it founds or joins.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its address on the switch.
    pub fn address(&self) -> Ipv4Addr {
        self.wire.as_ref().expect("a board on a switch").address
    }

    /// Pulls its cable out, at the switch.
    pub fn unplug(&self) {
        self.port(|links, port| links.set_down(port));
    }

    /// Puts its cable back.
    pub fn replug(&self) {
        self.port(|links, port| links.set_up(port));
    }

    fn port(&self, change: impl FnOnce(&mut net::Links, &str) -> std::io::Result<()> + Send) {
        let wire = self.wire.as_ref().expect("a board on a switch");
        net::inside(&wire.switch, || change(&mut net::Links::open()?, &wire.port)).expect("port");
    }

    /// Loses packets of one direction on the switch's side of the board, until [`Self::lose_nothing`].
    pub fn lose(&self, lost: Lost) {
        let hook = match lost {
            Lost::Incoming => ("input", "iifname", ""),
            Lost::Outgoing => ("output", "oifname", ""),
            Lost::Multicast => ("input", "iifname", "ip daddr 224.0.0.0/4"),
        };
        let rules = format!(
            "table inet trial {{\n chain lost {{\n type filter hook {} priority -300;\n {} {ETH} {} drop\n }}\n }}\n",
            hook.0, hook.1, hook.2
        );
        self.nft(&["add", "table", "inet", "trial"]);
        self.nft(&["delete", "table", "inet", "trial"]);
        self.nft(&[&rules]);
    }

    /// Ends what [`Self::lose`] began.
    pub fn lose_nothing(&self) {
        self.nft(&["delete", "table", "inet", "trial"]);
    }

    fn nft(&self, arguments: &[&str]) {
        let run = || Command::new("nft").args(arguments).output();
        let output = net::inside(&self.namespace, run).expect("nft starts");
        assert!(output.status.success(), "nft {arguments:?}: {}", text(&output));
    }

    /// Stops all of kumquat's own processes of the board; its containers go on.
    pub fn freeze(&self) {
        self.signal_all(nix::sys::signal::Signal::SIGSTOP);
    }

    /// Ends what [`Self::freeze`] began.
    pub fn thaw(&self) {
        self.signal_all(nix::sys::signal::Signal::SIGCONT);
    }

    fn signal_all(&self, signal: nix::sys::signal::Signal) {
        for pid in self.processes() {
            // A starter of the keeper may have ended meanwhile.
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    /// Whether `kumquat up` runs.
    pub fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// A token for one more board that never becomes a master.
    pub fn token(&self) -> String {
        self.token_for("worker")
    }

    /// A token for one more board of this role.
    pub fn token_for(&self, role: &str) -> String {
        let output = self.command(&["token", "create", "--role", role]);
        assert!(output.status.success(), "{}\n{}", text(&output), self.log());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The board's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// File on which its network namespace is pinned.
    pub fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// Its data-dir.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its run-dir.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The binary under test: `KUMQUAT_BINARY`, or the one that cargo built beside the tests.
    pub fn binary_path() -> PathBuf {
        std::env::var_os("KUMQUAT_BINARY").map_or_else(Self::dynamic_binary, PathBuf::from)
    }

    /// The one that cargo built beside the tests, which libraries can be put under:
    /// `target/<profile>/kumquat`, beside `target/<profile>/deps/<this test>`.
    pub fn dynamic_binary() -> PathBuf {
        let test = std::env::current_exe().expect("path of this test");
        let folder = test.parent().and_then(Path::parent).expect("target folder");
        folder.join("kumquat")
    }

    /// Each board runs its own copy, so that boards share no pages.
    fn binary(&self) -> Command {
        let own = self.folder.join("kumquat");
        if !own.exists() {
            copy_program(&Self::binary_path(), &own);
        }
        Command::new(own)
    }

    /// Gives the board another binary for whatever is started from here on.
    pub fn install(&self, binary: &Path) {
        let fresh = self.folder.join("kumquat.fresh");
        copy_program(binary, &fresh);
        fs::rename(&fresh, self.folder.join("kumquat")).expect("the binary in its place");
    }

    /// Starts `kumquat up` with more arguments and waits until the board is ready.
    pub fn up(&mut self, arguments: &[&str]) {
        self.start(arguments);
        let waited = self.command(&["wait", "--timeout", "30s"]);
        assert!(waited.status.success(), "not ready: {}\n{}", text(&waited), self.log());
    }

    /// Starts `kumquat up` without waiting.
    pub fn start(&mut self, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.folder.join("up.log"));
        let log = log.expect("log file");
        let mut command = self.binary();
        command
            .args(["up", "--name", &self.node, "--cluster", &self.cluster])
            .arg("--config")
            .arg(&self.config)
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            // Where a build with `fault-injection` reads what has to fail.
            .env("KUMQUAT_FAULTS", self.run_dir())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file"))
            .stderr(log);
        let child = net::inside(&self.namespace, || once_free(|| command.spawn()));
        self.up = Some(child.expect("kumquat up starts"));
    }

    /// Starts `kumquat up` on what a restore has made: name and cluster are known there.
    pub fn start_restored(&mut self) {
        let known = fs::read(self.data_dir().join("board.json")).expect("an identity");
        let known: Value = serde_json::from_slice(&known).expect("an identity");
        for (own, known) in
            [(&mut self.node, &known["name"]), (&mut self.cluster, &known["cluster"])]
        {
            *own = known.as_str().expect("text").to_owned();
        }
        self.start(&[]);
    }

    /// Gives every later `kumquat up` this configuration file.
    pub fn configure(&mut self, text: &str) {
        self.config = self.folder.join("config.toml");
        fs::write(&self.config, text).expect("configuration file");
    }

    /// Sets what every later `kumquat up` finds in its environment.
    pub fn environment(&mut self, variables: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.environment = variables.iter().map(owned).collect();
    }

    /// The next request asks the board for its kubeconfig again.
    pub fn forget_kubeconfig(&self) {
        let _none = fs::remove_file(self.folder.join("kubeconfig"));
    }

    /// Runs `kumquat up`, which must end by itself; gives what it said.
    pub fn up_refused(&self, arguments: &[&str]) -> Output {
        let mut command = self.binary();
        command.args(["up", "--cluster", &self.cluster]).args(arguments);
        for (flag, value) in [("--name", self.node.as_str()), ("--config", "/dev/null")] {
            if !arguments.iter().any(|given| given.starts_with(flag)) {
                command.args([flag, value]);
            }
        }
        command.arg("--data-dir").arg(self.data_dir()).arg("--run-dir").arg(self.run_dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = net::inside(&self.namespace, || command.spawn());
        let mut child = child.expect("kumquat up starts");
        let deadline = Instant::now() + Duration::from_secs(30);
        while child.try_wait().expect("wait").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("kill");
                let output = child.wait_with_output().expect("wait");
                panic!("kumquat up {arguments:?} was not refused: {}", text(&output));
            }
            std::thread::sleep(POLL_EVERY);
        }
        child.wait_with_output().expect("output")
    }

    /// The pid of `kumquat up`.
    pub fn pid(&self) -> u32 {
        self.up.as_ref().expect("the board is up").id()
    }

    /// What the board has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("up.log")).unwrap_or_default()
    }

    /// Sends SIGKILL to `kumquat up`, also to one that the guard of an upgrade has started.
    pub fn kill(&mut self) {
        let mut child = self.up.take().expect("the board is up");
        child.kill().expect("kill");
        child.wait().expect("wait");
        self.end_all("up");
    }

    /// The pid of the `kumquat up` that runs, whoever has started it.
    pub fn up_pid(&self) -> i32 {
        self.all("up").first().copied().unwrap_or_default()
    }

    /// Whether a new binary is on trial.
    pub fn is_on_trial(&self) -> bool {
        !self.all("upgrade-watch").is_empty()
    }

    /// The binary of this board.
    pub fn binary_file(&self) -> PathBuf {
        self.folder.join("kumquat")
    }

    /// Processes of this board's binary with this subcommand.
    fn all(&self, subcommand: &str) -> Vec<i32> {
        let mut pids = self.processes();
        pids.retain(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(subcommand.as_bytes())
        });
        pids
    }

    fn end_all(&self, subcommand: &str) {
        for pid in self.all(subcommand) {
            let pid = nix::unistd::Pid::from_raw(pid);
            // It may have ended meanwhile.
            let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Sends SIGTERM to `kumquat up` and waits for its end.
    pub fn stop(&mut self) {
        let child = self.up.as_ref().expect("the board is up");
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal");
        self.wait_ended();
    }

    /// Waits until `kumquat up` ends, which it does by itself.
    pub fn wait_ended(&mut self) {
        let mut child = self.up.take().expect("the board is up");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                assert!(status.success(), "ended with {status}\n{}", self.log());
                return;
            }
            assert!(Instant::now() < deadline, "did not stop within 60 s\n{}", self.log());
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// What pulling the plug leaves: no process, no mount, an empty run-dir, a new namespace (on the
    /// switch again, if it hung on one).
    pub fn pull_the_plug(&mut self) {
        self.end_all("upgrade-watch");
        if self.up.is_some() {
            self.kill();
        }
        keeper::cleanup(&self.keeper_paths()).expect("clean up");
        fs::remove_dir_all(self.run_dir()).expect("run-dir");
        fs::create_dir_all(self.run_dir()).expect("run-dir");
        net::remove(&self.namespace).expect("namespace");
        net::create(&self.namespace).expect("namespace");
        if let Some(wire) = &self.wire {
            wire.plug(&self.namespace).expect("board plugged into the switch");
        }
    }

    fn keeper_paths(&self) -> keeper::KeeperPaths {
        keeper::KeeperPaths {
            run_dir: self.run_dir(),
            data_dir: self.data_dir(),
            cgroup: format!("kumquat-{}-{}", self.cluster, self.node),
            exe: self.folder.join("kumquat"),
        }
    }

    /// Runs a kumquat command against this board.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = self.binary();
        command.args(arguments).arg("--data-dir").arg(self.data_dir());
        command.arg("--run-dir").arg(self.run_dir()).stdin(Stdio::null());
        net::inside(&self.namespace, || once_free(|| command.output())).expect("command starts")
    }

    /// The admin kubeconfig, as a file.
    pub fn kubeconfig(&self) -> PathBuf {
        let path = self.folder.join("kubeconfig");
        if !path.exists() {
            let output = self.command(&["kubeconfig", "--server", "https://127.0.0.1:6443"]);
            assert!(output.status.success(), "{}", text(&output));
            fs::write(&path, output.stdout).expect("kubeconfig");
        }
        path
    }

    /// Runs a kubectl of a version (`1.33`) in the board's namespace.
    pub fn kubectl(&self, version: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(format!("/usr/bin/kubectl.{version}"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.arg("--cache-dir").arg(self.folder.join("kubectl-cache")).args(arguments);
        net::inside(&self.namespace, || command.output()).expect("kubectl starts")
    }

    /// One API request; the answer as JSON, or the server's words.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let kubeconfig = fs::read_to_string(self.kubeconfig()).expect("kubeconfig");
        let patch = "application/merge-patch+json";
        let kind = if method == "PATCH" { patch } else { "application/json" };
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("method"))
            .uri(path)
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .expect("request");
        let answer = net::inside(&self.namespace, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async {
                let client = ApiClient::from_kubeconfig(&kubeconfig, None)?;
                client.json(request).await
            }))
        });
        answer.expect("request thread").map_err(|error| format!("{error:#}"))
    }

    /// GET of an answer that is text.
    pub fn api_text(&self, path: &str) -> Result<String, String> {
        let kubeconfig = fs::read_to_string(self.kubeconfig()).expect("kubeconfig");
        let answer = net::inside(&self.namespace, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async {
                let client = ApiClient::from_kubeconfig(&kubeconfig, None)?;
                let body = client.stream(path).await?;
                let bytes = http_body_util::BodyExt::collect(body).await?.to_bytes();
                anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
            }))
        });
        answer.expect("request thread").map_err(|error| format!("{error:#}"))
    }

    /// Creates a pod and gives the time until a watch shows it running.
    pub fn create_and_watch_running(&self, path: &str, pod: &Value) -> Duration {
        let kubeconfig = fs::read_to_string(self.kubeconfig()).expect("kubeconfig");
        let name = pod["metadata"]["name"].as_str().expect("name");
        let watch = format!("{path}?watch=true&fieldSelector=metadata.name%3D{name}");
        let taken = net::inside(&self.namespace, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async {
                let client = ApiClient::from_kubeconfig(&kubeconfig, None)?;
                let mut events = client.stream(&watch).await?;
                let request = Request::post(path)
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from(pod.to_string())))?;
                let began = Instant::now();
                client.json(request).await?;
                let mut seen = Vec::new();
                while let Some(frame) = http_body_util::BodyExt::frame(&mut events).await {
                    seen.extend_from_slice(&frame?.into_data().unwrap_or_default());
                    let running = br#""phase":"Running""#;
                    if seen.windows(running.len()).any(|part| part == running) {
                        return anyhow::Ok(began.elapsed());
                    }
                }
                anyhow::bail!("the watch ended")
            }))
        });
        taken.expect("request thread").unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Pids of `kumquat up` and of the keeper's processes, containers not included.
    pub fn processes(&self) -> Vec<i32> {
        let own = ["kumquat", "kumquat.trial"].map(|name| self.folder.join(name));
        let entries = fs::read_dir("/proc").expect("proc").flatten();
        entries
            .filter(|entry| {
                fs::read_link(entry.path().join("exe")).is_ok_and(|exe| own.contains(&exe))
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// The busybox archive, in the board's own folder.
    pub fn busybox(&self) -> PathBuf {
        crate::busybox::archive(&self.folder)
    }

    /// The pid of the keeper's process that has a lock (`holder.lock`, `pump.lock`), if one has.
    ///
    /// Looks only: nothing is started by it.
    pub fn lock_owner(&self, lock: &str) -> Option<i32> {
        let inode = fs::metadata(self.run_dir().join("keeper").join(lock)).ok()?.ino();
        // proc_locks(5): `1: POSIX  ADVISORY  WRITE 4321 00:19:77 0 EOF`.
        let locks = fs::read_to_string("/proc/locks").expect("locks");
        locks.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, "POSIX", _, "WRITE", pid, file, ..] = words[..] else { return None };
            (file.rsplit(':').next()? == inode.to_string()).then(|| pid.parse().ok()).flatten()
        })
    }

    /// The pid of the keeper's holder, once there is one.
    pub fn keeper_pid(&self) -> i32 {
        self.wait_lock_owner("holder.lock", 0)
    }

    /// The owner of a lock, once it is another process than `before`.
    pub fn wait_lock_owner(&self, lock: &str, before: i32) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.lock_owner(lock) {
                Some(pid) if pid != before => return pid,
                owner => assert!(Instant::now() < deadline, "{lock}: owner is {owner:?}"),
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Value {
        self.api("GET", path, None).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// POST.
    pub fn create(&self, path: &str, body: &Value) -> Value {
        self.api("POST", path, Some(body)).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// GETs until `accept` likes what it sees; panics with the last answer otherwise.
    pub fn wait_for(
        &self,
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

impl Drop for Board {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of board {}:\n{}", self.name, self.log());
        }
        if self.up.is_some() {
            self.kill();
        }
        self.thaw();
        if let Err(error) = keeper::cleanup(&self.keeper_paths()) {
            eprintln!("cleaning up {}: {error}", self.name);
        }
        let _gone = net::remove(&self.namespace);
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// A process that another test begins to start holds the descriptor by which this board's copy of the
/// binary was written, until its execve.
fn once_free<T>(mut start: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match start() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                assert!(Instant::now() < deadline, "the binary stays busy");
                std::thread::sleep(Duration::from_millis(10));
            }
            started => return started,
        }
    }
}

/// Copies a program in a process of its own: were the copy open for writing here, a process that another
/// test starts at this moment would hold it open too, and the program could not be run ("text file busy").
fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().expect("cp starts");
    assert!(copied.success(), "copy of the binary");
}

/// Output of a command for messages.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
