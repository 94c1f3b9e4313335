//! The Node object of this board, as kubelet registers it: capacity, system facts, conditions.

use std::fs;
use std::path::Path;

use model::timestamp::Timestamp;
use serde_json::{Value, json};

use super::container::field::BoardFacts;

/// Pods that a board takes, kubelet's default.
const PODS_MAX: u32 = 110;
/// Kept back for the system: kumquat itself and a margin.
const MEMORY_RESERVED_BYTES: i64 = 64 * 1024 * 1024;
/// Below this share of the file system (in percent) a board reports disk pressure.
const DISK_FREE_PERCENT_MIN: u64 = 10;

/// What the board has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Board {
    pub(crate) name: String,
    /// Its address; empty for none.
    pub(crate) address: String,
    is_master: bool,
    cpus: u32,
    memory_bytes: i64,
    disk_bytes: u64,
}

impl Board {
    /// Looks at the machine.
    pub(crate) fn look(name: &str, address: &str, data_dir: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            name: name.to_owned(),
            address: address.to_owned(),
            is_master: false,
            cpus: u32::try_from(cpus).unwrap_or(1),
            memory_bytes: meminfo(&memory, "MemTotal").unwrap_or(0),
            disk_bytes: disk(data_dir).map_or(0, |(total, _)| total),
        }
    }

    /// Says whether it is a master too.
    pub(crate) fn with_role(self, is_master: bool) -> Self {
        Self { is_master, ..self }
    }

    /// What pods can learn of it.
    pub(crate) fn facts(&self) -> BoardFacts {
        BoardFacts {
            name: self.name.clone(),
            address: self.address.clone(),
            cpu_millis: i64::from(self.cpus) * 1_000,
            memory_bytes: self.memory_bytes - MEMORY_RESERVED_BYTES.min(self.memory_bytes / 4),
        }
    }

    /// The Node object.
    pub(crate) fn node(&self, version: &str, disk_pressure: bool, now: Timestamp) -> Value {
        let (architecture, hostname) = (architecture(), self.name.as_str());
        let ki = |bytes: i64| format!("{}Ki", bytes / 1_024);
        let disk_ki = format!("{}Ki", self.disk_bytes / 1_024);
        let disk_free = self.disk_bytes / 100 * (100 - DISK_FREE_PERCENT_MIN);
        let (memory, allocatable) = (ki(self.memory_bytes), ki(self.facts().memory_bytes));
        let resources = |memory: &str, disk: String| {
            json!({
                "cpu": self.cpus.to_string(),
                "memory": memory,
                "pods": PODS_MAX.to_string(),
                "ephemeral-storage": disk,
                "hugepages-2Mi": "0",
            })
        };
        let mut addresses = vec![json!({"type": "Hostname", "address": hostname})];
        if !self.address.is_empty() {
            addresses.insert(0, json!({"type": "InternalIP", "address": self.address}));
        }
        let mut labels = json!({
            "kubernetes.io/hostname": hostname,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture,
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": architecture,
        });
        if self.is_master {
            // The ROLES column of `kubectl get nodes`; pods are welcome here, so there is no taint.
            labels["node-role.kubernetes.io/control-plane"] = "".into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.name, "labels": labels },
            "spec": {},
            "status": {
                "capacity": resources(&memory, disk_ki),
                "allocatable": resources(&allocatable, disk_free.to_string()),
                "addresses": addresses,
                "conditions": conditions(disk_pressure, now),
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10_250}},
                "nodeInfo": node_info(version, architecture),
            },
        })
    }
}

/// The four conditions that kubelet keeps.
pub(crate) fn conditions(disk_pressure: bool, now: Timestamp) -> Value {
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": if status { "True" } else { "False" },
            "lastHeartbeatTime": now.to_string(),
            "lastTransitionTime": now.to_string(),
            "reason": reason,
            "message": message,
        })
    };
    let disk = match disk_pressure {
        true => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        false => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    };
    json!([
        condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available"
        ),
        condition("DiskPressure", disk_pressure, disk.0, disk.1),
        condition(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available"
        ),
        condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
    ])
}

/// Whether the file system of the data-dir is nearly full.
pub(crate) fn has_disk_pressure(data_dir: &Path) -> bool {
    disk(data_dir).is_some_and(|(total, free)| free < total / 100 * DISK_FREE_PERCENT_MIN)
}

#[allow(clippy::useless_conversion, reason = "the widths differ on 32-bit boards")]
fn disk(dir: &Path) -> Option<(u64, u64)> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    let block = u64::try_from(stat.fragment_size()).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(block);
    Some((bytes(u64::from(stat.blocks())), bytes(u64::from(stat.blocks_available()))))
}

fn node_info(version: &str, architecture: &str) -> Value {
    let first_line = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os_image = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned());
    json!({
        "machineID": first_line("/etc/machine-id"),
        "systemUUID": first_line("/etc/machine-id"),
        "bootID": first_line("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": first_line("/proc/sys/kernel/osrelease"),
        "osImage": os_image,
        "containerRuntimeVersion": format!("kumquat://{}", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": version,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": architecture,
    })
}

/// The binary's own architecture in Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn meminfo(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(
            meminfo("MemTotal:        1000 kB\nMemFree: 1 kB\n", "MemTotal"),
            Some(1_024_000)
        );
        assert_eq!(meminfo("", "MemTotal"), None);
    }

    #[test]
    fn the_node_has_what_clients_read() {
        let board = Board::look("pi-1", "10.0.0.1", Path::new("/"));
        let now = Timestamp::from_seconds(1_790_000_000);
        let node = board.node("v1.36.2+kumquat.1", false, now);
        let role = "node-role.kubernetes.io/control-plane";
        assert!(node["metadata"]["labels"].get(role).is_none());
        let master = board.clone().with_role(true).node("v1.36.2+kumquat.1", false, now);
        assert_eq!(master["metadata"]["labels"][role], "");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "pi-1");
        assert_eq!(node["status"]["addresses"][0]["address"], "10.0.0.1");
        assert_eq!(node["status"]["conditions"][3]["type"], "Ready");
        let memory = node["status"]["allocatable"]["memory"].as_str().expect("text");
        assert!(model::quantity::Quantity::parse(memory).expect("quantity").value() > 0);
    }
}
