//! What agent and keeper say to each other: frames of postcard over a Unix stream socket.
//!
//! Frame = length (u32, little endian, of what follows) + protocol version (u16) + body. One
//! connection carries one request and its answer, except [`RequestV1::Events`], which streams.
//! Variants are only ever appended and the `V1` structs are frozen, so that an agent talks to the
//! keeper of the release before. The OCI spec of a start follows as a second, raw frame that the
//! holder never reads: the starter does.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use model::limits::{KEEPER_FRAME_BYTES_MAX, KEEPER_REQUEST_BYTES_MAX};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version that this build speaks.
pub const PROTOCOL: u16 = 1;
/// Bytes before a frame's body: length and version.
pub const FRAME_HEADER_BYTES: usize = 6;

/// A request of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RequestV1 {
    /// Who answers?
    Hello,
    /// Make a pod's namespaces.
    SandboxCreate(SandboxV1),
    /// Remove a pod's namespaces.
    SandboxRemove {
        /// The pod's uid.
        uid: String,
    },
    /// Which pods have namespaces?
    SandboxList,
    /// Create and start a container; its OCI spec follows as a raw frame.
    Start(StartHeaderV1),
    /// Signal a container's init process.
    Signal {
        /// The container.
        id: String,
        /// The signal's number.
        signo: i32,
    },
    /// Kill what still runs and remove every trace but the log.
    Remove {
        /// The container.
        id: String,
    },
    /// Which containers are there?
    List,
    /// The state of everything, then exits as they happen.
    Events,
    /// Run a process inside a container.
    Exec(ExecV1),
    /// Go on as another binary.
    Upgrade {
        /// That binary.
        exe: PathBuf,
    },
    /// Run a process inside a container whose streams the client takes; it is killed when the client
    /// closes the connection.
    Session(SessionV1),
    /// Keep the descriptors that come with this frame for the next agent, instead of those with the
    /// same name; none means to forget them.
    Keep {
        /// What they are called.
        name: String,
    },
    /// Give back what was kept.
    Kept {
        /// What it is called.
        name: String,
    },
    /// Make a pod's namespaces around a network namespace that exists.
    SandboxAdopt {
        /// The sandbox; not one of the board's own network.
        sandbox: SandboxV1,
        /// File whose opening gives the network namespace; read before the answer, not after.
        net: PathBuf,
    },
}

impl RequestV1 {
    /// Whether asking twice is the same as asking once.
    pub fn is_idempotent(&self) -> bool {
        !matches!(
            self,
            Self::Start(_)
                | Self::Signal { .. }
                | Self::Exec(_)
                | Self::Upgrade { .. }
                | Self::Session(_)
        )
    }
}

/// An answer of the keeper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ResponseV1 {
    /// It is done.
    Done,
    /// It is not done.
    Failed {
        /// What kind of refusal.
        refusal: Refusal,
        /// What happened, with all causes.
        text: String,
    },
    /// A container runs.
    Started(StartedV1),
    /// All containers.
    States(Vec<ContainerStateV1>),
    /// A container ended.
    Exited(ContainerStateV1),
    /// A process inside a container ended.
    Executed(ExecResultV1),
    /// Uids of pods that have namespaces.
    Sandboxes(Vec<String>),
    /// Who answers.
    Hello {
        /// Process of the holder.
        pid: u32,
        /// Process of the log pump, when it runs.
        pump: Option<u32>,
        /// Build of the binary that runs.
        version: String,
    },
    /// The process of a session runs; its descriptors come with the frame's first byte: those of
    /// input, output and errors as far as asked for, or one terminal. [`Self::Executed`] follows.
    Begun,
    /// What was kept; the descriptors come with the frame's first byte.
    Kept,
}

/// The namespaces that the containers of one pod share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxV1 {
    /// The pod's uid; letters, digits, `-`, `_` and `.`.
    pub uid: String,
    /// Host name inside the pod.
    pub hostname: String,
    /// Share the board's network namespace instead of an own one.
    pub host_network: bool,
    /// Share the board's IPC namespace instead of an own one.
    pub host_ipc: bool,
}

/// [`super::Start`] without its spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartHeaderV1 {
    /// Id of the container.
    pub id: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// Directories of the image's layers, topmost first.
    pub lower_dirs: Vec<PathBuf>,
    /// Where the writable layer lies.
    pub writable_dir: PathBuf,
    /// Where the CRI log goes.
    pub log_path: PathBuf,
}

/// A container that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedV1 {
    /// Its init process, seen from the board.
    pub pid: u32,
    /// What the spec asks for and this kernel does not enforce: `memory`, `cpu`, `pids`, `devices`.
    pub unenforced: Vec<String>,
    /// What had to be relaxed, in sentences for a person.
    pub warnings: Vec<String>,
}

/// Whether a container runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunStateV1 {
    /// Its init process lives.
    Running,
    /// Its init process is gone.
    Exited(ExitV1),
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitV1 {
    /// Exit code; absent after a signal, or when the holder was not there to see it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When it was noticed, in microseconds since 1970.
    pub at_micros: i64,
    /// The kernel killed a process of it for lack of memory.
    pub oom: bool,
}

impl ExitV1 {
    /// The code as Kubernetes shows it: 128 + signal after a signal, 137 when unknown.
    pub fn shell_code(&self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 137,
        }
    }
}

/// One container that the keeper knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStateV1 {
    /// The id given to `start`.
    pub id: String,
    /// The pod it belongs to.
    pub pod_uid: String,
    /// Its init process, seen from the board.
    pub pid: u32,
    /// Whether it runs.
    pub state: RunStateV1,
    /// When it started, in microseconds since 1970.
    pub started_at_micros: i64,
}

/// A process to run inside a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecV1 {
    /// The container.
    pub id: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `NAME=value` entries on top of the container's own.
    pub env: Vec<String>,
    /// Working directory; the container's when absent.
    pub cwd: Option<PathBuf>,
    /// User and group; the container's when absent.
    pub user: Option<(u32, u32)>,
    /// Killed after this long.
    pub timeout_ms: u32,
    /// Output (both streams together) kept, at most [`model::limits::EXEC_OUTPUT_BYTES_MAX`].
    pub output_bytes_max: u32,
}

/// A process to run inside a running container for as long as its client stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionV1 {
    /// The container.
    pub id: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Give its input a pipe; else it is empty.
    pub stdin: bool,
    /// Give its output a pipe; else it is thrown away.
    pub stdout: bool,
    /// Give its errors a pipe; else they are thrown away.
    pub stderr: bool,
    /// Give it a terminal instead of pipes.
    pub tty: bool,
}

/// How an [`ExecV1`] or a [`SessionV1`] went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResultV1 {
    /// Exit code; absent after a signal.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It ran longer than allowed and was killed.
    pub timed_out: bool,
    /// The first bytes of its output and errors, as they came.
    pub output: Vec<u8>,
    /// There was more output than allowed.
    pub truncated: bool,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No such container or sandbox.
    NotFound,
    /// The container exists already.
    AlreadyExists,
    /// The request makes no sense.
    Invalid,
    /// This keeper does not know the request (it is older).
    Unsupported,
    /// It was tried and failed.
    Failed,
    /// A bound of the keeper is reached.
    Exhausted,
}

/// A frame around `body`.
///
/// # Errors
/// When it is larger than a frame may be.
pub fn frame<T: Serialize>(body: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    bytes = postcard::to_extend(body, bytes).map_err(io::Error::other)?;
    seal(&mut bytes)?;
    Ok(bytes)
}

/// A frame around raw bytes.
///
/// # Errors
/// When it is larger than a frame may be.
pub fn raw_frame(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    bytes.extend_from_slice(body);
    seal(&mut bytes)?;
    Ok(bytes)
}

fn seal(bytes: &mut [u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    if bytes.len() - FRAME_HEADER_BYTES > KEEPER_FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too large for the keeper",
        ));
    }
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..6].copy_from_slice(&PROTOCOL.to_le_bytes());
    Ok(())
}

/// Length of the body that a frame header announces.
///
/// # Errors
/// When it is longer than `bytes_max` or of a version that this build cannot read.
pub fn body_bytes(header: &[u8; FRAME_HEADER_BYTES], bytes_max: usize) -> io::Result<usize> {
    let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let [a, b, c, d, e, f] = *header;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let version = u16::from_le_bytes([e, f]);
    if version != PROTOCOL {
        return Err(invalid(&format!("protocol version {version} instead of {PROTOCOL}")));
    }
    match length.checked_sub(2) {
        Some(body) if body <= bytes_max => Ok(body),
        _ => Err(invalid("frame length out of bounds")),
    }
}

/// Reads one frame's body from a blocking stream.
///
/// # Errors
/// What the stream says, or a frame that is none.
pub fn read_raw(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; body_bytes(&header, KEEPER_FRAME_BYTES_MAX)?];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// Reads one message from a blocking stream.
///
/// # Errors
/// What the stream says, or bytes that are no message.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    decode(&read_raw(stream)?)
}

/// Writes one message to a blocking stream.
///
/// # Errors
/// What the stream says.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    stream.write_all(&frame(message)?)
}

/// A message from a frame's body.
///
/// # Errors
/// Bytes that are no message.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

const _: () = assert!(KEEPER_REQUEST_BYTES_MAX <= KEEPER_FRAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_golden_bytes() {
        let check = |request: RequestV1, golden: &[u8]| {
            assert_eq!(frame(&request).expect("small"), golden, "{request:?}");
            let mut stream = golden;
            assert_eq!(read::<RequestV1>(&mut stream).expect("own bytes"), request);
        };
        check(RequestV1::Hello, &[3, 0, 0, 0, 1, 0, 0]);
        check(
            RequestV1::Signal { id: "ab".into(), signo: 15 },
            &[7, 0, 0, 0, 1, 0, 5, 2, b'a', b'b', 30],
        );
        check(RequestV1::Events, &[3, 0, 0, 0, 1, 0, 8]);
        check(
            RequestV1::SandboxCreate(SandboxV1 {
                uid: "u".into(),
                hostname: "h".into(),
                host_network: true,
                host_ipc: false,
            }),
            &[9, 0, 0, 0, 1, 0, 1, 1, b'u', 1, b'h', 1, 0],
        );
    }

    #[test]
    fn every_other_request_has_golden_bytes() {
        let check = |request: RequestV1, golden: &[&[u8]]| {
            let bytes = frame(&request).expect("small");
            assert_eq!(bytes[FRAME_HEADER_BYTES..], golden.concat(), "{request:?}");
            assert_eq!(read::<RequestV1>(&mut &bytes[..]).expect("own bytes"), request);
        };
        check(RequestV1::SandboxRemove { uid: "u".into() }, &[b"\x02\x01u"]);
        check(RequestV1::SandboxList, &[&[3]]);
        let start = StartHeaderV1 {
            id: "c".into(),
            pod_uid: "p".into(),
            lower_dirs: vec!["/a".into(), "/b".into()],
            writable_dir: "/w".into(),
            log_path: "/l".into(),
        };
        check(RequestV1::Start(start), &[b"\x04\x01c\x01p\x02\x02/a\x02/b\x02/w\x02/l"]);
        check(RequestV1::Remove { id: "c".into() }, &[b"\x06\x01c"]);
        check(RequestV1::List, &[&[7]]);
        let exec = ExecV1 {
            id: "c".into(),
            argv: vec!["x".into()],
            env: vec!["A=b".into()],
            cwd: None,
            user: Some((1, 300)),
            timeout_ms: 5,
            output_bytes_max: 6,
        };
        check(
            RequestV1::Exec(exec),
            &[b"\x09\x01c\x01\x01x\x01\x03A=b\x00\x01\x01\xac\x02\x05\x06"],
        );
        check(RequestV1::Upgrade { exe: "/k".into() }, &[b"\x0a\x02/k"]);
        let session = SessionV1 {
            id: "c".into(),
            argv: vec!["x".into()],
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        check(RequestV1::Session(session), &[b"\x0b\x01c\x01\x01x\x01\x01\x00\x01"]);
        check(RequestV1::Keep { name: "n".into() }, &[b"\x0c\x01n"]);
        check(RequestV1::Kept { name: "n".into() }, &[b"\x0d\x01n"]);
        let sandbox = SandboxV1 { uid: "u".into(), hostname: "h".into(), ..SandboxV1::default() };
        let adopt = RequestV1::SandboxAdopt { sandbox, net: "/n".into() };
        check(adopt, &[b"\x0e\x01u\x01h\x00\x00\x02/n"]);
    }

    #[test]
    fn answers_have_golden_bytes() {
        let check = |response: ResponseV1, golden: &[&[u8]]| {
            let bytes = frame(&response).expect("small");
            assert_eq!(bytes[FRAME_HEADER_BYTES..], golden.concat(), "{response:?}");
            assert_eq!(read::<ResponseV1>(&mut &bytes[..]).expect("own bytes"), response);
        };
        check(ResponseV1::Done, &[&[0]]);
        let failed = ResponseV1::Failed { refusal: Refusal::Exhausted, text: "no".into() };
        check(failed, &[b"\x01\x05\x02no"]);
        let started =
            StartedV1 { pid: 7, unenforced: vec!["cpu".into()], warnings: vec!["w".into()] };
        check(ResponseV1::Started(started), &[b"\x02\x07\x01\x03cpu\x01\x01w"]);
        let state = ContainerStateV1 {
            id: "c".into(),
            pod_uid: "p".into(),
            pid: 7,
            state: RunStateV1::Running,
            started_at_micros: -1,
        };
        check(ResponseV1::States(vec![state]), &[b"\x03\x01\x01c\x01p\x07\x00\x01"]);
        let result = ExecResultV1 {
            code: None,
            signal: Some(9),
            timed_out: true,
            output: b"o".to_vec(),
            truncated: false,
        };
        check(ResponseV1::Executed(result), &[b"\x05\x00\x01\x12\x01\x01o\x00"]);
        check(ResponseV1::Sandboxes(vec!["u".into()]), &[b"\x06\x01\x01u"]);
        let hello = ResponseV1::Hello { pid: 1, pump: Some(2), version: "v".into() };
        check(hello, &[b"\x07\x01\x01\x02\x01v"]);
        check(ResponseV1::Begun, &[&[8]]);
        check(ResponseV1::Kept, &[&[9]]);
    }

    #[test]
    fn exits_have_golden_bytes() {
        let state = ContainerStateV1 {
            id: "c".into(),
            pod_uid: "p".into(),
            pid: 7,
            state: RunStateV1::Exited(ExitV1 {
                code: Some(3),
                signal: None,
                at_micros: 1,
                oom: true,
            }),
            started_at_micros: 2,
        };
        let golden = [16, 0, 0, 0, 1, 0, 4, 1, b'c', 1, b'p', 7, 1, 1, 6, 0, 2, 1, 4];
        let golden = {
            let mut bytes = golden.to_vec();
            bytes[0] = u8::try_from(bytes.len() - 4).expect("short");
            bytes
        };
        assert_eq!(frame(&ResponseV1::Exited(state)).expect("small"), golden);
    }

    #[test]
    fn bad_frames_are_refused() {
        let check = |header: [u8; 6]| assert!(body_bytes(&header, 100).is_err(), "{header:?}");
        check([0, 0, 0, 0, 1, 0]);
        check([1, 0, 0, 0, 1, 0]);
        check([103, 0, 0, 0, 1, 0]);
        check([255, 255, 255, 255, 1, 0]);
        check([10, 0, 0, 0, 9, 0]);
        assert_eq!(body_bytes(&[102, 0, 0, 0, 1, 0], 100).expect("fits"), 100);
        assert!(read::<RequestV1>(&mut &[3, 0, 0, 0, 1, 0, 99][..]).is_err());
        assert!(read::<RequestV1>(&mut &[3, 0, 0][..]).is_err());
    }
}
