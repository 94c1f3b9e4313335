//! The brokers under test: ours in this process, mosquitto as a process of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use broker::{Access, AllowAll, Broker, Ended, Limits, Peer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::client::DEADLINE;

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// Our broker behind a listener.
pub(crate) struct Ours {
    pub(crate) broker: Broker,
    pub(crate) address: SocketAddr,
    /// Why connections ended, in their order.
    ended: mpsc::Receiver<Ended>,
    accepting: JoinHandle<()>,
}

impl Ours {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default(), AllowAll).await
    }

    pub(crate) async fn with(limits: Limits, access: impl Access) -> Self {
        let broker = Broker::new(limits, Arc::new(access));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, ended) = mpsc::channel(4096);
        let serving = broker.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, address)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket option");
                let (broker, sender) = (serving.clone(), sender.clone());
                tokio::spawn(async move {
                    let ended = broker.serve(stream, Peer { name: None, address }).await;
                    // A test that is over asks no more.
                    let _ = sender.send(ended).await;
                });
            }
        });
        Self { broker, address, ended, accepting }
    }

    /// Why the next connection ended.
    pub(crate) async fn ended(&mut self) -> Ended {
        timeout(DEADLINE, self.ended.recv()).await.expect("an end in time").expect("accepting")
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Debian's mosquitto on a loopback port of its own; ends when dropped.
pub(crate) struct Mosquitto {
    pub(crate) address: SocketAddr,
    process: Child,
    folder: PathBuf,
}

impl Mosquitto {
    /// None, and a line that says so, where it is not installed.
    pub(crate) async fn start() -> Option<Self> {
        if !Path::new(MOSQUITTO).exists() {
            println!("not run: comparison with mosquitto (no {MOSQUITTO})");
            return None;
        }
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let name = format!("kumquat-mosquitto-{}-{}", std::process::id(), address.port());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("own folder");
        let config = folder.join("mosquitto.conf");
        let port = address.port();
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n\
             set_tcp_nodelay true\nlog_dest none\n"
        );
        std::fs::write(&config, text).expect("configuration");
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("mosquitto starts");
        let server = Self { address, process, folder };
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(address).await.is_err() {
            assert!(Instant::now() < deadline, "mosquitto does not listen");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Some(server)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
