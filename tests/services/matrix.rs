//! Who reaches whom: pods, Services of every kind, hosts and strangers, on three boards and one on another
//! subnet, quiet ones and such whose other programs have packet rules of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use kumquat::io::net;
use serde_json::json;

use crate::bed::{self, Bed, POLICIES, PORT, until};
use crate::board::{Board, possible};
use crate::busybox;
use crate::frames;
use crate::inside::{self, Inside};
use crate::router::{Far, know_the_way, switch_knows_the_way};

/// Calls that show how a Service spreads them.
const MANY: usize = 100;
/// Port of a board that leads to a pod.
const HOST_PORT: u16 = 8_085;
/// Where the stranger listens.
const OUTSIDE_PORT: u16 = 8_086;
/// Of bytes that no packet holds.
const LONG: usize = 300_000;
/// A frame that comes at all is there long before.
const SOON: Duration = Duration::from_millis(400);

/// Results by cell: what it is, and what was wrong with it.
#[derive(Default)]
struct Cells {
    good: usize,
    bad: Vec<String>,
}

impl Cells {
    fn check(&mut self, cell: &str, good: bool, seen: &dyn std::fmt::Debug) {
        match good {
            true => self.good += 1,
            false => self.bad.push(format!("{cell}: {seen:?}")),
        }
    }

    /// The answer is one of these.
    fn among(&mut self, cell: &str, answer: &io::Result<String>, expected: &[&str]) {
        let good = answer.as_ref().is_ok_and(|answer| expected.contains(&answer.as_str()));
        self.check(cell, good, answer);
    }

    /// The other side, or the board, said no at once.
    fn refused(&mut self, cell: &str, answer: &io::Result<String>) {
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        self.check(cell, answer.as_ref().is_err_and(refused), answer);
    }

    fn fails(&mut self, cell: &str, answer: &io::Result<String>) {
        self.check(cell, answer.is_err(), answer);
    }

    fn all_good(self, when: &str) {
        println!("{when}: {} cells good, {} bad", self.good, self.bad.len());
        assert!(self.bad.is_empty(), "{when}:\n{}", self.bad.join("\n"));
    }
}

/// Servers on every board, a client on every board, and a Service of every kind.
struct World {
    bed: Bed,
    servers: Vec<(String, Ipv4Addr, Inside)>,
    clients: Vec<Inside>,
    stranger: Inside,
    /// The stranger's address.
    outside: Ipv4Addr,
    /// The last board hangs on it.
    _far: Far,
    services: BTreeMap<&'static str, (Option<Ipv4Addr>, u16)>,
}

impl World {
    fn new() -> Self {
        let mut bed = Bed::new("matrix", 3);
        let outside = bed.cluster.switch.listen();
        let far = Far::behind(&bed.cluster.switch);
        know_the_way(&bed.cluster);
        switch_knows_the_way(&bed.cluster.switch);
        bed.cluster.boards.push(far.board(&bed.cluster.switch, 4));
        let token = bed.master().token();
        bed.cluster.boards[3].start(&["--token", &token, "--peers", "198.19.0.1"]);
        bed.cluster.wait_ready(3, bed::WITHIN);
        let count = bed.cluster.boards.len();
        for index in 0..count {
            let own = format!("s{index}");
            let labels = json!({"app": "web", "own": own});
            bed.pod(&own, index, &labels, &bed::server(busybox::IMAGE));
            bed.pod(&format!("c{index}"), index, &json!({"app": "client"}), &bed::idle());
        }
        let mut port = bed::server(busybox::IMAGE);
        port["ports"][0]["hostPort"] = json!(HOST_PORT);
        bed.pod("port", 1, &json!({"app": "port"}), &port);
        let server = |index: usize| {
            let name = format!("s{index}");
            let (address, inside) = bed.ready(&name);
            inside.answer(PORT).expect("a UDP port of the pod");
            (name, address, inside)
        };
        let servers = (0..count).map(server).collect();
        let clients = (0..count).map(|index| bed.ready(&format!("c{index}")).1).collect();
        let web = json!({"app": "web"});
        let tcp = json!({"name": "tcp", "port": 80, "targetPort": "web"});
        let udp = json!({"name": "udp", "port": 81, "targetPort": PORT, "protocol": "UDP"});
        let specs = [
            ("web", json!({"selector": web, "ports": [tcp, udp]})),
            ("node", json!({"selector": web, "ports": [tcp], "type": "NodePort"})),
            (
                "outer",
                json!({"selector": {"own": "s1"}, "ports": [tcp], "type": "NodePort",
                       "externalTrafficPolicy": "Local"}),
            ),
            ("heads", json!({"selector": web, "ports": [tcp], "clusterIP": "None"})),
            ("sticky", json!({"selector": web, "ports": [tcp], "sessionAffinity": "ClientIP"})),
            ("lonely", json!({"selector": {"own": "s0"}, "ports": [tcp]})),
            ("nobody", json!({"selector": {"own": "nobody"}, "ports": [tcp]})),
            (
                "inner",
                json!({"selector": {"own": "s1"}, "ports": [tcp],
                             "internalTrafficPolicy": "Local"}),
            ),
            (
                "alias",
                json!({"type": "ExternalName",
                             "externalName": "web.default.svc.cluster.local"}),
            ),
        ];
        let services =
            specs.into_iter().map(|(name, spec)| (name, bed.service(name, &spec))).collect();
        bed.ready("port");
        let stranger = Inside::namespace("a stranger", bed.cluster.switch.namespace());
        stranger.tell_callers(OUTSIDE_PORT).expect("a server outside");
        let world = Self { bed, servers, clients, stranger, outside, _far: far, services };
        world.settle();
        world
    }

    /// Until every board knows the newest Service.
    fn settle(&self) {
        for client in &self.clients {
            until(
                "Services are known",
                || client.look_up("alias").and_then(|found| client.read(found[0], 80)),
                Result::is_ok,
            );
        }
    }

    fn names(&self) -> Vec<&str> {
        self.servers.iter().map(|(name, ..)| name.as_str()).collect()
    }

    fn address(&self, service: &str) -> Ipv4Addr {
        self.services[service].0.expect("a Service with an address")
    }

    fn node_port(&self, service: &str) -> u16 {
        self.services[service].1
    }

    fn boards(&self) -> &[Board] {
        &self.bed.cluster.boards
    }

    fn all(&self, when: &str) {
        let mut cells = Cells::default();
        self.pods(&mut cells);
        self.service_addresses(&mut cells);
        self.node_ports(&mut cells);
        self.outside(&mut cells);
        self.tunnel(&mut cells);
        self.names_of_services(&mut cells);
        self.spread(&mut cells, when);
        cells.all_good(when);
    }

    fn pods(&self, cells: &mut Cells) {
        for client in &self.clients {
            for (name, address, _) in &self.servers {
                let cell = format!("{} to {name}", client.name);
                cells.among(&cell, &client.read(*address, PORT), &[name]);
                cells.among(&format!("{cell}, UDP"), &client.ask(*address, PORT), &[name]);
            }
        }
        for board in self.boards() {
            let host = Inside::host(board);
            for (name, address, _) in &self.servers {
                let cell = format!("{} to {name}", host.name);
                cells.among(&cell, &host.read(*address, PORT), &[name]);
            }
        }
    }

    fn service_addresses(&self, cells: &mut Cells) {
        let (web, names) = (self.address("web"), self.names());
        for client in &self.clients {
            let cell = |service: &str| format!("{} to Service {service}", client.name);
            cells.among(&cell("web"), &client.read(web, 80), &names);
            cells.among(&cell("web, UDP"), &client.ask(web, 81), &names);
            cells.refused(&cell("nobody"), &client.read(self.address("nobody"), 80));
            cells.refused(&cell("web, a port that it lacks"), &client.read(web, 82));
            let lonely = client.read(self.address("lonely"), 80);
            cells.among(&cell("lonely"), &lonely, &names[..1]);
        }
        for board in self.boards() {
            let host = Inside::host(board);
            let cell = |service: &str| format!("{} to Service {service}", host.name);
            cells.among(&cell("web"), &host.read(web, 80), &names);
            cells.among(&cell("web, UDP"), &host.ask(web, 81), &names);
            cells.refused(&cell("nobody"), &host.read(self.address("nobody"), 80));
        }
        let itself = &self.servers[0].2;
        let hairpin = itself.read(self.address("lonely"), 80);
        cells.among("a pod to itself by its Service", &hairpin, &names[..1]);
        let hairpin = itself.ask(self.servers[0].1, PORT);
        cells.among("a pod to itself", &hairpin, &names[..1]);
        // Only the client beside the only endpoint has one.
        let inner = self.address("inner");
        cells.among("internal policy Local, beside it", &self.clients[1].read(inner, 80), &["s1"]);
        cells.fails("internal policy Local, elsewhere", &self.clients[0].read(inner, 80));
    }

    fn node_ports(&self, cells: &mut Cells) {
        let (names, node) = (self.names(), self.node_port("node"));
        for (index, board) in self.boards().iter().enumerate() {
            for client in self.clients.iter().chain([&self.stranger]) {
                let cell = format!("{} to the node port on {}", client.name, board.node());
                cells.among(&cell, &client.read(board.address(), node), &names);
            }
            let host = Inside::host(board);
            let cell = format!("{} to its own node port", host.name);
            cells.among(&cell, &host.read(board.address(), node), &names);
            let local = self.stranger.read(board.address(), self.node_port("outer"));
            let cell = format!("external policy Local on {}", board.node());
            match index {
                1 => cells.among(&cell, &local, &["s1"]),
                _ => cells.fails(&cell, &local),
            }
        }
    }

    /// Pods reach what is no pod, as their board; whoever is outside reaches a port of a board; and what
    /// does not fit into one packet arrives, through the tunnel too.
    fn outside(&self, cells: &mut Cells) {
        for (client, board) in self.clients.iter().zip(self.boards()) {
            let cell = format!("{} to a stranger, seen as its board", client.name);
            let expected = board.address().to_string();
            cells.among(&cell, &client.read(self.outside, OUTSIDE_PORT), &[&expected]);
        }
        let address = self.boards()[1].address();
        for client in self.clients.iter().chain([&self.stranger]) {
            let cell = format!("{} to a port of a board", client.name);
            cells.among(&cell, &client.read(address, HOST_PORT), &["port"]);
        }
        for client in &self.clients {
            for (name, address, server) in &self.servers {
                let sent = client.send(server, *address, LONG);
                let good = sent.as_ref().is_ok_and(|bytes| *bytes == LONG);
                cells.check(&format!("{} to {name}, {LONG} bytes", client.name), good, &sent);
            }
        }
    }

    /// What comes out of the tunnel looks like a pod's: boards alone are taken for its other end.
    fn tunnel(&self, cells: &mut Cells) {
        let last = self.boards().len() - 1;
        for (index, board) in self.boards().iter().enumerate() {
            let (_, address, server) = &self.servers[index];
            // On the other side of the router.
            let other = if index == last { 0 } else { last };
            let source = self.servers[other].1;
            let host = Inside::host(&self.boards()[other]);
            let senders = [
                (&self.stranger, SOON, false),
                (&self.clients[index], SOON, false),
                (&self.clients[other], SOON, false),
                (&host, inside::WITHIN, true),
            ];
            for (sender, within, expected) in senders {
                let got = frames::gets_in(sender, board, source, (*address, server), within);
                let cell = format!("a frame of {} to {}", sender.name, board.node());
                cells.check(&cell, got.as_ref().is_ok_and(|got| *got == expected), &got);
            }
        }
    }

    fn names_of_services(&self, cells: &mut Cells) {
        let addresses: BTreeSet<Ipv4Addr> =
            self.servers.iter().map(|(_, address, _)| *address).collect();
        for client in &self.clients {
            let cell = |what: &str| format!("{}: {what}", client.name);
            for name in ["web", "web.default", "web.default.svc.cluster.local", "alias"] {
                let found = client.look_up(name);
                let good = found.as_ref().is_ok_and(|found| found == &[self.address("web")]);
                cells.check(&cell(name), good, &found);
            }
            let found = client.look_up("heads").map(|found| found.into_iter().collect());
            let good = found.as_ref().is_ok_and(|found: &BTreeSet<_>| *found == addresses);
            cells.check(&cell("headless"), good, &found);
            let srv = client.records("_tcp._tcp.web.default.svc.cluster.local", inside::SRV);
            let expected = "80 web.default.svc.cluster.local";
            let good = srv.as_ref().is_ok_and(|srv| {
                srv.records.iter().any(|(kind, text)| *kind == inside::SRV && text == expected)
            });
            cells.check(&cell("SRV"), good, &srv);
            let [a, b, c, d] = self.address("web").octets();
            let ptr = client.records(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), inside::PTR);
            let expected = "web.default.svc.cluster.local";
            let good = ptr.as_ref().is_ok_and(|ptr| {
                ptr.records.iter().any(|(kind, text)| *kind == inside::PTR && text == expected)
            });
            cells.check(&cell("PTR"), good, &ptr);
            let none = client.records("no-such.default.svc.cluster.local", inside::A);
            let good = none.as_ref().is_ok_and(|none| none.code == 3 && none.records.is_empty());
            cells.check(&cell("a name that there is not"), good, &none);
        }
    }

    fn spread(&self, cells: &mut Cells, when: &str) {
        for (index, client) in self.clients.iter().enumerate() {
            let count = |service: &str| {
                let mut counts = BTreeMap::<String, usize>::new();
                for _ in 0..MANY {
                    let answer = client.read(self.address(service), 80);
                    *counts.entry(answer.unwrap_or_else(|error| error.to_string())).or_default() +=
                        1;
                }
                counts
            };
            let (web, sticky) = (count("web"), count("sticky"));
            println!("{when}: from c{index}, web {web:?}, sticky {sticky:?}");
            let names: Vec<&str> = web.keys().map(String::as_str).collect();
            // Each gets a quarter; fewer than 5 of 100 happens to one run in a million.
            let good = names == self.names() && web.values().all(|count| *count >= 5);
            cells.check(&format!("c{index}: spread"), good, &web);
            let good =
                sticky.len() == 1 && sticky.keys().all(|name| names.contains(&name.as_str()));
            cells.check(&format!("c{index}: affinity"), good, &sticky);
        }
    }

    /// Runs Debian's `nft` on a board, as another program of its owner would.
    fn nft(&self, board: &Board, rules: &[&str]) {
        for rule in rules {
            let run = || Command::new("nft").arg(rule).output();
            let output = net::inside(board.namespace(), run).expect("nft starts");
            assert!(output.status.success(), "nft {rule}: {}", crate::board::text(&output));
        }
    }

    /// As Docker and ufw leave a host: what is to be forwarded is dropped unless somebody allows it.
    fn drop_what_is_forwarded(&self) {
        for board in self.boards() {
            self.nft(board, &[
                "add table ip filter",
                "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
            ]);
        }
    }
}

#[test]
fn everybody_reaches_whom_they_should() {
    if !possible("matrix") || !busybox::present("matrix") {
        return;
    }
    let world = World::new();
    world.all("quiet hosts");

    world.drop_what_is_forwarded();
    let client = &world.clients[0];
    let web = world.address("web");
    let healed = until(
        "FORWARD DROP is lived with",
        || client.read(world.servers[1].1, PORT),
        Result::is_ok,
    );
    println!("FORWARD policy DROP: pods reach each other again after {healed:.2?}");
    world.all("FORWARD policy DROP");

    let began = Instant::now();
    for board in world.boards() {
        world.nft(board, &["flush ruleset"]);
    }
    for client in &world.clients {
        until("rules come back", || client.read(web, 80), Result::is_ok);
    }
    println!(
        "flushed by somebody else: every pod reaches the Service after {:.2?}",
        began.elapsed()
    );
    world.drop_what_is_forwarded();
    until("FORWARD DROP is lived with", || client.read(world.servers[1].1, PORT), Result::is_ok);
    world.all("after a foreign flush, FORWARD policy DROP");

    policies(&world);
}

/// Default deny, then what a policy allows, of what comes in and of what goes out.
fn policies(world: &World) {
    let (clients, server) = (&world.clients, world.servers[1].1);
    let master = world.bed.master();
    let policy = |name: &str, spec: serde_json::Value| {
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                            "metadata": {"name": name}, "spec": spec});
        master.create(POLICIES, &object);
    };
    let mut cells = Cells::default();
    policy(
        "deny",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}),
    );
    let denied = until("denied", || clients[0].read(server, PORT), Result::is_err);
    println!("a policy is enforced after {denied:.2?} (at most 3 s of it is the last call's wait)");
    for client in clients {
        cells.fails(&format!("{} denied", client.name), &client.read(server, PORT));
        let service = client.read(world.address("lonely"), 80);
        cells.fails(&format!("{} denied by Service", client.name), &service);
    }
    let hairpin = world.servers[0].2.read(world.address("lonely"), 80);
    cells.among("a denied pod to itself by its Service", &hairpin, &["s0"]);
    let host = Inside::host(&world.boards()[1]);
    cells.among("a board to its own denied pod", &host.read(server, PORT), &["s1"]);

    policy(
        "allow",
        json!({
            "podSelector": {"matchLabels": {"own": "s1"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                         "ports": [{"port": "web", "protocol": "TCP"}]}],
        }),
    );
    until("allowed", || clients[0].read(server, PORT), Result::is_ok);
    for client in clients {
        cells.among(&format!("{} allowed", client.name), &client.read(server, PORT), &["s1"]);
        cells.fails(&format!("{}, UDP is not", client.name), &client.ask(server, PORT));
    }
    let other = world.servers[2].2.read(server, PORT);
    cells.fails("a pod that is no client", &other);

    policy(
        "stay",
        json!({
            "podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
        }),
    );
    until("kept in", || clients[2].read(server, PORT), Result::is_err);
    cells.fails("what may not go out", &clients[2].read(server, PORT));
    let found = clients[2].look_up("web");
    cells.check("names may be asked for", found.is_ok(), &found);
    for name in ["deny", "allow", "stay"] {
        master.api("DELETE", &format!("{POLICIES}/{name}"), None).expect("deleted");
    }
    for client in clients {
        until("free again", || client.read(server, PORT), Result::is_ok);
    }
    cells.all_good("policies");
}
