//! What was gathered of a board. `None` and empty lists mean that the board does not tell.

use model::network::Ipv4Block;
use model::profile::{BoardProfile, KernelFile};

/// Facts of a board.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What is known of its kind.
    pub profile: BoardProfile,
    /// Its model, from the device tree.
    pub model: Option<String>,
    /// Architecture in Go's words.
    pub architecture: String,
    /// Version of its kernel.
    pub kernel_version: String,
    /// Where the kernel's command line is written.
    pub kernel_file: KernelFile,
    /// Layout of the control groups: 0 for none, 1 or 2.
    pub cgroup_version: u8,
    /// Their controllers.
    pub cgroup_controllers: Vec<String>,
    /// What the kernel can do of what is needed.
    pub features: Vec<Feature>,
    /// Size of its memory pages.
    pub page_bytes: u64,
    /// The clock follows a time server.
    pub clock_synced: Option<bool>,
    /// What the clock says, in seconds since 1970.
    pub clock_seconds: i64,
    /// No correct clock says less: when this program was built.
    pub built_seconds: i64,
    /// Flash chips and cards.
    pub flash: Vec<Flash>,
    /// File systems of the root and of the data-dir.
    pub disks: Vec<Disk>,
    /// Swap spaces.
    pub swaps: Vec<Swap>,
    /// Ports that are needed, and who has them.
    pub ports: Vec<PortUse>,
    /// Routes of the host, without default routes and our own.
    pub routes: Vec<RouteFact>,
    /// There is a default route.
    pub default_route: bool,
    /// Addresses of pods.
    pub pod_range: Option<Ipv4Block>,
    /// Addresses of services.
    pub service_range: Option<Ipv4Block>,
    /// Tables that legacy iptables has in the kernel.
    pub legacy_tables: Vec<String>,
    /// Firewalls of the machine that are switched on: `ufw`, `firewalld`, `nftables`.
    pub firewalls: Vec<String>,
    /// Interfaces that are up and pass multicast.
    pub multicast_interfaces: Vec<String>,
    /// The watchdog's device node is there.
    pub watchdog: Option<bool>,
    /// The supply voltage is too low.
    pub undervoltage: Option<bool>,
    /// The processor is slowed down.
    pub throttled: Option<bool>,
    /// Temperature in thousandths of a degree Celsius.
    pub milli_celsius: Option<i32>,
    /// Name of the host.
    pub hostname: String,
    /// The board's own name, when it has joined or founded a cluster, or its configuration names it.
    pub name: Option<String>,
    /// The systemd unit, when kumquat is installed as a service.
    pub unit: Option<Unit>,
    /// What a running board says.
    pub running: Option<Running>,
    /// Device nodes of the profile that are there.
    pub devices: Vec<String>,
    /// Whether this was asked by root: others do not see everything.
    pub is_root: bool,
}

/// Something that the kernel has to be able to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, which is its module's: `vxlan`.
    pub name: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
    /// The board cannot do its work without it.
    pub vital: bool,
    /// Whether it is there.
    pub state: FeatureState,
}

/// Whether the kernel can do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureState {
    /// It was done, or the module is loaded or built in.
    Works,
    /// The module is on the disk and is loaded when it is needed.
    Loadable,
    /// The module is on the disk, but it did not work.
    Refused,
    /// There is no such module.
    Missing,
    /// The kernel does not tell.
    Unknown,
}

/// A flash chip or card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flash {
    /// Its device: `mmcblk0`.
    pub device: String,
    /// What it calls itself.
    pub name: String,
    /// Tenths of its life that are used, of both kinds of its memory (JEDEC eMMC 5.0); 11 is beyond.
    pub life_tenths: Option<u8>,
    /// Reserved blocks: 1 normal, 2 four fifths used, 3 urgent.
    pub pre_eol: Option<u8>,
}

/// A file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// What lies on it: `root` or `data-dir`.
    pub what: &'static str,
    /// Where it is mounted.
    pub point: String,
    /// Its device.
    pub device: String,
    /// Nothing can be written.
    pub read_only: bool,
    /// Errors that ext4 has counted.
    pub errors: u64,
    /// Bytes that can be written, and all bytes.
    pub available_bytes: u64,
    /// All of its bytes.
    pub total_bytes: u64,
}

/// A swap space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Device or file.
    pub path: String,
    /// It wears a card: a partition of one, or a file on one.
    pub on_flash: bool,
}

/// A port that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUse {
    /// Its number.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
    /// The flag that moves it elsewhere; empty for none.
    pub flag: &'static str,
    /// Others may use it at the same time.
    pub shared: bool,
    /// The program that has it: its name, or `a program` when that cannot be seen; `None` for nobody.
    pub owner: Option<String>,
}

/// A route of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFact {
    /// Where it leads to.
    pub block: Ipv4Block,
    /// By which interface.
    pub interface: String,
}

/// The systemd unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its file.
    pub path: String,
    /// `KillMode=` of the unit and its drop-ins; empty for systemd's default.
    pub kill_mode: String,
    /// `Delegate=` says yes.
    pub delegate: bool,
}

/// What a running board says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The cluster's name.
    pub cluster: String,
    /// Boards that are ready, and all.
    pub ready: usize,
    /// All boards.
    pub boards: usize,
    /// The warnings of its status.
    pub warnings: Vec<Warning>,
}

/// A warning of the cluster's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warning {
    /// The board that it is about.
    pub board: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}
