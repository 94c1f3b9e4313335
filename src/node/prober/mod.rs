//! Runs a probe or hook once: a command in the container, an HTTP request, a TCP connection.
//!
//! HTTP and TCP go to 127.0.0.1 inside the pod's network namespace, or from the board to the host that
//! the pod names; pods of the host network are on the board anyway. A short-lived thread enters a pod's
//! namespace and makes the socket, which belongs to that namespace for good; the rest is ordinary async IO.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use logic::pod::spec::{
    Container, ExecAction, Handler, HttpGet, Port, Probe, TcpSocket as TcpSocketAction,
};
use model::limits::PROBE_ANSWER_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::io::keeper::{ExecV1, Keeper};

/// What a probe is run against.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) keeper: &'a Keeper,
    /// The container's id.
    pub(crate) id: String,
    /// File of the pod's network namespace; none for the board's own.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) container: &'a Container,
}

impl Target<'_> {
    /// Runs a probe; the error is what kubelet writes after "probe failed: ".
    pub(crate) async fn probe(&self, probe: &Probe) -> Result<(), String> {
        let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1).into());
        if let Some(exec) = &probe.exec {
            self.exec(exec, timeout).await
        } else if let Some(request) = &probe.http_get {
            self.http(request, timeout).await
        } else if let Some(socket) = &probe.tcp_socket {
            self.tcp(socket, timeout).await
        } else {
            Err("probes of this type are not supported on this board".to_owned())
        }
    }

    async fn tcp(&self, socket: &TcpSocketAction, timeout: Duration) -> Result<(), String> {
        let at = self.endpoint(&socket.host, &socket.port)?;
        match tokio::time::timeout(timeout, connect(&at)).await {
            Ok(connected) => connected.map(drop).map_err(|error| at.dial_text(&error)),
            Err(_) => Err(format!("dial tcp {at}: i/o timeout")),
        }
    }

    /// As kubelet: a host that the pod names is reached from the board, not from inside the pod.
    fn endpoint(&self, host: &str, port: &Port) -> Result<Endpoint, String> {
        let port = self.port(port)?;
        Ok(match host {
            "" => Endpoint { netns: self.netns.clone(), host: "127.0.0.1".to_owned(), port },
            host => Endpoint { netns: None, host: host.to_owned(), port },
        })
    }

    /// Runs a hook.
    pub(crate) async fn hook(&self, handler: &Handler, timeout: Duration) -> Result<(), String> {
        if let Some(exec) = &handler.exec {
            self.exec(exec, timeout).await
        } else if let Some(request) = &handler.http_get {
            self.http(request, timeout).await
        } else if let Some(socket) = &handler.tcp_socket {
            self.tcp(socket, timeout).await
        } else if let Some(sleep) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(sleep.seconds.into()).min(timeout)).await;
            Ok(())
        } else {
            Err("hooks of this type are not supported on this board".to_owned())
        }
    }

    fn port(&self, port: &Port) -> Result<u16, String> {
        port.resolve(self.container).ok_or_else(|| "couldn't find the probe's port".to_owned())
    }

    async fn exec(&self, action: &ExecAction, timeout: Duration) -> Result<(), String> {
        let exec = ExecV1 {
            id: self.id.clone(),
            argv: action.command.clone(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            output_bytes_max: PROBE_ANSWER_BYTES_MAX as u32,
            ..ExecV1::default()
        };
        let result = self.keeper.exec(exec).await.map_err(|error| error.to_string())?;
        if result.timed_out {
            let command = action.command.join(" ");
            let seconds = timeout.as_secs();
            return Err(format!("command timed out: {command:?} timed out after {seconds}s"));
        }
        match result.code {
            Some(0) => Ok(()),
            _ => Err(String::from_utf8_lossy(&result.output).into_owned()),
        }
    }

    async fn http(&self, request: &HttpGet, timeout: Duration) -> Result<(), String> {
        if request.scheme.eq_ignore_ascii_case("https") {
            return Err("HTTPS probes are not supported on this board".to_owned());
        }
        let at = self.endpoint(&request.host, &request.port)?;
        let path = if request.path.starts_with('/') {
            request.path.clone()
        } else {
            format!("/{}", request.path)
        };
        let get = format!("Get \"http://{at}{path}\"");
        let head = request_head(request, &path, &at);
        match tokio::time::timeout(timeout, exchange(&at, &head)).await {
            Err(_) => Err(format!(
                "{get}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )),
            Ok(Err(error)) => Err(format!("{get}: {}", at.dial_text(&error))),
            Ok(Ok(status)) if (200..400).contains(&status) => Ok(()),
            Ok(Ok(status)) => Err(format!("HTTP probe failed with statuscode: {status}")),
        }
    }
}

/// Where a connection goes.
#[derive(Clone, Debug)]
struct Endpoint {
    /// The namespace from which it goes; none for the board's own.
    netns: Option<PathBuf>,
    host: String,
    port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Endpoint {
    fn dial_text(&self, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                format!("dial tcp {self}: connect: connection refused")
            }
            _ => error.to_string(),
        }
    }
}

fn request_head(request: &HttpGet, path: &str, at: &Endpoint) -> String {
    let mut head = format!("GET {path} HTTP/1.1\r\n");
    let given = |name: &str| {
        request.http_headers.iter().any(|header| header.name.eq_ignore_ascii_case(name))
    };
    if !given("host") {
        head.push_str(&format!("Host: {at}\r\n"));
    }
    if !given("user-agent") {
        head.push_str("User-Agent: kube-probe/1.36\r\n");
    }
    if !given("accept") {
        head.push_str("Accept: */*\r\n");
    }
    for header in &request.http_headers {
        let clean = |text: &str| text.replace(['\r', '\n'], " ");
        head.push_str(&format!("{}: {}\r\n", clean(&header.name), clean(&header.value)));
    }
    head + "Connection: close\r\n\r\n"
}

async fn exchange(at: &Endpoint, head: &str) -> io::Result<u16> {
    let mut stream = connect(at).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.len() < PROBE_ANSWER_BYTES_MAX && !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    status_of(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed HTTP response"))
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    words.next().filter(|word| word.starts_with("HTTP/"))?;
    words.next()?.parse().ok()
}

async fn connect(at: &Endpoint) -> io::Result<TcpStream> {
    let Some(netns) = at.netns.clone() else {
        return TcpStream::connect((at.host.as_str(), at.port)).await;
    };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("probe".to_owned()).stack_size(64 * 1024).spawn(
        move || {
            // The thread ends with its namespace; nobody waits when the probe has timed out.
            let _ = sender.send(socket_inside(&netns));
        },
    )?;
    let socket = receiver.await.map_err(io::Error::other)??;
    let socket = TcpSocket::from_std_stream(socket);
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, at.port))).await
}

/// Makes an unconnected socket in a network namespace; the calling thread stays there.
fn socket_inside(netns: &Path) -> io::Result<std::net::TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType};
    let namespace = std::fs::File::open(netns)?;
    nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    Ok(std::net::TcpStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in [&b""[..], b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n", b"HTTP/1.1 abc\r\n"] {
            assert_eq!(status_of(bad), None);
        }
    }

    #[test]
    fn headers_cannot_be_smuggled() {
        let header =
            logic::pod::spec::HttpHeader { name: "X".to_owned(), value: "1\r\nEvil: 2".to_owned() };
        let request = HttpGet { http_headers: vec![header], ..HttpGet::default() };
        let at = Endpoint { netns: None, host: "::1".to_owned(), port: 80 };
        let head = request_head(&request, "/", &at);
        assert!(!head.contains("\r\nEvil"));
        assert!(head.contains("\r\nHost: [::1]:80\r\n"), "{head}");
    }

    #[tokio::test]
    async fn the_boards_own_namespace_needs_no_entering() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let mut at = Endpoint { netns: None, host: "127.0.0.1".to_owned(), port };
        assert!(connect(&at).await.is_ok());
        at.netns = Some(PathBuf::from("/nonexistent/net"));
        assert!(connect(&at).await.is_err(), "a pod's namespace has to be there");
    }
}
