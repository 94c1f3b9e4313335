//! Every bound, and what happens at it.

use broker::{AllowAll, Ended, Limits};
use rumqttc::mqttbytes::QoS::{AtLeastOnce, AtMostOnce};
use rumqttc::mqttbytes::v4::SubscribeReasonCode;

use crate::client::{Client, connect, publish};
use crate::server::Ours;

#[tokio::test]
async fn connections_beyond_the_bound_end_at_once() {
    let limits = Limits { connections_max: 3, ..Limits::default() };
    let mut ours = Ours::with(limits, AllowAll).await;
    let mut clients = Vec::new();
    for id in ["a", "b", "c"] {
        clients.push(Client::clean(ours.address, id).await);
    }
    assert!(Client::dial(ours.address).await.is_closed().await);
    assert_eq!(ours.ended().await, Ended::TooMany);
    clients.remove(0).disconnect().await;
    assert_eq!(ours.ended().await, Ended::Left);
    clients.push(Client::clean(ours.address, "d").await);
    for client in &mut clients {
        client.ping().await;
    }
}

#[tokio::test]
async fn the_session_that_is_away_longest_is_forgotten() {
    let limits = Limits { sessions_kept_max: 2, ..Limits::default() };
    let mut ours = Ours::with(limits, AllowAll).await;
    let mut clients = Vec::new();
    for id in ["a", "b", "c"] {
        let (client, _) = Client::connect(ours.address, connect(id, false)).await;
        client.disconnect().await;
        ours.ended().await;
    }
    assert_eq!(ours.broker.counts().sessions, 2);
    for (id, present) in [("a", false), ("b", true), ("c", true)] {
        let (client, answer) = Client::connect(ours.address, connect(id, false)).await;
        assert_eq!(answer.session_present, present, "{id}");
        clients.push(client);
    }
    assert_eq!(ours.broker.counts().sessions, 3, "those that are connected do not count");
}

#[tokio::test]
async fn filters_beyond_their_bounds_are_answered_with_a_failure() {
    let limits = Limits {
        subscriptions_max: 3,
        topic_levels_max: 4,
        topic_bytes_max: 20,
        ..Limits::default()
    };
    let ours = Ours::with(limits, AllowAll).await;
    let mut client = Client::clean(ours.address, "client").await;
    let granted = SubscribeReasonCode::Success(AtMostOnce);
    let cases = [
        ("1/2/3/4/5", SubscribeReasonCode::Failure),
        ("12345678901234567890/", SubscribeReasonCode::Failure),
        ("a/#/b", SubscribeReasonCode::Failure),
        ("", SubscribeReasonCode::Failure),
        ("a", granted),
        ("b", granted),
        ("b", granted),
        ("1/2/3/4", granted),
        ("c", SubscribeReasonCode::Failure),
        ("a", granted),
    ];
    for (filter, expected) in cases {
        assert_eq!(client.subscribe(filter, AtMostOnce).await, expected, "{filter}");
    }
    client.unsubscribe("b").await;
    assert_eq!(client.subscribe("c", AtMostOnce).await, granted);
}

#[tokio::test]
async fn topics_beyond_their_bounds_end_the_publisher() {
    let limits = Limits { topic_levels_max: 4, topic_bytes_max: 20, ..Limits::default() };
    let mut ours = Ours::with(limits, AllowAll).await;
    for topic in ["1/2/3/4/5", "12345678901234567890x", "nul\0"] {
        let mut client = Client::clean(ours.address, "client").await;
        client.publish(publish(topic, "", AtMostOnce, false)).await;
        assert!(client.is_closed().await);
        assert!(matches!(ours.ended().await, Ended::Malformed(_)), "{topic}");
    }
}

#[tokio::test]
async fn retained_messages_beyond_the_bound_are_delivered_but_not_kept() {
    let limits = Limits { retained_max: 3, retained_bytes_max: 1000, ..Limits::default() };
    let ours = Ours::with(limits, AllowAll).await;
    let mut reader = Client::clean(ours.address, "reader").await;
    reader.subscribe("r/#", AtMostOnce).await;
    let mut writer = Client::clean(ours.address, "writer").await;
    for number in 0..5 {
        writer.publish(publish(&format!("r/{number}"), "x", AtLeastOnce, true)).await;
    }
    writer.publish(publish("r/0", &"x".repeat(1000), AtLeastOnce, true)).await;
    assert_eq!(reader.collect(&mut writer).await.len(), 6);
    let counts = ours.broker.counts();
    assert_eq!((counts.retained, counts.not_retained), (2, 3), "{counts:?}");
    let mut late = Client::clean(ours.address, "late").await;
    late.subscribe("r/#", AtMostOnce).await;
    let expected = ["r/1=x qos0 retain", "r/2=x qos0 retain"];
    assert_eq!(late.collect(&mut writer).await, expected);
}

#[tokio::test]
async fn more_retained_messages_than_a_queue_holds_end_who_asks_for_them() {
    let limits = Limits { queue_messages_max: 50, ..Limits::default() };
    let mut ours = Ours::with(limits, AllowAll).await;
    for number in 0..30 {
        ours.broker.publish(&format!("r/{number}"), "x".into(), true).await;
    }
    let mut greedy = Client::clean(ours.address, "greedy").await;
    let filters = ["#", "r/#", "r/+", "+/#", "+/+"].map(|filter| (filter, AtMostOnce));
    let mut subscribe = rumqttc::mqttbytes::v4::Subscribe::new_many(
        filters
            .map(|(path, qos)| rumqttc::mqttbytes::v4::SubscribeFilter { path: path.into(), qos }),
    );
    subscribe.pkid = 1;
    greedy.send(rumqttc::mqttbytes::v4::Packet::Subscribe(subscribe)).await;
    assert_eq!(ours.ended().await, Ended::Stalled);
    let mut modest = Client::clean(ours.address, "modest").await;
    modest.subscribe("r/#", AtMostOnce).await;
    let mut writer = Client::clean(ours.address, "writer").await;
    assert_eq!(modest.collect(&mut writer).await.len(), 30);
}

#[tokio::test]
async fn a_client_that_is_away_keeps_the_first_messages_up_to_the_bound() {
    let limits = Limits { queue_bytes_max: 1000, packet_bytes_max: 1000, ..Limits::default() };
    let ours = Ours::with(limits, AllowAll).await;
    let (mut reader, _) = Client::connect(ours.address, connect("reader", false)).await;
    reader.subscribe("q", AtLeastOnce).await;
    reader.disconnect().await;
    let mut writer = Client::clean(ours.address, "writer").await;
    for number in 0..50 {
        writer.publish(publish("q", &number.to_string(), AtLeastOnce, false)).await;
    }
    let (mut reader, _) = Client::connect(ours.address, connect("reader", false)).await;
    let found = reader.collect(&mut writer).await;
    let expected: Vec<_> = (0..found.len()).map(|number| format!("q={number} qos1")).collect();
    assert_eq!(found, expected);
    assert!((10..=20).contains(&found.len()), "{}", found.len());
    let lost = ours.broker.counts().lost;
    assert_eq!(lost, 50 - found.len() as u64);
}

#[tokio::test]
async fn unacknowledged_messages_stay_within_the_window() {
    let limits = Limits { inflight_max: 5, ..Limits::default() };
    let ours = Ours::with(limits, AllowAll).await;
    let mut reader = Client::clean(ours.address, "reader").await;
    reader.subscribe("w", AtLeastOnce).await;
    let mut writer = Client::clean(ours.address, "writer").await;
    for number in 0..12 {
        writer.publish(publish("w", &number.to_string(), AtLeastOnce, false)).await;
    }
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(reader.message().await);
    }
    // A sixth would come before the answer to a ping that is sent once it could have come.
    reader.ping().await;
    reader.ping().await;
    for number in 5..12 {
        reader.acknowledge(&open[number - 5]).await;
        open.push(reader.message().await);
        assert_eq!(open[number].payload, number.to_string().as_bytes());
    }
}

#[tokio::test]
async fn all_queues_together_stay_within_the_bound_of_held_bytes() {
    let limits = Limits {
        held_bytes_max: 400_000,
        queue_bytes_max: 200_000,
        packet_bytes_max: 50_000,
        ..Limits::default()
    };
    let ours = Ours::with(limits, AllowAll).await;
    let mut writer = Client::clean(ours.address, "writer").await;
    for number in 0..20 {
        let id = format!("away-{number}");
        let (mut client, _) = Client::connect(ours.address, connect(&id, false)).await;
        client.subscribe(&format!("to/{number}"), AtLeastOnce).await;
        client.disconnect().await;
    }
    for _ in 0..40 {
        for number in 0..20 {
            let topic = format!("to/{number}");
            writer.publish(publish(&topic, &"x".repeat(5000), AtLeastOnce, false)).await;
        }
    }
    let counts = ours.broker.counts();
    assert!(counts.lost > 0 && counts.held_bytes > 300_000, "{counts:?}");
    assert!(counts.held_bytes < 900_000, "{counts:?}");
}
