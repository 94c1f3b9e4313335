//! The following role: a master that another one leads. As a board it is a member like all others; on
//! its port for boards it names the leader, and clients of the API are answered by asking the leader.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::leader::SignedRecord;
use tokio::sync::watch;

use super::doors::Doors;
use super::master::LEADER;
use super::member::MemberRole;
use super::port::{Place, Sitting};
use super::standing::Standing;
use crate::io::peer::{self, Body};
use crate::master::api;

/// The running role.
pub(super) struct FollowerRole {
    /// What it is as a board.
    pub(super) member: MemberRole,
    place: Place,
    /// Where clients of the API come.
    sitting: api::Sitting,
}

impl FollowerRole {
    /// Names the leader to whoever asks this master.
    pub(super) fn start(mut member: MemberRole, standing: &Standing, doors: &Doors) -> Self {
        // Nobody is led from here: a board that knocks is turned away at once instead of waiting.
        if let Some(bus) = &doors.bus {
            let turning = bus.clone().turn_away(member.loops.stop_signal());
            member.loops.spawn("closed bus", async move { anyhow::Ok(turning.await) });
        }
        let record = member.record();
        let noting = standing.roll.clone().follow(record.clone(), member.loops.stop_signal());
        member.loops.spawn("roll of masters", async move { anyhow::Ok(noting.await) });
        let sitting: Sitting = Arc::new(move |_, request| {
            let answer = answer(&request, &record);
            Box::pin(std::future::ready(answer))
        });
        let place = standing.port.sit(sitting);
        let sitting = standing.gateway.follow(standing.line.clone());
        Self { member, place, sitting }
    }

    /// Ends every loop; the agent is left without a link.
    pub(super) async fn stop(self) {
        drop(self.place);
        drop(self.sitting);
        self.member.stop().await;
    }

    /// Ends every loop at once.
    pub(super) async fn cut(self) {
        drop(self.place);
        drop(self.sitting);
        self.member.cut().await;
    }
}

/// 421 with the leader's record: whoever asks goes there.
fn answer(
    request: &Request<Incoming>,
    record: &watch::Receiver<Option<SignedRecord>>,
) -> Response<Body> {
    let known = record.borrow().as_ref().map(ToString::to_string);
    let Some(text) = known else {
        return peer::text(StatusCode::SERVICE_UNAVAILABLE, "no master leads at the moment");
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, LEADER) => peer::text(StatusCode::OK, text),
        _ => peer::text(StatusCode::MISDIRECTED_REQUEST, text),
    }
}
