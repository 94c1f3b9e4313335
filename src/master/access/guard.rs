//! What the content of a write must keep to, beyond the right to write: nobody gives rights that they
//! do not have (Kubernetes' `policybased` storages), and a board speaks of its own only (its
//! `NodeRestriction`).
//!
//! Asked by the registry with the stored object and the new one. Controllers are not asked.

use logic::access::escalation;
use logic::access::{self, Ask, Resource as Asked, RulesOf, What};
use model::access::{MASTERS, PolicyRule, RBAC_GROUP, UserInfo};
use model::resource::Resource;
use model::status::ApiError;
use model::view::kind;
use serde_json::Value;

use crate::master::authority;
use crate::master::controllers::Views;
use crate::master::keys;
use crate::master::members::Rows;
use crate::master::registry::{Guard, Target};

/// The guard of a write of this user; none when there is nothing to judge.
pub(in crate::master) fn of_write(
    views: &Views,
    user: &UserInfo,
    resource: &Resource,
) -> Option<Guard> {
    let of_user = of_user(views, user, resource);
    if resource.key != kind::CONFIG_MAPS {
        return of_user;
    }
    // Whoever it is: without the rows no master would take another's word any more, and a stolen master that
    // makes itself an administrator would take itself out of the lists.
    Some(Guard::new(move |target, old, new| {
        if authority::is_key(&target.key()) {
            return Err(authority::kept());
        }
        if keys::is_kept_list(&target.key()) {
            return Err(keys::kept(&target.key()));
        }
        if Rows::is_key(&target.key()) {
            Rows::may_edit(old, new)?;
        }
        of_user.as_ref().map_or(Ok(()), |guard| guard.judge(target, old, new))
    }))
}

fn of_user(views: &Views, user: &UserInfo, resource: &Resource) -> Option<Guard> {
    if user.is_in(MASTERS) {
        return None;
    }
    let (views, user) = (views.clone(), user.clone());
    if resource.group == RBAC_GROUP {
        return Some(Guard::new(move |target, old, new| {
            let writer = Writer { views: &views, user: &user, target };
            match target.resource.kind {
                "Role" | "ClusterRole" => writer.may_write_role(old, new),
                _ => writer.may_bind(old, new),
            }
        }));
    }
    let node = access::node_of(&user)?.to_owned();
    Some(Guard::new(move |target, old, new| may_report(&node, target, old, new)))
}

/// Somebody who writes a role or a binding.
struct Writer<'a> {
    views: &'a Views,
    user: &'a UserInfo,
    target: &'a Target,
}

impl Writer<'_> {
    fn may_write_role(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        let Resource { group, version, plural, .. } = *self.target.resource;
        let namespace = &*self.target.namespace;
        // The name of what is created is in no path: a right on one name does not count.
        let name = if old.is_some() { &*self.target.name } else { "" };
        let asked = Asked { group, version, plural, namespace, name, ..Asked::default() };
        if changes_nothing(old, new) || self.may("escalate", asked) {
            return Ok(());
        }
        let own = self.own_rules();
        self.confirm(&own, &rules(new))?;
        let gathers = |role: &Value| {
            let selectors = role["aggregationRule"]["clusterRoleSelectors"].as_array();
            selectors.is_some_and(|selectors| !selectors.is_empty())
        };
        if gathers(new) || old.is_some_and(gathers) {
            let all = escalation::confirm(self.user, &own, &escalation::everything());
            let why = "must have cluster-admin privileges to use an aggregationRule";
            all.map_err(|_| self.forbidden(why))?;
        }
        Ok(())
    }

    fn may_bind(&self, old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
        if changes_nothing(old, new) {
            return Ok(());
        }
        let text = |field: &str| new["roleRef"][field].as_str().unwrap_or_default();
        let group = if text("apiGroup").is_empty() { RBAC_GROUP } else { text("apiGroup") };
        let name = text("name");
        let is_cluster = text("kind") == "ClusterRole";
        let plural = if is_cluster { "clusterroles" } else { "roles" };
        let namespace = &*self.target.namespace;
        let asked = Asked { group, version: "v1", plural, namespace, name, ..Asked::default() };
        if self.may("bind", asked) {
            return Ok(());
        }
        let of = if is_cluster { "" } else { namespace };
        let rules: Vec<PolicyRule> = {
            let world = self.views.world();
            let role = world.role(of, name).filter(|_| is_cluster || !namespace.is_empty());
            let role = role.ok_or_else(|| ApiError::not_found(RBAC_GROUP, plural, name))?;
            role.rules.iter().map(PolicyRule::from).collect()
        };
        self.confirm(&self.own_rules(), &rules)
    }

    fn may(&self, verb: &str, asked: Asked<'_>) -> bool {
        let ask = Ask { user: self.user, verb, what: What::Resource(asked) };
        access::may(&self.views.world(), &ask)
    }

    fn own_rules(&self) -> RulesOf {
        access::rules_of(&self.views.world(), self.user, &self.target.namespace)
    }

    fn confirm(&self, own: &RulesOf, rules: &[PolicyRule]) -> Result<(), ApiError> {
        escalation::confirm(self.user, own, rules).map_err(|why| self.forbidden(&why))
    }

    fn forbidden(&self, why: &str) -> ApiError {
        let Target { resource, name, .. } = self.target;
        ApiError::forbidden(resource.group, resource.plural, name, why)
    }
}

fn rules(role: &Value) -> Vec<PolicyRule> {
    let rules = role["rules"].as_array().into_iter().flatten();
    // The schema check has passed: every one has the shape of a rule.
    rules.filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect()
}

/// Whether an update is only about when the object goes: owners and finalizers.
fn changes_nothing(old: Option<&Value>, new: &Value) -> bool {
    let Some(old) = old else { return false };
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = object["metadata"].as_object_mut() {
            let gone = ["ownerReferences", "finalizers", "resourceVersion", "managedFields"];
            gone.iter().for_each(|field| drop(meta.remove(*field)));
        }
        object
    };
    rest(old) == rest(new)
}

/// What a board may write: its Lease, and statuses that leave metadata and addresses as they are. Those
/// are told over the bus, where they are judged against what the cluster knows.
fn may_report(
    node: &str,
    target: &Target,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    let Resource { group, plural, key, .. } = *target.resource;
    let refuse = |why: &str| Err(ApiError::forbidden(group, plural, &target.name, why));
    if key == "coordination.k8s.io/leases" {
        return match target.name == node {
            true => Ok(()),
            false => {
                let why = format!(
                    "node {node:?} is not allowed to create a lease with a different name: can \
                     only access node lease with the same name as the requesting node"
                );
                refuse(&why)
            }
        };
    }
    let Some(old) = old else { return refuse("a board creates nothing but its Lease") };
    let meta = |object: &Value, field: &str| object["metadata"].get(field).cloned();
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        if meta(old, field) != meta(new, field) {
            return refuse(&format!("a board may not change metadata.{field} with a status"));
        }
    }
    let status = |object: &Value, field: &str| object["status"].get(field).cloned();
    for field in ["addresses", "podIP", "podIPs", "hostIP", "hostIPs"] {
        if status(old, field) != status(new, field) {
            return refuse(&format!("a board tells status.{field} over the bus only"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::join::{EVICTED, HOLDERS, WORKERS};
    use serde_json::json;

    use super::*;
    use crate::master::controllers::tests::Master;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_administrator_does_not_write_who_had_the_keys() {
        let mut master = Master::new().await;
        let user = UserInfo::new("a", [MASTERS.to_owned()]);
        let kind = model::resource::by_kind_key("/configmaps").expect("in the table");
        let guard = of_write(&master.views, &user, kind).expect("a guard");
        let judged = |namespace: &str, name: &str| {
            let target = Target::new(kind, namespace, name);
            let judged = guard.judge(&target, Some(&json!({ "data": { "a": "b" } })), &json!({}));
            judged.map_err(|error| error.code)
        };
        assert_eq!(judged("kube-system", HOLDERS), Err(403));
        assert_eq!(judged("kube-system", EVICTED), Err(403));
        assert_eq!(judged("kube-system", WORKERS), Ok(()));
        assert_eq!(judged("default", HOLDERS), Ok(()), "another one of that name");
        master.stop().await;
    }
}
