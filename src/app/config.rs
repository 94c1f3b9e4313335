//! The configuration of a board: flags over `config.toml` over defaults.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use logic::masters::{Durability, Wanted};
use logic::network::paths::TUNNEL_PORT;
use model::limits::{BACKUP_EVERY_SECONDS_MIN, BACKUP_KEEP_MAX, GENESIS_EXPECT_MAX, PEERS_MAX};
use model::network::{Ipv4Block, Protocol};
use serde::{Deserialize, Serialize};

use super::backup;
use super::cli::{Role, UpArgs};
use crate::io::bus::external::BrokerUrl;
use crate::io::tls::{trusting_config, unverified_config};
use crate::master::audit::AuditTo;

/// Multicast DNS (RFC 6762).
const MDNS_PORT: u16 = 5353;
/// Backups that a schedule keeps when the user says nothing.
const BACKUP_KEEP: u32 = 7;

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
    interface: Option<String>,
    mqtt_port: Option<u16>,
    peer_port: Option<u16>,
    #[serde(default)]
    peers: Vec<String>,
    #[serde(default)]
    bus: BusFile,
    #[serde(default)]
    audit: AuditFile,
    #[serde(default)]
    masters: MastersFile,
    backup: Option<BackupFile>,
    #[serde(default)]
    watchdog: bool,
}

/// The section `[bus]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BusFile {
    broker: Option<String>,
    ca: Option<PathBuf>,
}

/// The section `[audit]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AuditFile {
    #[serde(default)]
    to: AuditTo,
}

/// The section `[masters]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MastersFile {
    voters: Option<u8>,
    #[serde(default)]
    durability: DurabilityFile,
}

/// When a write of two boards is answered.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DurabilityFile {
    #[default]
    One,
    Both,
}

/// The section `[backup]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BackupFile {
    every: String,
    to: PathBuf,
    keep: Option<u32>,
    #[serde(default)]
    same_disk: bool,
}

/// Somebody else's broker, the same on every board of a cluster.
#[derive(Clone, Debug)]
pub(super) struct ExternalBroker {
    /// Where it is.
    pub url: BrokerUrl,
    /// Who vouches for it; nobody has to, since it learns nothing.
    pub ca: Option<PathBuf>,
}

impl ExternalBroker {
    /// How it is spoken to over TLS; none for a broker without.
    ///
    /// # Errors
    /// The authority's file cannot be read.
    pub(super) fn tls(&self) -> Result<Option<Arc<rustls::ClientConfig>>> {
        let Some(ca) = &self.ca else {
            return Ok(self.url.tls.then(unverified_config));
        };
        let text = read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
        Ok(Some(trusting_config(&text).with_context(|| format!("{} is no use", ca.display()))?))
    }
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
    /// Port of the bus between masters and boards.
    pub mqtt_port: u16,
    /// Port of the masters among each other.
    pub peer_port: u16,
    /// Interface whose address others reach this board at, when the user names one.
    pub interface: Option<String>,
    /// Pod addresses, when the user gives some.
    pub pod_range: Option<Range>,
    /// Service addresses, when the user gives some.
    pub service_range: Option<Range>,
    /// Token of the cluster to join, or to found with others.
    pub token: Option<String>,
    /// Boards that found the cluster together.
    pub expect: Option<u8>,
    /// Wait at a cluster for a person's word.
    pub join: bool,
    /// Boards at which the cluster may be found, besides those that mDNS names.
    pub peers: Vec<Peer>,
    /// Stop pods with the process.
    pub stop_pods: bool,
    /// Somebody else's broker in place of the master's own.
    pub broker: Option<ExternalBroker>,
    /// Where writes are told of while this board is master.
    pub audit: AuditTo,
    /// Backups by themselves while this board leads.
    pub backup: Option<backup::Plan>,
    /// Feed the hardware watchdog.
    pub watchdog: bool,
    /// What is wanted of the group of masters, unless the cluster's own object says otherwise.
    pub masters: Wanted,
}

/// A board that the user names: a host name or address, and the port for other boards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Name or address, without brackets.
    pub host: String,
    /// Port for other boards.
    pub port: u16,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    /// First address.
    pub base: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
}

impl Range {
    /// Pod addresses of a cluster whose founder says nothing.
    pub(super) const PODS: Self = Self { base: Ipv4Addr::new(10, 42, 0, 0), prefix: 16 };
    /// Service addresses of a cluster whose founder says nothing.
    pub(super) const SERVICES: Self = Self { base: Ipv4Addr::new(10, 43, 0, 0), prefix: 16 };

    /// Whether an address is in both.
    pub(super) fn overlaps(self, other: Self) -> bool {
        let mask = !(u32::MAX >> self.prefix.min(other.prefix));
        self.base.to_bits() & mask == other.base.to_bits() & mask
    }
}

impl Config {
    /// Ports of a board that are kumquat's own: nothing in the cluster may take them over.
    pub(super) fn own_ports(&self) -> Vec<(Protocol, u16)> {
        let tcp = [self.api_port, self.mqtt_port, self.peer_port];
        let tcp = tcp.into_iter().map(|port| (Protocol::Tcp, port));
        let udp = [MDNS_PORT, TUNNEL_PORT].into_iter().map(|port| (Protocol::Udp, port));
        tcp.chain(udp).collect()
    }
}

impl From<Range> for Ipv4Block {
    fn from(range: Range) -> Self {
        Self::new(range.base, range.prefix)
    }
}

impl std::str::FromStr for Range {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_range(text)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// Port for other boards when the user names none.
const PEER_PORT: u16 = 7443;

/// Read when the user names no other.
const DEFAULT_FILE: &str = "/etc/kumquat/config.toml";

/// Merges flags, file and defaults.
///
/// # Errors
/// The file cannot be read (only the default one may be missing) or has a field that does not exist;
/// a range is not a network; what is asked for needs other boards.
pub(super) fn load(flags: &UpArgs) -> Result<Config> {
    let file = match &flags.config {
        Some(path) => parse(path, read(path))?,
        None => match read(Path::new(DEFAULT_FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => File::default(),
            text => parse(Path::new(DEFAULT_FILE), text)?,
        },
    };
    let or = |flag: &Option<String>, file: Option<String>| flag.clone().or(file);
    let range = |text: Option<String>| text.as_deref().map(parse_range).transpose();
    let peers = if flags.peers.is_empty() { file.peers } else { flags.peers.clone() };
    if peers.len() > PEERS_MAX {
        bail!("--peers names {} boards: name {PEERS_MAX} at most", peers.len());
    }
    let expect = match flags.expect.map(u8::try_from) {
        None => None,
        Some(Ok(boards)) if (1..=GENESIS_EXPECT_MAX).contains(&boards) => Some(boards),
        Some(_) => bail!("--expect: 1 to {GENESIS_EXPECT_MAX} boards found a cluster together"),
    };
    let config = Config {
        name: or(&flags.name, file.name),
        cluster: or(&flags.cluster, file.cluster),
        role: flags.role.or(file.role).unwrap_or(Role::Auto),
        api_port: flags.api_port.or(file.api_port).unwrap_or(6443),
        mqtt_port: flags.mqtt_port.or(file.mqtt_port).unwrap_or(8883),
        peer_port: flags.peer_port.or(file.peer_port).unwrap_or(PEER_PORT),
        interface: or(&flags.interface, file.interface),
        pod_range: range(or(&flags.pod_range, file.pod_range))?,
        service_range: range(or(&flags.service_range, file.service_range))?,
        token: flags.token.clone(),
        expect,
        join: flags.join,
        peers: peers.iter().map(|text| parse_peer(text)).collect::<Result<_>>()?,
        stop_pods: flags.stop_pods,
        broker: broker(file.bus)?,
        audit: file.audit.to,
        backup: file.backup.map(backup_plan).transpose()?,
        watchdog: file.watchdog,
        masters: masters(&file.masters)?,
    };
    let ports = [config.api_port, config.mqtt_port, config.peer_port];
    if ports[0] == ports[1] || ports[0] == ports[2] || ports[1] == ports[2] {
        bail!("--api-port, --mqtt-port and --peer-port must be three different ports");
    }
    if config.audit == AuditTo::Bus && config.broker.is_none() {
        bail!(
            "[audit] to = \"bus\" needs a broker of yours ([bus] broker): on the own one nobody but \
             boards may listen; write to = \"stdout\""
        );
    }
    Ok(config)
}

fn backup_plan(file: BackupFile) -> Result<backup::Plan> {
    let BackupFile { every: text, to, keep, same_disk } = file;
    let least = Duration::from_secs(BACKUP_EVERY_SECONDS_MIN);
    let every = super::cli::duration(&text).ok().filter(|every| *every >= least);
    let Some(every) = every else {
        bail!("[backup] every = {text:?} cannot be: write \"24h\" or another time from 1m on");
    };
    if !to.is_absolute() {
        bail!("[backup] to = {to:?} must begin with /: the folder that backups are written to");
    }
    let keep = keep.unwrap_or(BACKUP_KEEP);
    if !(1..=BACKUP_KEEP_MAX).contains(&keep) {
        bail!("[backup] keep = {keep} cannot be: write 1 to {BACKUP_KEEP_MAX}");
    }
    Ok(backup::Plan { every, to, keep, same_disk })
}

fn masters(file: &MastersFile) -> Result<Wanted> {
    let durability = match file.durability {
        DurabilityFile::One => Durability::One,
        DurabilityFile::Both => Durability::Both,
    };
    match file.voters {
        None | Some(1 | 3 | 5) => Ok(Wanted { voters: file.voters, durability }),
        Some(other) => bail!(
            "[masters] voters = {other} cannot be: write 1, 3 or 5, or leave it away to have the \
             cluster choose by its size"
        ),
    }
}

fn broker(file: BusFile) -> Result<Option<ExternalBroker>> {
    let Some(text) = file.broker else {
        if file.ca.is_some() {
            bail!("[bus] ca is for a broker: name it as broker = \"mqtts://HOST:PORT\"");
        }
        return Ok(None);
    };
    let url: BrokerUrl = text.parse().context("[bus] broker cannot be used")?;
    if file.ca.is_some() && !url.tls {
        bail!("[bus] ca is for a broker over TLS: write mqtts://, not mqtt://");
    }
    Ok(Some(ExternalBroker { url, ca: file.ca }))
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

fn parse(path: &Path, text: io::Result<String>) -> Result<File> {
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text)
        .with_context(|| format!("{} is not a valid configuration", path.display()))
}

/// `pi-2`, `10.0.0.2:7443`, `[fd00::2]:7443`.
fn parse_peer(text: &str) -> Result<Peer> {
    let parts = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => Some((host, None)),
        Some((host, port)) => port.strip_prefix(':').map(|port| (host, Some(port))),
        None => match text.split_once(':') {
            Some((host, port)) => Some((host, Some(port))),
            None => Some((text, None)),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    parts
        .filter(|(host, _)| (1..=253).contains(&host.len()) && host.bytes().all(plain))
        .and_then(|(host, port)| {
            let port = port.map_or(Some(PEER_PORT), |port| port.parse().ok().filter(|p| *p > 0))?;
            Some(Peer { host: host.to_owned(), port })
        })
        .with_context(|| format!("--peers {text:?}: name boards as HOST or HOST:PORT"))
}

fn parse_range(text: &str) -> Result<Range> {
    let parsed = text.split_once('/').and_then(|(base, prefix)| {
        Some(Range { base: base.parse().ok()?, prefix: prefix.parse().ok()? })
    });
    let Some(range) = parsed else { bail!("{text} is not an IPv4 range such as 10.42.0.0/16") };
    if !(8..=28).contains(&range.prefix) {
        bail!("{text}: a range needs a prefix length from 8 to 28");
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
    fn overlapping_ranges_are_seen() {
        let check = |one: &str, other: &str, expected: bool| {
            let range = |text| parse_range(text).expect("a range");
            assert_eq!(range(one).overlaps(range(other)), expected, "{one} {other}");
            assert_eq!(range(other).overlaps(range(one)), expected, "{other} {one}");
        };
        check("10.42.0.0/16", "10.43.0.0/16", false);
        check("10.42.0.0/15", "10.43.0.0/16", true);
        check("10.0.0.0/8", "10.43.7.0/24", true);
        check("10.42.0.0/16", "10.42.0.0/16", true);
    }

    #[test]
    fn flags_of_several_boards_are_read_or_refused_with_a_reason() {
        use super::super::cli::{Cli, Command};
        use clap::Parser;
        let check = |words: &[&str]| {
            let words = [&["kumquat", "up", "--config", "/dev/null"], words].concat();
            let Command::Up(flags) = Cli::try_parse_from(words).expect("known flags").command
            else {
                unreachable!("`up` was parsed")
            };
            load(&flags).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["--expect", "3"]).expect("three boards").expect, Some(3));
        for bad in ["0", "65", "300"] {
            let refusal = check(&["--expect", bad]).expect_err(bad);
            assert!(refusal.contains("--expect") && refusal.contains("64"), "{refusal}");
        }
        let config = check(&["--token", "t", "--peers", "pi-2,10.0.0.3:7000,[fd00::4]:7001"]);
        let config = config.expect("a board that joins");
        let peers: Vec<String> = config.peers.iter().map(ToString::to_string).collect();
        assert_eq!(peers, ["pi-2:7443", "10.0.0.3:7000", "fd00::4:7001"]);
        assert_eq!(config.token.as_deref(), Some("t"));
        for bad in ["", "pi 2", "pi-2:0", "pi-2:x", "[fd00::1", "[fd00::1]7443", "a/b"] {
            let refusal = check(&["--peers", bad]).expect_err(bad);
            assert!(refusal.contains("HOST:PORT"), "{bad}: {refusal}");
        }
        let config = check(&["--mqtt-port", "1883", "--peer-port", "7000", "--interface", "eth1"]);
        let config = config.expect("one board may have these");
        assert_eq!((config.mqtt_port, config.peer_port), (1883, 7000));
        assert_eq!(config.interface.as_deref(), Some("eth1"));
        assert!(check(&["--mqtt-port", "6443"]).is_err());
    }

    #[test]
    fn an_even_group_of_masters_is_refused() {
        let check = |text: &str| {
            let file: File = toml::from_str(text).expect("known fields");
            masters(&file.masters).map(|wanted| wanted.voters).map_err(|error| error.to_string())
        };
        assert_eq!(check("name = 'x'"), Ok(None));
        assert_eq!(check("[masters]\nvoters = 5"), Ok(Some(5)));
        let refusal = check("[masters]\nvoters = 2").expect_err("even");
        assert!(refusal.contains("1, 3 or 5"), "{refusal}");
        let durability = |text: &str| {
            let file = toml::from_str::<File>(text).ok()?;
            masters(&file.masters).map(|wanted| wanted.durability).ok()
        };
        assert_eq!(durability("name = 'x'"), Some(Durability::One));
        assert_eq!(durability("[masters]\ndurability = 'both'"), Some(Durability::Both));
        assert_eq!(durability("[masters]\ndurability = 'three'"), None);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(toml::from_str::<File>("nmae = 'x'").is_err());
        let file: File = toml::from_str("name = 'x'\nrole = 'master'").expect("valid");
        assert_eq!(file.role, Some(Role::Master));
    }

    #[test]
    fn the_audit_goes_where_somebody_reads_it() {
        let check = |text: &str| toml::from_str::<File>(text).map(|file| file.audit.to).ok();
        assert_eq!(check("name = 'x'"), Some(AuditTo::Off));
        assert_eq!(check("[audit]\nto = 'stdout'"), Some(AuditTo::Stdout));
        assert_eq!(check("[audit]\nto = 'bus'"), Some(AuditTo::Bus));
        for bad in ["to = 'file'", "to = ''", "file = '/x'"] {
            assert_eq!(check(&format!("[audit]\n{bad}")), None, "{bad}");
        }
    }

    #[test]
    fn an_external_broker_is_read_or_refused_with_a_reason() {
        let check = |text: &str| {
            let file: File = toml::from_str(text).expect("known fields");
            broker(file.bus).map(|it| it.map(|it| it.url.to_string())).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(check("name = 'x'"), Ok(None));
        let url = "mqtts://broker:8884".to_owned();
        assert_eq!(check("[bus]\nbroker = 'mqtts://broker:8884'\nca = '/x'"), Ok(Some(url)));
        for bad in ["broker = 'broker:1883'", "ca = '/x'", "broker = 'mqtt://b'\nca = '/x'"] {
            let refusal = check(&format!("[bus]\n{bad}")).expect_err(bad);
            assert!(refusal.contains("mqtts://"), "{bad}: {refusal}");
        }
        assert!(toml::from_str::<File>("[bus]\nbrocker = 'x'").is_err());
    }
}
