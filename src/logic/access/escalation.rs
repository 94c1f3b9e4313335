//! Nobody gives rights that they do not have: as `policy_comparator.go` and `ConfirmNoEscalation` of
//! Kubernetes.
//!
//! A rule is broken down to single rights (one verb, group, resource, name); each has to be covered by
//! one rule of the giver. Broken down it may be a thousand times larger, so nothing of that is kept, and
//! beyond [`ACCESS_RIGHTS_MAX`] rights the answer is no.

use std::collections::{BTreeMap, BTreeSet};

use model::access::{PolicyRule, UserInfo};
use model::limits::{ACCESS_MISSING_MAX, ACCESS_RIGHTS_MAX};
use model::validation::error::go_quote;

use super::rbac::{RulesOf, covers_path};

/// Checks that a user who has the rights `own` holds all those of `rules`.
///
/// # Errors
/// It does not: the words of a real server, which list what is missing.
pub fn confirm(user: &UserInfo, own: &RulesOf, rules: &[PolicyRule]) -> Result<(), String> {
    let missing = match missing(&own.rules, rules) {
        Ok(missing) if missing.is_empty() => return Ok(()),
        Ok(missing) => missing,
        Err(TooMany) => {
            return Err(format!(
                "the rules stand for more than {ACCESS_RIGHTS_MAX} rights: only a member of \
                 system:masters may grant so many at once"
            ));
        }
    };
    let shown: BTreeSet<String> = compact(missing).iter().map(show).collect();
    let groups: Vec<String> = user.groups.iter().map(|group| go_quote(group)).collect();
    let mut text = format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&user.name),
        groups.join(" "),
        shown.into_iter().collect::<Vec<_>>().join("\n"),
    );
    if !own.missing.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", own.missing.join(" ")));
    }
    Err(text)
}

/// Rules for what `wanted` has and `own` does not cover, the verbs on one thing together.
pub fn missing_rules(own: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    compact(missing(own, wanted).unwrap_or_default())
}

/// The rights of everybody who may do everything.
pub fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    let resources =
        PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() };
    let paths = PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() };
    [resources, paths]
}

/// The rules stand for more rights than are looked at.
struct TooMany;

/// One right.
struct Right<'a> {
    verb: &'a str,
    /// Group, resource and name; a path for rights outside the resources.
    on: On<'a>,
}

enum On<'a> {
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str> },
    Path(&'a str),
}

/// The rights among `wanted` that no rule of `own` covers, the first [`ACCESS_MISSING_MAX`] of them.
fn missing(own: &[PolicyRule], wanted: &[PolicyRule]) -> Result<Vec<PolicyRule>, TooMany> {
    let count: usize = wanted.iter().map(rights).fold(0, usize::saturating_add);
    if count.saturating_mul(own.len().max(1)) > ACCESS_RIGHTS_MAX {
        return Err(TooMany);
    }
    let mut missing = Vec::new();
    for rule in wanted {
        for_each_right(rule, &mut |right| {
            let covered = own.iter().any(|rule| covers(rule, &right));
            if !covered && missing.len() < ACCESS_MISSING_MAX {
                missing.push(right.to_rule());
            }
        });
    }
    Ok(missing)
}

/// How many rights a rule stands for.
fn rights(rule: &PolicyRule) -> usize {
    let objects = rule.api_groups.len().saturating_mul(rule.resources.len());
    let objects = objects.saturating_mul(rule.resource_names.len().max(1));
    objects.saturating_add(rule.non_resource_urls.len()).saturating_mul(rule.verbs.len())
}

fn for_each_right<'a>(rule: &'a PolicyRule, take: &mut dyn FnMut(Right<'a>)) {
    let names: Vec<Option<&str>> = match rule.resource_names.as_slice() {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                for &name in &names {
                    take(Right { verb, on: On::Resource { group, resource, name } });
                }
            }
        }
    }
    for path in &rule.non_resource_urls {
        for verb in &rule.verbs {
            take(Right { verb, on: On::Path(path) });
        }
    }
}

fn covers(rule: &PolicyRule, right: &Right<'_>) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|text| text == wanted || text == "*");
    if !has(&rule.verbs, right.verb) {
        return false;
    }
    match right.on {
        On::Path(path) => rule.non_resource_urls.iter().any(|url| covers_path(url, path)),
        On::Resource { group, resource, name } => {
            let part = resource.split_once('/').map(|(_, part)| format!("*/{part}"));
            let is_part = |text: &String| part.as_ref() == Some(text);
            let names = &rule.resource_names;
            has(&rule.api_groups, group)
                && (has(&rule.resources, resource) || rule.resources.iter().any(is_part))
                && (names.is_empty() || name.is_some_and(|name| names.iter().any(|it| it == name)))
        }
    }
}

impl Right<'_> {
    fn to_rule(&self) -> PolicyRule {
        let verbs = vec![self.verb.to_owned()];
        match self.on {
            On::Path(path) => PolicyRule {
                verbs,
                non_resource_urls: vec![path.to_owned()],
                ..PolicyRule::default()
            },
            On::Resource { group, resource, name } => PolicyRule {
                verbs,
                api_groups: vec![group.to_owned()],
                resources: vec![resource.to_owned()],
                resource_names: name.map(str::to_owned).into_iter().collect(),
                ..PolicyRule::default()
            },
        }
    }
}

/// What a right is on: API groups, resources and names.
type Object = (Vec<String>, Vec<String>, Vec<String>);

/// Puts the verbs of rights on the same thing together.
fn compact(rights: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut by_object: BTreeMap<Object, PolicyRule> = BTreeMap::new();
    let mut compacted = Vec::new();
    for right in rights {
        if !right.non_resource_urls.is_empty() {
            compacted.push(right);
            continue;
        }
        let object: Object =
            (right.api_groups.clone(), right.resources.clone(), right.resource_names.clone());
        match by_object.get_mut(&object) {
            None => drop(by_object.insert(object, right)),
            Some(known) => {
                let fresh = right.verbs.into_iter().filter(|verb| !known.verbs.contains(verb));
                let fresh: Vec<String> = fresh.collect();
                known.verbs.extend(fresh);
            }
        }
    }
    compacted.extend(by_object.into_values());
    compacted
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
fn show(rule: &PolicyRule) -> String {
    let lists = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts = lists.iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| {
        let quoted: Vec<String> = list.iter().map(|text| go_quote(text)).collect();
        format!("{name}:[{}]", quoted.join(" "))
    });
    format!("{{{}}}", parts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(lists: [&[&str]; 5]) -> PolicyRule {
        let [verbs, api_groups, resources, resource_names, non_resource_urls] =
            lists.map(|list| list.iter().map(|&text| text.to_owned()).collect());
        PolicyRule { verbs, api_groups, resources, resource_names, non_resource_urls }
    }

    fn check(own: &[PolicyRule], wanted: PolicyRule, expected: &[&str]) {
        let missing = missing(own, std::slice::from_ref(&wanted)).unwrap_or_default();
        let mut shown: Vec<String> = compact(missing).iter().map(show).collect();
        shown.sort();
        assert_eq!(shown, expected, "{wanted:?} of {own:?}");
    }

    #[test]
    fn what_is_missing_is_named_by_object() {
        let own = [rule([&["get", "list"], &[""], &["pods", "*/scale"], &[], &[]])];
        check(&own, rule([&["get"], &[""], &["pods"], &["one"], &[]]), &[]);
        check(&own, rule([&["get"], &[""], &["deployments/scale"], &[], &[]]), &[]);
        check(
            &own,
            rule([&["get", "watch", "delete"], &[""], &["pods"], &[], &[]]),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}"#],
        );
        check(
            &own,
            rule([&["*"], &["*"], &["*"], &[], &[]]),
            &[r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#],
        );
        check(&everything(), rule([&["*"], &["*"], &["*"], &[], &[]]), &[]);
        check(&everything(), rule([&["get"], &[], &[], &[], &["/x"]]), &[]);
        let paths = [rule([&["get"], &[], &[], &[], &["/healthz*"]])];
        check(&paths, rule([&["get"], &[], &[], &[], &["/healthz/ping"]]), &[]);
        check(
            &paths,
            rule([&["get"], &[], &[], &[], &["/*"]]),
            &[r#"{NonResourceURLs:["/*"], Verbs:["get"]}"#],
        );
    }

    #[test]
    fn a_name_does_not_stand_for_all() {
        let own = [rule([&["get"], &[""], &["secrets"], &["mine"], &[]])];
        check(&own, rule([&["get"], &[""], &["secrets"], &["mine"], &[]]), &[]);
        let all = [r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#];
        check(&own, rule([&["get"], &[""], &["secrets"], &[], &[]]), &all);
        let other =
            [r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["x"], Verbs:["get"]}"#];
        check(&own, rule([&["get"], &[""], &["secrets"], &["mine", "x"], &[]]), &other);
    }

    #[test]
    fn a_rule_that_stands_for_millions_is_not_broken_down() {
        let many: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        let wanted = PolicyRule {
            verbs: many.clone(),
            api_groups: many.clone(),
            resources: many,
            ..PolicyRule::default()
        };
        assert!(missing(&everything(), &[wanted]).is_err());
    }
}
