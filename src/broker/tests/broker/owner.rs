//! What the owner of the broker does with it: publish, subscribe, presence, disconnect, stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{AllowAll, Broker, Ended, Limits, Peer};
use bytes::Bytes;
use rumqttc::mqttbytes::QoS::{AtLeastOnce, AtMostOnce};
use tokio::time::timeout;

use crate::client::{Client, DEADLINE, connect, publish, show, with_will};
use crate::server::Ours;

#[tokio::test]
async fn the_owner_publishes_and_subscribes() {
    let ours = Ours::start().await;
    assert_eq!(ours.broker.publish("kept/a", Bytes::from_static(b"1"), true).await, 0);
    assert_eq!(ours.broker.publish("not/#/valid", Bytes::new(), false).await, 0);
    let mut client = Client::clean(ours.address, "client").await;
    client.subscribe("kept/#", AtLeastOnce).await;
    assert_eq!(show(&client.message().await), "kept/a=1 qos0 retain");
    let mut local = ours.broker.subscribe("+/a", 8);
    let kept = local.recv().await.expect("the retained one");
    assert_eq!((&*kept.topic, &kept.payload[..], kept.retain), ("kept/a", &b"1"[..], true));
    assert_eq!(ours.broker.publish("kept/a", Bytes::from_static(b"2"), false).await, 2);
    assert_eq!(show(&client.message().await), "kept/a=2 qos0");
    assert!(!local.recv().await.expect("the fresh one").retain);
    client.publish(publish("up/a", "3", AtLeastOnce, false)).await;
    assert_eq!(&*local.recv().await.expect("the client's").topic, "up/a");
    drop(local);
    assert_eq!(ours.broker.publish("x/a", Bytes::new(), false).await, 0);
}

#[tokio::test]
async fn a_slow_local_subscription_makes_publishers_wait_but_not_for_ever() {
    let stall = Duration::from_millis(1000);
    let ours = Ours::with(Limits { stall, ..Limits::default() }, AllowAll).await;
    let mut local = ours.broker.subscribe("l", 4);
    let mut writer = Client::clean(ours.address, "writer").await;
    for number in 0..200 {
        writer.publish(publish("l", &number.to_string(), AtMostOnce, false)).await;
    }
    let start = Instant::now();
    for number in 0..200 {
        let message = timeout(DEADLINE, local.recv()).await.expect("in time").expect("open");
        assert_eq!(message.payload, number.to_string().as_bytes(), "none is lost while it reads");
    }
    assert!(start.elapsed() < 5 * stall, "a waiting publisher is woken, not timed");
    for number in 0..5 {
        let start = Instant::now();
        ours.broker.publish("l", Bytes::new(), false).await;
        let waited = start.elapsed() >= stall;
        assert_eq!(waited, number >= 4, "message {number} took {:?}", start.elapsed());
    }
    assert_eq!(local.missed(), 1);
}

#[tokio::test]
async fn presence_tells_who_comes_goes_and_is_replaced() {
    let ours = Ours::start().await;
    let (mut early, _) = Client::connect(ours.address, connect("early", false)).await;
    let mut events = ours.broker.presence();
    let mut next = async || {
        let event = timeout(DEADLINE, events.recv()).await.expect("in time").expect("open");
        (event.client.to_string(), event.connected, event.connection)
    };
    let (_, connected, first) = next().await;
    assert!(connected);
    let (again, answer) = Client::connect(ours.address, connect("early", false)).await;
    assert!(answer.session_present && early.is_closed().await);
    let (client, connected, second) = next().await;
    assert!(connected && client == "early" && second > first);
    let (third, _) = Client::connect(ours.address, connect("early", false)).await;
    assert!({ again }.is_closed().await);
    third.disconnect().await;
    let (client, connected, third) = next().await;
    assert!(!connected && client == "early" && third > second, "replaced and gone, both unseen");
    let mut other = Client::clean(ours.address, "other").await;
    assert!(next().await.1);
    assert!(ours.broker.disconnect("other") && other.is_closed().await);
    let (client, connected, _) = next().await;
    assert!(!connected && client == "other");
    assert!(!ours.broker.disconnect("other") && !ours.broker.disconnect("early"));
}

#[tokio::test]
async fn a_removed_client_leaves_its_will() {
    let mut ours = Ours::start().await;
    let mut local = ours.broker.subscribe("will", 4);
    let (mut client, _) =
        Client::connect(ours.address, with_will(connect("c", true), "will", false)).await;
    assert!(ours.broker.disconnect("c"));
    assert_eq!(local.recv().await.expect("its will").payload, "gone");
    assert!(client.is_closed().await);
    assert_eq!(ours.ended().await, Ended::Removed);
}

/// mosquitto sends no will when a persistent session is taken over; the standard does (3.1.2.5).
#[tokio::test]
async fn the_will_of_who_is_taken_over_comes_before_its_successor_speaks() {
    for clean in [true, false] {
        let ours = Ours::start().await;
        let mut local = ours.broker.subscribe("#", 4);
        let willing = with_will(connect("c", clean), "will", false);
        let (mut first, _) = Client::connect(ours.address, willing).await;
        let (mut second, _) = Client::connect(ours.address, connect("c", clean)).await;
        second.publish(publish("hello", "", AtLeastOnce, false)).await;
        assert!(first.is_closed().await);
        for expected in ["will", "hello"] {
            let message = timeout(DEADLINE, local.recv()).await.expect("in time").expect("open");
            assert_eq!(&*message.topic, expected);
        }
        second.disconnect().await;
        assert_eq!(ours.broker.publish("end", Bytes::new(), false).await, 1);
        assert_eq!(&*local.recv().await.expect("open").topic, "end", "one will, not two");
    }
}

#[tokio::test]
async fn stopping_ends_everything_and_sends_no_wills() {
    let mut ours = Ours::start().await;
    let mut local = ours.broker.subscribe("#", 4);
    let mut events = ours.broker.presence();
    let mut clients = Vec::new();
    for number in 0..20 {
        let connect = with_will(connect(&format!("c{number}"), number % 2 == 0), "will", true);
        clients.push(Client::connect(ours.address, connect).await.0);
    }
    clients.push(Client::dial(ours.address).await);
    // The stream that says nothing has been accepted.
    while ours.broker.counts().connections < 21 {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    ours.broker.stop().await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(ours.broker.counts().connections, 0);
    for client in &mut clients {
        assert!(client.is_closed().await);
        assert_eq!(ours.ended().await, Ended::Stopped);
    }
    assert_eq!(local.recv().await, None, "no will");
    while let Some(event) = events.recv().await {
        assert!(!event.connected, "{event:?}");
    }
    assert!(Client::dial(ours.address).await.is_closed().await);
    assert_eq!(ours.ended().await, Ended::Stopped);
    assert_eq!(ours.broker.subscribe("late", 1).recv().await, None);
}

#[tokio::test]
async fn a_connection_whose_task_is_dropped_leaves_its_will_and_its_place() {
    let broker = Broker::new(Limits::default(), Arc::new(AllowAll));
    let mut local = broker.subscribe("will", 4);
    let (mut client, stream) = tokio::io::duplex(4096);
    let serving = tokio::spawn({
        let broker = broker.clone();
        let peer = Peer { name: None, address: ([127, 0, 0, 1], 1).into() };
        async move { broker.serve(stream, peer).await }
    });
    let mut bytes = bytes::BytesMut::new();
    with_will(connect("c", true), "will", false).write(&mut bytes).expect("a packet");
    tokio::io::AsyncWriteExt::write_all(&mut client, &bytes).await.expect("written");
    let mut answer = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut client, &mut answer).await.expect("a CONNACK");
    serving.abort();
    assert_eq!(local.recv().await.expect("its will").payload, "gone");
    let _ = serving.await;
    assert_eq!((broker.counts().connections, broker.counts().sessions), (0, 0));
}
