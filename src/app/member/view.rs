//! What a member can say of its cluster: what its leader tells it, and what it knows itself.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use model::leader::LeaderRecord;
use model::limits::CONTROL_ANSWER_BYTES_MAX;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::app::control::refusal;
use crate::app::identity::Identity;
use crate::app::master::STATUS;
use crate::app::version;
use crate::io::control::Body;
use crate::io::peer;
use crate::node::tunnel::Tunnel;

/// How long a leader may take to tell the cluster's status.
const STATUS_WITHIN: Duration = Duration::from_secs(2);

/// How long it may take for anything else that a person asks.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The cluster as a member sees it.
#[derive(Clone)]
pub(crate) struct LeaderView {
    /// The newest leader record.
    pub(super) leader: watch::Receiver<Option<LeaderRecord>>,
    /// The way to it.
    pub(super) tunnel: Tunnel,
}

impl LeaderView {
    /// As `ClusterStatus::value`; without the leader only what this board knows, and a warning.
    pub(in crate::app) async fn status(&self, own: &Identity, address: Ipv4Addr) -> Value {
        let leader = self.leader.borrow().clone();
        let asked = async {
            let answer = self.tunnel.get(STATUS).await.map_err(|error| error.to_string())?;
            let body = peer::read(answer.into_body(), CONTROL_ANSWER_BYTES_MAX).await?;
            serde_json::from_slice(&body).map_err(|error| error.to_string())
        };
        let why = match tokio::time::timeout(STATUS_WITHIN, asked).await {
            Ok(Ok(status)) => return status,
            Ok(Err(why)) => why,
            Err(_) => "no answer in time".to_owned(),
        };
        alone(own, address, leader.as_ref(), &why)
    }

    /// Who leads, as far as this board knows.
    pub(in crate::app) fn leader(&self) -> watch::Receiver<Option<LeaderRecord>> {
        self.leader.clone()
    }

    /// Whether a leader answers.
    pub(in crate::app) fn is_led(&self) -> bool {
        self.tunnel.connected_to().is_some()
    }

    /// Asks the leader something.
    pub(in crate::app) async fn send(
        &self,
        request: Request<peer::Body>,
    ) -> Result<Response<Incoming>, String> {
        let sending = tokio::time::timeout(ANSWER_WITHIN, self.tunnel.send(request)).await;
        let sent = sending.map_err(|_| "the leader does not answer".to_owned())?;
        sent.map_err(|error| error.to_string())
    }

    /// Has the leader answer a request of this master's control socket.
    pub(in crate::app) async fn pass_on(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut passed = Request::new(body.map_err(Into::into).boxed_unsync());
        *passed.method_mut() = parts.method;
        *passed.uri_mut() = parts.uri;
        let answer = match self.tunnel.send(passed).await {
            Ok(answer) => answer,
            Err(error) => return refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        };
        let status = answer.status();
        if status.is_success() {
            return answer.map(|body| body.map_err(std::io::Error::other).boxed());
        }
        let text = peer::read(answer.into_body(), CONTROL_ANSWER_BYTES_MAX).await;
        refusal(status, &String::from_utf8_lossy(&text.unwrap_or_default()))
    }

    /// The refusal of what only the master board can do.
    pub(in crate::app) fn only_there(&self, command: &str) -> Response<Body> {
        let leader = self.leader.borrow().as_ref().map(|leader| leader.name.clone());
        let board =
            leader.map_or("the master board".to_owned(), |n| format!("the master board {n}"));
        let text = format!("this board does not lead: run `{command}` on {board}");
        refusal(StatusCode::CONFLICT, &text)
    }
}

/// The status that a board can give by itself.
fn alone(own: &Identity, address: Ipv4Addr, leader: Option<&LeaderRecord>, why: &str) -> Value {
    let (epoch, term) = leader.map_or((0, 0), LeaderRecord::rank);
    let reason = match leader {
        Some(leader) => format!("the master board {} does not answer: {why}", leader.name),
        None => format!("the master board does not answer: {why}"),
    };
    json!({
        "cluster": own.cluster, "epoch": epoch, "term": term, "leader": null,
        "boards": [{
            "name": own.name, "address": address.to_string(), "role": "worker", "ready": false,
            "version": version::TEXT, "architecture": null, "pods": null,
            "lastHeardSeconds": null,
        }],
        "voters": [],
        "warnings": [{
            "board": own.name, "reason": reason,
            "remedy": "check the master's power and network; pods of this board go on without it",
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_its_leader_a_board_shows_itself() {
        let own: Identity = serde_json::from_value(json!({
            "name": "pi-2", "cluster": "lab", "id": "x", "role": "member",
            "pod_range": {"base": "10.42.0.0", "prefix": 16},
            "service_range": {"base": "10.43.0.0", "prefix": 16},
        }))
        .expect("an identity");
        let status = alone(&own, Ipv4Addr::new(10, 0, 0, 2), None, "nobody there");
        assert_eq!(status["leader"], Value::Null);
        assert_eq!(status["cluster"], "lab");
        assert_eq!(status["boards"][0]["name"], "pi-2");
        assert_eq!(status["boards"][0]["ready"], false);
        let said = status["warnings"][0]["reason"].as_str().expect("text");
        assert!(said.contains("nobody there"), "{said}");
    }
}
