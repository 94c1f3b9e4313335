//! Tokens of service accounts: issued to whoever may have them, judged for whoever is shown one.
//!
//! In: requests (API, boards over the bus), tokens. Out: signed claims, and who bears a token. What
//! claims mean is `logic::account`'s; this adds keys, clock, randomness and the objects. Nothing is
//! stored: a token is good while what it names is there.

use std::fmt;
use std::sync::Arc;

use logic::access::node_of;
use logic::account::{BindError, BindKind, BindTo, Bound, Claims, ISSUER, bind};
use model::access::{UserInfo, service_account_groups, service_account_user};
use model::ids::{ObjectKey, Uid};
use model::limits::{TOKEN_SECONDS_MAX, TOKEN_SECONDS_MIN};
use model::resource;
use model::status::ApiError;
use model::timestamp::Timestamp;
use model::view::kind;
use model::wire::{TokenV1, TokenWantV1};
use serde_json::{Value, json};

use super::api::{BearerTokens, BearerUser, TokenTrouble};
use super::controllers::Views;
use super::registry::{Registry, Target, TokenRequest, WriteOptions, Written};
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

    /// A board asks for tokens of its own pods only (plugin `NodeRestriction`).
    fn restrict(
        &self,
        node: &str,
        account: &Target,
        request: &TokenRequest,
    ) -> Result<(), ApiError> {
        let refuse = |why: &str| Err(account_forbidden(account, why));
        let Some(BindTo { kind: BindKind::Pod, name, uid: Some(uid) }) = &request.to else {
            return refuse("node requested token not bound to a pod");
        };
        let on_node = {
            let world = self.0.views.world();
            let pod = world.pod(&account.namespace, name);
            pod.is_some_and(|pod| pod.meta.uid == *uid && *pod.node == *node)
        };
        if !on_node {
            return refuse("node requested token bound to a pod scheduled on a different node");
        }
        let asks = |audience: &String| {
            let audience = if audience == ISSUER { "" } else { audience };
            let (namespace, name) = (account.namespace.clone(), name.clone());
            let (audience, seconds) = (audience.to_owned(), request.seconds);
            self.asks(&TokenWantV1 { pod: *uid, namespace, name, audience, seconds })
        };
        let fits = |audience| asks(audience).map_err(|why| account_forbidden(account, &why));
        for audience in &request.audiences {
            if !fits(audience)? {
                return refuse("the pod asks for no such token");
            }
        }
        Ok(())
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
            sub: service_account_user(&bound.namespace, &bound.serviceaccount.name),
            bound,
        };
        let payload = serde_json::to_vec(&claims)
            .map_err(|error| ApiError::internal(format!("Internal error occurred: {error}")))?;
        Ok(TokenV1 { text: self.0.keys.sign(&payload), issued, expires })
    }
}

impl BearerTokens for Accounts {
    fn review(&self, token: &str, audiences: &[String]) -> Result<BearerUser, TokenTrouble> {
        let trouble =
            |why: &dyn fmt::Display| TokenTrouble(format!("[invalid bearer token, {why}]"));
        let payload = self.0.keys.verify(token);
        let claims = payload.and_then(|payload| Claims::parse(&payload));
        let mut claims = claims.ok_or_else(|| TokenTrouble("invalid bearer token".to_owned()))?;
        let clock = self.0.registry.clock();
        let now = clock.now();
        // It does not end because the clock was set since: a board without a battery issues tokens before
        // a time server tells it the time.
        let [issued, expires] = [claims.iat, claims.exp].map(Timestamp::from_seconds);
        claims.exp = clock.put_off(issued, expires).seconds();
        let bearer = claims.judge(&self.0.views.world(), audiences, now);
        let bearer = bearer.map_err(|refusal| trouble(&refusal))?;
        let user = UserInfo {
            name: service_account_user(&bearer.namespace, &bearer.account.name),
            uid: bearer.account.uid,
            groups: service_account_groups(&bearer.namespace),
            extra: bearer.extra,
        };
        Ok(BearerUser { user, audiences: bearer.audiences })
    }

    fn issue(
        &self,
        account: &Target,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let request = self.0.registry.token_request(account, object, options)?;
        let to = request.to.as_ref();
        if let Some(node) = node_of(&options.user) {
            self.restrict(node, account, &request)?;
        }
        let world = self.0.views.world();
        let bound = bind(&world, &account.namespace, &account.name, to);
        drop(world);
        let bound = bound.map_err(|error| refusal(account, to, &error))?;
        let token = self.seal(bound, request.audiences, request.seconds)?;
        let mut object = request.object;
        object["status"] =
            json!({"token": token.text, "expirationTimestamp": token.expires.to_string()});
        let object = object.to_string().into();
        Ok(Written { object, warnings: request.warnings, created: true })
    }

    fn key_set(&self) -> Option<Value> {
        Some(self.0.keys.jwks())
    }
}

fn account_forbidden(account: &Target, why: &str) -> ApiError {
    ApiError::forbidden("", "serviceaccounts", &account.name, why)
}

/// In the words of `token.go` of a real server.
fn refusal(account: &Target, to: Option<&BindTo>, error: &BindError) -> ApiError {
    match error {
        BindError::Missing(key) | BindError::Another(key) => {
            let resource = resource::by_kind_key(&key.kind).expect("a kind that tokens name");
            if matches!(error, BindError::Missing(_)) {
                return ApiError::not_found(resource.group, resource.plural, &key.name);
            }
            let uid = to.and_then(|to| to.uid).unwrap_or_default();
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            ApiError::conflict(resource.group, resource.kind, &key.name, &why)
        }
        BindError::Foreign(_) => ApiError::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different \
             serviceaccount name.",
            account.name
        )),
    }
}
