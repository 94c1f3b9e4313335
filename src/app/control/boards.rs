//! Boards over the control socket of a master: one that waits is let in, one is thrown out.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use model::token::TokenRole;
use serde_json::json;

use super::{query, refusal};
use crate::io::control::{Body, json as answer};
use crate::master::evict::{EvictError, Evictor};
use crate::master::join::Joining;

/// Answers a request to `/v1/boards/approve` or `/v1/boards/evict`.
pub(super) async fn handle(
    joining: &Joining,
    evictor: &Evictor,
    request: &Request<Incoming>,
) -> Response<Body> {
    let Some(name) = query(request, "name") else {
        return refusal(StatusCode::BAD_REQUEST, "which board?");
    };
    if request.uri().path().ends_with("/approve") {
        let Some(words) = query(request, "words") else {
            return refusal(StatusCode::BAD_REQUEST, "which words does it show?");
        };
        let role = match query(request, "role").map(|role| role.parse()) {
            None => TokenRole::Worker,
            Some(Ok(role)) => role,
            Some(Err(_)) => return refusal(StatusCode::BAD_REQUEST, "no such role"),
        };
        return match joining.approve(&name, &words, role).await {
            Ok(words) => answer(StatusCode::OK, &json!({ "board": name, "words": words })),
            Err(error) => refusal(error.status(), &format!("{:#}", anyhow::Error::new(error))),
        };
    }
    match evictor.evict(&name).await {
        Ok(evicted) => answer(StatusCode::OK, &json!(evicted)),
        Err(error) => {
            let status = match error {
                EvictError::Absent(_) => StatusCode::NOT_FOUND,
                EvictError::Leads(_) | EvictError::NoKey(_) => StatusCode::CONFLICT,
                EvictError::List(_)
                | EvictError::Tokens(_)
                | EvictError::Read(_)
                | EvictError::Write(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refusal(status, &format!("{:#}", anyhow::Error::new(error)))
        }
    }
}
