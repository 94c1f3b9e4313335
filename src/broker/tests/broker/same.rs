//! Scenarios whose transcript must be the same on our broker and on mosquitto.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use rumqttc::mqttbytes::QoS::{AtLeastOnce, AtMostOnce};
use rumqttc::mqttbytes::v4::{ConnectReturnCode, Packet, SubscribeReasonCode};

use crate::client::{Client, connect, publish, show, with_will};
use crate::server::{Mosquitto, Ours};

type Transcript = Pin<Box<dyn Future<Output = Vec<String>>>>;

/// Plays a scenario on both brokers; both must show what is expected.
async fn check(scenario: fn(SocketAddr) -> Transcript, expected: &[&str]) {
    let ours = Ours::start().await;
    assert_eq!(scenario(ours.address).await, expected, "ours");
    let counts = ours.broker.counts();
    assert_eq!(counts.not_retained, 0, "{counts:?}");
    if let Some(mosquitto) = Mosquitto::start().await {
        assert_eq!(scenario(mosquitto.address).await, expected, "mosquitto");
    }
}

/// Writes what came since the last time, in the order of topics where none is promised.
async fn note(
    transcript: &mut Vec<String>,
    what: &str,
    client: &mut Client,
    publisher: &mut Client,
) {
    let mut found = client.collect(publisher).await;
    found.sort();
    transcript.push(format!("{what}: {}", found.join(", ")));
}

#[tokio::test]
async fn retained_messages() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut log = Vec::new();
            let mut writer = Client::clean(at, "writer").await;
            for (topic, payload) in [("a/b", "1"), ("a/c", "2"), ("a/b", "3"), ("x", "4")] {
                writer.publish(publish(topic, payload, AtLeastOnce, true)).await;
            }
            let mut reader = Client::clean(at, "reader").await;
            reader.subscribe("a/+", AtLeastOnce).await;
            note(&mut log, "on subscribing", &mut reader, &mut writer).await;
            reader.subscribe("a/+", AtMostOnce).await;
            note(&mut log, "again, with QoS 0", &mut reader, &mut writer).await;
            writer.publish(publish("a/b", "5", AtLeastOnce, true)).await;
            note(&mut log, "fresh", &mut reader, &mut writer).await;
            writer.publish(publish("a/b", "", AtLeastOnce, true)).await;
            note(&mut log, "cleared", &mut reader, &mut writer).await;
            writer.publish(publish("a/c", "", AtLeastOnce, false)).await;
            note(&mut log, "empty, not retained", &mut reader, &mut writer).await;
            let mut late = Client::clean(at, "late").await;
            late.subscribe("#", AtMostOnce).await;
            note(&mut log, "what is left", &mut late, &mut writer).await;
            log
        })
    }
    let expected = [
        "on subscribing: a/b=3 qos1 retain, a/c=2 qos1 retain",
        "again, with QoS 0: a/b=3 qos0 retain, a/c=2 qos0 retain",
        "fresh: a/b=5 qos0",
        "cleared: a/b= qos0",
        "empty, not retained: a/c= qos0",
        "what is left: a/c=2 qos0 retain, x=4 qos0 retain",
    ];
    check(scenario, &expected).await;
}

#[tokio::test]
async fn wildcard_rules() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let topics =
                ["a", "a/b", "a/b/c", "/a", "a/", "a//b", "b", "$own/a", "$own/a/b", "ä/b", " "];
            let filters = [
                "#", "+", "+/+", "/+", "a/#", "a/+", "a/+/+", "+/b", "a//+", "+/#", "$own/#",
                "$own/+", "+/a", "ä/+", "a/b", "/#",
            ];
            let mut writer = Client::clean(at, "writer").await;
            let mut log = Vec::new();
            for filter in filters {
                let mut reader = Client::clean(at, "reader").await;
                reader.subscribe(filter, AtMostOnce).await;
                for topic in topics {
                    writer.publish(publish(topic, "", AtMostOnce, false)).await;
                }
                // The marker itself is selected by some.
                let mut found = reader.collect(&mut writer).await;
                found.iter_mut().for_each(|shown| *shown = shown.replace("= qos0", ""));
                log.push(format!("{filter} -> {}", found.join(", ")));
                reader.disconnect().await;
            }
            log
        })
    }
    let expected = [
        "# -> a, a/b, a/b/c, /a, a/, a//b, b, ä/b,  ",
        "+ -> a, b,  ",
        "+/+ -> a/b, /a, a/, ä/b",
        "/+ -> /a",
        "a/# -> a, a/b, a/b/c, a/, a//b",
        "a/+ -> a/b, a/",
        "a/+/+ -> a/b/c, a//b",
        "+/b -> a/b, ä/b",
        "a//+ -> a//b",
        "+/# -> a, a/b, a/b/c, /a, a/, a//b, b, ä/b,  ",
        "$own/# -> $own/a, $own/a/b",
        "$own/+ -> $own/a",
        "+/a -> /a",
        "ä/+ -> ä/b",
        "a/b -> a/b",
        "/# -> /a",
    ];
    check(scenario, &expected).await;
}

#[tokio::test]
async fn wills() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut log = Vec::new();
            let mut reader = Client::clean(at, "reader").await;
            reader.subscribe("will/#", AtLeastOnce).await;
            let dial = |topic: &'static str, retain| async move {
                let id = topic.replace('/', "-");
                let connect = with_will(connect(&id, true), topic, retain);
                Client::connect(at, connect).await.0
            };
            drop(dial("will/closed", false).await);
            log.push(show(&reader.message().await));
            dial("will/disconnected", false).await.disconnect().await;
            let mut breaking = dial("will/breach", false).await;
            breaking.send_bytes(&[0x80, 6, 0, 1, 0, 1, b'a', 0]).await;
            log.push(show(&reader.message().await));
            let first = dial("will/taken-over", false).await;
            let second = Client::clean(at, "will-taken-over").await;
            log.push(show(&reader.message().await));
            drop((first, second));
            drop(dial("will/kept", true).await);
            log.push(show(&reader.message().await));
            let mut late = Client::clean(at, "late").await;
            late.subscribe("will/#", AtMostOnce).await;
            log.push(show(&late.message().await));
            let mut writer = Client::clean(at, "writer").await;
            note(&mut log, "left", &mut reader, &mut writer).await;
            log
        })
    }
    let expected = [
        "will/closed=gone qos1",
        "will/breach=gone qos1",
        "will/taken-over=gone qos1",
        "will/kept=gone qos1",
        "will/kept=gone qos0 retain",
        // The reader acknowledged none of them, and none comes twice on one connection.
        "left: ",
    ];
    check(scenario, &expected).await;
}

#[tokio::test]
async fn silence_ends_a_connection_and_sends_its_will() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut reader = Client::clean(at, "reader").await;
            reader.subscribe("will", AtMostOnce).await;
            let mut silent = connect("silent", true);
            silent.keep_alive = 1;
            let start = Instant::now();
            let (mut silent, _) = Client::connect(at, with_will(silent, "will", false)).await;
            let mut pinging = connect("pinging", true);
            pinging.keep_alive = 1;
            let (mut pinging, _) = Client::connect(at, pinging).await;
            let mut ping = tokio::time::interval(Duration::from_millis(500));
            let pinging_on = async {
                loop {
                    ping.tick().await;
                    pinging.ping().await;
                }
            };
            let message = tokio::select! {
                message = reader.message() => message,
                () = pinging_on => unreachable!("it pings for ever"),
            };
            let early = start.elapsed() < Duration::from_millis(1400);
            let closed = silent.is_closed().await;
            pinging.ping().await;
            vec![format!("{} early: {early}, closed: {closed}", show(&message))]
        })
    }
    check(scenario, &["will=gone qos0 early: false, closed: true"]).await;
}

#[tokio::test]
async fn quality_of_service() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut log = Vec::new();
            let mut writer = Client::clean(at, "writer").await;
            let mut reader = Client::clean(at, "reader").await;
            for (filter, qos) in [("zero", AtMostOnce), ("one", AtLeastOnce)] {
                let granted = reader.subscribe(filter, qos).await;
                log.push(format!(
                    "{filter} granted: {}",
                    granted == SubscribeReasonCode::Success(qos)
                ));
            }
            for topic in ["zero", "one"] {
                for qos in [AtMostOnce, AtLeastOnce] {
                    writer.publish(publish(topic, "", qos, false)).await;
                    let message = reader.message().await;
                    log.push(format!("sent {}, {}", qos as u8, show(&message)));
                    reader.acknowledge(&message).await;
                }
            }
            log
        })
    }
    let expected = [
        "zero granted: true",
        "one granted: true",
        "sent 0, zero= qos0",
        "sent 1, zero= qos0",
        "sent 0, one= qos0",
        "sent 1, one= qos1",
    ];
    check(scenario, &expected).await;
}

#[tokio::test]
async fn unacknowledged_messages_come_again_after_a_reconnect() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut log = Vec::new();
            let mut writer = Client::clean(at, "writer").await;
            let (mut reader, _) = Client::connect(at, connect("reader", false)).await;
            reader.subscribe("q", AtLeastOnce).await;
            for payload in ["1", "2", "3"] {
                writer.publish(publish("q", payload, AtLeastOnce, false)).await;
            }
            let mut ids = Vec::new();
            for _ in 0..3 {
                ids.push(reader.message().await);
            }
            reader.acknowledge(&ids[1]).await;
            reader.ping().await;
            drop(reader);
            let (mut reader, answer) = Client::connect(at, connect("reader", false)).await;
            log.push(format!("session present: {}", answer.session_present));
            for before in [&ids[0], &ids[2]] {
                let again = reader.message().await;
                let same = again.pkid == before.pkid;
                log.push(format!("{}, same id: {same}", show(&again)));
                reader.acknowledge(&again).await;
            }
            note(&mut log, "then", &mut reader, &mut writer).await;
            reader.disconnect().await;
            let (mut reader, _) = Client::connect(at, connect("reader", false)).await;
            note(&mut log, "after acknowledging", &mut reader, &mut writer).await;
            log
        })
    }
    let expected = [
        "session present: true",
        "q=1 qos1 dup, same id: true",
        "q=3 qos1 dup, same id: true",
        "then: ",
        "after acknowledging: ",
    ];
    check(scenario, &expected).await;
}

#[tokio::test]
async fn sessions() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut log = Vec::new();
            let mut writer = Client::clean(at, "writer").await;
            for (clean, subscribes) in
                [(false, true), (false, false), (true, false), (false, false), (false, false)]
            {
                let (mut reader, answer) = Client::connect(at, connect("reader", clean)).await;
                log.push(format!("clean {clean}, present {}", answer.session_present));
                if subscribes {
                    reader.subscribe("s/#", AtLeastOnce).await;
                }
                let found = reader.collect(&mut writer).await;
                log.push(format!("waited: {}", found.join(", ")));
                reader.disconnect().await;
                for number in 0..3 {
                    let topic = format!("s/{number}");
                    writer.publish(publish(&topic, "one", AtLeastOnce, false)).await;
                    writer.publish(publish(&topic, "zero", AtMostOnce, false)).await;
                }
            }
            log
        })
    }
    let waited = "waited: s/0=one qos1, s/1=one qos1, s/2=one qos1";
    let expected = [
        "clean false, present false",
        "waited: ",
        "clean false, present true",
        waited,
        "clean true, present false",
        "waited: ",
        "clean false, present false",
        "waited: ",
        "clean false, present true",
        "waited: ",
    ];
    check(scenario, &expected).await;
}

#[tokio::test]
async fn a_second_client_with_the_same_id_takes_over() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut log = Vec::new();
            let mut writer = Client::clean(at, "writer").await;
            for (first, second) in [(true, true), (false, false), (true, false), (false, true)] {
                let id = format!("same-{first}-{second}");
                let (mut one, _) = Client::connect(at, connect(&id, first)).await;
                one.subscribe("t", AtLeastOnce).await;
                let (mut two, answer) = Client::connect(at, connect(&id, second)).await;
                let closed = one.is_closed().await;
                writer.publish(publish("t", "x", AtLeastOnce, false)).await;
                let found = two.collect(&mut writer).await;
                let present = answer.session_present;
                log.push(format!("{id}: closed {closed}, present {present}, {found:?}"));
                two.unsubscribe("t").await;
                two.disconnect().await;
            }
            log
        })
    }
    let expected = [
        "same-true-true: closed true, present false, []",
        "same-false-false: closed true, present true, [\"t=x qos1\"]",
        "same-true-false: closed true, present false, []",
        "same-false-true: closed true, present false, []",
    ];
    check(scenario, &expected).await;
}

#[tokio::test]
async fn unsubscribing() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut log = Vec::new();
            let mut writer = Client::clean(at, "writer").await;
            let mut reader = Client::clean(at, "reader").await;
            reader.subscribe_all(&[("u/a", AtMostOnce), ("u/+", AtMostOnce)]).await;
            reader.unsubscribe("u/#").await;
            reader.unsubscribe("u/+").await;
            for topic in ["u/a", "u/b"] {
                writer.publish(publish(topic, "", AtMostOnce, false)).await;
            }
            note(&mut log, "one left", &mut reader, &mut writer).await;
            reader.unsubscribe("u/a").await;
            writer.publish(publish("u/a", "", AtMostOnce, false)).await;
            note(&mut log, "none left", &mut reader, &mut writer).await;
            log
        })
    }
    check(scenario, &["one left: u/a= qos0", "none left: "]).await;
}

#[tokio::test]
async fn breaches_of_the_protocol_end_the_connection() {
    fn scenario(at: SocketAddr) -> Transcript {
        Box::pin(async move {
            let mut log = Vec::new();
            let first: [(&str, &[u8]); 4] = [
                ("ping first", &[0xc0, 0]),
                ("garbage", b"GET / HTTP/1.1\r\n\r\n"),
                ("a broker's packet", &[0x20, 2, 0, 0]),
                ("length of five bytes", &[0x10, 0xff, 0xff, 0xff, 0xff, 1]),
            ];
            for (what, bytes) in first {
                let mut client = Client::dial(at).await;
                client.send_bytes(bytes).await;
                log.push(format!("{what}: closed {}", client.is_closed().await));
            }
            let then: [(&str, &[u8]); 6] = [
                ("subscribe with flags 0", &[0x80, 6, 0, 1, 0, 1, b'a', 0]),
                ("subscribe to nothing", &[0x82, 2, 0, 1]),
                ("subscribe with QoS 3", &[0x82, 6, 0, 1, 0, 1, b'a', 3]),
                ("publish to a wildcard", &[0x30, 4, 0, 2, b'a', b'#']),
                ("publish with QoS 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
                ("publish with id 0", &[0x32, 5, 0, 1, b'a', 0, 0]),
            ];
            for (what, bytes) in then {
                let mut client = Client::clean(at, "client").await;
                client.send_bytes(bytes).await;
                log.push(format!("{what}: closed {}", client.is_closed().await));
            }
            let (_, answer) = Client::connect(at, connect("", false)).await;
            log.push(format!("no id, persistent: {:?}", answer.code));
            let (_, answer) = Client::connect(at, connect("", true)).await;
            log.push(format!("no id, clean: {:?}", answer.code));
            let mut client = Client::dial(at).await;
            client.send_bytes(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 9, 2, 0, 9, 0, 0]).await;
            let refused = ConnectReturnCode::RefusedProtocolVersion;
            let refused =
                matches!(client.next().await, Some(Packet::ConnAck(a)) if a.code == refused);
            log.push(format!("level 9: refused {refused}, closed {}", client.is_closed().await));
            log
        })
    }
    let expected = [
        "ping first: closed true",
        "garbage: closed true",
        "a broker's packet: closed true",
        "length of five bytes: closed true",
        "subscribe with flags 0: closed true",
        "subscribe to nothing: closed true",
        "subscribe with QoS 3: closed true",
        "publish to a wildcard: closed true",
        "publish with QoS 3: closed true",
        "publish with id 0: closed true",
        "no id, persistent: BadClientId",
        "no id, clean: Success",
        "level 9: refused true, closed true",
    ];
    check(scenario, &expected).await;
}
