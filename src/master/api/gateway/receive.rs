//! Requests of clients that another master passes on.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderName, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use model::masters::ApiCallV1;
use tokio::time::Instant;

use super::{Gateway, WAIT, Who};
use crate::io::peer::{self, Body};
use crate::io::tls::{BadCertificate, BoardPeer, PeerIdentity};
use crate::master::api::answer::Answer;
use crate::master::api::auth::Caller;
use crate::master::api::body::Sent;
use crate::master::api::route::{self, Api};
use crate::master::api::serve::Working;

const ANSWERED: HeaderName = HeaderName::from_static(ApiCallV1::ANSWERED);

/// Why a request of another master is not taken; it was not carried out then.
type Refusal = (StatusCode, &'static str);

impl Gateway {
    /// Whether a request of another board is a client's.
    pub fn takes(path: &str) -> bool {
        path.strip_prefix(ApiCallV1::PATH).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Answers a request that `board` passes on, if this master leads and the board is one of the
    /// group.
    pub async fn answer_master(
        &self,
        board: &BoardPeer,
        request: Request<Incoming>,
    ) -> Response<Body> {
        match self.take(board, request).await {
            Ok(answer) => answer,
            Err((status, text)) => peer::text(status, text),
        }
    }

    async fn take(
        &self,
        board: &BoardPeer,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        if !board.is_master {
            return Err((StatusCode::FORBIDDEN, "only masters pass requests of clients on"));
        }
        let header = request.headers().get(ApiCallV1::HEADER).and_then(|it| it.to_str().ok());
        let bad = (StatusCode::BAD_REQUEST, "that is no request of a client");
        let call = header.and_then(ApiCallV1::from_header).ok_or(bad)?;
        let api = self.leading(&call).await?;
        if !api.keys.is_member(board) {
            return Err((StatusCode::FORBIDDEN, "that board is no member of the group of masters"));
        }
        let caller = caller(&call).map_err(|BadCertificate| bad)?;
        let client = caller.board.clone();
        let request = rebuilt(request, call).ok_or(bad)?;
        let answering =
            route::answer(Arc::clone(&api), Arc::new(caller), request, Working::elsewhere());
        Ok(for_master(Box::pin(answering).await, api, client))
    }

    /// The API of this master: also of one that is about to lead.
    async fn leading(&self, call: &ApiCallV1) -> Result<Arc<Api>, Refusal> {
        let waited = Duration::from_millis(call.waited_ms.into());
        let deadline = Instant::now() + WAIT.saturating_sub(waited);
        match self.own(deadline).await {
            Some(Who::Own(api)) => Ok(api),
            Some(Who::Led(_)) => Err((StatusCode::MISDIRECTED_REQUEST, "another master leads")),
            _ => Err((StatusCode::SERVICE_UNAVAILABLE, "this master does not lead")),
        }
    }
}

/// Who asks, as the other master says.
fn caller(call: &ApiCallV1) -> Result<Caller, BadCertificate> {
    let address = call.address;
    let Some(user) = &call.user else {
        let identity = call.refused.then_some(Err(BadCertificate));
        return Ok(Caller { identity, board: None, address });
    };
    let identity = PeerIdentity { name: user.name.clone(), groups: user.groups.clone() };
    let board = user.board_key.map(|key| BoardPeer::of(&identity, key)).transpose()?;
    Ok(Caller { identity: Some(Ok(identity)), board, address })
}

/// The request as the client sent it.
fn rebuilt(request: Request<Incoming>, call: ApiCallV1) -> Option<Request<Sent>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query()?.as_str().strip_prefix(ApiCallV1::PATH)?;
    head.uri = path.parse::<Uri>().ok()?;
    head.headers.remove(ApiCallV1::HEADER);
    head.headers.insert(HOST, HeaderValue::from_str(&call.host).ok()?);
    match (&head.method, call.upgrade) {
        (&Method::CONNECT, Some(upgrade)) => {
            head.method = upgrade.method.parse().ok()?;
            head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            head.headers.insert(UPGRADE, HeaderValue::from_str(&upgrade.protocol).ok()?);
        }
        (&Method::CONNECT, None) | (_, Some(_)) => return None,
        (_, None) => {}
    }
    Some(Request::from_parts(head, Sent::Coming(body)))
}

/// The answer as it travels to the other master; what a board of ours watches there ends when it is
/// thrown out.
fn for_master(answer: Answer, api: Arc<Api>, client: Option<BoardPeer>) -> Response<Body> {
    let mut answer = answer.map(|body| body.map_err(Into::into).boxed_unsync());
    if let Some(board) = client {
        let over = async move { api.turned_out(&board).await };
        answer = answer.map(|body| peer::until(body, over));
    }
    let headers = answer.headers_mut();
    headers.remove(CONNECTION);
    let protocol = headers.remove(UPGRADE);
    let plain = HeaderValue::from_static("api");
    headers.insert(ANSWERED, protocol.unwrap_or(plain));
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        *answer.status_mut() = StatusCode::OK;
    }
    answer
}
