//! Facts of boards in, findings out.

use model::profile::{BoardProfile, KernelFile, KernelSettings, Sensors, Watchdog};

use super::*;

/// A board with nothing wrong.
fn fine() -> Facts {
    Facts {
        profile: BoardProfile {
            name: "raspberry-pi-4".into(),
            page_kib: vec![4],
            kernel: KernelSettings {
                files: vec!["/boot/firmware/cmdline.txt".into()],
                words: vec!["cgroup_enable=memory".into()],
            },
            watchdog: Some(Watchdog {
                device: "/dev/watchdog0".into(),
                seconds_max: 15,
                enable: "dtparam=watchdog=on in /boot/firmware/config.txt".into(),
            }),
            sensors: Sensors {
                throttle_celsius: 80,
                supply: Some("5.1 V, 3 A over USB-C".into()),
                ..Sensors::default()
            },
            ..BoardProfile::default()
        },
        kernel_version: "6.12.47+rpt-rpi-v8".into(),
        kernel_file: KernelFile { path: "/boot/firmware/cmdline.txt".into(), text: "quiet".into() },
        cgroup_version: 2,
        cgroup_controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
        features: vec![feature("vxlan", false, FeatureState::Loadable)],
        page_bytes: 4_096,
        clock_synced: Some(true),
        clock_seconds: 1_795_400_000,
        built_seconds: 1_795_305_600,
        disks: vec![disk()],
        ports: vec![port(6443, "tcp", None)],
        multicast_interfaces: vec!["eth0".into()],
        pod_range: "10.42.0.0/16".parse().ok(),
        service_range: "10.43.0.0/16".parse().ok(),
        watchdog: Some(true),
        undervoltage: Some(false),
        throttled: Some(false),
        milli_celsius: Some(51_000),
        hostname: "pi-1".into(),
        is_root: true,
        ..Facts::default()
    }
}

fn feature(name: &'static str, vital: bool, state: FeatureState) -> Feature {
    Feature { name, purpose: "pods", vital, state }
}

fn disk() -> Disk {
    Disk {
        what: "root",
        point: "/".into(),
        device: "mmcblk0p2".into(),
        available_bytes: 10 << 30,
        total_bytes: 32 << 30,
        ..Disk::default()
    }
}

fn port(port: u16, protocol: &'static str, owner: Option<&str>) -> PortUse {
    let (flag, shared) = if port == 6443 { ("--api-port", false) } else { ("", port == 5353) };
    PortUse { port, protocol, purpose: "API", flag, shared, owner: owner.map(str::to_owned) }
}

fn route(block: &str) -> RouteFact {
    RouteFact { block: block.parse().expect("a block"), interface: "wg0".into() }
}

#[test]
fn a_board_with_nothing_wrong_needs_nothing() {
    let findings = examine(&fine());
    let bad: Vec<&Finding> = findings.iter().filter(|it| it.state != State::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(worst(&findings), State::Ok);
    assert!(findings.len() >= 12, "{}", findings.len());
}

#[test]
fn a_board_that_tells_nothing_fails_only_for_what_it_must_have() {
    let findings = examine(&Facts { hostname: "x".into(), ..Facts::default() });
    let failed: Vec<&str> =
        findings.iter().filter(|it| it.state == State::Fail).map(|it| it.check).collect();
    assert_eq!(failed, ["memory-cgroup"], "{findings:#?}");
}

/// One thing wrong is one finding of its check, with this in its words and that in its remedy.
fn check(change: impl FnOnce(&mut Facts), name: &str, state: State, what: &str, remedy: &str) {
    let mut facts = fine();
    change(&mut facts);
    let findings = examine(&facts);
    let bad: Vec<&Finding> = findings.iter().filter(|it| it.state != State::Ok).collect();
    assert_eq!(bad.len(), 1, "{name} {what}: {bad:#?}");
    assert_eq!((bad[0].check, bad[0].state), (name, state), "{:?}", bad[0]);
    assert!(bad[0].what.contains(what), "{:?}", bad[0]);
    let said = bad[0].remedy.as_deref().unwrap_or_default();
    assert!(said.contains(remedy) && !said.is_empty(), "{:?}", bad[0]);
}

#[test]
fn what_the_kernel_lacks() {
    use FeatureState::{Missing, Refused};
    use State::{Fail, Warn};
    let memory = |facts: &mut Facts| facts.cgroup_controllers.retain(|it| it != "memory");
    check(memory, "memory-cgroup", Warn, "not enforced", "one line of /boot/firmware/cmdline.txt");
    let told = |facts: &mut Facts| {
        memory(facts);
        facts.kernel_file.text = "quiet cgroup_enable=memory".into();
    };
    check(told, "memory-cgroup", Warn, "not enforced", "already: reboot");
    check(
        |facts| facts.cgroup_version = 0,
        "memory-cgroup",
        Fail,
        "/sys/fs/cgroup",
        "mount -t cgroup2",
    );
    let vxlan = |facts: &mut Facts| facts.features = vec![feature("vxlan", false, Missing)];
    check(vxlan, "kernel-features", Warn, "lacks vxlan", "reboot");
    let ubuntu = |facts: &mut Facts| {
        vxlan(facts);
        facts.kernel_version = "6.8.0-1010-raspi".into();
    };
    check(ubuntu, "kernel-features", Warn, "vxlan", "linux-modules-extra-6.8.0-1010-raspi");
    let tables = |facts: &mut Facts| facts.features = vec![feature("nf_tables", true, Refused)];
    check(tables, "kernel-features", Fail, "refuses nf_tables", "modprobe nf_tables");
    check(|facts| facts.page_bytes = 16_384, "page-size", Warn, "16 KiB", "4 KiB");
    let usual = Facts {
        page_bytes: 16_384,
        profile: BoardProfile {
            page_kib: vec![16],
            note: "put kernel=kernel8.img".into(),
            ..fine().profile
        },
        ..fine()
    };
    assert_eq!(worst(&examine(&usual)), State::Ok, "a Pi 5 is as it should be");
}

#[test]
fn cards_and_disks() {
    use State::{Fail, Warn};
    let flash = |life: u8, eol: u8| {
        move |facts: &mut Facts| {
            let (life_tenths, pre_eol) = (Some(life), Some(eol));
            facts.flash =
                vec![Flash { device: "mmcblk0".into(), name: "X".into(), life_tenths, pre_eol }];
        }
    };
    check(flash(9, 1), "flash-health", Warn, "90 %", "replace mmcblk0");
    check(flash(1, 2), "flash-health", Warn, "mmcblk0", "replace");
    check(flash(11, 1), "flash-health", Fail, "worn out", "replace");
    check(flash(1, 3), "flash-health", Fail, "worn out", "replace");
    let mut new = fine();
    flash(2, 1)(&mut new);
    new.flash.push(Flash { device: "mmcblk1".into(), ..Flash::default() });
    assert_eq!(worst(&examine(&new)), State::Ok);
    check(|facts| facts.disks[0].errors = 2, "file-system", Warn, "2 errors on mmcblk0p2", "fsck");
    let read_only = |facts: &mut Facts| {
        facts.disks[0].read_only = true;
        facts.disks[0].errors = 2;
    };
    check(read_only, "file-system", Fail, "takes no writes", "dmesg");
    let data = |facts: &mut Facts| {
        facts.disks[0].what = "data-dir";
        facts.disks[0].read_only = true;
    };
    check(data, "file-system", Fail, "data-dir", "replace it");
    let full = |facts: &mut Facts| facts.disks[0].available_bytes = 1 << 30;
    check(full, "file-system", Warn, "1024 MiB of 32768 MiB", "image rm");
    check(|facts| facts.disks[0].available_bytes = 1, "file-system", Fail, "0 MiB", "image rm");
    let swap = |path: &'static str| {
        move |facts: &mut Facts| {
            facts.swaps = vec![
                Swap { path: path.into(), on_flash: true },
                Swap { path: "/dev/zram0".into(), on_flash: false },
            ];
        }
    };
    check(swap("/var/swap"), "swap", Warn, "wears", "dphys-swapfile");
    check(swap("/dev/mmcblk0p3"), "swap", Warn, "wears", "swapoff /dev/mmcblk0p3");
}

#[test]
fn clock_power_heat_and_name() {
    use State::{Fail, Warn};
    check(|facts| facts.clock_synced = Some(false), "clock", Warn, "no time server", "timedatectl");
    check(|facts| facts.clock_seconds = 0, "clock", Warn, "the year 1970", "date -s");
    check(|facts| facts.clock_seconds = 5_000_000_000, "clock", Warn, "2128", "date -s");
    check(|facts| facts.watchdog = Some(false), "watchdog", Warn, "/dev/watchdog0", "dtparam");
    check(|facts| facts.undervoltage = Some(true), "power", Warn, "too low", "5.1 V, 3 A");
    check(|facts| facts.throttled = Some(true), "temperature", Warn, "slowed down (51 °C", "fan");
    check(|facts| facts.hostname = "Pi_1".into(), "name", Fail, "Pi_1", "hostnamectl");
    check(|facts| facts.hostname = "raspberrypi".into(), "name", Warn, "raspberrypi", "--name");
    let named = Facts { hostname: "raspberrypi".into(), name: Some("pi-7".into()), ..fine() };
    assert_eq!(worst(&examine(&named)), State::Ok);
    let unit = |kill_mode: &'static str, delegate| {
        move |facts: &mut Facts| {
            let path = "/etc/systemd/system/kumquat.service".to_owned();
            facts.unit = Some(Unit { path, kill_mode: kill_mode.into(), delegate });
        }
    };
    check(unit("", true), "service", Fail, "KillMode=control-group", "`KillMode=process`");
    check(unit("mixed", true), "service", Fail, "KillMode=mixed", "daemon-reload");
    check(unit("process", false), "service", Warn, "Delegate", "`Delegate=yes`");
}

#[test]
fn ports_routes_and_firewalls() {
    use State::{Fail, Warn};
    let taken = |facts: &mut Facts| facts.ports = vec![port(6443, "tcp", Some("k3s"))];
    check(taken, "ports", Fail, "6443/tcp (API) is taken by k3s", "--api-port");
    let fixed = |facts: &mut Facts| facts.ports = vec![port(8472, "udp", Some("flanneld"))];
    check(fixed, "ports", Fail, "flanneld", "stop flanneld");
    let mut shared = fine();
    shared.ports =
        vec![port(5353, "udp", Some("avahi-daemon")), port(6443, "tcp", Some("kumquat"))];
    assert_eq!(worst(&examine(&shared)), State::Ok);
    let overlap = |block: &'static str| move |facts: &mut Facts| facts.routes = vec![route(block)];
    check(overlap("10.42.3.0/24"), "routes", Fail, "10.42.3.0/24 by wg0", "--pod-range");
    check(overlap("10.43.0.0/16"), "routes", Fail, "10.43.0.0/16", "--service-range");
    let beside = Facts { routes: vec![route("10.44.0.0/16"), route("192.168.1.0/24")], ..fine() };
    assert_eq!(worst(&examine(&beside)), State::Ok);
    let both = Facts { routes: vec![route("10.0.0.0/8")], ..fine() };
    let failed = examine(&both).into_iter().filter(|it| it.state == Fail).count();
    assert_eq!(failed, 2, "pods and services");
    let legacy = |facts: &mut Facts| facts.legacy_tables = vec!["filter".into(), "nat".into()];
    check(legacy, "legacy-iptables", Warn, "FORWARD policy is DROP", "iptables-legacy -P FORWARD");
    let wall = |name: &'static str| move |facts: &mut Facts| facts.firewalls = vec![name.into()];
    check(wall("ufw"), "firewall", Warn, "ufw", "ufw allow 6443/tcp");
    check(wall("firewalld"), "firewall", Warn, "firewalld", "--add-port=6443/tcp");
    check(wall("nftables"), "firewall", Warn, "nftables", "/etc/nftables.conf");
    check(|facts| facts.multicast_interfaces.clear(), "mdns", Warn, "multicast", "--peers");
}

#[test]
fn a_running_board_adds_its_warnings() {
    let warning = Warning { board: "pi-2".into(), reason: "silent".into(), remedy: "plug".into() };
    let running = |facts: &mut Facts| {
        let warnings = vec![warning];
        facts.running = Some(Running { cluster: "home".into(), ready: 2, boards: 2, warnings });
    };
    check(running, "cluster", State::Warn, "board pi-2: silent", "plug");
    let away = |facts: &mut Facts| {
        let warnings = Vec::new();
        facts.running = Some(Running { cluster: "home".into(), ready: 1, boards: 2, warnings });
    };
    check(away, "cluster", State::Warn, "1 of 2 boards", "kumquat status");
}
