//! What a board plans, as text; and that updates one after another end where a fresh plan does.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use model::ids::Uid;
use model::network::{
    NetBoard, NetEndpoint, NetPeers, NetPolicy, NetPolicyPort, NetPort, NetRule, NetService,
    NetState, Protocol,
};

use super::super::local::{LocalPod, LocalPods};
use super::*;

fn site() -> Site {
    let block = |text: &str| text.parse().expect("a block");
    Site {
        block: Some(block("10.42.0.0/29")),
        dns: Some((Ipv4Addr::new(10, 43, 0, 10), 1053)),
        own_ports: vec![(Protocol::Tcp, 6443)],
        ..Site::new("here", block("10.42.0.0/16"), block("10.43.0.0/16"))
    }
}

fn endpoint(last: u8, board: &str) -> NetEndpoint {
    NetEndpoint {
        address: Ipv4Addr::new(10, 42, u8::from(board != "here"), last),
        board: board.to_owned(),
        ready: true,
        serving: true,
        ports: vec![8080, 8443],
        ..NetEndpoint::default()
    }
}

fn service(name: &str, endpoints: Vec<NetEndpoint>) -> NetService {
    NetService {
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        cluster_ip: Some(Ipv4Addr::new(10, 43, 0, 7)),
        ports: vec![NetPort { port: 80, ..NetPort::default() }],
        endpoints,
        ..NetService::default()
    }
}

fn state(services: Vec<NetService>) -> NetState {
    let services = services.into_iter().map(|s| (s.key().into(), Arc::new(s))).collect();
    NetState { services, ..NetState::default() }
}

/// Boards by name and the last part of their address.
fn boards(all: &[(&str, u8)]) -> BTreeMap<Arc<str>, Arc<NetBoard>> {
    let board = |(name, last): &(&str, u8)| {
        let address = Some(Ipv4Addr::new(192, 0, 2, *last));
        let board = NetBoard { name: (*name).to_owned(), address, ..NetBoard::default() };
        (Arc::from(*name), Arc::new(board))
    };
    all.iter().map(board).collect()
}

/// The services' part of a plan, without the name service.
fn services_of(state: NetState) -> Vec<String> {
    let rules = plan(&Arc::new(state), &Arc::default(), &Site { dns: None, ..site() });
    let shown = rules.services.iter();
    shown.map(|(frontend, backends)| format!("{frontend}: {backends}")).collect()
}

#[test]
fn endpoints_that_are_ready_come_before_those_that_end() {
    let check = |endpoints: Vec<NetEndpoint>, expected: &str| {
        assert_eq!(services_of(state(vec![service("web", endpoints)])), [expected]);
    };
    let ready = endpoint(2, "here");
    let ending = NetEndpoint { ready: false, terminating: true, ..endpoint(3, "here") };
    let starting = NetEndpoint { ready: false, serving: false, ..endpoint(4, "here") };
    check(
        vec![ready.clone(), ending.clone(), starting.clone()],
        "10.43.0.7:80/TCP: pick-1 [10.42.0.2:8080]",
    );
    check(vec![ending, starting.clone()], "10.43.0.7:80/TCP: pick-1 [10.42.0.3:8080]");
    check(vec![starting.clone()], "10.43.0.7:80/TCP: ");
    check(vec![ready.clone(), ready], "10.43.0.7:80/TCP: pick-1 [10.42.0.2:8080]");
    let mut anyway = service("web", vec![starting]);
    anyway.publish_not_ready = true;
    assert_eq!(services_of(state(vec![anyway])), ["10.43.0.7:80/TCP: pick-1 [10.42.0.4:8080]"]);
}

#[test]
fn every_port_is_found_at_every_address() {
    let mut all = service("web", vec![endpoint(2, "here"), endpoint(2, "there")]);
    all.ports.push(NetPort {
        port: 443,
        node_port: 30_443,
        protocol: Protocol::Udp,
        ..NetPort::default()
    });
    // The second endpoint does not have the first port.
    all.endpoints[1].ports[0] = 0;
    all.external_ips = vec![Ipv4Addr::new(203, 0, 113, 5)];
    all.load_balancer = vec![Ipv4Addr::new(192, 0, 2, 1)];
    all.source_ranges = vec!["198.51.100.0/24".parse().expect("a block")];
    all.external_local = true;
    all.affinity_seconds = 60;
    let two = "pick-2-sticky-60 [10.42.0.2:8443 10.42.1.2:8443]";
    let local = "pick-1-local-sticky-60 [10.42.0.2:8443]";
    let first = "pick-1-sticky-60 [10.42.0.2:8080] pick-1-local-sticky-60 [10.42.0.2:8080]";
    assert_eq!(
        services_of(state(vec![all])),
        [
            "0.0.0.0:30443/UDP: pick-2-any-sticky-60 [10.42.0.2:8443 10.42.1.2:8443] \
             pick-1-local-any-sticky-60 [10.42.0.2:8443]"
                .to_owned(),
            "10.43.0.7:80/TCP: pick-1-sticky-60 [10.42.0.2:8080]".to_owned(),
            format!("10.43.0.7:443/UDP: {two}"),
            format!("192.0.2.1:80/TCP: (guard-ns/web) {first}"),
            format!("192.0.2.1:443/UDP: (guard-ns/web) {two} {local}"),
            format!("203.0.113.5:80/TCP: {first}"),
            format!("203.0.113.5:443/UDP: {two} {local}"),
        ]
    );
}

#[test]
fn no_load_balancer_takes_a_boards_own_ports() {
    let mut greedy = service("greedy", vec![endpoint(2, "here")]);
    greedy.ports[0].port = 6443;
    greedy.load_balancer = vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 99)];
    let mut state = state(vec![greedy]);
    let board = NetBoard { address: Some(Ipv4Addr::new(192, 0, 2, 1)), ..NetBoard::default() };
    state.boards.insert("here".into(), Arc::new(board));
    let found = services_of(state);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(!found.iter().any(|line| line.starts_with("192.0.2.1:")), "{found:?}");
}

#[test]
fn who_comes_first_keeps_an_address_that_two_want() {
    let mut planner = Planner::new(site());
    let shared =
        Frontend { address: Ipv4Addr::new(10, 43, 0, 7), protocol: Protocol::Tcp, port: 80 };
    let first = |planner: &Planner| planner.backends(&shared).map(|b| b.endpoints[0].0);
    let (one, two) =
        (service("a", vec![endpoint(2, "here")]), service("b", vec![endpoint(3, "here")]));
    planner.update(Arc::new(state(vec![two.clone()])), Arc::default());
    assert_eq!(first(&planner), Some(Ipv4Addr::new(10, 42, 0, 3)));
    planner.update(Arc::new(state(vec![two.clone(), one.clone()])), Arc::default());
    assert_eq!(first(&planner), Some(Ipv4Addr::new(10, 42, 0, 2)));
    let changes = planner.update(Arc::new(state(vec![two])), Arc::default());
    assert_eq!(changes.services.len(), 1);
    assert_eq!(first(&planner), Some(Ipv4Addr::new(10, 42, 0, 3)));
    planner.update(Arc::default(), Arc::default());
    assert_eq!(first(&planner), None);
}

/// Where a plan leads at a place, and what it refuses.
fn led(
    services: Vec<NetService>,
    host_ports: &[super::super::local::HostPort],
    own_ports: Vec<(Protocol, u16)>,
) -> (Vec<String>, Vec<String>) {
    let mut planner = Planner::new(Site { dns: None, own_ports, ..site() });
    let mut state = state(services);
    let board = NetBoard { address: Some(Ipv4Addr::new(192, 0, 2, 1)), ..NetBoard::default() };
    state.boards.insert("here".into(), Arc::new(board));
    let pod = LocalPod {
        uid: Uid::from_random([1; 16]),
        host_ports: host_ports.to_vec(),
        veth: "kq1".to_owned(),
    };
    let local = LocalPods { pods: [(Ipv4Addr::new(10, 42, 0, 3), pod)].into() };
    let changes = planner.update(Arc::new(state), Arc::new(local));
    let rules = planner.rules();
    let shown = rules.services.iter();
    let refused = changes.refused.iter();
    (
        shown.map(|(frontend, backends)| format!("{frontend}: {backends}")).collect(),
        refused.map(|(who, frontend)| format!("{who} {frontend}")).collect(),
    )
}

#[test]
fn no_external_address_takes_over_what_the_cluster_gives() {
    let mut api = service("kubernetes", vec![endpoint(2, "there")]);
    api.namespace = "default".to_owned();
    api.cluster_ip = Some(Ipv4Addr::new(10, 43, 0, 1));
    api.load_balancer = vec![Ipv4Addr::new(198, 51, 100, 1)];
    let mut thief = service("x", vec![endpoint(3, "here")]);
    thief.namespace = "aaa".to_owned();
    thief.external_ips = vec![
        Ipv4Addr::new(10, 43, 0, 1),
        Ipv4Addr::new(10, 42, 1, 2),
        Ipv4Addr::new(198, 51, 100, 1),
        Ipv4Addr::new(198, 51, 100, 2),
    ];
    let (found, refused) = led(vec![api, thief], &[], Vec::new());
    assert_eq!(
        found,
        [
            "10.43.0.1:80/TCP: pick-1 [10.42.1.2:8080]",
            "10.43.0.7:80/TCP: pick-1 [10.42.0.3:8080]",
            "198.51.100.1:80/TCP: pick-1 [10.42.1.2:8080]",
            "198.51.100.2:80/TCP: pick-1 [10.42.0.3:8080]",
        ]
    );
    let expected = ["service aaa/x 10.42.1.2:80/TCP", "service aaa/x 10.43.0.1:80/TCP"];
    assert_eq!(refused, expected);
}

#[test]
fn a_cluster_address_goes_before_others_of_the_same_number() {
    // Outside of the range, where nothing else refuses it.
    let mut first = service("a", vec![endpoint(2, "here")]);
    first.cluster_ip = Some(Ipv4Addr::new(10, 43, 0, 8));
    first.external_ips = vec![Ipv4Addr::new(10, 44, 0, 1)];
    let mut second = service("b", vec![endpoint(3, "here")]);
    second.cluster_ip = Some(Ipv4Addr::new(10, 44, 0, 1));
    let (found, _) = led(vec![first, second], &[], Vec::new());
    assert!(found.contains(&"10.44.0.1:80/TCP: pick-1 [10.42.0.3:8080]".to_owned()), "{found:?}");
}

#[test]
fn nobody_takes_a_boards_own_ports() {
    let own = vec![(Protocol::Tcp, 8883), (Protocol::Udp, 8472)];
    let board = Some(Ipv4Addr::new(192, 0, 2, 1));
    let host_ports = [
        (Protocol::Tcp, 8883, 80, None),
        (Protocol::Tcp, 8883, 80, board),
        (Protocol::Udp, 8472, 80, None),
        (Protocol::Tcp, 443, 80, Some(Ipv4Addr::new(10, 43, 0, 1))),
        // The same number of the other protocol is nobody's.
        (Protocol::Tcp, 8472, 80, None),
    ];
    let mut external = service("x", vec![endpoint(2, "here")]);
    external.ports[0] =
        NetPort { port: 8472, protocol: Protocol::Udp, node_port: 8472, ..NetPort::default() };
    external.external_ips.extend(board);
    let (found, refused) = led(vec![external], &host_ports, own);
    assert_eq!(
        found,
        [
            "0.0.0.0:8472/TCP: pick-1-any [10.42.0.3:80]",
            "10.43.0.7:8472/UDP: pick-1 [10.42.0.2:8080]",
        ]
    );
    assert_eq!(
        refused,
        [
            "service ns/x 0.0.0.0:8472/UDP",
            "service ns/x 192.0.2.1:8472/UDP",
            "the pod at 10.42.0.3 0.0.0.0:8883/TCP",
            "the pod at 10.42.0.3 0.0.0.0:8472/UDP",
            "the pod at 10.42.0.3 10.43.0.1:443/TCP",
            "the pod at 10.42.0.3 192.0.2.1:8883/TCP",
        ]
    );
}

#[test]
fn sets_of_policies_that_sound_alike_are_not_the_same() {
    let rule = |address: u8, named: bool| NetRule {
        peers: Some(NetPeers {
            addresses: vec![Ipv4Addr::new(10, 42, 7, address)],
            ..NetPeers::default()
        }),
        ports: vec![NetPolicyPort {
            port: 80,
            end: 80,
            only: if named { vec![Ipv4Addr::new(10, 42, 8, address)] } else { Vec::new() },
            ..NetPolicyPort::default()
        }],
    };
    let policy = |name: &str, rules: Vec<NetRule>| NetPolicy {
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        pods: vec![Ipv4Addr::new(10, 42, 0, 2)],
        ingress: None,
        egress: Some(rules),
        ..NetPolicy::default()
    };
    let policies = [
        policy("a", vec![rule(1, true), rule(2, true)]),
        policy("a-1-port", vec![rule(3, false)]),
        policy("a-1", vec![rule(4, true)]),
    ];
    let mut state = NetState::default();
    for policy in policies {
        state.policies.insert(policy.key().into(), Arc::new(policy));
    }
    let rules = plan(&Arc::new(state), &Arc::default(), &site());
    let of_policies = rules.program.sets.iter().filter(|(name, _)| name.contains('/'));
    let held: Vec<_> = of_policies.map(|(_, set)| set.elements.clone()).collect();
    assert_eq!(held.len(), 7, "{:?}", rules.program.sets.keys());
    let different: std::collections::BTreeSet<_> =
        held.iter().map(|set| format!("{set:?}")).collect();
    assert_eq!(different.len(), 7);
}

#[test]
fn a_changed_endpoint_changes_nothing_else() {
    let mut planner = Planner::new(site());
    let many = |last| {
        let services = (0..50).map(|number| {
            let mut made = service(&format!("s{number}"), vec![endpoint(2, "here")]);
            made.cluster_ip = Some(Ipv4Addr::new(10, 43, 1, number));
            made
        });
        let mut services: Vec<_> = services.collect();
        services[7].endpoints = vec![endpoint(last, "here")];
        state(services)
    };
    planner.update(Arc::new(many(2)), Arc::default());
    assert!(planner.update(Arc::new(many(2)), Arc::default()).is_empty());
    let changes = planner.update(Arc::new(many(3)), Arc::default());
    assert_eq!(changes.services.len(), 1);
    assert!(changes.program.is_none());
    assert_eq!(planner.rules(), plan(&Arc::new(many(3)), &Arc::default(), &site()));
}

#[test]
fn the_tunnel_is_open_to_boards_where_they_are() {
    let mut planner = Planner::new(site());
    let known = |planner: &Planner| -> Vec<u8> {
        let elements = planner.rules().program.sets[names::BOARDS].elements.clone();
        elements
            .into_keys()
            .map(|key| match key {
                Key::Address(address) => address.octets()[3],
                Key::Range(..) => panic!("no range"),
            })
            .collect()
    };
    assert!(known(&planner).is_empty());
    let mut check = |all: &[(&str, u8)], expected: &[u8]| {
        let before = known(&planner);
        let state = Arc::new(NetState { boards: boards(all), ..NetState::default() });
        let changes = planner.update(Arc::clone(&state), Arc::default());
        assert_eq!(known(&planner), expected);
        assert_eq!(changes.program.is_some(), before != expected);
        assert_eq!(planner.rules(), plan(&state, &Arc::default(), &site()));
    };
    check(&[("here", 1), ("there", 2)], &[1, 2]);
    check(&[("here", 1), ("there", 2), ("far", 3)], &[1, 2, 3]);
    // Two that change places, then all at once, then one that is thrown out.
    check(&[("here", 2), ("there", 1), ("far", 3)], &[1, 2, 3]);
    check(&[("here", 11), ("there", 12), ("far", 13)], &[11, 12, 13]);
    check(&[("here", 11), ("far", 13)], &[11, 13]);
}

#[test]
fn a_pod_is_isolated_before_the_cluster_knows_its_address() {
    let (own, other) = (Uid::from_random([1; 16]), Uid::from_random([2; 16]));
    let closed = |starting: Vec<Uid>, pods: Vec<Ipv4Addr>| {
        let policy = NetPolicy {
            namespace: "ns".to_owned(),
            name: "closed".to_owned(),
            ingress: Some(Vec::new()),
            starting,
            pods,
            ..NetPolicy::default()
        };
        let mut state = state(Vec::new());
        state.policies.insert(policy.key().into(), Arc::new(policy));
        Arc::new(state)
    };
    let address = Ipv4Addr::new(10, 42, 0, 2);
    let local = |uid| {
        let pod = LocalPod { uid, host_ports: Vec::new(), veth: "kq1".to_owned() };
        Arc::new(LocalPods { pods: [(address, pod)].into() })
    };
    let mut planner = Planner::new(site());
    let chain = format!("{}-{address}", names::INGRESS);
    let is_isolated =
        |planner: &Planner| planner.rules().program.chains.contains_key(chain.as_str());
    planner.update(closed(vec![own], Vec::new()), Arc::default());
    assert!(!is_isolated(&planner));
    planner.update(closed(vec![own], Vec::new()), local(other));
    assert!(!is_isolated(&planner));
    let changes = planner.update(closed(vec![own], Vec::new()), local(own));
    assert!(is_isolated(&planner) && changes.program.is_some(), "as soon as it has an address");
    let changes = planner.update(closed(Vec::new(), vec![address]), local(own));
    assert!(is_isolated(&planner) && changes.is_empty(), "the cluster knows it by its address");
    planner.update(closed(vec![own], Vec::new()), Arc::default());
    assert!(!is_isolated(&planner));
}

#[test]
fn the_whole_plan_of_a_small_board() {
    let mut web = service("web", vec![endpoint(2, "here"), endpoint(2, "there")]);
    web.affinity_seconds = 10_800;
    let peers = NetPeers {
        addresses: vec![Ipv4Addr::new(10, 42, 0, 3)],
        blocks: vec![(
            "0.0.0.0/0".parse().expect("a block"),
            vec!["10.0.0.0/8".parse().expect("a block")],
        )],
    };
    let ports = vec![
        NetPolicyPort { port: 8080, end: 8080, ..NetPolicyPort::default() },
        NetPolicyPort {
            protocol: Protocol::Udp,
            port: 1000,
            end: 2000,
            only: vec![Ipv4Addr::new(10, 42, 9, 9)],
        },
    ];
    let policy = NetPolicy {
        namespace: "ns".to_owned(),
        name: "only".to_owned(),
        // The second pod is another board's.
        pods: vec![Ipv4Addr::new(10, 42, 0, 2), Ipv4Addr::new(10, 42, 1, 2)],
        ingress: Some(vec![NetRule { peers: Some(peers), ports: ports.clone() }]),
        egress: Some(vec![NetRule { peers: None, ports }]),
        starting: Vec::new(),
    };
    let mut state = state(vec![web]);
    state.policies.insert(policy.key().into(), Arc::new(policy));
    state.boards = boards(&[("here", 1), ("there", 2)]);
    let pod = LocalPod {
        uid: Uid::from_random([1; 16]),
        host_ports: vec![(Protocol::Tcp, 8081, 80, None)],
        veth: "kq1".to_owned(),
    };
    let local = LocalPods { pods: [(Ipv4Addr::new(10, 42, 0, 2), pod)].into() };
    let planned = plan(&Arc::new(state), &Arc::new(local), &site()).to_string();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/network/rules/tests/board.txt");
    if std::env::var_os("KUMQUAT_UPDATE").is_some() {
        std::fs::write(path, &planned).expect("written");
    }
    assert_eq!(planned, include_str!("tests/board.txt"), "KUMQUAT_UPDATE=1 writes it anew");
}
