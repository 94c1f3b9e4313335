//! What a service account's token says, and whether that still holds.
//!
//! A token names its account, and the pod, node or Secret that it is bound to, by uid
//! (kube-apiserver's `serviceaccount.Claims`, KEP-1205). In: the claims of a token whose signature was
//! checked, and the world. Out: who bears it. Invariant: a token is no good once what it names is gone,
//! or is another object of the same name. Deliberately absent: `nbf` is written and not judged. Who
//! signed it was this cluster, so a time in the future only tells that a clock was wrong.

use std::collections::BTreeMap;

use model::ids::{KindKey, ObjectKey, Uid};
use model::limits::{TOKEN_AUDIENCES_MAX, TOKEN_LEEWAY_SECONDS};
use model::timestamp::Timestamp;
use model::view::{Meta, kind};
use serde::{Deserialize, Serialize};

use crate::world::World;

/// Who issues tokens, and the audience that means the API server.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Prefix of what a token adds to its bearer.
const EXTRA: &str = "authentication.kubernetes.io/";

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom it is for.
    pub aud: Vec<String>,
    /// When it expires, seconds since 1970.
    pub exp: i64,
    /// When it was issued.
    pub iat: i64,
    /// Who issued it: [`ISSUER`].
    pub iss: String,
    /// Its own name, a random uid.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// When it begins to be good.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// The objects that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace of all that have one.
    pub namespace: String,
    /// The node that the pod is bound to, or that the token itself is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Named>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// The Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Named>,
    /// The account.
    pub serviceaccount: Named,
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Name.
    pub name: String,
    /// Uid, as text.
    pub uid: String,
}

impl Named {
    /// The name and uid of an object.
    pub fn of(meta: &Meta) -> Self {
        Self { name: meta.name.to_string(), uid: meta.uid.to_string() }
    }

    fn is(&self, meta: &Meta, now: Timestamp) -> bool {
        let leeway = TOKEN_LEEWAY_SECONDS * 1_000;
        Uid::parse(&self.uid) == Some(meta.uid)
            && meta.deleting.is_none_or(|at| now < at.plus_millis(leeway))
    }
}

/// Who bears a good token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub account: Named,
    /// What else the token says, as `UserInfo.extra`.
    pub extra: BTreeMap<String, Vec<String>>,
    /// The audiences that were asked for and that the token is for.
    pub audiences: Vec<String>,
}

/// Why a token is not good, in the words of a real server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is none of this cluster's.
    #[error("invalid bearer token")]
    Foreign,
    /// It was for another one.
    #[error("token audiences {held:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        /// Whom it is for.
        held: Vec<String>,
        /// Who asked.
        wanted: Vec<String>,
    },
    /// Its time is over.
    #[error("service account token has expired")]
    Expired,
    /// What it names is gone.
    #[error("service account token has been invalidated")]
    Invalidated,
}

impl Claims {
    /// The claims in a token's payload.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let claims: Self = serde_json::from_slice(payload).ok()?;
        (claims.aud.len() <= TOKEN_AUDIENCES_MAX).then_some(claims)
    }

    /// Who bears the token, if it is good for one of the audiences (none: for the API server).
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge(
        &self,
        world: &World,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Bearer, Refusal> {
        if self.iss != ISSUER {
            return Err(Refusal::Foreign);
        }
        if now.seconds() >= self.exp {
            return Err(Refusal::Expired);
        }
        let own = [ISSUER.to_owned()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        let good: Vec<String> = wanted.iter().filter(|it| self.aud.contains(it)).cloned().collect();
        if good.is_empty() {
            let (held, wanted) = (self.aud.clone(), wanted.to_vec());
            return Err(Refusal::Audience { held, wanted });
        }
        match self.holds(world, now) {
            true => Ok(self.bearer(good)),
            false => Err(Refusal::Invalidated),
        }
    }

    /// Whether everything that the token names is still there.
    fn holds(&self, world: &World, now: Timestamp) -> bool {
        let Bound { namespace, node, pod, secret, serviceaccount: account } = &self.bound;
        let plain = |kind: &str, it: &Named| {
            let found = world.plain(kind, namespace, &it.name);
            found.is_some_and(|found| it.is(&found.meta, now))
        };
        let pod_holds = |it: &Named| {
            let found = world.pod(namespace, &it.name);
            let on = |on: &Named, at: &str| on.name == at;
            found.is_some_and(|found| {
                it.is(&found.meta, now) && node.as_ref().is_none_or(|n| on(n, &found.node))
            })
        };
        // The node of a bound pod may have been registered anew, under another uid.
        let node_holds = |it: &Named| {
            pod.is_some() || world.node(&it.name).is_some_and(|found| it.is(&found.meta, now))
        };
        plain(&kind::SERVICE_ACCOUNTS, account)
            && pod.as_ref().is_none_or(pod_holds)
            && node.as_ref().is_none_or(node_holds)
            && secret.as_ref().is_none_or(|it| plain(&kind::SECRETS, it))
    }

    fn bearer(&self, audiences: Vec<String>) -> Bearer {
        let Bound { namespace, node, pod, serviceaccount: account, .. } = &self.bound;
        let mut extra = BTreeMap::new();
        let mut put = |what: &str, value: &str| {
            extra.insert(format!("{EXTRA}{what}"), vec![value.to_owned()]);
        };
        put("credential-id", &format!("JTI={}", self.jti));
        for (it, name, uid) in [(node, "node-name", "node-uid"), (pod, "pod-name", "pod-uid")] {
            if let Some(it) = it {
                put(name, &it.name);
                put(uid, &it.uid);
            }
        }
        Bearer { namespace: namespace.clone(), account: account.clone(), extra, audiences }
    }
}

/// What a token may be bound to besides its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindKind {
    /// A pod, and the node that it is on.
    Pod,
    /// A node.
    Node,
    /// A Secret.
    Secret,
}

/// What a token is to be bound to: name, and uid if that is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindTo {
    /// What it is.
    pub kind: BindKind,
    /// Its name.
    pub name: String,
    /// The uid that it has to have.
    pub uid: Option<Uid>,
}

/// Why a token cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// There is no such object.
    #[error("{0} not found")]
    Missing(ObjectKey),
    /// The object of this name has another uid.
    #[error("{0} is another object by now")]
    Another(ObjectKey),
    /// The pod runs as another account.
    #[error("pod {0} runs as another account")]
    Foreign(String),
}

/// The objects that a new token of this account is to name.
///
/// # Errors
/// [`BindError`].
pub fn bind(
    world: &World,
    namespace: &str,
    account: &str,
    to: Option<&BindTo>,
) -> Result<Bound, BindError> {
    let key = |kind: KindKey, name: &str| {
        let namespace = if kind == kind::NODES { String::new() } else { namespace.to_owned() };
        ObjectKey { kind, namespace, name: name.to_owned() }
    };
    let found = world.plain(&kind::SERVICE_ACCOUNTS, namespace, account);
    let missing = || BindError::Missing(key(kind::SERVICE_ACCOUNTS, account));
    let mut bound = Bound {
        namespace: namespace.to_owned(),
        serviceaccount: Named::of(&found.ok_or_else(missing)?.meta),
        ..Bound::default()
    };
    let Some(BindTo { kind: of, name, uid }) = to else { return Ok(bound) };
    let check = |kind: KindKey, meta: Option<&Meta>| {
        let meta = meta.ok_or_else(|| BindError::Missing(key(kind.clone(), name)))?;
        match uid.is_none_or(|uid| uid == meta.uid) {
            true => Ok(Some(Named::of(meta))),
            false => Err(BindError::Another(key(kind, name))),
        }
    };
    match of {
        BindKind::Pod => {
            let pod = world.pod(namespace, name);
            bound.pod = check(kind::PODS, pod.map(|pod| &pod.meta))?;
            let pod = pod.filter(|pod| pod.account() == account);
            let pod = pod.ok_or_else(|| BindError::Foreign(name.clone()))?;
            bound.node = world.node(&pod.node).map(|node| Named::of(&node.meta));
        }
        BindKind::Node => {
            bound.node = check(kind::NODES, world.node(name).map(|node| &node.meta))?;
        }
        BindKind::Secret => {
            let secret = world.plain(&kind::SECRETS, namespace, name);
            bound.secret = check(kind::SECRETS, secret.map(|secret| &secret.meta))?;
        }
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use model::ids::Version;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn put(world: &mut World, key: (&str, &str, &str), uid: u8, body: &str) {
        let (kind, namespace, name) = key;
        let key = ObjectKey {
            kind: kind.to_owned().into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        world.apply(&key, Version(1), Uid([uid; 16]), Some(body.as_bytes())).expect("an object");
    }

    fn world() -> World {
        let mut world = World::default();
        put(&mut world, ("/serviceaccounts", "ns", "web"), 1, r#"{"metadata":{}}"#);
        put(&mut world, ("/nodes", "", "pi-1"), 2, r#"{"metadata":{}}"#);
        let pod = r#"{"metadata":{},"spec":{"nodeName":"pi-1","serviceAccountName":"web"}}"#;
        put(&mut world, ("/pods", "ns", "web-1"), 3, pod);
        put(&mut world, ("/secrets", "ns", "s"), 4, r#"{"metadata":{}}"#);
        world
    }

    fn claims(bound: Bound) -> Claims {
        Claims {
            aud: vec![ISSUER.to_owned()],
            exp: NOW.seconds() + 3600,
            iat: NOW.seconds(),
            iss: ISSUER.to_owned(),
            jti: "j".to_owned(),
            bound,
            nbf: NOW.seconds(),
            sub: "system:serviceaccount:ns:web".to_owned(),
        }
    }

    fn to(kind: BindKind, name: &str, uid: Option<Uid>) -> BindTo {
        BindTo { kind, name: name.to_owned(), uid }
    }

    fn of_pod(world: &World) -> Claims {
        let to = to(BindKind::Pod, "web-1", None);
        claims(bind(world, "ns", "web", Some(&to)).expect("bound"))
    }

    #[test]
    fn a_token_tells_who_bears_it() {
        let world = world();
        let token = of_pod(&world);
        let text = serde_json::to_vec(&token).expect("text");
        assert_eq!(Claims::parse(&text), Some(token.clone()));
        let bearer = token.judge(&world, &[], NOW).expect("good");
        assert_eq!((bearer.namespace.as_str(), bearer.account.name.as_str()), ("ns", "web"));
        let extra = |what: &str| bearer.extra[&format!("{EXTRA}{what}")][0].clone();
        assert_eq!(extra("pod-name"), "web-1");
        assert_eq!(extra("node-name"), "pi-1");
        assert_eq!(extra("credential-id"), "JTI=j");
        assert_eq!(bearer.audiences, [ISSUER]);
    }

    #[test]
    fn a_token_ends_with_its_time_and_is_for_its_audience() {
        let world = world();
        let token = of_pod(&world);
        let at = |seconds: i64| token.judge(&world, &[], NOW.plus_millis(seconds * 1_000));
        assert!(at(3599).is_ok());
        assert_eq!(at(3600), Err(Refusal::Expired));
        let asked = |audiences: &[&str]| {
            let audiences: Vec<String> = audiences.iter().map(|&it| it.to_owned()).collect();
            token.judge(&world, &audiences, NOW).map(|bearer| bearer.audiences)
        };
        assert_eq!(asked(&["vault", ISSUER]), Ok(vec![ISSUER.to_owned()]));
        assert!(matches!(asked(&["vault"]), Err(Refusal::Audience { .. })));
        let foreign = Claims { iss: "https://other".to_owned(), ..token.clone() };
        assert_eq!(foreign.judge(&world, &[], NOW), Err(Refusal::Foreign));
        // A token of a clock that was ahead is good: it was this cluster that signed it.
        let ahead = Claims { nbf: NOW.seconds() + 600, ..token.clone() };
        assert!(ahead.judge(&world, &[], NOW).is_ok());
    }

    #[test]
    fn a_token_is_no_good_once_what_it_names_is_gone_or_another() {
        let check = |kind: &str, namespace: &str, name: &str, to: Option<BindTo>| {
            let mut world = world();
            let token = claims(bind(&world, "ns", "web", to.as_ref()).expect("bound"));
            assert!(token.judge(&world, &[], NOW).is_ok(), "{kind}");
            put(&mut world, (kind, namespace, name), 9, r#"{"metadata":{}}"#);
            assert_eq!(
                token.judge(&world, &[], NOW),
                Err(Refusal::Invalidated),
                "{kind} is another"
            );
            let key = ObjectKey {
                kind: kind.to_owned().into(),
                namespace: namespace.into(),
                name: name.into(),
            };
            world.apply(&key, Version(2), Uid([9; 16]), None).expect("gone");
            assert_eq!(token.judge(&world, &[], NOW), Err(Refusal::Invalidated), "{kind} is gone");
        };
        check("/serviceaccounts", "ns", "web", None);
        check("/serviceaccounts", "ns", "web", Some(to(BindKind::Pod, "web-1", None)));
        check("/pods", "ns", "web-1", Some(to(BindKind::Pod, "web-1", None)));
        check("/secrets", "ns", "s", Some(to(BindKind::Secret, "s", None)));
        check("/nodes", "", "pi-1", Some(to(BindKind::Node, "pi-1", None)));
    }

    #[test]
    fn a_pod_that_is_being_deleted_keeps_its_token_for_its_grace() {
        let mut world = world();
        let token = of_pod(&world);
        let until = NOW.plus_millis(30_000);
        let pod = format!(
            r#"{{"metadata":{{"deletionTimestamp":"{until}"}},"spec":{{"nodeName":"pi-1",
                "serviceAccountName":"web"}}}}"#
        );
        put(&mut world, ("/pods", "ns", "web-1"), 3, &pod);
        assert!(token.judge(&world, &[], until.plus_millis(59_000)).is_ok());
        let late = token.judge(&world, &[], until.plus_millis(60_000));
        assert_eq!(late, Err(Refusal::Invalidated));
    }

    #[test]
    fn nothing_is_bound_to_what_there_is_not() {
        let mut world = world();
        put(&mut world, ("/serviceaccounts", "ns", "admin"), 7, r#"{"metadata":{}}"#);
        let refused = |account: &str, to: Option<BindTo>| {
            bind(&world, "ns", account, to.as_ref()).expect_err("refused")
        };
        let missing = |error: BindError| match error {
            BindError::Missing(key) => key.kind,
            other => panic!("{other}"),
        };
        assert_eq!(missing(refused("other", None)), kind::SERVICE_ACCOUNTS);
        let pod = Some(to(BindKind::Pod, "web-2", None));
        assert_eq!(missing(refused("web", pod)), kind::PODS);
        let other = Some(Uid([9; 16]));
        for (kind, name) in
            [(BindKind::Pod, "web-1"), (BindKind::Node, "pi-1"), (BindKind::Secret, "s")]
        {
            let error = refused("web", Some(to(kind, name, other)));
            assert!(matches!(error, BindError::Another(_)), "{error}");
        }
        let foreign = refused("admin", Some(to(BindKind::Pod, "web-1", None)));
        assert_eq!(foreign, BindError::Foreign("web-1".to_owned()));
    }
}
