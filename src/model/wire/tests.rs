//! Golden bytes of every message: a change of shape must be a new struct and a new schema number.

use std::fmt::Debug;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::ids::Uid;
use crate::timestamp::Timestamp;

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
}
