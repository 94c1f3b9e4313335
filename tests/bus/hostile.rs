//! Strangers at the port of the bus: a board goes on all the same.

#![allow(missing_docs, unreachable_pub, reason = "parts of a test")]

use std::time::{Duration, Instant};

use kumquat::io::bus;
use model::limits::{BUS_HANDSHAKE_SECONDS_MAX, BUS_HANDSHAKES_MAX};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bed::{Bed, Master, deployment, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_says_nothing_is_left() {
    let bed = Bed::new("silent").await;
    // A bus without the role behind it: it pings, but no beat comes.
    let (server, master) = bed.bus_alone().await;
    let mut presence = server.presence();
    let board = bed.board("pi-1", &master).await;
    let begun = Instant::now();
    let mut next = async || {
        let change = tokio::time::timeout(Duration::from_secs(30), presence.recv()).await;
        change.expect("it comes and goes").expect("the broker runs")
    };
    let first = next().await;
    let mut second = next().await;
    while !second.connected {
        second = next().await;
    }
    assert_ne!(first.connection, second.connection);
    println!("a silent leader is left after {:?}", begun.elapsed());
    let within = Duration::from_secs(15)..Duration::from_secs(19);
    assert!(within.contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(board.lives());
    board.end().await;
    master.stop().await;
}

async fn stranger(master: &Master) -> TcpStream {
    TcpStream::connect(("127.0.0.1", master.port)).await.expect("the port is open")
}

/// Waits until the peer has hung up.
async fn hung_up(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut sink = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut sink)).await;
    // An end or a reset: both are the end.
    let _ended = read.expect("the stranger is not served for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_silence_keep_nobody_out() {
    let bed = Bed::new("hostile").await;
    let master = bed.master((1, 1)).await;
    let board = bed.board("pi-1", &master).await;
    until("its Node", || bed.loops.views.world().node("pi-1").is_some()).await;

    for garbage in [&b"\x10\x00\xff\xff"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 70_000]] {
        let mut stream = stranger(&master).await;
        // It may be cut off before all is written.
        let _written = stream.write_all(garbage).await;
        hung_up(stream).await;
    }
    // Garbage inside of TLS, from a board of the cluster.
    let credentials = bed.authority.credentials("pi-3", false);
    let tls =
        tokio_rustls::TlsConnector::from(credentials.client_config(&[bus::ALPN]).expect("TLS"));
    for garbage in [&b"\x00\x00\x00"[..], &[0x30, 0xff, 0xff, 0xff, 0x7f], &[0xc0, 0x00]] {
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").expect("an address");
        let mut stream = tls.connect(name, stranger(&master).await).await.expect("TLS");
        let _written = stream.write_all(garbage).await;
        hung_up(stream).await;
    }
    // More silent strangers than there are places for handshakes, and a board that comes meanwhile.
    let mut silent = Vec::new();
    let begun = Instant::now();
    for _ in 0..BUS_HANDSHAKES_MAX + 200 {
        silent.push(stranger(&master).await);
    }
    hung_up(silent.remove(0)).await;
    let deadline = Duration::from_secs(BUS_HANDSHAKE_SECONDS_MAX);
    assert!(begun.elapsed() < deadline / 2, "the oldest went first: {:?}", begun.elapsed());
    let begun = Instant::now();
    let second = bed.board("pi-2", &master).await;
    until("the second board is on the bus", || second.state.borrow().connected_to.is_some()).await;
    println!("connected in {:?} beside {} silent strangers", begun.elapsed(), silent.len());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    bed.loops.create("apps/deployments", "default", deployment("web", 2, json!({}))).await;
    until("pods run", || bed.running() == 2).await;
    assert!(board.state.borrow().connected_to.is_some(), "the first never lost its connection");
    drop(silent);
    board.end().await;
    second.end().await;
    master.stop().await;
}
