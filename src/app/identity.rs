//! What a board is: chosen at its first start, kept for good on its data-dir.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use model::ids::Uid;
use serde::{Deserialize, Serialize};

use super::config::{Config, Range};
use super::dirs::Dirs;

/// The part of a board's life that no flag may change later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Name of the board and of its Node.
    pub(super) name: String,
    /// Name of the cluster.
    pub(super) cluster: String,
    /// Random, new on a fresh disk: a wiped board is another board.
    pub(super) id: String,
    /// Pod addresses of the cluster.
    pub(super) pod_range: Range,
    /// Service addresses of the cluster.
    pub(super) service_range: Range,
}

impl Identity {
    /// Name of the cgroup that holds everything this board runs.
    pub(super) fn cgroup(&self) -> String {
        format!("kumquat-{}-{}", self.cluster, self.name)
    }

    /// What lies on the disk, or a new identity made durable.
    ///
    /// # Errors
    /// The flags contradict what was chosen before, or the disk refuses.
    pub(super) fn load_or_found(dirs: &Dirs, config: &Config) -> Result<Self> {
        let path = dirs.board();
        match fs::read(&path) {
            Ok(bytes) => {
                let identity: Self = serde_json::from_slice(&bytes).with_context(|| {
                    format!(
                        "{} is damaged: restore it, or start on an empty --data-dir",
                        path.display()
                    )
                })?;
                identity.check(config)?;
                Ok(identity)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = Self::found(config)?;
                write_durably(&path, &serde_json::to_vec(&identity)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(identity)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn found(config: &Config) -> Result<Self> {
        let name = match &config.name {
            Some(name) => name.clone(),
            None => host_name(),
        };
        let cluster = config.cluster.clone().unwrap_or_else(|| "kumquat".into());
        for (flag, value) in [("--name", &name), ("--cluster", &cluster)] {
            if !is_label(value) {
                bail!(
                    "{flag} {value:?} is not a valid name: use lower-case letters, digits and `-`, \
                     63 at most, a letter or digit first and last"
                );
            }
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow!("the kernel gives no randomness: {error}"))?;
        Ok(Self {
            name,
            cluster,
            id: Uid::from_random(random).to_string(),
            pod_range: config.pod_range,
            service_range: config.service_range,
        })
    }

    fn check(&self, config: &Config) -> Result<()> {
        let differs =
            |given: &Option<String>, kept: &str| given.as_deref().is_some_and(|g| g != kept);
        if differs(&config.name, &self.name) {
            bail!(
                "this board is called {}: a board keeps its name for life; leave --name away, or \
                 use an empty --data-dir for another board",
                self.name
            );
        }
        if differs(&config.cluster, &self.cluster) {
            bail!("this board belongs to cluster {}: leave --cluster away", self.cluster);
        }
        Ok(())
    }
}

/// Write, sync, rename, sync the folder: after a power cut the old file or the new one is there.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(folder)?.sync_all()
}

/// The host's name, made fit for a Node.
fn host_name() -> String {
    let raw = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().to_lowercase();
    let fit: String = raw
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    let fit = fit.trim_matches('-');
    if fit.is_empty() { "board".into() } else { fit.into() }
}

/// An RFC 1123 label.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (text, fine) in
            [("pi-1", true), ("", false), ("-a", false), ("A", false), ("a_b", false)]
        {
            assert_eq!(is_label(text), fine, "{text:?}");
        }
        assert!(is_label(&host_name()));
    }
}
