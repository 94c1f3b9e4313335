//! `kumquat up --join` on a link with a stranger: it is heard first, and lets in whoever asks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use kumquat::io::net;
use model::leader::{LeaderRecord, SignedRecord};

use super::*;
use crate::board::{BRIDGE, Board, possible};
use crate::forgery::{announcement, send_all};
use crate::switch::Switch;

/// Generous, for a machine that is busy.
const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const PORT: u16 = 7443;
/// Longer than the words must have been there.
const STALLS: Duration = Duration::from_secs(6);
const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 253);

/// The stranger's second address: it takes its time once, then it says "you are in".
struct Slow {
    joining: Arc<Joining>,
    pending: PendingBoards,
    has_stalled: AtomicBool,
    let_in: Arc<AtomicUsize>,
}

impl PeerHandler for Slow {
    fn admits(&self, _board: &BoardPeer) -> bool {
        true
    }

    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer {
        Box::pin(async move {
            if !Joining::takes(request.uri().path()) {
                return whoami(&caller);
            }
            if !self.has_stalled.swap(true, Ordering::Relaxed) {
                tokio::time::sleep(STALLS).await;
            }
            for waiting in self.pending.list() {
                let (name, words) = (&waiting.name, &waiting.words);
                self.joining.approve(name, words, TokenRole::Worker).await.expect("let in");
            }
            let answer = self.joining.answer(&caller, request).await;
            self.let_in
                .fetch_add(usize::from(answer.status() == StatusCode::OK), Ordering::Relaxed);
            answer
        })
    }
}

fn until(what: &str, board: &Board, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WITHIN, "not in time: {what}\n{}", board.log());
        std::thread::sleep(POLL);
    }
}

/// What the stranger announces: one leader with two addresses.
fn pretended(cluster: &str, own: Ipv4Addr, pin: [u8; 32]) -> SignedRecord {
    let record = LeaderRecord {
        cluster: cluster.to_owned(),
        epoch: 1,
        term: 1,
        name: "stranger".into(),
        addresses: vec![own, OTHER_ADDRESS],
        api_port: 6443,
        mqtt_port: 8883,
        peer_port: PORT,
        ca: pin[..16].try_into().expect("half of it"),
    };
    SignedRecord::sign(record, |_| b"its own".to_vec()).expect("valid")
}

#[test]
fn a_stranger_with_two_addresses_that_is_heard_first_gets_no_board() {
    if !possible("a_stranger_with_two_addresses_that_is_heard_first_gets_no_board") {
        return;
    }
    let switch = Switch::new("twoaddrs");
    let own = switch.listen();
    let more = || net::Links::open()?.add_address(BRIDGE, OTHER_ADDRESS, 24);
    net::inside(switch.namespace(), more).expect("a second address");
    let runtime = net::inside(switch.namespace(), || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
    });
    let runtime = runtime.expect("a runtime on the switch");
    let cluster = switch.cluster().to_owned();
    let at = SocketAddr::from((own, PORT));
    let stranger = runtime.spawn(async move { Master::of("two-addresses", &cluster, at).await });
    let stranger = runtime.block_on(stranger).expect("it starts");
    // Whoever calls there waits, until the first address has said what it says.
    let second = runtime.spawn(TcpListener::bind((OTHER_ADDRESS, PORT)));
    let second = runtime.block_on(second).expect("a task").expect("port");

    // The true master is there, and not heard yet.
    let (mut master, mut waits) = (switch.board(1), switch.board(2));
    master.up(&[]);
    master.unplug();
    waits.start(&["--join"]);
    let packet = announcement("stranger", &pretended(switch.cluster(), own, stranger.pki.pin()));
    until("the stranger is asked", &waits, || {
        send_all([packet.clone()].into_iter(), &switch);
        !stranger.pending.list().is_empty()
    });
    let let_in = Arc::new(AtomicUsize::new(0));
    let door = Arc::new(Slow {
        joining: Arc::clone(&stranger.joining),
        pending: stranger.pending.clone(),
        has_stalled: AtomicBool::new(false),
        let_in: Arc::clone(&let_in),
    });
    let (stop, pki) = (stranger.loops.stop.subscribe(), Arc::clone(&stranger.pki));
    let folder = stranger.folder.clone();
    let serving = async move {
        let own = Credentials::founder(&pki, &folder, "pi-1").expect("own credentials");
        let tls = own.server_config(Clients::Optional, ALPN).expect("TLS");
        peer::serve(second, tls, door, stop).await
    };
    runtime.spawn(serving);
    master.replug();

    until("both are seen", &waits, || waits.log().contains("several clusters answer"));
    let said = let_in.load(Ordering::Relaxed);
    until("it goes on saying so", &waits, || let_in.load(Ordering::Relaxed) >= said + 2);
    assert!(waits.log().contains("words="), "{}", waits.log());
    assert!(!waits.data_dir().join("board.json").exists(), "{}", waits.log());
}
