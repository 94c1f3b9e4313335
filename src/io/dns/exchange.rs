//! One question to one upstream server.
//!
//! Each has a socket of its own, so that its port is as hard to guess as its number: who forges an
//! answer has to hit both, and a connected socket hears the server alone.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use logic::dns::{Packet, Question};
use tokio::net::{TcpStream, UdpSocket};

use super::stream::{read_message, write_message};

/// Larger than any answer that was asked for.
const BUFFER_BYTES: usize = 4_096;

/// Asks over UDP and waits for the answer.
///
/// # Errors
/// The server cannot be reached, or does not answer in time.
///
/// # Cancel safety
/// A dropped question is forgotten.
pub async fn ask(server: SocketAddr, question: &Question, within: Duration) -> io::Result<Packet> {
    let id = random_id()?;
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&question.write(id)).await?;
    let answered = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // Whatever is no answer to this question may be forged: the true one may still come.
            if let Some(packet) = Packet::read(&buffer[..length], id, question) {
                return Ok(packet);
            }
        }
    };
    tokio::time::timeout(within, answered).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Asks over TCP, for answers that are larger than a datagram.
///
/// # Errors
/// As [`ask`], or the answer is malformed.
///
/// # Cancel safety
/// A dropped question is forgotten.
pub async fn ask_over_tcp(
    server: SocketAddr,
    question: &Question,
    within: Duration,
) -> io::Result<Packet> {
    let id = random_id()?;
    let answered = async {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, &question.write(id)).await?;
        let message = read_message(&mut stream, u16::MAX.into())
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        Packet::read(&message, id, question).ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    tokio::time::timeout(within, answered).await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u16::from_be_bytes(bytes))
}
