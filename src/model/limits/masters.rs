//! Bounds of the group of masters: members, their log's way between them, and what policy waits for.

use super::{STORE_ENTRY_BYTES_MAX, STORE_ENTRY_OPS_MAX};

/// Boards that hold the log, voters and learners together.
pub const MASTERS_MAX: usize = 16;
/// Voters of one cluster.
pub const VOTERS_MAX: usize = 5;
/// Groups of writes that the leader has handed over and that are not committed yet.
pub const STORE_GROUPS_IN_FLIGHT_MAX: usize = 4;
/// Bytes of entries that are appended and not synced yet; then whoever appends waits.
pub const GROUP_TAIL_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes that one read of the log gives; one entry is always given, whatever its size.
pub const GROUP_READ_BYTES_MAX: usize = 256 * 1024;
/// Entries in one message from leader to follower.
pub const GROUP_ENTRIES_MAX: usize = 64;
/// Bytes of one message between masters.
pub const GROUP_ASK_BYTES_MAX: usize = STORE_ENTRY_BYTES_MAX + 64 * 1024;
/// Bytes of one answer between masters.
pub const GROUP_ANSWER_BYTES_MAX: usize = 4 * 1024;
/// Messages of one pair of masters whose answers are awaited.
pub const GROUP_ASKS_MAX: usize = 256;
/// Bytes of a snapshot that one record of its body carries.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a kit as JSON.
pub const KIT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a board's ask for the kit as JSON.
pub const KIT_ASK_BYTES_MAX: usize = 16 * 1024;
/// Keys of one sort in a kit: the current one and those of what is not re-sealed yet.
pub const KIT_KEYS_MAX: usize = 8;
/// Bytes of the list of masters as JSON.
pub const MASTERS_BYTES_MAX: usize = 64 * 1024;
/// Seconds that a question for newer masters hangs.
pub const MASTERS_ASK_SECONDS_MAX: u64 = 300;
/// Boards without a token that wait for an approval.
pub const PENDING_BOARDS_MAX: usize = 64;
/// Boards that a fresh board with a bootstrap token counts; `--expect` allows no more.
pub const GENESIS_PEERS_MAX: usize = 64;
/// Milliseconds that a fresh board listens for an existing cluster before it founds one.
pub const GENESIS_LISTEN_MS: u64 = 3_000;
/// Milliseconds between two asks of a fresh board to another.
pub const GENESIS_ASK_MS: u64 = 1_000;
/// Milliseconds after which a fresh board that was not heard counts as gone.
pub const GENESIS_SILENCE_MS: u64 = 10_000;
/// Forwarded connections of API clients on one board.
pub const FORWARD_CONNECTIONS_MAX: usize = 256;
/// Bytes of one direction of such a connection that are on their way through the board.
pub const FORWARD_BUFFER_BYTES: usize = 16 * 1024;
/// Milliseconds that a request waits for a leader.
pub const FORWARD_WAIT_MS_MAX: u64 = 2_000;
/// Bytes of a call's header (`model::masters::ApiCallV1`) as JSON.
pub const API_CALL_BYTES_MAX: usize = 16 * 1024;
/// Groups of a user whose call is forwarded.
pub const API_CALL_GROUPS_MAX: usize = 128;
/// Connections that a worker keeps to masters that do not lead.
pub const STANDBY_CONNECTIONS_MAX: usize = 2;
/// Lines of the audit log that wait for their outlet; further ones are counted and dropped.
pub const AUDIT_QUEUE_MAX: usize = 1024;
/// Service-account tokens that one board holds.
pub const ACCOUNT_TOKENS_PER_BOARD_MAX: usize = 512;

/// Binaries that `kumquat upgrade` takes at a time: one for each architecture.
pub const UPGRADE_FILES_MAX: usize = 4;
/// Bytes of one of them; a build for debugging is larger than a release.
pub const UPGRADE_FILE_BYTES_MAX: u64 = 512 << 20;
/// Bytes of what the command asks of the leader.
pub const UPGRADE_ASK_BYTES_MAX: usize = 16 * 1024;
/// Lines of the answer that wait for whoever reads them; further ones are dropped.
pub const UPGRADE_LINES_MAX: usize = 256;
/// Seconds that a board may at most take to be ready with another binary.
pub const UPGRADE_READY_SECONDS_MAX: u32 = 3_600;

/// Seconds after which a silent voter is replaced.
pub const VOTER_SILENCE_SECONDS: u64 = 300;
/// Seconds that a candidate for a vote must have been there without a break.
pub const VOTER_STABLE_SECONDS: u64 = 10;
/// Entries that a candidate for a vote may be behind.
pub const VOTER_LAG_ENTRIES_MAX: u64 = 250;
/// Seconds without progress after which a candidate is given up for a while.
pub const CANDIDATE_SECONDS_MAX: u64 = 60;
/// Elections that a voter forces without winning before it loses its vote for a while.
pub const FLAP_TERMS_MAX: usize = 3;
/// Seconds in which these elections are counted.
pub const FLAP_WINDOW_SECONDS: u64 = 600;
/// Seconds without a vote after that.
pub const FLAP_PENALTY_SECONDS: u64 = 1_800;

/// Days that cluster time may step without a sign that the clocks behind it are synchronised.
pub const CLOCK_STEP_DAYS_MAX: i64 = 1;
/// Days beyond the high-water mark that unsynchronised clocks are never believed.
pub const CLOCK_UNSYNCED_DAYS_MAX: i64 = 400;
/// Seconds after which what a voter said of its clock counts no longer.
pub const CLOCK_HEARD_SECONDS_MAX: u64 = 30;
/// Steps of the clock that are remembered, so that tokens do not end by them.
pub const CLOCK_STEPS_KEPT_MAX: usize = 16;

const _: () = assert!(VOTERS_MAX <= MASTERS_MAX && VOTERS_MAX % 2 == 1);
const _: () = assert!(GROUP_TAIL_BYTES_MAX > GROUP_READ_BYTES_MAX);
const _: () = assert!(GROUP_ENTRIES_MAX <= STORE_ENTRY_OPS_MAX);
const _: () = assert!(GENESIS_SILENCE_MS > 3 * GENESIS_ASK_MS);
const _: () = assert!(VOTER_SILENCE_SECONDS > CANDIDATE_SECONDS_MAX);
const _: () = assert!(FLAP_PENALTY_SECONDS > FLAP_WINDOW_SECONDS);
