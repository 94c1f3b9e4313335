//! Two and three boards over real TLS on loopback: the log, a snapshot, and who is not listened to.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use model::ids::{ObjectKey, Uid};
use model::masters::{LogIdV1, MemberV1, MembersV1, Part, SnapshotHeadV1, VoteV1};
use model::timestamp::Timestamp;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::*;
use crate::io::peer::{self, ALPN, Answer, Caller, PeerHandler};
use crate::io::store::{
    Applied, Base, Change, GroupOptions, MemberChange, Op, Options, Store, Timing,
};
use crate::io::tls::{BoardKey, Clients, Credentials, Pki};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kq-elector-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("made");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Counts who told the time.
#[derive(Default)]
struct Clocks(AtomicUsize);

impl GroupClock for Clocks {
    fn say(&self) -> ClusterTimeV1 {
        ClusterTimeV1 { cluster: Timestamp::from_seconds(7), ..ClusterTimeV1::default() }
    }

    fn hear(&self, _from: MemberId, time: ClusterTimeV1) {
        assert_eq!(time.cluster, Timestamp::from_seconds(7));
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The port of a master: only what this module takes.
struct Port(Arc<Elector>);

impl PeerHandler for Port {
    fn admits(&self, _board: &BoardPeer) -> bool {
        true
    }

    fn handle(self: Arc<Self>, caller: Arc<Caller>, request: Request<Incoming>) -> Answer {
        let elector = self.0.clone();
        Box::pin(async move {
            assert!(Elector::takes(request.uri().path()));
            let board = caller.board.clone().expect("only boards get here");
            elector.answer(&board, caller.address, request).await
        })
    }
}

struct Board {
    id: MemberId,
    credentials: Credentials,
    elector: Arc<Elector>,
    clocks: Arc<Clocks>,
    folder: PathBuf,
    _stop: watch::Sender<bool>,
}

struct Cluster {
    pki: Pki,
    book: watch::Sender<Book>,
    evicted: watch::Sender<Evicted>,
    folder: Folder,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let pki = Pki::open(&folder.0, Timestamp::from_seconds(1_795_305_600)).expect("made");
        let evicted = watch::Sender::default();
        Self { pki, book: watch::Sender::new(Arc::default()), evicted, folder }
    }

    fn credentials(&self, name: &str, is_master: bool) -> Credentials {
        let key = BoardKey::generate().expect("made");
        let certificate = self.pki.issue_board(name, &key.public_key(), is_master).expect("issued");
        Credentials::new(&key, &certificate, self.pki.ca_certificate()).expect("good")
    }

    /// A master that listens, and stands in the book.
    async fn board(&self, id: u64) -> Board {
        let name = format!("b{id}");
        let (id, credentials) = (MemberId(id), self.credentials(&name, true));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let peer_port = listener.local_addr().expect("bound").port();
        self.book.send_modify(|book| {
            Arc::make_mut(book).push(MasterAtV1 {
                member: id,
                board: name.clone(),
                key: credentials.peer().key,
                addresses: vec![Ipv4Addr::LOCALHOST],
                api_port: 0,
                mqtt_port: 0,
                peer_port,
                part: Part::Voter,
            });
        });
        let folder = self.folder.0.join(name);
        let clocks = Arc::new(Clocks::default());
        let elector =
            Elector::new(self.options(id, &credentials, folder.join("incoming"), &clocks));
        let (stop, stopping) = watch::channel(false);
        let tls = credentials.server_config(Clients::Optional, ALPN).expect("good");
        tokio::spawn(peer::serve(listener, tls, Arc::new(Port(elector.clone())), stopping));
        Board { id, credentials, elector, clocks, folder, _stop: stop }
    }

    fn options(
        &self,
        own: MemberId,
        credentials: &Credentials,
        incoming: PathBuf,
        clocks: &Arc<Clocks>,
    ) -> ElectorOptions {
        let tls = credentials.client_config(ALPN).ok();
        ElectorOptions {
            evicted: self.evicted.subscribe(),
            own,
            epoch: 1,
            cluster: [5; 16],
            tls: Arc::new(move || tls.clone()),
            book: self.book.subscribe(),
            clock: clocks.clone(),
            incoming,
        }
    }
}

impl Board {
    fn member(&self) -> MemberV1 {
        let key = self.credentials.peer().key;
        MemberV1 { id: self.id, board: format!("b{}", self.id), key, part: Part::Voter }
    }

    async fn join(&self, store: &Store, found: bool) -> Group {
        let options = GroupOptions {
            own: self.id,
            epoch: 1,
            found: found.then(|| self.member()),
            timing: Timing::default(),
            wire: Arc::new(Wire(self.elector.clone())),
        };
        let group = store.join_group(options).await.expect("joins");
        self.elector.seat(Some(group.clone()));
        group
    }

    fn store(&self, log_bytes: u64) -> Store {
        let mut options = Options::new(self.folder.join("store"));
        options.log_bytes = log_bytes;
        Store::open(options).expect("opens")
    }
}

fn put(nth: usize, bytes: usize) -> Op {
    let name = format!("o{nth}");
    let key = ObjectKey { kind: "/pods".into(), namespace: "a".into(), name };
    let body = Some(Bytes::from(vec![b'x'; bytes]));
    Op { key, base: Base::Absent, uid: Uid([1; 16]), body, keep_old: false }
}

async fn until(text: &str, mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "waited in vain: {text}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_and_a_snapshot_travel_between_masters() {
    let cluster = Cluster::new("log");
    let (first, second) = (cluster.board(1).await, cluster.board(2).await);
    let store = first.store(256 * 1024);
    store.lead_alone(Box::new(())).await.expect("leads");
    // Enough that the start of the log is cut off: the second board needs a snapshot.
    for nth in 0..400 {
        store.propose(vec![put(nth, 32 * 1024)]).await.expect("written");
    }
    let log = first.folder.join("store/log").join(format!("{:016x}.log", 1));
    until("the log is cut", || !log.exists()).await;
    let group = first.join(&store, true).await;
    let other = second.store(256 * 1024);
    let second_group = second.join(&other, false).await;
    group.change(MemberChange::AddLearner(second.member())).await.expect("added");
    until("the second board has the state", || other.version() == store.version()).await;
    let voters = BTreeSet::from([first.id, second.id]);
    let change = MemberChange::Voters { voters, keep_as_learner: true };
    group.change(change).await.expect("changed");
    for nth in 400..410 {
        store.propose(vec![put(nth, 100)]).await.expect("written by both");
    }
    until("the second board follows", || other.version() == store.version()).await;
    let found = other.get(&put(405, 0).key).expect("read").expect("there");
    assert_eq!(found.body.len(), 100);
    assert!(first.clocks.0.load(Ordering::Relaxed) > 5, "time travels with the messages");
    assert!(!group.heard().is_empty() && second_group.heard().is_empty());
    let left = std::fs::read_dir(second.folder.join("incoming")).expect("made").count();
    assert_eq!(left, 0, "what has arrived is not left behind");
    for (board, group, store) in [(first, group, store), (second, second_group, other)] {
        board.elector.seat(None);
        group.stop().await;
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_anybody_else_are_refused() {
    let cluster = Cluster::new("fence");
    let (first, second) = (cluster.board(1).await, cluster.board(2).await);
    let store = first.store(1 << 24);
    store.lead_alone(Box::new(())).await.expect("leads");
    let group = first.join(&store, true).await;
    let soon = Duration::from_secs(5);
    let ask = async |options: ElectorOptions| {
        let wire = Wire(Elector::new(options));
        wire.ask(first.id, GroupAskV1::Standing, soon).await
    };
    let options = |own, credentials: &Credentials| {
        cluster.options(own, credentials, PathBuf::new(), &Arc::default())
    };
    let good = ask(options(second.id, &second.credentials)).await;
    assert!(matches!(good, Ok(GroupAnswerV1::Standing { epoch: 1, .. })), "{good:?}");
    let stranger = cluster.credentials("b2", true);
    let refused = |fence| Ok(GroupAnswerV1::Refused(fence));
    assert_eq!(ask(options(second.id, &stranger)).await, refused(FenceV1::Sender));
    assert_eq!(ask(options(MemberId(9), &second.credentials)).await, refused(FenceV1::Sender));
    let older = ElectorOptions { epoch: 0, ..options(second.id, &second.credentials) };
    assert_eq!(ask(older).await, refused(FenceV1::Epoch { is: 1 }));
    let foreign = ElectorOptions { cluster: [6; 16], ..options(second.id, &second.credentials) };
    assert_eq!(ask(foreign).await, refused(FenceV1::Cluster));
    let worker = cluster.credentials("b2", false);
    let outside = ask(options(second.id, &worker)).await;
    assert!(outside.as_ref().is_err_and(|why| why.to_string().contains("403")), "{outside:?}");
    let asking = Elector::new(options(second.id, &second.credentials));
    let other_epoch = ElectorOptions { epoch: 0, ..options(second.id, &second.credentials) };
    let all = [first.id, second.id, MemberId(9)];
    let there = Present { members: BTreeSet::from([first.id]), epoch: 1 };
    assert_eq!(asking.present(all, soon).await, there);
    assert_eq!(Elector::new(other_epoch).present(all, soon).await, there, "it says its epoch");
    // A person wrote the object without its rows: the group itself still knows its members.
    group.change(MemberChange::AddLearner(second.member())).await.expect("added");
    let rows = cluster.book.send_replace(Arc::default());
    let own = rows.to_vec();
    let own = watch::Sender::new(Arc::new(own));
    let with_rows = |own_id, credentials: &Credentials| ElectorOptions {
        book: own.subscribe(),
        ..options(own_id, credentials)
    };
    let known = ask(with_rows(second.id, &second.credentials)).await;
    assert!(matches!(known, Ok(GroupAnswerV1::Standing { .. })), "{known:?}");
    assert_eq!(ask(with_rows(second.id, &stranger)).await, refused(FenceV1::Sender));
    cluster.book.send_replace(rows);
    // The book names another key for that address: whoever answers there is not the member.
    let right = cluster.book.borrow().clone();
    cluster.book.send_modify(|book| Arc::make_mut(book)[0].key = [0; 32]);
    let wrong = ask(options(second.id, &second.credentials)).await;
    assert!(wrong.is_err_and(|why| why.to_string().contains("another board")));
    cluster.book.send_replace(right);
    let key = second.credentials.peer().key;
    cluster.evicted.send_replace(Arc::new(BTreeSet::from([key])));
    let options = ElectorOptions {
        evicted: watch::Sender::<Evicted>::default().subscribe(),
        ..options(second.id, &second.credentials)
    };
    assert_eq!(ask(options).await, refused(FenceV1::Sender), "a board that was thrown out");
    let shunned = Wire(first.elector.clone()).ask(second.id, GroupAskV1::Standing, soon).await;
    assert!(shunned.as_ref().is_err_and(|why| why.to_string().contains("evicted")), "{shunned:?}");
    cluster.evicted.send_replace(Arc::default());
    let options = |own, credentials: &Credentials| {
        cluster.options(own, credentials, PathBuf::new(), &Arc::default())
    };
    first.elector.seat(None);
    let away = ask(options(second.id, &second.credentials)).await;
    assert_eq!(away, refused(FenceV1::Away));
    assert_eq!(asking.present(all, soon).await, Present::default(), "it holds no log");
    group.stop().await;
    store.close().await;
}

/// Takes connections and says nothing.
async fn tarpit() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_row_is_old_is_found_while_nobody_leads() {
    let cluster = Cluster::new("places");
    let (first, second, third) =
        (cluster.board(1).await, cluster.board(2).await, cluster.board(3).await);
    let port = |member: MemberId| first.elector.at(member).expect("in the book").peer_port;
    let there = [second.id, third.id].map(|member| (Ipv4Addr::LOCALHOST, port(member)));
    let (_silent, nobody) = tarpit().await;
    cluster.book.send_modify(|book| {
        Arc::make_mut(book)[1..].iter_mut().for_each(|at| at.peer_port = nobody);
    });
    let soon = Duration::from_secs(5);
    // A member of a group whose other members it does not hear of.
    let store = first.store(1 << 24);
    let group = first.join(&store, false).await;
    let named = there.map(SocketAddr::from).to_vec();
    until("nobody leads", || first.elector.is_lost()).await;
    // More forged records than are kept, then the true one; one of nobody.
    for number in 0..10_000 {
        first.elector.hint(
            second.id,
            &[Ipv4Addr::LOCALHOST],
            if number % 2 == 0 { nobody } else { 1 },
        );
    }
    first.elector.hint(second.id, &[there[0].0], there[0].1);
    first.elector.hint(MemberId(9), &[there[0].0], there[0].1);
    let found = first.elector.connect(second.id, soon).await.expect("where its record says");
    assert_eq!(found.master().key, second.credentials.peer().key);
    assert!(first.elector.connect(MemberId(9), soon).await.is_err());
    // Whoever proves to be another member where one is looked for is found by that.
    first.elector.name(named);
    first.elector.connect(third.id, soon).await.expect("where the user said");
    // Who is reached reaches back, whatever its row says, and says where it has met others.
    second.elector.places().reached(third.id, there[1].into());
    first.elector.places().keep(|member| member != third.id);
    first.elector.name(Vec::new());
    let wire = Wire(first.elector.clone());
    let asked = wire.ask(second.id, GroupAskV1::Standing, soon).await;
    assert!(asked.is_ok(), "{asked:?}");
    assert_eq!(
        second.elector.places().came_from(first.id).map(|at| at.ip()),
        Some(Ipv4Addr::LOCALHOST.into())
    );
    assert_eq!(second.elector.places().came_from(third.id), None);
    first.elector.connect(third.id, soon).await.expect("where another member has met it");
    first.elector.seat(None);
    group.stop().await;
    store.close().await;
}

/// Holds the store's thread up as soon as something is written.
struct Gate(std::sync::mpsc::Receiver<()>, Arc<AtomicUsize>);

impl Applied for Gate {
    fn applied(&mut self, _change: &Change) {
        self.1.fetch_add(1, Ordering::SeqCst);
        // An error: the test is over.
        let _ = self.0.recv();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_installed_stays_although_its_sender_went_and_another_comes() {
    let cluster = Cluster::new("gone");
    let (first, second) = (cluster.board(1).await, cluster.board(2).await);
    let store = second.store(1 << 24);
    let (open, gate) = std::sync::mpsc::channel();
    let held_up = Arc::new(AtomicUsize::new(0));
    store.lead_alone(Box::new(Gate(gate, held_up.clone()))).await.expect("leads");
    let group = second.join(&store, true).await;
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.propose(vec![put(1, 10)]).await }
    });
    until("the store is held up", || held_up.load(Ordering::SeqCst) > 0).await;
    let file = |nth: u8| {
        let path = first.folder.join(format!("file-{nth}"));
        let bytes = vec![nth; 1000];
        std::fs::create_dir_all(&first.folder).expect("made");
        std::fs::write(&path, &bytes).expect("written");
        let head = SnapshotHeadV1 {
            vote: VoteV1 { term: 99, of: first.id, granted: true },
            last: LogIdV1 { term: 98, index: 1_000 },
            members: MembersV1::sole(first.id, "b1".into(), [1; 32]),
            epoch: 1,
            base: 0,
            bytes: 1000,
            sha256: Sha256::digest(&bytes).into(),
        };
        SnapshotFile { path, head }
    };
    let arrived = file(1);
    let digest: String = arrived.head.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = second.folder.join("incoming").join(format!("{digest}.part"));
    let is_whole = || std::fs::metadata(&part).is_ok_and(|part| part.len() == 1000);
    let sending = tokio::spawn({
        let wire = Wire(first.elector.clone());
        let to = second.id;
        async move { wire.send_snapshot(to, arrived).await }
    });
    until("the snapshot has arrived", is_whole).await;
    sending.abort();
    let wire = Wire(first.elector.clone());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        let other = wire.send_snapshot(second.id, file(2)).await;
        assert!(other.is_err_and(|why| why.to_string().contains("another snapshot is arriving")));
        assert!(is_whole(), "it was taken away from the store");
        sleep(Duration::from_millis(20)).await;
    }
    drop(open);
    let _ = writing.await.expect("ends");
    second.elector.seat(None);
    group.stop().await;
    store.close().await;
}
