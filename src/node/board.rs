//! The Node object of this board, as kubelet registers it: capacity, system facts, conditions.

use std::path::Path;

use model::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::container::field::BoardFacts;
use super::pressure::{DISK_FREE_PERCENT_MIN, INODES_FREE_PERCENT_MIN, Pressure};
use crate::io::host::{DiskSpace, HostFacts};

/// Pods that a board takes, kubelet's default.
const PODS_MAX: u32 = 110;
/// Kept back for the system: kumquat itself and a margin.
const MEMORY_RESERVED_BYTES: i64 = 64 * 1024 * 1024;
/// What the board has.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) name: String,
    /// Its address, which may change; empty for none.
    address: watch::Receiver<String>,
    is_master: bool,
    host: HostFacts,
    disk_bytes: u64,
}

impl Board {
    /// Looks at the machine.
    pub(crate) fn look(name: &str, address: watch::Receiver<String>, data_dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            address,
            is_master: false,
            host: HostFacts::read(),
            disk_bytes: DiskSpace::of(data_dir).map_or(0, |space| space.total_bytes),
        }
    }

    /// Says whether it is a master too.
    pub(crate) fn with_role(self, is_master: bool) -> Self {
        Self { is_master, ..self }
    }

    /// What runs short, given what ran short before. Blocking.
    pub(super) fn pressure(&self, before: Pressure, data_dir: &Path) -> Pressure {
        before.look_again(data_dir, self.host.memory_bytes)
    }

    fn memory_bytes(&self) -> i64 {
        i64::try_from(self.host.memory_bytes).unwrap_or(i64::MAX)
    }

    /// Its address at this moment; empty for none.
    pub(crate) fn address(&self) -> String {
        self.address.borrow().clone()
    }

    /// What pods can learn of it.
    pub(crate) fn facts(&self) -> BoardFacts {
        BoardFacts {
            name: self.name.clone(),
            address: self.address(),
            cpu_millis: i64::from(self.host.cpus) * 1_000,
            memory_bytes: self.memory_bytes() - MEMORY_RESERVED_BYTES.min(self.memory_bytes() / 4),
        }
    }

    /// The Node object.
    pub(super) fn node(&self, version: &str, pressure: Pressure, now: Timestamp) -> Value {
        let (architecture, hostname) = (self.host.architecture, self.name.as_str());
        let ki = |bytes: i64| format!("{}Ki", bytes / 1_024);
        let disk_ki = format!("{}Ki", self.disk_bytes / 1_024);
        let disk_free = self.disk_bytes / 100 * (100 - DISK_FREE_PERCENT_MIN);
        let (memory, allocatable) = (ki(self.memory_bytes()), ki(self.facts().memory_bytes));
        let resources = |memory: &str, disk: String| {
            json!({
                "cpu": self.host.cpus.to_string(),
                "memory": memory,
                "pods": PODS_MAX.to_string(),
                "ephemeral-storage": disk,
                "hugepages-2Mi": "0",
            })
        };
        let mut addresses = vec![json!({"type": "Hostname", "address": hostname})];
        let own = self.address();
        if !own.is_empty() {
            addresses.insert(0, json!({"type": "InternalIP", "address": own}));
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
                "conditions": self.conditions(pressure, now),
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10_250}},
                "nodeInfo": self.node_info(version),
            },
        })
    }

    /// The four conditions that kubelet keeps, and one for what this board lacks. The message of a
    /// condition that is not as it should be says what a person can do about it.
    pub(super) fn conditions(&self, pressure: Pressure, now: Timestamp) -> Value {
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
        let nearly_full = format!(
            "the disk of board {} is nearly full (less than {DISK_FREE_PERCENT_MIN} % of space or \
             {INODES_FREE_PERCENT_MIN} % of files left): remove images with `kumquat image rm`, \
             delete pods, or free space on the file system of the data-dir",
            self.name
        );
        let disk = match pressure.disk {
            true => ("KubeletHasDiskPressure", nearly_full.as_str()),
            false => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        };
        let short = format!(
            "board {} is short of memory: delete pods, or give their containers memory limits",
            self.name
        );
        let memory = match pressure.memory {
            true => ("KubeletHasInsufficientMemory", short.as_str()),
            false => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        };
        let crowded = format!("board {} is short of process numbers: delete pods", self.name);
        let pids = match pressure.pids {
            true => ("KubeletHasInsufficientPID", crowded.as_str()),
            false => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        };
        let mut conditions = vec![
            condition("MemoryPressure", pressure.memory, memory.0, memory.1),
            condition("DiskPressure", pressure.disk, disk.0, disk.1),
            condition("PIDPressure", pressure.pids, pids.0, pids.1),
            condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        ];
        if let Some(remedy) = self.host.cgroup.memory_remedy() {
            let text = format!("board {} has no memory cgroup, so {remedy}", self.name);
            conditions.push(condition("MemoryLimitsMissing", true, "NoMemoryCgroup", &text));
        }
        conditions.into()
    }

    fn node_info(&self, version: &str) -> Value {
        let host = &self.host;
        json!({
            "machineID": host.machine_id,
            "systemUUID": host.machine_id,
            "bootID": host.boot_id,
            "kernelVersion": host.kernel_version,
            "osImage": host.os_image,
            "containerRuntimeVersion": format!("kumquat://{}", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": host.architecture,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_SHORT: Pressure = Pressure { memory: true, disk: true, pids: true };

    #[test]
    fn what_is_wrong_says_what_to_do() {
        let mut board = Board::look("pi-1", watch::channel(String::new()).1, Path::new("/"));
        board.host.cgroup = Default::default();
        let bad = board.conditions(ALL_SHORT, Timestamp::from_seconds(1_790_000_000));
        let message = |kind: &str| {
            let all = bad.as_array().expect("list");
            let found = all.iter().find(|c| c["type"] == kind).expect("there");
            assert_eq!(found["status"], "True");
            found["message"].as_str().expect("text").to_owned()
        };
        assert!(message("DiskPressure").contains("`kumquat image rm`"));
        assert!(message("MemoryPressure").contains("delete pods"));
        assert!(message("PIDPressure").contains("delete pods"));
        assert!(message("MemoryLimitsMissing").contains("/boot/firmware/cmdline.txt"));
        board.host.cgroup.controllers.push("memory".to_owned());
        let good = board.conditions(Pressure::default(), Timestamp::from_seconds(1_790_000_000));
        assert_eq!(good.as_array().expect("list").len(), 4);
    }

    #[test]
    fn the_node_has_what_clients_read() {
        let (moves, address) = watch::channel("10.0.0.1".to_owned());
        let board = Board::look("pi-1", address, Path::new("/"));
        let now = Timestamp::from_seconds(1_790_000_000);
        let node = board.node("v1.36.2+kumquat.1", Pressure::default(), now);
        let role = "node-role.kubernetes.io/control-plane";
        assert!(node["metadata"]["labels"].get(role).is_none());
        let master =
            board.clone().with_role(true).node("v1.36.2+kumquat.1", Pressure::default(), now);
        assert_eq!(master["metadata"]["labels"][role], "");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "pi-1");
        assert_eq!(node["status"]["addresses"][0]["address"], "10.0.0.1");
        assert_eq!(node["status"]["conditions"][3]["type"], "Ready");
        moves.send_replace("10.0.0.2".to_owned());
        let moved = board.node("v1.36.2+kumquat.1", Pressure::default(), now);
        assert_eq!(moved["status"]["addresses"][0]["address"], "10.0.0.2");
        let memory = node["status"]["allocatable"]["memory"].as_str().expect("text");
        assert!(model::quantity::Quantity::parse(memory).expect("quantity").value() > 0);
    }
}
