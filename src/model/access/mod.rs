//! Who asks the API, and the words of access control: users, groups, policy rules.
//!
//! Shapes and names are those of `k8s.io/apiserver/pkg/authentication/user` and `k8s.io/api/rbac/v1`.
//! What the words mean is decided in `logic::access`.

pub mod bootstrap;
mod rules;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use rules::{List, PolicyRule, Rule, Rules};

/// The API group of roles and bindings.
pub const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of everybody else.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of boards.
pub const NODES: &str = "system:nodes";
/// What the name of a board's user begins with.
pub const NODE_PREFIX: &str = "system:node:";
/// The group of all service accounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// What the name of a service account's user begins with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserInfo {
    /// User name.
    pub name: String,
    /// Uid, empty for users without one.
    #[serde(default)]
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else is known, by name.
    #[serde(default)]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with these groups and nothing else.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let groups = groups.into_iter().collect();
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|found| found == group)
    }
}

/// The user of a service account.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The groups of a service account, [`AUTHENTICATED`] apart.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.into(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

/// Namespace and name of the service account that a user is.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let good = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
    good.then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_accounts_have_a_user_and_groups() {
        let user = service_account_user("shop", "robot");
        assert_eq!(user, "system:serviceaccount:shop:robot");
        assert_eq!(split_service_account(&user), Some(("shop", "robot")));
        let groups = ["system:serviceaccounts", "system:serviceaccounts:shop"];
        assert_eq!(service_account_groups("shop"), groups);
        for other in ["system:serviceaccount:shop", "system:serviceaccount::x", "a:b:c:d", "x"] {
            assert_eq!(split_service_account(other), None, "{other}");
        }
        assert_eq!(split_service_account("system:serviceaccount:a:b:c"), None);
    }
}
