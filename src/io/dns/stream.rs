//! Messages over TCP: each after its length (RFC 1035 section 4.2.2).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Reads a message of at most `bytes_max`; `None` at the end of the stream.
///
/// # Errors
/// The connection broke, ended in the middle of a message, or the message is too large.
pub async fn read_message(stream: &mut TcpStream, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes a message.
///
/// # Errors
/// The connection broke, or the message is larger than any may be.
pub async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // One write, so that it is one segment.
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend(length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
