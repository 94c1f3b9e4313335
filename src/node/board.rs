//! The Node object of this board, as kubelet registers it: capacity, system facts, conditions.

use std::path::Path;

use model::limits::CONDITION_BOARDS_MAX;
use model::profile::{BOARD_LABEL, MODEL_LABEL, label_value};
use model::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Mastery;
use super::container::field::BoardFacts;
use super::health::{About, Change, Health};
use super::network::NetworkHealth;
use super::pressure::{INODES_FREE_PERCENT_MIN, Pressure, disk_free_bytes_min};
use crate::io::host::{self, DiskSpace, HostFacts, VitalSigns, Vitals};

/// Pods that a board takes, kubelet's default.
const PODS_MAX: u32 = 110;

/// What the board has.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) name: String,
    /// Its address, which may change; empty for none.
    address: watch::Receiver<String>,
    mastery: Option<watch::Receiver<Mastery>>,
    /// How its pod network fares, where it has one.
    network: Option<watch::Receiver<NetworkHealth>>,
    host: HostFacts,
    disk_bytes: u64,
    /// Its kind of board.
    about: About,
    signs: VitalSigns,
}

/// What changes of the board while it runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Condition {
    /// What runs short.
    pub(super) pressure: Pressure,
    /// What else it suffers from.
    pub(super) health: Health,
}

impl Board {
    /// Looks at the machine whose root this is.
    pub(crate) fn look(
        name: &str,
        address: watch::Receiver<String>,
        root: &Path,
        data_dir: &Path,
    ) -> Self {
        let host = HostFacts::read_from(root);
        let profile = host::profile(&host.compatible);
        Self {
            name: name.to_owned(),
            address,
            mastery: None,
            network: None,
            disk_bytes: DiskSpace::of(data_dir).map_or(0, |space| space.total_bytes),
            signs: VitalSigns::find(root, &profile, data_dir),
            about: About { kernel_file: host::kernel_file(root, &profile), profile },
            host,
        }
    }

    /// Says whether it is a master too, which may change.
    pub(super) fn with_mastery(self, mastery: watch::Receiver<Mastery>) -> Self {
        Self { mastery: Some(mastery), ..self }
    }

    fn mastery(&self) -> Mastery {
        self.mastery.as_ref().map(|mastery| *mastery.borrow()).unwrap_or_default()
    }

    /// Says how its pod network fares, where it has one.
    pub(super) fn with_network(self, health: Option<watch::Receiver<NetworkHealth>>) -> Self {
        Self { network: health, ..self }
    }

    /// What is wrong with the pod network: conditions that are true, with what to do about them.
    fn network_conditions(&self) -> Vec<(&'static str, &'static str, String)> {
        let Some(health) = self.network.as_ref().map(|health| health.borrow().clone()) else {
            return Vec::new();
        };
        let mut conditions = Vec::new();
        if let Some(text) = health.unavailable {
            conditions.push(("NetworkUnavailable", "NoPodNetwork", text));
        }
        let NetworkHealth { unreachable, problems, .. } = health;
        if unreachable.is_empty() && problems.is_empty() {
            return conditions;
        }
        let mut text = problems;
        if !unreachable.is_empty() {
            let names: Vec<&str> =
                unreachable.iter().map(String::as_str).take(CONDITION_BOARDS_MAX).collect();
            let more = match unreachable.len() - names.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            text.push(format!(
                "pods of board {} do not reach those of {}{more}: look for a firewall between them \
                 (pod addresses and ICMP; UDP port 8472 where a router is between)",
                self.name,
                names.join(", ")
            ));
        }
        conditions.push(("PodNetworkUnreachable", "NoAnswer", text.join("; ")));
        conditions
    }

    /// What runs short, given what ran short before. Blocking.
    pub(super) fn pressure(&self, before: Pressure, data_dir: &Path) -> Pressure {
        before.look_again(data_dir, self.host.memory_bytes)
    }

    /// How it fares. Blocking.
    pub(super) fn vitals(&self) -> Vitals {
        self.signs.look()
    }

    /// The Event object that tells of a change.
    pub(super) fn event(&self, change: Change, now: Timestamp) -> Value {
        change.event(&self.name, &self.about, now)
    }

    fn memory_bytes(&self) -> i64 {
        i64::try_from(self.host.memory_bytes).unwrap_or(i64::MAX)
    }

    /// Its address at this moment; empty for none.
    pub(crate) fn address(&self) -> String {
        self.address.borrow().clone()
    }

    /// What pods can learn of it: what is left of the board for them.
    pub(crate) fn facts(&self) -> BoardFacts {
        let reserve = self.about.profile.reserve;
        let reserved = i64::from(reserve.memory_mib) * 1024 * 1024;
        BoardFacts {
            name: self.name.clone(),
            address: self.address(),
            pod_address: String::new(),
            api_address: None,
            cpu_millis: i64::from(self.host.cpus) * 1_000 - i64::from(reserve.cpu_millis),
            memory_bytes: self.memory_bytes() - reserved.min(self.memory_bytes() / 4),
        }
    }

    /// The Node object.
    pub(super) fn node(&self, version: &str, condition: &Condition, now: Timestamp) -> Value {
        let hostname = self.name.as_str();
        let ki = |bytes: i64| format!("{}Ki", bytes / 1_024);
        let disk_ki = format!("{}Ki", self.disk_bytes / 1_024);
        let disk_free = self.disk_bytes - disk_free_bytes_min(self.disk_bytes);
        let facts = self.facts();
        let cpu = format!("{}m", facts.cpu_millis);
        let (memory, allocatable) = (ki(self.memory_bytes()), ki(facts.memory_bytes));
        let resources = |cpu: &str, memory: &str, disk: String| {
            json!({
                "cpu": cpu,
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
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.name, "labels": self.labels() },
            "spec": {},
            "status": {
                "capacity": resources(&self.host.cpus.to_string(), &memory, disk_ki),
                "allocatable": resources(&cpu, &allocatable, disk_free.to_string()),
                "addresses": addresses,
                "conditions": self.conditions(condition, now),
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10_250}},
                "nodeInfo": self.node_info(version),
            },
        })
    }

    fn labels(&self) -> Value {
        let (architecture, hostname) = (self.host.architecture, self.name.as_str());
        let mut labels = json!({
            "kubernetes.io/hostname": hostname,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture,
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": architecture,
            BOARD_LABEL: self.about.profile.name,
        });
        if let Some(model) = self.host.model.as_deref().and_then(label_value) {
            labels[MODEL_LABEL] = model.into();
        }
        if self.mastery() == Mastery::Master {
            // The ROLES column of `kubectl get nodes`; pods are welcome here, so there is no taint.
            labels["node-role.kubernetes.io/control-plane"] = "".into();
        }
        labels
    }

    /// The four conditions that kubelet keeps, and those of what else this board suffers from. The
    /// message of a condition that is not as it should be says what a person can do about it.
    pub(super) fn conditions(&self, now_so: &Condition, now: Timestamp) -> Value {
        let pressure = now_so.pressure;
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
            "the disk of board {} is nearly full (less than {} MiB of space or \
             {INODES_FREE_PERCENT_MIN} % of files left): remove images with `kumquat image rm`, \
             delete pods, or free space on the file system of the data-dir",
            self.name,
            disk_free_bytes_min(self.disk_bytes) / (1024 * 1024)
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
        conditions.extend(now_so.health.conditions(&self.name, &self.about, now));
        if self.mastery() == Mastery::DiskFailed {
            let text = format!(
                "the disk of board {} does not keep the cluster's log: look into its kernel's messages, \
                 exchange the card; it works on without the log and tries again within a minute",
                self.name
            );
            conditions.push(condition("MasterDiskFailed", true, "LogNotKept", &text));
        }
        for (kind, reason, text) in self.network_conditions() {
            conditions.push(condition(kind, true, reason, &text));
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

    fn look(name: &str, address: watch::Receiver<String>) -> Board {
        Board::look(name, address, Path::new("/"), Path::new("/"))
    }

    const ALL_SHORT: Pressure = Pressure { memory: true, disk: true, pids: true };

    #[test]
    fn what_is_wrong_says_what_to_do() {
        let board = look("pi-1", watch::channel(String::new()).1);
        let mut condition = Condition { pressure: ALL_SHORT, ..Condition::default() };
        condition.health.look_again(&Vitals::default(), 0);
        let bad = board.conditions(&condition, Timestamp::from_seconds(1_790_000_000));
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
        condition.pressure = Pressure::default();
        condition.health.look_again(&Vitals { memory_limits: true, ..Vitals::default() }, 0);
        let good = board.conditions(&condition, Timestamp::from_seconds(1_790_000_000));
        assert_eq!(good.as_array().expect("list").len(), 4);
    }

    #[test]
    fn a_master_whose_disk_failed_says_so() {
        let mastery = watch::Sender::new(Mastery::DiskFailed);
        let board = look("pi-1", watch::channel(String::new()).1).with_mastery(mastery.subscribe());
        let mut condition = Condition::default();
        condition.health.look_again(&Vitals { memory_limits: true, ..Vitals::default() }, 0);
        let now = Timestamp::from_seconds(1_790_000_000);
        let said = board.conditions(&condition, now).to_string();
        assert!(said.contains("MasterDiskFailed") && said.contains("exchange the card"), "{said}");
        mastery.send_replace(Mastery::Master);
        assert!(!board.conditions(&condition, now).to_string().contains("MasterDiskFailed"));
    }

    #[test]
    fn boards_that_are_not_reached_are_named() {
        let board = look("pi-1", watch::channel(String::new()).1);
        assert!(board.network_conditions().is_empty());
        let health = watch::Sender::new(NetworkHealth::default());
        let board = board.with_network(Some(health.subscribe()));
        assert!(board.network_conditions().is_empty());
        health.send_modify(|health| {
            health.unreachable = (1..=12).map(|number| format!("pi-{number:02}")).collect();
            health.unavailable = Some("no veth".to_owned());
        });
        let all = board.conditions(&Condition::default(), Timestamp::from_seconds(1_790_000_000));
        let message = |kind: &str| {
            let found = all.as_array().expect("list").iter().find(|c| c["type"] == kind);
            found.expect("there")["message"].as_str().expect("text").to_owned()
        };
        assert_eq!(message("NetworkUnavailable"), "no veth");
        let text = message("PodNetworkUnreachable");
        assert!(text.contains("pi-01, pi-02") && text.contains("pi-10 and 2 more"), "{text}");
    }

    #[test]
    fn the_node_has_what_clients_read() {
        let (moves, address) = watch::channel("10.0.0.1".to_owned());
        let board = look("pi-1", address);
        let now = Timestamp::from_seconds(1_790_000_000);
        let fine = Condition::default();
        let node = board.node("v1.36.2+kumquat.1", &fine, now);
        let role = "node-role.kubernetes.io/control-plane";
        assert!(node["metadata"]["labels"].get(role).is_none());
        let leads = watch::Sender::new(Mastery::Master);
        let master = board.clone().with_mastery(leads.subscribe());
        let master = master.node("v1.36.2+kumquat.1", &fine, now);
        assert_eq!(master["metadata"]["labels"][role], "");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "pi-1");
        assert_eq!(node["status"]["addresses"][0]["address"], "10.0.0.1");
        assert_eq!(node["status"]["conditions"][3]["type"], "Ready");
        moves.send_replace("10.0.0.2".to_owned());
        let moved = board.node("v1.36.2+kumquat.1", &fine, now);
        assert_eq!(moved["status"]["addresses"][0]["address"], "10.0.0.2");
        let memory = node["status"]["allocatable"]["memory"].as_str().expect("text");
        assert!(model::quantity::Quantity::parse(memory).expect("quantity").value() > 0);
    }

    #[test]
    fn a_board_of_a_known_kind_says_so_and_keeps_its_share_back() {
        let mut board = look("pi-1", watch::channel(String::new()).1);
        board.host.model = Some("Raspberry Pi 4 Model B Rev 1.5".to_owned());
        board.host.memory_bytes = 2_048 << 20;
        board.host.cpus = 4;
        board.about.profile = host::profile(&["raspberrypi,4-model-b".to_owned()]);
        let node = board.node("v1", &Condition::default(), Timestamp(0));
        let labels = &node["metadata"]["labels"];
        assert_eq!(labels[BOARD_LABEL], "raspberry-pi-4");
        assert_eq!(labels[MODEL_LABEL], "Raspberry-Pi-4-Model-B-Rev-1.5");
        let (all, left) = (&node["status"]["capacity"], &node["status"]["allocatable"]);
        assert_eq!((all["cpu"].as_str(), left["cpu"].as_str()), (Some("4"), Some("3950m")));
        assert_eq!(all["memory"], format!("{}Ki", 2_048 << 10));
        assert_eq!(left["memory"], format!("{}Ki", (2_048 - 96) << 10));
        board.host.memory_bytes = 256 << 20;
        assert_eq!(board.facts().memory_bytes, 192 << 20, "a quarter at most");
    }
}
