//! What packets meet.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use logic::network::local::{LocalPod, LocalPods};
use logic::network::rules::Planner;
use model::ids::Uid;
use model::network::{NetBoard, NetPeers, NetPolicy, NetPolicyPort, NetRule, NetState, Protocol};

use super::super::forget;
use super::bed::*;
use crate::io::net::inside;

const AT: (Ipv4Addr, u16) = (SERVICE, 80);
const NODE_PORT: (Ipv4Addr, u16) = (BOARD, 30_080);

#[test]
fn a_service_leads_to_all_of_its_endpoints_and_keeps_the_clients_address() {
    let Some(mut bed) = Bed::new() else { return };
    for name in ["pod-2", "pod-3", "far"] {
        bed.serve_tcp(name, 8080);
    }
    bed.update(&state(&[service("web", &[POD_2, POD_3, FAR])]));
    let shares = bed.shares("pod-2", AT, 120);
    assert_eq!(shares.values().sum::<usize>(), 120);
    assert!(shares.len() == 3 && shares.values().all(|share| *share > 15), "{shares:?}");
    bed.update(&state(&[service("web", &[FAR])]));
    assert_eq!(bed.call("pod-2", AT).expect("answer"), "far 10.42.0.2");
    assert_eq!(bed.call("board", AT).expect("answer"), "far 10.42.0.1");
    bed.update(&state(&[service("web", &[POD_3])]));
    assert_eq!(bed.call("pod-2", AT).expect("answer"), "pod-3 10.42.0.2");
    assert_eq!(bed.call("board", AT).expect("answer"), "pod-3 10.42.0.1");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let Some(mut bed) = Bed::new() else { return };
    bed.serve_tcp("pod-2", 8080);
    bed.update(&state(&[service("web", &[POD_2])]));
    assert_eq!(bed.call("pod-2", AT).expect("answer"), "pod-2 10.42.0.1");
    assert_eq!(bed.call("pod-2", NODE_PORT).expect("answer"), "pod-2 10.42.0.1");
}

#[test]
fn node_ports_lead_from_outside_to_all_boards_or_only_to_own_pods() {
    let Some(mut bed) = Bed::new() else { return };
    bed.serve_tcp("pod-2", 8080);
    bed.serve_tcp("far", 8080);
    bed.update(&state(&[service("web", &[FAR])]));
    // The pod's board does not know the client: what comes back must come through here.
    assert_eq!(bed.call("client", NODE_PORT).expect("answer"), "far 10.42.0.1");
    assert_eq!(bed.call("board", NODE_PORT).expect("answer"), "far 10.42.0.1");
    let mut local = service("web", &[POD_2, FAR]);
    local.external_local = true;
    bed.update(&state(&[local.clone()]));
    for _ in 0..20 {
        assert_eq!(bed.call("client", NODE_PORT).expect("answer"), "pod-2 192.0.2.9");
    }
    assert_eq!(bed.shares("pod-3", NODE_PORT, 40).len(), 2, "pods reach all endpoints");
    assert_eq!(bed.shares("board", NODE_PORT, 40).len(), 2, "and so does the board");
    local.endpoints = vec![endpoint(FAR)];
    bed.update(&state(&[local]));
    let silent = bed.call_within("client", NODE_PORT, SILENCE).expect_err("nobody here");
    assert_eq!(silent.kind(), ErrorKind::TimedOut);
    assert_eq!(bed.call("pod-3", NODE_PORT).expect("answer"), "far 10.42.0.3");
}

#[test]
fn an_internal_policy_of_local_stays_on_the_board() {
    let Some(mut bed) = Bed::new() else { return };
    for name in ["pod-2", "far"] {
        bed.serve_tcp(name, 8080);
    }
    let mut local = service("web", &[POD_2, FAR]);
    local.internal_local = true;
    bed.update(&state(&[local.clone()]));
    assert_eq!(bed.shares("pod-3", AT, 20).keys().collect::<Vec<_>>(), ["pod-2"]);
    local.endpoints = vec![endpoint(FAR)];
    bed.update(&state(&[local]));
    let silent = bed.call_within("pod-3", AT, SILENCE).expect_err("nobody here");
    assert_eq!(silent.kind(), ErrorKind::TimedOut);
}

#[test]
fn external_addresses_and_their_source_ranges() {
    let Some(mut bed) = Bed::new() else { return };
    bed.serve_tcp("pod-2", 8080);
    let external = Ipv4Addr::new(192, 0, 2, 77);
    let mut balanced = service("web", &[POD_2]);
    balanced.external_ips = vec![external];
    balanced.load_balancer = vec![BOARD];
    bed.update(&state(&[balanced.clone()]));
    assert_eq!(bed.call("pod-3", (external, 80)).expect("answer"), "pod-2 10.42.0.3");
    assert_eq!(bed.call("client", (BOARD, 80)).expect("answer"), "pod-2 192.0.2.9");
    balanced.source_ranges = vec!["203.0.113.0/24".parse().expect("a block")];
    bed.update(&state(&[balanced.clone()]));
    bed.call_within("client", (BOARD, 80), SILENCE).expect_err("not in the range");
    assert_eq!(bed.call("client", NODE_PORT).expect("node ports are open"), "pod-2 192.0.2.9");
    balanced.source_ranges.push("192.0.2.8/29".parse().expect("a block"));
    bed.update(&state(&[balanced.clone()]));
    assert_eq!(bed.call("client", (BOARD, 80)).expect("answer"), "pod-2 192.0.2.9");
    balanced.endpoints.clear();
    bed.update(&state(&[balanced]));
    for to in [(BOARD, 80), NODE_PORT] {
        let refused = bed.call("client", to).expect_err("no endpoints");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to:?}");
    }
}

#[test]
fn without_endpoints_connections_are_refused_at_once() {
    let Some(mut bed) = Bed::new() else { return };
    bed.update(&state(&[service("web", &[]), udp(service("dns", &[]))]));
    for from in ["pod-2", "board", "pod-2", "pod-2", "pod-2", "pod-2", "pod-2", "pod-2"] {
        let begun = std::time::Instant::now();
        let refused = bed.call(from, AT).expect_err("no endpoints");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{from}");
        assert!(begun.elapsed() < SILENCE, "{from}: {:?}", begun.elapsed());
    }
    // The kernel tells a sender of its own at once that the packet was dropped.
    let of_udp = [("pod-3", ErrorKind::ConnectionRefused), ("board", ErrorKind::PermissionDenied)];
    for (from, kind) in of_udp {
        let refused = ask(&client_of(&bed, from), AT).expect_err("no endpoints");
        assert_eq!(refused.kind(), kind, "{from}");
    }
    let refused = bed.call("client", NODE_PORT).expect_err("no endpoints");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_client_with_affinity_stays_until_its_endpoint_goes() {
    let Some(mut bed) = Bed::new() else { return };
    for name in ["pod-2", "pod-3", "far"] {
        bed.serve_tcp(name, 8080);
    }
    let sticky = |endpoints: &[Ipv4Addr]| {
        let mut service = service("web", endpoints);
        service.affinity_seconds = 10_800;
        service
    };
    let all = [(POD_2, "pod-2"), (POD_3, "pod-3"), (FAR, "far")];
    bed.update(&state(&[sticky(&all.map(|(address, _)| address))]));
    for to in [AT, NODE_PORT] {
        let from = if to == AT { "board" } else { "client" };
        let first = bed.shares(from, to, 30);
        assert_eq!(first.len(), 1, "{first:?}");
        let kept = first.into_keys().next().expect("one");
        // The table made anew, as after a restart, forgets nobody.
        bed.nft().replace(&bed.planner.rules()).expect("replaced");
        assert!(bed.shares(from, to, 10).into_keys().eq([kept.clone()]));
        let left = all.iter().filter(|(_, name)| *name != kept).map(|(address, _)| *address);
        bed.update(&state(&[sticky(&left.collect::<Vec<_>>())]));
        let second = bed.shares(from, to, 30);
        assert!(second.len() == 1 && !second.contains_key(&kept), "{second:?} after {kept}");
        bed.update(&state(&[sticky(&all.map(|(address, _)| address))]));
        assert_eq!(
            bed.shares(from, to, 10).keys().collect::<Vec<_>>(),
            second.keys().collect::<Vec<_>>()
        );
    }
}

#[test]
fn affinity_ends_with_its_time() {
    let Some(mut bed) = Bed::new() else { return };
    for name in ["pod-2", "pod-3"] {
        bed.serve_tcp(name, 8080);
    }
    let mut sticky = service("web", &[POD_2, POD_3]);
    sticky.affinity_seconds = 1;
    bed.update(&state(&[sticky]));
    let first = bed.shares("far", NODE_PORT_OF_UP, 5);
    assert_eq!(first.len(), 1);
    let until = std::time::Instant::now() + ANSWER_WITHIN * 6;
    loop {
        assert!(std::time::Instant::now() < until, "the same target after many pauses");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        if bed.shares("far", NODE_PORT_OF_UP, 1).keys().ne(first.keys()) {
            return;
        }
    }
}

/// The board as the other board sees it.
const NODE_PORT_OF_UP: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 30_080);

fn client_of(bed: &Bed, from: &str) -> UdpSocket {
    let socket = bed.on(from, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    socket.set_read_timeout(Some(ANSWER_WITHIN)).expect("timeout");
    socket
}

fn ask(socket: &UdpSocket, to: (Ipv4Addr, u16)) -> std::io::Result<String> {
    socket.connect(to)?;
    socket.send(b"who?")?;
    let mut buffer = [0; 64];
    let count = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

#[test]
fn a_client_of_udp_is_led_anew_when_its_endpoint_goes() {
    let Some(mut bed) = Bed::new() else { return };
    for name in ["pod-2", "pod-3", "far"] {
        bed.serve_udp(name, 8080);
    }
    bed.update(&state(&[udp(service("dns", &[POD_3]))]));
    let inside = client_of(&bed, "pod-2");
    let outside = client_of(&bed, "client");
    assert_eq!(ask(&inside, AT).expect("answer"), "pod-3 10.42.0.2");
    assert_eq!(ask(&outside, NODE_PORT).expect("answer"), "pod-3 192.0.2.9");
    let changes = bed.update(&state(&[udp(service("dns", &[FAR]))]));
    let doubtful = changes.doubtful();
    assert_eq!(doubtful.len(), 2, "{doubtful:?}");
    assert_eq!(ask(&inside, AT).expect("answer"), "pod-3 10.42.0.2", "the kernel remembers");
    let planner = &bed.planner;
    let count = bed.on("board", || forget(|flow| planner.is_stale(&doubtful, flow)));
    assert_eq!(count, 2);
    assert_eq!(ask(&inside, AT).expect("answer"), "far 10.42.0.2");
    assert_eq!(ask(&outside, NODE_PORT).expect("answer"), "far 10.42.0.1");
    let count = bed.on("board", || forget(|flow| planner.is_stale(&doubtful, flow)));
    assert_eq!(count, 0, "what is right stays");
    // The service goes while nobody looks.
    let count = bed.on("board", || forget(|flow| bed.planner.is_astray(flow)));
    assert_eq!(count, 0, "all of it is right");
    let planner = Planner::new(bed.planner.site().clone());
    assert_eq!(bed.on("board", || forget(|flow| planner.is_astray(flow))), 1);
    bed.nft().replace(&planner.rules()).expect("replaced");
    assert!(ask(&inside, AT).is_err(), "the service is gone");
}

/// Calls from a port that stays the same; it closes with an RST, so that it can be used again.
fn call_from(bed: &Bed, from: &str, port: u16, to: (Ipv4Addr, u16)) -> std::io::Result<()> {
    use nix::sys::socket::{self, SockaddrIn, sockopt};
    inside(&bed.path(from), || {
        let kind = socket::SockType::Stream;
        let flags = socket::SockFlag::SOCK_CLOEXEC;
        let stream = socket::socket(socket::AddressFamily::Inet, kind, flags, None)?;
        socket::setsockopt(&stream, sockopt::ReuseAddr, &true)?;
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        socket::setsockopt(&stream, sockopt::Linger, &at_once)?;
        // Bounds the wait for an answer, too.
        let patience = nix::sys::time::TimeVal::new(0, 500_000);
        socket::setsockopt(&stream, sockopt::SendTimeout, &patience)?;
        let own = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        socket::bind(stream.as_raw_fd(), &SockaddrIn::from(own))?;
        let to = SockaddrIn::from(SocketAddrV4::new(to.0, to.1));
        Ok(socket::connect(stream.as_raw_fd(), &to)?)
    })
}

#[test]
fn a_port_that_called_a_lost_board_is_led_anew() {
    let Some(mut bed) = Bed::new() else { return };
    bed.serve_tcp("pod-3", 8080);
    // In the block of the other board, where nobody answers.
    let silent = Ipv4Addr::new(10, 42, 1, 99);
    let with_board = |ready: bool, endpoints: &[Ipv4Addr]| {
        let mut state = NetState::clone(&state(&[service("web", endpoints)]));
        let pods = "10.42.1.0/25".parse().ok();
        let board = NetBoard { name: "there".into(), pods, ready, ..NetBoard::default() };
        state.boards.insert("there".into(), Arc::new(board));
        Arc::new(state)
    };
    bed.update(&with_board(true, &[silent]));
    assert!(call_from(&bed, "pod-2", 5_555, AT).is_err(), "nobody answers");
    let changes = bed.update(&with_board(true, &[POD_3]));
    assert!(bed.planner.cut_off(&changes).is_empty(), "who goes in peace answers");
    assert!(call_from(&bed, "pod-2", 5_555, AT).is_err(), "the kernel remembers");
    bed.update(&with_board(true, &[silent]));
    let changes = bed.update(&with_board(false, &[POD_3]));
    let cut_off = bed.planner.cut_off(&changes);
    assert_eq!(cut_off.len(), 2, "{cut_off:?}");
    assert!(call_from(&bed, "pod-2", 5_556, AT).is_ok(), "another port");
    let planner = &bed.planner;
    let count = bed.on("board", || forget(|flow| planner.is_stale(&cut_off, flow)));
    assert_eq!(count, 1);
    assert!(call_from(&bed, "pod-2", 5_555, AT).is_ok(), "the same port");
}

#[test]
fn names_and_host_ports_lead_where_they_should() {
    let Some(mut bed) = Bed::new() else { return };
    bed.serve_udp("board", 10_053);
    bed.serve_tcp("board", 10_053);
    bed.serve_tcp("pod-2", 8080);
    let names = (Ipv4Addr::new(10, 43, 0, 10), 53);
    assert_eq!(ask(&client_of(&bed, "pod-3"), names).expect("answer"), "board 10.42.0.3");
    assert_eq!(ask(&client_of(&bed, "board"), names).expect("answer"), "board 10.42.0.1");
    assert_eq!(bed.call("pod-3", names).expect("answer"), "board 10.42.0.3");
    let pod = LocalPod {
        uid: Uid::from_random([1; 16]),
        host_ports: vec![
            (Protocol::Tcp, 8081, 8080, None),
            (Protocol::Tcp, 8082, 8080, Some(BOARD)),
        ],
        veth: "kqa".into(),
    };
    let local = LocalPods { pods: [(POD_2, pod)].into() };
    bed.update_all(&NetState::default(), &local);
    assert_eq!(bed.call("client", (BOARD, 8081)).expect("answer"), "pod-2 192.0.2.9");
    assert_eq!(bed.call("client", (BOARD, 8082)).expect("answer"), "pod-2 192.0.2.9");
    assert_eq!(bed.call("pod-2", (BOARD, 8081)).expect("answer"), "pod-2 10.42.0.1");
    let other = (Ipv4Addr::new(198, 51, 100, 1), 8082);
    bed.call_within("far", other, SILENCE).expect_err("not at this address");
    bed.update(&NetState::default());
    bed.call_within("client", (BOARD, 8081), SILENCE).expect_err("gone with the pod");
}

#[test]
fn pods_reach_the_outside_as_their_board() {
    let Some(mut bed) = Bed::new() else { return };
    bed.serve_tcp("client", 9000);
    bed.serve_tcp("far", 9000);
    assert_eq!(bed.call("pod-2", (CLIENT, 9000)).expect("answer"), "client 192.0.2.1");
    assert_eq!(bed.call("pod-2", (FAR, 9000)).expect("answer"), "far 10.42.0.2");
}

fn policy(pods: &[Ipv4Addr]) -> NetPolicy {
    NetPolicy {
        namespace: "default".into(),
        name: "trial".into(),
        pods: pods.to_vec(),
        ..NetPolicy::default()
    }
}

fn with_policies(policies: &[NetPolicy]) -> NetState {
    let services = [service("web", &[POD_2])];
    let policies = policies.iter().map(|p| (p.key().into(), Arc::new(p.clone()))).collect();
    NetState { policies, ..state(&services) }
}

#[test]
fn a_policy_lets_in_whom_it_names_and_nobody_else() {
    let Some(mut bed) = Bed::new() else { return };
    for port in [8080, 8090] {
        bed.serve_tcp("pod-2", port);
    }
    let direct = (POD_2, 8080);
    let denied = NetPolicy { ingress: Some(vec![]), ..policy(&[POD_2]) };
    bed.update(&with_policies(std::slice::from_ref(&denied)));
    for from in ["pod-3", "far"] {
        for to in [direct, AT].into_iter().take(if from == "far" { 1 } else { 2 }) {
            let silent = bed.call_within(from, to, SILENCE).expect_err("denied");
            assert_eq!(silent.kind(), ErrorKind::TimedOut, "{from} to {to:?}");
        }
    }
    assert_eq!(bed.call("pod-2", AT).expect("hairpin comes first"), "pod-2 10.42.0.1");
    assert_eq!(bed.call("board", AT).expect("the board's own"), "pod-2 10.42.0.1");
    bed.call_within("client", NODE_PORT, SILENCE).expect_err("denied");
    let peers = NetPeers {
        addresses: vec![POD_3],
        blocks: vec![(
            "192.0.2.0/24".parse().expect("a block"),
            vec!["192.0.2.128/25".parse().expect("a block")],
        )],
    };
    let port = NetPolicyPort { port: 8000, end: 8085, ..NetPolicyPort::default() };
    let allowed = NetPolicy {
        name: "allow".into(),
        ingress: Some(vec![NetRule { peers: Some(peers.clone()), ports: vec![port] }]),
        ..policy(&[POD_2])
    };
    bed.update(&with_policies(&[denied.clone(), allowed.clone()]));
    assert_eq!(bed.call("pod-3", AT).expect("named pod"), "pod-2 10.42.0.3");
    assert_eq!(bed.call("client", NODE_PORT).expect("named block"), "pod-2 192.0.2.9");
    bed.call_within("far", direct, SILENCE).expect_err("not named");
    bed.call_within("pod-3", (POD_2, 8090), SILENCE).expect_err("another port");
    let excepted = vec!["192.0.2.8/29".parse().expect("a block")];
    let mut other = allowed;
    let rule = &mut other.ingress.as_mut().expect("rules")[0];
    rule.peers.as_mut().expect("peers").blocks[0].1 = excepted;
    bed.update(&with_policies(&[denied, other]));
    bed.call_within("client", NODE_PORT, SILENCE).expect_err("excepted");
    bed.update(&with_policies(&[]));
    assert_eq!(bed.call("far", direct).expect("no policy"), "pod-2 10.42.1.2");
}

#[test]
fn a_policy_lets_out_where_it_says() {
    let Some(mut bed) = Bed::new() else { return };
    for name in ["pod-2", "far", "client"] {
        bed.serve_tcp(name, 8080);
    }
    bed.serve_udp("board", 10_053);
    let peers = NetPeers { addresses: vec![FAR], blocks: vec![] };
    // A named port is another number in another pod: only this one has it.
    let port = NetPolicyPort { port: 8080, end: 8080, only: vec![FAR], ..NetPolicyPort::default() };
    let egress = NetPolicy {
        egress: Some(vec![NetRule { peers: Some(peers), ports: vec![port] }]),
        ..policy(&[POD_3])
    };
    bed.update(&with_policies(&[egress]));
    assert_eq!(bed.call("pod-3", (FAR, 8080)).expect("named"), "far 10.42.0.3");
    bed.call_within("pod-3", (POD_2, 8080), SILENCE).expect_err("not named");
    bed.call_within("pod-3", AT, SILENCE).expect_err("neither through a service");
    bed.call_within("pod-3", (CLIENT, 8080), SILENCE).expect_err("nor outside");
    assert_eq!(bed.call("pod-2", (FAR, 8080)).expect("another pod"), "far 10.42.0.2");
    let names = (Ipv4Addr::new(10, 43, 0, 10), 53);
    assert_eq!(ask(&client_of(&bed, "pod-3"), names).expect("names"), "board 10.42.0.3");
}
