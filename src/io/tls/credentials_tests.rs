//! Who is accepted by whom, with real handshakes in memory.

use std::path::PathBuf;

use model::timestamp::Timestamp;
use rcgen::PublicKeyData;
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;

use super::super::{ApiTls, ServerNames, is_proof, proof, verify};
use super::*;
use crate::io::clock::Clock;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("kumquat-boards-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn pki(&self) -> Pki {
        Pki::open(&self.0, Timestamp::from_seconds(1_795_305_600)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const ALPN: &[&[u8]] = &[b"h2"];

fn board(pki: &Pki, name: &str, is_master: bool) -> Credentials {
    let key = BoardKey::generate().unwrap();
    let certificate = pki.issue_board(name, &key.public_key(), is_master).unwrap();
    Credentials::new(&key, &certificate, pki.ca_certificate()).unwrap()
}

/// The client as the server sees it, and whether both ends export the same.
fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<Option<BoardPeer>, rustls::Error> {
    let name = ServerName::try_from("kumquat").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let mut exported = [[0; 32]; 2];
    client.export_keying_material(&mut exported[0], b"x", None).unwrap();
    server.export_keying_material(&mut exported[1], b"x", None).unwrap();
    assert_eq!(exported[0], exported[1]);
    Ok(server.peer_certificates().map(|chain| board_peer(chain).unwrap()))
}

fn refused(client: Arc<ClientConfig>, server: Arc<ServerConfig>, why: &str) {
    let error = handshake(client, server).expect_err(why);
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{why}: {error}");
}

#[test]
fn boards_know_each_other_and_nobody_else() {
    let (ours, theirs) = (Folder::new("ours"), Folder::new("theirs"));
    let (pki, other) = (ours.pki(), theirs.pki());
    let master = board(&pki, "pi-1", true);
    let worker = board(&pki, "pi-2", false);
    let stranger = board(&other, "pi-2", true);
    let server =
        |credentials: &Credentials, clients| credentials.server_config(clients, ALPN).unwrap();
    let client = |credentials: &Credentials| credentials.client_config(ALPN).unwrap();

    for clients in [Clients::Required, Clients::Optional] {
        let seen = handshake(client(&worker), server(&master, clients)).unwrap();
        assert_eq!(seen.as_ref(), Some(worker.peer()));
        assert_eq!((worker.peer().name.as_str(), worker.peer().is_master), ("pi-2", false));
        refused(client(&stranger), server(&master, clients), "the server is not of its cluster");
        // One who would take any server: it is the server that must refuse.
        let lax = Credentials { authority: pki.ca_der().clone(), ..stranger.clone() };
        refused(client(&lax), server(&master, clients), "signed by another authority");
    }
    // A worker that plays the master is refused, and so is a leaf that is a server's but no master's.
    refused(client(&master), server(&worker, Clients::Optional), "a worker's certificate");
    let clock = Clock::starting_at(Timestamp(0));
    let names = ServerNames::new("pi-1", "10.43.0.1".parse().unwrap(), []);
    let api = ApiTls::new(&pki, &names, clock).unwrap();
    refused(client(&worker), api.config(), "the API's certificate is no master's");

    let pinned = |pin| pinned_client_config(pin, ALPN).unwrap();
    let open = || server(&master, Clients::Optional);
    assert_eq!(handshake(pinned(pki.pin()), open()).unwrap(), None);
    refused(pinned(other.pin()), open(), "another pin");
    refused(pinned(pki.pin()), server(&worker, Clients::Optional), "a worker behind the pin");
    let shown = handshake(pinned(pki.pin()), server(&master, Clients::Required));
    assert!(matches!(shown, Err(rustls::Error::NoCertificatesPresented)), "{shown:?}");
    assert_eq!((master.pin(), worker.pin()), (pki.pin(), pki.pin()));
}

/// Somebody in the middle who shows the real authority's certificate, which is no secret, behind a
/// leaf of his own.
#[test]
fn a_pin_is_not_satisfied_by_a_certificate_that_lies_beside() {
    let (ours, theirs) = (Folder::new("pinned"), Folder::new("middle"));
    let (pki, other) = (ours.pki(), theirs.pki());
    let mut middle = board(&other, "pi-1", true);
    let mut chain = middle.own.cert.clone();
    chain.insert(1, pki.ca_der().clone());
    middle.own = Arc::new(CertifiedKey::new(chain, middle.own.key.clone()));
    let server = middle.server_config(Clients::Optional, ALPN).unwrap();
    refused(pinned_client_config(pki.pin(), ALPN).unwrap(), server.clone(), "signed by another");
    // The set-up is sound: whoever trusts that other authority gets through.
    assert_eq!(handshake(pinned_client_config(other.pin(), ALPN).unwrap(), server).unwrap(), None);
}

#[test]
fn the_admin_is_no_board() {
    let folder = Folder::new("admin");
    let pki = folder.pki();
    let master = board(&pki, "pi-1", true);
    let admin = std::fs::read_to_string(folder.0.join("pki/admin.pem")).unwrap();
    let (certificate, key) = admin.split_at(admin.find("-----BEGIN PRIVATE").unwrap());
    use rustls_pki_types::pem::PemObject;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let signer = ring::default_provider().key_provider.load_private_key(key).unwrap();
    let chain = vec![pki::first_certificate(certificate).unwrap()];
    let own = Arc::new(CertifiedKey::new(chain, signer));
    let admin = Credentials { own, ..master.clone() };
    let server = master.server_config(Clients::Optional, ALPN).unwrap();
    refused(admin.client_config(ALPN).unwrap(), server, "the admin on a board's port");
}

#[test]
fn credentials_are_kept_and_judged_when_loaded() {
    use std::os::unix::fs::PermissionsExt;
    let (founder, joiner) = (Folder::new("founder"), Folder::new("joiner"));
    let pki = founder.pki();
    assert!(Credentials::load(&joiner.0).unwrap().is_none());
    let key = BoardKey::open(&joiner.0).unwrap();
    assert_eq!(BoardKey::open(&joiner.0).unwrap().hash(), key.hash(), "the same at a retry");
    assert!(Credentials::load(&joiner.0).unwrap().is_none(), "not joined yet");
    let certificate = pki.issue_board("pi-2", &key.public_key(), false).unwrap();
    let mode = joiner.0.join("pki/board.pem").metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    let another = BoardKey::generate().unwrap();
    let for_another = pki.issue_board("pi-2", &another.public_key(), false).unwrap();
    let other = Folder::new("another");
    let foreign = other.pki();
    for (certificate, authority) in
        [(&for_another[..], pki.ca_certificate()), (&certificate, foreign.ca_certificate())]
    {
        let error = Credentials::save(&joiner.0, &key, certificate, authority).unwrap_err();
        assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
        assert!(Credentials::load(&joiner.0).unwrap().is_none(), "nothing was written");
    }
    Credentials::save(&joiner.0, &key, &certificate, pki.ca_certificate()).unwrap();
    let loaded = Credentials::load(&joiner.0).unwrap().unwrap();
    assert_eq!(loaded.peer().key, key.hash());
    assert_eq!(BoardKey::open(&joiner.0).unwrap().hash(), key.hash());

    let path = joiner.0.join("pki/board.pem");
    std::fs::write(&path, "garbage").unwrap();
    assert!(matches!(Credentials::load(&joiner.0), Err(TlsError::DamagedBoard { .. })));
    assert!(matches!(BoardKey::open(&joiner.0), Err(TlsError::DamagedBoard { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "garbage", "left as it is");
}

#[test]
fn the_founder_issues_its_own_once() {
    let folder = Folder::new("own");
    let pki = folder.pki();
    let read = || std::fs::read_to_string(folder.0.join("pki/board.pem")).unwrap();
    let first = Credentials::founder(&pki, &folder.0, "pi-1").unwrap();
    assert!(first.peer().is_master && first.pin() == pki.pin());
    let text = read();
    Credentials::founder(&pki, &folder.0, "pi-1").unwrap();
    assert_eq!(read(), text);
    let renamed = Credentials::founder(&pki, &folder.0, "pi-9").unwrap();
    assert_eq!((renamed.peer().name.as_str(), renamed.peer().key), ("pi-9", first.peer().key));
}

#[test]
fn only_ed25519_keys_are_certified() {
    let folder = Folder::new("keys");
    let pki = folder.pki();
    let good = BoardKey::generate().unwrap().public_key();
    assert!(pki.issue_board("pi-2", &good, false).is_ok());
    let p256 = rcgen::KeyPair::generate().unwrap().subject_public_key_info();
    for bad in [&p256[..], &good[1..], &[&good[..], &[0]].concat(), &[]] {
        let error = pki.issue_board("pi-2", bad, false).unwrap_err();
        assert!(matches!(error, TlsError::PublicKey { .. }), "{error}");
    }
}

#[test]
fn signatures_and_proofs_are_bound_to_what_they_are_for() {
    let (ours, theirs) = (Folder::new("signs"), Folder::new("forges"));
    let (pki, other) = (ours.pki(), theirs.pki());
    let signature = pki.sign(b"record");
    assert!(verify(pki.ca_der(), b"record", &signature));
    assert!(!verify(pki.ca_der(), b"Record", &signature));
    assert!(!verify(other.ca_der(), b"record", &signature));
    assert!(!verify(pki.ca_der(), b"record", &other.sign(b"record")));
    assert!(!verify(pki.ca_der(), b"record", b""));

    let shown = proof(b"secret", "board", &[b"ab", b"c"]);
    assert!(is_proof(&shown, b"secret", "board", &[b"ab", b"c"]));
    for (secret, label, parts) in [
        (&b"Secret"[..], "board", [&b"ab"[..], b"c"]),
        (b"secret", "master", [b"ab", b"c"]),
        (b"secret", "board", [b"a", b"bc"]),
    ] {
        assert!(!is_proof(&shown, secret, label, &parts), "{label}");
    }
    assert!(!is_proof(&shown[..31], b"secret", "board", &[b"ab", b"c"]));
}

#[test]
fn whoever_was_a_master_does_not_pass_for_the_leader() {
    let folder = Folder::new("former");
    let pki = folder.pki();
    let (worker, leader) = (board(&pki, "pi-3", false), board(&pki, "pi-1", true));
    let former = board(&pki, "pi-2", true);
    let towards = |name| worker.client_config_to(name, ALPN).unwrap();
    let of = |board: &Credentials| board.server_config(Clients::Required, ALPN).unwrap();
    assert!(handshake(towards("pi-1"), of(&leader)).is_ok());
    assert!(handshake(towards("pi-1"), of(&former)).is_err());
    assert!(
        handshake(worker.client_config(ALPN).unwrap(), of(&former)).is_ok(),
        "to ask who leads"
    );
}

/// Boards that are known by name and key.
struct Known(Vec<BoardPeer>);

impl Pinned for Known {
    fn is_board(&self, board: &BoardPeer) -> bool {
        self.0.iter().any(|it| it.name == board.name && it.key == board.key)
    }

    fn is_master(&self, board: &BoardPeer) -> bool {
        self.0.iter().any(|it| it.is_master && it.name == board.name && it.key == board.key)
    }
}

#[test]
fn a_key_that_is_known_counts_under_another_authority_and_nothing_else_does() {
    let (before, after) = (Folder::new("before"), Folder::new("after"));
    let (old, new) = (before.pki(), after.pki());
    let (master, worker) = (board(&new, "pi-1", true), board(&old, "pi-2", false));
    let known = Arc::new(Known(vec![master.peer().clone(), worker.peer().clone()]));
    let (master, worker) = (master.pinning(known.clone()), worker.pinning(known));
    let server = || master.server_config(Clients::Required, ALPN).unwrap();
    let met = handshake(worker.client_config_to("pi-1", ALPN).unwrap(), server());
    assert_eq!(met.unwrap().as_ref(), Some(worker.peer()), "both ways");
    // Whoever has the old authority's key makes what it likes; it has nobody's key.
    for name in ["pi-2", "pi-9"] {
        let forged = board(&old, name, true).pinning(Arc::new(Known(vec![master.peer().clone()])));
        refused(forged.client_config(ALPN).unwrap(), server(), "another key");
    }
    let forged = board(&old, "pi-1", true);
    let server = forged.server_config(Clients::Optional, ALPN).unwrap();
    let knows = master.client_config(ALPN).unwrap();
    refused(knows, server, "the name of a master with another key");
    let also = worker.server_config(Clients::Optional, ALPN).unwrap();
    refused(master.client_config(ALPN).unwrap(), also, "a worker is no master");
}
