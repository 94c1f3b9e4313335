//! Discovery on a switch without a router: who is found, how soon, and what strangers cannot do.
//!
//! Each participant lives in a network namespace of its own, with the real mDNS responder; forged
//! packets come from the switch itself.

#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;
#[path = "harness/switch.rs"]
mod switch;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use board::{Wire, possible};
use kumquat::io::discovery::{self, Discovery, Options};
use kumquat::io::net;
use model::leader::{LeaderRecord, SignedRecord};
use model::limits::HEARD_RECORDS_MAX;
use switch::Switch;

/// Generous, for a machine that is busy; what was measured is printed.
const WITHIN: Duration = Duration::from_secs(15);
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);
/// Packets of an attack between two short pauses.
const SENT_AT_ONCE: usize = 50;
const GENUINE: &[u8] = b"genuine";

/// A namespace with a runtime whose threads live in it.
struct Participant {
    namespace: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Participant {
    fn new(switch: &Switch, number: u8) -> Self {
        let alone = Self::alone(switch, number);
        switch.wire(number).plug(&alone.namespace).expect("plugged in");
        alone
    }

    /// Without an interface.
    fn alone(switch: &Switch, number: u8) -> Self {
        let name = format!("/run/netns/kumquat-test-{}-{number}", switch.cluster());
        let namespace = PathBuf::from(name);
        net::create(&namespace).expect("namespace");
        let runtime = net::inside(&namespace, || {
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
        });
        Self { namespace, runtime: runtime.expect("runtime") }
    }

    fn discovery(&self, options: Options) -> Discovery {
        let _entered = self.runtime.enter();
        Discovery::start(options)
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        net::inside(&self.namespace, || Ok(work())).expect("namespace")
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        let _gone = net::remove(&self.namespace);
    }
}

fn record(name: &str, term: u64, signature: &[u8]) -> SignedRecord {
    let record = LeaderRecord {
        cluster: "kumquat".into(),
        epoch: 1,
        term,
        name: name.into(),
        addresses: vec![Ipv4Addr::new(198, 19, 0, 1)],
        api_port: 6443,
        mqtt_port: 8883,
        peer_port: 7443,
        ca: [7; 16],
    };
    SignedRecord::sign(record, |_| signature.to_vec()).expect("valid")
}

/// Waits until exactly these are heard; gives the time it took.
fn wait_heard(listener: &Discovery, expected: &[SignedRecord], what: &str) -> Duration {
    let (began, heard) = (Instant::now(), listener.heard());
    while *heard.borrow() != expected {
        let now = heard.borrow().clone();
        assert!(began.elapsed() < WITHIN, "{what}: heard {now:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("{what}: {:?}", began.elapsed());
    began.elapsed()
}

#[test]
fn a_leader_is_found_updated_and_takes_leave() {
    if !possible("discovery") {
        return;
    }
    let switch = Switch::new("mdns");
    let (leader, board) = (Participant::new(&switch, 1), Participant::new(&switch, 2));
    assert!(board.inside(|| discovery::usable_interfaces(None)));
    let routes =
        board.inside(|| std::fs::read_to_string("/proc/thread-self/net/route")).expect("routes");
    assert!(routes.contains("eth0"), "{routes}");
    let mut targets = routes.lines().filter_map(|line| line.split_whitespace().nth(1));
    assert!(!targets.any(|target| target == "00000000"), "a default route: {routes}");
    let announcer = leader.discovery(Options::default());
    announcer.announce(record("one", 1, GENUINE));
    let listener = board.discovery(Options::default());
    wait_heard(&listener, &[record("one", 1, GENUINE)], "first record heard");
    announcer.announce(record("one", 2, GENUINE));
    wait_heard(&listener, &[record("one", 2, GENUINE)], "update heard");
    assert!(announcer.heard().borrow().is_empty(), "its own record is not heard");
    // A late comer asks and hears at once.
    let late = Participant::new(&switch, 3);
    let late_listener = late.discovery(Options::default());
    wait_heard(&late_listener, &[record("one", 2, GENUINE)], "heard by a late comer");
    announcer.withdraw();
    wait_heard(&listener, &[], "goodbye heard");
    announcer.announce(record("one", 3, GENUINE));
    wait_heard(&listener, &[record("one", 3, GENUINE)], "announced again");
    leader.runtime.block_on(announcer.stop());
    wait_heard(&listener, &[], "stop heard");
}

#[test]
fn names_of_the_site_are_answered_until_they_are_withdrawn() {
    if !possible("names on the site") {
        return;
    }
    let switch = Switch::new("mdnsname");
    let (leader, board) = (Participant::new(&switch, 1), Participant::new(&switch, 2));
    let announcer = leader.discovery(Options::default());
    let names = |last: &[u8]| -> discovery::Names {
        let addresses = last.iter().map(|last| Ipv4Addr::new(198, 19, 0, *last));
        [("web".to_owned(), addresses.collect())].into()
    };
    announcer.name(names(&[1, 2]));
    wait_resolved(&board, "web.local", &[1, 2]);
    announcer.name(names(&[2]));
    wait_resolved(&board, "web.local", &[2]);
    announcer.name(discovery::Names::new());
    wait_resolved(&board, "web.local", &[]);
    leader.runtime.block_on(announcer.stop());
}

/// Asks the link until a name stands for exactly these addresses.
fn wait_resolved(participant: &Participant, name: &str, expected: &[u8]) {
    let began = Instant::now();
    loop {
        let found = participant.inside(|| resolve(name));
        if found == expected {
            println!("{name} is {found:?} after {:?}", began.elapsed());
            return;
        }
        assert!(began.elapsed() < WITHIN, "{name} is {found:?} instead of {expected:?}");
    }
}

/// One question to the link; the last bytes of the addresses in the answer, sorted.
fn resolve(name: &str) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("socket");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("timeout");
    send_multicast_from(&socket, own_address()).expect("interface");
    let question = [&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], &dns_name(name)[..], &[0, 1, 0, 1]];
    socket.send_to(&question.concat(), GROUP).expect("asked");
    let mut found = std::collections::BTreeSet::new();
    let mut packet = [0; 9_000];
    while let Ok((length, _)) = socket.recv_from(&mut packet) {
        // TYPE A, some class, a TTL, four bytes of data: 198.19.0.x.
        for record in packet[..length].windows(14).filter(|it| it[..2] == [0, 1]) {
            if record[8..13] == [0, 4, 198, 19, 0] {
                found.insert(record[13]);
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    found.into_iter().collect()
}

/// The address of the interface of the namespace in which this runs.
fn own_address() -> Ipv4Addr {
    let mut all = nix::ifaddrs::getifaddrs().expect("interfaces");
    let own = all.find_map(|it| {
        let address = it.address?.as_sockaddr_in()?.ip();
        (!address.is_loopback()).then_some(address)
    });
    own.expect("an interface with an address")
}

#[test]
fn a_leader_that_is_cut_off_stays_until_another_takes_over() {
    if !possible("discovery of a dead leader") {
        return;
    }
    let switch = Switch::new("mdnsdead");
    let (leader, board) = (Participant::new(&switch, 1), Participant::new(&switch, 2));
    let announcer = leader.discovery(Options::default());
    announcer.announce(record("one", 1, GENUINE));
    let listener = board.discovery(Options::default());
    wait_heard(&listener, &[record("one", 1, GENUINE)], "first leader heard");
    port(&switch, 1, false);
    leader.runtime.block_on(announcer.stop());
    let second = Participant::new(&switch, 3);
    let next = second.discovery(Options::default());
    next.announce(record("two", 2, GENUINE));
    let both = [record("two", 2, GENUINE), record("one", 1, GENUINE)];
    wait_heard(&listener, &both, "second leader heard, the greatest term first");
}

fn port(switch: &Switch, number: u8, up: bool) {
    let name = switch.wire(number).port;
    let changed = net::inside(switch.namespace(), || {
        let mut links = net::Links::open()?;
        if up { links.set_up(&name) } else { links.set_down(&name) }
    });
    changed.expect("port");
}

#[test]
fn interfaces_of_containers_are_left_alone_unless_they_are_named() {
    if !possible("discovery beside containers") {
        return;
    }
    let switch = Switch::new("mdnsdocker");
    let (leader, board) = (Participant::new(&switch, 1), Participant::new(&switch, 2));
    let container = Participant::alone(&switch, 3);
    pair(&leader.namespace, "veth1", &container.namespace);
    let in_container = container.discovery(Options::default());
    let listener = board.discovery(Options::default());
    let announcer = leader.discovery(Options::default());
    announcer.announce(record("one", 1, GENUINE));
    wait_heard(&listener, &[record("one", 1, GENUINE)], "heard on eth0");
    announcer.announce(record("one", 2, GENUINE));
    wait_heard(&listener, &[record("one", 2, GENUINE)], "update heard on eth0");
    assert!(in_container.heard().borrow().is_empty(), "nothing is said to containers");
    leader.runtime.block_on(announcer.stop());
    wait_heard(&listener, &[], "stopped");

    let named = Options { interface: Some("veth1".into()), ..Options::default() };
    let announcer = leader.discovery(named);
    announcer.announce(record("one", 3, GENUINE));
    wait_heard(&in_container, &[record("one", 3, GENUINE)], "heard on the named interface");
    assert!(listener.heard().borrow().is_empty(), "and on no other");
    let only_container =
        |named: Option<&str>| container.inside(|| discovery::usable_interfaces(named));
    assert!(only_container(None) && !only_container(Some("veth1")));
}

/// A pair of links between two namespaces, `eth0` in the second.
fn pair(near: &Path, name: &str, far: &Path) {
    let file = std::fs::File::open(far).expect("namespace");
    net::inside(near, || {
        let mut links = net::Links::open()?;
        links.add_veth(name, board::ETH, file.as_fd())?;
        links.add_address(name, Ipv4Addr::new(198, 19, 1, 1), 24)
    })
    .expect("near end");
    net::inside(far, || {
        let mut links = net::Links::open()?;
        links.add_address(board::ETH, Ipv4Addr::new(198, 19, 1, 2), 24)?;
        links.set_up(board::ETH)
    })
    .expect("far end");
}

#[test]
fn an_interface_that_comes_later_is_used() {
    if !possible("discovery before the network") {
        return;
    }
    let switch = Switch::new("mdnslate");
    let leader = Participant::new(&switch, 1);
    let board = Participant::alone(&switch, 2);
    assert!(!board.inside(|| discovery::usable_interfaces(None)), "only lo");
    let listener = board.discovery(Options::default());
    let announcer = leader.discovery(Options::default());
    announcer.announce(record("one", 1, GENUINE));
    let wire: Wire = switch.wire(2);
    wire.plug(&board.namespace).expect("plugged in");
    assert!(board.inside(|| discovery::usable_interfaces(None)));
    wait_heard(&listener, &[record("one", 1, GENUINE)], "heard after the interface came");
}

#[test]
fn garbage_and_forgery_neither_silence_nor_grow() {
    if !possible("discovery under attack") {
        return;
    }
    let switch = Switch::new("mdnsbad");
    switch.listen();
    let (leader, board) = (Participant::new(&switch, 1), Participant::new(&switch, 2));
    let judge: discovery::Judge = Arc::new(|record| record.signature() == GENUINE);
    let listener = board.discovery(Options { interface: None, judge });
    let believer = board_believer(&switch);
    let announcer = leader.discovery(Options::default());
    announcer.announce(record("one", 1, GENUINE));
    wait_heard(&listener, &[record("one", 1, GENUINE)], "heard before the attack");

    let before = resident_bytes();
    let forged = send_all((0..10_000).map(|number| forgery(&format!("evil-{number}"))), &switch);
    let garbage = send_all((0..10_000).map(garbage), &switch);
    println!("{forged} forged records and {garbage} packets of garbage sent");
    assert_eq!((forged > 9_000, garbage > 9_000), (true, true));
    let heard = listener.heard().borrow().clone();
    assert!(heard.iter().all(|record| record.signature() == GENUINE), "{heard:?}");
    announcer.announce(record("one", 2, GENUINE));
    wait_heard(&listener, &[record("one", 2, GENUINE)], "heard after the attack");
    let believed = believer.1.heard().borrow().len();
    assert!(
        (2..=HEARD_RECORDS_MAX).contains(&believed),
        "{believed} records believed, one of them true"
    );
    let grown = resident_bytes().saturating_sub(before);
    println!("grown by {} KiB in three responders", grown / 1024);
    assert!(grown < 64 * 1024 * 1024, "grown by {grown} bytes");
}

/// Somebody who takes everything for true.
fn board_believer(switch: &Switch) -> (Participant, Discovery) {
    let participant = Participant::new(switch, 4);
    let listener = participant.discovery(Options::default());
    (participant, listener)
}

/// Sends from the switch; gives how many were sent.
fn send_all(packets: impl Iterator<Item = Vec<u8>> + Send, switch: &Switch) -> usize {
    let sent = net::inside(switch.namespace(), || {
        let own = Ipv4Addr::new(198, 19, 0, 254);
        let socket = UdpSocket::bind((own, GROUP.port()))?;
        socket.set_multicast_ttl_v4(255)?;
        send_multicast_from(&socket, own)?;
        // Slowly enough that the kernel drops none for want of room.
        let sent = packets.enumerate().filter(|(number, packet)| {
            if number % SENT_AT_ONCE == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            socket.send_to(packet, GROUP).is_ok()
        });
        Ok(sent.count())
    });
    sent.expect("namespace of the switch")
}

/// Without a route, multicast needs to be told its interface (IP_MULTICAST_IF of ip(7)).
fn send_multicast_from(socket: &UdpSocket, address: Ipv4Addr) -> std::io::Result<()> {
    use nix::libc;
    use std::os::fd::AsRawFd;
    let address = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
    // SAFETY: the pointer and the length are those of a live `in_addr`, which the kernel copies.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            (&raw const address).cast(),
            u32::try_from(size_of::<libc::in_addr>()).expect("four bytes"),
        )
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A response that announces a leader of that name, for longer than a day (RFC 1035 section 4).
fn forgery(name: &str) -> Vec<u8> {
    const TTL: u32 = 100_000;
    const SERVICE: &str = "_kumquat._tcp.local";
    let forged = record(name, u64::MAX, b"forged");
    let (instance, host) = (format!("{name}.{SERVICE}"), format!("{name}.local"));
    // One answer (PTR), three additional records (SRV, TXT, A).
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 3];
    let mut add = |name: &str, kind: u8, data: &[u8]| {
        packet.extend(dns_name(name));
        packet.extend([0, kind, 0, 1]);
        packet.extend(TTL.to_be_bytes());
        packet.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        packet.extend(data);
    };
    add(SERVICE, 12, &dns_name(&instance));
    add(&instance, 33, &[&[0, 0, 0, 0, 0x1d, 0x13], &dns_name(&host)[..]].concat());
    let mut txt = Vec::new();
    for (key, value) in forged.pairs() {
        txt.push(u8::try_from(key.len() + 1 + value.len()).expect("short"));
        txt.extend(format!("{key}={value}").bytes());
    }
    add(&instance, 16, &txt);
    add(&host, 1, &[198, 19, 0, 254]);
    packet
}

fn dns_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// Random bytes, cut and damaged responses, names that point at themselves.
fn garbage(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut roll = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
    };
    let mut packet = match roll() % 3 {
        0 => return (0..roll() % 600).map(|_| roll() as u8).collect(),
        1 => vec![
            0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0,
            12,
        ],
        _ => forgery("damaged"),
    };
    for _ in 0..roll() % 8 {
        let at = roll() as usize % packet.len();
        packet[at] = roll() as u8;
    }
    packet.truncate(packet.len() - roll() as usize % (packet.len() / 2));
    packet
}

/// Resident memory of this process (statm of proc(5)).
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: usize = text.split(' ').nth(1).expect("pages").parse().expect("a number");
    pages * 4096
}
