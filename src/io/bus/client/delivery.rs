//! Hands messages to the agent in the order in which they came, pointers replaced by what they point
//! to.
//!
//! While a message is fetched those behind it wait: a difference must not overtake the whole set that
//! it is a difference to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::limits::{
    BUS_FETCH_BYTES_PER_SECOND_MIN, BUS_FETCH_SECONDS_MIN, WIRE_MESSAGE_BYTES_MAX,
};
use model::wire::{self, FetchV1, Header, MessageKind};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::Fetch;
use crate::io::link::{Closed, ToBoard};

/// Runs until one of its neighbours ends.
pub(super) async fn run(
    mut arrived: mpsc::Receiver<Bytes>,
    down: mpsc::Sender<ToBoard>,
    fetch: Arc<dyn Fetch>,
) -> Result<(), Closed> {
    while let Some(message) = arrived.recv().await {
        let Some(pointer) = pointer_of(&message) else {
            down.send(message.into()).await.map_err(|_| Closed)?;
            continue;
        };
        match fetched(&*fetch, &pointer).await {
            Ok(parts) => {
                for part in parts {
                    down.send(part.into()).await.map_err(|_| Closed)?;
                }
            }
            // The beats show that it is missing, and the master sends it again.
            Err(why) => tracing::warn!(bytes = pointer.bytes, why, "message is not fetched"),
        }
    }
    Err(Closed)
}

fn pointer_of(message: &[u8]) -> Option<FetchV1> {
    let (header, body) = Header::split(message).ok()?;
    if header.kind != MessageKind::Fetch {
        return None;
    }
    wire::decode(header.kind, body).ok()
}

async fn fetched(fetch: &dyn Fetch, pointer: &FetchV1) -> Result<Vec<Bytes>, String> {
    // The parts' headers and lengths come on top of the message; there are few.
    if pointer.bytes > 2 * WIRE_MESSAGE_BYTES_MAX as u64 {
        return Err("it is larger than any message".to_owned());
    }
    let seconds = BUS_FETCH_SECONDS_MIN + pointer.bytes / BUS_FETCH_BYTES_PER_SECOND_MIN;
    let within = Duration::from_secs(seconds);
    let packed =
        match tokio::time::timeout(within, fetch.fetch(pointer.digest, pointer.bytes)).await {
            Ok(packed) => packed?,
            Err(_) => return Err(format!("it did not arrive in {seconds} s")),
        };
    let digest: [u8; 32] = Sha256::digest(&packed).into();
    if packed.len() as u64 != pointer.bytes || digest != pointer.digest {
        return Err("what came is something else".to_owned());
    }
    wire::unpack(packed).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    /// Has exactly these bytes, whoever asks.
    struct Has(Bytes);

    impl Fetch for Has {
        fn fetch(
            &self,
            _: [u8; 32],
            _: u64,
        ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + '_>> {
            Box::pin(std::future::ready(Ok(self.0.clone())))
        }
    }

    #[tokio::test]
    async fn a_pointer_is_replaced_and_what_follows_waits() {
        let header = Header { kind: MessageKind::Desired, epoch: 1, term: 1, sequence: 1 };
        let body = Bytes::from(vec![7; 300_000]);
        let parts = wire::encode_parts(header, &body).expect("not too large");
        let parts: Vec<Bytes> = parts.into_iter().map(Bytes::from).collect();
        let packed = wire::pack(&parts);
        let digest: [u8; 32] = Sha256::digest(&packed).into();
        let pointer = |digest| {
            let fetch = FetchV1 { digest, bytes: packed.len() as u64 };
            let header = Header { kind: MessageKind::Fetch, ..header };
            Bytes::from(wire::encode(header, &fetch))
        };
        let (inbox, arrived) = mpsc::channel(8);
        let (down, mut agent) = mpsc::channel(8);
        let delivery = tokio::spawn(run(arrived, down, Arc::new(Has(packed.clone()))));
        let other = Bytes::from_static(b"any other message");
        for message in [pointer(digest), other.clone(), pointer([0; 32]), other.clone()] {
            inbox.send(message).await.expect("it runs");
        }
        drop(inbox);
        let mut got = Vec::new();
        while let Some(told) = agent.recv().await {
            got.push(told.message);
        }
        let expected: Vec<Bytes> = parts.into_iter().chain([other.clone(), other]).collect();
        assert_eq!(got, expected, "the second pointer is a lie and is left out");
        assert!(matches!(delivery.await.expect("no panic"), Err(Closed)));
    }
}
