//! Answers of a whole zone as a client reads them, and hostile bytes.

use std::net::Ipv4Addr;
use std::sync::Arc;

use model::network::{NetBoard, NetEndpoint, NetPort, NetService, NetState, Protocol};

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn port(name: &str, protocol: Protocol, port: u16) -> NetPort {
    NetPort { name: name.to_owned(), protocol, port, node_port: 0 }
}

fn endpoint(last: u8, hostname: &str, ready: bool, ports: &[u16]) -> NetEndpoint {
    NetEndpoint {
        address: Ipv4Addr::new(10, 42, 0, last),
        hostname: hostname.to_owned(),
        ready,
        ports: ports.to_vec(),
        ..NetEndpoint::default()
    }
}

fn service(namespace: &str, name: &str, cluster_ip: Option<[u8; 4]>) -> NetService {
    NetService {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        cluster_ip: cluster_ip.map(Ipv4Addr::from),
        ..NetService::default()
    }
}

fn ranges() -> Ranges {
    let block = |text: &str| text.parse().expect("a block");
    Ranges { pods: block("10.42.0.0/16"), services: block("10.43.0.0/16") }
}

fn zone_of(services: Vec<NetService>) -> Zone {
    let board = NetBoard {
        name: "pi-1".into(),
        address: Some(Ipv4Addr::new(192, 168, 1, 5)),
        ..NetBoard::default()
    };
    let services = services.into_iter().map(|s| (s.key().into(), Arc::new(s))).collect();
    let boards = [("pi-1".into(), Arc::new(board))].into();
    let state = NetState { revision: 1, boards, services, ..NetState::default() };
    Zone::new(Arc::new(state), ranges())
}

fn zone() -> Zone {
    let web = NetService {
        ports: vec![port("http", Protocol::Tcp, 80), port("", Protocol::Udp, 53)],
        endpoints: vec![endpoint(2, "", true, &[8080, 53])],
        ..service("default", "web", Some([10, 43, 0, 7]))
    };
    let db = NetService {
        ports: vec![port("sql", Protocol::Tcp, 5432)],
        endpoints: vec![
            endpoint(3, "db-0", true, &[5432]),
            endpoint(4, "db-1", true, &[5433]),
            endpoint(5, "", true, &[5432]),
            endpoint(6, "db-3", false, &[5432]),
        ],
        ..service("shop", "db", None)
    };
    let starting = NetService {
        endpoints: vec![endpoint(9, "db-9", false, &[])],
        publish_not_ready: true,
        ..service("shop", "starting", None)
    };
    let empty = NetService {
        endpoints: vec![endpoint(9, "x", false, &[])],
        ..service("shop", "empty", None)
    };
    let pair = NetService {
        ports: vec![port("one", Protocol::Tcp, 1), port("two", Protocol::Tcp, 2)],
        endpoints: vec![endpoint(8, "a", true, &[1, 2])],
        ..service("shop", "pair", None)
    };
    let alias = |name: &str, target: &str| NetService {
        external_name: Some(target.to_owned()),
        ..service("shop", name, None)
    };
    zone_of(vec![
        web,
        db,
        starting,
        empty,
        pair,
        alias("outside", "Example.com."),
        alias("inside", "web.default.svc.cluster.local"),
        alias("round", "round.shop.svc.cluster.local"),
        alias("bad", "a..b"),
    ])
}

fn message(asked: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in asked.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn outcome(zone: &Zone, message: &[u8], dice: u32) -> (Outcome, Vec<u8>) {
    let Judged::Query(query) = judge(message) else { panic!("no query: {message:?}") };
    let mut out = Vec::new();
    let limit = Reply::udp_limit(&query);
    let outcome = zone.answer(&query, limit, dice, &mut out);
    assert!(out.len() <= usize::from(limit));
    (outcome, out)
}

/// An answer in one line: code, then records as `section type data`.
fn shown(message: &[u8]) -> String {
    let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let (_, end) = Name::read(message, 12, false).expect("a question");
    let mut at = end + 4;
    let mut shown = format!("{}", number(2) & 15);
    for (section, count_at) in [("", 6), ("auth ", 8), ("more ", 10)] {
        for _ in 0..number(count_at) {
            let (owner, fixed) = Name::read(message, at, true).expect("an owner");
            let (kind, data) = (number(fixed), fixed + 10);
            at = data + usize::from(number(fixed + 8));
            let target = |at| Name::read(message, at, true).expect("a name").0.to_string();
            let text = match kind {
                types::A => Ipv4Addr::new(
                    message[data],
                    message[data + 1],
                    message[data + 2],
                    message[data + 3],
                )
                .to_string(),
                types::CNAME | types::PTR | types::NS => target(data),
                types::SRV => {
                    format!("{} {} {}", number(data + 2), number(data + 4), target(data + 6))
                }
                types::TXT => String::from_utf8_lossy(&message[data + 1..at]).into_owned(),
                types::SOA => owner.to_string(),
                other => format!("type{other}"),
            };
            shown.push_str(&format!(", {section}{kind} {text}"));
        }
    }
    assert_eq!(at, message.len(), "nothing behind the records");
    shown
}

#[test]
fn names_mean_what_the_specification_says() {
    let zone = zone();
    let check = |asked: &str, kind: u16, expected: &str| {
        let message = message(asked, kind);
        let (outcome, out) = outcome(&zone, &message, 0);
        assert_eq!(outcome, Outcome::Answered, "{asked}");
        assert_eq!(out[..2], message[..2]);
        assert_eq!(
            out[12..message.len()],
            message[12..],
            "the question comes back as it was asked"
        );
        assert_eq!(shown(&out), expected, "{asked} {kind}");
    };
    let (nothing, empty) = ("3, auth 6 cluster.local.", "0, auth 6 cluster.local.");
    use types::{A, AAAA, ANY, CNAME, NS, PTR, SOA, SRV, TXT};
    check("web.default.svc.cluster.local", A, "0, 1 10.43.0.7");
    check("WEB.Default.sVc.cluster.LOCAL", A, "0, 1 10.43.0.7");
    check("web.default.svc.cluster.local", ANY, "0, 1 10.43.0.7");
    check("web.default.svc.cluster.local", AAAA, empty);
    check("web.other.svc.cluster.local", A, nothing);
    check("x.default.svc.cluster.local", AAAA, nothing);
    check("db.shop.svc.cluster.local", A, "0, 1 10.42.0.3, 1 10.42.0.4, 1 10.42.0.5");
    check("db-1.db.shop.svc.cluster.local", A, "0, 1 10.42.0.4");
    check("DB-1.db.shop.svc.cluster.local", AAAA, empty);
    check("10-42-0-5.db.shop.svc.cluster.local", A, "0, 1 10.42.0.5");
    check("10-42-0-4.db.shop.svc.cluster.local", A, nothing);
    check("db-3.db.shop.svc.cluster.local", A, nothing);
    check("10-42-0-2.web.default.svc.cluster.local", A, "0, 1 10.42.0.2");
    check("empty.shop.svc.cluster.local", A, nothing);
    check("starting.shop.svc.cluster.local", A, "0, 1 10.42.0.9");
    check("db-9.starting.shop.svc.cluster.local", A, "0, 1 10.42.0.9");
    let srv = "_http._tcp.web.default.svc.cluster.local";
    let web = "web.default.svc.cluster.local.";
    check(srv, SRV, &format!("0, 33 100 80 {web}, more 1 10.43.0.7"));
    check(srv, A, empty);
    check("_tcp.web.default.svc.cluster.local", SRV, empty);
    check("_udp.web.default.svc.cluster.local", SRV, nothing);
    check("_http._udp.web.default.svc.cluster.local", SRV, nothing);
    check("_._udp.web.default.svc.cluster.local", SRV, nothing);
    let both = format!("0, 33 100 80 {web}, 33 100 53 {web}, more 1 10.43.0.7");
    check("web.default.svc.cluster.local", SRV, &both);
    let below = "db.shop.svc.cluster.local.";
    let sql = format!(
        "0, 33 33 5432 db-0.{below}, 33 33 5433 db-1.{below}, 33 33 5432 10-42-0-5.{below}, \
         more 1 10.42.0.3, more 1 10.42.0.4, more 1 10.42.0.5"
    );
    check("_sql._TCP.db.shop.svc.cluster.local", SRV, &sql);
    let pair = format!(
        "0, 33 100 1 a.pair.{0}, 33 100 2 a.pair.{0}, more 1 10.42.0.8",
        "shop.svc.cluster.local."
    );
    check("pair.shop.svc.cluster.local", SRV, &pair);
    check("7.0.43.10.in-addr.arpa", PTR, &format!("0, 12 {web}"));
    check("4.0.42.10.in-addr.arpa", PTR, &format!("0, 12 db-1.{below}"));
    check("5.0.42.10.in-addr.arpa", PTR, &format!("0, 12 10-42-0-5.{below}"));
    check("4.0.42.10.in-addr.arpa", A, "0, auth 6 42.10.in-addr.arpa.");
    check("99.0.42.10.in-addr.arpa", PTR, "3, auth 6 42.10.in-addr.arpa.");
    check("8.0.43.10.in-addr.arpa", PTR, "3, auth 6 43.10.in-addr.arpa.");
    check("0.43.10.in-addr.arpa", PTR, "0, auth 6 43.10.in-addr.arpa.");
    check("10-42-0-77.shop.pod.cluster.local", A, "0, 1 10.42.0.77");
    check("192-168-1-5.shop.pod.cluster.local", A, "0, 1 192.168.1.5");
    check("8-8-8-8.shop.pod.cluster.local", A, nothing);
    check("10-42-0-077.shop.pod.cluster.local", A, nothing);
    check("dns-version.cluster.local", TXT, "0, 16 1.1.0");
    check("cluster.local", SOA, "0, 6 cluster.local.");
    check("cluster.local", NS, "0, 2 ns.dns.cluster.local., more 1 10.43.0.10");
    check("ns.dns.cluster.local", A, "0, 1 10.43.0.10");
    check("cluster.local", A, empty);
    for above in ["svc", "pod", "shop.svc", "shop.pod", "dns"] {
        check(&format!("{above}.cluster.local"), A, empty);
    }
    check("example.com.default.svc.cluster.local", A, nothing);
    check("a.b.c.d.e.f.svc.cluster.local", A, nothing);
    check("inside.shop.svc.cluster.local", A, &format!("0, 5 {web}, 1 10.43.0.7"));
    check("inside.shop.svc.cluster.local", CNAME, &format!("0, 5 {web}"));
    check("inside.shop.svc.cluster.local", AAAA, &format!("0, 5 {web}, auth 6 cluster.local."));
    check("outside.shop.svc.cluster.local", CNAME, "0, 5 example.com.");
    check("below.outside.shop.svc.cluster.local", A, nothing);
}

#[test]
fn what_is_not_of_the_cluster_is_asked_elsewhere() {
    let zone = zone();
    let ask = |asked: &str, kind| outcome(&zone, &message(asked, kind), 0).0;
    for asked in
        ["example.com", "local", "notcluster.local", "4.4.8.8.in-addr.arpa", "10.in-addr.arpa", "."]
    {
        assert_eq!(ask(asked, types::A), Outcome::Forward, "{asked}");
    }
    let chase = Outcome::Chase(name("example.com"));
    assert_eq!(ask("outside.shop.svc.cluster.local", types::A), chase);
    for bad in ["round", "bad"] {
        let asked = message(&format!("{bad}.shop.svc.cluster.local"), types::A);
        let (found, out) = outcome(&zone, &asked, 0);
        assert_eq!((found, out[3] & 15), (Outcome::Answered, 2), "{bad}");
    }
}

#[test]
fn before_anything_is_known_nothing_is_denied() {
    let zone = Zone::new(Arc::default(), ranges());
    for asked in ["web.default.svc.cluster.local", "7.0.43.10.in-addr.arpa"] {
        let (found, out) = outcome(&zone, &message(asked, types::A), 0);
        assert_eq!((found, out[3] & 15), (Outcome::Answered, 2), "{asked}");
    }
}

#[test]
fn endpoints_take_turns_at_being_the_first() {
    let zone = zone();
    let asked = message("db.shop.svc.cluster.local", types::A);
    let first = |dice| shown(&outcome(&zone, &asked, dice).1)[3..15].to_owned();
    assert_eq!([first(0), first(1), first(5)], ["1 10.42.0.3,", "1 10.42.0.4,", "1 10.42.0.5,"]);
}

#[test]
fn a_crowd_is_cut_at_what_the_client_takes() {
    let endpoints = (0..250).map(|last| endpoint(last, "", true, &[80])).collect();
    let ports = vec![port("http", Protocol::Tcp, 80)];
    let zone = zone_of(vec![NetService { endpoints, ports, ..service("a", "many", None) }]);
    for asked in ["many.a.svc.cluster.local", "_http._tcp.many.a.svc.cluster.local"] {
        let kind = if asked.starts_with('_') { types::SRV } else { types::A };
        let bytes = message(asked, kind);
        let (_, out) = outcome(&zone, &bytes, 3);
        assert_eq!(out[2] & 2, 2, "{asked}: truncated");
        assert!(out[7] > 3, "{asked}: what fits is there");
        let Judged::Query(query) = judge(&bytes) else { panic!("no query") };
        let mut out = Vec::new();
        zone.answer(&query, types::TCP_BYTES_MAX, 3, &mut out);
        assert_eq!((out[2] & 2, u16::from_be_bytes([out[6], out[7]])), (0, 250), "{asked}");
    }
}

/// An upstream answer to `asked` with these records: owner, type, TTL, data.
fn upstream(question: &Question, records: &[(&[u8], u16, u32, &[u8])], rcode: u8) -> Vec<u8> {
    let mut bytes = question.write(0x1234);
    bytes.truncate(bytes.len() - 11);
    bytes[2] = 0x81;
    bytes[3] = 0x80 | rcode;
    bytes[10..12].copy_from_slice(&[0, 0]);
    bytes[7] = records.len() as u8;
    for (owner, kind, ttl, data) in records {
        bytes.extend_from_slice(owner);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(data);
    }
    bytes
}

fn question(asked: &str) -> Question {
    Question { name: name(asked), kind: types::A, dnssec: false, checking_disabled: false }
}

#[test]
fn upstream_answers_are_given_on_in_the_clients_words() {
    let asked = question("example.com");
    let alias: &[u8] = b"\x01a\xc0\x0c";
    let bytes = upstream(&asked, &[(b"\xc0\x0c", 5, 60, alias), (alias, 1, 20, &[1, 2, 3, 4])], 0);
    let packet = Packet::read(&bytes, 0x1234, &asked).expect("an answer");
    assert_eq!(packet.keep_seconds(), 20);
    let client = message("eXample.COM", types::A);
    let Judged::Query(query) = judge(&client) else { panic!("no query") };
    let mut out = Vec::new();
    packet.answer(&query, 512, 15, None, &mut out);
    assert_eq!(out[..4], [0xab, 0xcd, 0x81, 0x80]);
    assert_eq!(out[12..29], client[12..29]);
    assert_eq!(shown(&out), "0, 5 a.example.com., 1 1.2.3.4");
    assert_eq!(out[out.len() - 10..out.len() - 6], [0, 0, 0, 5], "TTL less its age");
    packet.answer(&query, 512, 1000, Some(30), &mut out);
    assert_eq!(out[out.len() - 10..out.len() - 6], [0, 0, 0, 30]);
    packet.answer(&query, 50, 0, None, &mut out);
    assert_eq!((out[2] & 2, out[7]), (2, 1), "what does not fit is left out and said");
    for (id, other) in [(1, &asked), (0x1234, &question("example.org"))] {
        assert!(Packet::read(&bytes, id, other).is_none(), "not an answer to this question");
    }
    for end in 0..bytes.len() {
        assert!(Packet::read(&bytes[..end], 0x1234, &asked).is_none(), "cut at {end}");
    }
}

#[test]
fn an_alias_is_completed_by_what_it_means() {
    let (zone, asked) = (zone(), question("example.com"));
    let bytes = upstream(
        &asked,
        &[(b"\xc0\x0c", 5, 60, b"\x01b\xc0\x0c"), (b"\x01b\xc0\x0c", 1, 60, &[9, 9, 9, 9])],
        0,
    );
    let packet = Packet::read(&bytes, 0x1234, &asked).expect("an answer");
    let client = message("outside.shop.svc.cluster.local", types::A);
    let Judged::Query(query) = judge(&client) else { panic!("no query") };
    let mut out = Vec::new();
    let Answer::Chase(mut reply, target) = zone.begin(&query, 512, 0, &mut out) else {
        panic!("no alias")
    };
    assert_eq!(target, asked.name);
    let rcode = packet.append(&mut reply, 0);
    reply.finish(rcode, false);
    assert_eq!(shown(&out), "0, 5 example.com., 5 b.example.com., 1 9.9.9.9");
}

#[test]
fn absence_is_kept_as_long_as_its_authority_says() {
    let asked = question("no.example.com");
    let soa = |minimum: u32| {
        let mut data = vec![0, 0];
        data.extend([0; 16]);
        data.extend(minimum.to_be_bytes());
        data
    };
    let keep = |rcode, ttl, minimum| {
        let mut bytes = upstream(&asked, &[(b"\xc0\x0f", 6, ttl, &soa(minimum))], rcode);
        bytes.swap(7, 9);
        Packet::read(&bytes, 0x1234, &asked).expect("an answer").keep_seconds()
    };
    assert_eq!([keep(3, 60, 10), keep(0, 9, 10), keep(3, 600, 600)], [10, 9, 30]);
    assert_eq!(keep(2, 60, 60), 0, "failures are not kept");
    let bare = upstream(&asked, &[], 3);
    assert_eq!(Packet::read(&bare, 0x1234, &asked).expect("an answer").keep_seconds(), 0);
}

#[test]
fn ten_thousand_mutations_break_nothing() {
    let zone = zone();
    let seeds = [
        message("web.default.svc.cluster.local", types::A),
        message("_sql._tcp.db.shop.svc.cluster.local", types::SRV),
        message("inside.shop.svc.cluster.local", types::A),
        message("7.0.43.10.in-addr.arpa", types::PTR),
        question("example.com").write(7),
    ];
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut roll = |below: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 33) as usize % below
    };
    let mut answered = 0;
    for round in 0..10_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..1 + roll(3) {
            let at = roll(bytes.len());
            match roll(3) {
                0 => bytes[at] ^= 1 << roll(8),
                1 => bytes[at] = [0, 1, 0xc0, 0xff][roll(4)],
                _ => bytes.truncate(at.max(1)),
            }
        }
        let mut out = Vec::new();
        match judge(&bytes) {
            Judged::Query(query) => {
                zone.answer(&query, Reply::udp_limit(&query), 1, &mut out);
                answered += usize::from(!out.is_empty());
            }
            Judged::Refused(refusal) => refusal.write(&mut out),
            Judged::Noise => {}
        }
    }
    assert!(answered > 500, "{answered}");
}
