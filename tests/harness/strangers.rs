//! Strangers and bad members at the ports of a board: 8883 (bus), 7443 (peers), 6443 (API) and
//! mDNS.
//!
//! Each attack ends its own connections only, and can be run over and over beside others.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kumquat::io::clock::Clock;
use kumquat::io::net;
use kumquat::io::tls::{BoardKey, Pki};
use model::timestamp::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::json;

use crate::board::Board;

pub const BUS: u16 = 8883;
pub const PEERS: u16 = 7443;
pub const API: u16 = 6443;
/// Nothing that a stranger does may hold its connection for longer.
pub const PATIENCE: Duration = Duration::from_secs(40);
pub const WRITES: usize = 60;
/// Connections that only open, on each port.
pub const HALF_OPEN: usize = 1_500;

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A stranger trusts whoever answers.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        use SignatureScheme::{ECDSA_NISTP256_SHA256, ED25519, RSA_PSS_SHA256};
        vec![ED25519, ECDSA_NISTP256_SHA256, RSA_PSS_SHA256]
    }
}

/// What a client shows: a certificate for `name` of the authority in `folder`, or nothing.
pub fn showing(identity: Option<(&Path, &str)>, alpn: &[u8]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((folder, name)) => {
            let pki = Pki::open(folder, Clock::starting_at(Timestamp(0)).now()).expect("authority");
            let kept = folder.join(format!("hostile-{name}"));
            let key = BoardKey::open(&kept).expect("a key");
            let issued = pki.issue_board(name, &key.public_key(), false).expect("a certificate");
            let chain = vec![CertificateDer::from_pem_slice(issued.as_bytes()).expect("PEM")];
            let pem = std::fs::read(kept.join("pki/board.pem")).expect("the key's file");
            let key = PrivateKeyDer::from_pem_slice(&pem).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("they fit")
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

pub fn connect(board: &Board, port: u16) -> std::io::Result<TcpStream> {
    net::inside(board.namespace(), || {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    })
}

pub fn tls(board: &Board, port: u16, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(config.clone(), name).map_err(std::io::Error::other)?;
    Ok(StreamOwned::new(client, connect(board, port)?))
}

/// Sends bytes, then reads until the board hangs up; whether it did.
pub fn hung_up(mut stream: impl Read + Write, bytes: &[u8]) -> bool {
    let _cut_off = stream.write_all(bytes).and_then(|()| stream.flush());
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            }
        }
    }
}

/// A CONNECT packet of MQTT 3.1.1 with this client id.
pub fn connect_packet(id: &[u8]) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02\0\x1e".to_vec();
    body.extend(u16::try_from(id.len()).expect("a short id").to_be_bytes());
    body.extend_from_slice(id);
    let mut packet = vec![0x10];
    let mut left = body.len();
    loop {
        let more = if left >= 128 { 0x80 } else { 0 };
        packet.push(u8::try_from(left % 128).expect("below 128") | more);
        left /= 128;
        if left == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

pub fn noise(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Garbage in the clear and within TLS, with nobody's and somebody else's certificate, on these ports.
pub fn garbage(board: &Board, theirs: &Path, ports: &[u16]) {
    let half = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise(100)].concat();
    for port in ports.iter().copied() {
        for bytes in [&b"\0"[..], b"GET / HTTP/1.1\r\n\r\n", &noise(1 << 16), &half] {
            let stream = connect(board, port).expect("accepts");
            assert!(hung_up(stream, bytes), "port {port} keeps {} bytes of garbage", bytes.len());
        }
    }
    for (identity, alpn, port) in [
        (None, &b"mqtt"[..], BUS),
        (Some((theirs, "board-9")), b"mqtt", BUS),
        (Some((theirs, "board-9")), b"h2", PEERS),
    ] {
        if !ports.contains(&port) {
            continue;
        }
        let stream = tls(board, port, &showing(identity, alpn)).expect("accepts");
        let bytes = if port == BUS { connect_packet(b"board-9") } else { noise(500) };
        assert!(hung_up(stream, &bytes), "port {port} takes a stranger");
    }
}

/// A member that does not keep to MQTT: ids that are not its own, and packets beyond every bound.
pub fn bad_member(board: &Board) {
    let data = board.data_dir();
    let member = showing(Some((&data, "bad")), b"mqtt");
    let long = "x".repeat(60_000);
    for id in ["", "board", "other", "../bad", "bad/#", "+", "#", "$SYS", "bad\0", &long] {
        let stream = tls(board, BUS, &member).expect("accepts");
        assert!(hung_up(stream, &connect_packet(id.as_bytes())), "client id {id:.20?} is taken");
    }
    let own = connect_packet(b"bad");
    // A PUBLISH of 256 MiB - 1, one with a length that never ends, a topic that is not UTF-8, a
    // second CONNECT, and types that there are not.
    let packets: [&[u8]; 5] = [
        b"\x30\xff\xff\xff\x7f\0\x01a",
        b"\x30\xff\xff\xff\xff\xff\x7f",
        b"\x30\x04\0\x02\xff\xfe",
        &own,
        b"\xf0\0",
    ];
    for packet in packets {
        let stream = tls(board, BUS, &member).expect("accepts");
        assert!(hung_up(stream, &[&own, packet].concat()), "{:?} is taken", &packet[..4]);
    }
}

/// A byte now and then: the connection ends before the packet is whole.
pub fn slow(board: &Board) {
    let data = board.data_dir();
    let mut stream = tls(board, BUS, &showing(Some((&data, "slow")), b"mqtt")).expect("accepts");
    let begun = Instant::now();
    let packet = connect_packet(&[b'x'; 2_000]);
    let sent = packet.iter().take_while(|byte| {
        std::thread::sleep(Duration::from_millis(100));
        begun.elapsed() < PATIENCE && stream.write_all(&[**byte]).is_ok()
    });
    let sent = sent.count();
    assert!(begun.elapsed() < PATIENCE, "still there after {sent} bytes");
    println!("a slow CONNECT was left after {:.1} s", begun.elapsed().as_secs_f64());
}

/// Garbage for whoever listens to mDNS; nothing answers it.
pub fn multicast(board: &Board) {
    let sent = net::inside(board.namespace(), || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        for size in [0, 1, 11, 12, 100, 1_400, 9_000] {
            for _ in 0..200 {
                // Refused when nobody listens there: also well.
                let _sent = socket.send_to(&noise(size), "127.0.0.1:5353");
            }
        }
        Ok(())
    });
    sent.expect("datagrams");
}

/// Connections that open, say nothing or half a word, and stay.
pub fn half_open(board: &Board) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for port in [BUS, PEERS, API] {
        for number in 0..HALF_OPEN {
            let Ok(mut stream) = connect(board, port) else { continue };
            if number % 2 == 0 {
                let _cut_off = stream.write_all(&[0x16, 3, 1]);
            }
            open.push(stream);
        }
    }
    open
}

/// What runs against the board at the same time; the path is another cluster's.
pub const ATTACKS: [fn(&Board, &Path); 4] = [
    |board, theirs| garbage(board, theirs, &[BUS, PEERS, API]),
    |board, _| bad_member(board),
    |board, _| multicast(board),
    |board, _| drop(half_open(board)),
];

/// Latencies of writes over the API, sorted.
pub fn writes(board: &Board, name: &str) -> Vec<Duration> {
    let write = |number| {
        let begun = Instant::now();
        let map = json!({"metadata": {"name": format!("{name}-{number}")}, "data": {"value": "x"}});
        let collection = "/api/v1/namespaces/default/configmaps";
        // 503: it surely did not happen, and a client asks again.
        while let Err(why) = board.api("POST", collection, Some(&map)) {
            let waits = why.starts_with("503") && begun.elapsed() < PATIENCE;
            assert!(waits, "write {number}: {why}");
        }
        begun.elapsed()
    };
    let mut all: Vec<Duration> = (0..WRITES).map(write).collect();
    all.sort();
    all
}

pub fn say(what: &str, latencies: &[Duration]) {
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share).round() as usize];
    println!("{what}: API writes p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0));
}

pub fn resident_kb(board: &Board) -> u64 {
    let of = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0_u64)
    };
    board.processes().into_iter().map(of).sum()
}
