//! Garbage on the API port and on the control socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kumquat::io::net;

use super::board::{Board, text};
use super::{assert_refused, running, still_serves};

const PATIENCE: Duration = Duration::from_secs(20);

/// Sends bytes and reads until the board closes; gives what it said.
fn converse(mut stream: impl Read + Write, bytes: &[u8]) -> Vec<u8> {
    // A board may close before everything is sent: that is an answer too.
    let _refused = stream.write_all(bytes);
    let mut said = Vec::new();
    let _reset = stream.read_to_end(&mut said);
    said
}

fn at_the_api(board: &Board, bytes: &[u8]) -> Vec<u8> {
    let said = net::inside(board.namespace(), || {
        let stream = TcpStream::connect(("127.0.0.1", 6443))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(converse(stream, bytes))
    });
    said.expect("the API port accepts")
}

fn at_the_socket(board: &Board) -> UnixStream {
    let path = board.run_dir().join("kumquat.sock");
    let stream = UnixStream::connect(path).expect("the control socket accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// A TLS 1.2 ClientHello that promises more than it brings.
fn half_a_handshake() -> Vec<u8> {
    let mut hello = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    hello.extend((0..100_u8).map(|byte| byte.wrapping_mul(37)));
    hello
}

#[test]
fn garbage_on_the_api_port_ends_its_connection_only() {
    let Some(board) = running("door-api") else { return };
    let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; 4 << 20], b"\r\n\r\n"].concat();
    let noise: Vec<u8> =
        (0..1_u32 << 18).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [b"\0".as_slice(), b"GET / HTTP/1.1\r\n\r\n", &long, &noise, &half_a_handshake()] {
        at_the_api(&board, bytes);
    }
    // Many that only open, and many that stop in the middle: others still get in.
    let waiting: Vec<TcpStream> = net::inside(board.namespace(), || {
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", 6443))).collect()
    })
    .expect("connections");
    for mut stream in &waiting {
        let _sent = stream.write_all(&half_a_handshake());
    }
    still_serves(&board, "after-api");
    drop(waiting);
    still_serves(&board, "at-last");
}

#[test]
fn garbage_on_the_control_socket_ends_its_connection_only() {
    let Some(mut board) = running("door-socket") else { return };
    let huge = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; 8 << 20], b"\r\n\r\n"].concat();
    let lines =
        b"GET / HTTP/1.1\r\n".iter().copied().chain(b"A: b\r\n".repeat(10_000)).collect::<Vec<_>>();
    for (bytes, word) in [
        (b"\0\0\0\0\0\0".as_slice(), ""),
        (b"hello\r\n\r\n", "400"),
        (b"GET /v1/status HTTP/9.9\r\n\r\n", ""),
        (b"POST /v1/images HTTP/1.1\r\nContent-Length: -5\r\n\r\n", "400"),
        (b"POST /v1/images HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ""),
        (b"GET /v1/images/export?name=%zz HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        (b"DELETE /v1/images?name=%00%00 HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        (b"GET /v9/nonsense HTTP/1.1\r\nConnection: close\r\n\r\n", "404"),
        (b"GET /v1/kubeconfig?server=%22%0aevil HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        (&huge, "431"),
        (&lines, "431"),
    ] {
        let said = converse(at_the_socket(&board), bytes);
        let said = String::from_utf8_lossy(&said);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
        assert!(said.lines().next().unwrap_or_default().contains(word), "{shown:?}: {said}");
    }
    // A body that no one wants is not kept: 256 MiB on a path that takes none.
    let mut stream = at_the_socket(&board);
    let _sent = stream.write_all(b"POST /v1/nothing HTTP/1.1\r\nContent-Length: 268435456\r\n\r\n");
    let piece = vec![b'x'; 1 << 20];
    let sent = (0..256).take_while(|_| stream.write_all(&piece).is_ok()).count();
    println!("{sent} MiB of an unwanted body were taken off the wire");
    still_serves(&board, "after-socket");

    // Half requests hold their places only for a while; more of them than there are places.
    let halves: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = at_the_socket(&board);
            let _sent = stream.write_all(b"GET /v1/sta");
            stream
        })
        .collect();
    let status = board.command(&["status", "-o", "json"]);
    assert!(status.status.success(), "{}", text(&status));
    drop(halves);
    // An open half of an import does not hold up the end.
    let mut stalled = at_the_socket(&board);
    stalled
        .write_all(b"POST /v1/images HTTP/1.1\r\nContent-Length: 99999\r\n\r\nabc")
        .expect("sent");
    std::thread::sleep(Duration::from_millis(200));
    let began = std::time::Instant::now();
    board.stop();
    println!("stopped beside a stalled import in {:.1} s", began.elapsed().as_secs_f64());
    board.up(&[]);
    still_serves(&board, "after-stop");
}

#[test]
fn an_import_that_is_cut_off_leaves_nothing() {
    let Some(board) = running("door-cut") else { return };
    let archive = std::fs::read(board.busybox()).expect("archive");
    for share in [1, 10, 50, 99] {
        let cut = archive.len() * share / 100;
        let head = format!("POST /v1/images HTTP/1.1\r\nContent-Length: {}\r\n\r\n", archive.len());
        let mut stream = at_the_socket(&board);
        stream.write_all(head.as_bytes()).expect("head");
        stream.write_all(&archive[..cut]).expect("part");
        drop(stream);
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    while !super::archives::leftovers(&board).is_empty() {
        let left = super::archives::leftovers(&board);
        assert!(std::time::Instant::now() < deadline, "left behind: {left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let listed = board.command(&["image", "list", "-o", "json"]);
    assert_eq!(text(&listed).trim(), "[]");
    let absent = board.command(&["image", "export", "kumquat.test/none:v1", "-"]);
    assert_refused("export of nothing", &absent, &["is not on this board"]);
    super::import_busybox(&board);
    still_serves(&board, "after-cut");
}
