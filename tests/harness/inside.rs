//! What a program inside a pod sees: names are looked up at the servers of the pod's `resolv.conf`,
//! connections are made from the pod's network namespace. No second tries, no caches, no keep-alive.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kumquat::io::net;

use crate::board::Board;

/// How long a lookup or a connection may take.
pub const WITHIN: Duration = Duration::from_secs(3);

/// DNS record types (RFC 1035, RFC 2782).
pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const PTR: u16 = 12;
pub const SRV: u16 = 33;

/// Where a program runs: a pod, or a board itself.
#[derive(Clone, Debug)]
pub struct Inside {
    /// For messages.
    pub name: String,
    namespace: PathBuf,
    resolv: Option<PathBuf>,
}

/// An answer of DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Response code: 0 fine, 3 no such name.
    pub code: u8,
    /// The records' data as text, in the order of the message.
    pub records: Vec<(u16, String)>,
}

impl Inside {
    /// Inside a pod of a board.
    pub fn pod(board: &Board, name: &str, uid: &str) -> Self {
        let run = board.run_dir();
        Self {
            name: name.to_owned(),
            namespace: run.join("sandboxes").join(uid).join("net"),
            resolv: Some(run.join("pods").join(uid).join("etc/resolv.conf")),
        }
    }

    /// On a board.
    pub fn host(board: &Board) -> Self {
        Self {
            name: format!("host of {}", board.node()),
            namespace: board.namespace().to_owned(),
            resolv: None,
        }
    }

    /// Anywhere else, by the file that its namespace is pinned on.
    pub fn namespace(name: &str, path: &Path) -> Self {
        Self { name: name.to_owned(), namespace: path.to_owned(), resolv: None }
    }

    /// Runs `work` there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        net::inside(&self.namespace, work)
    }

    /// Servers and search list that it has.
    pub fn resolver(&self) -> Resolver {
        let path = self.resolv.as_ref().expect("a pod has a resolv.conf");
        Resolver::parse(&std::fs::read_to_string(path).expect("resolv.conf"))
    }

    /// What an HTTP server at an address and a port says.
    pub fn read(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        self.run(|| read(address, port))
    }

    /// Says its name to everybody who sends a packet to a port; its thread ends with this process.
    pub fn answer(&self, port: u16) -> io::Result<()> {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        let name = self.name.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _gone = socket.send_to(name.as_bytes(), peer);
            }
        });
        Ok(())
    }

    /// Tells everybody who asks over HTTP which address they come from; its thread ends with this process.
    pub fn tell_callers(&self, port: u16) -> io::Result<()> {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _request = stream.read(&mut [0; 512]);
                let _gone = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{}", peer.ip());
            }
        });
        Ok(())
    }

    /// Sends so many bytes on one connection to somebody at an address; how many arrive.
    pub fn send(&self, to: &Self, address: Ipv4Addr, bytes: usize) -> io::Result<usize> {
        let listener = to.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let at = SocketAddr::from((address, listener.local_addr()?.port()));
        let mut sender = self.run(|| TcpStream::connect_timeout(&at, WITHIN))?;
        let (mut receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(WITHIN))?;
        sender.set_write_timeout(Some(WITHIN))?;
        std::thread::scope(|scope| {
            let received = scope.spawn(move || io::copy(&mut receiver, &mut io::sink()));
            sender.write_all(&vec![b'x'; bytes])?;
            drop(sender);
            let received = received.join().expect("it only reads")?;
            usize::try_from(received).map_err(io::Error::other)
        })
    }

    /// What comes back for a packet to an address and a UDP port.
    pub fn ask(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        self.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(WITHIN))?;
            socket.connect((address, port))?;
            socket.send(b"who\n")?;
            let mut buffer = [0; 512];
            let count = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..count]).trim().to_owned())
        })
    }

    /// Looks a name up as programs do, along the search list.
    pub fn look_up(&self, name: &str) -> io::Result<Vec<Ipv4Addr>> {
        let resolver = self.resolver();
        self.run(|| resolver.addresses(name))
    }

    /// Asks for records of a full name.
    pub fn records(&self, name: &str, kind: u16) -> io::Result<Answer> {
        let resolver = self.resolver();
        self.run(|| resolver.ask(name, kind))
    }
}

/// What an HTTP server at an address and a port says, in the namespace of this thread.
pub fn read(address: Ipv4Addr, port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n").map(|(_, body)| body.trim()) {
        None | Some("") => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "an empty answer")),
        Some(body) => Ok(body.to_owned()),
    }
}

/// A stub resolver (resolver(5)): one server, one try.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// The first name server.
    pub server: Ipv4Addr,
    /// Appended to short names, in order.
    pub search: Vec<String>,
    /// Names with fewer dots are short.
    pub dots: usize,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut resolver = Self { server: Ipv4Addr::UNSPECIFIED, search: Vec::new(), dots: 1 };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["nameserver", address, ..] if resolver.server.is_unspecified() => {
                    resolver.server = address.parse().expect("address of a name server");
                }
                ["search", ..] => {
                    resolver.search = words[1..].iter().map(|&word| word.to_owned()).collect();
                }
                ["options", ..] => {
                    let dots = words.iter().find_map(|word| word.strip_prefix("ndots:"));
                    resolver.dots = dots.and_then(|dots| dots.parse().ok()).unwrap_or(1);
                }
                _ => {}
            }
        }
        resolver
    }

    /// The addresses of a name, in the namespace of this thread.
    pub fn addresses(&self, name: &str) -> io::Result<Vec<Ipv4Addr>> {
        let absolute = name.trim_end_matches('.').to_owned();
        let mut candidates: Vec<String> =
            self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let is_short = name.matches('.').count() < self.dots && !name.ends_with('.');
        candidates.insert(if is_short { candidates.len() } else { 0 }, absolute);
        for candidate in candidates {
            let answer = self.ask(&candidate, A)?;
            let found: Vec<Ipv4Addr> = answer
                .records
                .iter()
                .filter(|(kind, _)| *kind == A)
                .filter_map(|(_, text)| text.parse().ok())
                .collect();
            if !found.is_empty() {
                return Ok(found);
            }
            if answer.code != 0 && answer.code != 3 {
                return Err(io::Error::other(format!("{candidate}: code {}", answer.code)));
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} is not known")))
    }

    /// One question over UDP, in the namespace of this thread.
    pub fn ask(&self, name: &str, kind: u16) -> io::Result<Answer> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(WITHIN))?;
        socket.connect((IpAddr::V4(self.server), 53))?;
        let id = u16::from(socket.local_addr()?.port().to_be_bytes()[1]) | 0x4200;
        socket.send(&question(id, name, kind))?;
        let mut buffer = [0; 4096];
        let count = socket.recv(&mut buffer)?;
        parse(&buffer[..count], id)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no answer of DNS"))
    }
}

fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion desired, one question.
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&1_u16.to_be_bytes());
    bytes
}

fn parse(bytes: &[u8], id: u16) -> Option<Answer> {
    let u16_at = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if u16_at(0)? != id {
        return None;
    }
    let (questions, answers) = (u16_at(4)?, u16_at(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name_at(bytes, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        let (_, next) = name_at(bytes, at)?;
        let (kind, length) = (u16_at(next)?, usize::from(u16_at(next + 8)?));
        let data = next + 10;
        let text = match kind {
            A => {
                let address: [u8; 4] = bytes.get(data..data + 4)?.try_into().ok()?;
                Ipv4Addr::from(address).to_string()
            }
            CNAME | PTR => name_at(bytes, data)?.0,
            SRV => format!("{} {}", u16_at(data + 4)?, name_at(bytes, data + 6)?.0),
            _ => String::new(),
        };
        records.push((kind, text));
        at = data + length;
    }
    Some(Answer { code: bytes.get(3)? & 15, records })
}

/// A name, compressed or not (RFC 1035, 4.1.4), and where what follows it begins.
fn name_at(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end) = (String::new(), None);
    for _ in 0..128 {
        let length = usize::from(*bytes.get(at)?);
        if length >= 0xc0 {
            end.get_or_insert(at + 2);
            at = (length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
            continue;
        }
        if length == 0 {
            return Some((name, end.unwrap_or(at + 1)));
        }
        if !name.is_empty() {
            name.push('.');
        }
        let label = bytes.get(at + 1..at + 1 + length)?;
        let _written = write!(name, "{}", String::from_utf8_lossy(label));
        at += 1 + length;
    }
    None
}
