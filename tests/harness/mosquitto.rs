//! Debian's mosquitto as somebody else's broker; it ends with its value.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kumquat::io::net;

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const LISTENS_WITHIN: Duration = Duration::from_secs(20);

/// A running broker.
pub struct Mosquitto {
    child: Child,
    place: Place,
}

struct Place {
    folder: PathBuf,
    address: SocketAddr,
    namespace: Option<PathBuf>,
    /// Over TLS, with this certificate and its key (PEM).
    tls: Option<(String, String)>,
}

impl Mosquitto {
    /// On a free port of loopback; `None` where it is not installed.
    pub fn local(folder: &Path) -> Option<Self> {
        Self::local_with(folder, None)
    }

    /// The same over TLS, with a certificate and its key (PEM).
    pub fn local_tls(folder: &Path, certificate: String, key: String) -> Option<Self> {
        Self::local_with(folder, Some((certificate, key)))
    }

    fn local_with(folder: &Path, tls: Option<(String, String)>) -> Option<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        Self::start(Place { folder: folder.to_owned(), address, namespace: None, tls })
    }

    /// On this address, in a network namespace.
    pub fn inside(folder: &Path, address: SocketAddr, namespace: &Path) -> Option<Self> {
        let namespace = Some(namespace.to_owned());
        Self::start(Place { folder: folder.to_owned(), address, namespace, tls: None })
    }

    fn start(place: Place) -> Option<Self> {
        if !Path::new(MOSQUITTO).exists() {
            println!("not run: mosquitto (no {MOSQUITTO})");
            return None;
        }
        Some(Self { child: place.spawn(), place })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.place.address
    }

    /// What boards are told of it.
    pub fn url(&self) -> String {
        let scheme = if self.place.tls.is_some() { "mqtts" } else { "mqtt" };
        format!("{scheme}://{}", self.place.address)
    }

    /// Killed, and started again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.child = self.place.spawn();
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Place {
    fn spawn(&self) -> Child {
        let file = self.folder.join("mosquitto.conf");
        let (address, port) = (self.address.ip(), self.address.port());
        let mut text = format!(
            "listener {port} {address}\nallow_anonymous true\npersistence false\n\
             set_tcp_nodelay true\nuser root\n"
        );
        if let Some((certificate, key)) = &self.tls {
            for (option, text_of) in [("certfile", certificate), ("keyfile", key)] {
                let path = self.folder.join(option);
                fs::write(&path, text_of).expect("its certificate");
                text += &format!("{option} {}\n", path.display());
            }
        }
        fs::write(&file, text).expect("its configuration");
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(&file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = self.within(|| command.spawn()).expect("mosquitto starts");
        let begun = Instant::now();
        while self.within(|| TcpStream::connect(self.address)).is_err() {
            assert!(begun.elapsed() < LISTENS_WITHIN, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    fn within<T: Send>(
        &self,
        work: impl FnOnce() -> std::io::Result<T> + Send,
    ) -> std::io::Result<T> {
        match &self.namespace {
            Some(namespace) => net::inside(namespace, work),
            None => work(),
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}
