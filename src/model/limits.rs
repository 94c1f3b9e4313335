//! Every bound of the system in one place, with the relations between them proven at compile time.
//!
//! A name ends in its unit and `_MAX`/`_MIN`. Every queue, buffer and body is bounded by one of these.

/// Largest request body that the API accepts (kube-apiserver's own limit).
pub const REQUEST_BODY_BYTES_MAX: usize = 3_145_728;
/// Largest object as stored (etcd's default request limit is 1.5 MiB; ours leaves room for the record).
pub const OBJECT_BYTES_MAX: usize = 1_572_864;
/// Largest payload of one bus message; larger objects travel by digest over the tunnel.
pub const BUS_PAYLOAD_BYTES_MAX: usize = 128 * 1024;
/// Longest object name (RFC 1123 subdomain).
pub const NAME_BYTES_MAX: usize = 253;
/// Longest namespace name (RFC 1123 label).
pub const NAMESPACE_BYTES_MAX: usize = 63;
/// Longest `group/plural` prefix of a store key.
pub const RESOURCE_PREFIX_BYTES_MAX: usize = 128;
/// LMDB's largest key.
pub const STORE_KEY_BYTES_MAX: usize = 511;
/// Messages that wait on the link between master and board before the sender waits.
pub const LINK_FRAMES_MAX: usize = 256;

const _: () = assert!(
    RESOURCE_PREFIX_BYTES_MAX + NAMESPACE_BYTES_MAX + NAME_BYTES_MAX + 2 <= STORE_KEY_BYTES_MAX
);
const _: () = assert!(OBJECT_BYTES_MAX <= REQUEST_BODY_BYTES_MAX);

/// Connections on the control socket at once; more wait.
pub const CONTROL_CONNECTIONS_MAX: usize = 32;
/// Seconds that a client of the control socket may take for its request's head.
pub const CONTROL_HEADER_SECONDS_MAX: u64 = 10;
/// Largest answer that a control client reads into memory.
pub const CONTROL_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
