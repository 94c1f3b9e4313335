//! A client that sends exactly the packets it is told, and waits for nothing longer than a deadline.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Packet, Publish, Subscribe, SubscribeFilter,
    SubscribeReasonCode, Unsubscribe,
};
use rumqttc::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Nothing that a test waits for takes so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Marks the end of what a test waits for; every client that collects subscribes to it.
const MARKER: &str = "test/marker";

pub(crate) struct Client {
    stream: TcpStream,
    bytes: BytesMut,
    /// Publishes that came while something else was waited for.
    early: VecDeque<Publish>,
    id: u16,
}

pub(crate) fn connect(id: &str, clean: bool) -> Connect {
    let mut connect = Connect::new(id);
    connect.clean_session = clean;
    connect.keep_alive = 60;
    connect
}

pub(crate) fn with_will(mut connect: Connect, topic: &str, retain: bool) -> Connect {
    connect.last_will = Some(LastWill::new(topic, "gone", QoS::AtLeastOnce, retain));
    connect
}

pub(crate) fn publish(topic: &str, payload: &str, qos: QoS, retain: bool) -> Publish {
    let mut publish = Publish::new(topic, qos, payload);
    publish.retain = retain;
    publish
}

/// How the transcripts show a message.
pub(crate) fn show(publish: &Publish) -> String {
    let Publish { topic, payload, qos, retain, dup, .. } = publish;
    let payload = String::from_utf8_lossy(payload);
    let flag = |set: bool, name: &'static str| if set { name } else { "" };
    let (retain, dup) = (flag(*retain, " retain"), flag(*dup, " dup"));
    format!("{topic}={payload} qos{}{retain}{dup}", *qos as u8)
}

impl Client {
    /// A stream on which nothing was said.
    pub(crate) async fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a broker listens");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, bytes: BytesMut::new(), early: VecDeque::new(), id: 0 }
    }

    /// Connects, and gives the answer.
    pub(crate) async fn connect(address: SocketAddr, connect: Connect) -> (Self, ConnAck) {
        let mut client = Self::dial(address).await;
        client.send(Packet::Connect(connect)).await;
        match client.next().await {
            Some(Packet::ConnAck(answer)) => (client, answer),
            other => panic!("no CONNACK but {other:?}"),
        }
    }

    /// A clean session that nothing refuses.
    pub(crate) async fn clean(address: SocketAddr, id: &str) -> Self {
        let (client, answer) = Self::connect(address, connect(id, true)).await;
        assert_eq!(answer.code, ConnectReturnCode::Success);
        assert!(!answer.session_present);
        client
    }

    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).expect("a packet");
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        let written = timeout(DEADLINE, self.stream.write_all(bytes)).await.expect("in time");
        // A broker that has closed the stream is seen by the next read.
        let _ = written;
    }

    /// The two directions of the stream, for clients that do both at once.
    pub(crate) fn split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        assert!(self.bytes.is_empty() && self.early.is_empty(), "something was read already");
        self.stream.into_split()
    }

    /// The next packet; None when the broker has closed the stream.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        timeout(DEADLINE, self.read()).await.expect("a packet or the end in time")
    }

    async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.bytes, usize::MAX) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => (),
                Err(error) => panic!("the broker sent garbage: {error}"),
            }
            // A reset is an end as well.
            if self.stream.read_buf(&mut self.bytes).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next packet that is no message; messages wait for [`Self::message`].
    async fn answer(&mut self) -> Packet {
        loop {
            match self.next().await {
                Some(Packet::Publish(publish)) => self.early.push_back(publish),
                Some(packet) => return packet,
                None => panic!("the broker closed the stream"),
            }
        }
    }

    /// The next message, not acknowledged.
    pub(crate) async fn message(&mut self) -> Publish {
        if let Some(publish) = self.early.pop_front() {
            return publish;
        }
        match self.next().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("no message but {other:?}"),
        }
    }

    pub(crate) async fn acknowledge(&mut self, publish: &Publish) {
        if publish.qos != QoS::AtMostOnce {
            let ack = rumqttc::mqttbytes::v4::PubAck::new(publish.pkid);
            self.send(Packet::PubAck(ack)).await;
        }
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        loop {
            match self.next().await {
                Some(Packet::Publish(_)) => (),
                Some(packet) => panic!("not closed but {packet:?}"),
                None => return true,
            }
        }
    }

    fn next_id(&mut self) -> u16 {
        self.id += 1;
        self.id
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) -> SubscribeReasonCode {
        self.subscribe_all(&[(filter, qos)]).await.remove(0)
    }

    pub(crate) async fn subscribe_all(
        &mut self,
        filters: &[(&str, QoS)],
    ) -> Vec<SubscribeReasonCode> {
        let filters = filters.iter().map(|(path, qos)| SubscribeFilter::new((*path).into(), *qos));
        let mut subscribe = Subscribe::new_many(filters);
        subscribe.pkid = self.next_id();
        let id = subscribe.pkid;
        self.send(Packet::Subscribe(subscribe)).await;
        match self.answer().await {
            Packet::SubAck(answer) if answer.pkid == id => answer.return_codes,
            other => panic!("no SUBACK but {other:?}"),
        }
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) {
        let mut unsubscribe = Unsubscribe::new(filter);
        unsubscribe.pkid = self.next_id();
        let id = unsubscribe.pkid;
        self.send(Packet::Unsubscribe(unsubscribe)).await;
        match self.answer().await {
            Packet::UnsubAck(answer) if answer.pkid == id => (),
            other => panic!("no UNSUBACK but {other:?}"),
        }
    }

    /// Publishes, and waits for the PUBACK of QoS 1.
    pub(crate) async fn publish(&mut self, mut publish: Publish) {
        if publish.qos == QoS::AtMostOnce {
            self.send(Packet::Publish(publish)).await;
            return;
        }
        publish.pkid = self.next_id();
        let id = publish.pkid;
        self.send(Packet::Publish(publish)).await;
        match self.answer().await {
            Packet::PubAck(answer) if answer.pkid == id => (),
            other => panic!("no PUBACK but {other:?}"),
        }
    }

    pub(crate) async fn ping(&mut self) {
        self.send(Packet::PingReq).await;
        assert_eq!(self.answer().await, Packet::PingResp);
    }

    pub(crate) async fn disconnect(mut self) {
        self.send(Packet::Disconnect).await;
        assert!(self.is_closed().await);
    }

    /// All messages that were published before this call, acknowledged and shown. Messages to one
    /// client keep their order, so a marker published last arrives last.
    pub(crate) async fn collect(&mut self, publisher: &mut Client) -> Vec<String> {
        self.subscribe(MARKER, QoS::AtMostOnce).await;
        publisher.publish(publish(MARKER, "", QoS::AtMostOnce, false)).await;
        let mut found = Vec::new();
        loop {
            let message = self.message().await;
            if message.topic == MARKER {
                return found;
            }
            self.acknowledge(&message).await;
            found.push(show(&message));
        }
    }
}
