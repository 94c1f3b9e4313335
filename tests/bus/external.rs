//! The bus over Debian's mosquitto: the same boards, everything sealed, nobody in between believed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kumquat::io::bus::Waiting;
use kumquat::io::bus::client::{BrokerOptions, Keys};
use kumquat::io::bus::external::{BrokerUrl, SessionGrant, Sessions, SharedGrant};
use kumquat::io::clock::Clock;
use kumquat::io::tls::{trusting_config, unverified_config};
use kumquat::master::audit::{Audit, Note};
use kumquat::master::contacts;
use logic::contact::Contact;
use model::timestamp::Timestamp;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::json;
use tokio::sync::watch;

use crate::bed::{Bed, Board, CLUSTER, Master, deployment, until};
use crate::mosquitto::Mosquitto;

/// Plays the tunnel: asks the keys of the present master directly; another master is another tunnel.
struct Given {
    board: String,
    sessions: watch::Receiver<Sessions>,
}

impl Keys for Given {
    fn session(&self) -> Waiting<'_, Result<(SessionGrant, Waiting<'static, ()>), String>> {
        let mut sessions = self.sessions.clone();
        let now = sessions.borrow_and_update().clone();
        Box::pin(async move {
            let grant = now.grant(&self.board, [7; 32]).ok_or("no room")?;
            let lost: Waiting<'static, ()> = Box::pin(async move {
                if sessions.changed().await.is_err() {
                    std::future::pending().await
                }
            });
            Ok((grant, lost))
        })
    }

    fn shared(&self) -> Waiting<'_, Result<SharedGrant, String>> {
        Box::pin(async move { Ok(self.sessions.borrow().shared()) })
    }
}

fn url(broker: &Mosquitto) -> BrokerUrl {
    broker.url().parse().expect("an address")
}

/// A bed whose bus is over mosquitto.
struct Site {
    bed: Bed,
    broker: Mosquitto,
    sessions: watch::Sender<Sessions>,
}

impl Site {
    async fn new(name: &str) -> Option<(Self, Master)> {
        Self::with(Bed::new(name).await, Mosquitto::local)
    }

    fn with(
        bed: Bed,
        start: impl FnOnce(&std::path::Path) -> Option<Mosquitto>,
    ) -> Option<(Self, Master)> {
        let broker = start(bed.folder.path())?;
        let sessions = Sessions::new().expect("randomness");
        let master = bed.master_by((1, 1), &url(&broker), &sessions);
        Some((Self { bed, broker, sessions: watch::Sender::new(sessions) }, master))
    }

    async fn board(&self, name: &str, master: &Master) -> Board {
        self.board_with(name, master, None).await
    }

    async fn board_with(
        &self,
        name: &str,
        master: &Master,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Board {
        let keys = Given { board: name.to_owned(), sessions: self.sessions.subscribe() };
        let broker = BrokerOptions {
            url: url(&self.broker),
            tls,
            keys: Arc::new(keys),
            is_leaders: self.bed.authority.judge(),
        };
        self.bed.board_over(name, master.signed.record().clone(), Some(broker)).await
    }
}

/// What somebody who is connected to the broker sees: topic and payload.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Listens to everything on the broker.
async fn snoop(port: u16) -> (AsyncClient, Seen) {
    let mut options = MqttOptions::new("snoop", "127.0.0.1", port);
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, 64);
    client.subscribe("#", QoS::AtMostOnce).await.expect("room");
    let seen: Seen = Arc::default();
    let (heard, ready) = (seen.clone(), Arc::new(tokio::sync::Notify::new()));
    let subscribed = ready.clone();
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            match event {
                Event::Incoming(Packet::SubAck(_)) => subscribed.notify_one(),
                Event::Incoming(Packet::Publish(message)) => {
                    let entry = (message.topic, message.payload.to_vec());
                    heard.lock().expect("no panic").push(entry);
                }
                _ => {}
            }
        }
    });
    ready.notified().await;
    (client, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_is_for_whoever_reads_the_broker() {
    let bed = Bed::new("audit").await;
    let (audit, lines) = Audit::to_lines();
    *bed.audit.lock().expect("no panic") = Some(lines);
    let Some((site, _master)) = Site::with(bed, Mosquitto::local) else { return };
    let (_client, seen) = snoop(site.broker.address().port()).await;
    let topic = format!("kumquat/{CLUSTER}/nodes/boss/audit");
    let source = "10.0.0.7:4321".parse().expect("an address");
    // What is told while the master is not on the broker yet is lost, as all of the bus.
    until("a line is heard", || {
        let mut told = audit.begin(Clock::starting_at(Timestamp(0)), "id", source);
        let note = Note { verb: "create", user: "jane".into(), ..Note::default() };
        told.note().expect("somebody reads").clone_from(&note);
        told.done(201, None);
        let seen = seen.lock().expect("no panic");
        seen.iter().any(|(heard, payload)| {
            *heard == topic
                && serde_json::from_slice::<serde_json::Value>(payload)
                    .is_ok_and(|line| line["user"] == "jane" && line["code"] == 201)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_run_over_a_broker_that_can_read_nothing() {
    let Some((site, master)) = Site::new("external").await else { return };
    let (client, seen) = snoop(site.broker.address().port()).await;
    let bed = &site.bed;
    let names = ["pi-1", "pi-2", "pi-3"];
    let mut boards = Vec::new();
    for name in names {
        boards.push(site.board(name, &master).await);
    }
    let begun = Instant::now();
    bed.loops.create("apps/deployments", "default", deployment("web", 6, json!({}))).await;
    until("six pods run", || bed.running() == 6).await;
    println!("six pods run on three boards after {:?}", begun.elapsed());
    let uids = bed.pod_uids();
    boards[0].announced.wait_for(Option::is_some).await.expect("the client runs");
    assert_eq!(boards[0].announced.borrow().clone(), Some(master.signed.clone()));

    let captured = seen.lock().expect("no panic").clone();
    let kinds: Vec<&str> =
        captured.iter().filter_map(|(topic, _)| topic.rsplit('/').next()).collect();
    for kind in ["hello", "beat", "status", "desired", "leader"] {
        assert!(kinds.contains(&kind), "{kind} went over the broker: {kinds:?}");
    }
    for (topic, payload) in captured.iter().filter(|(topic, _)| !topic.ends_with("/leader")) {
        let text = String::from_utf8_lossy(payload);
        for word in ["web-", "pi-1", "default", "containers", "conditions"] {
            assert!(!text.contains(word), "{topic} says {word}");
        }
    }
    // Everything that was ever said, said again; and forgeries of all kinds.
    for (topic, payload) in &captured {
        let mut damaged = payload.clone();
        if let Some(last) = damaged.last_mut() {
            *last ^= 1;
        }
        let plain = b"not sealed at all".to_vec();
        for payload in [payload.clone(), damaged, plain, Vec::new()] {
            if !topic.ends_with("/leader") {
                client.publish(topic, QoS::AtMostOnce, false, payload).await.expect("room");
            }
        }
    }
    for name in names {
        let will = format!("kumquat/home/nodes/{name}/up/will");
        client.publish(will, QoS::AtMostOnce, false, Vec::new()).await.expect("room");
    }
    bed.loops.create("apps/deployments", "default", deployment("late", 3, json!({}))).await;
    until("nine pods run", || bed.running() == 9).await;
    assert!(uids.is_subset(&bed.pod_uids()), "no pod was replaced");
    for (name, board) in names.iter().zip(&boards) {
        assert!(board.lives() && board.state.borrow().connected_to.is_some(), "{name}");
        assert_eq!(board.state.borrow().trouble, None, "{name} was never away");
    }
    for name in ["web", "late"] {
        bed.loops.delete("apps/deployments", "default", name).await;
    }
    until("no pod is left", || bed.loops.views.world().pods().count() == 0).await;
    for board in boards {
        board.end().await;
    }
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_board_that_vanishes_is_missed_by_its_will() {
    let Some((site, master)) = Site::new("external-will").await else { return };
    let bed = &site.bed;
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(contacts::run(bed.contacts(), stopped));
    let boards = [site.board("pi-1", &master).await, site.board("pi-2", &master).await];
    let contact = |name: &str| {
        let seen = bed.contacts().seen();
        seen.into_iter().find(|(board, _)| board == name).map(|(_, seen)| seen.contact)
    };
    for name in ["pi-1", "pi-2"] {
        until("it is heard", || contact(name) == Some(Contact::Heard)).await;
    }
    let begun = Instant::now();
    boards[0].vanish();
    until("it is lost", || contact("pi-1") == Some(Contact::Lost)).await;
    let taken = begun.elapsed();
    println!("a board that vanished is lost after {taken:?}");
    assert!(taken < Duration::from_secs(5), "silence alone takes nine seconds: {taken:?}");
    assert_eq!(contact("pi-2"), Some(Contact::Heard));
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boards_come_back_when_the_broker_or_the_master_was_away() {
    let Some((mut site, master)) = Site::new("external-back").await else { return };
    let boards = [site.board("pi-1", &master).await, site.board("pi-2", &master).await];
    let web = deployment("web", 4, json!({}));
    site.bed.loops.create("apps/deployments", "default", web).await;
    until("four pods run", || site.bed.running() == 4).await;
    let begun = Instant::now();
    site.broker.restart();
    let more = deployment("more", 2, json!({}));
    site.bed.loops.create("apps/deployments", "default", more).await;
    until("six pods run", || site.bed.running() == 6).await;
    println!("the broker was away: pods made meanwhile run after {:?}", begun.elapsed());
    master.stop().await;
    // Another master knows no session; its boards learn that from their tunnels.
    let sessions = Sessions::new().expect("randomness");
    let begun = Instant::now();
    let second = site.bed.master_by((1, 2), &url(&site.broker), &sessions);
    site.sessions.send_replace(sessions);
    let last = deployment("last", 2, json!({}));
    site.bed.loops.create("apps/deployments", "default", last).await;
    until("eight pods run", || site.bed.running() == 8).await;
    println!("with another master eight pods run after {:?}", begun.elapsed());
    for board in boards {
        board.end().await;
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_over_tls_is_checked_when_somebody_vouches_for_it() {
    let names = || vec!["127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names()).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(names()).expect("a certificate").cert.pem();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let bed = Bed::new("external-tls").await;
    let start =
        |folder: &std::path::Path| Mosquitto::local_tls(folder, certificate.clone(), key.clone());
    let Some((site, master)) = Site::with(bed, start) else { return };
    let vouched = trusting_config(&certificate).expect("an authority");
    let anybody = site.board_with("pi-1", &master, Some(unverified_config())).await;
    let checked = site.board_with("pi-2", &master, Some(vouched)).await;
    let wary = site.board_with("pi-3", &master, Some(trusting_config(&other).expect("pem"))).await;
    for (name, board) in [("pi-1", &anybody), ("pi-2", &checked)] {
        until("it is on the bus", || board.state.borrow().connected_to.is_some()).await;
        until("its Node", || site.bed.loops.views.world().node(name).is_some()).await;
    }
    until("it does not believe the broker", || wary.state.borrow().trouble.is_some()).await;
    assert!(wary.state.borrow().connected_to.is_none());
    for board in [anybody, checked, wary] {
        board.end().await;
    }
    master.stop().await;
}
