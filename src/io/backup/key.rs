//! Where the key of a backup comes from.
//!
//! A passphrase goes through PBKDF2-HMAC-SHA256; a recovery key, which nobody guesses, through
//! HKDF-SHA256. The recovery key of a cluster is itself made from its authority's key: every master can
//! say it, and nothing has to be kept or handed on. Each file has a salt and so a key of its own, which is why numbers
//! may serve as nonces.

use std::fmt;
use std::num::NonZeroU32;

use model::backup::{BadRecoveryKey, RECOVERY_KEY_BYTES, RecoveryKey};
use model::limits::{BACKUP_PASSPHRASE_BYTES_MAX, BACKUP_PASSPHRASE_LETTERS_MIN};
use ring::aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::pbkdf2;
use sha2::{Digest, Sha256};

/// Bytes of a key of the cipher.
const KEY_BYTES: usize = 32;
/// What keys are made for.
const OF_CLUSTER: &[u8] = b"kumquat recovery key 1";
const OF_FILE: &[u8] = b"kumquat backup file 1";
const ID_OF: &[u8] = b"kumquat recovery key id 1";

/// What a backup is opened with.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// What a person chose.
    Passphrase(String),
    /// What the cluster has.
    Recovery(RecoveryKey),
}

/// Why a text opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It is easily guessed.
    #[error(
        "the passphrase has fewer than {BACKUP_PASSPHRASE_LETTERS_MIN} letters: take a longer one, such as five words"
    )]
    Short,
    /// It is no passphrase.
    #[error(
        "the passphrase has more than {BACKUP_PASSPHRASE_BYTES_MAX} bytes: that is another file"
    )]
    Long,
    /// It was to be a recovery key: a file that was sealed with the error opens with nothing that anybody has.
    #[error(transparent)]
    Mistyped(#[from] BadRecoveryKey),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a number of bytes is told to ring.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(salt: &[u8], key: &[u8], of: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let pseudorandom = Salt::new(HKDF_SHA256, salt).extract(key);
    let of = [of];
    let made = pseudorandom.expand(&of, Length(N)).and_then(|made| made.fill(&mut bytes));
    made.expect("HKDF gives up to 255 hashes");
    bytes
}

impl Secret {
    /// The cluster's own, from the private key of its authority.
    pub fn of_cluster(authority_key: &[u8]) -> Self {
        let key: [u8; RECOVERY_KEY_BYTES] = expand(b"", authority_key, OF_CLUSTER);
        Self::Recovery(RecoveryKey(key))
    }

    /// What a person has typed: a recovery key when it begins like one, or else a passphrase.
    ///
    /// # Errors
    /// It is too long to be either, or a recovery key with a typing error.
    pub fn typed(text: &str) -> Result<Self, SecretError> {
        let text = text.trim_end_matches(['\r', '\n']);
        if text.len() > BACKUP_PASSPHRASE_BYTES_MAX {
            return Err(SecretError::Long);
        }
        match RecoveryKey::is_meant(text) {
            true => Ok(Self::Recovery(text.parse()?)),
            false => Ok(Self::Passphrase(text.to_owned())),
        }
    }

    /// Whether others would need long to guess it.
    ///
    /// # Errors
    /// They would not.
    pub fn check(&self) -> Result<(), SecretError> {
        match self {
            Self::Passphrase(text) if text.chars().count() < BACKUP_PASSPHRASE_LETTERS_MIN => {
                Err(SecretError::Short)
            }
            _ => Ok(()),
        }
    }

    /// What it is, in words.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "passphrase",
            Self::Recovery(_) => "recovery key",
        }
    }

    /// Names a recovery key without telling it; zeros for a passphrase.
    pub(super) fn id(&self) -> [u8; 8] {
        let Self::Recovery(key) = self else { return [0; 8] };
        let hash = Sha256::new().chain_update(ID_OF).chain_update(key.0).finalize();
        hash[..8].try_into().expect("the first eight of 32 bytes")
    }

    /// The key of one file.
    pub(super) fn file_key(&self, salt: &[u8], rounds: NonZeroU32) -> LessSafeKey {
        let bytes: [u8; KEY_BYTES] = match self {
            Self::Recovery(key) => expand(salt, &key.0, OF_FILE),
            Self::Passphrase(text) => {
                let mut bytes = [0; KEY_BYTES];
                let by = pbkdf2::PBKDF2_HMAC_SHA256;
                pbkdf2::derive(by, rounds, salt, text.as_bytes(), &mut bytes);
                bytes
            }
        };
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes);
        LessSafeKey::new(key.expect("32 bytes are a key of ChaCha20"))
    }
}
