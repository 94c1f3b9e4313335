//! port-forward with every kubectl.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use kumquat::io::net;
use serde_json::json;

use super::{Bed, LARGE, noise, run};
use crate::kubectl::{Followed, Kubectl};

/// Connections at a time.
const PARALLEL: usize = 24;

/// A kubectl that forwards, and its port.
struct Forwarding {
    what: String,
    port: u16,
    namespace: std::path::PathBuf,
    _kubectl: std::sync::Mutex<Followed>,
}

impl Forwarding {
    fn start(kubectl: &Kubectl, pod: &str, namespace: &Path) -> Self {
        let followed = kubectl.follow(&["port-forward", pod, ":8080"]);
        let line = followed.line();
        let port = line.strip_prefix("Forwarding from 127.0.0.1:");
        let port = port.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let port = port.unwrap_or_else(|| panic!("1.{} says {line:?}", kubectl.minor));
        let what = format!("1.{} {pod}", kubectl.minor);
        Self { what, port, namespace: namespace.to_owned(), _kubectl: followed.into() }
    }

    fn connect(&self) -> TcpStream {
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let stream = net::inside(&self.namespace, connect).expect("kubectl listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        stream
    }

    /// GET of a file; the body.
    fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        assert!(read.is_ok(), "{}: {} bytes, then {read:?}", self.what, answer.len());
        let end = answer.windows(4).position(|part| part == b"\r\n\r\n").expect("a head");
        answer.split_off(end + 4)
    }
}

#[test]
fn ports_of_every_kubectl_on_both_boards() {
    let Some(bed) = Bed::new("ports") else { return };
    let content = noise(LARGE);
    for (index, name) in ["own", "far"].into_iter().enumerate() {
        let script = "cat > /dev/null < /dev/null; exec httpd -f -p 127.0.0.1:8080 -h /";
        bed.pod(name, index, script, &json!({}));
        let put =
            ["exec", "-i", name, "--", "sh", "-c", "cat > /large; head -c 100000 /large > /small"];
        assert_eq!(run(&bed.kubectls[0], &put, Some(content.clone())).0, 0);
    }
    let namespace = bed.cluster.master().namespace().to_owned();
    for kubectl in &bed.kubectls {
        for pod in ["own", "far"] {
            let forwarding = Forwarding::start(kubectl, pod, &namespace);
            std::thread::scope(|scope| {
                for _ in 0..PARALLEL {
                    scope.spawn(|| {
                        for _ in 0..3 {
                            let found = forwarding.get("/small");
                            assert!(found == content[..100_000], "{} bytes", found.len());
                        }
                    });
                }
            });
        }
    }
    for kubectl in bed.extremes() {
        // One that does not read holds up its own kubectl, whose library knows no windows, and
        // nothing else.
        let stuck = Forwarding::start(kubectl, "far", &namespace);
        let mut idle = stuck.connect();
        idle.write_all(b"GET /large HTTP/1.0\r\n\r\n").expect("sent");
        let forwarding = Forwarding::start(kubectl, "far", &namespace);
        let found = forwarding.get("/large");
        assert!(found == content, "1.{}: {} bytes", kubectl.minor, found.len());
    }
    refused(&bed);
}

/// A port on which nobody listens.
fn refused(bed: &Bed) {
    for kubectl in bed.extremes() {
        let child = kubectl.start(
            &["port-forward", "far", "18081:81"],
            [super::Stdio::null(), super::Stdio::piped(), super::Stdio::piped()],
        );
        let namespace = bed.cluster.master().namespace();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, 18_081));
        let mut connected = None;
        super::until("kubectl listens", || {
            connected = net::inside(namespace, connect).ok();
            connected.is_some()
        });
        let mut rest = Vec::new();
        let mut stream = connected.expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        // It is closed, one way or the other.
        let _ = stream.read_to_end(&mut rest);
        let mut child = child;
        std::thread::sleep(Duration::from_millis(300));
        let _gone = child.kill();
        let output = child.wait_with_output().expect("ends");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains("Connection refused"), "1.{}: {errors}", kubectl.minor);
    }
}
