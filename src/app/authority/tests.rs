//! Boards of one cluster and two authorities, over loopback.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use model::leader::{LeaderRecord, SignedRecord};
use model::masters::{CertifiedV1, MasterAtV1, MastersV1, MemberId, Part};
use model::timestamp::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::app::dirs::Dirs;
use crate::app::master::LEADER;
use crate::io::peer::{self, ALPN, Answer, Caller, PeerHandler};
use crate::io::tls::{BoardKey, Clients, Credentials, Pki};
use crate::master::elector::Book;

const NOW: Timestamp = Timestamp::from_seconds(1_795_305_600);

/// An authority in its own folder.
pub(in crate::app) struct Authority {
    pub(in crate::app) pki: Pki,
    folder: PathBuf,
}

impl Authority {
    pub(in crate::app) fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("kumquat-authority-{name}-{}", std::process::id()));
        let _none = fs::remove_dir_all(&folder);
        let pki = Pki::open(&folder, NOW).expect("made");
        Self { pki, folder }
    }

    pub(in crate::app) fn board(&self, name: &str, key: &BoardKey) -> Credentials {
        let certificate = self.pki.issue_board(name, &key.public_key(), true).expect("signed");
        Credentials::new(key, &certificate, self.pki.ca_certificate()).expect("good")
    }

    /// The record of a leader.
    pub(in crate::app) fn record(&self, name: &str, epoch: u64) -> SignedRecord {
        let record = LeaderRecord {
            cluster: "c".into(),
            epoch,
            term: 1,
            name: name.into(),
            addresses: vec![Ipv4Addr::LOCALHOST],
            api_port: 1,
            mqtt_port: 2,
            peer_port: 3,
            ca: self.pki.pin()[..16].try_into().expect("half of it"),
        };
        SignedRecord::sign(record, |bytes| self.pki.sign(bytes)).expect("valid")
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// Masters that are known by their keys.
pub(in crate::app) struct Known(pub(in crate::app) Vec<MasterAtV1>);

impl Pinned for Known {
    fn is_board(&self, board: &BoardPeer) -> bool {
        self.is_master(board)
    }

    fn is_master(&self, board: &BoardPeer) -> bool {
        self.0.iter().any(|at| at.board == board.name && at.key == board.key)
    }
}

/// It knows every board.
struct Everybody;

impl Pinned for Everybody {
    fn is_board(&self, _: &BoardPeer) -> bool {
        true
    }

    fn is_master(&self, _: &BoardPeer) -> bool {
        true
    }
}

/// A master that says who leads, and gives certificates.
pub(in crate::app) struct Master {
    pub(in crate::app) at: MasterAtV1,
    _stop: watch::Sender<bool>,
}

struct Says {
    record: SignedRecord,
    certified: Vec<u8>,
    masters: Vec<MasterAtV1>,
}

impl PeerHandler for Says {
    fn admits(&self, _: &BoardPeer) -> bool {
        true
    }

    fn handle(self: Arc<Self>, _: Arc<Caller>, request: Request<Incoming>) -> Answer {
        let answer = match request.uri().path() {
            LEADER => self.record.to_string().into_bytes(),
            "/v1/masters" => {
                let (leader, masters) = (Some(self.record.clone()), self.masters.clone());
                serde_json::to_vec(&MastersV1 { leader, masters }).expect("JSON")
            }
            CERTIFY => self.certified.clone(),
            path => panic!("nobody asks for {path}"),
        };
        Box::pin(std::future::ready(peer::text(http::StatusCode::OK, answer)))
    }
}

impl Master {
    pub(in crate::app) async fn start(
        authority: &Authority,
        name: &str,
        record: &SignedRecord,
        certified: &[u8],
    ) -> Self {
        Self::of(authority, name, record, (certified, Vec::new())).await
    }

    /// The same, which names those masters.
    async fn of(
        authority: &Authority,
        name: &str,
        record: &SignedRecord,
        (certified, masters): (&[u8], Vec<MasterAtV1>),
    ) -> Self {
        let key = BoardKey::generate().expect("made");
        let shown = authority.board(name, &key).pinning(Arc::new(Everybody));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let at = MasterAtV1 {
            member: MemberId(2),
            board: name.into(),
            key: key.hash(),
            addresses: vec![Ipv4Addr::LOCALHOST],
            api_port: 0,
            mqtt_port: 0,
            peer_port: listener.local_addr().expect("bound").port(),
            part: Part::Voter,
        };
        let says = Says { record: record.clone(), certified: certified.to_vec(), masters };
        let (stop, stopping) = watch::channel(false);
        let tls = shown.server_config(Clients::Optional, ALPN).expect("TLS");
        tokio::spawn(peer::serve(listener, tls, Arc::new(says), stopping));
        Self { at, _stop: stop }
    }
}

#[tokio::test]
async fn the_first_master_that_certifies_a_board_counts_and_a_master_asks_nobody() {
    let [old, new, third] = ["asks-old", "asks-new", "asks-third"].map(Authority::new);
    let folder = std::env::temp_dir().join(format!("kumquat-asks-{}", std::process::id()));
    let _none = fs::remove_dir_all(&folder);
    let dirs = Dirs::new(&folder, &folder);
    let key = BoardKey::open(&dirs.data).expect("made");
    let by = |authority: &Authority| {
        let certified = CertifiedV1 {
            authority: authority.pki.ca_certificate().to_owned(),
            certificate: authority
                .pki
                .issue_board("pi-9", &key.public_key(), false)
                .expect("signed"),
            masters: Vec::new(),
        };
        // As a leader of an earlier version says it.
        let mut json = serde_json::to_value(certified).expect("JSON");
        json.as_object_mut().expect("an object").remove("masters");
        json.to_string().into_bytes()
    };
    let boss = Master::start(&new, "boss", &new.record("boss", 1), &by(&new)).await;
    let thief = Master::start(&third, "thief", &third.record("thief", 1), &by(&third)).await;
    let book = vec![thief.at.clone(), boss.at.clone()];
    let certifying = Certifying {
        credentials: old.board("pi-9", &key).pinning(Arc::new(Known(book.clone()))),
        public_key: key.public_key(),
        dirs: dirs.clone(),
        book: watch::Sender::new(Arc::new(book)),
        certified: watch::Sender::default(),
    };
    let at = |master: &Master| (Ipv4Addr::LOCALHOST, master.at.peer_port).into();

    // Its copy of the log may be the only one that another board needs.
    fs::write(folder.join("pki/ca.key"), "").expect("written");
    fs::create_dir_all(dirs.store()).expect("made");
    assert!(!certifying.may_ask());
    certifying.ask_at(at(&boss)).await.expect_err("a master");
    fs::remove_dir(dirs.store()).expect("removed");
    assert!(certifying.may_ask(), "it has stepped down");
    certifying.ask_at(at(&boss)).await.expect("certified");
    let answered = certifying.ask_at(at(&thief)).await;
    assert!(answered.is_ok(), "{answered:?}");
    let certified = certifying.certified.borrow().clone().expect("there");
    assert_eq!(certified.authority, new.pki.ca_certificate());
    assert_eq!(certified.masters, [boss.at], "and of all others nothing is known");
    fs::remove_dir_all(folder).expect("removable");
}

/// What a board without the log knows of masters, as it changes.
struct ByBook(watch::Receiver<Book>);

impl Pinned for ByBook {
    fn is_board(&self, board: &BoardPeer) -> bool {
        self.is_master(board)
    }

    fn is_master(&self, board: &BoardPeer) -> bool {
        Known(self.0.borrow().to_vec()).is_master(board)
    }
}

#[tokio::test]
async fn a_known_master_names_whoever_leads_by_now() {
    let [old, new] = ["meets-old", "meets-new"].map(Authority::new);
    let folder = std::env::temp_dir().join(format!("kumquat-meets-{}", std::process::id()));
    let _none = fs::remove_dir_all(&folder);
    let dirs = Dirs::new(&folder, &folder);
    let key = BoardKey::open(&dirs.data).expect("made");
    let certificate = new.pki.issue_board("pi-9", &key.public_key(), false).expect("signed");
    let authority = new.pki.ca_certificate().to_owned();
    let certified = CertifiedV1 { authority, certificate, masters: Vec::new() };
    let certified = serde_json::to_vec(&certified).expect("JSON");
    let record = new.record("late", 1);
    let late = Master::start(&new, "late", &record, &certified).await;
    let other = MasterAtV1 { board: "other".into(), ..late.at.clone() };
    let named = vec![other, late.at.clone()];
    let known = Master::of(&new, "known", &record, (b"", named.clone())).await;
    let same = Master::of(&old, "same", &old.record("late", 1), (b"", named)).await;
    let book = watch::Sender::new(Arc::new(vec![known.at.clone(), same.at.clone()]));
    let pins = Arc::new(ByBook(book.subscribe()));
    let certifying = Certifying {
        credentials: old.board("pi-9", &key).pinning(pins),
        public_key: key.public_key(),
        dirs: dirs.clone(),
        book,
        certified: watch::Sender::default(),
    };
    let at = |master: &Master| (Ipv4Addr::LOCALHOST, master.at.peer_port).into();
    certifying.ask_at(at(&late)).await.expect_err("nobody knows it");
    certifying.meet(at(&same), "late").await.expect_err("of the authority that may be stolen");
    certifying.meet(at(&known), "nobody").await.expect_err("not named");
    certifying.meet(at(&known), "late").await.expect("named");
    assert_eq!(*certifying.book.borrow().clone(), [known.at, same.at, late.at.clone()]);
    certifying.ask_at(at(&late)).await.expect("certified");
    fs::remove_dir_all(folder).expect("removable");
}
