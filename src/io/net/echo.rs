//! Asks other boards for an echo on the pod network (ICMP, RFC 792), which their kernels answer.
//!
//! The question bears this board's own pod address, so that the answer comes back over the pod network
//! too. Needs no process at the other end, and costs one small packet each way.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, recvfrom, sendto,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// What the question carries, so that a foreign answer is not taken for ours.
const PAYLOAD: [u8; 8] = *b"kumquat?";
/// Bytes of an ICMP header.
const HEADER_BYTES: usize = 8;

/// A socket that asks from one address.
#[derive(Debug)]
pub struct Echo {
    socket: AsyncFd<OwnedFd>,
    identifier: u16,
    sequence: u16,
}

impl Echo {
    /// Asks from `source`, an address of this board.
    ///
    /// # Errors
    /// This board does not have `source`, or may not make such a socket (CAP_NET_RAW).
    pub fn open(source: Ipv4Addr) -> io::Result<Self> {
        let socket = raw_icmp_socket()?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        // SAFETY: the descriptor must stay open as long as the AsyncFd: an OwnedFd inside of it always
        // names the same one and is closed with it.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let identifier = (std::process::id() & 0xffff) as u16;
        Ok(Self { socket, identifier, sequence: 0 })
    }

    /// Asks each board once and gives those that answer in time.
    ///
    /// # Errors
    /// The socket broke.
    ///
    /// # Cancel safety
    /// Answers to questions whose future was dropped are not taken for answers to later ones.
    pub async fn ask(
        &mut self,
        boards: &BTreeSet<Ipv4Addr>,
        within: Duration,
    ) -> io::Result<BTreeSet<Ipv4Addr>> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = message(self.identifier, self.sequence);
        for board in boards {
            let to = SockaddrIn::from(SocketAddrV4::new(*board, 0));
            // A board that cannot be sent to does not answer; nothing more is to be said of it.
            let _lost = sendto(self.socket.as_raw_fd(), &question, &to, MsgFlags::MSG_DONTWAIT);
        }
        let mut answered = BTreeSet::new();
        let deadline = Instant::now() + within;
        while answered.len() < boards.len() {
            let Ok(ready) = tokio::time::timeout_at(deadline, self.socket.readable()).await else {
                break;
            };
            let mut ready = ready?;
            match self.receive() {
                Ok(Some(from)) if boards.contains(&from) => drop(answered.insert(from)),
                Ok(_) => {}
                Err(nix::Error::EAGAIN) => ready.clear_ready(),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(answered)
    }

    /// Who answered the present question, if the next packet is an answer.
    fn receive(&self) -> nix::Result<Option<Ipv4Addr>> {
        let mut buffer = [0; 128];
        let (length, from) = recvfrom::<SockaddrIn>(self.socket.as_raw_fd(), &mut buffer)?;
        let answer = parse(&buffer[..length]);
        let ours = answer == Some((self.identifier, self.sequence));
        Ok(from.filter(|_| ours).map(|from| from.ip()))
    }
}

fn raw_icmp_socket() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let kind = SockType::Raw as i32;
    let flags = (SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK).bits();
    // SAFETY: socket(2) takes three integers and touches no memory of ours.
    let descriptor =
        unsafe { libc::socket(AddressFamily::Inet as i32, kind | flags, libc::IPPROTO_ICMP) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn message(identifier: u16, sequence: u16) -> Vec<u8> {
    let mut bytes = vec![ECHO_REQUEST, 0, 0, 0];
    bytes.extend(identifier.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(PAYLOAD);
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The ones' complement of the ones' complement sum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let [high, low] = [pair[0], pair.get(1).copied().unwrap_or(0)];
        u32::from(u16::from_be_bytes([high, low]))
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// Identifier and sequence of an answer to a question of ours, from a packet with its IP header.
fn parse(packet: &[u8]) -> Option<(u16, u16)> {
    let header_bytes = usize::from(packet.first()? & 0xf) * 4;
    let icmp = packet.get(header_bytes..)?;
    let head = icmp.first_chunk::<HEADER_BYTES>()?;
    let ours = head[0] == ECHO_REPLY && icmp[HEADER_BYTES..].starts_with(&PAYLOAD);
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    ours.then(|| (word(4), word(6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_message_with_its_checksum_is_zero() {
        for sequence in [0, 1, 0xffff] {
            assert_eq!(checksum(&message(0x1234, sequence)), 0);
        }
        assert_eq!(checksum(&[0x12]), !0x1200);
    }

    #[test]
    fn only_answers_to_our_questions_count() {
        let mut packet = vec![0x45; 20];
        packet.extend(message(7, 9));
        assert_eq!(parse(&packet), None, "a question");
        packet[20] = ECHO_REPLY;
        assert_eq!(parse(&packet), Some((7, 9)));
        packet[30] = b'x';
        assert_eq!(parse(&packet), None, "somebody else's ping");
        for short in 0..packet.len() {
            assert_eq!(parse(&packet[..short]), None);
        }
    }

    #[tokio::test]
    async fn this_board_answers_itself() {
        let own = Ipv4Addr::LOCALHOST;
        let Ok(mut echo) = Echo::open(own) else {
            println!("not run: needs CAP_NET_RAW");
            return;
        };
        // Nobody answers in 192.0.2.0/24 (RFC 5737); the own question comes in too and is no answer.
        let boards = BTreeSet::from([own, Ipv4Addr::new(192, 0, 2, 7)]);
        for _ in 0..2 {
            let answered = echo.ask(&boards, Duration::from_millis(300)).await.expect("asked");
            assert_eq!(answered, BTreeSet::from([own]));
        }
    }
}
