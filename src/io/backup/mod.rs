//! Files of backups: sealed streams, their keys, and files that are whole or not there.
//!
//! ```text
//! head (64) | record ... | last record
//! record = ChaCha20-Poly1305 of 64 KiB, of the last one what is left; its nonce is its number and
//!          whether it is the last
//! ```
//! Nothing is held but a record or two, however large a backup is. What is inside is not known here.
//! See SPEC.md, "Backups".

mod key;
mod open;
mod seal;
mod target;

pub use key::{Secret, SecretError};
pub use open::{Header, Opener};
pub use seal::Sealer;
pub use target::{UNFINISHED, Unfinished, on_same_disk, remove_abandoned, settle};

/// Why a file is no backup that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Another kind of file.
    #[error("that is no backup of kumquat")]
    NoBackup,
    /// Of a later release.
    #[error(
        "the backup has format {0}, which this release does not read: use the release that wrote it, or a later one"
    )]
    Format(u16),
    /// A bit of the head is wrong.
    #[error("the head of the backup is damaged: use another copy of it")]
    Head,
    /// The passphrase is another one.
    #[error("the passphrase is wrong")]
    Passphrase,
    /// The recovery key is another cluster's, or was replaced.
    #[error(
        "that recovery key is another cluster's: this backup opens with the one whose id is {0}"
    )]
    RecoveryKey(String),
    /// It was sealed the other way.
    #[error("this backup opens with the {wanted}, not with a {given}")]
    Kind {
        /// What it was sealed with.
        wanted: &'static str,
        /// What was given.
        given: &'static str,
    },
    /// It ends in the middle.
    #[error("the backup ends too early: it was cut off, use another copy of it")]
    Short,
    /// A record was changed.
    #[error("the backup is damaged after {0} bytes: use another copy of it")]
    Damaged(u64),
    /// What is inside is not what was announced.
    #[error("the backup holds something else than it says: {0}")]
    Content(String),
}

impl From<BackupError> for std::io::Error {
    fn from(error: BackupError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests;
