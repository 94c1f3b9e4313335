//! What a master needs besides the log, and who the masters are, as JSON on port 7443.
//!
//! Fields are only ever added, with a default. Secrets show nothing in `Debug`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{MemberId, MembersV1, Part};
use crate::leader::SignedRecord;
use crate::limits::{API_CALL_BYTES_MAX, API_CALL_GROUPS_MAX};
use crate::token::TokenRole;

/// Bytes that no log line and no error may show; base64 in JSON.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes")
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(|_| de::Error::custom("bad base64"))?;
        Ok(Self(bytes))
    }
}

/// What the leader hands to a board that becomes a member, over the mutually authenticated tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitV1 {
    /// Who the board becomes.
    pub member: MemberId,
    /// Epoch of the log.
    pub epoch: u64,
    /// Private key of the cluster's authority, PKCS #8.
    pub authority_key: SecretBytes,
    /// Keys of Secrets at rest, the current one first.
    #[serde(default)]
    pub secrets_keys: Vec<SecretsKeyV1>,
    /// Keys that sign service-account tokens, PKCS #8, the current one first.
    #[serde(default)]
    pub token_keys: Vec<SecretBytes>,
    /// The board's certificate as PEM, with the masters' group.
    pub certificate: String,
    /// The group at that moment, the new member included.
    pub members: MembersV1,
    /// Where its members are.
    #[serde(default)]
    pub masters: Vec<MasterAtV1>,
    /// What names the group in its messages, where that is not the authority's pin any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<[u8; 16]>,
}

/// What a board says that may hold the log: `POST /v1/kit`, answered when the leader wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KitAskV1 {
    /// Its public key, DER SubjectPublicKeyInfo.
    #[serde(default)]
    pub public_key: Vec<u8>,
    /// What its user lets it become.
    #[serde(default)]
    pub role: TokenRole,
    /// Whether it has the space for the log and knows the time.
    #[serde(default)]
    pub capable: bool,
    /// It was told to leave.
    #[serde(default)]
    pub leaving: bool,
    /// The member that it is; none yet.
    #[serde(default)]
    pub member: Option<MemberId>,
    /// It is a member whose log cannot be opened at the moment: it says no id, and has not lost it.
    #[serde(default)]
    pub pausing: bool,
    /// Where it is, the best first.
    #[serde(default)]
    pub addresses: Vec<Ipv4Addr>,
    /// Port of its API.
    #[serde(default)]
    pub api_port: u16,
    /// Port of its bus.
    #[serde(default)]
    pub mqtt_port: u16,
    /// Its port for other boards.
    #[serde(default)]
    pub peer_port: u16,
}

/// A key of Secrets at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsKeyV1 {
    /// Its number, in front of what it sealed.
    pub id: u8,
    /// 32 bytes.
    pub key: SecretBytes,
}

/// Who leads and who the masters are: `GET /v1/masters?after=<epoch>.<term>` hangs until there is
/// news.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MastersV1 {
    /// The leader's record, as far as known.
    #[serde(default)]
    pub leader: Option<SignedRecord>,
    /// Everybody who holds the log.
    #[serde(default)]
    pub masters: Vec<MasterAtV1>,
}

/// One master and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterAtV1 {
    /// Which replica.
    pub member: MemberId,
    /// Name of its board.
    pub board: String,
    /// SHA-256 of the SubjectPublicKeyInfo of its board: who poses as it must have this key.
    pub key: [u8; 32],
    /// Where it was last seen, the best first.
    #[serde(default)]
    pub addresses: Vec<Ipv4Addr>,
    /// Port of the API.
    #[serde(default)]
    pub api_port: u16,
    /// Port of the bus.
    #[serde(default)]
    pub mqtt_port: u16,
    /// Port for other boards.
    #[serde(default)]
    pub peer_port: u16,
    /// Voter or learner.
    pub part: Part,
}

/// Who asks, as the master saw it that ended the client's TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerV1 {
    /// User name.
    pub name: String,
    /// Groups.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Of a board: SHA-256 of the SubjectPublicKeyInfo, by which the leader judges whether it belongs
    /// here.
    #[serde(default)]
    pub board_key: Option<[u8; 32]>,
}

/// Another protocol that the client wants on its connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeV1 {
    /// The request's own method: between masters it is CONNECT (RFC 8441).
    pub method: String,
    /// The value of its `Upgrade` header.
    pub protocol: String,
}

/// In the header [`ApiCallV1::HEADER`] of a request below [`ApiCallV1::PATH`], which only masters send
/// to each other: the rest of the path, the method, other headers and the body are the client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiCallV1 {
    /// From the client's certificate; `None`: it showed none, the request may carry a bearer token.
    pub user: Option<CallerV1>,
    /// Where the client is.
    pub address: SocketAddr,
    /// How long the request has waited for a leader.
    pub waited_ms: u32,
    /// The client showed a certificate that is not accepted.
    #[serde(default)]
    pub refused: bool,
    /// Where the client reached the API, as it names it.
    #[serde(default)]
    pub host: String,
    /// What the client's connection is to become.
    #[serde(default)]
    pub upgrade: Option<UpgradeV1>,
}

impl ApiCallV1 {
    /// Name of the header.
    pub const HEADER: &'static str = "kumquat-call";
    /// What stands before the path of the client's request.
    pub const PATH: &'static str = "/v1/api";
    /// Header of an answer that the API of the leader gave, and not its port. On an upgrade its value
    /// is the protocol that the connection speaks from here on.
    pub const ANSWERED: &'static str = "kumquat-answered";

    /// The header's value: JSON in base64, so that any user name fits.
    pub fn header(&self) -> String {
        let json = serde_json::to_vec(self).expect("a call is plain data");
        STANDARD.encode(json)
    }

    /// Reads the header's value; `None` when it is none or too large.
    pub fn from_header(text: &str) -> Option<Self> {
        if text.len() > API_CALL_BYTES_MAX {
            return None;
        }
        let call: Self = serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()?;
        let few = |user: &CallerV1| user.groups.len() <= API_CALL_GROUPS_MAX;
        call.user.as_ref().is_none_or(few).then_some(call)
    }

    /// The client's address without its port.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}
