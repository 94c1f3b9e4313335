//! Clients of the public API that keep their connection, know several doors and tell apart what
//! surely did not happen from what may have.
//!
//! One request at a time and HTTP/1.1 on TLS, as the simplest client does. Every wait has an end.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::history::{Answer, Call, History, Listing, Moment, Operation, now};

/// A door that does not open within this time is left for the next one.
const OPENED_WITHIN: Duration = Duration::from_millis(400);
/// Answers of the lists of these tests are far smaller.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where the API can be reached, and as whom.
#[derive(Clone)]
pub struct Doors {
    pub addresses: Vec<SocketAddr>,
    tls: TlsConnector,
}

impl Doors {
    /// Doors at `addresses` for the user of a kubeconfig.
    pub fn new(kubeconfig: &str, addresses: Vec<SocketAddr>) -> Self {
        let config: Value = serde_norway::from_str(kubeconfig).expect("a kubeconfig");
        let pem = |value: &Value| {
            STANDARD.decode(value.as_str().expect("a certificate")).expect("base64 in it")
        };
        let user = &config["users"][0]["user"];
        let authority = pem(&config["clusters"][0]["cluster"]["certificate-authority-data"]);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority).expect("PEM")).expect("a certificate");
        let chain = CertificateDer::pem_slice_iter(&pem(&user["client-certificate-data"]))
            .collect::<Result<Vec<_>, _>>()
            .expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])).expect("PEM");
        let config = trusting(roots).with_client_auth_cert(chain, key).expect("the user's pair");
        Self { addresses, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Other doors for the same user.
    pub fn at(&self, addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, tls: self.tls.clone() }
    }

    /// The same doors for whoever shows no certificate, but a token perhaps.
    pub fn for_strangers(kubeconfig: &str, addresses: Vec<SocketAddr>) -> Self {
        let config: Value = serde_norway::from_str(kubeconfig).expect("a kubeconfig");
        let authority = &config["clusters"][0]["cluster"]["certificate-authority-data"];
        let pem = STANDARD.decode(authority.as_str().expect("a certificate")).expect("base64");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("PEM")).expect("a certificate");
        let config = trusting(roots).with_no_client_auth();
        Self { addresses, tls: TlsConnector::from(Arc::new(config)) }
    }
}

fn trusting(
    roots: rustls::RootCertStore,
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Sent {
    /// With an answer.
    Answered { code: u16, body: Bytes },
    /// Before anything was sent.
    Not(String),
    /// After it may have arrived.
    Unknown(String),
}

/// One client.
pub struct Client {
    pub number: usize,
    doors: Arc<Doors>,
    /// The door that it uses.
    at: usize,
    /// Whether it stays there, whatever happens: who turns away sees nothing of a door that does not serve.
    pub stays: bool,
    open: Option<SendRequest<Full<Bytes>>>,
    /// What it shows besides its certificate.
    pub bearer: Option<String>,
    /// How long it waits for an answer.
    pub patience: Duration,
    /// Bytes beside the value in every object that it writes.
    pub padding: usize,
    pub history: History,
    /// Values of writes of which the store said that they surely did not happen.
    pub refused: Vec<u64>,
    /// When writes were accepted, and at which door.
    pub through: Vec<(Moment, usize)>,
    /// When the last answer told the client to come again.
    pub retry_after: Option<String>,
}

impl Client {
    /// A client that begins at the door of its number.
    pub fn new(number: usize, doors: Arc<Doors>) -> Self {
        let at = number % doors.addresses.len();
        let patience = Duration::from_secs(5);
        Self {
            number,
            doors,
            at,
            stays: false,
            open: None,
            bearer: None,
            patience,
            padding: 0,
            history: History::default(),
            refused: Vec::new(),
            through: Vec::new(),
            retry_after: None,
        }
    }

    /// Leaves its door for the next one, unless it stays.
    fn leave(&mut self) {
        self.open = None;
        if self.stays {
            return;
        }
        self.at = (self.at + 1) % self.doors.addresses.len();
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let address = self.doors.addresses[self.at];
        let opening = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("kubernetes").expect("a name");
            let stream = self.doors.tls.connect(name, stream).await?;
            let opened = http1::handshake(TokioIo::new(stream)).await;
            opened.map_err(std::io::Error::other)
        };
        match timeout(OPENED_WITHIN, opening).await {
            Ok(Ok((sender, connection))) => {
                tokio::spawn(connection);
                Ok(sender)
            }
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address}: does not open")),
        }
    }

    /// Sends one request; on any trouble the next one goes to the next door.
    pub async fn ask(&mut self, method: &Method, path: &str, body: Option<&Value>) -> Sent {
        let mut kept = self.open.take();
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let sender = match kept {
            Some(sender) => Ok(sender),
            None => self.connect().await,
        };
        let mut sender = match sender {
            Ok(sender) => sender,
            Err(why) => {
                self.leave();
                return Sent::Not(why);
            }
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "kubernetes")
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .expect("request");
        let answering = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let code = answer.status().as_u16();
            let retry = answer.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok());
            let retry = retry.map(str::to_owned);
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>((code, retry, body))
        };
        match timeout(self.patience, answering).await {
            Ok(Ok((code, retry, body))) => {
                self.retry_after = retry;
                match code {
                    // A door that cannot serve: perhaps another one can.
                    500.. => self.leave(),
                    _ => self.open = Some(sender),
                }
                Sent::Answered { code, body }
            }
            Ok(Err(why)) => {
                self.leave();
                Sent::Unknown(why)
            }
            Err(_) => {
                self.leave();
                Sent::Unknown("no answer in time".to_owned())
            }
        }
    }

    /// Does one thing to a key of a collection and notes it; gives the answer when there was one.
    pub async fn call(&mut self, collection: &str, key: &str, call: Call) -> Option<Answer> {
        let (method, path, body) = self.request(collection, key, call);
        let (door, invoked) = (self.at, now());
        let sent = self.ask(&method, &path, body.as_ref()).await;
        let returned = now();
        let answer = match sent {
            Sent::Answered { code, body } => match answer(call, code, &parsed(&body)) {
                Told::Answer(answer) => Some(answer),
                Told::Nothing => {
                    self.refused.extend(call.value());
                    return None;
                }
                Told::Unknown => None,
            },
            Sent::Not(_) => return None,
            Sent::Unknown(_) => None,
        };
        if let Some(Answer::Written(_)) = answer {
            self.through.push((returned, door));
        }
        self.history.operations.push(Operation {
            client: self.number,
            key: key.to_owned(),
            call,
            invoked,
            returned: answer.map(|answer| (returned, answer)),
        });
        answer
    }

    /// Reads all keys of a collection at once; whether that worked.
    pub async fn list(&mut self, collection: &str) -> bool {
        let invoked = now();
        let sent = self.ask(&Method::GET, collection, None).await;
        let Sent::Answered { code: 200, body } = sent else { return false };
        let body = parsed(&body);
        let items = body["items"].as_array().expect("items");
        let objects = items.iter().filter_map(|item| {
            let name = item["metadata"]["name"].as_str()?.to_owned();
            Some((name, (value_of(item)?, version_of(item)?)))
        });
        self.history.listings.push(Listing {
            client: self.number,
            invoked,
            returned: now(),
            version: version_of(&body).expect("a version"),
            objects: objects.collect(),
        });
        true
    }

    fn request(&self, collection: &str, key: &str, call: Call) -> (Method, String, Option<Value>) {
        let path = format!("{collection}/{key}");
        let object = |value: u64, version: Option<u64>| {
            let mut object = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": key},
                "data": {"value": value.to_string()},
            });
            if let Some(version) = version {
                object["metadata"]["resourceVersion"] = version.to_string().into();
            }
            if self.padding > 0 {
                object["data"]["padding"] = "p".repeat(self.padding).into();
            }
            Some(object)
        };
        match call {
            Call::Create { value } => (Method::POST, collection.to_owned(), object(value, None)),
            Call::Put { value } => (Method::PUT, path, object(value, None)),
            Call::Swap { value, base } => (Method::PUT, path, object(value, Some(base))),
            Call::Delete => (Method::DELETE, path, None),
            Call::Get => (Method::GET, path, None),
        }
    }
}

/// A body as JSON; null when it is none.
pub fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_default()
}

/// What an answer tells about an operation.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Answer(Answer),
    /// It surely did not happen.
    Nothing,
    /// It may have happened, or will.
    Unknown,
}

fn answer(call: Call, code: u16, body: &Value) -> Told {
    let version = || version_of(body).expect("an object has a version");
    match (code, call) {
        (200 | 201, Call::Get) => {
            let value = value_of(body).expect("every write has a value");
            Told::Answer(Answer::Found { value, version: version() })
        }
        (200 | 202, Call::Delete) => Told::Answer(Answer::Deleted),
        (200 | 201, _) => Told::Answer(Answer::Written(version())),
        (404, _) => Told::Answer(Answer::Missing),
        (409, Call::Create { .. }) => Told::Answer(Answer::Exists),
        (409, _) => Told::Answer(Answer::Conflict),
        (429 | 503, _) => Told::Nothing,
        (500.., _) => Told::Unknown,
        _ => panic!("{call:?} was answered with {code}: {body}"),
    }
}

/// The value that an object carries.
pub fn value_of(object: &Value) -> Option<u64> {
    object["data"]["value"].as_str()?.parse().ok()
}

/// The version of an object or a list.
pub fn version_of(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}
