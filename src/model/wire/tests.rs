//! Golden bytes of every message: a change of shape must be a new struct and a new schema number.

use std::fmt::Debug;
use std::net::Ipv4Addr;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::ids::Uid;
use crate::network::{
    NetBoard, NetEndpoint, NetPeers, NetPolicy, NetPolicyPort, NetPort, NetRule, NetService,
    Protocol,
};
use crate::timestamp::Timestamp;
use crate::upgrade::{TryV1, UpgradeRequestV1};

const UID: Uid = Uid(*b"0123456789abcdef");

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, golden: &[&[u8]]) {
    let header = Header { kind: MessageKind::Hello, epoch: 1, term: 2, sequence: 3 };
    let bytes = encode(header, &value);
    let (_, body) = Header::split(&bytes).expect("our own bytes");
    assert_eq!(body, golden.concat(), "{value:?}");
    assert_eq!(decode::<T>(MessageKind::Hello, body), Ok(value));
}

#[test]
fn board_to_master() {
    let hello = HelloV1 { boot: 300, desired_revision: 5, node: Bytes::from_static(b"{}") };
    check(hello, &[&[0xac, 2, 5, 2], b"{}"]);
    let pod = PodStatusV1 {
        uid: UID,
        namespace: "ns".into(),
        name: "p".into(),
        status: Bytes::from_static(b"{}"),
        removable: true,
    };
    let pod_golden = b"0123456789abcdef\x02ns\x01p\x02{}\x01";
    let status = StatusV1 {
        sequence: 7,
        pods: vec![pod],
        node_status: Bytes::new(),
        events: vec![Bytes::from_static(b"[]")],
    };
    check(status, &[&[7, 1], pod_golden, &[0, 1, 2], b"[]"]);
}

#[test]
fn tokens_both_ways() {
    let want = TokenWantV1 {
        pod: UID,
        namespace: "ns".into(),
        name: "p".into(),
        audience: "vault".into(),
        seconds: 3607,
    };
    let want_golden = b"0123456789abcdef\x02ns\x01p\x05vault\x97\x1c";
    check(TokenAskV1 { wants: vec![want.clone()] }, &[&[1], want_golden]);
    let token = TokenV1 { text: "a.b".into(), issued: Timestamp(1), expires: Timestamp(150) };
    let answers = vec![
        TokenAnswerV1 { want: want.clone(), token: Ok(token) },
        TokenAnswerV1 { want, token: Err("no".into()) },
    ];
    let good: &[u8] = b"\x00\x03a.b\x02\xac\x02";
    check(TokensV1 { answers }, &[&[2], want_golden, good, want_golden, b"\x01\x02no"]);
}

#[test]
fn master_to_board() {
    let desired = DesiredV1 {
        revision: 300,
        base: 1,
        pods: vec![DesiredPodV1 { uid: UID, version: 9, pod: Bytes::from_static(b"{}") }],
        pods_gone: vec![UID],
        objects: vec![ObjectV1 {
            key: "secrets a/b".into(),
            version: 4,
            object: Bytes::from_static(b"{}"),
        }],
        objects_gone: vec!["x".into()],
    };
    let uid = b"0123456789abcdef";
    let object = b"\x0bsecrets a/b\x04\x02{}";
    let golden: &[&[u8]] =
        &[&[0xac, 2, 1, 1], uid, &[9, 2], b"{}", &[1], uid, &[1], object, b"\x01\x01x"];
    check(desired, golden);
    check(CommandV1::SayHello, &[&[0]]);
    check(CommandV1::ResendStatus, &[&[1]]);
    let beat = BeatDownV1 {
        desired_revision: 1,
        net_revision: 2,
        status_sequence: 3,
        cluster_time: Timestamp(150),
    };
    check(beat, &[&[1, 2, 3, 0xac, 2]]);
    let fetch = FetchV1 { digest: *b"0123456789abcdef0123456789abcdef", bytes: 300 };
    check(fetch, &[uid, uid, &[0xac, 2]]);
}

#[test]
fn the_network_whole() {
    let board = NetBoard {
        name: "p".into(),
        address: Some(Ipv4Addr::new(192, 168, 0, 9)),
        pods: "10.42.0.128/25".parse().ok(),
        prefix: 24,
        ready: true,
    };
    let port = NetPort { name: "h".into(), protocol: Protocol::Udp, port: 300, node_port: 0 };
    let endpoint = NetEndpoint {
        address: Ipv4Addr::new(10, 42, 0, 2),
        board: "p".into(),
        hostname: String::new(),
        pod: "w".into(),
        ready: true,
        serving: true,
        terminating: false,
        ports: vec![80],
    };
    let service = NetService {
        namespace: "n".into(),
        name: "s".into(),
        cluster_ip: Some(Ipv4Addr::new(10, 43, 0, 9)),
        external_name: None,
        load_balancer: vec![Ipv4Addr::new(1, 2, 3, 4)],
        external_ips: Vec::new(),
        source_ranges: vec!["10.0.0.0/8".parse().expect("a block")],
        ports: vec![port],
        affinity_seconds: 300,
        internal_local: false,
        external_local: true,
        health_check_node_port: 1,
        publish_not_ready: false,
        endpoints: vec![endpoint],
    };
    let whole = NetV1 {
        revision: 300,
        boards: vec![board.into()],
        services: vec![service.into()],
        ..NetV1::default()
    };
    let board = b"\x01p\x01\xc0\xa8\x00\x09\x01\x0a\x2a\x00\x80\x19\x18\x01";
    let service =
        b"\x01n\x01s\x01\x0a\x2b\x00\x09\x00\x01\x01\x02\x03\x04\x00\x01\x0a\x00\x00\x00\x08";
    let port = b"\x01\x01h\x01\xac\x02\x00\xac\x02\x00\x01\x01\x00";
    let endpoint = b"\x01\x0a\x2a\x00\x02\x01p\x00\x01w\x01\x01\x00\x01\x50";
    let head: &[u8] = &[0xac, 2, 0, 1];
    check(whole, &[head, board, &[0, 1], service, port, endpoint, &[0, 0, 0, 0, 0, 0]]);
}

#[test]
fn the_network_as_a_difference() {
    let address = Ipv4Addr::new(10, 42, 0, 2);
    let block = |text: &str| text.parse().expect("a block");
    let port = NetPolicyPort { protocol: Protocol::Sctp, port: 80, end: 90, only: vec![address] };
    let peers = NetPeers {
        addresses: vec![address],
        blocks: vec![(block("10.0.0.0/8"), vec![block("10.1.0.0/16")])],
    };
    let policy = NetPolicy {
        namespace: "n".into(),
        name: "a".into(),
        pods: vec![address],
        ingress: Some(vec![NetRule { peers: Some(peers), ports: vec![port] }]),
        egress: None,
        starting: vec![UID],
    };
    let endpoint = NetEndpoint { address, board: "p".into(), ..NetEndpoint::default() };
    let change = NetV1 {
        revision: 3,
        base: 2,
        boards_gone: vec!["b".into()],
        services_gone: vec!["n/s".into()],
        endpoints: vec![NetEndpointsV1 {
            service: "n/t".into(),
            gone: vec![address],
            set: vec![endpoint],
        }],
        policies: vec![policy.into()],
        policies_gone: vec!["n/x".into()],
        addresses: vec![NetAddressesV1 {
            policy: "n/y".into(),
            place: NetPlace::Egress(1),
            gone: vec![address],
            come: Vec::new(),
        }],
        starting: vec![NetStartingV1 { policy: "n/z".into(), pods: vec![UID] }],
        ..NetV1::default()
    };
    let ip: &[u8] = &[10, 42, 0, 2];
    let endpoints = [b"\x03n/t\x01", ip, b"\x01", ip, b"\x01p\x00\x00\x00\x00\x00\x00"].concat();
    let peers = [b"\x01", ip, b"\x01\x0a\x00\x00\x00\x08\x01\x0a\x01\x00\x00\x10"].concat();
    let port = [&b"\x01\x02\x50\x5a\x01"[..], ip].concat();
    let policy =
        [b"\x01n\x01a\x01", ip, b"\x01\x01\x01", &peers, &port, b"\x00\x01", &UID.0].concat();
    let addresses = [&b"\x03n/y\x02\x01\x01"[..], ip, b"\x00"].concat();
    let golden: &[&[u8]] = &[
        b"\x03\x02\x00\x01\x01b\x00\x01\x03n/s\x01",
        &endpoints,
        b"\x01",
        &policy,
        b"\x01\x03n/x\x01",
        &addresses,
        b"\x01\x03n/z\x01",
        &UID.0,
    ];
    check(change, golden);
}

#[test]
fn streams() {
    let logs = LogsRequestV1 {
        pod: UID,
        container: "c".into(),
        follow: true,
        previous: false,
        timestamps: true,
        tail_lines: Some(300),
        limit_bytes: None,
        since_micros: Some(-1),
    };
    let uid = b"0123456789abcdef";
    check(StreamRequestV1::Logs(logs), &[&[0], uid, b"\x01c", &[1, 0, 1, 1, 0xac, 2, 0, 1, 1]]);
    let blob = BlobRequestV1 { sha256: *b"0123456789abcdef0123456789abcdef", from: 300 };
    check(StreamRequestV1::Blob(blob), &[&[1], uid, uid, &[0xac, 2]]);
    let stdio = StdioV1 { stdin: true, stdout: true, stderr: false, tty: true };
    let (pod, container) = (UID, "c".to_owned());
    let command = vec!["a".to_owned(), "b".to_owned()];
    let exec = ExecRequestV1 { pod, container: container.clone(), command, stdio };
    check(StreamRequestV1::Exec(exec), &[&[2], uid, b"\x01c\x02\x01a\x01b", &[1, 1, 0, 1]]);
    let attach = AttachRequestV1 { pod, container, stdio };
    check(StreamRequestV1::Attach(attach), &[&[3], uid, b"\x01c", &[1, 1, 0, 1]]);
    let forward = PortForwardRequestV1 { pod, port: 300 };
    check(StreamRequestV1::PortForward(forward), &[&[4], uid, &[0xac, 2]]);
    check(StreamRequestV1::Upgrade(UpgradeRequestV1::State), &[&[5, 0]]);
    let sha256 = *b"0123456789abcdef0123456789abcdef";
    let wanted = TryV1 { attempt: "a".into(), sha256, bytes: 300, ready_seconds: 60 };
    let golden: &[&[u8]] = &[&[5, 1], b"\x01a", uid, uid, &[0xac, 2, 60]];
    check(StreamRequestV1::Upgrade(UpgradeRequestV1::Try(wanted)), golden);
}
