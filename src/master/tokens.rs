//! Tokens that let boards join, kept as Secrets `kube-system/bootstrap-token-<id>`.
//!
//! In: wishes of a person, and boards that have proven a token's secret. Out: tokens, and the write
//! that spends one. Invariant: a token admits at most as many boards as it was made for, however many
//! try at once, because the write that spends it names the version that was read. The same board may
//! come again: its answer may have been lost. Expiry is judged by cluster time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use logic::controller::{Op, Propagation};
use model::ids::{ObjectKey, Uid, Version};
use model::join::key_text;
use model::limits::{BOOTSTRAP_TTL_SECONDS, BOOTSTRAP_USES, TOKEN_USES_MAX, TOKENS_MAX};
use model::status::ApiError;
use model::timestamp::Timestamp;
use model::token::{BootstrapToken, Token, TokenId, TokenRole};
use model::view::kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::keys::SYSTEM;
use super::registry::{CommitError, ListQuery, Registry};
use crate::io::store::{Record, StoreError};

/// Kubernetes' own type of such Secrets.
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// What the names of such Secrets begin with.
pub(crate) const NAME_START: &str = "bootstrap-token-";
/// Attempts while boards spend tokens.
const ATTEMPTS_MAX: u32 = 8;

/// A token that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// How many boards it admits.
    pub uses: u32,
    /// How long it is good; zero for ever.
    pub ttl_seconds: u64,
    /// What it lets them become.
    pub role: TokenRole,
}

/// A board that a token has admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedBy {
    /// Its name.
    pub name: String,
    /// Its key ([`key_text`]).
    pub key: String,
    /// When, RFC 3339.
    pub at: String,
}

/// A token as it is kept, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    /// Its id.
    pub id: TokenId,
    /// What it lets a board become.
    pub role: TokenRole,
    /// Boards that it still admits.
    pub uses_left: u32,
    /// RFC 3339; absent for ever.
    pub expires: Option<String>,
    /// Whether that time has come.
    pub expired: bool,
    /// Boards that it has admitted.
    pub used_by: Vec<UsedBy>,
}

/// Why something about tokens was not done.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No such token.
    #[error("there is no token {0}: `kumquat token list` shows those that there are")]
    Absent(TokenId),
    /// A wish out of bounds.
    #[error("a token admits 1 to {TOKEN_USES_MAX} boards, for ten years at most")]
    Wish,
    /// As many as there may be.
    #[error("there are {TOKENS_MAX} tokens already: revoke some (`kumquat token revoke ID`)")]
    TooMany,
    /// The system's randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
    /// The store cannot be read.
    #[error("the tokens cannot be read")]
    Read(#[from] StoreError),
    /// The API refuses to list them.
    #[error("the tokens cannot be listed: {0}")]
    List(ApiError),
    /// The store refuses a write.
    #[error("the tokens cannot be written")]
    Write(#[from] CommitError),
}

/// Why a token does not admit a board.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spent {
    /// Its time has come.
    #[error("the token expired at {0}")]
    Expired(String),
    /// It has admitted as many as it may.
    #[error("the token is used up: it admitted {0}")]
    Used(String),
}

/// The cluster's tokens; clones share them.
#[derive(Clone)]
pub struct Tokens {
    registry: Registry,
    pin: [u8; 32],
}

impl Tokens {
    /// Tokens in this registry, for the authority with this pin.
    pub fn new(registry: Registry, pin: [u8; 32]) -> Self {
        Self { registry, pin }
    }

    /// Makes a token; expired ones are removed with the same write.
    ///
    /// # Errors
    /// A wish out of bounds, too many tokens, and what the store refuses.
    pub async fn create(&self, wish: NewToken) -> Result<Token, TokenError> {
        const TEN_YEARS: u64 = 3652 * 86_400;
        if !(1..=TOKEN_USES_MAX).contains(&wish.uses) || wish.ttl_seconds > TEN_YEARS {
            return Err(TokenError::Wish);
        }
        for _ in 0..ATTEMPTS_MAX {
            let now = self.now();
            let (old, good): (Vec<_>, Vec<_>) =
                self.kept()?.into_iter().partition(|kept| kept.is_expired(now));
            if good.len() >= TOKENS_MAX {
                return Err(TokenError::TooMany);
            }
            let mut token = Token { id: TokenId([0; 5]), secret: [0; 16], pin: self.pin };
            getrandom::fill(&mut token.id.0).map_err(TokenError::Random)?;
            getrandom::fill(&mut token.secret).map_err(TokenError::Random)?;
            let mut ops =
                vec![Op::Create { kind: kind::SECRETS, object: secret(&token, wish, now) }];
            ops.extend(old.iter().map(Kept::delete));
            match self.registry.commit(ops).await {
                // An expired one went away meanwhile, or (hardly) the id exists.
                Err(CommitError::Conflict) => {}
                committed => return committed.map(|_| token).map_err(TokenError::Write),
            }
        }
        Err(CommitError::Conflict.into())
    }

    /// Keeps the token with which this cluster was founded: from here on it is one of the cluster's. One
    /// that is there already stays as it is.
    ///
    /// # Errors
    /// What the store refuses.
    pub async fn adopt(&self, token: &BootstrapToken) -> Result<(), TokenError> {
        let token = Token { id: token.id, secret: token.secret, pin: self.pin };
        let wish = NewToken {
            uses: BOOTSTRAP_USES,
            ttl_seconds: BOOTSTRAP_TTL_SECONDS,
            role: TokenRole::Auto,
        };
        if self.find(token.id)?.is_some() {
            return Ok(());
        }
        let object = secret(&token, wish, self.now());
        match self.registry.commit(vec![Op::Create { kind: kind::SECRETS, object }]).await {
            Err(CommitError::Conflict) => Ok(()),
            committed => committed.map(|_| ()).map_err(TokenError::Write),
        }
    }

    /// All tokens by id, expired ones too.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<TokenInfo>, TokenError> {
        let now = self.now();
        let mut tokens: Vec<_> = self.kept()?.iter().map(|kept| kept.info(now)).collect();
        tokens.sort_by_key(|token| token.id);
        Ok(tokens)
    }

    /// Removes a token; boards that it has admitted stay.
    ///
    /// # Errors
    /// [`TokenError::Absent`], and what the store refuses.
    pub async fn revoke(&self, id: TokenId) -> Result<(), TokenError> {
        for _ in 0..ATTEMPTS_MAX {
            let kept = self.find(id)?.ok_or(TokenError::Absent(id))?;
            match self.registry.commit(vec![kept.delete()]).await {
                Err(CommitError::Conflict) => {}
                committed => return committed.map(|_| ()).map_err(TokenError::Write),
            }
        }
        Err(CommitError::Conflict.into())
    }

    /// The token with this id, if it exists.
    pub(super) fn find(&self, id: TokenId) -> Result<Option<Kept>, StoreError> {
        Ok(self
            .registry
            .store()
            .get(&secret_key(id))?
            .and_then(|record| Kept::read(&record))
            .map(|kept| self.put_off(kept)))
    }

    fn kept(&self) -> Result<Vec<Kept>, TokenError> {
        let secrets = model::resource::find("", "v1", "secrets").expect("a kind of the table");
        let mut query = ListQuery::all(secrets, Some(SYSTEM.into()));
        query.fields = format!("type={SECRET_TYPE}");
        let page = self.registry.list(&query).map_err(TokenError::List)?;
        let parse = |json: &[u8]| serde_json::from_slice(json).ok();
        Ok(page
            .items
            .iter()
            .filter_map(|item| Kept::parse(&parse(&item.json())?))
            .map(|kept| self.put_off(kept))
            .collect())
    }

    /// The same token, which does not end because the clock was set since it was made.
    fn put_off(&self, mut kept: Kept) -> Kept {
        let clock = self.registry.clock();
        kept.expires = kept.expires.map(|end| clock.put_off(kept.made, end));
        kept
    }

    fn now(&self) -> Timestamp {
        self.registry.clock().now()
    }
}

/// The writes that remove every token; boards that they have admitted stay.
///
/// # Errors
/// The Secrets cannot be listed.
pub(super) fn removal(registry: &Registry) -> Result<Vec<Op>, TokenError> {
    // The pin is for new tokens only.
    let tokens = Tokens::new(registry.clone(), [0; 32]);
    Ok(tokens.kept()?.iter().map(Kept::delete).collect())
}

fn secret_key(id: TokenId) -> ObjectKey {
    ObjectKey { kind: kind::SECRETS, namespace: SYSTEM.into(), name: format!("{NAME_START}{id}") }
}

fn secret(token: &Token, wish: NewToken, now: Timestamp) -> Value {
    let mut data = Map::new();
    let mut put = |name: &str, text: &str| {
        data.insert(name.into(), STANDARD.encode(text).into());
    };
    put("token-id", &token.id.to_string());
    put("token-secret", &to_hex(&token.secret));
    put("usage-bootstrap-authentication", "true");
    put("uses-left", &wish.uses.to_string());
    put("role", &wish.role.to_string());
    if wish.ttl_seconds > 0 {
        let millis = i64::try_from(wish.ttl_seconds * 1000).unwrap_or(i64::MAX / 1000);
        put("expiration", &now.plus_millis(millis).to_string());
    }
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE, "data": data,
        "metadata": { "name": secret_key(token.id).name, "namespace": SYSTEM },
    })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A token as it lies in its Secret.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) id: TokenId,
    pub(super) secret: [u8; 16],
    pub(super) role: TokenRole,
    uses_left: u32,
    made: Timestamp,
    expires: Option<Timestamp>,
    used_by: Vec<UsedBy>,
    uid: Uid,
    version: Version,
}

impl Kept {
    fn read(record: &Record) -> Option<Self> {
        let kept = Self::parse(&serde_json::from_slice(&record.body).ok()?)?;
        Some(Self { version: record.version, ..kept })
    }

    /// `None` for a Secret that a person has written otherwise, and for one that is deleted and only waits
    /// for a finalizer: it admits nobody.
    fn parse(secret: &Value) -> Option<Self> {
        if secret["type"] != SECRET_TYPE || secret["metadata"]["deletionTimestamp"].is_string() {
            return None;
        }
        let field = |name: &str| {
            let bytes = STANDARD.decode(secret["data"][name].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let id: TokenId = field("token-id")?.parse().ok()?;
        if secret["metadata"]["name"] != secret_key(id).name {
            return None;
        }
        let expires = match field("expiration") {
            Some(text) => Some(Timestamp::parse(&text)?),
            None => None,
        };
        let used_by = match field("used-by") {
            Some(text) => serde_json::from_str(&text).ok()?,
            None => Vec::new(),
        };
        let version = secret["metadata"]["resourceVersion"].as_str();
        Some(Self {
            id,
            secret: from_hex(&field("token-secret")?)?,
            role: field("role")?.parse().ok()?,
            uses_left: field("uses-left")?.parse().ok()?,
            made: Timestamp::parse(secret["metadata"]["creationTimestamp"].as_str()?)?,
            expires,
            used_by,
            uid: secret["metadata"]["uid"].as_str().and_then(Uid::parse)?,
            version: Version(version.and_then(|text| text.parse().ok()).unwrap_or(0)),
        })
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// The write that spends one use for this board, none when it has been spent for it already.
    pub(super) fn spend(
        &self,
        name: &str,
        key: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<Op>, Spent> {
        if let Some(end) = self.expires.filter(|end| *end <= now) {
            return Err(Spent::Expired(end.to_string()));
        }
        let key = key_text(key);
        if self.used_by.iter().any(|used| used.name == name && used.key == key) {
            return Ok(None);
        }
        let Some(left) = self.uses_left.checked_sub(1) else {
            let names: Vec<_> = self.used_by.iter().map(|used| used.name.as_str()).collect();
            return Err(Spent::Used(names.join(", ")));
        };
        let mut used_by = self.used_by.clone();
        used_by.push(UsedBy { name: name.into(), key, at: now.to_string() });
        let used_by = serde_json::to_string(&used_by).unwrap_or_default();
        Ok(Some(Op::Patch {
            key: secret_key(self.id),
            base: self.version,
            subresource: None,
            merge: json!({ "data": {
                "uses-left": STANDARD.encode(left.to_string()),
                "used-by": STANDARD.encode(used_by),
            } }),
        }))
    }

    fn delete(&self) -> Op {
        Op::Delete {
            key: secret_key(self.id),
            base: self.version,
            uid: self.uid,
            grace_seconds: None,
            propagation: Propagation::Background,
        }
    }

    fn info(&self, now: Timestamp) -> TokenInfo {
        TokenInfo {
            id: self.id,
            role: self.role,
            uses_left: self.uses_left,
            expires: self.expires.map(|end| end.to_string()),
            expired: self.is_expired(now),
            used_by: self.used_by.clone(),
        }
    }
}

fn from_hex(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_a_finalizer_keeps_admits_nobody() {
        let token = Token { id: TokenId([7; 5]), secret: [8; 16], pin: [0; 32] };
        let wish = NewToken { uses: 1, ttl_seconds: 0, role: TokenRole::Worker };
        let mut secret = secret(&token, wish, Timestamp(0));
        secret["metadata"]["creationTimestamp"] = "2026-11-22T00:00:00Z".into();
        secret["metadata"]["uid"] = Uid([1; 16]).to_string().into();
        assert!(Kept::parse(&secret).is_some());
        secret["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:01Z".into();
        assert!(Kept::parse(&secret).is_none());
    }
}
