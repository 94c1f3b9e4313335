//! Frames of the tunnel between boards, made by hand: as somebody sends them who wants into the pods'
//! network.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use kumquat::io::net::Links;

use crate::board::Board;
use crate::inside::Inside;

const TUNNEL: &str = "kq-vxlan";
const TUNNEL_PORT: u16 = 8_472;
const TUNNEL_NUMBER: u8 = 1;
const PAYLOAD: &[u8] = b"let me in";

/// Sends a board a frame, in it a packet from `source` to a pod of the board; whether the pod gets it.
pub(crate) fn gets_in(
    from: &Inside,
    board: &Board,
    source: Ipv4Addr,
    (address, pod): (Ipv4Addr, &Inside),
    within: Duration,
) -> io::Result<bool> {
    let link = Inside::host(board).run(|| Links::open()?.find(TUNNEL))?;
    let mac = link.ok_or_else(|| io::Error::new(ErrorKind::NotFound, TUNNEL))?.mac;
    let listener = pod.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    listener.set_read_timeout(Some(within))?;
    let frame = frame(mac, source, address, listener.local_addr()?.port());
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(&frame, (board.address(), TUNNEL_PORT))
    })?;
    let mut buffer = [0; 64];
    match listener.recv_from(&mut buffer) {
        Ok((count, seen)) => Ok(&buffer[..count] == PAYLOAD && seen.ip() == source),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// VXLAN, Ethernet, IPv4, UDP (RFC 7348, 791, 768).
fn frame(mac: [u8; 6], source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Vec<u8> {
    let bytes = |count: usize| u16::try_from(count).expect("a short packet").to_be_bytes();
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0].to_vec();
    ip[2..4].copy_from_slice(&bytes(28 + PAYLOAD.len()));
    ip.extend(source.octets());
    ip.extend(destination.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let [.., high, low] = (!(sum % 0xffff)).to_be_bytes();
    ip[10..12].copy_from_slice(&[high, low]);
    let mut frame = [8, 0, 0, 0, 0, 0, TUNNEL_NUMBER, 0].to_vec();
    frame.extend(mac);
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(ip);
    for part in [port, port] {
        frame.extend(part.to_be_bytes());
    }
    frame.extend(bytes(8 + PAYLOAD.len()));
    // No checksum.
    frame.extend([0; 2]);
    frame.extend(PAYLOAD);
    frame
}
