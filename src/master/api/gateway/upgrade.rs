//! Streams of clients (exec, attach, port-forward) on their way to the leader: bytes, both ways.
//!
//! Between masters such a stream is an extended CONNECT (RFC 8441); what is spoken over it, SPDY or
//! WebSocket, is between client and leader.

use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use model::masters::ApiCallV1;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::time::timeout;

use super::Gateway;
use super::forward::{Over, for_client};
use crate::master::api::answer::{Answer, AnswerBody};
use crate::master::api::route::too_many;

/// How long a client may take to go on after it was told to.
const UPGRADE_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of one direction that are on their way here.
const BUFFER_BYTES: usize = 16 * 1024;

/// What masters call such a stream.
pub(super) fn protocol() -> Protocol {
    Protocol::from_static("kumquat-api")
}

/// Tells the client to switch, and passes bytes on once it has.
pub(super) fn switch(
    gateway: &Gateway,
    mut answer: Response<Incoming>,
    client: OnUpgrade,
    over: Over,
) -> Answer {
    let Ok(permit) = gateway.0.upgrades.clone().try_acquire_owned() else { return too_many() };
    let leader = hyper::upgrade::on(&mut answer);
    let protocol = answer.headers().get(ApiCallV1::ANSWERED).cloned();
    let mut switching = Response::new(AnswerBody::from(Vec::new()));
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switching.headers_mut() = for_client(std::mem::take(answer.headers_mut()));
    let headers = switching.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.extend(protocol.map(|protocol| (UPGRADE, protocol)));
    tokio::spawn(async move {
        let Ok(Ok(client)) = timeout(UPGRADE_WITHIN, client).await else { return };
        let Ok(Ok(leader)) = timeout(UPGRADE_WITHIN, leader).await else { return };
        let (mut client, mut leader) = (TokioIo::new(client), TokioIo::new(leader));
        let passing =
            copy_bidirectional_with_sizes(&mut client, &mut leader, BUFFER_BYTES, BUFFER_BYTES);
        // Cancel safety: the stream does not outlive its leader.
        tokio::select! {
            passed = passing => if let Err(error) = passed {
                tracing::debug!(%error, "a stream to the leader broke");
            },
            () = over => {}
        }
        drop(permit);
    });
    switching
}
