//! Retained messages: the last of each topic that was published so.
//!
//! Bounded in number and bytes; at a bound a new message is refused, while a message that replaces
//! one of its topic and fits is kept.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::message::Published;
use crate::{Limits, topic};

/// The retained messages by topic, in order.
#[derive(Default)]
pub(crate) struct Retained {
    messages: BTreeMap<Arc<str>, Arc<Published>>,
    bytes: usize,
}

impl Retained {
    /// Keeps a message, or forgets its topic when the payload is empty (section 3.3.1.3).
    /// False when there is no room: an older message of the topic goes nevertheless, because it is
    /// no longer the last one.
    pub(crate) fn keep(&mut self, message: &Arc<Published>, limits: &Limits) -> bool {
        if let Some(old) = self.messages.remove(&message.topic) {
            self.bytes -= old.bytes();
        }
        if message.payload.is_empty() {
            return true;
        }
        let bytes = self.bytes + message.bytes();
        if self.messages.len() >= limits.retained_max || bytes > limits.retained_bytes_max {
            return false;
        }
        self.bytes = bytes;
        self.messages.insert(message.topic.clone(), message.clone());
        true
    }

    /// The messages that a filter selects, in the order of their topics.
    pub(crate) fn select<'a>(
        &'a self,
        filter: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Published>> + 'a {
        let start = topic::literal_start(filter);
        self.messages
            .range::<str, _>((Bound::Included(start), Bound::Unbounded))
            .take_while(move |(name, _)| name.starts_with(start))
            .filter(|(name, _)| topic::matches(filter, name))
            .map(|(_, message)| message)
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rumqttc::mqttbytes::QoS;

    use super::*;
    use crate::message::Held;

    fn message(topic: &str, payload: &'static str, held: &Held) -> Arc<Published> {
        Published::new(topic, Bytes::from_static(payload.as_bytes()), QoS::AtMostOnce, held)
    }

    #[test]
    fn the_last_message_of_a_topic_is_kept_within_the_bounds() {
        let held = Held::default();
        let limits = Limits { retained_max: 3, ..Limits::default() };
        let mut retained = Retained::default();
        for topic in ["a/b", "a", "b/c"] {
            assert!(retained.keep(&message(topic, "one", &held), &limits));
        }
        assert!(!retained.keep(&message("d", "one", &held), &limits), "a fourth topic");
        assert!(retained.keep(&message("a", "two", &held), &limits), "replacing");
        let found = |retained: &Retained, filter| {
            let messages = retained.select(filter);
            messages.map(|m| format!("{}={}", m.topic, m.payload.len())).collect::<Vec<_>>()
        };
        assert_eq!(found(&retained, "a/#"), ["a=3", "a/b=3"]);
        assert_eq!(found(&retained, "+/+"), ["a/b=3", "b/c=3"]);
        assert!(retained.keep(&message("a", "", &held), &limits), "forgetting");
        assert_eq!(found(&retained, "#"), ["a/b=3", "b/c=3"]);
        let few = Limits { retained_bytes_max: retained.bytes(), ..limits };
        assert!(!retained.keep(&message("a/b", "longer", &held), &few));
        assert_eq!(found(&retained, "#"), ["b/c=3"], "what is outdated is not handed out");
        assert_eq!(retained.bytes(), held.bytes());
        drop(retained);
        assert_eq!(held.bytes(), 0);
    }
}
