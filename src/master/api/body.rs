//! Reads a request's body within bounds and decodes it: JSON, YAML or protobuf into a value.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use model::limits::{JSON_DEPTH_MAX, REQUEST_BODY_BYTES_MAX};
use model::protobuf;
use model::schema::{self, FieldIssue};
use model::status::ApiError;
use serde_json::{Map, Number, Value};
use tokio::time::{Instant, timeout, timeout_at};

use super::negotiate;
use super::route::{Call, generic, too_slow};
use super::shares::{Held, Room};

/// How long a body that is too large is read on.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// In each such time at least [`PACE_BYTES`] of a body come, or it ends.
const PACE_TIME: Duration = Duration::from_secs(5);
/// A slow line has more: 13 KiB a second.
const PACE_BYTES: usize = 64 * 1024;

/// The body of a request: still to come, or read already by whoever passes it on.
pub(super) enum Sent {
    /// From the client.
    Coming(Incoming),
    /// All of it.
    Here(Payload),
}

impl From<Incoming> for Sent {
    fn from(body: Incoming) -> Self {
        Self::Coming(body)
    }
}

/// A body, and its share of the memory for bodies.
pub(super) struct Payload {
    pub(super) bytes: Bytes,
    _held: Held,
}

/// Reads all of the body.
///
/// # Errors
/// 413 above [`REQUEST_BODY_BYTES_MAX`], 400 when the connection breaks off, 504 when it comes too slowly,
/// 429 when there is no room for it.
pub(super) async fn read(call: &Call, body: Sent) -> Result<Payload, ApiError> {
    let share = call.share.as_ref();
    let share = share.ok_or_else(|| ApiError::internal("the request has no place"))?;
    match body {
        Sent::Coming(body) => take(&share.room(), body).await,
        Sent::Here(payload) => Ok(payload),
    }
}

/// Reads all of a body into this room.
///
/// # Errors
/// As [`read`].
pub(super) async fn take(room: &Room, mut body: Incoming) -> Result<Payload, ApiError> {
    let mut held = Held::default();
    if body.is_end_stream() {
        return Ok(Payload { bytes: Bytes::new(), _held: held });
    }
    let announced = body.size_hint().exact().unwrap_or(REQUEST_BODY_BYTES_MAX as u64);
    if announced > REQUEST_BODY_BYTES_MAX as u64 {
        drain(&mut body).await;
        return Err(too_large());
    }
    room.announce(u32::try_from(announced).map_err(|_| too_large())?, &mut held).await?;
    let mut bytes = BytesMut::new();
    let mut pace = Pace { until: Instant::now() + PACE_TIME, bytes: 0 };
    while let Some(frame) = pace.keep(body.frame()).await? {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("the body of the request could not be read: {error}"))
        })?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > REQUEST_BODY_BYTES_MAX {
                drain(&mut body).await;
                return Err(too_large());
            }
            room.take(u32::try_from(data.len()).map_err(|_| too_large())?, &mut held).await?;
            pace.came(data.len());
            held.settle();
            bytes.extend_from_slice(data);
        }
    }
    Ok(Payload { bytes: bytes.freeze(), _held: held })
}

/// How fast a body comes.
struct Pace {
    until: Instant,
    bytes: usize,
}

impl Pace {
    /// Waits for more, as long as enough has come.
    async fn keep<T>(&self, more: impl Future<Output = T>) -> Result<T, ApiError> {
        timeout_at(self.until, more).await.map_err(|_| too_slow())
    }

    fn came(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= PACE_BYTES {
            *self = Self { until: Instant::now() + PACE_TIME, bytes: 0 };
        }
    }
}

/// Reads on for a while without keeping anything: a client that is still sending when the
/// connection closes would lose the answer.
async fn drain(body: &mut Incoming) {
    let reading = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > REQUEST_BODY_BYTES_MAX {
                return;
            }
        }
    };
    // At the end of the time the answer is sent anyway.
    let _late = timeout(DRAIN_TIME, reading).await;
}

fn too_large() -> ApiError {
    let text = format!("Request entity too large: limit is {REQUEST_BODY_BYTES_MAX}");
    ApiError::new(413, "RequestEntityTooLarge", text)
}

/// Decodes a body that should be an object of `kind`; gives its duplicate fields too.
///
/// # Errors
/// 415 for other formats, 400 in the words of the real server for bytes that are not an object.
pub(super) fn decode(
    headers: &http::HeaderMap,
    bytes: &[u8],
    kind: &str,
) -> Result<(Value, Vec<FieldIssue>), ApiError> {
    let unrecognized = |why: &str| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({})",
            summary(bytes)
        ))
    };
    let (value, issues) = match negotiate::content_type(headers).as_str() {
        "" | "application/json" => schema::decode_json(bytes).map_err(|why| {
            unrecognized(&format!("couldn't get version/kind; json parse error: {why}"))
        })?,
        "application/yaml" => {
            let value = decode_yaml(bytes).map_err(|why| {
                unrecognized(&format!("couldn't get version/kind; yaml parse error: {why}"))
            })?;
            (value, Vec::new())
        }
        "application/vnd.kubernetes.protobuf" => {
            let value = protobuf::decode(bytes).map_err(|why| unrecognized(&why.to_string()))?;
            (value, Vec::new())
        }
        _ => return Err(unsupported_body()),
    };
    match value {
        Value::Object(_) => Ok((value, issues)),
        other => Err(unrecognized(&format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value \
             of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind \
             string \"json:\\\"kind,omitempty\\\"\" }}",
            go_type(&other)
        ))),
    }
}

/// Decodes a YAML document as Go's `yaml.YAMLToJSON` does: keys become texts.
pub(super) fn decode_yaml(bytes: &[u8]) -> Result<Value, String> {
    let yaml: serde_norway::Value =
        serde_norway::from_slice(bytes).map_err(|error| error.to_string())?;
    json_of_yaml(yaml, JSON_DEPTH_MAX)
}

fn json_of_yaml(yaml: serde_norway::Value, depth: usize) -> Result<Value, String> {
    let depth = depth.checked_sub(1).ok_or("exceeded max depth")?;
    Ok(match yaml {
        serde_norway::Value::Null => Value::Null,
        serde_norway::Value::Bool(flag) => flag.into(),
        serde_norway::Value::String(text) => text.into(),
        serde_norway::Value::Number(number) => json_number(&number)?,
        serde_norway::Value::Sequence(items) => Value::Array(
            items.into_iter().map(|item| json_of_yaml(item, depth)).collect::<Result<_, _>>()?,
        ),
        serde_norway::Value::Mapping(fields) => {
            let mut object = Map::new();
            for (key, value) in fields {
                let key = match key {
                    serde_norway::Value::String(text) => text,
                    serde_norway::Value::Bool(flag) => flag.to_string(),
                    serde_norway::Value::Number(number) => number.to_string(),
                    serde_norway::Value::Null => "null".to_owned(),
                    _ => return Err("a map key is not a scalar".to_owned()),
                };
                object.insert(key, json_of_yaml(value, depth)?);
            }
            Value::Object(object)
        }
        serde_norway::Value::Tagged(tagged) => json_of_yaml(tagged.value, depth)?,
    })
}

fn json_number(number: &serde_norway::Number) -> Result<Value, String> {
    if let Some(integer) = number.as_i64() {
        return Ok(integer.into());
    }
    if let Some(integer) = number.as_u64() {
        return Ok(integer.into());
    }
    let float = number.as_f64().and_then(Number::from_f64);
    float.map(Value::Number).ok_or_else(|| format!("{number} is not a JSON number"))
}

/// 415 for a body.
fn unsupported_body() -> ApiError {
    ApiError::new(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: \
         application/json, application/yaml, application/vnd.kubernetes.protobuf",
    )
}

/// 415 for a patch, as the router words it.
pub(super) fn unsupported_patch() -> ApiError {
    generic(415, "UnsupportedMediaType", "415: Unsupported Media Type")
}

/// `summarizeData` of the real server: the beginning of the body, in hex unless it looks like JSON.
fn summary(bytes: &[u8]) -> String {
    const BYTES_MAX: usize = 30;
    let shown = &bytes[..bytes.len().min(BYTES_MAX)];
    let mut text = match bytes.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    };
    if bytes.len() > BYTES_MAX {
        text.push_str(" ...");
    }
    text
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_becomes_json() {
        let yaml = b"a: 1\nb: [x, 2.5, null]\n3: {true: ~}\nbig: 18446744073709551615\n";
        let expected = json!({
            "a": 1, "b": ["x", 2.5, null], "3": {"true": null}, "big": u64::MAX,
        });
        assert_eq!(decode_yaml(yaml), Ok(expected));
        for bad in
            [&b"a: [1"[..], b"a: .nan", b"? [1]\n: 2", b"\xff\xfe", b"a: 1\na: 2", b"\t- x: ["]
        {
            assert!(decode_yaml(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let deep = "[".repeat(4000) + &"]".repeat(4000);
        assert!(decode_yaml(deep.as_bytes()).is_err());
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
        for (name, of) in
            ["b", "c", "d", "e", "f", "g", "h"].iter().zip(["a", "b", "c", "d", "e", "f", "g"])
        {
            bomb.push_str(&format!(
                "{name}: &{name} [*{of},*{of},*{of},*{of},*{of},*{of},*{of},*{of}]\n"
            ));
        }
        assert!(decode_yaml(bomb.as_bytes()).is_err(), "aliases must not multiply without bound");
    }

    #[test]
    fn bodies_are_summarized() {
        assert_eq!(summary(b""), "<empty>");
        assert_eq!(summary(b"{\"a\":1"), "{\"a\":1");
        assert_eq!(summary(b"xyz"), "78797a");
        assert!(summary(&[b'{'; 31]).ends_with("{ ..."));
    }
}
