//! The configuration of a board: flags over `config.toml` over defaults.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::cli::{Role, UpArgs};

/// The file, every field optional. Unknown fields are refused: a typing error must not pass.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    name: Option<String>,
    cluster: Option<String>,
    role: Option<Role>,
    api_port: Option<u16>,
    pod_range: Option<String>,
    service_range: Option<String>,
}

/// What a board runs with.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// Board name, when the user gives one.
    pub name: Option<String>,
    /// Cluster name, when the user gives one.
    pub cluster: Option<String>,
    /// Role.
    pub role: Role,
    /// Port of the API.
    pub api_port: u16,
    /// Pod addresses.
    pub pod_range: Range,
    /// Service addresses.
    pub service_range: Range,
    /// Stop pods with the process.
    pub stop_pods: bool,
}

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    /// First address.
    pub base: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// Read when the user names no other.
const DEFAULT_FILE: &str = "/etc/kumquat/config.toml";

/// Merges flags, file and defaults.
///
/// # Errors
/// The file cannot be read (only the default one may be missing) or has a field that does not exist;
/// a range is not a network.
pub(super) fn load(flags: &UpArgs) -> Result<Config> {
    let file = match &flags.config {
        Some(path) => parse(path, read(path))?,
        None => match read(Path::new(DEFAULT_FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => File::default(),
            text => parse(Path::new(DEFAULT_FILE), text)?,
        },
    };
    let or = |flag: &Option<String>, file: Option<String>| flag.clone().or(file);
    let range =
        |text: Option<String>, default: &str| parse_range(text.as_deref().unwrap_or(default));
    let config = Config {
        name: or(&flags.name, file.name),
        cluster: or(&flags.cluster, file.cluster),
        role: flags.role.or(file.role).unwrap_or(Role::Auto),
        api_port: flags.api_port.or(file.api_port).unwrap_or(6443),
        pod_range: range(or(&flags.pod_range, file.pod_range), "10.42.0.0/16")?,
        service_range: range(or(&flags.service_range, file.service_range), "10.43.0.0/16")?,
        stop_pods: flags.stop_pods,
    };
    if config.role == Role::Worker {
        bail!(
            "a worker needs a cluster to join, and joining comes with version 0.1.0: \
             run `kumquat up` without --role worker"
        );
    }
    Ok(config)
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

fn parse(path: &Path, text: io::Result<String>) -> Result<File> {
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text)
        .with_context(|| format!("{} is not a valid configuration", path.display()))
}

fn parse_range(text: &str) -> Result<Range> {
    let parsed = text.split_once('/').and_then(|(base, prefix)| {
        Some(Range { base: base.parse().ok()?, prefix: prefix.parse().ok()? })
    });
    let Some(range) = parsed else { bail!("{text} is not an IPv4 range such as 10.42.0.0/16") };
    if !(8..=24).contains(&range.prefix) {
        bail!("{text}: a range needs a prefix length from 8 to 24");
    }
    let host_bits = range.base.to_bits() & (u32::MAX >> range.prefix);
    if host_bits != 0 {
        let base = Ipv4Addr::from_bits(range.base.to_bits() & !(u32::MAX >> range.prefix));
        bail!("{text} is not a network: write {base}/{}", range.prefix);
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |text: &str| parse_range(text).map(|range| range.to_string()).ok();
        assert_eq!(check("10.42.0.0/16").as_deref(), Some("10.42.0.0/16"));
        for bad in ["10.42.0.1/16", "10.42.0.0", "10.42.0.0/30", "x/16", "::/16"] {
            assert_eq!(check(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(toml::from_str::<File>("nmae = 'x'").is_err());
        let file: File = toml::from_str("name = 'x'\nrole = 'master'").expect("valid");
        assert_eq!(file.role, Some(Role::Master));
    }
}
