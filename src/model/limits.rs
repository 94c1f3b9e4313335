//! Every bound of the system in one place, with the relations between them proven at compile time.
//!
//! A name ends in its unit and `_MAX`/`_MIN`. Every queue, buffer and body is bounded by one of these.

mod access;
mod backup;
mod masters;
mod network;
mod trust;

pub use access::*;
pub use backup::*;
pub use masters::*;
pub use network::*;
pub use trust::*;

/// Largest request body that the API accepts (kube-apiserver's own limit).
pub const REQUEST_BODY_BYTES_MAX: usize = 3_145_728;
/// Largest object as stored (etcd's default request limit is 1.5 MiB; ours leaves room for the record).
pub const OBJECT_BYTES_MAX: usize = 1_572_864;
/// Largest payload of one bus message; larger messages travel in parts.
pub const BUS_PAYLOAD_BYTES_MAX: usize = 128 * 1024;
/// Largest packet of the bus: a payload with its topic.
pub const BUS_PACKET_BYTES_MAX: usize = BUS_PAYLOAD_BYTES_MAX + 1024;
/// Boards that are connected to the bus of one master; further ones are refused.
pub const BUS_CONNECTIONS_MAX: usize = 4096;
/// TLS handshakes of the bus under way; one more ends the oldest, so that silent strangers keep
/// nobody out.
pub const BUS_HANDSHAKES_MAX: usize = 256;
/// Seconds that a TLS handshake of the bus may take.
pub const BUS_HANDSHAKE_SECONDS_MAX: u64 = 10;
/// Longest keep-alive of a board: one and a half times that and it counts as gone.
pub const BUS_KEEP_ALIVE_SECONDS_MAX: u16 = 30;
/// Seconds that a board tries one address of its leader.
pub const BUS_CONNECT_SECONDS_MAX: u64 = 5;
/// Requests of a board that wait for its MQTT client.
pub const BUS_REQUESTS_MAX: usize = 8;
/// Messages of all boards that wait for the master's routing; then publishers wait.
pub const BUS_ROUTED_MAX: usize = 256;
/// Messages of one board that wait for its session; further ones are dropped.
pub const BUS_UP_FRAMES_MAX: usize = 32;
/// Bytes of messages kept to be fetched, all boards together; beyond, the oldest is forgotten. The
/// newest is always kept.
pub const BUS_KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Seconds that a message is kept to be fetched: a board that has not begun by then asks again.
pub const BUS_KEPT_SECONDS_MAX: u64 = 60;
/// Seconds that a board waits for what it fetches, and what is added for its size.
pub const BUS_FETCH_SECONDS_MIN: u64 = 20;
/// Slowest fetch that is waited for.
pub const BUS_FETCH_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;
/// Changes of the network that are remembered for boards that missed some.
pub const NET_CHANGES_MAX: usize = 64;
/// Their bytes together; whoever missed more gets everything.
pub const NET_CHANGES_BYTES_MAX: usize = 256 * 1024;
/// Changes of the network that a board keeps because it lacks one before them.
pub const NET_AHEAD_MAX: usize = 64;
/// Large messages about the network that are kept for all boards to fetch.
pub const NET_KEPT_MAX: usize = 4;
/// Largest message, all parts together: a board's whole desired set.
pub const WIRE_MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Largest message of a board, all parts together: what one board may make its master hold.
pub const UP_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
const _: () = assert!(UP_MESSAGE_BYTES_MAX > 8 * OBJECT_BYTES_MAX);
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
/// Pods that one plan creates or deletes; the rest follows in the next one (upstream's burst).
pub const PLAN_PODS_MAX: usize = 500;
/// Operations of one plan.
pub const PLAN_OPS_MAX: usize = 2 * PLAN_PODS_MAX + 24;
/// Endpoints of one EndpointSlice that our controllers write (upstream's default).
pub const SLICE_ENDPOINTS_MAX: usize = 100;
/// Slices that one plan writes; the rest follows in the next one.
pub const PLAN_SLICES_MAX: usize = 64;
const _: () = assert!(PLAN_SLICES_MAX <= PLAN_OPS_MAX);
/// Addresses of an Endpoints object that our controller writes (upstream's bound).
pub const ENDPOINTS_ADDRESSES_MAX: usize = 1_000;
/// Addresses of one subset that are mirrored to slices (upstream's bound).
pub const MIRRORED_ADDRESSES_MAX: usize = 1_000;
/// Addresses that the status of a LoadBalancer Service names.
pub const BALANCER_ADDRESSES_MAX: usize = 512;
/// Prefix of the block of addresses that a board has for its pods: a board runs up to 110 pods.
pub const NODE_BLOCK_PREFIX: u8 = 25;
/// Keys that wait for their controller; beyond it a full pass replaces the keys.
pub const QUEUE_KEYS_MAX: usize = 65_536;
/// Keys that are planned for one commit.
pub const BATCH_KEYS_MAX: usize = 64;
/// Objects that are looked at again in one go after keys had to be dropped.
pub const RESYNC_KEYS_MAX: usize = QUEUE_KEYS_MAX / 8;
/// First wait of a key whose plan could not be committed.
pub const BACKOFF_MILLIS_MIN: i64 = 5;
/// Longest wait of a key whose plan could not be committed.
pub const BACKOFF_MILLIS_MAX: i64 = 30_000;
/// Deepest nesting of a JSON body (serde_json reads no deeper than 128, and objects are re-read).
pub const JSON_DEPTH_MAX: usize = 100;
/// Values in a JSON body: a list of a million zeros would need 10 times its size in memory.
pub const JSON_VALUES_MAX: usize = 262_144;
/// Unknown and duplicate fields reported for one body.
pub const FIELD_ISSUES_MAX: usize = 100;
/// Operations in one JSON patch (kube-apiserver's own limit).
pub const JSON_PATCH_OPS_MAX: usize = 10_000;
/// Bytes that the `copy` operations of one JSON patch add (kube-apiserver's own limit).
pub const JSON_PATCH_COPY_BYTES_MAX: usize = REQUEST_BODY_BYTES_MAX;
/// Open files that a board asks the kernel for; the usual soft limit of 1024 is for programs that
/// use select(2).
pub const OPEN_FILES_MAX: u64 = 65_536;
/// Open files of a container, unless its process raises them: the kernel's own soft limit.
pub const CONTAINER_OPEN_FILES: u64 = 1024;
/// Connections to the API at a time whose certificate is known; further ones wait among the others.
pub const API_CLIENTS_MAX: usize = 320;
/// The other connections to it: the handshake is under way, there is no certificate (probes, tokens),
/// or none of ours. A newcomer displaces the oldest of the greediest address.
pub const API_STRANGERS_MAX: usize = 192;
/// Far below the least number of files that a process may open: strangers must not take what the
/// store needs.
const _: () = assert!((API_CLIENTS_MAX + API_STRANGERS_MAX) as u64 * 2 <= CONTAINER_OPEN_FILES);
/// Connections to a port of a master that wait to be accepted (the kernel's own limit may be less).
pub const LISTEN_BACKLOG: u32 = 4096;
/// Requests of one HTTP/2 connection at a time (kube-apiserver's own limit).
pub const API_STREAMS_PER_CONNECTION_MAX: u32 = 100;
/// Requests in work at a time, answers under way not counted (kube-apiserver: 400 and 200).
pub const API_REQUESTS_MAX: usize = 400;
/// Seconds that a request may be in work (kube-apiserver: 60).
pub const API_REQUEST_SECONDS_MAX: u64 = 60;
/// Seconds that a TLS handshake may take.
pub const API_HANDSHAKE_SECONDS_MAX: u64 = 10;
/// Seconds that the head of a request may take (kube-apiserver: 32).
pub const API_HEAD_SECONDS_MAX: u64 = 32;
/// Seconds after which a connection without requests is closed (kube-apiserver: 90).
pub const API_IDLE_SECONDS_MAX: u64 = 90;
/// The same for peers without a certificate that is known.
pub const API_STRANGER_IDLE_SECONDS_MAX: u64 = 15;
/// Seconds that a stopping API waits for requests under way.
pub const API_STOP_SECONDS_MAX: u64 = 5;
/// Connections of boards to a master's peer port at a time; the oldest of a board with most of them gives way.
pub const PEER_BOARDS_MAX: usize = 4096;
/// Connections of one board to it at a time; the newest displaces the oldest, so that what lingers
/// after a cut keeps no board out. A board needs one, and a second for moments.
pub const PEER_BOARD_CONNECTIONS_MAX: usize = 4;
/// Connections to it at a time of which it is not known whose they are: the handshake is under way, or
/// there is no certificate, or its board is not admitted. A newcomer displaces the oldest of the greediest address.
pub const PEER_STRANGERS_MAX: usize = 256;
const _: () = assert!((PEER_BOARDS_MAX + PEER_STRANGERS_MAX) as u64 * 2 < OPEN_FILES_MAX);
/// Seconds that a TLS handshake between boards may take.
pub const PEER_HANDSHAKE_SECONDS_MAX: u64 = 10;
/// Seconds that a connection without a certificate may last: long enough to join.
pub const PEER_STRANGER_SECONDS_MAX: u64 = 20;
/// Seconds that a stopping peer port waits for requests under way.
pub const PEER_STOP_SECONDS_MAX: u64 = 2;
/// Requests of one board under way at a time (its tunnel's streams among them).
pub const PEER_STREAMS_MAX: u32 = 384;
/// Bytes of one stream between boards that may be on the way.
pub const PEER_WINDOW_BYTES: u32 = 64 * 1024;
/// Bytes of all streams of one connection between boards that may be on the way: readers that have
/// stopped must not hold up the others.
pub const PEER_CONNECTION_WINDOW_BYTES: u32 = PEER_WINDOW_BYTES * PEER_STREAMS_MAX;
const _: () = assert!(TUNNEL_STREAMS_MAX + 64 <= PEER_STREAMS_MAX as usize);
/// Bytes of one chunk of a stream between boards.
pub const PEER_CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of the head of a request of a stranger.
pub const PEER_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the head of a request of a board: an API client's, and what masters add to it.
pub const PEER_API_HEAD_BYTES_MAX: usize = API_HEAD_BYTES_MAX + 2 * API_CALL_BYTES_MAX;
/// Bytes of a board's request to join.
pub const JOIN_BYTES_MAX: usize = 8 * 1024;
/// Bytes of the answer to it.
pub const JOIN_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Seconds that a board's request to join may take to arrive.
pub const JOIN_SECONDS_MAX: u64 = 5;
/// Tokens that are neither expired nor revoked.
pub const TOKENS_MAX: usize = 256;
/// Boards that one token admits.
pub const TOKEN_USES_MAX: u32 = 1000;
/// Bytes of a refusal's text.
pub const PEER_REFUSAL_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a request's head.
pub const API_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of request bodies held at a time, all clients together; further ones wait.
pub const API_BODIES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of objects that all LIST answers under way hold together; further ones wait. Also the
/// largest list that is answered in one page.
pub const API_LISTS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of objects that a watch holds of those that exist when it starts; the rest is read when
/// the client has taken these.
pub const WATCH_EXISTING_BYTES: usize = 256 * 1024;
/// Bytes of one chunk of a streamed answer.
pub const API_CHUNK_BYTES: usize = 16 * 1024;
/// Chunks of a container's log that wait for a slow client before the board waits.
pub const API_LOG_CHUNKS_MAX: usize = 8;

const _: () = assert!(BACKOFF_MILLIS_MIN > 0 && BACKOFF_MILLIS_MIN < BACKOFF_MILLIS_MAX);
const _: () = assert!(PLAN_OPS_MAX > 2 * PLAN_PODS_MAX);
/// Bytes after which the store's log starts a new segment file.
pub const STORE_SEGMENT_BYTES: usize = 1024 * 1024;
/// A segment file grows by zero-filled steps of this size, so that most syncs change no metadata.
pub const STORE_SEGMENT_STEP_BYTES: usize = 256 * 1024;
/// Log bytes at which the store writes a snapshot and removes the older half of the log.
pub const STORE_LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Largest log entry: one object with its previous bytes, or one plan of a controller.
pub const STORE_ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most operations in one log entry; far below the 2^20 ordinals of a version.
pub const STORE_ENTRY_OPS_MAX: usize = 4096;
/// Bytes after which a group of entries is synced without waiting for more.
pub const STORE_GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of proposals that wait for the store; more wait at the proposer.
pub const STORE_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Least share of the queue that a proposal takes: bounds their number.
pub const STORE_PROPOSAL_BYTES_MIN: usize = 16 * 1024;
/// Applied bytes in memory at which the state is flushed to LMDB.
pub const STORE_OVERLAY_FLUSH_BYTES: usize = 1024 * 1024;
/// Applied bytes in memory at which writes are refused because LMDB cannot be flushed.
pub const STORE_OVERLAY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Seconds after the last write at which the state is flushed to LMDB.
pub const STORE_FLUSH_IDLE_SECONDS: u64 = 5;
/// How long a proposal waits for a group of masters before it is answered without an outcome.
pub const STORE_WAIT_SECONDS_MAX: u64 = 2;
/// Recent changes kept in memory for watches; older ones are read back from the log.
pub const STORE_HISTORY_BYTES_MAX: usize = 1024 * 1024;
/// Objects kept of one memory-only kind (Events, Leases); the oldest is dropped.
pub const STORE_MEMORY_KIND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes that one LIST page copies out of the store; the rest follows in further pages.
pub const STORE_LIST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// LMDB map on 32-bit boards, which cannot spare more address space.
pub const STORE_MAP_BYTES_32: usize = 256 * 1024 * 1024;
/// LMDB map on 64-bit boards: address space only, the file grows as needed.
pub const STORE_MAP_BYTES_64: u64 = 8 * 1024 * 1024 * 1024;
/// Boards, and keys, of which a leader remembers what the objects say between two writes.
pub const MEMBER_VERDICTS_MAX: usize = 4096;
/// Pods of a board that leaves of which the eviction is asked at a time; the others follow a second later.
pub const LEAVE_EVICTIONS_MAX: usize = 32;
/// Added to the epoch base by a repair: more entries than any lost part of a log can have held.
pub const STORE_EPOCH_STRIDE: u64 = 1 << 28;

const _: () = assert!(
    RESOURCE_PREFIX_BYTES_MAX + NAMESPACE_BYTES_MAX + NAME_BYTES_MAX + 2 <= STORE_KEY_BYTES_MAX
);
const _: () = assert!(OBJECT_BYTES_MAX <= REQUEST_BODY_BYTES_MAX);
/// Connections on the control socket at once; more wait.
pub const CONTROL_CONNECTIONS_MAX: usize = 32;
/// Seconds that a client of the control socket may take for its request's head. Whoever waits behind
/// clients that take all places and say nothing gets its turn well before it gives up.
pub const CONTROL_HEADER_SECONDS_MAX: u64 = 3;
const _: () = assert!(CONTROL_HEADER_SECONDS_MAX * 3 < CONTROL_ANSWER_SECONDS_MAX);
/// Seconds without a byte after which the body of a control request counts as cut off.
pub const CONTROL_BODY_IDLE_SECONDS_MAX: u64 = 120;
/// Seconds that a control client waits for an answer that the board has at hand.
pub const CONTROL_ANSWER_SECONDS_MAX: u64 = 10;
/// Largest answer that a control client reads into memory.
pub const CONTROL_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest image manifest, index or configuration (the distribution spec asks registries for 4 MiB).
pub const IMAGE_DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most layers of an image: overlayfs takes 500, mount options of one page fewer.
pub const IMAGE_LAYERS_MAX: usize = 127;
/// Largest unpacked layer.
pub const IMAGE_LAYER_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Most entries of one layer.
pub const IMAGE_LAYER_ENTRIES_MAX: usize = 1_000_000;
/// Most files in an image archive.
pub const IMAGE_ARCHIVE_ENTRIES_MAX: usize = 10_000;
/// Largest image archive, decompressed.
pub const IMAGE_ARCHIVE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Most images that one archive may hold.
pub const IMAGE_ARCHIVE_IMAGES_MAX: usize = 256;
/// Largest extended header (long names, extended attributes) of one tar entry.
pub const TAR_EXTENSION_BYTES_MAX: u64 = 1024 * 1024;
/// Symbolic links followed in one path (the kernel's own limit).
pub const SYMLINKS_MAX: usize = 40;
/// Longest image name.
pub const IMAGE_NAME_BYTES_MAX: usize = 255;
// Keeper and containers.

/// Longest id of a container or sandbox (a file name, and a component of a cgroup path).
pub const CONTAINER_ID_BYTES_MAX: usize = 128;
/// Containers that one keeper looks after; a start beyond is refused.
pub const CONTAINERS_MAX: usize = 512;
/// Clients that talk to the keeper at once; further ones wait in the socket's backlog.
pub const KEEPER_CONNECTIONS_MAX: usize = 64;
/// Largest request that the holder reads itself.
pub const KEEPER_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Largest message between agent and keeper (the OCI spec with its environment).
pub const KEEPER_FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Workers (starts, execs, removals) that the holder forks at once; further requests wait.
pub const KEEPER_WORKERS_MAX: usize = 32;
/// Output of one exec that is kept.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// A container's log is rotated at this size; one older file is kept.
pub const CONTAINER_LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// A line longer than this is written in parts (CRI's partial tag).
pub const LOG_LINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes that the log pump has in hand at once: the capacity of a pipe.
pub const LOG_CHUNK_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(LOG_LINE_BYTES_MAX <= LOG_CHUNK_BYTES_MAX);
const _: () = assert!(EXEC_OUTPUT_BYTES_MAX < KEEPER_FRAME_BYTES_MAX);
/// Longest label value, and name part of a label key (RFC 1123 label).
pub const LABEL_BYTES_MAX: usize = 63;
/// Largest sum of an object's annotation keys and values (kube-apiserver's own limit).
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
/// Largest sum of a Secret's or ConfigMap's data (kube-apiserver's own limit).
pub const CONFIG_DATA_BYTES_MAX: usize = 1024 * 1024;
/// Faults that one refusal lists; a real API server has no such bound.
pub const FAULTS_MAX: usize = 1024;
/// How long a pod stays bound to a board that is not ready or unreachable; kube-apiserver's default is
/// 300 s, too long for a cluster whose whole promise is a quick move.
pub const POD_TOLERATION_SECONDS: i64 = 25;
const _: () = assert!(JSON_DEPTH_MAX < 128);

/// The board's log of its desired set is rewritten when it is twice this or twice its last rewriting.
pub const DESIRED_LOG_BYTES_MIN: u64 = 64 * 1024;
/// Largest record of that log: a board's whole desired set.
pub const DESIRED_RECORD_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Answers of the pod driver that wait for the agent.
pub const NODE_ANSWERS_MAX: usize = 256;
/// Pod events that wait to be sent to the master; the oldest are dropped.
pub const NODE_EVENTS_MAX: usize = 256;
/// Pods that a board has had, of which the master still takes its events; the oldest is forgotten.
pub const PODS_GONE_MAX: usize = 256;
/// Happenings whose Event object the master finds again to count it up.
pub const EVENT_NAMES_MAX: usize = 1_024;
/// Images that a Node reports (kubelet's default).
pub const NODE_IMAGES_MAX: usize = 50;
/// Names of one of them (kubelet's bound).
pub const NODE_IMAGE_NAMES_MAX: usize = 5;
/// Pods in one status message.
pub const STATUS_PODS_MAX: usize = 64;
/// Log streams that one board serves at once.
pub const LOG_STREAMS_MAX: usize = 64;
/// Bytes of a termination message that a status carries (kubelet's bound).
pub const TERMINATION_MESSAGE_BYTES_MAX: u64 = 4_096;
/// Bytes of a probe's answer that are read (kubelet's bound).
pub const PROBE_ANSWER_BYTES_MAX: usize = 10 * 1024;
/// A probe follows so many redirects, as Go's client does.
pub const PROBE_REDIRECTS_MAX: usize = 10;
/// Largest `/etc/passwd` or `/etc/group` that is read from an image.
pub const IMAGE_USERS_BYTES_MAX: u64 = 1024 * 1024;
const _: () = assert!(STORE_ENTRY_BYTES_MAX >= 2 * OBJECT_BYTES_MAX + 64 * 1024);
const _: () = assert!(STORE_QUEUE_BYTES_MAX >= STORE_ENTRY_BYTES_MAX);
const _: () = assert!(STORE_ENTRY_OPS_MAX < 1 << 19);
const _: () = assert!(PLAN_OPS_MAX <= STORE_ENTRY_OPS_MAX);
const _: () = assert!(STORE_SEGMENT_BYTES.is_multiple_of(STORE_SEGMENT_STEP_BYTES));
const _: () = assert!(STORE_OVERLAY_BYTES_MAX > STORE_OVERLAY_FLUSH_BYTES + STORE_ENTRY_BYTES_MAX);
const _: () = assert!(REQUEST_BODY_BYTES_MAX * 2 <= API_BODIES_BYTES_MAX);

/// Pieces of a body on the control socket that wait between its two sides.
pub const CONTROL_PIECES_MAX: usize = 4;

/// From the end of a board's session to its being lost, unless it is back.
pub const CONTACT_GONE_MILLIS: u64 = 1_500;
/// From the last message of a board to the suspicion that it is lost; boards say something every 5 s.
pub const CONTACT_SILENCE_MILLIS: u64 = 9_000;
/// From the first look at a board that was never heard to its being lost.
pub const CONTACT_GRACE_MILLIS: u64 = 15_000;
/// From the suspicion to the judgement: messages that wait to be read still count.
pub const CONTACT_CONFIRM_MILLIS: u64 = 250;
/// A judgement that comes this much too late judges nobody: nobody was listened to.
pub const CONTACT_LATE_MILLIS: u64 = 2_000;
/// Boards that are remembered; those with a Node always are.
pub const CONTACT_BOARDS_MAX: usize = 8_192;
const _: () = assert!(CONTACT_GONE_MILLIS < CONTACT_SILENCE_MILLIS);
const _: () = assert!(CONTACT_SILENCE_MILLIS + CONTACT_CONFIRM_MILLIS < CONTACT_GRACE_MILLIS);
// Tunnel and images between boards.

/// Largest frame that asks a board for a stream.
pub const TUNNEL_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Frames that wait for a board to take them; further streams are refused.
pub const TUNNEL_FRAMES_MAX: usize = 64;
/// Streams of one board at a time, asked for or under way; further ones are refused.
pub const TUNNEL_STREAMS_MAX: usize = 256;
/// Seconds that a board may take to begin a stream that it was asked for.
pub const TUNNEL_BEGIN_SECONDS_MAX: u64 = 10;
/// Chunks of a stream that wait for a slow reader before the sender waits.
pub const TUNNEL_CHUNKS_MAX: usize = 4;
/// Bytes of one chunk of a blob.
pub const BLOB_CHUNK_BYTES: usize = 64 * 1024;
/// Seconds without a byte after which a blob that is fetched counts as cut off.
pub const BLOB_IDLE_SECONDS_MAX: u64 = 20;
/// Blobs that a master gives to boards at a time; further requests are told to come again.
pub const BLOB_RELAYS_MAX: usize = 64;
/// Blobs that one board sends at a time.
pub const BLOB_STREAMS_MAX: usize = 8;
/// Blobs that one board may be given at a time.
pub const BLOB_RELAYS_PER_BOARD_MAX: usize = 4;
/// Different images that a cluster may offer under one name (one per architecture, and old ones).
pub const IMAGE_OFFERS_MAX: usize = 8;
/// Images whose blobs the master remembers without having them.
pub const IMAGE_MANIFESTS_KNOWN_MAX: usize = 64;
/// Bytes of blobs that were begun and are not being fetched; the oldest are removed.
pub const IMAGE_PARTIAL_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes of a blob after which what there is of it is made durable.
pub const IMAGE_PARTIAL_SYNC_BYTES: u64 = 16 * 1024 * 1024;
/// Seconds after which a board asks again for an image that no board has had.
pub const IMAGE_ASK_AGAIN_SECONDS_MAX: u64 = 10;
const _: () = assert!(
    BLOB_STREAMS_MAX + LOG_STREAMS_MAX + EXEC_STREAMS_MAX + FORWARD_STREAMS_MAX
        <= TUNNEL_STREAMS_MAX
);
/// Bytes of one frame on a duplex stream between master and board.
pub const CHANNEL_FRAME_BYTES_MAX: usize = 16 * 1024;
/// Processes of exec and attach that one board serves at a time.
pub const EXEC_STREAMS_MAX: usize = 32;
/// Forwarded connections that one board serves at a time.
pub const FORWARD_STREAMS_MAX: usize = 128;
/// Clients of exec, attach and port-forward at a time; further ones are told to come again.
pub const API_UPGRADES_MAX: usize = 128;
/// Seconds that a client may take to open the streams of an exec, or the second of a connection's two.
pub const API_UPGRADE_BEGIN_SECONDS_MAX: u64 = 30;
/// Seconds of silence after which a client of such a stream is asked whether it is there.
pub const API_UPGRADE_PING_SECONDS: u64 = 30;
/// Largest message of a WebSocket client; kubectl's are 32 KiB.
pub const WEBSOCKET_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Largest control frame of a SPDY client.
pub const SPDY_CONTROL_BYTES_MAX: usize = 16 * 1024;
/// Bytes of its headers, decompressed.
pub const SPDY_HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Streams of one SPDY connection at a time.
pub const SPDY_STREAMS_MAX: usize = 2 * FORWARD_STREAMS_MAX + 16;
/// Pieces of a SPDY stream that wait for the board before the client's connection waits.
pub const SPDY_PIECES_MAX: usize = 16;
/// Frames of a SPDY or WebSocket connection that wait for a slow client.
pub const API_UPGRADE_FRAMES_MAX: usize = 8;
/// Ports that one port-forward over plain WebSocket names.
pub const FORWARD_PORTS_MAX: usize = 64;
/// Clients that are attached to one container's input at a time.
pub const CONSOLE_CLIENTS_MAX: usize = 8;
const _: () = assert!(EXEC_STREAMS_MAX < KEEPER_CONNECTIONS_MAX);
/// Addresses that a leader record names.
pub const LEADER_ADDRESSES_MAX: usize = 4;
/// Bytes of a leader record's signature: P-256 ECDSA in ASN.1.
pub const LEADER_SIGNATURE_BYTES_MAX: usize = 72;
/// Bytes of a leader record's text: a TXT record that every responder and cache takes.
pub const LEADER_RECORD_BYTES_MAX: usize = 400;
/// Leader records that a board remembers of what it hears; whoever forges more displaces forged ones.
pub const HEARD_RECORDS_MAX: usize = 64;
/// Records in the mDNS library's cache at which it is emptied; an honest link has a few per responder.
pub const MDNS_CACHE_RECORDS_MAX: i64 = 2_048;

/// Names of load balancers that are announced on the site.
pub const SITE_NAMES_MAX: usize = 64;
/// Addresses that one of them stands for: all fit one packet.
pub const SITE_NAME_ADDRESSES_MAX: usize = 8;

/// Names and addresses for which the API's certificate is kept; more come in only when they are needed.
pub const SERVER_NAMES_MAX: usize = 32;
/// Boards that `--peers` may name.
pub const PEERS_MAX: usize = 32;
/// Addresses that `--peers` stands for, of those that names resolve to.
pub const NAMED_ADDRESSES_MAX: usize = 2 * PEERS_MAX;
/// Addresses that a master remembers of what another member's records say, the newest.
pub const MEMBER_HINTS_MAX: usize = 8;
const _: () = assert!(MEMBER_HINTS_MAX >= 2 * LEADER_ADDRESSES_MAX);
/// Other members that a master tells another one of, where it has met them: more than a group has.
pub const MEMBERS_MET_MAX: usize = 32;
/// Tokens that a board asks for, and is given, in one message.
pub const TOKEN_ASKS_MAX: usize = 32;
/// Tokens of service accounts that one board holds or waits for.
pub const TOKENS_PER_BOARD_MAX: usize = 512;
/// Largest bearer token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// A message of tokens is one payload of the bus.
const _: () = assert!(TOKEN_ASKS_MAX * TOKEN_BYTES_MAX / 2 <= BUS_PAYLOAD_BYTES_MAX);
/// Shortest life of a service account's token (kube-apiserver's own limit).
pub const TOKEN_SECONDS_MIN: u64 = 600;
/// Longest life of a service account's token (kube-apiserver's own limit).
pub const TOKEN_SECONDS_MAX: u64 = 1 << 32;
/// Audiences of one token.
pub const TOKEN_AUDIENCES_MAX: usize = 16;
/// Seconds that a token goes on to be good after the deletion of its pod or account was due
/// (kube-apiserver's own).
pub const TOKEN_LEEWAY_SECONDS: i64 = 60;
/// Keys that tokens may have been signed with.
pub const TOKEN_KEYS_MAX: usize = 8;
/// Keys that Secrets may have been sealed with; a rotation beyond forgets the oldest.
pub const SECRETS_KEYS_MAX: usize = 8;
/// Secrets that are sealed anew in a second after a rotation.
pub const SECRETS_RESEALED_PER_SECOND: usize = 64;
