//! Discovery on a switch without a router: who is found, how soon, and what strangers cannot do.
//!
//! Each participant lives in a network namespace of its own, with the real mDNS responder; forged
//! packets come from the switch itself.

#[path = "harness/board.rs"]
mod board;
#[path = "harness/busybox.rs"]
mod busybox;
#[path = "harness/forgery.rs"]
mod forgery;
#[path = "harness/switch.rs"]
mod switch;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use board::{Wire, possible};
use forgery::{GROUP, dns_name, forgery, garbage, record, send_all, send_multicast_from};
use kumquat::io::discovery::{self, Discovery, Options};
use kumquat::io::net;
use model::leader::SignedRecord;
use model::limits::HEARD_RECORDS_MAX;
use switch::Switch;

/// Generous, for a machine that is busy; what was measured is printed.
const WITHIN: Duration = Duration::from_secs(15);
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
    let listener = board.discovery(Options { judge, ..Options::default() });
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

/// Resident memory of this process (statm of proc(5)).
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: usize = text.split(' ').nth(1).expect("pages").parse().expect("a number");
    pages * 4096
}
