//! What a backup holds besides the objects, and the text of the key that opens it.
//!
//! A backup is a [`BackupHeadV1`] as JSON followed by a snapshot of the store, sealed. Fields are only ever
//! added, with a default: a later release reads what an earlier one wrote.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::masters::{SecretBytes, SecretsKeyV1};
use crate::timestamp::Timestamp;
use crate::token::{base32, check, decode};

/// The cluster without its objects: with these and the snapshot another board can lead it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupHeadV1 {
    /// Name of the cluster.
    pub cluster: String,
    /// The board that wrote it.
    pub board: String,
    /// Release that wrote it.
    pub release: String,
    /// Cluster time.
    pub taken: Timestamp,
    /// Epoch of the store.
    pub epoch: u64,
    /// Newest version in the snapshot.
    pub version: u64,
    /// Addresses of pods, `10.42.0.0/16`.
    pub pod_range: String,
    /// Addresses of services.
    pub service_range: String,
    /// Certificate of the cluster's authority as PEM.
    pub authority: String,
    /// Its private key, PKCS #8.
    pub authority_key: SecretBytes,
    /// Keys of Secrets at rest, the current one first.
    #[serde(default)]
    pub secrets_keys: Vec<SecretsKeyV1>,
    /// Keys that sign service-account tokens as PEM, the current one first.
    #[serde(default)]
    pub token_keys: Vec<SecretBytes>,
    /// The boards of the cluster by name.
    #[serde(default)]
    pub boards: Vec<String>,
    /// Keys of boards that were thrown out.
    #[serde(default)]
    pub evicted: Vec<String>,
    /// Bytes of the snapshot that follows.
    pub snapshot_bytes: u64,
}

/// Bytes of a recovery key.
pub const RECOVERY_KEY_BYTES: usize = 18;
/// Digits between two dashes.
const GROUP: usize = 4;
const PREFIX: &str = "kqr";

/// Opens the backups of a cluster when no passphrase was chosen: `kqr-` and 32 base32 digits in groups of four, of
/// which the last three or so are a check.
#[derive(Clone, PartialEq, Eq)]
pub struct RecoveryKey(pub [u8; RECOVERY_KEY_BYTES]);

impl RecoveryKey {
    /// Whether somebody who wrote this wrote a recovery key, right or wrong.
    pub fn is_meant(text: &str) -> bool {
        let begin = text.trim_start().get(..PREFIX.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX))
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

impl fmt::Display for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0.to_vec();
        bytes.extend(check(&self.0).to_be_bytes());
        f.write_str(PREFIX)?;
        for group in base32(&bytes).as_bytes().chunks(GROUP) {
            write!(f, "-{}", String::from_utf8_lossy(group))?;
        }
        Ok(())
    }
}

/// Why a text is no recovery key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "that is no recovery key, or it has a typing error: it looks like kqr-abcd-... with eight groups of four"
)]
pub struct BadRecoveryKey;

impl FromStr for RecoveryKey {
    type Err = BadRecoveryKey;

    fn from_str(text: &str) -> Result<Self, BadRecoveryKey> {
        let plain: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .collect::<String>()
            .to_lowercase();
        let digits = plain.strip_prefix(PREFIX).ok_or(BadRecoveryKey)?;
        let bytes = decode(digits).map_err(|_| BadRecoveryKey)?;
        if digits.len() != (RECOVERY_KEY_BYTES + 2) * 8 / 5 {
            return Err(BadRecoveryKey);
        }
        let (key, sum) = bytes.split_at_checked(RECOVERY_KEY_BYTES).ok_or(BadRecoveryKey)?;
        let key: [u8; RECOVERY_KEY_BYTES] = key.try_into().map_err(|_| BadRecoveryKey)?;
        if check(&key).to_be_bytes() != sum {
            return Err(BadRecoveryKey);
        }
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_key_is_read_as_people_write_it() {
        let key = RecoveryKey(std::array::from_fn(|at| u8::try_from(at * 13).unwrap_or(7)));
        let text = key.to_string();
        assert_eq!((text.len(), text.matches('-').count()), (3 + 8 * 5, 8), "{text}");
        let spaced = text.replace('-', " ").to_uppercase();
        for written in [&text, &spaced, &format!("\n{text}\n"), &text.replace('-', "")] {
            assert_eq!(written.parse(), Ok(key.clone()), "{written:?}");
        }
        let wrong =
            format!("{}{}", &text[..text.len() - 1], if text.ends_with('a') { 'b' } else { 'a' });
        let swapped = text.replacen(&text[6..8], &text[6..8].chars().rev().collect::<String>(), 1);
        for bad in ["", "kqr", "kqr-", &text[4..], &text[..text.len() - 1], &wrong, &swapped] {
            assert_eq!(bad.parse::<RecoveryKey>(), Err(BadRecoveryKey), "{bad:?}");
        }
        for meant in [&text, &spaced, &format!("\n{text}"), &wrong, &swapped, "KQR"] {
            assert!(RecoveryKey::is_meant(meant), "{meant:?}");
        }
        for other in ["", "kq", "ké", &text[4..], "a kqr", "correct horse battery"] {
            assert!(!RecoveryKey::is_meant(other), "{other:?}");
        }
        assert_eq!(format!("{key:?}"), "RecoveryKey");
    }

    #[test]
    fn a_head_of_the_first_release_is_read() {
        let text = r#"{"cluster":"lab","board":"pi-1","release":"0.3.0","taken":1,"epoch":1,"version":9,
            "podRange":"10.42.0.0/16","serviceRange":"10.43.0.0/16","authority":"PEM",
            "authorityKey":"AQI=","snapshotBytes":7}"#;
        let head: BackupHeadV1 = serde_json::from_str(text).expect("read");
        assert_eq!((head.snapshot_bytes, head.authority_key.0.as_slice()), (7, &[1, 2][..]));
        let again = serde_json::to_string(&head).expect("written");
        assert_eq!(serde_json::from_str::<BackupHeadV1>(&again).expect("read"), head);
        assert!(!format!("{head:?}").contains("AQI"));
    }
}
