//! Rules of roles: do they allow it? As `plugin/pkg/auth/authorizer/rbac` and
//! `pkg/registry/rbac/validation` of Kubernetes do it.

use model::access::{List, PolicyRule, Rule, UserInfo};
use model::limits::ACCESS_RULES_MAX;
use model::view::{BindingView, RoleView, Subject};

use super::{Ask, Grant, What};
use crate::world::World;

/// Roles that a binding names and nobody has made are told of, up to so many.
const MISSING_MAX: usize = 8;

/// What allows it.
///
/// # Errors
/// Nothing does: which roles are missing that bindings name, or nothing.
pub(super) fn decide<'a>(world: &'a World, ask: &Ask<'a>) -> Result<Grant<'a>, String> {
    let namespace = match ask.what {
        What::Resource(resource) => resource.namespace,
        What::Path(_) => "",
    };
    let mut missing = Vec::new();
    for (binding, subject) in held(world, ask.user, namespace) {
        match role_of(world, binding) {
            Some(role) if role.rules.iter().any(|rule| allows(&rule, ask)) => {
                return Ok(Grant { binding, subject });
            }
            Some(_) => {}
            None if missing.len() < MISSING_MAX => missing.push(missing_role(binding)),
            None => {}
        }
    }
    missing.dedup();
    Err(match missing.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        many => format!("RBAC: [{}]", many.join(", ")),
    })
}

/// The bindings of the cluster and then of the namespace.
fn held<'a>(
    world: &'a World,
    user: &'a UserInfo,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a BindingView, &'a Subject)> {
    let here = (!namespace.is_empty()).then(|| world.bindings_of(user, namespace));
    world.bindings_of(user, "").chain(here.into_iter().flatten())
}

fn role_of<'a>(world: &'a World, binding: &BindingView) -> Option<&'a RoleView> {
    let namespace = if binding.role.is_cluster { "" } else { &*binding.meta.namespace };
    if namespace.is_empty() && !binding.role.is_cluster {
        return None;
    }
    world.role(namespace, &binding.role.name)
}

fn missing_role(binding: &BindingView) -> String {
    let kind = if binding.role.is_cluster { "clusterrole" } else { "role" };
    format!("{kind}.rbac.authorization.k8s.io {:?} not found", binding.role.name)
}

/// Whether a rule allows it.
fn allows(rule: &Rule<'_>, ask: &Ask<'_>) -> bool {
    if !(rule.verbs.has(ask.verb) || rule.verbs.has("*")) {
        return false;
    }
    match ask.what {
        What::Path(path) => path_matches(rule.urls, path),
        What::Resource(asked) => {
            (rule.groups.has(asked.group) || rule.groups.has("*"))
                && resource_matches(rule.resources, asked.plural, asked.subresource)
                && (rule.names.is_empty() || rule.names.has(asked.name))
        }
    }
}

fn resource_matches(resources: List<'_>, plural: &str, subresource: &str) -> bool {
    resources.iter().any(|rule| {
        if rule == "*" || subresource.is_empty() && rule == plural {
            return true;
        }
        let (parent, part) = rule.split_once('/').unwrap_or_default();
        !subresource.is_empty() && part == subresource && (parent == "*" || parent == plural)
    })
}

fn path_matches(urls: List<'_>, path: &str) -> bool {
    urls.iter().any(|url| covers_path(url, path))
}

/// Whether a path of a rule is that path, or ends in `*` and begins like it.
pub(super) fn covers_path(url: &str, path: &str) -> bool {
    // `*` alone is everything.
    url == path || url.ends_with('*') && path.starts_with(url.trim_end_matches('*'))
}

/// Every rule that a user has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesOf {
    /// In the order of the bindings.
    pub rules: Vec<PolicyRule>,
    /// Roles that are missing, as texts.
    pub missing: Vec<String>,
}

/// The rules that a user has in a namespace, those of the cluster included.
pub fn rules_of(world: &World, user: &UserInfo, namespace: &str) -> RulesOf {
    let mut found = RulesOf::default();
    for (binding, _) in held(world, user, namespace) {
        match role_of(world, binding) {
            Some(role) => {
                let room = ACCESS_RULES_MAX.saturating_sub(found.rules.len());
                found.rules.extend(role.rules.iter().map(PolicyRule::from).take(room));
            }
            None if found.missing.len() < MISSING_MAX => found.missing.push(missing_role(binding)),
            None => {}
        }
    }
    found
}
