//! Another authority in place of one whose key was lost, as JSON on port 7443. Fields are only ever added.

use serde::{Deserialize, Serialize};

use super::{MasterAtV1, SecretBytes, SecretsKeyV1};

/// ConfigMap in `kube-system`: which authority the cluster has or is about to have, and for whose sake.
pub const AUTHORITY_OBJECT: &str = "kumquat-authority";

/// What a master leads with under another authority: `GET /v1/authority/keys?pin=HEX`, for members only,
/// and on the disks of masters until they have taken it over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityKeysV1 {
    /// Certificate of the authority, PEM.
    pub authority: String,
    /// Its private key, PKCS #8.
    pub authority_key: SecretBytes,
    /// Keys that sign service accounts' tokens, PEM, the current one first.
    pub token_keys: Vec<SecretBytes>,
    /// Keys of Secrets at rest, the current one first.
    pub secrets_keys: Vec<SecretsKeyV1>,
}

/// What a board shows from now on: the answer to `POST /v1/authority`, whose body is its public key (DER
/// SubjectPublicKeyInfo).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertifiedV1 {
    /// Certificate of the authority, PEM.
    pub authority: String,
    /// The board's own, PEM.
    pub certificate: String,
    /// The masters under that authority: the board forgets all others, a stolen one among them.
    #[serde(default)]
    pub masters: Vec<MasterAtV1>,
}
