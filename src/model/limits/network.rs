//! Bounds of what a board keeps of the network: service traffic, names, pods.

// Service traffic of a board.

/// Targets of one port of a service that connections are led to; further ones get none (the bound of
/// an Endpoints object).
pub const SERVICE_ENDPOINTS_MAX: usize = 1000;
/// Longest time that a client stays with its endpoint (kube-apiserver's own limit).
pub const SERVICE_AFFINITY_SECONDS_MAX: u32 = 86_400;
/// Clients of services with affinity that a board remembers; others are led by chance.
pub const SERVICE_AFFINITY_CLIENTS_MAX: u32 = 65_536;
/// Places of a board's block whose pods may talk to themselves through a service.
pub const HAIRPIN_PODS_MAX: u32 = 1024;
/// Longest readable part of a name in the packet filter (the kernel takes 255 bytes).
pub const NFT_NAME_BYTES_MAX: usize = 200;
/// Elements in one message to the packet filter: the list must stay below 64 KiB.
pub const NFT_ELEMENTS_PER_MESSAGE_MAX: usize = 700;
/// Bytes of one change of the packet filter.
pub const NFT_BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one part of what the kernel answers about packet filter and connections.
pub const NFT_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Seconds that the kernel may take for a change.
pub const NFT_ANSWER_SECONDS_MAX: i64 = 30;
/// Remembered connections that are forgotten in one go after an endpoint went.
pub const CONNTRACK_FORGET_MAX: usize = 65_536;
/// Ports on which a board says whether it has endpoints of a load balancer.
pub const HEALTH_CHECK_PORTS_MAX: usize = 256;
/// Connections to all of them together.
pub const HEALTH_CHECK_CONNECTIONS_MAX: usize = 64;
/// Seconds that such a connection may last.
pub const HEALTH_CHECK_SECONDS_MAX: u64 = 5;

// DNS.

/// Bytes of upstream answers that a board keeps.
pub const DNS_CACHE_BYTES_MAX: usize = 512 * 1024;
/// Upstream answers that a board keeps.
pub const DNS_CACHE_ENTRIES_MAX: usize = 2_048;
/// Seconds that an answer stays of use beyond its time while no upstream server answers (RFC 8767
/// names one to three days).
pub const DNS_STALE_SECONDS_MAX: u64 = 86_400;
/// Aliases followed for one question.
pub const DNS_ALIASES_MAX: usize = 8;
/// Upstream servers that are known of.
pub const DNS_UPSTREAMS_MAX: usize = 8;
/// Questions that upstream servers are being asked; further ones fail.
pub const DNS_QUESTIONS_MAX: usize = 256;
/// Clients that wait for the answer to one of them; further ones are not answered.
pub const DNS_WAITERS_MAX: usize = 64;
/// Clients connected over TCP; one more ends the oldest.
pub const DNS_CONNECTIONS_MAX: usize = 64;
/// Seconds that a client over TCP may be silent.
pub const DNS_IDLE_SECONDS_MAX: u64 = 10;
/// Bytes of queries that wait in the socket while nobody reads it: about a thousand.
pub const DNS_SOCKET_BYTES: usize = 1024 * 1024;
/// Servers that a pod's resolv.conf may name (resolv.conf(5)).
pub const DNS_SERVERS_MAX: usize = 3;
/// Search domains of a pod (kubelet's own limit).
pub const DNS_SEARCHES_MAX: usize = 32;
/// Bytes of a pod's search line (kubelet's own limit).
pub const DNS_SEARCHES_BYTES_MAX: usize = 2_048;
/// Sets of descriptors that the keeper keeps for an agent that restarts.
pub const KEPT_SETS_MAX: usize = 8;
/// Descriptors of one of them.
pub const KEPT_DESCRIPTORS_MAX: usize = 3;
/// Bytes of the name of one of them.
pub const KEPT_NAME_BYTES_MAX: usize = 32;

// Pod network.

/// Pods without an address that a policy names, so that they are isolated as soon as they have one;
/// others are a moment later, when the cluster knows their address.
pub const NET_POLICY_STARTING_MAX: usize = 256;
/// Network namespaces that are made before a pod needs them; each costs the kernel some memory.
pub const PREPARED_NAMESPACES_MAX: usize = 3;
/// Addresses that pods gave back and that rest; the one that rests longest is then as good as any.
pub const ADDRESSES_RESTING_MAX: usize = 64;
/// Boards that are asked for an echo in one round; with more of them it is not every board's turn.
pub const ECHO_BOARDS_MAX: usize = 64;
/// Names of boards that a condition lists.
pub const CONDITION_BOARDS_MAX: usize = 10;
