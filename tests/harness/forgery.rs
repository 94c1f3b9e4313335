//! Forged announcements of leaders, and garbage, for whoever listens to mDNS.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use kumquat::io::net;
use model::leader::{CaFingerprint, LeaderRecord, SignedRecord};
use model::masters::MemberId;
use model::member::{MemberRecord, SignedMember};

use crate::switch::Switch;

/// Where mDNS is spoken.
pub const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);
/// Packets of an attack between two short pauses.
const SENT_AT_ONCE: usize = 50;

/// A record of a leader that has this signature.
pub fn record(name: &str, term: u64, signature: &[u8]) -> SignedRecord {
    let record = LeaderRecord {
        cluster: "kumquat".into(),
        epoch: 1,
        term,
        name: name.into(),
        addresses: vec![Ipv4Addr::new(198, 19, 0, 1)],
        api_port: 6443,
        mqtt_port: 8883,
        peer_port: 7443,
        ca: [7; 16],
    };
    SignedRecord::sign(record, |_| signature.to_vec()).expect("valid")
}

/// Sends from the switch; gives how many were sent.
pub fn send_all(packets: impl Iterator<Item = Vec<u8>> + Send, switch: &Switch) -> usize {
    send_all_from(Ipv4Addr::new(198, 19, 0, 254), packets, switch)
}

/// The same from another address of the switch.
pub fn send_all_from(
    own: Ipv4Addr,
    packets: impl Iterator<Item = Vec<u8>> + Send,
    switch: &Switch,
) -> usize {
    let sent = net::inside(switch.namespace(), || {
        let socket = UdpSocket::bind((own, GROUP.port()))?;
        socket.set_multicast_ttl_v4(255)?;
        send_multicast_from(&socket, own)?;
        // Slowly enough that the kernel drops none for want of room.
        let sent = packets.enumerate().filter(|(number, packet)| {
            if number % SENT_AT_ONCE == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            socket.send_to(packet, GROUP).is_ok()
        });
        Ok(sent.count())
    });
    sent.expect("namespace of the switch")
}

/// Without a route, multicast needs to be told its interface (IP_MULTICAST_IF of ip(7)).
pub fn send_multicast_from(socket: &UdpSocket, address: Ipv4Addr) -> std::io::Result<()> {
    use nix::libc;
    use std::os::fd::AsRawFd;
    let address = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
    // SAFETY: the pointer and the length are those of a live `in_addr`, which the kernel copies.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            (&raw const address).cast(),
            u32::try_from(size_of::<libc::in_addr>()).expect("four bytes"),
        )
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A response that announces a leader of that name, for longer than a day (RFC 1035 section 4).
pub fn forgery(name: &str) -> Vec<u8> {
    announcement(name, &record(name, u64::MAX, b"forged"))
}

/// The same of any record.
pub fn announcement(name: &str, forged: &SignedRecord) -> Vec<u8> {
    announced(name, &forged.pairs(), Ipv4Addr::new(198, 19, 0, 254))
}

/// A response that announces a member of a cluster at an address where it is not, in the member's own name.
pub fn member_announcement(ca: CaFingerprint, member: u64, at: Ipv4Addr) -> Vec<u8> {
    let record =
        MemberRecord { member: MemberId(member), addresses: vec![at], peer_port: 7443, ca };
    let forged = SignedMember::sign(record, |_| b"forged".to_vec()).expect("well formed");
    let authority: String = ca[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    announced(&format!("member-{member}-{authority}"), &forged.pairs(), at)
}

fn announced(name: &str, pairs: &[(&str, String)], at: Ipv4Addr) -> Vec<u8> {
    const TTL: u32 = 100_000;
    const SERVICE: &str = "_kumquat._tcp.local";
    let (instance, host) = (format!("{name}.{SERVICE}"), format!("{name}.local"));
    // One answer (PTR), three additional records (SRV, TXT, A).
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 3];
    let mut add = |name: &str, kind: u8, data: &[u8]| {
        packet.extend(dns_name(name));
        packet.extend([0, kind, 0, 1]);
        packet.extend(TTL.to_be_bytes());
        packet.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
        packet.extend(data);
    };
    add(SERVICE, 12, &dns_name(&instance));
    add(&instance, 33, &[&[0, 0, 0, 0, 0x1d, 0x13], &dns_name(&host)[..]].concat());
    let mut txt = Vec::new();
    for (key, value) in pairs {
        txt.push(u8::try_from(key.len() + 1 + value.len()).expect("short"));
        txt.extend(format!("{key}={value}").bytes());
    }
    add(&instance, 16, &txt);
    add(&host, 1, &at.octets());
    packet
}

/// A name as DNS has it.
pub fn dns_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("short"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

/// Random bytes, cut and damaged responses, names that point at themselves.
pub fn garbage(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut roll = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
    };
    let mut packet = match roll() % 3 {
        0 => return (0..roll() % 600).map(|_| roll() as u8).collect(),
        1 => vec![
            0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0,
            12,
        ],
        _ => forgery("damaged"),
    };
    for _ in 0..roll() % 8 {
        let at = roll() as usize % packet.len();
        packet[at] = roll() as u8;
    }
    packet.truncate(packet.len() - roll() as usize % (packet.len() / 2));
    packet
}
