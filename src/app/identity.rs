//! What a board is: chosen at its first start, kept for good on its data-dir.

use std::fs;
use std::io;

use anyhow::{Context, Result, anyhow, bail};
use model::ids::Uid;
use serde::{Deserialize, Serialize};

use super::config::{Config, Range};
use super::dirs::Dirs;
use crate::io::durable;
use crate::master::registry::ServiceRange;

/// Each board gets a /24 of the pod range.
const POD_PREFIX_MAX: u8 = 24;

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
                durable::replace(&path, &serde_json::to_vec(&identity)?, durable::PUBLIC)
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
        let pod_range = config.pod_range.unwrap_or(Range::PODS);
        let service_range = config.service_range.unwrap_or(Range::SERVICES);
        check_ranges(pod_range, service_range)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow!("the kernel gives no randomness: {error}"))?;
        Ok(Self {
            name,
            cluster,
            id: Uid::from_random(random).to_string(),
            pod_range,
            service_range,
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
        for (flag, given, kept) in [
            ("--pod-range", config.pod_range, self.pod_range),
            ("--service-range", config.service_range, self.service_range),
        ] {
            if given.is_some_and(|given| given != kept) {
                bail!("this cluster was founded with {flag} {kept}: leave {flag} away");
            }
        }
        Ok(())
    }
}

/// Refuses what no cluster can run with, before it is kept for good.
fn check_ranges(pods: Range, services: Range) -> Result<()> {
    if pods.prefix > POD_PREFIX_MAX {
        bail!("--pod-range {pods} is too small: use a prefix length from 8 to {POD_PREFIX_MAX}");
    }
    if ServiceRange::new(services.base, services.prefix).is_none() {
        bail!("--service-range {services} cannot hold services: use a prefix length from 12 to 28");
    }
    if pods.overlaps(services) {
        bail!(
            "--pod-range {pods} and --service-range {services} overlap: give two separate ranges"
        );
    }
    Ok(())
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

    fn config(words: &[&str]) -> Config {
        use super::super::cli::{Cli, Command};
        use super::super::config::load;
        use clap::Parser;
        let words = [&["kumquat", "up", "--config", "/dev/null", "--name", "a"], words].concat();
        let Command::Up(flags) = Cli::try_parse_from(words).expect("known flags").command else {
            unreachable!("`up` was parsed")
        };
        load(&flags).expect("a configuration")
    }

    #[test]
    fn a_range_that_cannot_work_is_refused_before_anything_is_kept() {
        let folder = std::env::temp_dir().join(format!("kumquat-identity-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("tmp");
        let dirs = Dirs::new(&folder, &folder);
        for bad in [
            ["--service-range", "10.0.0.0/8"],
            ["--service-range", "10.42.0.0/20"],
            ["--pod-range", "10.1.0.0/25"],
        ] {
            assert!(Identity::load_or_found(&dirs, &config(&bad)).is_err(), "{bad:?}");
            assert!(!dirs.board().exists(), "{bad:?}");
        }
        let own = ["--service-range", "10.9.0.0/24"];
        let founded = Identity::load_or_found(&dirs, &config(&own)).expect("founded");
        for same in [&own[..], &[]] {
            let again = Identity::load_or_found(&dirs, &config(same)).expect("comes back");
            assert_eq!(again, founded);
        }
        for other in [["--service-range", "10.43.0.0/16"], ["--pod-range", "10.44.0.0/16"]] {
            let refusal = Identity::load_or_found(&dirs, &config(&other)).expect_err("differs");
            assert!(refusal.to_string().contains(other[0]), "{refusal}");
        }
        fs::remove_dir_all(folder).expect("removed");
    }

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
