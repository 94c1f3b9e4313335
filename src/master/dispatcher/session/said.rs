//! What a board says of its pods and of itself: judged, written and acknowledged.

use std::collections::BTreeSet;

use bytes::Bytes;
use model::wire::StatusV1;
use serde_json::Value;

use super::{Session, Wrote};
use crate::master::dispatcher::DispatchError;
use crate::master::dispatcher::status::{self, Owner};

impl Session {
    pub(super) async fn status(&mut self, mut status: StatusV1) -> Result<(), DispatchError> {
        let Some(board) = &self.board else { return self.ask_hello().await };
        let name = self.name.clone();
        let strangers: BTreeSet<_> = status
            .pods
            .iter()
            .filter(|pod| !pod.removable && !board.told.knows(pod.uid))
            .map(|pod| pod.uid)
            .collect();
        let (events, refused) = self.own_events(&status.events);
        if let Some(why) = self.foreign_pod(&status).or(refused) {
            self.complain("what a board says of others is refused", &why);
        }
        let unproven = self.judge_status(&mut status);
        if let Some(why) = &unproven.why {
            self.complain("what a board says of addresses is refused", why);
        }
        // What becomes of these shows with what follows.
        let _ends = self.write(|session| status::last_words(session, &name, &status)).await?;
        let mut wrote = self.write(|session| status::operations(session, &name, &status)).await?;
        if wrote == Wrote::Refused {
            wrote = self.write_one_by_one(&name, &status).await?;
        }
        if wrote != Wrote::NotNow {
            // Boards say them once, whatever becomes of the rest.
            self.pass_on(events);
        }
        if wrote == Wrote::NotNow || unproven.again {
            // Not acknowledged, nor is what follows: with its next beat the board is asked again.
            if let Some(board) = &mut self.board {
                board.has_gap = true;
            }
            return Ok(());
        }
        if let Some(board) = self.board.as_mut().filter(|board| !board.has_gap) {
            board.status_sequence = board.status_sequence.max(status.sequence);
        }
        if strangers.is_empty() {
            return Ok(());
        }
        self.send_desired(false, &strangers).await
    }

    /// A status said before the board's last Hello: newer ones may have been written, so only what
    /// is said once still counts.
    pub(super) fn overtaken(&self, status: &StatusV1) {
        let (events, _) = self.own_events(&status.events);
        self.pass_on(events);
    }

    /// Has events recorded, as many as find room.
    fn pass_on(&self, events: Vec<Value>) {
        for event in events {
            if self.events.try_send(event).is_err() {
                tracing::debug!(node = self.name, "an event of a board is dropped: too many wait");
            }
        }
    }

    /// The events about this board's pods and its own Node, and what the others are about.
    fn own_events(&self, events: &[Bytes]) -> (Vec<Value>, Option<String>) {
        let world = self.views.world();
        let (mut own, mut refused) = (Vec::new(), None);
        for body in events {
            let event: Value = serde_json::from_slice(body).unwrap_or_default();
            let about = status::About::of(&event);
            let Some(about) = about else {
                refused.get_or_insert_with(|| "an event about nothing".to_owned());
                continue;
            };
            let had = |uid| self.board.as_ref().is_some_and(|board| board.told.has_known(uid));
            match about.owner(&world, &self.name, had) {
                Owner::Board => own.push(event),
                Owner::Another => {
                    refused.get_or_insert_with(|| format!("event about {about}"));
                }
                // It has come late: its pod was gone before this session began.
                Owner::Nobody => {
                    tracing::debug!(node = self.name, %about, "an event about nobody is dropped");
                }
            }
        }
        (own, refused)
    }

    /// One bad status must not hold the others back.
    async fn write_one_by_one(
        &self,
        name: &str,
        status: &StatusV1,
    ) -> Result<Wrote, DispatchError> {
        let nothing = StatusV1 { pods: Vec::new(), events: Vec::new(), ..status.clone() };
        let mut parts = vec![nothing];
        parts.extend(status.pods.iter().map(|pod| StatusV1 {
            sequence: status.sequence,
            pods: vec![pod.clone()],
            node_status: Bytes::new(),
            events: Vec::new(),
        }));
        let mut all = Wrote::Done;
        for part in parts {
            match self.write(|session| status::operations(session, name, &part)).await? {
                Wrote::Done => (),
                Wrote::NotNow => all = Wrote::NotNow,
                Wrote::Refused => {
                    let pod = part.pods.first().map(|pod| pod.name.clone()).unwrap_or_default();
                    self.complain("the API refuses a status of a board", &pod);
                }
            }
        }
        Ok(all)
    }
}
