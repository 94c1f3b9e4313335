//! `kumquat board leave` over the control socket: the leader is asked what is still waited for, and once
//! nothing is, this board takes its leave and forgets the cluster.
//!
//! Answers: `{"left": false, "waits": [...]}`, asked again a second later by the command;
//! `{"left": true, "cluster": ...}` when `up` is about to end.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use model::leave::{LEAVE, LEFT, LeavingV1};
use model::limits::CONTROL_ANSWER_BYTES_MAX;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Control, ControlSeat, FollowerSeat, between_seats, query, refusal};
use crate::app::departure::Kept;
use crate::app::member::LeaderView;
use crate::io::control::{Body, json as answer};
use crate::io::peer;
use crate::io::tls::BoardPeer;
use crate::master::leave::{LeaveError, Leaver};

/// A board forgets its cluster without a leader's word once no leader was there for so long: longer than
/// masters take to choose one, and boards to reach it.
const UNLED_FOR: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Control {
    /// Does what is next, and says how far it is.
    pub(super) async fn leave(&self, request: &Request<Incoming>) -> Response<Body> {
        let force = query(request, "force").is_some();
        if query(request, "forget").is_some() {
            return self.forget().await;
        }
        let asked = match self.seat() {
            ControlSeat::Master(master) => {
                let leaving = master.leaver.advance(&self.identity.name, force).await;
                leaving.map(|leaving| (leaving, None)).map_err(|error| refused(&error))
            }
            ControlSeat::Member(view) | ControlSeat::Follower(FollowerSeat { view, .. }) => {
                match view.leave(force).await {
                    Err((StatusCode::SERVICE_UNAVAILABLE, why)) => {
                        return self.left_already(view, why).await;
                    }
                    said => said.map(|leaving| (leaving, Some(view))),
                }
            }
            ControlSeat::Nobody => return between_seats(),
        };
        // Whoever leads acts upon a wish at once, so there is none before the leader has taken it.
        match asked {
            Ok(_) => self.departure.wish(),
            Err((StatusCode::CONFLICT, _)) => self.departure.stay(),
            Err(_) => {}
        }
        match asked {
            Ok((leaving, Some(view))) if leaving.ready => self.take_leave(view).await,
            Ok((leaving, _)) => {
                answer(StatusCode::OK, &json!({ "left": false, "waits": leaving.waits }))
            }
            Err((status, text)) => refusal(status, &text),
        }
    }

    /// The rest is done also when whoever asked hangs up.
    async fn take_leave(&self, view: LeaderView) -> Response<Body> {
        let departure = self.departure.clone();
        let taking = tokio::spawn(async move {
            departure.take_leave(&view.leader()).await?;
            departure.go().await.map_err(|error| Kept::Silent(format!("{error:#}")))
        });
        match taking.await {
            Ok(Ok(())) => self.has_left(),
            Ok(Err(Kept::Early(text))) => {
                answer(StatusCode::OK, &json!({ "left": false, "waits": [text] }))
            }
            Ok(Err(Kept::Silent(why))) => refusal(StatusCode::SERVICE_UNAVAILABLE, &why),
            Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    /// The leader does not answer this board, maybe because it has let it go.
    async fn left_already(&self, view: LeaderView, why: String) -> Response<Body> {
        match view.is_led() || !self.departure.is_stranger(&view.leader()).await {
            true => refusal(StatusCode::SERVICE_UNAVAILABLE, &why),
            false => self.go().await,
        }
    }

    /// Without a leader's word: where there is none, or none that knows this board. The connection to one
    /// that is well ends now and then, too.
    async fn forget(&self) -> Response<Body> {
        let since = Instant::now();
        while since.elapsed() < UNLED_FOR {
            let led = match self.seat() {
                ControlSeat::Master(_) => Some("this board leads"),
                ControlSeat::Member(view) | ControlSeat::Follower(FollowerSeat { view, .. }) => {
                    view.is_led().then_some("the board that leads answers")
                }
                ControlSeat::Nobody => return between_seats(),
            };
            if let Some(led) = led {
                let text = format!("{led}: leave without --forget, so that others take over first");
                return refusal(StatusCode::CONFLICT, &text);
            }
            sleep(LOOK_EVERY).await;
        }
        self.go().await
    }

    async fn go(&self) -> Response<Body> {
        match self.departure.go().await {
            Ok(()) => self.has_left(),
            Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}")),
        }
    }

    fn has_left(&self) -> Response<Body> {
        let Self { identity, .. } = self;
        let said = json!({ "left": true, "board": identity.name, "cluster": identity.cluster });
        answer(StatusCode::OK, &said)
    }
}

impl LeaderView {
    /// Tells the leader that this board wishes to leave, and hears what is waited for.
    async fn leave(&self, force: bool) -> Result<LeavingV1, (StatusCode, String)> {
        let uri = if force { format!("{LEAVE}?force=1") } else { LEAVE.to_owned() };
        let away = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why);
        let request = Request::post(uri).body(peer::empty());
        let request = request.map_err(|error| away(error.to_string()))?;
        let asking = async {
            let answer = self.send(request).await?;
            let status = answer.status();
            let body = peer::read(answer.into_body(), CONTROL_ANSWER_BYTES_MAX).await?;
            Ok::<_, String>((status, body))
        };
        let (status, body) = asking.await.map_err(away)?;
        if !status.is_success() {
            return Err((status, String::from_utf8_lossy(&body).into_owned()));
        }
        serde_json::from_slice(&body).map_err(|error| away(error.to_string()))
    }
}

/// Whether a leader answers this path.
pub(in crate::app) fn takes(path: &str) -> bool {
    path == LEAVE || path == LEFT
}

/// Answers a board that leaves, as the leader; each speaks for itself alone.
pub(in crate::app) async fn from_board(
    leaver: &Leaver,
    board: &BoardPeer,
    request: &Request<Incoming>,
) -> Response<peer::Body> {
    let done = match request.uri().path() {
        LEFT => leaver.end(board).await.map(|()| LeavingV1 { ready: true, waits: Vec::new() }),
        _ => leaver.advance(&board.name, query(request, "force").is_some()).await,
    };
    match done {
        Ok(leaving) => {
            let said = answer(StatusCode::OK, &json!(leaving));
            said.map(|body| body.map_err(Into::into).boxed_unsync())
        }
        Err(error) => {
            let (status, text) = refused(&error);
            peer::text(status, text)
        }
    }
}

fn refused(error: &LeaveError) -> (StatusCode, String) {
    let status = match error {
        LeaveError::Only(_) | LeaveError::Unmanaged(_) | LeaveError::Early(_) => {
            StatusCode::CONFLICT
        }
        // Another leader may do better.
        LeaveError::Write(_) | LeaveError::Read(_) => StatusCode::SERVICE_UNAVAILABLE,
        LeaveError::Pod(_, error) if matches!(error.code, 503 | 504) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        LeaveError::Pod(..) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    (status, format!("{error}{}", cause.unwrap_or_default()))
}
