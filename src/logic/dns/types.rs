//! Numbers of the protocol: record types (RFC 1035 section 3.2.2 and later ones) and sizes.

/// IPv4 address.
pub const A: u16 = 1;
/// Name server.
pub const NS: u16 = 2;
/// Alias.
pub const CNAME: u16 = 5;
/// Start of authority.
pub const SOA: u16 = 6;
/// Pointer from an address to a name.
pub const PTR: u16 = 12;
/// Text.
pub const TXT: u16 = 16;
/// IPv6 address.
pub const AAAA: u16 = 28;
/// Service with port (RFC 2782).
pub const SRV: u16 = 33;
/// EDNS (RFC 6891).
pub const OPT: u16 = 41;
/// Everything; answered with what matters (RFC 8482).
pub const ANY: u16 = 255;
/// The Internet.
pub const CLASS_IN: u16 = 1;

/// Largest UDP answer to a client without EDNS.
pub const UDP_BYTES_MAX: u16 = 512;
/// Largest UDP message that is sent or asked for: it is not cut into fragments on any usual path
/// (DNS flag day 2020).
pub const EDNS_PAYLOAD_BYTES_MAX: u16 = 1232;
/// Largest message over TCP.
pub const TCP_BYTES_MAX: u16 = u16::MAX;
