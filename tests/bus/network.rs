//! What boards on the bus are told of the network: soon, once, and all of it.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use model::limits::BUS_PAYLOAD_BYTES_MAX;
use model::network::NetState;
use model::wire::{self, Assembly, Header, MessageKind, NetV1};
use serde_json::{Value, json};

use crate::bed::{Bed, Tap, until};

const SLICES: &str = "discovery.k8s.io/endpointslices";
const BOARDS: usize = 3;
/// So long nothing comes any more.
const QUIET: Duration = Duration::from_secs(1);
const CHANGES: u64 = 40;
/// Far above what is expected on a quiet machine; other tests run beside this one.
const LATE: Duration = Duration::from_secs(1);

/// What a board has heard, as somebody who only listens understands it.
#[derive(Default)]
struct Heard {
    assembly: Assembly,
    state: NetState,
    /// Differences to what comes later than they do.
    ahead: Vec<NetV1>,
    messages: usize,
    bytes: usize,
    at: Option<Instant>,
    /// What it was told last to be the newest revision.
    newest: u64,
}

impl Heard {
    fn take(&mut self, message: &Bytes) {
        let Ok((header, ..)) = Header::split_part(message) else { return };
        if header.kind != MessageKind::Net {
            return;
        }
        let Ok(Some((header, body))) = self.assembly.take(message) else { return };
        let net: NetV1 = wire::decode(header.kind, &body).expect("the master's");
        if net.is_word_of_newest() {
            self.newest = net.revision;
            return;
        }
        self.bytes += message.len();
        self.messages += 1;
        self.ahead.push(net);
        let fits = |it: &NetV1, held: u64| it.base == held || it.base == 0 && it.revision > held;
        while let Some(at) = self.ahead.iter().position(|it| fits(it, self.state.revision)) {
            if let Ok(state) = self.state.apply(self.ahead.swap_remove(at)) {
                (self.state, self.at) = (state, Some(Instant::now()));
            }
        }
        self.ahead.retain(|it| it.base > self.state.revision);
    }
}

fn listener() -> (Arc<Mutex<Heard>>, Tap) {
    let heard: Arc<Mutex<Heard>> = Arc::default();
    let tapped = heard.clone();
    (heard, Box::new(move |message| tapped.lock().expect("no panic").take(message)))
}

fn service() -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "ports": [{ "name": "http", "port": 80 }] } })
}

/// A slice of so many endpoints, one of which is not ready.
fn slice(number: u64, endpoints: u64, unready: u64) -> Value {
    let endpoint = |at: u64| {
        json!({ "addresses": [format!("10.42.{}.{}", 4 * number + at / 250, 1 + at % 250)],
            "nodeName": format!("pi-{}", at % 3), "conditions": { "ready": at != unready },
            "targetRef": { "kind": "Pod", "name": format!("web-6d4cf56db6-{number}-{at}") } })
    };
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("web-{number}"),
            "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_one_endpoint_is_a_small_message_that_all_boards_get_at_once() {
    let bed = Bed::new("net").await;
    let master = bed.master((1, 1)).await;
    let (mut heard, mut boards) = (Vec::new(), Vec::new());
    for number in 0..BOARDS {
        let (listening, tap) = listener();
        boards.push(bed.board_tapped(&format!("pi-{number}"), &master, tap).await);
        heard.push(listening);
    }
    let net = bed.loops.views.net();
    let known = |of: &Arc<Mutex<Heard>>| of.lock().expect("no panic").state.clone();
    let all_know = || heard.iter().all(|it| known(it).revision == net.revision());
    bed.loops.create("/services", "default", service()).await;
    bed.loops.create(SLICES, "default", slice(0, 500, 500)).await;
    until("all know 500 endpoints", || {
        let knows = |it: &Arc<Mutex<Heard>>| {
            known(it).services.get("default/web").is_some_and(|web| web.endpoints.len() == 500)
        };
        heard.iter().all(knows) && net.state().boards.values().all(|board| board.ready)
    })
    .await;
    until("they know all of it", all_know).await;
    // Who asked twice for all of it hears it twice.
    let mut before: Vec<_> = Vec::new();
    loop {
        let now: Vec<_> = heard.iter().map(counted).collect();
        if before == now {
            break;
        }
        before = now;
        tokio::time::sleep(QUIET).await;
    }
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let begun = Instant::now();
        bed.loops.update(SLICES, "default", slice(0, 500, change)).await;
        let written = begun.elapsed();
        let address = Ipv4Addr::new(10, 42, 0, 1 + change as u8);
        until("all know that it is not ready", || {
            heard.iter().all(|it| {
                let web = known(it).services["default/web"].clone();
                web.endpoints.iter().any(|it| it.address == address && !it.ready)
            })
        })
        .await;
        let last = heard.iter().filter_map(|it| it.lock().expect("no panic").at).max();
        took.push((last.expect("heard").saturating_duration_since(begun), written));
    }
    took.sort();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("from the write to the last board, and the write alone: {median:?}, {slowest:?}");
    assert!(median.0 < LATE, "{took:?}");
    for (of, (messages, bytes)) in heard.iter().zip(before) {
        let (messages, bytes) = (counted(of).0 - messages, counted(of).1 - bytes);
        println!("{messages} messages, {bytes} bytes for {CHANGES} changes");
        assert!(messages as u64 <= CHANGES + 2, "{messages} messages: one for each change");
        assert!(bytes / messages < 300, "{bytes} bytes in {messages} messages");
        assert_eq!(known(of), net.state());
    }
    until("they hear that it was the last change", || {
        heard.iter().all(|it| it.lock().expect("no panic").newest == net.revision())
    })
    .await;
    for board in boards {
        board.end().await;
    }
    master.stop().await;
}

fn counted(heard: &Arc<Mutex<Heard>>) -> (usize, usize) {
    let heard = heard.lock().expect("no panic");
    (heard.messages, heard.bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_network_is_fetched_by_those_who_come_late_or_were_away() {
    let bed = Bed::new("net-large").await;
    let master = bed.master((1, 1)).await;
    let early = bed.board("pi-0", &master).await;
    bed.loops.create("/services", "default", service()).await;
    for number in 0..5 {
        bed.loops.create(SLICES, "default", slice(number, 1_000, 1_000)).await;
    }
    let net = bed.loops.views.net().clone();
    until("the master knows it", || {
        net.state().services.get("default/web").is_some_and(|web| web.endpoints.len() == 5_000)
    })
    .await;
    let whole = wire::encode_body(&net.state().whole()).len();
    println!("everything is {whole} bytes");
    assert!(whole > BUS_PAYLOAD_BYTES_MAX, "{whole}");
    until("the board knows it", || early.agent.network() == net.state()).await;
    let late = bed.board("pi-1", &master).await;
    until("the late one knows it", || late.agent.network() == net.state()).await;
    assert!(late.fetched() > 0, "it is too large for the bus");
    // Another master with the same store, and changes while nobody tells the boards.
    master.stop().await;
    bed.loops.delete(SLICES, "default", "web-3").await;
    bed.loops.update(SLICES, "default", slice(4, 1_000, 7)).await;
    let master = bed.master((1, 2)).await;
    early.follow(&master);
    late.follow(&master);
    for board in [&early, &late] {
        until("they know the rest", || {
            let known = board.agent.network();
            known == net.state() && known.services["default/web"].endpoints.len() == 4_000
        })
        .await;
    }
    for board in [early, late] {
        board.end().await;
    }
    master.stop().await;
}
