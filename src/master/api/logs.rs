//! GET pods/NAME/log: finds the container, asks the board, and passes its bytes on.
//!
//! Texts are those of `k8s.io/kubernetes/pkg/registry/core/pod` and of the kubelet.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use model::ids::Uid;
use model::limits::API_LOG_CHUNKS_MAX;
use model::status::ApiError;
use model::timestamp::Timestamp;
use model::wire::{LogsRequestV1, StreamRequestV1};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::answer::{Answer, AnswerBody, Unfolded, with_body};
use super::query::{self, OptionProblem};
use super::route::{Call, Place};
use crate::master::registry::Target;

/// How long a board may take before the first byte or the end of a log.
const FIRST_CHUNK_DEADLINE: Duration = Duration::from_secs(30);

/// Chunks of a log as the board sends them; an error ends it.
pub type LogAnswer = mpsc::Receiver<Result<Bytes, String>>;

/// Where the streams of a board's containers come from.
pub trait LogSource: Send + Sync {
    /// Asks the board `node` for a log; chunks go into `answer`.
    ///
    /// # Errors
    /// Why the board cannot be asked now, as a sentence.
    fn open(
        &self,
        node: &str,
        request: LogsRequestV1,
        answer: mpsc::Sender<Result<Bytes, String>>,
    ) -> Result<(), String>;

    /// Asks the board `node` for a duplex stream: frames of `model::wire::channel` go into `answer`
    /// and come out of `input`, whose end tells the board that the client has gone.
    ///
    /// # Errors
    /// Why the board cannot be asked now, as a sentence.
    fn exchange(
        &self,
        node: &str,
        request: &StreamRequestV1,
        answer: mpsc::Sender<Result<Bytes, String>>,
        input: mpsc::Receiver<Result<Bytes, String>>,
    ) -> Result<(), String>;
}

/// Answers GET pods/NAME/log.
pub(super) async fn answer(call: &Call, place: &Place) -> Result<Answer, ApiError> {
    let target = Target::new(place.resource, &*place.namespace, &*place.name);
    let pod: Value = serde_json::from_slice(&call.api.registry.get(&target)?)
        .map_err(|error| ApiError::internal(format!("stored pod is not JSON: {error}")))?;
    let mut request = options(call)?;
    request.container = container(&pod, &place.name, call.query.get("container"))?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        let mut empty = Response::new(AnswerBody::from(Vec::new()));
        *empty.status_mut() = StatusCode::NO_CONTENT;
        return Ok(empty);
    };
    check_started(&pod, &place.name, &request).map_err(ApiError::bad_request)?;
    request.pod = pod["metadata"]["uid"].as_str().and_then(Uid::parse).unwrap_or_default();
    let (sender, mut chunks) = mpsc::channel(API_LOG_CHUNKS_MAX);
    let follow = request.follow;
    let failed = |why: String| ApiError::internal(format!("Internal error occurred: {why}"));
    call.api.logs.open(node, request, sender).map_err(failed)?;
    // An error before the first byte still becomes a Status; a quiet followed log just begins.
    let first = match timeout(FIRST_CHUNK_DEADLINE.min(wait_for_first(follow)), chunks.recv()).await
    {
        Ok(Some(Err(why))) => return Err(ApiError::bad_request(why)),
        Ok(first) => first.map(Result::ok).unwrap_or(Some(Bytes::new())),
        Err(_) if follow => None,
        Err(_) => return Err(failed(format!("board {node:?} did not answer in time"))),
    };
    let state = Streaming { first, chunks, shutdown: call.api.shutdown.clone() };
    let body = AnswerBody::stream(Unfolded::new(Box::new(state), next_chunk));
    Ok(with_body(StatusCode::OK, "text/plain", body))
}

fn wait_for_first(follow: bool) -> Duration {
    if follow { Duration::from_millis(200) } else { FIRST_CHUNK_DEADLINE }
}

struct Streaming {
    first: Option<Bytes>,
    chunks: LogAnswer,
    shutdown: watch::Receiver<bool>,
}

async fn next_chunk(mut state: Box<Streaming>) -> Option<(io::Result<Bytes>, Box<Streaming>)> {
    if let Some(first) = state.first.take() {
        return Some((Ok(first), state));
    }
    let Streaming { chunks, shutdown, .. } = &mut *state;
    // Cancel safety: mpsc::Receiver::recv is; the signal holds nothing.
    let chunk = tokio::select! {
        chunk = chunks.recv() => chunk?,
        _ = shutdown.wait_for(|stop| *stop) => return None,
    };
    Some((chunk.map_err(io::Error::other), state))
}

/// `PodLogOptions` of the query.
fn options(call: &Call) -> Result<LogsRequestV1, ApiError> {
    let query = &call.query;
    let mut problems = Vec::new();
    let mut at_least = |field: &'static str, least: i64| -> Result<Option<u64>, ApiError> {
        let Some(value) = query.integer(field)? else { return Ok(None) };
        if value < least {
            let bound = if least == 0 { "greater than or equal to 0" } else { "greater than 0" };
            problems.push(OptionProblem {
                field,
                reason: "FieldValueInvalid",
                text: format!("Invalid value: {value}: must be {bound}"),
            });
        }
        Ok(u64::try_from(value).ok())
    };
    let tail_lines = at_least("tailLines", 0)?;
    let limit_bytes = at_least("limitBytes", 1)?;
    let since_seconds = at_least("sinceSeconds", 1)?;
    if !problems.is_empty() {
        return Err(query::invalid_pod_log_options(&problems));
    }
    let now = call.api.clock.now();
    let ago = since_seconds.and_then(|s| i64::try_from(s).ok()).and_then(|s| s.checked_mul(1000));
    let since = match query.get("sinceTime").filter(|text| !text.is_empty()) {
        Some(text) => Some(Timestamp::parse(text).ok_or_else(|| {
            ApiError::bad_request(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?}"
            ))
        })?),
        None => ago.map(|millis| Timestamp(now.0.saturating_sub(millis.saturating_mul(1000)))),
    };
    let flag = |name| query.flag(name).unwrap_or(false);
    Ok(LogsRequestV1 {
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        tail_lines,
        limit_bytes,
        since_micros: since.map(|time| time.0),
        ..LogsRequestV1::default()
    })
}

/// The container that is meant; only a pod with one may leave it open.
pub(super) fn container(pod: &Value, name: &str, asked: Option<&str>) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|container| container["name"].as_str()).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    match asked.filter(|asked| !asked.is_empty()) {
        Some(asked) if main.contains(&asked) || init.contains(&asked) => Ok(asked.to_owned()),
        Some(asked) => {
            Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
        }
        None => match (main.as_slice(), init.as_slice()) {
            ([one], []) => Ok((*one).to_owned()),
            (_, init) => {
                let mut text = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    main.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(ApiError::bad_request(text))
            }
        },
    }
}

/// Whether there is a log at all (the kubelet's `validateContainerLogStatus`).
fn check_started(pod: &Value, name: &str, request: &LogsRequestV1) -> Result<(), String> {
    let container = &request.container;
    let lists = ["containerStatuses", "initContainerStatuses"];
    let status = lists.iter().find_map(|list| {
        let statuses = pod["status"][list].as_array()?;
        statuses.iter().find(|status| status["name"] == container.as_str())
    });
    let Some(status) = status else {
        return Err(format!("container {container:?} in pod {name:?} is not available"));
    };
    let ran = |state: &Value| {
        state["terminated"]["containerID"].as_str().is_some_and(|id| !id.is_empty())
    };
    let (state, last) = (&status["state"], &status["lastState"]);
    if request.previous {
        return match ran(last) {
            true => Ok(()),
            false => Err(format!(
                "previous terminated container {container:?} in pod {name:?} not found"
            )),
        };
    }
    if state["running"].is_object() || ran(state) || ran(last) {
        return Ok(());
    }
    if state["terminated"].is_object() {
        return Err(format!("container {container:?} in pod {name:?} is terminated"));
    }
    let waiting = format!("container {container:?} in pod {name:?} is waiting to start");
    Err(match state["waiting"]["reason"].as_str() {
        Some("ErrImagePull") => format!("{waiting}: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{waiting}: trying and failing to pull image"),
        Some(reason) => format!("{waiting}: {reason}"),
        None => format!("{waiting} - no logs yet"),
    })
}

/// A source that knows no board: for a master without its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLogs;

impl LogSource for NoLogs {
    fn open(
        &self,
        node: &str,
        _request: LogsRequestV1,
        _answer: mpsc::Sender<Result<Bytes, String>>,
    ) -> Result<(), String> {
        Err(format!("board {node:?} is not connected to this master"))
    }

    fn exchange(
        &self,
        node: &str,
        _request: &StreamRequestV1,
        _answer: mpsc::Sender<Result<Bytes, String>>,
        _input: mpsc::Receiver<Result<Bytes, String>>,
    ) -> Result<(), String> {
        Err(format!("board {node:?} is not connected to this master"))
    }
}

/// The shared form in which the API keeps its source.
pub type SharedLogs = Arc<dyn LogSource>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_named_as_the_real_server_asks() {
        let pod = json!({"spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
        }});
        let check = |pod: &Value, asked, expected: Result<&str, &str>| {
            let found = container(pod, "p", asked).map_err(|error| error.message);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned));
        };
        check(&pod, Some("b"), Ok("b"));
        check(&pod, Some("i"), Ok("i"));
        check(&pod, Some("x"), Err("container x is not valid for pod p"));
        let several = "a container name must be specified for pod p, choose one of: [a b] or one of \
                       the init containers: [i]";
        check(&pod, None, Err(several));
        let one = json!({"spec": {"containers": [{"name": "a"}]}});
        check(&one, None, Ok("a"));
        check(&one, Some(""), Ok("a"));
    }

    #[test]
    fn logs_of_containers_that_have_not_started() {
        let check = |status: Value, previous: bool, expected: Result<(), &str>| {
            let pod = json!({"status": {"containerStatuses": [status]}});
            let request =
                LogsRequestV1 { container: "c".into(), previous, ..LogsRequestV1::default() };
            let found = check_started(&pod, "p", &request);
            assert_eq!(found, expected.map_err(str::to_owned), "{pod}");
        };
        let ended = json!({"terminated": {"containerID": "kumquat://1"}});
        check(json!({"name": "c", "state": {"running": {}}}), false, Ok(()));
        check(json!({"name": "c", "state": ended}), false, Ok(()));
        check(json!({"name": "c", "state": {"waiting": {}}, "lastState": ended}), true, Ok(()));
        let text = "previous terminated container \"c\" in pod \"p\" not found";
        check(json!({"name": "c", "state": {"running": {}}}), true, Err(text));
        let text = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
        let creating = json!({"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}});
        check(creating, false, Err(text));
        let text = "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull \
                    image";
        let pulling = json!({"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff"}}});
        check(pulling, false, Err(text));
        check(json!({"name": "x"}), false, Err("container \"c\" in pod \"p\" is not available"));
    }
}
