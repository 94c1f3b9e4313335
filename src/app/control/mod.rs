//! What the control socket answers: status, kubeconfig, images.
//!
//! A master answers from its objects. A member asks its leader; when that is away it says what it
//! knows itself, and what to do.

mod afar;
mod boards;
mod images;
mod leaving;
mod saving;
mod secrets;
mod tokens;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::addresses::Addresses;
use super::backup;
use super::departure::Departure;
use super::identity::Identity;
use super::member::LeaderView;
use super::seat::Promotion;
use super::status::ClusterStatus;
use super::upgrade::{self, Rollout};
use super::version;
use crate::io::control::{Body, Handler, bytes_body, json as answer};
use crate::io::image::ImageStore;
use crate::io::peer::Connection;
use crate::io::store::SecretsKeys;
use crate::io::tls::Pki;
use crate::master::evict::Evictor;
use crate::master::join::Joining;
use crate::master::leave::Leaver;
use crate::master::tokens::Tokens;
pub(super) use afar::Commands;
pub(super) use leaving::{from_board as let_go, takes as takes_leave};

/// What the answers are made from.
pub(super) struct Control {
    /// This board.
    pub(super) identity: Identity,
    /// The images.
    pub(super) images: ImageStore,
    /// This board's addresses.
    pub(super) addresses: watch::Receiver<Addresses>,
    /// Port of the API.
    pub(super) api_port: u16,
    /// Makes it lead by a person's word.
    pub(super) promote: mpsc::Sender<Promotion>,
    /// Has it forget its cluster.
    pub(super) departure: Departure,
    /// Whether it leads, at this moment.
    pub(super) seat: watch::Receiver<ControlSeat>,
}

/// Where a board sits in its cluster, as its control socket needs to know it.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "one of them exists, in a watch channel")]
pub(super) enum ControlSeat {
    /// It leads.
    Master(MasterSeat),
    /// Another board leads.
    Member(LeaderView),
    /// Another board leads, and this one holds the log too.
    Follower(FollowerSeat),
    /// The seat is being exchanged.
    Nobody,
}

/// What a master that does not lead can answer with.
#[derive(Clone)]
pub(super) struct FollowerSeat {
    /// The leader as this board sees it.
    pub(super) view: LeaderView,
    /// Signs the admin's certificate.
    pub(super) pki: Arc<Pki>,
    /// The connection to the leader.
    pub(super) line: watch::Receiver<Option<Connection>>,
}

/// What only a master can answer with.
#[derive(Clone)]
pub(super) struct MasterSeat {
    /// The cluster.
    pub(super) status: Arc<ClusterStatus>,
    /// Signs the admin's certificate.
    pub(super) pki: Arc<Pki>,
    /// What boards join with.
    pub(super) tokens: Tokens,
    /// Takes boards in.
    pub(super) joining: Arc<Joining>,
    /// Throws boards out.
    pub(super) evictor: Evictor,
    /// Lets boards go.
    pub(super) leaver: Leaver,
    /// Seal Secrets.
    pub(super) secrets_keys: SecretsKeys,
    /// What a backup is made of.
    pub(super) backup: Arc<backup::Source>,
    /// Gives boards another binary.
    pub(super) rollout: Rollout,
}

impl Handler for Control {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            match (request.method().clone(), path.as_str()) {
                (Method::GET, "/v1/status") => self.status().await,
                (Method::GET, "/v1/kubeconfig") => self.kubeconfig(&request),
                (Method::GET, "/v1/images") => answer(StatusCode::OK, &images::list(&self.images)),
                (Method::POST, "/v1/images") => images::import(&self.images, request).await,
                (Method::DELETE, "/v1/images") => images::remove(&self.images, &request).await,
                (Method::GET, "/v1/images/export") => images::export(&self.images, &request),
                (Method::POST, "/v1/secrets/rotate") => self.rotate(),
                (Method::GET, backup::CONTENT | backup::KEY) => self.backup(&path).await,
                (_, "/v1/tokens") => self.tokens(request).await,
                (Method::POST, "/v1/promote") => self.promote(&request).await,
                (Method::POST, "/v1/boards/leave") => self.leave(&request).await,
                (Method::POST, "/v1/boards/approve" | "/v1/boards/evict") => {
                    self.boards(&request).await
                }
                (_, path) if upgrade::takes(path) => self.upgrade(request).await,
                _ => refusal(StatusCode::NOT_FOUND, "this board does not know that request"),
            }
        })
    }
}

impl Control {
    fn seat(&self) -> ControlSeat {
        self.seat.borrow().clone()
    }

    async fn status(&self) -> Response<Body> {
        match self.seat() {
            ControlSeat::Master(master) => match master.status.value() {
                Ok(status) => answer(StatusCode::OK, &status),
                Err(text) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &text),
            },
            ControlSeat::Member(view) | ControlSeat::Follower(FollowerSeat { view, .. }) => {
                let address = self.addresses.borrow().own;
                answer(StatusCode::OK, &view.status(&self.identity, address).await)
            }
            ControlSeat::Nobody => between_seats(),
        }
    }

    /// What the leader says of the cluster; nothing while it does not answer.
    pub(super) async fn cluster(&self) -> Option<Value> {
        match self.seat() {
            ControlSeat::Master(master) => master.status.value().ok(),
            ControlSeat::Member(view) | ControlSeat::Follower(FollowerSeat { view, .. }) => {
                let address = self.addresses.borrow().own;
                Some(view.status(&self.identity, address).await)
            }
            ControlSeat::Nobody => None,
        }
    }

    async fn upgrade(&self, request: Request<Incoming>) -> Response<Body> {
        match self.seat() {
            ControlSeat::Master(master) => upgrade::from_control(&master.rollout, request).await,
            ControlSeat::Follower(seat) => seat.view.pass_on(request).await,
            ControlSeat::Member(leader) => leader.only_there("kumquat upgrade"),
            ControlSeat::Nobody => between_seats(),
        }
    }

    async fn tokens(&self, request: Request<Incoming>) -> Response<Body> {
        match self.seat() {
            ControlSeat::Master(master) => tokens::handle(&master.tokens, request).await,
            ControlSeat::Follower(seat) => afar::forward(&seat.line, &request).await,
            ControlSeat::Member(leader) => leader.only_there("kumquat token"),
            ControlSeat::Nobody => between_seats(),
        }
    }

    fn rotate(&self) -> Response<Body> {
        match self.seat() {
            ControlSeat::Master(master) => secrets::rotate(&master),
            ControlSeat::Member(view) | ControlSeat::Follower(FollowerSeat { view, .. }) => {
                view.only_there("kumquat secrets")
            }
            ControlSeat::Nobody => between_seats(),
        }
    }

    async fn backup(&self, path: &str) -> Response<Body> {
        match self.seat() {
            ControlSeat::Master(MasterSeat { pki, .. })
            | ControlSeat::Follower(FollowerSeat { pki, .. })
                if path == backup::KEY =>
            {
                saving::key(&pki)
            }
            ControlSeat::Master(master) => saving::content(&master).await,
            ControlSeat::Member(view) | ControlSeat::Follower(FollowerSeat { view, .. }) => {
                view.only_there("kumquat backup")
            }
            ControlSeat::Nobody => between_seats(),
        }
    }

    async fn boards(&self, request: &Request<Incoming>) -> Response<Body> {
        match self.seat() {
            ControlSeat::Master(master) => {
                boards::handle(&master.joining, &master.evictor, request).await
            }
            ControlSeat::Follower(seat) => afar::forward(&seat.line, request).await,
            ControlSeat::Member(leader) => leader.only_there("kumquat board"),
            ControlSeat::Nobody => between_seats(),
        }
    }

    async fn promote(&self, request: &Request<Incoming>) -> Response<Body> {
        let force = query(request, "force").is_some();
        let (answer, answered) = oneshot::channel();
        let asked = self.promote.send(Promotion { force, answer }).await;
        let gone = || Err("this board is stopping".to_owned());
        let said = if asked.is_ok() { answered.await.unwrap_or_else(|_| gone()) } else { gone() };
        match said {
            Ok(()) => crate::io::control::json(StatusCode::OK, &json!({})),
            Err(why) => refusal(StatusCode::CONFLICT, &why),
        }
    }

    fn kubeconfig(&self, request: &Request<Incoming>) -> Response<Body> {
        let pki = match self.seat() {
            ControlSeat::Master(master) => master.pki,
            ControlSeat::Follower(seat) => seat.pki,
            ControlSeat::Member(leader) => return leader.only_there("kumquat kubeconfig"),
            ControlSeat::Nobody => return between_seats(),
        };
        let own = format!("https://{}:{}", self.addresses.borrow().own, self.api_port);
        let server = query(request, "server").unwrap_or(own);
        if !is_server_url(&server) {
            let text = "that is no URL of an API server: write https://ADDRESS:6443";
            return refusal(StatusCode::BAD_REQUEST, text);
        }
        let text = pki.admin_kubeconfig(&self.identity.cluster, &server);
        Response::new(bytes_body(text))
    }
}

/// A URL that may stand in a kubeconfig as it is.
fn is_server_url(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]%".contains(&byte);
    text.bytes().all(plain)
        && text.parse::<http::Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())
        })
}

fn between_seats() -> Response<Body> {
    let text = "this board is changing its role in the cluster: try again in a second";
    refusal(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// An error that the command prints.
pub(super) fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    answer(status, &json!({"message": message, "version": version::TEXT}))
}

/// A value of the query string, unescaped.
fn query(request: &Request<Incoming>, name: &str) -> Option<String> {
    let query = request.uri().query()?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls() {
        for fine in ["https://10.0.0.1:6443", "https://pi-1.local", "https://[fd00::1]:6443/a"] {
            assert!(is_server_url(fine), "{fine}");
        }
        for bad in
            ["", "http://a", "https://", "https://a b", "https://a\nusers: []", "\"evil", "a:1"]
        {
            assert!(!is_server_url(bad), "{bad}");
        }
    }
}
