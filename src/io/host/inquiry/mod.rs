//! Gathers what `kumquat doctor` judges: everything that a board tells in files.
//!
//! All paths lie in a root that tests replace; nothing is changed and nothing is tried here (what has
//! to be tried, such as making a link, is the caller's to add). What cannot be read is left out.

mod disks;
mod kernel;
mod network;
mod sockets;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use logic::doctor::{Facts, PortUse};
use model::network::Ipv4Block;

use super::cgroup::CgroupVersion;
use super::profile::{kernel_file, profile};
use super::vitals::VitalSigns;
use super::{HostFacts, clock};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// `/`, or a folder that looks like it.
    pub root: PathBuf,
    /// The board's data-dir.
    pub data_dir: PathBuf,
    /// The ports that it needs, without their owners.
    pub ports: Vec<PortUse>,
    /// Addresses of pods.
    pub pod_range: Ipv4Block,
    /// Addresses of services.
    pub service_range: Ipv4Block,
    /// The board's own name, when it has one.
    pub name: Option<String>,
}

impl Inquiry {
    /// Looks at everything once. Blocking.
    pub fn facts(&self) -> Facts {
        let root = self.root.as_path();
        let host = HostFacts::read_from(root);
        let profile = profile(&host.compatible);
        let vitals = VitalSigns::find(root, &profile, &self.data_dir).look();
        let text = |path: &str| read(root, path);
        let exists = |path: &String| root.join(path.trim_start_matches('/')).exists();
        let lines = |path: &str| text(path).lines().map(str::to_owned).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let devices = profile.devices.values().flatten();
        Facts {
            model: host.model,
            architecture: host.architecture.to_owned(),
            kernel_file: kernel_file(root, &profile),
            cgroup_version: match host.cgroup.version {
                CgroupVersion::None => 0,
                CgroupVersion::V1 => 1,
                CgroupVersion::V2 => 2,
            },
            cgroup_controllers: host.cgroup.controllers,
            features: kernel::features(root, &host.kernel_version),
            kernel_version: host.kernel_version,
            page_bytes: kernel::page_bytes(),
            clock_synced: clock::synchronised(),
            clock_seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            flash: disks::flash(root),
            disks: disks::disks(root, &self.data_dir),
            swaps: disks::swaps(root),
            ports: sockets::with_owners(root, self.ports.clone()),
            routes: network::routes(&text("proc/net/route"), self.pod_range),
            default_route: network::has_default_route(&text("proc/net/route")),
            pod_range: Some(self.pod_range),
            service_range: Some(self.service_range),
            legacy_tables: lines("proc/net/ip_tables_names"),
            firewalls: network::firewalls(root),
            multicast_interfaces: network::multicast_interfaces(root),
            watchdog: profile.watchdog.as_ref().map(|watchdog| exists(&watchdog.device)),
            devices: devices.filter(|path| exists(path)).cloned().collect(),
            undervoltage: vitals.undervoltage,
            throttled: vitals.throttled,
            milli_celsius: vitals.milli_celsius,
            hostname: text("proc/sys/kernel/hostname").trim().to_owned(),
            name: self.name.clone(),
            unit: unit::unit(root),
            is_root: nix::unistd::geteuid().is_root(),
            profile,
            ..Facts::default()
        }
    }
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_default()
}

/// Names in a folder, sorted.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests;
