//! One board of the demo: its folders, its network namespace and its `kumquat up`.

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

const STOP_WITHIN: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(10);
const LOG_LINES_SHOWN: usize = 30;

/// A board on the demo's switch.
pub(super) struct Board {
    number: u8,
    name: String,
    cluster: String,
    namespace: PathBuf,
    /// Holds its log and the pid of its process, beside its folders.
    folder: PathBuf,
    dirs: Dirs,
    up: Option<Process>,
}

/// A running `kumquat up`.
pub(super) struct Process(Child);

impl Board {
    /// The board with a number from 1; nothing is made yet.
    pub(super) fn new(slot: &Slot, number: u8) -> Self {
        let name = format!("board-{number}");
        let folder = slot.folder().join(&name);
        Self {
            number,
            cluster: slot.cluster(),
            namespace: slot.namespace(&name),
            dirs: Dirs::new(&folder.join("data"), &folder.join("run")),
            folder,
            name,
            up: None,
        }
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    /// The name of its Node.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// File on which its network namespace is pinned.
    pub(super) fn namespace(&self) -> &Path {
        &self.namespace
    }

    /// Its folders.
    pub(super) fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    fn log(&self) -> PathBuf {
        self.folder.join("up.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("up.pid")
    }

    /// Starts `kumquat up` in its namespace, with more arguments.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn start(&mut self, arguments: &[&str]) -> Result<()> {
        fs::create_dir_all(&self.dirs.data)?;
        fs::create_dir_all(&self.dirs.run)?;
        let log = File::create(self.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["up", "--name", &self.name, "--cluster", &self.cluster, "--stop-pods"])
            .args(arguments)
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
        let child = net::inside(&self.namespace, || {
            let _entered = runtime.enter();
            command.spawn()
        });
        let child = child.with_context(|| format!("cannot start {}", self.name))?;
        fs::write(self.pid_file(), child.id().unwrap_or_default().to_string())?;
        self.up = Some(Process(child));
        Ok(())
    }

    /// Fails when `kumquat up` has ended.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(Process(child)) = &mut self.up
            && let Some(status) = child.try_wait()?
        {
            bail!("kumquat up of {} ended: {status}", self.name);
        }
        Ok(())
    }

    /// The admin kubeconfig, once the board is there to give it.
    ///
    /// # Errors
    /// `kumquat up` has ended.
    pub(super) async fn kubeconfig(&mut self) -> Result<Vec<u8>> {
        let client = Client::new(&self.dirs.socket());
        loop {
            if let Ok(answer) =
                client.send(http::Method::GET, "/v1/kubeconfig", bytes_body("")).await
            {
                let body = http_body_util::BodyExt::collect(answer.into_body()).await?;
                return Ok(body.to_bytes().to_vec());
            }
            self.check()?;
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// What `kumquat token create` prints on this board.
    ///
    /// # Errors
    /// Its words.
    pub(super) async fn token(&self) -> Result<String> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["token", "create", "--data-dir"]).arg(&self.dirs.data);
        command.arg("--run-dir").arg(&self.dirs.run).stdin(Stdio::null());
        let output = command.output().await.context("cannot run kumquat token create")?;
        if !output.status.success() {
            bail!("kumquat token create: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The process, for somebody who stops it.
    pub(super) fn take_process(&mut self) -> Option<Process> {
        self.up.take()
    }

    /// Prints the end of its log.
    pub(super) fn explain(&self) {
        let Ok(text) = fs::read_to_string(self.log()) else { return };
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("the last lines of the log of {}:", self.name);
        for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
            eprintln!("  {line}");
        }
    }

    /// Removes its containers, its namespace and its folders.
    ///
    /// # Errors
    /// Something stays behind.
    pub(super) fn clear(&self) -> Result<()> {
        if self.folder.exists() {
            keeper::cleanup(&keeper::KeeperPaths {
                run_dir: self.dirs.run.clone(),
                data_dir: self.dirs.data.clone(),
                cgroup: format!("kumquat-{}-{}", self.cluster, self.name),
                exe: std::env::current_exe()?,
            })
            .with_context(|| format!("cannot remove the containers of {}", self.name))?;
        }
        net::remove(&self.namespace)?;
        Ok(())
    }

    /// Kills the `up` process that the board's pid file names, if it is still that one.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn kill_recorded(&self) -> Result<()> {
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

impl Process {
    /// Tells it to stop, and kills it when it does not.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) async fn stop(self) -> Result<()> {
        let Self(mut child) = self;
        if let Some(id) = child.id() {
            kill(Pid::from_raw(id.cast_signed()), Signal::SIGTERM)?;
        }
        if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_err() {
            child.kill().await?;
        }
        Ok(())
    }
}
