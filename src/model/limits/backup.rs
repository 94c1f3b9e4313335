//! Bounds of backups.

/// Bytes that are sealed at once.
pub const BACKUP_RECORD_BYTES: usize = 64 * 1024;
/// Rounds of PBKDF2-HMAC-SHA256 between a passphrase and its key (OWASP Password Storage Cheat Sheet).
pub const BACKUP_KEY_ROUNDS: u32 = 600_000;
/// Rounds beyond which a file is not believed: its reader would seem to hang.
pub const BACKUP_KEY_ROUNDS_MAX: u32 = 10_000_000;
/// Bytes of what a backup holds besides the objects, as JSON.
pub const BACKUP_HEAD_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a passphrase; more is a wrong file.
pub const BACKUP_PASSPHRASE_BYTES_MAX: usize = 1024;
/// Letters of the shortest passphrase.
pub const BACKUP_PASSPHRASE_LETTERS_MIN: usize = 12;
/// Backups of a cluster that are kept in one folder.
pub const BACKUP_KEEP_MAX: u32 = 1000;
/// Seconds between two backups of a schedule at least.
pub const BACKUP_EVERY_SECONDS_MIN: u64 = 60;
/// How often a schedule looks at the clock, which may have jumped, at least, in seconds.
pub const BACKUP_LOOK_SECONDS_MAX: u64 = 3600;
/// Epochs that a restore may skip.
pub const BACKUP_EPOCHS_MAX: u64 = 1024;
/// Backups that are read from one store at once: each needs the space of a snapshot meanwhile.
pub const BACKUP_CAPTURES_MAX: usize = 2;
/// Seconds that the leader may take to begin its answer with a snapshot.
pub const BACKUP_ANSWER_SECONDS_MAX: u64 = 300;

const _: () = assert!(BACKUP_KEY_ROUNDS <= BACKUP_KEY_ROUNDS_MAX);
