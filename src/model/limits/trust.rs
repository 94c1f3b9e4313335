//! Bounds of how boards come to trust each other: founding, waiting to be let in, being thrown out.

/// Boards that found a cluster together.
pub const GENESIS_EXPECT_MAX: u8 = 64;
/// Bytes of what boards say to each other before there is a cluster.
pub const GENESIS_BYTES_MAX: usize = 8 * 1024;
/// Seconds that a board which waits to be let in is remembered.
pub const PENDING_SECONDS_MAX: u64 = 600;
/// Boards of one address that wait to be let in.
pub const PENDING_PER_ADDRESS_MAX: usize = 8;
/// Names of boards whose last key is remembered; those of Nodes that are gone are forgotten beyond it.
pub const NODE_KEYS_MAX: usize = 2 * super::PEER_BOARDS_MAX;
/// Boards that a bootstrap token lets in once its cluster is founded.
pub const BOOTSTRAP_USES: u32 = 64;
/// Seconds that a bootstrap token is good for once its cluster is founded.
pub const BOOTSTRAP_TTL_SECONDS: u64 = 86_400;
