//! `?watch=true`: one line of JSON per event, flushed as it happens.
//!
//! An idle watch holds its cursor and two timers and does nothing. It ends at the client's
//! `timeoutSeconds` (or after 30 to 60 minutes), when the client leaves, and when the API stops.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use model::status::ApiError;
use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, AnswerBody, Unfolded, with_body};
use super::negotiate::{Media, Shape};
use super::read;
use super::route::{Call, Place, random};
use super::table::Shaper;
use crate::master::registry::{Watch, WatchEvent, WatchKind, WatchQuery};

/// Shortest life of a watch whose client names none; the longest is twice that
/// (kube-apiserver's `--min-request-timeout`).
const LIFE_SECONDS_MIN: u64 = 1800;
/// Longest life that a client may ask for: a week. Timers do not hold more than years.
const LIFE_SECONDS_MAX: u64 = 7 * 86_400;

/// Starts a watch and answers with its stream.
pub(super) fn answer(call: &Call, place: &Place) -> Result<Answer, ApiError> {
    let form = call.form()?;
    if form.media == Media::Yaml {
        // Streams exist only as JSON; the real server's YAML has no framer either.
        return Err(ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json;stream=watch",
        ));
    }
    let shaper = read::shaper(call, place, form)?;
    let seconds = call.query.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok());
    let life = seconds.filter(|&s| s > 0).map_or_else(default_life, |s| s.min(LIFE_SECONDS_MAX));
    let query = WatchQuery {
        resource: place.resource,
        namespace: read::namespace(place),
        labels: call.query.text("labelSelector"),
        fields: read::field_selector(call, place),
        resource_version: call.query.get("resourceVersion").map(str::to_owned),
        version_match: call.query.text("resourceVersionMatch"),
        bookmarks: call.query.flag("allowWatchBookmarks").unwrap_or(false),
        send_initial_events: call.query.flag("sendInitialEvents"),
    };
    let watching = Watching {
        watch: call.api.registry.watch(&query)?,
        shaper,
        columns_sent: false,
        ends_at: Instant::now() + Duration::from_secs(life),
        shutdown: call.api.shutdown.clone(),
        clock: call.api.clock.clone(),
    };
    let body = AnswerBody::stream(Unfolded::new(Box::new(watching), next_chunk));
    Ok(with_body(StatusCode::OK, form.content_type(), body))
}

/// Spread over half an hour, so that clients do not all come back at once.
fn default_life() -> u64 {
    let [byte] = random();
    LIFE_SECONDS_MIN + LIFE_SECONDS_MIN * u64::from(byte) / 256
}

/// A watch being sent.
struct Watching {
    watch: Watch,
    shaper: Shaper,
    columns_sent: bool,
    ends_at: Instant,
    shutdown: signal::Receiver<bool>,
    clock: crate::io::clock::Clock,
}

async fn next_chunk(mut state: Box<Watching>) -> Option<(io::Result<Bytes>, Box<Watching>)> {
    let Watching { watch, ends_at, shutdown, .. } = &mut *state;
    // Cancel safety: Watch::next is, and the other two hold nothing.
    let event = tokio::select! {
        event = watch.next() => event?,
        () = sleep_until(*ends_at) => return None,
        _ = shutdown.wait_for(|stop| *stop) => return None,
    };
    let line = match event {
        Ok(event) => state.line(event),
        Err(error) => {
            // The last event: the stream ends when it is asked for more.
            state.ends_at = Instant::now();
            line("ERROR", error.to_status().to_string().as_bytes())
        }
    };
    Some((Ok(line), state))
}

impl Watching {
    fn line(&mut self, event: WatchEvent) -> Bytes {
        self.shaper.now = self.clock.now();
        let columns = !self.columns_sent;
        let word = match event.kind {
            WatchKind::Added => "ADDED",
            WatchKind::Modified => "MODIFIED",
            WatchKind::Deleted => "DELETED",
            WatchKind::Bookmark => {
                self.columns_sent |= matches!(self.shaper.shape, Shape::Table(_));
                return line("BOOKMARK", &self.shaper.bookmark(event.object, columns));
            }
        };
        self.columns_sent = true;
        line(word, &self.shaper.single(event.object, columns))
    }
}

fn line(word: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 32);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(word.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}
