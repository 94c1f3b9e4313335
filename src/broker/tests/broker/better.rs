//! What mosquitto does worse or differently: stalled subscribers, hostile clients, half-open streams.

use std::time::{Duration, Instant};

use broker::{Access, AllowAll, Broker, Connecting, Ended, Limits, Peer, Refusal};
use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::QoS::{self, AtLeastOnce, AtMostOnce, ExactlyOnce};
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet, SubscribeReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::client::{Client, DEADLINE, connect, publish, show, with_will};
use crate::server::Ours;

/// Publishes 60 MB to a client that reads nothing and to one that does.
async fn stalled_beside_healthy(qos: QoS) {
    const COUNT: usize = 600;
    // Long for a reader that the machine holds up, short beside the bound on writes.
    let stall = Duration::from_millis(1500);
    let limits = Limits { stall, write_within: DEADLINE * 6, ..Limits::default() };
    let mut ours = Ours::with(limits, AllowAll).await;
    let mut stalled = Client::clean(ours.address, "stalled").await;
    stalled.subscribe("s/x", qos).await;
    let mut healthy = Client::clean(ours.address, "healthy").await;
    healthy.subscribe("s/x", qos).await;
    let mut writer = Client::clean(ours.address, "writer").await;
    let payload = "x".repeat(100_000);
    let reading = tokio::spawn(async move {
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        for number in 0..COUNT {
            let message = healthy.message().await;
            healthy.acknowledge(&message).await;
            assert!(message.payload.starts_with(format!("{number} ").as_bytes()), "{number}");
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    });
    for number in 0..COUNT {
        writer.publish(publish("s/x", &format!("{number} {payload}"), qos, false)).await;
    }
    let longest = reading.await.expect("the healthy client gets every message in order");
    assert!(longest < Duration::from_secs(5), "it waited for {longest:?}");
    let ends = [ours.ended().await, ours.ended().await];
    assert!(ends.contains(&Ended::Stalled), "{ends:?}");
    assert!(ends.contains(&Ended::Closed), "the reader has all and goes: {ends:?}");
    writer.ping().await;
    assert!(stalled.is_closed().await);
    assert_eq!(ours.broker.counts().connections, 1, "the writer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_of_qos_0_harms_no_healthy_one() {
    stalled_beside_healthy(AtMostOnce).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_subscriber_of_qos_1_harms_no_healthy_one() {
    stalled_beside_healthy(AtLeastOnce).await;
}

#[tokio::test]
async fn a_client_that_never_acknowledges_is_cut_off() {
    let stall = Duration::from_millis(300);
    let limits = Limits { stall, queue_bytes_max: 300_000, ..Limits::default() };
    let mut ours = Ours::with(limits, AllowAll).await;
    let mut silent = Client::clean(ours.address, "silent").await;
    silent.subscribe("s", AtLeastOnce).await;
    let mut writer = Client::clean(ours.address, "writer").await;
    for _ in 0..40 {
        writer.publish(publish("s", &"x".repeat(10_000), AtLeastOnce, false)).await;
    }
    assert_eq!(ours.ended().await, Ended::Stalled);
    writer.ping().await;
}

/// It would wait for itself; but what was promised is not dropped in silence either.
#[tokio::test]
async fn a_client_that_floods_itself_is_cut_off_at_once() {
    let limits = Limits { stall: DEADLINE * 6, queue_bytes_max: 300_000, ..Limits::default() };
    let mut ours = Ours::with(limits, AllowAll).await;
    let mut client = Client::clean(ours.address, "client").await;
    client.subscribe("own", AtLeastOnce).await;
    let (_reading, mut writing) = client.split();
    let mut message = publish("own", &"x".repeat(10_000), AtLeastOnce, false);
    message.pkid = 1;
    let mut bytes = BytesMut::new();
    message.write(&mut bytes).expect("a packet");
    for _ in 0..60 {
        // Once it is cut off, nothing more is taken.
        let _ = writing.write_all(&bytes).await;
    }
    assert_eq!(ours.ended().await, Ended::Stalled);
}

/// Each waits for the other's queue while it must also empty its own.
#[tokio::test]
async fn clients_that_flood_each_other_lose_nothing() {
    const COUNT: usize = 400;
    let ours = Ours::start().await;
    let mut sides = Vec::new();
    for (own, other) in [("a", "b"), ("b", "a")] {
        let mut client = Client::clean(ours.address, own).await;
        client.subscribe(own, AtMostOnce).await;
        sides.push((client.split(), other));
    }
    let total = COUNT * (50_000 + 1 + 3 + 3);
    let flood = |mut reading: OwnedReadHalf, mut writing: OwnedWriteHalf, other| async move {
        let mut bytes = BytesMut::new();
        let packet = publish(other, &"x".repeat(50_000), AtMostOnce, false);
        packet.write(&mut bytes).expect("a packet");
        let write = async {
            for _ in 0..COUNT {
                writing.write_all(&bytes).await.expect("the broker reads on");
            }
        };
        let read = async {
            let (mut sink, mut left) = (vec![0; 65536], total);
            while left > 0 {
                left -= reading.read(&mut sink).await.expect("the broker sends on");
            }
        };
        tokio::join!(write, read);
    };
    let both = sides.into_iter().map(|((reading, writing), other)| flood(reading, writing, other));
    let both: Vec<_> = both.collect();
    let mut both = both.into_iter();
    let (one, other) = (both.next().expect("two"), both.next().expect("two"));
    let done = tokio::time::timeout(DEADLINE, async { tokio::join!(one, other) }).await;
    done.expect("no deadlock");
    assert_eq!(ours.broker.counts().lost, 0);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off_though_nobody_publishes() {
    let limits = Limits { write_within: Duration::from_millis(200), ..Limits::default() };
    let broker = Broker::new(limits, std::sync::Arc::new(AllowAll));
    broker.publish("big", Bytes::from(vec![1; 100_000]), true).await;
    let (mut client, stream) = tokio::io::duplex(1000);
    let peer = Peer { name: None, address: ([127, 0, 0, 1], 1).into() };
    let serving = tokio::spawn(async move { broker.serve(stream, peer).await });
    let mut bytes = BytesMut::new();
    connect("idle", true).write(&mut bytes).expect("a packet");
    bytes.extend_from_slice(&[0x82, 8, 0, 1, 0, 3, b'b', b'i', b'g', 0]);
    client.write_all(&bytes).await.expect("read");
    let ended = tokio::time::timeout(DEADLINE, serving).await.expect("in time").expect("served");
    assert_eq!(ended, Ended::Stalled);
}

/// Ids as a board may have: letters, digits, `-`.
struct Boards;

impl Access for Boards {
    fn admit(&self, _: &Peer, connecting: &Connecting<'_>) -> Result<(), Refusal> {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let id = connecting.client_id;
        if id.is_empty() || !id.chars().all(fine) { Err(Refusal::ClientId) } else { Ok(()) }
    }

    fn may_publish(&self, _: &str, topic: &str) -> bool {
        !topic.contains("forbidden")
    }

    fn may_subscribe(&self, _: &str, filter: &str) -> bool {
        !filter.contains("forbidden")
    }
}

#[tokio::test]
async fn hostile_client_ids_are_refused_and_harm_nobody() {
    let mut strict = Ours::with(Limits::default(), Boards).await;
    let mut open = Ours::start().await;
    let long = "x".repeat(257);
    // Whether the broker itself refuses it, whatever its owner's rules are.
    let ids = [
        ("", false),
        ("#", false),
        ("+", false),
        ("node/1", false),
        ("../../etc", false),
        ("ä", false),
        ("$SYS", true),
        ("nul\0", true),
        ("line\nbreak", true),
        (long.as_str(), true),
    ];
    for round in 0..3 {
        for (id, always) in ids {
            let (_, answer) = Client::connect(strict.address, connect(id, true)).await;
            assert_eq!(answer.code, ConnectReturnCode::BadClientId, "{id:?}");
            assert_eq!(strict.ended().await, Ended::Refused(Refusal::ClientId), "{id:?}");
            let (client, answer) = Client::connect(open.address, connect(id, true)).await;
            let code =
                if always { ConnectReturnCode::BadClientId } else { ConnectReturnCode::Success };
            assert_eq!(answer.code, code, "{id:?} in round {round}");
            drop(client);
            open.ended().await;
        }
        Client::clean(strict.address, "board-1").await.disconnect().await;
        assert_eq!(strict.ended().await, Ended::Left);
    }
    let (_, answer) = Client::connect(open.address, connect("", false)).await;
    assert_eq!(answer.code, ConnectReturnCode::BadClientId, "a persistent session has a name");
}

#[tokio::test]
async fn the_same_hostile_id_twice_is_a_take_over_like_any_other() {
    let mut ours = Ours::start().await;
    for id in ["node/1", "#", "+/+"] {
        let mut first = Client::clean(ours.address, id).await;
        let mut second = Client::clean(ours.address, id).await;
        assert!(first.is_closed().await);
        assert_eq!(ours.ended().await, Ended::TakenOver);
        second.ping().await;
        second.disconnect().await;
        assert_eq!(ours.ended().await, Ended::Left);
    }
    let mut one = Client::clean(ours.address, "").await;
    let mut other = Client::clean(ours.address, "").await;
    one.ping().await;
    other.ping().await;
}

#[tokio::test]
async fn oversized_packets_end_their_connection_before_they_are_read() {
    let limits = Limits { packet_bytes_max: 100_000, ..Limits::default() };
    let mut ours = Ours::with(limits, AllowAll).await;
    let allowed = 16 * 1024;
    let cases: [(&[u8], usize, usize); 4] = [
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], 268_435_455, 100_000),
        (&[0x32, 0xa1, 0x8d, 0x06], 100_001, 100_000),
        (&[0x82, 0x81, 0x80, 0x01], 16 * 1024 + 1, allowed),
        (&[0xc0, 0x01], 1, 0),
    ];
    for (header, bytes, allowed) in cases {
        let mut client = Client::clean(ours.address, "large").await;
        client.send_bytes(header).await;
        assert!(client.is_closed().await);
        assert_eq!(ours.ended().await, Ended::TooLarge { bytes, allowed });
    }
    let mut client = Client::dial(ours.address).await;
    client.send_bytes(&[0x10, 0x81, 0x80, 0x01]).await;
    assert!(client.is_closed().await);
    assert_eq!(ours.ended().await, Ended::TooLarge { bytes: 16 * 1024 + 1, allowed });
    let mut client = Client::clean(ours.address, "largest").await;
    client.subscribe("t", AtMostOnce).await;
    client.publish(publish("t", &"x".repeat(100_000 - 3), AtMostOnce, false)).await;
    assert_eq!(client.message().await.payload.len(), 100_000 - 3);
}

#[tokio::test]
async fn half_open_connections_keep_nobody_out_and_end() {
    const SILENT: usize = 300;
    let limits = Limits {
        connecting_max: 40,
        connect_within: Duration::from_millis(700),
        connections_max: 60,
        ..Limits::default()
    };
    let mut ours = Ours::with(limits, AllowAll).await;
    let mut silent = Vec::new();
    for number in 0..SILENT {
        let mut client = Client::dial(ours.address).await;
        if number % 2 == 1 {
            // As if a CONNECT began.
            client.send_bytes(&[0x10, 30, 0, 4, b'M']).await;
        }
        silent.push(client);
        if number % 30 == 29 {
            let start = Instant::now();
            Client::clean(ours.address, "healthy").await.disconnect().await;
            assert!(start.elapsed() < Duration::from_millis(600), "{:?}", start.elapsed());
        }
    }
    for client in &mut silent {
        assert!(client.is_closed().await);
    }
    let mut ends = std::collections::BTreeMap::new();
    for _ in 0..SILENT + SILENT / 30 {
        *ends.entry(format!("{:?}", ours.ended().await)).or_insert(0) += 1;
    }
    let count = |ended: &str| ends.get(ended).copied().unwrap_or(0);
    assert_eq!(count("Left"), SILENT / 30, "{ends:?}");
    assert_eq!(count("NoConnect") + count("CrowdedOut"), SILENT, "{ends:?}");
    assert!(count("NoConnect") >= 30 && count("CrowdedOut") >= 200, "{ends:?}");
    assert_eq!(ours.broker.counts().connections, 0);
}

#[tokio::test]
async fn overlapping_filters_bring_one_copy_of_the_highest_qos() {
    let ours = Ours::start().await;
    let mut writer = Client::clean(ours.address, "writer").await;
    let mut reader = Client::clean(ours.address, "reader").await;
    reader.subscribe_all(&[("o/+", AtMostOnce), ("o/#", AtLeastOnce), ("#", AtMostOnce)]).await;
    writer.publish(publish("o/x", "", AtLeastOnce, false)).await;
    assert_eq!(reader.collect(&mut writer).await, ["o/x= qos1"]);
}

#[tokio::test]
async fn qos_2_is_granted_as_1_and_ends_a_publisher() {
    let mut ours = Ours::start().await;
    let mut client = Client::clean(ours.address, "client").await;
    let granted = client.subscribe("t", ExactlyOnce).await;
    assert_eq!(granted, SubscribeReasonCode::Success(AtLeastOnce));
    let mut message = publish("t", "", ExactlyOnce, false);
    message.pkid = 1;
    client.send(Packet::Publish(message)).await;
    assert!(client.is_closed().await);
    assert_eq!(ours.ended().await, Ended::QosTwo);
}

#[tokio::test]
async fn a_second_connect_ends_the_connection_and_sends_its_will() {
    let mut ours = Ours::start().await;
    let mut reader = Client::clean(ours.address, "reader").await;
    reader.subscribe("will", AtMostOnce).await;
    let first = with_will(connect("twice", true), "will", false);
    let (mut twice, _) = Client::connect(ours.address, first).await;
    twice.send(Packet::Connect(connect("reader", true))).await;
    assert_eq!(show(&reader.message().await), "will=gone qos0");
    assert_eq!(ours.ended().await, Ended::SecondConnect);
    reader.ping().await;
}

#[tokio::test]
async fn what_the_owner_forbids_is_refused() {
    let mut ours = Ours::with(Limits::default(), Boards).await;
    let mut client = Client::clean(ours.address, "board").await;
    let codes = client
        .subscribe_all(&[("a", AtLeastOnce), ("forbidden/a", AtMostOnce), ("b", AtMostOnce)])
        .await;
    let granted = SubscribeReasonCode::Success;
    let expected = [granted(AtLeastOnce), SubscribeReasonCode::Failure, granted(AtMostOnce)];
    assert_eq!(codes, expected);
    let mut listener = Client::clean(ours.address, "listener").await;
    listener.subscribe("#", AtMostOnce).await;
    client.publish(publish("forbidden/x", "", AtMostOnce, true)).await;
    assert!(client.is_closed().await);
    assert_eq!(ours.ended().await, Ended::PublishDenied("forbidden/x".into()));
    let willing = with_will(connect("willing", true), "forbidden/will", true);
    let (_, answer) = Client::connect(ours.address, willing).await;
    assert_eq!(answer.code, ConnectReturnCode::NotAuthorized);
    assert_eq!(ours.ended().await, Ended::Refused(Refusal::NotAuthorized));
    let mut writer = Client::clean(ours.address, "writer").await;
    assert!(listener.collect(&mut writer).await.is_empty());
}
