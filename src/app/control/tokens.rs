//! The tokens of the cluster over the control socket of a master: list, create, revoke.

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::{query, refusal};
use crate::io::control::{Body, json as answer};
use crate::master::tokens::{NewToken, TokenError, Tokens};

/// Answers a request to `/v1/tokens`.
pub(super) async fn handle(tokens: &Tokens, request: Request<Incoming>) -> Response<Body> {
    let done = match *request.method() {
        Method::GET => tokens.list().map(|all| json!(all)),
        Method::POST => match wish(&request) {
            Some(wish) => {
                let made = tokens.create(wish).await;
                made.map(|token| json!({ "id": token.id, "token": token.to_string() }))
            }
            None => return refusal(StatusCode::BAD_REQUEST, "what kind of token?"),
        },
        Method::DELETE => match query(&request, "id").and_then(|id| id.parse().ok()) {
            Some(id) => tokens.revoke(id).await.map(|()| json!({})),
            None => return refusal(StatusCode::BAD_REQUEST, "which token?"),
        },
        _ => return refusal(StatusCode::METHOD_NOT_ALLOWED, "list, create or revoke tokens"),
    };
    match done {
        Ok(value) => answer(StatusCode::OK, &value),
        Err(error) => {
            let status = match error {
                TokenError::Absent(_) => StatusCode::NOT_FOUND,
                TokenError::Wish | TokenError::TooMany => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refusal(status, &format!("{:#}", anyhow::Error::new(error)))
        }
    }
}

fn wish(request: &Request<Incoming>) -> Option<NewToken> {
    Some(NewToken {
        uses: query(request, "uses")?.parse().ok()?,
        ttl_seconds: query(request, "ttl")?.parse().ok()?,
        role: query(request, "role")?.parse().ok()?,
    })
}
