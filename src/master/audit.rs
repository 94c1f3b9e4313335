//! Who wrote what: one line of JSON for each write that a client asks of the API, whether or not it was
//! let do it.
//!
//! In: notes of requests. Out: lines, to standard output or to the bus, as configured; never to a file,
//! because that would wear the flash of a board out. Bound: [`AUDIT_QUEUE_MAX`] lines wait for a slow
//! reader; those beyond are dropped, and the next line says how many. Reads, reviews and what
//! controllers and boards write are not told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::ids::Version;
use model::limits::{AUDIT_FIELD_BYTES_MAX, AUDIT_QUEUE_MAX};
use model::timestamp::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::watch;

use crate::io::bus::MasterBus;
use crate::io::clock::Clock;

/// Where the lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditTo {
    /// Nowhere.
    #[default]
    Off,
    /// To standard output.
    Stdout,
    /// To a topic of the bus, in plain text: only over somebody else's broker, because nobody but boards
    /// may listen on ours.
    Bus,
}

/// Takes notes; clones share the queue.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Queue>);

#[derive(Clone, Debug)]
struct Queue {
    lines: mpsc::Sender<String>,
    dropped: Arc<AtomicU64>,
}

/// The lines to be written.
#[derive(Debug)]
pub struct AuditLines {
    lines: mpsc::Receiver<String>,
    dropped: Arc<AtomicU64>,
}

/// What is known of a request.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// `create`, `update`, `patch`, `delete`, `deletecollection`, or what opens a stream.
    pub verb: &'static str,
    /// Who asks; empty for whoever is not let in at all.
    pub user: String,
    /// As whom it acts, when that is somebody else.
    pub acting_as: Option<String>,
    /// API group.
    pub group: String,
    /// `pods`, `pods/exec`.
    pub resource: String,
    /// Namespace.
    pub namespace: String,
    /// Name as in the path; empty for what is created.
    pub name: String,
}

/// Code of a request whose client did not wait for the answer: what it asked may have been done.
const GONE: u16 = 499;

/// A request that is told of when it has been answered, or when its client has gone.
#[derive(Debug)]
pub struct Telling {
    audit: Audit,
    clock: Clock,
    id: String,
    source: SocketAddr,
    note: Option<Note>,
}

impl Telling {
    /// Where to say what is asked; none when nobody is told.
    pub fn note(&mut self) -> Option<&mut Note> {
        self.note.as_mut()
    }

    /// It was answered.
    pub fn done(mut self, code: u16, wrote: Option<&WriteOf>) {
        self.tell(code, wrote);
    }

    fn tell(&mut self, code: u16, wrote: Option<&WriteOf>) {
        if let Some(note) = self.note.take() {
            self.audit.tell(self.clock.now(), note, &self.id, self.source, code, wrote);
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.tell(GONE, None);
    }
}

/// What a write left behind: kept with an answer.
#[derive(Clone, Debug, Default)]
pub struct WriteOf {
    /// Name of the object.
    pub name: String,
    /// Its version.
    pub version: Option<Version>,
}

impl WriteOf {
    /// Of a written object as it is answered.
    pub fn object(json: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Raw {
            metadata: RawMeta,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct RawMeta {
            name: String,
            resource_version: String,
        }
        let meta = serde_json::from_slice(json).map(|raw: Raw| raw.metadata).unwrap_or_default();
        let version = meta.resource_version.parse().ok().map(Version);
        Self { name: meta.name, version }
    }
}

impl Audit {
    /// Tells nobody.
    pub fn off() -> Self {
        Self(None)
    }

    /// Tells whoever reads the lines.
    pub fn to_lines() -> (Self, AuditLines) {
        let (sender, lines) = mpsc::channel(AUDIT_QUEUE_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Queue { lines: sender, dropped: dropped.clone() };
        (Self(Some(queue)), AuditLines { lines, dropped })
    }

    /// Whether anybody is told.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A request begins.
    pub fn begin(&self, clock: Clock, id: &str, source: SocketAddr) -> Telling {
        let note = self.is_on().then(Note::default);
        Telling { audit: self.clone(), clock, id: shortened(id).to_owned(), source, note }
    }

    /// Tells of a request that was answered. Never waits.
    pub fn tell(
        &self,
        now: Timestamp,
        note: Note,
        id: &str,
        source: SocketAddr,
        code: u16,
        wrote: Option<&WriteOf>,
    ) {
        let Some(queue) = self.0.as_ref().filter(|_| !note.verb.is_empty()) else { return };
        let line = line(now, &note, id, source, code, wrote);
        if let Err(TrySendError::Full(_)) = queue.lines.try_send(line) {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn line(
    now: Timestamp,
    note: &Note,
    id: &str,
    source: SocketAddr,
    code: u16,
    wrote: Option<&WriteOf>,
) -> String {
    let mut fields = Map::new();
    let mut put = |name: &str, text: &str| {
        if !text.is_empty() {
            fields.insert(name.into(), shortened(text).into());
        }
    };
    let name = wrote.map(|wrote| wrote.name.as_str()).filter(|name| !name.is_empty());
    put("time", &now.micro());
    put("auditID", id);
    put("user", &note.user);
    put("actingAs", note.acting_as.as_deref().unwrap_or_default());
    put("verb", note.verb);
    put("group", &note.group);
    put("resource", &note.resource);
    put("namespace", &note.namespace);
    put("name", name.unwrap_or(&note.name));
    put("source", &source.to_string());
    fields.insert("code".into(), code.into());
    if let Some(version) = wrote.and_then(|wrote| wrote.version) {
        fields.insert("resourceVersion".into(), version.to_string().into());
    }
    Value::Object(fields).to_string()
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(AUDIT_FIELD_BYTES_MAX)]
}

impl AuditLines {
    /// The next line; `None` when there will be none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<String> {
        let line = self.lines.recv().await?;
        match self.dropped.swap(0, Ordering::Relaxed) {
            0 => Some(line),
            dropped => Some(format!("{{\"dropped\":{dropped}}}\n{line}")),
        }
    }

    /// Publishes the lines on the bus until `stop` turns true.
    pub async fn to_bus(
        mut self,
        bus: &dyn MasterBus,
        topic: &str,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            // Cancel safety: neither loses anything.
            let line = tokio::select! {
                line = self.next() => line,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Some(line) = line else { return };
            for line in line.lines() {
                bus.publish(topic, line.to_owned().into(), false).await;
            }
        }
    }

    /// Writes the lines to standard output until `stop` turns true, then those that wait.
    pub async fn to_stdout(mut self, mut stop: watch::Receiver<bool>) {
        let mut out = tokio::io::stdout();
        let mut deaf = false;
        loop {
            // Cancel safety: neither loses anything.
            let line = tokio::select! {
                biased;
                line = self.next() => line,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Some(line) = line else { return };
            if deaf {
                continue;
            }
            let written = out.write_all(format!("{line}\n").as_bytes()).await;
            deaf = written.is_err() || out.flush().await.is_err();
            if deaf {
                tracing::warn!("nobody reads the audit on standard output: it is dropped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &str) -> Note {
        Note { verb: "create", user: "jane".into(), name: name.into(), ..Note::default() }
    }

    fn tell(audit: &Audit, name: &str) {
        let source = "10.0.0.7:4321".parse().unwrap();
        let json = br#"{"metadata":{"name":"made","resourceVersion":"7"}}"#;
        let wrote = WriteOf::object(json);
        audit.tell(Timestamp(0), note(name), "id-1", source, 201, Some(&wrote));
    }

    #[tokio::test]
    async fn a_line_says_who_wrote_what() {
        let (audit, mut lines) = Audit::to_lines();
        tell(&audit, "");
        let line: Value = serde_json::from_str(&lines.next().await.unwrap()).unwrap();
        let expected = serde_json::json!({
            "time": "1970-01-01T00:00:00.000000Z", "auditID": "id-1", "user": "jane",
            "verb": "create", "name": "made", "source": "10.0.0.7:4321", "code": 201,
            "resourceVersion": "7",
        });
        assert_eq!(line, expected);
    }

    #[tokio::test]
    async fn lines_that_find_no_room_are_counted() {
        let (audit, mut lines) = Audit::to_lines();
        for _ in 0..AUDIT_QUEUE_MAX + 3 {
            tell(&audit, "x");
        }
        let first = lines.next().await.unwrap();
        assert!(first.starts_with("{\"dropped\":3}\n{"), "{first}");
        assert!(!lines.next().await.unwrap().contains("dropped"));
        tell(&Audit::off(), "x");
    }

    #[tokio::test]
    async fn reads_are_not_told_and_long_names_are_cut() {
        let (audit, mut lines) = Audit::to_lines();
        let source = "10.0.0.7:4321".parse().unwrap();
        audit.tell(Timestamp(0), Note::default(), "id", source, 200, None);
        audit.tell(Timestamp(0), note(&"é".repeat(4_000)), "id", source, 403, None);
        let line: Value = serde_json::from_str(&lines.next().await.unwrap()).unwrap();
        assert_eq!(line["name"].as_str().unwrap().len(), AUDIT_FIELD_BYTES_MAX);
        assert_eq!(line["code"], 403);
    }

    #[tokio::test]
    async fn a_request_that_nobody_waits_for_is_told() {
        let (audit, mut lines) = Audit::to_lines();
        let source = "10.0.0.7:4321".parse().unwrap();
        let clock = Clock::starting_at(Timestamp(0));
        for name in ["answered", "gone"] {
            let mut telling = audit.begin(clock.clone(), "id", source);
            *telling.note().unwrap() = note(name);
            if name == "answered" {
                telling.done(201, None);
            }
        }
        drop(audit.begin(clock, "id", source));
        for (name, code) in [("answered", 201), ("gone", GONE)] {
            let line: Value = serde_json::from_str(&lines.next().await.unwrap()).unwrap();
            assert_eq!(
                (line["name"].as_str(), line["code"].as_u64()),
                (Some(name), Some(code.into()))
            );
        }
        drop(audit);
        assert!(lines.next().await.is_none(), "a read is not told");
    }
}
