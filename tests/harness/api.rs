//! A real API server for tests: the real store in a folder of its own, real TLS on a free port.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kumquat::io::clock::Clock;
use kumquat::io::store::{Options, Store};
use kumquat::io::tls::{ApiTls, BoardKey, Pki, ServerNames};
use kumquat::master::access;
use kumquat::master::api::{self, ApiOptions, Health, SharedLogs};
use kumquat::master::audit::{Audit, AuditLines};
use kumquat::master::both::Both;
use kumquat::master::controllers::{self, Views};
use kumquat::master::registry::{Registry, RegistryOptions};
use model::timestamp::Timestamp;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

static SERVERS: AtomicU32 = AtomicU32::new(0);

/// A running API server; its folder goes away with it.
pub struct Server {
    /// What it serves.
    pub registry: Registry,
    /// Its port on loopback.
    pub address: SocketAddr,
    folder: PathBuf,
    pki: Pki,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
}

/// Who a client says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// The admin, by certificate.
    Admin,
    /// Nobody.
    Anonymous,
    /// Somebody with a certificate of another cluster.
    Stranger,
    /// A board, by its certificate.
    Board(&'static str),
}

impl Server {
    /// Starts a server with the namespaces that every cluster has.
    pub async fn start() -> Self {
        Self::with_logs(Arc::new(api::NoLogs)).await
    }

    /// Starts a server whose logs come from `logs`.
    pub async fn with_logs(logs: SharedLogs) -> Self {
        Self::build(logs, None, Audit::off()).await
    }

    /// Starts a server together with every controller of a master.
    pub async fn with_controllers() -> Self {
        let cluster = controllers::Cluster {
            root_ca: "none",
            pods: "10.88.0.0/16".parse().expect("a block"),
            reserved_ports: Vec::new(),
        };
        Self::build(Arc::new(api::NoLogs), Some(cluster), Audit::off()).await
    }

    /// Starts a server that tells of writes.
    pub async fn with_audit() -> (Self, AuditLines) {
        let (audit, lines) = Audit::to_lines();
        (Self::build(Arc::new(api::NoLogs), None, audit).await, lines)
    }

    async fn build(
        logs: SharedLogs,
        cluster: Option<controllers::Cluster<'_>>,
        audit: Audit,
    ) -> Self {
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let folder = format!("kumquat-api-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        let _gone = std::fs::remove_dir_all(&folder);
        let clock = Clock::starting_at(Timestamp(0));
        let pki = Pki::open(&folder, clock.now()).expect("key folder");
        let with_controllers = cluster.is_some();
        let of_cluster = cluster.map(controllers::all).unwrap_or_default();
        let (views, hook) = Views::new(of_cluster, clock.clone());
        let store =
            Store::open_alone(Options::new(folder.join("store")), Box::new(hook)).expect("store");
        let registry = Registry::new(store, clock.clone(), RegistryOptions::default())
            .expect("registry over an empty store");
        let service = IpAddr::V4(Ipv4Addr::new(10, 43, 0, 1));
        let names = ServerNames::new("board-1", service, []);
        let tls = Arc::new(ApiTls::new(&pki, &names, clock.clone()).expect("certificates"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = watch::channel(false);
        if with_controllers {
            tokio::spawn(controllers::run(views.clone(), registry.clone(), stopped.clone()));
        }
        let options = ApiOptions {
            registry: registry.clone(),
            views,
            tokens: Arc::new(api::NoTokens),
            audit,
            both: Both::default(),
            logs,
            clock,
            health: Health::default().alive_when("store", || true),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let serving = Some(api::serve(options, tls, vec![listener.into()], stopped));
        let server = Self { registry, address, folder, pki, stop, serving };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let body = json!({"metadata": {"name": name}});
            let answer = server.send(Method::POST, "/api/v1/namespaces", &body).await;
            assert_eq!(answer.code, 201, "{}", answer.text());
        }
        access::bootstrap::ensure(&server.registry).await.expect("the first roles");
        server
    }

    /// The server's folder, for files that should go away with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the admin's kubeconfig and gives its path.
    pub fn kubeconfig(&self) -> PathBuf {
        let path = self.folder.join("kubeconfig");
        let url = format!("https://{}", self.address);
        std::fs::write(&path, self.pki.admin_kubeconfig("test", &url)).expect("kubeconfig");
        path
    }

    /// One request of the admin with a JSON body.
    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [(CONTENT_TYPE.as_str(), "application/json")];
        self.request(As::Admin, method, path, &headers, body).await
    }

    /// One request of the admin as somebody else, with a JSON body.
    pub async fn act(
        &self,
        user: &str,
        groups: &[&str],
        method: Method,
        path: &str,
        body: &Value,
    ) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut headers =
            vec![(CONTENT_TYPE.as_str(), "application/json"), ("impersonate-user", user)];
        headers.extend(groups.iter().map(|group| ("impersonate-group", *group)));
        self.request(As::Admin, method, path, &headers, body).await
    }

    /// GET by the admin.
    pub async fn get(&self, path: &str) -> Reply {
        self.request(As::Admin, Method::GET, path, &[], "").await
    }

    /// GET by the admin with an Accept header.
    pub async fn get_as(&self, path: &str, accept: &str) -> Reply {
        self.request(As::Admin, Method::GET, path, &[(ACCEPT.as_str(), accept)], "").await
    }

    /// One request on a connection of its own, the answer read to its end.
    pub async fn request(
        &self,
        who: As,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        self.open(who, method, path, headers, body).await.finish().await
    }

    /// One request on a connection of its own, the answer's body still to be read.
    pub async fn open(
        &self,
        who: As,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Opened {
        let stream = self.connect(who, &["http/1.1"]).await.expect("TLS");
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        let driver = tokio::spawn(async move {
            let _ended = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("request");
        let answer = sender.send_request(request).await.expect("answer");
        let (head, body) = answer.into_parts();
        Opened { code: head.status.as_u16(), headers: head.headers, body, rest: Vec::new(), driver }
    }

    /// A TLS connection.
    pub async fn connect(
        &self,
        who: As,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.pki.ca_certificate().as_bytes());
        roots.add(ca.expect("PEM")).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match who {
            As::Anonymous => builder.with_no_client_auth(),
            As::Admin => {
                let (chain, key) = pair(&self.folder);
                builder.with_client_auth_cert(chain, key).expect("admin's pair")
            }
            As::Stranger => {
                let folder = self.folder.join("other");
                Pki::open(&folder, Clock::starting_at(Timestamp(0)).now()).expect("other pki");
                let (chain, key) = pair(&folder);
                builder.with_client_auth_cert(chain, key).expect("stranger's pair")
            }
            As::Board(name) => {
                let folder = self.folder.join("boards").join(name);
                let own = BoardKey::open(&folder).expect("a board's key");
                let chain = self.pki.issue_board(name, &own.public_key(), false).expect("issued");
                let chain = CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM");
                let key = std::fs::read(folder.join("pki/board.pem")).expect("written");
                let key = PrivateKeyDer::from_pem_slice(&key).expect("PEM");
                builder.with_client_auth_cert(vec![chain], key).expect("the board's pair")
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Stops and waits until every connection has ended.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            serving.await.expect("API task");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

fn pair(folder: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let pem = std::fs::read(folder.join("pki/admin.pem")).expect("admin's pair");
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().expect("PEM");
    (chain, PrivateKeyDer::from_pem_slice(&pem).expect("PEM"))
}

/// An answer whose body is still coming.
pub struct Opened {
    /// HTTP status.
    pub code: u16,
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
    rest: Vec<u8>,
    driver: JoinHandle<()>,
}

impl Opened {
    /// The next line of a stream; `None` at its end.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            let frame = self.body.frame().await?.expect("body");
            if let Some(data) = frame.data_ref() {
                self.rest.extend_from_slice(data);
            }
        }
    }

    /// The next event of a watch.
    pub async fn event(&mut self) -> Value {
        let line = self.line().await.expect("an event");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Reads the body to its end.
    pub async fn finish(mut self) -> Reply {
        let mut body = std::mem::take(&mut self.rest);
        while let Some(frame) = self.body.frame().await {
            if let Some(data) = frame.expect("whole body").data_ref() {
                body.extend_from_slice(data);
            }
        }
        let headers = std::mem::take(&mut self.headers);
        Reply { code: self.code, headers, body: body.into() }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub code: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// A header's text, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
