//! What is fuzzed: every decoder that reads bytes from outside.
//!
//! Each function feeds one decoder, asserts what must hold for whatever it accepts, and says
//! whether it accepted. The fuzzer (`fuzz/fuzz_targets`) calls them with what it finds, `cargo test`
//! with the corpus and with mutations of it (`tests/corpus.rs`).

#![allow(unreachable_pub, reason = "a library for the fuzzer, a module for the tests")]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kumquat::io::image::{ImageStore, Platform};
use kumquat::io::store::{Options, Store};
use kumquat::io::upgrade::{spdy, websocket};
use logic::dns::{Judged, Name, Outcome, Packet, Question, Ranges, Reply, Zone, judge, types};
use model::leader::SignedRecord;
use model::network::{Ipv4Block, NetEndpoint, NetPort, NetService, NetState};
use model::wire::{self, Header, MessageKind};
use model::{patch, protobuf, resource, schema};
use serde_json::Value;

/// A decoder under test; true when it accepted the bytes.
pub type Target = fn(&[u8]) -> bool;

/// All of them, by the name of their corpus folder.
pub const TARGETS: [(&str, Target); 11] = [
    ("broker_codec", broker_codec),
    ("dns_answer", dns_answer),
    ("dns_query", dns_query),
    ("image", image),
    ("json", json),
    ("leader_record", leader_record),
    ("log", log),
    ("patch", patches),
    ("protobuf", kubernetes_protobuf),
    ("upgrade", upgraded),
    ("wire", messages),
];

/// What a client sends to the broker.
pub fn broker_codec(bytes: &[u8]) -> bool {
    broker::judge(bytes)
}

/// A request body in the protobuf of Kubernetes.
pub fn kubernetes_protobuf(bytes: &[u8]) -> bool {
    let Ok(object) = protobuf::decode(bytes) else { return false };
    assert!(object.is_object(), "a decoded body is an object");
    checked(object).is_some()
}

/// A request body in JSON.
pub fn json(bytes: &[u8]) -> bool {
    let Ok((object, _)) = schema::decode_json(bytes) else { return false };
    checked(object).is_some()
}

/// An object, and a patch of it, one per line.
pub fn patches(bytes: &[u8]) -> bool {
    let Some(line) = bytes.iter().position(|byte| *byte == b'\n') else { return false };
    let read = |part: &[u8]| schema::decode_json(part).ok().map(|(value, _)| value);
    let (Some(object), Some(change)) = (read(&bytes[..line]), read(&bytes[line + 1..])) else {
        return false;
    };
    let Some(found) = kind_of(&object) else { return false };
    let (mut first, mut second, mut third) = (object.clone(), object.clone(), object);
    let strategic = patch::strategic(found, &mut first, change.clone()).is_ok();
    let merge = patch::merge(&mut second, change.clone()).is_ok();
    let json = patch::json(&mut third, change).is_ok();
    for patched in [first, second, third] {
        checked(patched);
    }
    strategic || merge || json
}

/// A message between a master and a board.
pub fn messages(bytes: &[u8]) -> bool {
    let Ok((header, body)) = Header::split(bytes) else { return false };
    let kind = header.kind;
    match kind {
        MessageKind::Hello => wire::decode::<wire::HelloV1>(kind, body).is_ok(),
        MessageKind::BeatUp => wire::decode::<wire::BeatUpV1>(kind, body).is_ok(),
        MessageKind::Status => wire::decode::<wire::StatusV1>(kind, body).is_ok(),
        MessageKind::TokenAsk => wire::decode::<wire::TokenAskV1>(kind, body).is_ok(),
        MessageKind::Tokens => wire::decode::<wire::TokensV1>(kind, body).is_ok(),
        MessageKind::Desired => wire::decode::<wire::DesiredV1>(kind, body).is_ok(),
        MessageKind::Command => wire::decode::<wire::CommandV1>(kind, body).is_ok(),
        MessageKind::BeatDown => wire::decode::<wire::BeatDownV1>(kind, body).is_ok(),
        MessageKind::Fetch => wire::decode::<wire::FetchV1>(kind, body).is_ok(),
        MessageKind::Net => net(body),
        MessageKind::Stream => wire::decode::<wire::StreamRequestV1>(kind, body).is_ok(),
    }
}

/// What boards hear of the network; applied to anything, it breaks nothing.
fn net(body: &[u8]) -> bool {
    let Ok(net) = wire::decode::<wire::NetV1>(MessageKind::Net, body) else { return false };
    let state = NetState { revision: net.base, ..NetState::default() };
    if let Ok(new) = state.apply(net) {
        let whole = NetState::default().apply(new.whole()).expect("a whole state fits anything");
        assert_eq!(whole, new, "what is sent whole is the same");
        assert_eq!(state.apply(state.change_to(&new)), Ok(new), "what is sent as a difference");
    }
    true
}

/// What a client says on an upgraded connection, and a board on a duplex stream: the first byte says
/// which. However it is cut, it is read the same.
pub fn upgraded(bytes: &[u8]) -> bool {
    let Some((kind, bytes)) = bytes.split_first() else { return false };
    let read = |cut: usize| -> Option<Vec<u8>> {
        let parts = bytes.chunks(cut.max(1));
        match kind {
            b's' => read_spdy(parts),
            b'w' => read_websocket(parts),
            b'c' => read_channel(parts),
            _ => None,
        }
    };
    let (whole, cut) = (read(bytes.len()), read(7));
    assert_eq!(whole, cut, "read the same however it is cut");
    whole.is_some_and(|said| !said.is_empty())
}

fn read_spdy<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut decoder, mut said) = (spdy::Decoder::default(), Vec::new());
    for part in parts {
        decoder.feed(part);
        while let Some(frame) = decoder.take().ok()? {
            match frame {
                // Its pieces are as they were cut.
                spdy::Frame::Data { bytes, .. } => said.extend_from_slice(&bytes),
                frame => said.extend_from_slice(format!("{frame:?}").as_bytes()),
            }
        }
    }
    Some(said)
}

fn read_websocket<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut decoder, mut said) = (websocket::Decoder::default(), Vec::new());
    for part in parts {
        decoder.feed(part);
        while let Some(message) = decoder.take().ok()? {
            said.extend_from_slice(format!("{message:?}").as_bytes());
        }
    }
    Some(said)
}

fn read_channel<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut frames, mut said) = (wire::channel::ChannelFrames::default(), Vec::new());
    for part in parts {
        said.extend_from_slice(format!("{:?}", frames.take(part).ok()?).as_bytes());
    }
    // Which frames came together is as it was cut.
    said.retain(|byte| !b"[], ".contains(byte));
    Some(said)
}

/// A signed leader record; what is accepted is written again as the same text.
pub fn leader_record(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(record) = text.parse::<SignedRecord>() else { return false };
    assert_eq!(record.to_string(), text, "one text form");
    true
}

/// The first segment of a store's log; what is accepted opens a second time with the same version
/// or a later one.
pub fn log(bytes: &[u8]) -> bool {
    let folder = Folder::new("log");
    let dir = folder.0.join("store");
    std::fs::create_dir_all(dir.join("log")).expect("folder of a log");
    std::fs::write(dir.join("log").join(SEGMENT), bytes).expect("segment of a log");
    let Some(before) = open_and_close(&dir) else { return false };
    let after = open_and_close(&dir);
    assert!(after.is_some_and(|after| after >= before), "{before} before, {after:?} after");
    true
}

/// File name of a log's first segment.
pub const SEGMENT: &str = "0000000000000001.log";

fn open_and_close(dir: &Path) -> Option<u64> {
    struct Nobody;
    impl kumquat::io::store::Applied for Nobody {
        fn applied(&mut self, _: &kumquat::io::store::Change) {}
    }
    let store = Store::open_alone(Options::new(dir), Box::new(Nobody)).ok()?;
    let version = store.version().0;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(store.close());
    Some(version)
}

/// Machine whose images the corpus holds, so that it means the same everywhere.
pub const ARCHIVE_MACHINE: &str = "x86_64";

/// An image archive; what is imported can be resolved, and a failed import leaves no image.
pub fn image(bytes: &[u8]) -> bool {
    let folder = Folder::new("image");
    let platform = Platform::of_machine(ARCHIVE_MACHINE);
    let store = ImageStore::open_for(&folder.0, platform).expect("a new image store");
    match store.import(bytes, None) {
        Ok(names) => {
            for name in &names {
                store.resolve(name.as_str()).expect("an imported image resolves");
            }
            !names.is_empty()
        }
        Err(_) => {
            assert!(store.list().is_empty(), "a failed import leaves no image");
            false
        }
    }
}

/// What a client of a board's DNS sends; what is answered is an answer to it, and as small as it has
/// to be.
pub fn dns_query(bytes: &[u8]) -> bool {
    let mut out = Vec::new();
    match judge(bytes) {
        Judged::Noise => false,
        Judged::Refused(refusal) => {
            refusal.write(&mut out);
            assert!(out[..2] == bytes[..2] && out[2] & 0x80 != 0, "an answer to this query");
            false
        }
        Judged::Query(query) => {
            let limit = Reply::udp_limit(&query);
            let outcome = dns_zone().answer(&query, limit, 1, &mut out);
            assert!(out.len() <= usize::from(limit), "{} of {limit} bytes", out.len());
            if outcome != Outcome::Forward {
                assert!(out[..2] == bytes[..2] && out[2] & 0x80 != 0, "an answer to this query");
                assert_eq!(out[12..12 + query.question.len()], *query.question);
            }
            if outcome == Outcome::Answered {
                let read = Packet::read(&out, query.id, &Question::of(&query));
                assert!(read.is_some(), "others can read what is written");
            }
            true
        }
    }
}

/// What an upstream server says; what is accepted is given on within every size.
pub fn dns_answer(bytes: &[u8]) -> bool {
    let name = Name::parse("example.com").expect("a name");
    let question = Question { name, kind: types::A, dnssec: false, checking_disabled: false };
    let Some(packet) = Packet::read(bytes, 0x1234, &question) else { return false };
    assert!(packet.keep_seconds() <= 300, "kept for {} s", packet.keep_seconds());
    let asked = question.write(7);
    let Judged::Query(query) = judge(&asked) else { panic!("our own question is none") };
    let mut out = Vec::new();
    for limit in [29, 512, 1232, 65_535] {
        packet.answer(&query, limit, 5, None, &mut out);
        let room = usize::from(limit).max(29) + 11;
        assert!(out.len() <= room, "{} of {room} bytes", out.len());
        let again = Packet::read(&out, 7, &question);
        assert!(again.is_some(), "others can read what is given on");
    }
    let mut reply = Reply::begin(&mut out, &query, 512);
    let rcode = packet.append(&mut reply, 5);
    reply.finish(rcode, false);
    assert!(out.len() <= 512, "{} bytes", out.len());
    true
}

/// A service of every kind.
fn dns_zone() -> Zone {
    let service = |name: &str| NetService {
        namespace: "a".into(),
        name: name.into(),
        ports: vec![NetPort { name: "http".into(), port: 80, ..NetPort::default() }],
        ..NetService::default()
    };
    let endpoint = |last| NetEndpoint {
        address: Ipv4Addr::new(10, 42, 0, last),
        hostname: if last % 2 == 0 { format!("web-{last}") } else { String::new() },
        ready: true,
        ports: vec![8080],
        ..NetEndpoint::default()
    };
    let services = [
        NetService { cluster_ip: Some(Ipv4Addr::new(10, 43, 0, 7)), ..service("web") },
        NetService { endpoints: (0..60).map(endpoint).collect(), ..service("db") },
        NetService { external_name: Some("example.com".into()), ..service("out") },
        NetService { external_name: Some("web.a.svc.cluster.local".into()), ..service("in") },
    ];
    let services = services.into_iter().map(|s| (s.key().into(), Arc::new(s))).collect();
    let state = NetState { revision: 1, services, ..NetState::default() };
    let block = |second| Ipv4Block::new(Ipv4Addr::new(10, second, 0, 0), 16);
    Zone::new(Arc::new(state), Ranges { pods: block(42), services: block(43) })
}

fn kind_of(object: &Value) -> Option<&'static resource::Resource> {
    let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    resource::by_kind(group, version, kind)
}

/// The object after its schema check, which a second check must not change.
fn checked(mut object: Value) -> Option<Value> {
    let kind = kind_of(&object)?;
    schema::check(kind, &mut object).ok()?;
    let mut again = object.clone();
    assert_eq!(schema::check(kind, &mut again), Ok(Vec::new()), "a second check finds nothing");
    assert_eq!(again, object, "a second check changes nothing");
    Some(object)
}

/// A folder of this call, in memory where there is such a place; removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("kumquat-fuzz-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("folder for one input");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
