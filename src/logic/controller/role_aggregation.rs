//! ClusterRoles with an `aggregationRule` have the rules of those that their selectors choose: each rule
//! once, by selector and then by name (upstream's `clusterroleaggregation`).

use std::collections::HashSet;

use model::access::{PolicyRule, Rules};
use model::ids::ObjectKey;
use model::limits::ACCESS_RULES_MAX;
use model::timestamp::Timestamp;
use model::view::{Labels, RoleView, View, kind};
use serde_json::json;

use super::{Controller, Op, Plan};
use crate::world::{Changed, World};

/// The controller of their rules.
#[derive(Debug)]
pub struct RoleAggregationController;

impl Controller for RoleAggregationController {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        if changed.key.kind != kind::CLUSTER_ROLES {
            return;
        }
        let old = match &changed.old {
            Some(View::Role(role)) => Some(&role.meta.labels),
            _ => None,
        };
        let new = world.role("", &changed.key.name).map(|role| &role.meta.labels);
        let chosen = |role: &&RoleView| {
            let chooses = |labels: &Labels| role.gathers.iter().any(|it| it.matches(labels));
            !role.gathers.is_empty()
                && (*role.meta.name == *changed.key.name || old.into_iter().chain(new).any(chooses))
        };
        let gathering = world.cluster_roles().filter(chosen);
        keys.extend(gathering.map(|role| role.meta.key(kind::CLUSTER_ROLES)));
    }

    fn plan(&self, world: &World, key: &ObjectKey, _: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let role = world.role("", &key.name).filter(|role| !role.gathers.is_empty());
        let Some(role) = role.filter(|role| role.meta.deleting.is_none()) else { return plan };
        let rules = gathered(world, role);
        if Rules::pack(&rules) != role.rules {
            plan.ops.push(Op::Patch {
                key: key.clone(),
                base: role.meta.version,
                subresource: None,
                merge: json!({ "rules": rules }),
            });
        }
        plan
    }
}

fn gathered(world: &World, into: &RoleView) -> Vec<PolicyRule> {
    let mut known = HashSet::new();
    let mut rules = Vec::new();
    for selector in &into.gathers {
        let others = world.cluster_roles().filter(|role| role.meta.name != into.meta.name);
        for role in others.filter(|role| selector.matches(&role.meta.labels)) {
            for rule in role.rules.iter().map(PolicyRule::from) {
                if rules.len() < ACCESS_RULES_MAX && known.insert(rule.clone()) {
                    rules.push(rule);
                }
            }
        }
    }
    rules
}
