//! What the kernel holds, and what others do to it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use logic::network::rules::plan;
use model::network::{NetPeers, NetPolicy, NetPolicyPort, NetRule, NetState};

use super::super::{Disturbance, Passage};
use super::bed::*;

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn chance(&mut self) -> bool {
        self.below(3) == 0
    }

    fn pods(&mut self) -> Vec<Ipv4Addr> {
        let count = self.below(4);
        let mut pods: Vec<_> = (0..count)
            .map(|_| Ipv4Addr::new(10, 42, u8::from(self.chance()), 2 + self.below(5) as u8))
            .collect();
        pods.sort();
        pods.dedup();
        pods
    }
}

fn random_state(random: &mut Random) -> NetState {
    let mut state = NetState::default();
    for number in 0..random.below(8) {
        let mut made = service(&format!("s{number}"), &random.pods());
        made.cluster_ip = Some(Ipv4Addr::new(10, 43, 1, number as u8));
        made.ports[0].node_port = 30_000 + number as u16;
        made.affinity_seconds = if random.chance() { 60 } else { 0 };
        made.internal_local = random.chance();
        made.external_local = random.chance();
        if random.chance() {
            made.load_balancer = vec![BOARD];
            made.source_ranges = vec![format!("192.0.{number}.0/24").parse().expect("a block")];
        }
        if random.chance() {
            made = udp(made);
        }
        state.services.insert(made.key().into(), Arc::new(made));
    }
    for number in 0..random.below(4) {
        let rule = |random: &mut Random| NetRule {
            peers: (!random.chance()).then(|| NetPeers {
                addresses: random.pods(),
                blocks: vec![(
                    "172.16.0.0/12".parse().expect("a block"),
                    vec![format!("172.{}.0.0/16", 16 + random.below(4)).parse().expect("a block")],
                )],
            }),
            ports: (0..random.below(3))
                .map(|_| NetPolicyPort {
                    port: 80 + random.below(2) as u16,
                    end: 90,
                    only: random.pods(),
                    ..NetPolicyPort::default()
                })
                .collect(),
        };
        let policy = NetPolicy {
            namespace: "default".into(),
            name: format!("p{number}"),
            pods: random.pods(),
            ingress: random.chance().then(|| vec![rule(random), rule(random)]),
            egress: random.chance().then(|| vec![rule(random)]),
            starting: Vec::new(),
        };
        state.policies.insert(policy.key().into(), Arc::new(policy));
    }
    state
}

/// What nft lists, without an order that has no meaning.
fn sorted(listed: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut elements: Option<String> = None;
    for line in listed.lines() {
        let trimmed = line.trim();
        let text = match elements.take() {
            Some(begun) => format!("{begun} {trimmed}"),
            None => trimmed.to_owned(),
        };
        if text.starts_with("elements = {") && !text.ends_with('}') {
            elements = Some(text);
            continue;
        }
        match text.strip_prefix("elements = {") {
            Some(list) => {
                let mut list: Vec<_> =
                    list.trim_end_matches('}').split(',').map(|e| e.trim().to_owned()).collect();
                list.sort();
                lines.push(format!("elements {list:?}"));
            }
            None => lines.push(text),
        }
    }
    // Chains and sets come in the order in which they were made: as blocks, sorted.
    let text = lines.join("\n");
    let mut blocks: Vec<String> = text.split("\n\n").map(str::to_owned).collect();
    blocks.iter_mut().for_each(|block| *block = block.trim().trim_end_matches('}').to_owned());
    let mut blocks: Vec<String> = blocks
        .iter()
        .flat_map(|block| block.split("}\n"))
        .map(|block| block.trim().trim_start_matches("table inet kumquat {").trim().to_owned())
        .filter(|block| !block.is_empty())
        .collect();
    blocks.sort();
    blocks
}

#[test]
fn changes_one_after_another_end_at_the_same_table_as_a_new_one() {
    let Some(mut bed) = Bed::new() else { return };
    let mut random = Random(0x5eed);
    for round in 0..60 {
        let state = random_state(&mut random);
        bed.update(&state);
        let rules = plan(&Arc::new(state.clone()), &Arc::default(), &site());
        assert_eq!(bed.planner.rules(), rules, "round {round}");
        if round % 6 != 0 {
            continue;
        }
        let Some(changed) = bed.listed() else { continue };
        bed.nft().replace(&rules).expect("replaced");
        let replaced = bed.listed().expect("listed before");
        assert_eq!(sorted(&changed), sorted(&replaced), "round {round}");
    }
    bed.update(&NetState::default());
    assert!(bed.nft().handle().expect("read").is_some());
    bed.nft().remove().expect("removed");
    assert_eq!(bed.nft().handle().expect("read"), None);
    bed.nft().remove().expect("removing twice is fine");
}

#[test]
fn a_refused_change_leaves_everything_as_it_was() {
    let Some(mut bed) = Bed::new() else { return };
    bed.update(&state(&[service("web", &[POD_2])]));
    let before = bed.listed();
    let changes = bed.planner.update(Arc::new(NetState::default()), Arc::default());
    bed.nft().change(&changes).expect("taken away");
    let refused = bed.nft().change(&changes).expect_err("it is gone already");
    let text = format!("{:?}", refused);
    assert!(text.contains("message 8 about kumquat pick-1"), "names the message: {text}");
    bed.nft()
        .replace(&plan(&Arc::new(state(&[service("web", &[POD_2])])), &Arc::default(), &site()))
        .expect("replaced");
    assert_eq!(bed.listed().map(|l| sorted(&l)), before.map(|l| sorted(&l)));
}

#[test]
fn what_others_do_is_told_and_what_the_board_does_is_not() {
    let Some(mut bed) = Bed::new() else { return };
    let board = bed.path("board");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("runtime");
    let mut monitor = bed.on("board", || {
        let _entered = runtime.enter();
        Ok(bed.nft().monitor().expect("a monitor"))
    });
    let mut next = |within: Duration| {
        runtime
            .block_on(async { tokio::time::timeout(within, monitor.changed()).await.ok() })
            .map(|told| told.expect("open"))
    };
    bed.update(&state(&[service("web", &[POD_2, POD_3])]));
    assert_eq!(next(SILENCE), None, "a change of the board's own");
    let handle = bed.nft().handle().expect("read").expect("there");
    let Some((_, true)) = run_in(&board, "nft", &["add", "table", "ip", "other"]) else { return };
    assert_eq!(next(SILENCE), None, "a table of others");
    run_in(&board, "nft", &["flush", "ruleset"]);
    let told = next(ANSWER_WITHIN).expect("told");
    assert_eq!(told, Disturbance { table: true, passage: false });
    assert_eq!(bed.nft().handle().expect("read"), None);
    bed.nft().replace(&bed.planner.rules()).expect("replaced");
    assert_ne!(bed.nft().handle().expect("read"), Some(handle));
    assert_eq!(next(SILENCE), None);
    run_in(&board, "nft", &["flush", "chain", "inet", "kumquat", "prerouting"]);
    assert!(next(ANSWER_WITHIN).expect("told").table);
    run_in(&board, "nft", &["add", "table", "ip", "filter"]);
    assert!(next(ANSWER_WITHIN).expect("told").passage);
}

#[test]
fn pods_pass_a_board_that_drops_what_passes() {
    let Some(mut bed) = Bed::new() else { return };
    let board = bed.path("board");
    for name in ["pod-2", "far"] {
        bed.serve_tcp(name, 8080);
    }
    bed.serve_udp("board", 10_053);
    bed.update(&state(&[service("web", &[POD_2])]));
    let passage = Passage::new(site().pod_range, Some(OWN));
    assert!(bed.nft().let_through(&passage).expect("nothing to do").is_empty());
    for chain in ["FORWARD", "INPUT"] {
        let Some((_, true)) = run_in(&board, "iptables", &["-P", chain, "DROP"]) else { return };
    }
    let at = (SERVICE, 80);
    let names = (Ipv4Addr::new(10, 43, 0, 10), 53);
    bed.call_within("pod-3", at, SILENCE).expect_err("dropped");
    let rules = |chain: &str| {
        let (listed, _) = run_in(&board, "iptables", &["-S", chain]).expect("installed");
        listed.lines().filter(|line| line.starts_with("-A")).count()
    };
    for _ in 0..2 {
        bed.nft().let_through(&passage).expect("let through");
        assert_eq!((rules("FORWARD"), rules("INPUT")), (2, 1), "once");
    }
    assert_eq!(bed.call("pod-3", at).expect("answer"), "pod-2 10.42.0.3");
    assert_eq!(bed.call("pod-3", (FAR, 8080)).expect("answer"), "far 10.42.0.3");
    let asked = bed.on("pod-3", || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.connect(names)?;
        socket.send(b"who?")?;
        socket.recv(&mut [0; 64])
    });
    assert!(asked > 0);
    let (listed, _) = run_in(&board, "nft", &["list", "table", "ip", "filter"]).expect("installed");
    assert!(listed.contains("comment \"kumquat: pods from 10.42.0.0/16\""), "{listed}");
    run_in(&board, "iptables", &["-P", "FORWARD", "ACCEPT"]);
    bed.nft().let_through(&passage).expect("taken back");
    assert_eq!((rules("FORWARD"), rules("INPUT")), (0, 1));
    bed.nft().remove().expect("removed");
    assert_eq!((rules("FORWARD"), rules("INPUT")), (0, 0));
    run_in(
        &board,
        "nft",
        &[
            "add table inet own; add chain inet own passing { type filter hook forward priority 0; policy drop; }",
        ],
    );
    assert_eq!(bed.nft().let_through(&passage).expect("read"), ["inet own passing"]);
}

#[test]
fn ten_thousand_services_go_into_one_change() {
    let Some(bed) = Bed::new() else { return };
    let mut large = NetState::default();
    for number in 0..10_000_u32 {
        let mut made = service(&format!("s{number}"), &[POD_2, POD_3, FAR]);
        made.cluster_ip = Some(Ipv4Addr::from_bits(SERVICE.to_bits() + 10 + number));
        made.ports[0].node_port = 0;
        large.services.insert(made.key().into(), Arc::new(made));
    }
    let rules = plan(&Arc::new(large), &Arc::default(), &site());
    bed.nft().replace(&rules).expect("replaced");
    let Some(listed) = bed.listed() else { return };
    assert!(listed.contains("10.43.39.32 . tcp . 80"), "the last is there");
}
