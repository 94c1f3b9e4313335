//! What a board is: chosen at its first start, kept for good on its data-dir.

use std::fs;
use std::io;

use anyhow::{Context, Result, anyhow, bail};
use model::ids::Uid;
use model::limits::NODE_BLOCK_PREFIX;
use serde::{Deserialize, Serialize};

use super::config::{Config, Range};
use super::dirs::Dirs;
use crate::io::durable;
use crate::master::registry::ServiceRange;

/// Each board gets a block of the pod range; two boards are the least that is worth a cluster.
const POD_PREFIX_MAX: u8 = NODE_BLOCK_PREFIX - 1;

/// How a board came to its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// It founded the cluster, has its authority and leads it. Data-dirs of version 0.0 say nothing
    /// else.
    #[default]
    Founder,
    /// It joined with a token.
    Member,
}

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
    /// How it came to its cluster.
    #[serde(default)]
    pub(super) role: Role,
}

impl Identity {
    /// Name of the cgroup that holds everything this board runs.
    pub(super) fn cgroup(&self) -> String {
        format!("kumquat-{}-{}", self.cluster, self.name)
    }

    /// What lies on the disk, `None` before the first start.
    ///
    /// # Errors
    /// The flags contradict what was chosen before, or the disk refuses.
    pub(super) fn load(dirs: &Dirs, config: &Config) -> Result<Option<Self>> {
        let identity = Self::read(dirs)?;
        identity.iter().try_for_each(|identity| identity.check(config))?;
        Ok(identity)
    }

    /// The same, whatever the command line asks for.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub(super) fn read(dirs: &Dirs) -> Result<Option<Self>> {
        let path = dirs.board();
        match fs::read(&path) {
            Ok(bytes) => {
                let identity = serde_json::from_slice(&bytes).with_context(|| {
                    format!(
                        "{} is damaged: restore it, or start on an empty --data-dir",
                        path.display()
                    )
                })?;
                Ok(Some(identity))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Makes it durable; from then on the board comes back as this.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn save(&self, dirs: &Dirs) -> Result<()> {
        let path = dirs.board();
        durable::replace(&path, &serde_json::to_vec(self)?, durable::PUBLIC)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The founder of a new cluster.
    ///
    /// # Errors
    /// A name or range that no cluster can have.
    pub(super) fn found(config: &Config) -> Result<Self> {
        let cluster = config.cluster.clone().unwrap_or_else(|| DEFAULT_CLUSTER.into());
        check_label("--cluster", &cluster)?;
        let pod_range = config.pod_range.unwrap_or(Range::PODS);
        let service_range = config.service_range.unwrap_or(Range::SERVICES);
        check_ranges(pod_range, service_range)?;
        Ok(Self {
            name: board_name(config)?,
            cluster,
            id: random_id()?,
            pod_range,
            service_range,
            role: Role::Founder,
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

/// Name of a cluster whose founder says nothing.
pub(super) const DEFAULT_CLUSTER: &str = "kumquat";

/// The name that a board without an identity shall have.
///
/// # Errors
/// It is no name for a Node.
pub(super) fn board_name(config: &Config) -> Result<String> {
    chosen_name(config.name.as_deref())
}

/// The name that was chosen, or the host's.
///
/// # Errors
/// It is no name for a Node.
pub(super) fn chosen_name(chosen: Option<&str>) -> Result<String> {
    let name = chosen.map_or_else(host_name, str::to_owned);
    check_label("--name", &name)?;
    Ok(name)
}

/// A random id for a fresh board.
///
/// # Errors
/// The kernel gives no randomness.
pub(super) fn random_id() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| anyhow!("the kernel gives no randomness: {error}"))?;
    Ok(Uid::from_random(random).to_string())
}

fn check_label(flag: &str, value: &str) -> Result<()> {
    if !is_label(value) {
        bail!(
            "{flag} {value:?} is not a valid name: use lower-case letters, digits and `-`, \
             63 at most, a letter or digit first and last"
        );
    }
    Ok(())
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
            assert!(Identity::found(&config(&bad)).is_err(), "{bad:?}");
        }
        let own = ["--service-range", "10.9.0.0/24"];
        assert_eq!(Identity::load(&dirs, &config(&own)).expect("readable"), None);
        let founded = Identity::found(&config(&own)).expect("founded");
        founded.save(&dirs).expect("durable");
        for same in [&own[..], &[]] {
            let again = Identity::load(&dirs, &config(same)).expect("comes back");
            assert_eq!(again.as_ref(), Some(&founded));
        }
        for other in [["--service-range", "10.43.0.0/16"], ["--pod-range", "10.44.0.0/16"]] {
            let refusal = Identity::load(&dirs, &config(&other)).expect_err("differs");
            assert!(refusal.to_string().contains(other[0]), "{refusal}");
        }
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_data_dir_of_version_0_0_is_a_founder() {
        let old = r#"{"name":"a","cluster":"c","id":"x","pod_range":{"base":"10.42.0.0","prefix":16},
            "service_range":{"base":"10.43.0.0","prefix":16}}"#;
        let identity: Identity = serde_json::from_str(old).expect("the old format");
        assert_eq!(identity.role, Role::Founder);
        let member = Identity { role: Role::Member, ..identity };
        let text = serde_json::to_string(&member).expect("text");
        assert!(text.contains(r#""role":"member""#), "{text}");
        assert_eq!(serde_json::from_str::<Identity>(&text).expect("text"), member);
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
