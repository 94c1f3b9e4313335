//! GET and POST of pods/NAME/{exec,attach,portforward}: checks, asks the board, upgrades the connection.
//!
//! ```text
//!  request ─▶ pod, container, options ─▶ board says that it begins ─▶ 101 ─▶ session
//!                │ 400, 404                │ 500 with its words        WebSocket: exec and attach v5 or v4,
//!                                                                      port-forward v4 or tunnelled SPDY
//!                                                                      SPDY/3.1: all three
//! ```
//! A session ends with its process or pod, with its client, and when the API stops; never for silence.
//! Whoever is slow makes the other end wait, through the board's tunnel; nothing is held but the few
//! frames on their way. Texts are those of kube-apiserver and kubelet.

mod exchange;
mod forward;
mod options;
mod spdy;
mod terminal;
mod websocket;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use model::ids::Uid;
use model::resource::Subresource;
use model::status::ApiError;
use model::wire::{AttachRequestV1, ExecRequestV1, StdioV1, StreamRequestV1};
use serde_json::Value;
use tokio::time::timeout;

use super::answer::{Answer, AnswerBody, plain};
use super::logs::{self, LogSource};
use super::route::{Call, Place, too_many};
use crate::io::upgrade::websocket::accept;
use crate::master::registry::Target;
use exchange::{Exchange, Refused};
use options::{Protocol, Way};

/// How long a client may take to go on after it was told to.
const UPGRADE_WITHIN: Duration = Duration::from_secs(10);
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Whether this subresource is answered here.
pub(super) fn serves(sub: &Subresource) -> bool {
    names(sub.name)
}

/// Whether a subresource of that name is.
pub(super) fn names(subresource: &str) -> bool {
    matches!(subresource, "attach" | "exec" | "portforward")
}

/// Where a pod is.
#[derive(Clone)]
struct PodPlace {
    source: Arc<dyn LogSource>,
    node: String,
    name: String,
    uid: Uid,
}

/// Answers the request; the session goes on by itself.
pub(super) async fn answer(call: &Call, place: &Place) -> Result<Answer, ApiError> {
    let target = Target::new(place.resource, &*place.namespace, &*place.name);
    let pod: Value = serde_json::from_slice(&call.api.registry.get(&target)?)
        .map_err(|error| ApiError::internal(format!("stored pod is not JSON: {error}")))?;
    if place.subresource.is_some_and(|sub| sub.name == "portforward") {
        let at = pod_place(call, place, &pod)?;
        let Some(way) = Way::of_forward(&call.headers) else { return Err(not_upgraded()) };
        return port_forward(call, at, way);
    }
    let name = logs::container(&pod, &place.name, call.query.get("container"))?;
    let at = pod_place(call, place, &pod)?;
    let stdio = options::stdio(&call.query)?;
    let Some(way) = Way::of_process(&call.headers) else { return Err(not_upgraded()) };
    let way = match way {
        Way::None => return Ok(no_protocol()),
        way => way,
    };
    let request = match place.subresource.is_some_and(|sub| sub.name == "exec") {
        true => StreamRequestV1::Exec(ExecRequestV1 {
            pod: at.uid,
            container: name,
            command: call.query.all("command").into_iter().map(str::to_owned).collect(),
            stdio,
        }),
        false => StreamRequestV1::Attach(AttachRequestV1 { pod: at.uid, container: name, stdio }),
    };
    if call.upgrade.is_none() {
        return Err(not_upgraded());
    }
    let exchange = match exchange::begin(&*at.source, &at.node, &request).await {
        Ok(exchange) => exchange,
        Err(Refused::Away(text)) => return Err(dialing(&text)),
        // In the kubelet's form, which clients show behind "unable to upgrade connection".
        Err(Refused::Board(text)) => return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, text)),
    };
    process(call, way, stdio, exchange)
}

fn pod_place(call: &Call, place: &Place, pod: &Value) -> Result<PodPlace, ApiError> {
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let text = || format!("pod {} does not have a host assigned", place.name);
    Ok(PodPlace {
        source: call.api.logs.clone(),
        node: node.ok_or_else(|| ApiError::bad_request(text()))?.to_owned(),
        name: place.name.clone(),
        uid: pod["metadata"]["uid"].as_str().and_then(Uid::parse).unwrap_or_default(),
    })
}

fn not_upgraded() -> ApiError {
    ApiError::bad_request("Upgrade request required")
}

fn dialing(text: &str) -> ApiError {
    ApiError::internal(format!("error dialing backend: {text}"))
}

fn no_protocol() -> Answer {
    plain(
        StatusCode::FORBIDDEN,
        "no stream protocol in common: v5.channel.k8s.io, v4.channel.k8s.io",
    )
}

/// Begins the session of exec or attach.
fn process(call: &Call, way: Way, stdio: StdioV1, exchange: Exchange) -> Result<Answer, ApiError> {
    match way {
        Way::WebSocket { key, protocol } => {
            let half_close = protocol == Protocol::V5;
            let answer = websocket_answer(&key, protocol);
            upgrade(call, answer, move |stream| {
                websocket::process(stream, half_close, stdio, exchange)
            })
        }
        Way::Spdy { protocol } => upgrade(call, spdy_answer(protocol), move |stream| {
            spdy::process(stream, stdio, exchange)
        }),
        Way::None => Ok(no_protocol()),
    }
}

fn port_forward(call: &Call, at: PodPlace, way: Way) -> Result<Answer, ApiError> {
    match way {
        Way::WebSocket { key, protocol: Protocol::TunnelledForward } => {
            let answer = websocket_answer(&key, Protocol::TunnelledForward);
            upgrade(call, answer, move |stream| websocket::tunnel(stream, at))
        }
        Way::WebSocket { key, protocol } => {
            let ports = options::ports(&call.query)?;
            let answer = websocket_answer(&key, protocol);
            upgrade(call, answer, move |stream| websocket::ports(stream, at, ports))
        }
        Way::Spdy { protocol } => upgrade(call, spdy_answer(protocol), move |stream| {
            forward::connections(TokioIo::new(stream), at)
        }),
        Way::None => Ok(no_protocol()),
    }
}

/// Switches protocols, and runs the session once the client's connection is free for it.
fn upgrade<F, S>(call: &Call, answer: Answer, session: F) -> Result<Answer, ApiError>
where
    F: FnOnce(Upgraded) -> S + Send + 'static,
    S: Future<Output = ()> + Send,
{
    let connection = call.upgrade.clone().ok_or_else(not_upgraded)?;
    let Ok(permit) = call.api.upgrades.clone().try_acquire_owned() else { return Ok(too_many()) };
    let mut shutdown = call.api.shutdown.clone();
    tokio::spawn(async move {
        let Ok(Ok(stream)) = timeout(UPGRADE_WITHIN, connection).await else { return };
        // Cancel safety: whatever is under way ends with its connection.
        tokio::select! {
            () = session(stream) => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
        drop(permit);
    });
    Ok(answer)
}

fn switching(protocol: &'static str) -> Answer {
    let mut answer = Response::new(AnswerBody::from(Vec::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    answer
}

fn websocket_answer(key: &str, protocol: Protocol) -> Answer {
    let mut answer = switching("websocket");
    let headers = answer.headers_mut();
    let value = HeaderValue::from_str(&accept(key)).expect("base64 is ASCII");
    headers.insert(SEC_WEBSOCKET_ACCEPT, value);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol.name()));
    answer
}

fn spdy_answer(protocol: Protocol) -> Answer {
    let mut answer = switching("SPDY/3.1");
    answer.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol.name()));
    answer
}
