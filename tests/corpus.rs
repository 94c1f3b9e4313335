//! The corpus of the fuzz targets, replayed: as it is, and mutated from seeds.
//!
//! Files are named for what must happen: `good-*` is accepted, `bad-*` is refused, `was-*` once
//! broke something and need only not do so again. `KUMQUAT_WRITE_CORPUS=1` writes the `good-*`
//! files of our own formats anew, for when a format changes.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kumquat::io::image::build::{SingleFile, write_archive};
use kumquat::io::store::{Applied, Base, Change, Op, Options, Store};
use kumquat::io::upgrade::{spdy, websocket};
use model::ids::{ObjectKey, Uid};
use model::network::{NetBoard, NetEndpoint, NetPeers, NetPolicy, NetPort, NetRule, NetService};
use model::wire::channel::{self, channel_frame};
use model::wire::{self, Header, MessageKind};
use serde::Serialize;
use targets::{TARGETS, Target};

/// Files stay small: a corpus is a set of starting points.
const FILE_BYTES_MAX: u64 = 16 * 1024;

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).expect("folder of the corpus") {
        let entry = entry.expect("file of the corpus");
        assert!(entry.metadata().expect("size").len() <= FILE_BYTES_MAX, "{:?}", entry.path());
        let bytes = fs::read(entry.path()).expect("file of the corpus");
        files.push((entry.file_name().to_string_lossy().into_owned(), bytes));
    }
    files.sort();
    files
}

#[test]
fn every_file_of_the_corpus_is_judged_as_its_name_says() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        for judgement in ["good-", "bad-"] {
            assert!(files.iter().any(|file| file.0.starts_with(judgement)), "{name}: {judgement}");
        }
        for (file, bytes) in files {
            let accepted = target(&bytes);
            if !file.starts_with("was-") {
                assert_eq!(accepted, file.starts_with("good-"), "{name}/{file}");
            }
        }
    }
}

#[test]
fn mutated_requests_and_messages_break_nothing() {
    for name in ["json", "leader_record", "patch", "protobuf", "upgrade", "wire"] {
        mutate_corpus(name, 1_500);
    }
}

#[test]
fn mutated_conversations_with_the_broker_break_nothing() {
    mutate_corpus("broker_codec", 20_000);
}

#[test]
fn mutated_queries_and_answers_break_nothing() {
    for name in ["dns_query", "dns_answer"] {
        mutate_corpus(name, 20_000);
    }
}

#[test]
fn mutated_logs_and_images_break_nothing() {
    for name in ["log", "image"] {
        mutate_corpus(name, 40);
    }
}

/// Some mutations must be accepted and some refused, else the mutating shows nothing.
fn mutate_corpus(name: &str, rounds: u64) {
    let target: Target = TARGETS.iter().find(|target| target.0 == name).expect("a target").1;
    let files = corpus(name);
    let (mut accepted, mut refused) = (0, 0);
    for seed in 1..=rounds {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bytes = files[dice.roll(files.len())].1.clone();
        for _ in 0..=dice.roll(3) {
            mutate(&mut bytes, &mut dice);
        }
        match std::panic::catch_unwind(|| target(&bytes)) {
            Ok(true) => accepted += 1,
            Ok(false) => refused += 1,
            Err(_) => panic!("{name}: seed {seed}"),
        }
    }
    assert!(accepted > 0 && refused > 0, "{name}: {accepted} accepted, {refused} refused");
}

/// xorshift64*: enough randomness for mutations.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
    }
}

fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    if bytes.is_empty() {
        return;
    }
    let at = dice.roll(bytes.len());
    let end = (at + dice.roll(24)).min(bytes.len());
    match dice.roll(5) {
        0 => bytes[at] ^= 1 << dice.roll(8),
        1 => bytes[at] = [0, 0x7f, 0x80, 0xff][dice.roll(4)],
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        _ => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
    }
}

/// Our own formats: the corpus holds what this build writes.
#[test]
fn the_corpus_holds_what_this_build_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut files = Vec::new();
    if std::env::consts::ARCH == targets::ARCHIVE_MACHINE {
        files.push((folder.join("image/good-archive"), archive()));
    }
    for (name, bytes) in conversations() {
        files.push((folder.join("upgrade").join(name), bytes));
    }
    for (name, bytes) in wire_messages() {
        files.push((folder.join("wire").join(format!("good-{name}")), bytes));
    }
    let log = folder.join("log/good-segment");
    if std::env::var_os("KUMQUAT_WRITE_CORPUS").is_some() {
        for (path, bytes) in &files {
            fs::create_dir_all(path.parent().expect("in a folder")).expect("folder");
            fs::write(path, bytes).expect("corpus file");
        }
        fs::create_dir_all(folder.join("log")).expect("folder");
        fs::write(&log, segment()).expect("corpus file");
    }
    for (path, bytes) in files {
        assert!(fs::read(&path).expect("corpus file") == bytes, "{path:?} is out of date");
    }
    // A segment holds checksums over its entries; the header alone is the same in every run.
    assert_eq!(fs::read(&log).expect("corpus file")[..8], segment()[..8], "{log:?}");
}

/// An image for this machine.
fn archive() -> Vec<u8> {
    let folder = scratch("archive");
    let program = folder.join("program");
    fs::write(&program, b"#!/bin/sh\n").expect("program");
    let file = SingleFile {
        name: "kumquat.test/fuzz:v1",
        program: &program,
        path: "bin/program",
        links: &["bin/sh"],
        entrypoint: &["/bin/program"],
    };
    let mut bytes = Vec::new();
    write_archive(&file, &mut bytes).expect("archive");
    fs::remove_dir_all(folder).expect("own folder");
    bytes
}

/// What clients say on upgraded connections, and a board on a duplex stream.
fn conversations() -> Vec<(&'static str, Vec<u8>)> {
    let mut client = spdy::Encoder::default();
    let mut open = |id, kind: &str| {
        let headers = [("streamtype", kind), ("port", "80"), ("requestid", "0")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        client.open(id, &headers.into()).expect("small")
    };
    let streams = [
        open(1, "error"),
        spdy::data(1, b"", true),
        open(3, "data"),
        spdy::data(3, b"GET / HTTP/1.0\r\n\r\n", false),
        spdy::ping(5),
        spdy::reset(3, spdy::CANCEL),
    ];
    // Masked with zeros: a client's frame is a server's with four bytes more.
    let message = [&[0x82, 0x85, 0, 0, 0, 0, 0][..], b"ls\r\n", &[0x89, 0x80, 0, 0, 0, 0]].concat();
    let frames =
        [channel_frame(channel::STDIN, b"ls\n"), channel_frame(channel::CLOSE, b"")].concat();
    vec![
        ("good-spdy", [b"s".to_vec(), streams.concat()].concat()),
        ("good-websocket", [b"w".to_vec(), message].concat()),
        ("good-channel", [b"c".to_vec(), frames].concat()),
        ("bad-not-masked", [b"w".to_vec(), websocket::binary(&[b"x"])].concat()),
        ("bad-length", [&b"c"[..], &[0, 255, 255, 255, 255]].concat()),
    ]
}

fn wire_messages() -> Vec<(&'static str, Vec<u8>)> {
    fn message<T: Serialize>(kind: MessageKind, body: &T) -> Vec<u8> {
        wire::encode(Header { kind, epoch: 1, term: 2, sequence: 3 }, body)
    }
    let json = || Bytes::from_static(br#"{"kind":"Pod"}"#);
    let pod = wire::DesiredPodV1 { uid: Uid([7; 16]), version: 300, pod: json() };
    let object = wire::ObjectV1 { key: "/secrets/a/b".into(), version: 301, object: json() };
    let desired = wire::DesiredV1 {
        revision: 9,
        base: 8,
        pods: vec![pod],
        pods_gone: vec![Uid([8; 16])],
        objects: vec![object],
        objects_gone: vec!["/configmaps/a/b".into()],
    };
    let hello = wire::HelloV1 { boot: 7, desired_revision: 300, node: json() };
    let beat =
        wire::BeatUpV1 { boot: 7, desired_revision: 300, net_revision: 0, status_sequence: 5 };
    let address = Ipv4Addr::new(10, 42, 0, 2);
    let endpoint = NetEndpoint { address, ports: vec![80], ..NetEndpoint::default() };
    let port = NetPort { port: 80, node_port: 30_080, ..NetPort::default() };
    let service = NetService {
        namespace: "shop".into(),
        name: "web".into(),
        cluster_ip: Some(Ipv4Addr::new(10, 43, 0, 1)),
        ports: vec![port],
        endpoints: vec![endpoint.clone()],
        ..NetService::default()
    };
    let addresses = vec![address];
    let rule =
        NetRule { peers: Some(NetPeers { addresses, blocks: Vec::new() }), ports: Vec::new() };
    let policy = NetPolicy {
        namespace: "shop".into(),
        name: "allow".into(),
        ingress: Some(vec![rule]),
        ..NetPolicy::default()
    };
    let board = NetBoard { name: "pi-1".into(), address: Some(address), ..NetBoard::default() };
    let net = wire::NetV1 {
        revision: 300,
        boards: vec![board.into()],
        services: vec![service.into()],
        endpoints: vec![wire::NetEndpointsV1 {
            service: "shop/web".into(),
            gone: vec![address],
            set: vec![endpoint],
        }],
        policies: vec![policy.into()],
        addresses: vec![wire::NetAddressesV1 {
            policy: "shop/allow".into(),
            place: wire::NetPlace::Ingress(0),
            gone: vec![address],
            come: Vec::new(),
        }],
        starting: vec![wire::NetStartingV1 {
            policy: "shop/allow".into(),
            pods: vec![Uid([1; 16])],
        }],
        ..wire::NetV1::default()
    };
    let gone = wire::NetV1 {
        revision: 301,
        base: 300,
        boards_gone: vec!["pi-1".into()],
        services_gone: vec!["shop/web".into()],
        policies_gone: vec!["shop/allow".into()],
        ..wire::NetV1::default()
    };
    vec![
        ("net", message(MessageKind::Net, &net)),
        ("net-gone", message(MessageKind::Net, &gone)),
        ("hello", message(MessageKind::Hello, &hello)),
        ("beat-up", message(MessageKind::BeatUp, &beat)),
        ("desired", message(MessageKind::Desired, &desired)),
        ("command", message(MessageKind::Command, &wire::CommandV1::SayHello)),
    ]
}

/// The log of a store with three writes.
fn segment() -> Vec<u8> {
    struct Nobody;
    impl Applied for Nobody {
        fn applied(&mut self, _: &Change) {}
    }
    let dir = scratch("segment");
    let store = Store::open_alone(Options::new(&dir), Box::new(Nobody)).expect("a new store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(async {
        for body in [Some("{}"), Some(r#"{"a":1}"#), None] {
            let key =
                ObjectKey { kind: "/configmaps".into(), namespace: "a".into(), name: "b".into() };
            let body = body.map(|text| Bytes::from_static(text.as_bytes()));
            let op = Op { key, base: Base::Any, uid: Uid([1; 16]), body, keep_old: true };
            store.propose(vec![op]).await.expect("written");
        }
        store.close().await;
    });
    let mut bytes = fs::read(dir.join("log").join(targets::SEGMENT)).expect("the first segment");
    fs::remove_dir_all(dir).expect("own folder");
    // Segments are made at their full size; the zeros say nothing.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end + 8);
    bytes
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("kumquat-corpus-{name}-{}", std::process::id()));
    fs::create_dir_all(&path).expect("own folder");
    path
}
