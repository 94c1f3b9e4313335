//! Tokens of service accounts: issued to whoever may have them, judged for whoever is shown one.
//!
//! In: requests (API, boards over the bus), tokens. Out: signed claims, and who bears a token. What
//! claims mean is `logic::account`'s; this adds keys, clock, randomness and the objects. Nothing is
//! stored: a token is good while what it names is there.

use std::fmt;
use std::sync::Arc;

use logic::account::{BindKind, BindTo, Bound, Claims, ISSUER, bind, subject};
use model::ids::{ObjectKey, Uid};
use model::limits::{TOKEN_SECONDS_MAX, TOKEN_SECONDS_MIN};
use model::status::ApiError;
use model::view::kind;
use model::wire::{TokenV1, TokenWantV1};

use super::controllers::Views;
use super::registry::Registry;
use crate::io::tls::TokenKeys;

/// Issues and judges tokens; clones share it.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    keys: TokenKeys,
    views: Views,
    registry: Registry,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Accounts").field(&self.0.keys).finish()
    }
}

impl Accounts {
    /// Over these keys and objects.
    pub fn new(keys: TokenKeys, views: Views, registry: Registry) -> Self {
        Self(Arc::new(Inner { keys, views, registry }))
    }

    /// The token that a volume of a pod asks for, for the board that the pod is on.
    ///
    /// # Errors
    /// The pod is not on that board, asks for no such token, or its account is not there; as a person
    /// is to read it in an event.
    pub fn for_board(&self, board: &str, want: &TokenWantV1) -> Result<TokenV1, String> {
        let TokenWantV1 { pod: uid, namespace, name, audience, seconds } = want;
        let account = {
            let world = self.0.views.world();
            let pod = world.pod(namespace, name).filter(|pod| pod.meta.uid == *uid);
            let pod = pod.filter(|pod| *pod.node == *board && !pod.finished());
            let pod = pod.ok_or_else(|| format!("pod {namespace}/{name} is not on this board"))?;
            pod.account().to_owned()
        };
        if !self.asks(want)? {
            return Err(format!("pod {namespace}/{name} asks for no such token"));
        }
        let to = BindTo { kind: BindKind::Pod, name: name.clone(), uid: Some(*uid) };
        let bound = bind(&self.0.views.world(), namespace, &account, Some(&to));
        let bound = bound.map_err(|error| error.to_string())?;
        let audience = if audience.is_empty() { ISSUER } else { audience };
        let seconds = (*seconds).clamp(TOKEN_SECONDS_MIN, TOKEN_SECONDS_MAX);
        self.seal(bound, vec![audience.to_owned()], seconds).map_err(|error| error.message)
    }

    /// Whether a volume of the pod asks for this token: a board gets no other.
    fn asks(&self, want: &TokenWantV1) -> Result<bool, String> {
        let TokenWantV1 { namespace, name, .. } = want;
        let key = ObjectKey { kind: kind::PODS, namespace: namespace.clone(), name: name.clone() };
        let record = self.0.registry.store().get(&key).map_err(|error| error.to_string())?;
        let pod = record.and_then(|record| logic::pod::Pod::parse(&record.body).ok());
        Ok(pod.is_some_and(|pod| logic::pod::token::wants(&pod).any(|it| it == *want)))
    }

    fn seal(
        &self,
        bound: Bound,
        audiences: Vec<String>,
        seconds: u64,
    ) -> Result<TokenV1, ApiError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| {
            ApiError::internal("Internal error occurred: no randomness from the kernel")
        })?;
        let issued = self.0.registry.clock().now();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX / 1_000_000);
        let expires = issued.plus_millis(seconds * 1_000);
        let claims = Claims {
            aud: audiences,
            exp: expires.seconds(),
            iat: issued.seconds(),
            iss: ISSUER.to_owned(),
            jti: Uid::from_random(random).to_string(),
            nbf: issued.seconds(),
            sub: subject(&bound.namespace, &bound.serviceaccount.name),
            bound,
        };
        let payload = serde_json::to_vec(&claims)
            .map_err(|error| ApiError::internal(format!("Internal error occurred: {error}")))?;
        Ok(TokenV1 { text: self.0.keys.sign(&payload), issued, expires })
    }
}
