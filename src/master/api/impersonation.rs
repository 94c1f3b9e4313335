//! Acting for somebody else: the `Impersonate-*` headers (`kubectl --as`).
//!
//! Whoever asks needs the verb `impersonate` on each thing that they want to be, as in
//! `k8s.io/apiserver/pkg/endpoints/filters/impersonation.go`.

use http::HeaderMap;
use logic::access::{Ask, Resource, What};
use logic::world::World;
use model::access::{
    ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo, service_account_groups,
    split_service_account,
};
use model::limits::IMPERSONATION_MAX;
use model::status::ApiError;

use super::auth::permit;
use super::query;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
/// The group of the rights to act as one with such extras.
const EXTRAS_GROUP: &str = "authentication.k8s.io";

/// The user that a request acts as; `None` when it acts for whoever sends it.
///
/// # Errors
/// 403 when they may not, 500 (as the real server says) for a group or extra without a user.
pub(super) fn acting(
    world: &World,
    user: &UserInfo,
    headers: &HeaderMap,
) -> Result<Option<UserInfo>, ApiError> {
    let wish = Wish::read(headers)?;
    let Some(name) = wish.user.as_deref() else {
        return match wish.is_empty() {
            true => Ok(None),
            false => Err(ApiError::internal(
                "Internal error occurred: groups, uid or extras were requested without \
                 impersonating a user",
            )),
        };
    };
    let may = |asked: Resource<'_>| {
        permit(world, &Ask { user, verb: "impersonate", what: What::Resource(asked) })
    };
    let v1 = Resource { version: "v1", ..Resource::default() };
    let mut groups = wish.groups.clone();
    match split_service_account(name) {
        Some((namespace, name)) => {
            may(Resource { plural: "serviceaccounts", namespace, name, ..v1 })?;
            if groups.is_empty() {
                groups = service_account_groups(namespace);
            }
        }
        None => may(Resource { plural: "users", name, ..v1 })?,
    }
    let extras = Resource { group: EXTRAS_GROUP, ..v1 };
    if let Some(uid) = &wish.uid {
        may(Resource { plural: "uids", name: uid, ..extras })?;
    }
    for group in &wish.groups {
        may(Resource { plural: "groups", name: group, ..v1 })?;
    }
    for (key, value) in &wish.extra {
        may(Resource { plural: "userextras", subresource: key, name: value, ..extras })?;
    }
    let known = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        groups.push(known.into());
    }
    let mut other = UserInfo::new(name, groups);
    other.uid = wish.uid.unwrap_or_default();
    for (key, value) in wish.extra {
        other.extra.entry(key).or_default().push(value);
    }
    Ok(Some(other))
}

/// What the headers say.
#[derive(Default)]
struct Wish {
    user: Option<String>,
    uid: Option<String>,
    groups: Vec<String>,
    extra: Vec<(String, String)>,
}

impl Wish {
    fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut wish = Self::default();
        let mut count = 0;
        for (name, value) in headers {
            let name = name.as_str();
            if !name.starts_with("impersonate-") {
                continue;
            }
            count += 1;
            let text = value.to_str().map_err(|_| bad("a header of impersonation is no text"))?;
            if count > IMPERSONATION_MAX {
                return Err(bad("too many headers of impersonation"));
            }
            match name {
                USER if !text.is_empty() => wish.user = Some(text.to_owned()),
                UID if !text.is_empty() => wish.uid = Some(text.to_owned()),
                GROUP => wish.groups.push(text.to_owned()),
                _ => {
                    let Some(key) = name.strip_prefix(EXTRA) else { continue };
                    let key = query::decode(key, false).unwrap_or_else(|| key.to_owned());
                    wish.extra.push((key, text.to_owned()));
                }
            }
        }
        Ok(wish)
    }

    fn is_empty(&self) -> bool {
        self.uid.is_none() && self.groups.is_empty() && self.extra.is_empty()
    }
}

fn bad(why: &str) -> ApiError {
    ApiError::bad_request(why)
}
