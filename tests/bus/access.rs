//! What a board may do on the bus, and what not: every class of topic, of identity and of certificate.

#![allow(missing_docs, unreachable_pub, reason = "parts of a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kumquat::io::bus;
use kumquat::io::tls::Credentials;
use model::join::{BOARD_KEY, EVICTED, key_text};
use model::wire::{self, CommandV1, Header, HelloV1, MessageKind};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS,
    SubscribeReasonCode, TlsConfiguration, Transport,
};

use crate::bed::{Authority, Bed, Master, until};

const DEADLINE: Duration = Duration::from_secs(10);

/// Any MQTT client, with what it shows and claims.
struct Client {
    requests: AsyncClient,
    events: EventLoop,
}

impl Client {
    fn new(id: &str, master: &Master, tls: Arc<rustls::ClientConfig>) -> Self {
        let mut options = MqttOptions::new(id, "127.0.0.1", master.port);
        let tls = TlsConfiguration::Rustls(tls);
        options.set_transport(Transport::tls_with_config(tls));
        options.set_keep_alive(Duration::from_secs(5));
        let (requests, events) = AsyncClient::new(options, 8);
        Self { requests, events }
    }

    fn of(credentials: &Credentials, id: &str, master: &Master) -> Self {
        Self::new(id, master, credentials.client_config(&[bus::ALPN]).expect("TLS"))
    }

    async fn next(&mut self) -> Result<Event, ConnectionError> {
        tokio::time::timeout(DEADLINE, self.events.poll()).await.expect("something happens")
    }

    /// Waits for the CONNACK.
    async fn connect(mut self) -> Result<Self, ConnectionError> {
        let event = self.next().await?;
        assert!(matches!(event, Event::Incoming(Packet::ConnAck(_))), "{event:?}");
        Ok(self)
    }

    async fn subscribe(&mut self, filter: &str) -> SubscribeReasonCode {
        self.requests.try_subscribe(filter, QoS::AtMostOnce).expect("room");
        loop {
            if let Event::Incoming(Packet::SubAck(answer)) = self.next().await.expect("connected") {
                return answer.return_codes[0];
            }
        }
    }

    /// Publishes; whether the connection is still good for a ping after it.
    async fn publish(&mut self, topic: &str, payload: Vec<u8>, retain: bool) -> bool {
        self.requests.try_publish(topic, QoS::AtMostOnce, retain, payload).expect("room");
        // A subscription behind it is answered only by a connection that lives.
        self.requests.try_subscribe("kumquat/home/leader", QoS::AtMostOnce).expect("room");
        loop {
            match self.next().await {
                Ok(Event::Incoming(Packet::SubAck(_))) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Payloads of what arrives until it is quiet for a moment.
    async fn hears(&mut self, within: Duration) -> Vec<(String, Bytes)> {
        let begun = Instant::now();
        let mut heard = Vec::new();
        while let Some(left) = within.checked_sub(begun.elapsed()) {
            if let Ok(Ok(Event::Incoming(Packet::Publish(message)))) =
                tokio::time::timeout(left, self.events.poll()).await
            {
                heard.push((message.topic, message.payload));
            }
        }
        heard
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_reaches_its_own_topics_and_no_others() {
    let bed = Bed::new("topics").await;
    let master = bed.master((1, 1)).await;
    let credentials = bed.authority.credentials("pi-1", false);
    let other = bed.authority.credentials("pi-2", false);

    let mut board =
        Client::of(&credentials, "pi-1", &master).connect().await.expect("it is let in");
    let may = ["leader", "all/#", "all/net", "nodes/pi-1/down/#", "nodes/pi-1/down/beat"];
    for filter in may {
        let code = board.subscribe(&format!("kumquat/home/{filter}")).await;
        assert_eq!(code, SubscribeReasonCode::Success(QoS::AtMostOnce), "{filter}");
    }
    let may_not = [
        "#",
        "+/+/leader",
        "kumquat/#",
        "kumquat/home/#",
        "kumquat/home/+",
        "kumquat/home/nodes/#",
        "kumquat/home/nodes/+/down/#",
        "kumquat/home/nodes/+/up/#",
        "kumquat/home/nodes/pi-1/up/#",
        "kumquat/home/nodes/pi-1/#",
        "kumquat/home/nodes/pi-2/down/#",
        "kumquat/home/nodes/pi-2/down/desired",
        "kumquat/home/nodes/pi-2/up/status",
        "kumquat/home/nodes/pi-11/down/#",
        "kumquat/other/leader",
        "kumquat/other/all/#",
        "$SYS/#",
        "$SYS/broker/clients",
    ];
    for filter in may_not {
        assert_eq!(board.subscribe(filter).await, SubscribeReasonCode::Failure, "{filter}");
    }

    // Each is published by a connection of its own, because it ends that.
    let mut listener = Client::of(&other, "pi-2", &master).connect().await.expect("it is let in");
    for filter in ["leader", "all/#", "nodes/pi-2/down/#"] {
        listener.subscribe(&format!("kumquat/home/{filter}")).await;
    }
    let header = Header { kind: MessageKind::Command, epoch: 9, term: 9, sequence: 1 };
    let forged = wire::encode(header, &CommandV1::SayHello);
    let targets = [
        "kumquat/home/leader",
        "kumquat/home/all/net",
        "kumquat/home/all",
        "kumquat/home/nodes/pi-2/up/hello",
        "kumquat/home/nodes/pi-2/up/beat",
        "kumquat/home/nodes/pi-2/up/status",
        "kumquat/home/nodes/pi-2/up/will",
        "kumquat/home/nodes/pi-2/down/desired",
        "kumquat/home/nodes/pi-2/down/command",
        "kumquat/home/nodes/pi-2/down/beat",
        "kumquat/home/nodes/pi-1/down/desired",
        "kumquat/home/nodes/pi-1/up/other",
        "kumquat/home/nodes/pi-1/up/status/x",
        "kumquat/home/nodes/pi-1",
        "kumquat/other/nodes/pi-1/up/hello",
        "$SYS/broker/clients",
        "anything",
    ];
    for topic in targets {
        let client = Client::of(&credentials, "pi-1", &master);
        let mut client = client.connect().await.expect("it is let in");
        assert!(!client.publish(topic, forged.clone(), false).await, "{topic} was taken");
        let client = Client::of(&credentials, "pi-1", &master);
        let mut client = client.connect().await.expect("it is let in");
        assert!(!client.publish(topic, forged.clone(), true).await, "{topic} was retained");
    }
    for leaf in ["hello", "beat", "status", "will"] {
        let mut client =
            Client::of(&credentials, "pi-1", &master).connect().await.expect("it is let in");
        let topic = format!("kumquat/home/nodes/pi-1/up/{leaf}");
        assert!(client.publish(&topic, b"nonsense".to_vec(), false).await, "{topic} is its own");
    }
    let heard = listener.hears(Duration::from_millis(500)).await;
    let forged: Vec<_> = heard.iter().filter(|(_, payload)| *payload == forged).collect();
    assert!(forged.is_empty(), "{forged:?}");
    assert!(
        heard.iter().any(|(topic, _)| topic.ends_with("/down/beat")
            || topic.ends_with("leader")
            || topic.ends_with("/down/command")),
        "it does hear what is its own: {heard:?}"
    );
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_is_who_its_certificate_says() {
    let bed = Bed::new("names").await;
    let master = bed.master((1, 1)).await;
    let credentials = bed.authority.credentials("pi-1", false);
    for id in ["pi-2", "boss", "", "pi-1/x", "+", "#", "$SYS"] {
        let refused = Client::of(&credentials, id, &master).connect().await.err();
        let expected = matches!(
            refused,
            Some(ConnectionError::ConnectionRefused(ConnectReturnCode::BadClientId))
        );
        assert!(expected, "{id:?}: {refused:?}");
    }
    // The master's own name, with a certificate of its own authority.
    let own = bed.authority.credentials("boss", true);
    let refused = Client::of(&own, "boss", &master).connect().await.err();
    let expected = matches!(
        refused,
        Some(ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized))
    );
    assert!(expected, "{refused:?}");
    // A key that is not admitted any more, somebody else's authority, no certificate.
    let evicted = bed.authority.credentials("evicted", false);
    let refused = Client::of(&evicted, "evicted", &master).connect().await.err();
    assert!(refused.is_some_and(|error| !is_mqtt(&error)), "evicted");
    let theirs = Authority::new(&bed.folder.path().join("theirs")).credentials("pi-1", true);
    let refused = Client::of(&theirs, "pi-1", &master).connect().await.err();
    assert!(refused.is_some_and(|error| !is_mqtt(&error)), "somebody else's board");
    let theirs = forger(&bed, &bed.authority.credentials("pi-1", false));
    let refused = Client::new("pi-1", &master, theirs).connect().await.err();
    assert!(refused.is_some_and(|error| !is_mqtt(&error)), "no certificate");
    // And the one that may.
    assert!(Client::of(&credentials, "pi-1", &master).connect().await.is_ok());
    master.stop().await;
}

/// Whether the peer got as far as to speak MQTT.
fn is_mqtt(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ConnectionRefused(_) | ConnectionError::NotConnAck(_))
}

/// Trusts the cluster, and shows nothing.
fn forger(_: &Bed, of_cluster: &Credentials) -> Arc<rustls::ClientConfig> {
    let pin = of_cluster.pin();
    kumquat::io::tls::pinned_client_config(pin, &[bus::ALPN]).expect("TLS")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_is_turned_out_with_its_key() {
    let bed = Bed::new("turned-out").await;
    let master = bed.master((1, 1)).await;
    let (first, second) =
        (bed.authority.credentials("pi-1", false), bed.authority.credentials("pi-1", false));
    let mut client = Client::of(&first, "pi-1", &master).connect().await.expect("let in");
    // A Node that a person deleted comes back with the key of the board that says Hello.
    for boot in 1..=2 {
        let node = serde_json::json!({ "metadata": { "name": "pi-1" }, "status": {} }).to_string();
        let hello = HelloV1 { boot, desired_revision: 0, node: node.into() };
        let header = Header { kind: MessageKind::Hello, epoch: 1, term: 1, sequence: boot };
        let bytes = wire::encode(header, &hello);
        assert!(client.publish("kumquat/home/nodes/pi-1/up/hello", bytes, false).await);
        until("its Node has its key", || {
            let nodes = bed.loops.list("/nodes");
            let key = key_text(&first.peer().key);
            nodes.iter().any(|node| node["metadata"]["annotations"][BOARD_KEY] == key)
        })
        .await;
        if boot == 1 {
            bed.loops.delete("/nodes", "", "pi-1").await;
        }
    }
    let refused = Client::of(&second, "pi-1", &master).connect().await.err();
    assert!(refused.is_some_and(|error| !is_mqtt(&error)), "another card of the same name");

    let evicted = serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": EVICTED }, "data": { key_text(&first.peer().key): "stolen" } });
    bed.loops.create("/configmaps", "kube-system", evicted).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while client.next().await.is_ok() {}
    });
    ended.await.expect("the connection of an evicted board ends");
    let refused = Client::of(&first, "pi-1", &master).connect().await.err();
    assert!(refused.is_some_and(|error| !is_mqtt(&error)), "it does not come back");
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_cannot_introduce_another() {
    let bed = Bed::new("hello").await;
    let master = bed.master((1, 1)).await;
    let credentials = bed.authority.credentials("pi-1", false);
    let mut client = Client::of(&credentials, "pi-1", &master).connect().await.expect("let in");
    for (name, boot) in [("pi-2", 1), ("boss", 1), ("pi-1", 2)] {
        let node = serde_json::json!({ "metadata": { "name": name }, "status": {} }).to_string();
        let hello = HelloV1 { boot, desired_revision: 0, node: node.into() };
        let header = Header { kind: MessageKind::Hello, epoch: 1, term: 1, sequence: boot };
        let bytes = wire::encode(header, &hello);
        assert!(client.publish("kumquat/home/nodes/pi-1/up/hello", bytes, false).await);
    }
    // Messages of one board are taken in order: when the last has been, so have the others.
    until("its own Node", || bed.loops.views.world().node("pi-1").is_some()).await;
    assert_eq!(bed.loops.views.world().nodes().count(), 1);
    master.stop().await;
}
