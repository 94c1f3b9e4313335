//! Folders that look like boards in, facts out.

use logic::doctor::{FeatureState, State, examine, worst};

use super::super::testing::Tree;
use super::*;

fn inquiry(tree: &Tree) -> Inquiry {
    let port = |port, protocol, flag| PortUse {
        port,
        protocol,
        purpose: "test",
        flag,
        shared: port == 5353,
        owner: None,
    };
    Inquiry {
        root: tree.path().to_owned(),
        data_dir: PathBuf::from("/var/lib/kumquat"),
        ports: vec![
            port(6443, "tcp", "--api-port"),
            port(8883, "tcp", "--mqtt-port"),
            port(8472, "udp", ""),
            port(5353, "udp", ""),
        ],
        pod_range: "10.42.0.0/16".parse().expect("a block"),
        service_range: "10.43.0.0/16".parse().expect("a block"),
        name: None,
    }
}

const DEVICE_TREE: [(&str, &str); 2] = [
    ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.5\0"),
    ("proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0"),
];

#[test]
fn a_fresh_pi_is_told_what_to_do() {
    let tree = Tree::new(&DEVICE_TREE);
    let files = [
        ("proc/sys/kernel/osrelease", "6.12.47+rpt-rpi-v8\n"),
        ("proc/sys/kernel/hostname", "raspberrypi\n"),
        (
            "proc/self/mountinfo",
            "25 1 179:2 / / rw - ext4 /dev/mmcblk0p2 rw\n\
             30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        ),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n"),
        ("boot/firmware/cmdline.txt", "console=tty1 root=PARTUUID=x rootwait\n"),
        ("proc/modules", "overlay 1 0 - Live 0x0\nnf_tables 2 1 nft_ct, Live 0x0\n"),
        (
            "lib/modules/6.12.47+rpt-rpi-v8/modules.builtin",
            "kernel/net/netfilter/nf_conntrack.ko\n",
        ),
        (
            "lib/modules/6.12.47+rpt-rpi-v8/modules.dep",
            "kernel/drivers/net/veth.ko.xz:\nkernel/net/netfilter/nft_ct.ko.xz: a.ko.xz\n",
        ),
        (
            "proc/swaps",
            "Filename Type Size Used Priority\n/var/swap file 204796 0 -2\n/dev/zram0 partition 1 0 5\n",
        ),
        ("sys/block/mmcblk0/device/name", "SC32G\n"),
        ("sys/block/mmcblk1/device/name", "BJTD4R\n"),
        ("sys/block/mmcblk1/device/life_time", "0x02 0x0b\n"),
        ("sys/block/mmcblk1/device/pre_eol_info", "0x01\n"),
        ("sys/block/mmcblk1boot0/size", "8192\n"),
        ("dev/i2c-1", ""),
        ("sys/class/net/eth0/flags", "0x1003\n"),
        ("sys/class/net/eth0/carrier", "1\n"),
        ("sys/class/net/wlan0/flags", "0x1002\n"),
        ("sys/class/net/docker0/flags", "0x1003\n"),
        ("etc/ufw/ufw.conf", "# on\nENABLED=yes\n"),
        ("proc/net/ip_tables_names", "filter\nnat\n"),
    ];
    for (path, text) in files {
        tree.write(path, text);
    }
    let facts = inquiry(&tree).facts();
    assert_eq!(facts.profile.name, "raspberry-pi-4");
    assert_eq!(facts.cgroup_controllers, ["cpu", "cpuset", "io", "pids"]);
    assert_eq!(facts.multicast_interfaces, ["eth0"]);
    assert_eq!(
        (facts.firewalls.as_slice(), facts.devices.as_slice()),
        (&["ufw".to_owned()][..], &["/dev/i2c-1".to_owned()][..])
    );
    let state = |name: &str| {
        let found = facts.features.iter().find(|feature| feature.name == name);
        found.expect("it is asked for").state
    };
    assert_eq!(state("overlay"), FeatureState::Works);
    assert_eq!(state("nf_tables"), FeatureState::Works);
    assert_eq!(state("nf_conntrack"), FeatureState::Works);
    assert_eq!(state("veth"), FeatureState::Loadable);
    assert_eq!(state("nft_ct"), FeatureState::Loadable);
    assert_eq!(state("vxlan"), FeatureState::Missing);
    let devices: Vec<(&str, Option<u8>)> =
        facts.flash.iter().map(|it| (it.device.as_str(), it.life_tenths)).collect();
    assert_eq!(devices, [("mmcblk0", None), ("mmcblk1", Some(11))]);
    let swaps: Vec<bool> = facts.swaps.iter().map(|it| it.on_flash).collect();
    assert_eq!(swaps, [true, false]);
    let findings = examine(&facts);
    let said = |check: &str| {
        let found = findings.iter().find(|it| it.check == check && it.state != State::Ok);
        found.unwrap_or_else(|| panic!("{check}: {findings:#?}")).remedy.clone().expect("a remedy")
    };
    assert!(said("memory-cgroup").contains("one line of /boot/firmware/cmdline.txt"));
    assert!(said("swap").contains("dphys-swapfile"));
    assert!(said("name").contains("hostnamectl"));
    assert!(said("flash-health").contains("mmcblk1"));
    assert!(said("watchdog").contains("dtparam=watchdog=on"));
    assert!(said("firewall").contains("ufw allow"));
    assert_eq!(worst(&findings), State::Fail);
    tree.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
    let again = examine(&inquiry(&tree).facts());
    let memory = again.iter().find(|it| it.check == "memory-cgroup").expect("it is checked");
    assert_eq!(memory.state, State::Ok, "gone after its remedy");
}

#[test]
fn owners_of_ports_are_named() {
    let row = |port: &str, state: &str, inode: u32| {
        format!(
            "  0: 00000000:{port} 00000000:0000 {state} 00000000:00000000 00:0 0 0 0 {inode} 1\n"
        )
    };
    let tree = Tree::new(&[("proc/77/comm", "k3s-server\n"), ("proc/78/comm", "kumquat\n")]);
    tree.write("proc/net/tcp", &format!("head\n{}{}", row("192B", "0A", 5), row("22B3", "01", 6)));
    tree.write("proc/net/tcp6", &format!("head\n{}", row("22B3", "0A", 9)));
    tree.write("proc/net/udp", &format!("head\n{}{}", row("2118", "07", 0), row("14E9", "07", 7)));
    for (process, inode) in [(77, 5), (78, 9)] {
        let folder = tree.path().join(format!("proc/{process}/fd"));
        fs::create_dir_all(&folder).expect("tmp");
        let socket = format!("socket:[{inode}]");
        std::os::unix::fs::symlink(socket, folder.join("3")).expect("tmp");
    }
    let owners: Vec<Option<String>> =
        inquiry(&tree).facts().ports.into_iter().map(|it| it.owner).collect();
    let of_kernel = "the kernel (a VXLAN link of another program)";
    let expected = ["k3s-server", "kumquat", of_kernel, "a program"];
    assert_eq!(owners, expected.map(|it| Some(it.to_owned())));
    tree.write("sys/class/net/kq-vxlan/flags", "0x1003\n");
    assert_eq!(inquiry(&tree).facts().ports[2].owner.as_deref(), Some("kumquat"));
}

#[test]
fn foreign_routes_are_told_from_our_own() {
    let head =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    let line = |interface: &str, block: &str| {
        let block: Ipv4Block = block.parse().expect("a block");
        let raw = |address: std::net::Ipv4Addr| u32::from_ne_bytes(address.octets());
        let mask = Ipv4Block { network: std::net::Ipv4Addr::BROADCAST, prefix: block.prefix };
        let mask = Ipv4Block::new(mask.network, block.prefix).network;
        let (to, mask) = (raw(block.network), raw(mask));
        format!("{interface}\t{to:08X}\t00000000\t0001\t0\t0\t0\t{mask:08X}\t0\t0\t0\n")
    };
    let text = [
        head.to_owned(),
        line("eth0", "0.0.0.0/0"),
        line("eth0", "192.168.1.0/24"),
        line("eth0", "10.42.0.128/25"),
        line("kqa1b2c3", "10.42.0.2/32"),
        line("wg0", "10.42.8.0/24"),
        line("wg0", "10.0.0.0/8"),
    ]
    .concat();
    let pods = "10.42.0.0/16".parse().expect("a block");
    let found: Vec<String> = network::routes(&text, pods)
        .into_iter()
        .map(|route| format!("{} {}", route.interface, route.block))
        .collect();
    assert_eq!(found, ["eth0 192.168.1.0/24", "wg0 10.42.8.0/24", "wg0 10.0.0.0/8"]);
    assert!(network::has_default_route(&text) && !network::has_default_route(head));
}

#[test]
fn drop_ins_of_the_unit_count() {
    let tree = Tree::new(&[]);
    assert_eq!(inquiry(&tree).facts().unit, None);
    tree.write("etc/systemd/system/kumquat.service", "[Service]\nKillMode=mixed\nDelegate=yes\n");
    let unit = || inquiry(&tree).facts().unit.expect("there");
    assert_eq!((unit().kill_mode.as_str(), unit().delegate), ("mixed", true));
    tree.write("etc/systemd/system/kumquat.service.d/a.conf", "[Service]\nKillMode=process\n");
    assert_eq!(unit().kill_mode, "process");
    assert_eq!(unit().path, "/etc/systemd/system/kumquat.service");
}

#[test]
fn this_machine_can_be_asked() {
    let tree = Tree::new(&[]);
    let here = Inquiry { root: PathBuf::from("/"), ..inquiry(&tree) }.facts();
    assert!(here.page_bytes > 0 && !here.kernel_version.is_empty() && !here.disks.is_empty());
    let findings = examine(&here);
    assert!(findings.iter().any(|it| it.check == "clock"), "{findings:#?}");
}
