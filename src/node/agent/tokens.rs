//! Tokens for pods: asked for over the bus, kept in memory and in the pods' volumes (tmpfs) only.
//!
//! [`TokenBook`] decides what to ask for and when; this carries it out. An agent that restarts finds
//! the tokens in the volumes again, so that no pod's token changes for it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use logic::pod::token::{Outlook, TokenText, wants};
use logic::pod::{Effect, Event, Pod};
use model::timestamp::Timestamp;
use model::wire::{MessageKind, TokenAskV1, TokenV1, TokensV1};
use serde_json::Value;

use super::{Agent, off_runtime};
use crate::node::place::PodPlaces;
use crate::node::volume;

impl Agent {
    /// A pod is there whose tokens are to be had.
    pub(super) fn follow_tokens(&mut self, pod: &Pod, places: &PodPlaces) {
        if wants(pod).next().is_none() {
            return;
        }
        self.tokens.follow(pod);
        for (audience, seconds, text) in off_runtime(|| volume::tokens_found(pod, places)) {
            let is_it = |want: &model::wire::TokenWantV1| {
                want.audience == audience && want.seconds == seconds
            };
            if let (Some(want), Some(token)) = (wants(pod).find(is_it), read(text)) {
                self.tokens.adopt(want, token);
            }
        }
    }

    /// Takes over what the master answers; volumes follow.
    pub(super) fn take_tokens(&mut self, message: TokensV1) {
        for answer in message.answers {
            let pod = answer.want.pod;
            if let Err(why) = &answer.token {
                tracing::debug!(%pod, why, "no token for a pod");
            }
            if !self.tokens.take(answer) {
                continue;
            }
            if !self.tokens.waiting().contains(&pod) {
                self.feed(pod, Event::ObjectsChanged);
                self.refresh_volumes(pod);
            }
        }
        self.fill_waiting();
    }

    /// None of the tokens is good any more: all are asked for anew.
    pub(super) fn renew_tokens(&mut self) {
        self.tokens.renew();
    }

    /// Asks for tokens that are due, and fills volumes that have waited long enough.
    pub(super) fn wake_tokens(&mut self) {
        let (now, is_led) = (self.now(), self.is_led());
        let wants = self.tokens.due(is_led, now.wall, now.ticks);
        if !wants.is_empty() {
            tracing::debug!(tokens = wants.len(), "asking for tokens");
            let ask = TokenAskV1 { wants };
            if !self.send(MessageKind::TokenAsk, &ask) {
                self.tokens.not_sent(&ask.wants, now.ticks);
            }
        }
        self.fill_waiting();
    }

    fn fill_waiting(&mut self) {
        for uid in self.tokens.waiting() {
            match self.pods.contains_key(&uid) {
                true => self.perform(uid, Effect::PrepareVolumes),
                false => self.tokens.forget(uid),
            }
        }
    }

    /// The tokens of a pod for its volumes, or why there are none; `None` while they wait for some.
    pub(super) fn tokens_for(&mut self, pod: &Pod) -> Option<Result<Vec<TokenText>, String>> {
        let (is_led, ticks) = (self.is_led(), super::ticks());
        let machine = self.pods.get(&pod.uid()).map(|entry| &entry.machine);
        // What runs keeps what it has; what ends needs none.
        let needs_all = machine
            .is_some_and(|machine| machine.state().stop.is_none() && !machine.refreshes_volumes());
        match self.tokens.outlook(pod, is_led, ticks) {
            Outlook::Wait if needs_all => None,
            Outlook::Refused(why) if needs_all => Some(Err(why)),
            _ => Some(Ok(self.tokens.texts(pod.uid()))),
        }
    }
}

/// A token by its text: what it says of its time.
fn read(text: String) -> Option<TokenV1> {
    let payload = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let time = |name: &str| Some(Timestamp::from_seconds(claims[name].as_i64()?));
    let (issued, expires) = (time("iat")?, time("exp")?);
    Some(TokenV1 { text, issued, expires })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_its_time() {
        let text = |claims: &str| format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims));
        let token = read(text(r#"{"iat":1800000000,"exp":1800003607}"#)).expect("a token");
        assert_eq!(token.issued, Timestamp::from_seconds(1_800_000_000));
        assert_eq!(token.expires, Timestamp::from_seconds(1_800_003_607));
        for bad in [text("{}"), text("x"), "h.!.s".to_owned(), String::new()] {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
    }
}
