//! The demo's bed: a network namespace, the link to it, the board's process, and their removal.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::slot::Slot;
use crate::app::dirs::Dirs;
use crate::io::control::{Client, bytes_body};
use crate::io::{keeper, net};

/// The board's name.
pub(super) const BOARD: &str = "board-1";
const STOP_WITHIN: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(10);
const LOG_LINES_SHOWN: usize = 30;

/// One board in its namespace.
pub(super) struct Bed {
    slot: Slot,
    dirs: Dirs,
    up: Option<Child>,
}

impl Bed {
    /// An empty bed in the slot, after cleaning what a killed demo left there.
    pub(super) fn new(slot: Slot) -> Result<Self> {
        let folder = slot.folder().join(BOARD);
        let dirs = Dirs::new(&folder.join("data"), &folder.join("run"));
        let mut bed = Self { slot, dirs, up: None };
        if bed.slot.folder().exists() {
            say!("cleaning up after a demo that was killed ...");
            bed.clear().context("cannot clean up after a demo that was killed")?;
        }
        fs::create_dir_all(&bed.dirs.data)?;
        fs::create_dir_all(&bed.dirs.run)?;
        Ok(bed)
    }

    /// Makes namespace and link, starts `kumquat up` in it and waits for its API.
    pub(super) async fn start_board(&mut self) -> Result<()> {
        self.wire().context("cannot make the board's network namespace")?;
        let log = File::create(self.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["up", "--name", BOARD, "--cluster", &self.slot.cluster(), "--stop-pods"])
            .arg("--data-dir")
            .arg(&self.dirs.data)
            .arg("--run-dir")
            .arg(&self.dirs.run)
            .args(["--config", "/dev/null"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C goes to the demo alone; it stops the board in its own time.
            .process_group(0);
        // A child inherits the network namespace of the thread that starts it.
        let runtime = tokio::runtime::Handle::current();
        let child = net::inside(&self.slot.namespace(), || {
            let _entered = runtime.enter();
            command.spawn()
        });
        let child = child.context("cannot start kumquat up")?;
        fs::write(self.pid_file(), child.id().unwrap_or_default().to_string())?;
        self.up = Some(child);
        let client = Client::new(&self.dirs.socket());
        loop {
            if let Ok(answer) =
                client.send(http::Method::GET, "/v1/kubeconfig", bytes_body("")).await
            {
                let text = http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes();
                fs::write(self.kubeconfig(), text)?;
                return Ok(());
            }
            if let Some(child) = &mut self.up
                && let Some(status) = child.try_wait()?
            {
                bail!("kumquat up ended: {status}");
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    fn wire(&self) -> Result<()> {
        let namespace = self.slot.namespace();
        net::create(&namespace)?;
        let file = File::open(&namespace)?;
        let mut links = net::Links::open()?;
        links.add_veth(&self.slot.host_link(), "eth0", std::os::fd::AsFd::as_fd(&file))?;
        links.add_address(&self.slot.host_link(), self.slot.host_address(), 24)?;
        let (address, host) = (self.slot.board_address(), self.slot.host_address());
        net::inside(&namespace, || {
            let mut links = net::Links::open()?;
            links.add_address("eth0", address, 24)?;
            links.set_up("eth0")?;
            links.add_default_route(host)
        })?;
        Ok(())
    }

    /// The folders of the board.
    pub(super) fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// URL of the board's API as the host reaches it.
    pub(super) fn server(&self) -> String {
        format!("https://{}:6443", self.slot.board_address())
    }

    /// The admin kubeconfig.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.slot.folder().join("kubeconfig")
    }

    fn log(&self) -> PathBuf {
        self.slot.folder().join("up.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.slot.folder().join("up.pid")
    }

    /// Prints the end of the board's log, for a demo that failed.
    pub(super) fn explain(&self) {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("the last lines of the board's log:");
        for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
            eprintln!("  {line}");
        }
    }

    /// Stops the board and removes every trace.
    pub(super) async fn remove(&mut self) -> Result<()> {
        if let Some(child) = &mut self.up {
            if let Some(id) = child.id() {
                kill(Pid::from_raw(id.cast_signed()), Signal::SIGTERM)?;
            }
            if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_err() {
                child.kill().await?;
            }
        }
        self.clear()?;
        self.slot.give_back()
    }

    /// Removes what lies in the slot, whoever left it there.
    fn clear(&mut self) -> Result<()> {
        self.kill_recorded()?;
        keeper::cleanup(&keeper::KeeperPaths {
            run_dir: self.dirs.run.clone(),
            data_dir: self.dirs.data.clone(),
            cgroup: format!("kumquat-{}-{BOARD}", self.slot.cluster()),
            exe: std::env::current_exe()?,
        })
        .context("cannot remove the board's containers")?;
        net::Links::open()?.delete(&self.slot.host_link())?;
        net::remove(&self.slot.namespace())?;
        self.slot.empty()
    }

    /// Kills the `up` process that the slot's pid file names, if it is still that one.
    fn kill_recorded(&self) -> Result<()> {
        let Ok(text) = fs::read_to_string(self.pid_file()) else { return Ok(()) };
        let Ok(id) = text.trim().parse::<i32>() else { return Ok(()) };
        let line = fs::read(Path::new("/proc").join(id.to_string()).join("cmdline"));
        let own = self.dirs.run.as_os_str().as_encoded_bytes();
        let is_ours = line.is_ok_and(|line| line.windows(own.len()).any(|part| part == own));
        if id > 1 && is_ours {
            kill(Pid::from_raw(id), Signal::SIGKILL)?;
        }
        Ok(())
    }
}
