//! Which other pods a pod wants near it or far away: topology spread constraints, pod affinity and
//! anti-affinity.

use serde::Deserialize;

use super::labels::Labels;
use super::meta::null_as_empty;
use super::selector::{Operator, RawSelector, Requirement, Selector};

/// Pods that share a place with a pod, or must not: `PodAffinityTerm`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTerm {
    /// Boards with the same value of this label are one place.
    pub topology_key: Box<str>,
    /// Which pods.
    pub pods: PodSet,
}

/// A choice of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSet {
    /// By label.
    pub selector: Selector,
    /// In these namespaces.
    pub namespaces: Box<[Box<str>]>,
    /// And in namespaces with these labels; an empty selector means all.
    pub namespace_selector: Selector,
}

impl PodSet {
    /// Pods of one namespace.
    pub fn within(namespace: &str, selector: Selector) -> Self {
        let namespaces = [namespace.into()].into();
        Self { selector, namespaces, namespace_selector: Selector::default() }
    }

    /// The one namespace that it is about, if it is one.
    pub fn namespace(&self) -> Option<&str> {
        match &*self.namespaces {
            [one] if !self.namespace_selector.present => Some(one),
            _ => None,
        }
    }

    /// Whether a pod with these labels in this namespace is chosen.
    pub fn has(&self, namespace: &str, of_namespace: Option<&Labels>, labels: &Labels) -> bool {
        let named = || self.namespaces.iter().any(|it| **it == *namespace);
        let selected = || of_namespace.is_some_and(|it| self.namespace_selector.matches(it));
        (named() || selected()) && self.selector.matches(labels)
    }
}

/// How evenly pods are spread over places: `TopologySpreadConstraint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// How many more pods one place may have than another.
    pub max_skew: u64,
    /// Boards with the same value of this label are one place.
    pub topology_key: Box<str>,
    /// `DoNotSchedule` instead of `ScheduleAnyway`.
    pub is_hard: bool,
    /// Which pods are counted, in the pod's own namespace.
    pub selector: Selector,
    /// With fewer places than this, the emptiest counts as having no pods.
    pub min_domains: u64,
    /// Only boards that the pod's node affinity allows are counted.
    pub honors_affinity: bool,
    /// Only boards whose taints the pod bears are counted.
    pub honors_taints: bool,
}

/// All of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Company {
    /// Topology spread constraints.
    pub spread: Box<[Spread]>,
    /// Places must have such pods.
    pub near: Box<[PodTerm]>,
    /// Weights of such pods; negative ones repel.
    pub preferred: Box<[(i64, PodTerm)]>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawSpread {
    max_skew: u64,
    topology_key: Box<str>,
    when_unsatisfiable: Box<str>,
    label_selector: Option<RawSelector>,
    min_domains: Option<u64>,
    node_affinity_policy: Option<Box<str>>,
    node_taints_policy: Option<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    match_label_keys: Vec<Box<str>>,
}

impl RawSpread {
    pub(super) fn view(self, labels: &Labels) -> Spread {
        let honors = |policy: &Option<Box<str>>, default: bool| {
            policy.as_deref().map_or(default, |policy| policy == "Honor")
        };
        Spread {
            max_skew: self.max_skew,
            is_hard: &*self.when_unsatisfiable == "DoNotSchedule",
            selector: with_keys(self.label_selector, labels, &self.match_label_keys, &[]),
            min_domains: self.min_domains.unwrap_or(1),
            honors_affinity: honors(&self.node_affinity_policy, true),
            honors_taints: honors(&self.node_taints_policy, false),
            topology_key: self.topology_key,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPodAffinity {
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "null_as_empty"
    )]
    required: Vec<RawPodTerm>,
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "null_as_empty"
    )]
    preferred: Vec<RawWeighted>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawWeighted {
    weight: i64,
    pod_affinity_term: RawPodTerm,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodTerm {
    topology_key: Box<str>,
    label_selector: Option<RawSelector>,
    #[serde(deserialize_with = "null_as_empty")]
    namespaces: Vec<Box<str>>,
    namespace_selector: Option<RawSelector>,
    #[serde(deserialize_with = "null_as_empty")]
    match_label_keys: Vec<Box<str>>,
    #[serde(deserialize_with = "null_as_empty")]
    mismatch_label_keys: Vec<Box<str>>,
}

impl RawPodTerm {
    fn view(self, namespace: &str, labels: &Labels) -> PodTerm {
        let (same, other) = (&self.match_label_keys, &self.mismatch_label_keys);
        let selector = with_keys(self.label_selector, labels, same, other);
        let own = self.namespaces.is_empty() && self.namespace_selector.is_none();
        let namespaces = if own { [namespace.into()].into() } else { self.namespaces.into() };
        let namespace_selector = self.namespace_selector.into();
        let pods = PodSet { selector, namespaces, namespace_selector };
        PodTerm { topology_key: self.topology_key, pods }
    }
}

/// Required terms, and preferred ones with their weights.
pub(super) type Terms = (Box<[PodTerm]>, Vec<(i64, PodTerm)>);

impl RawPodAffinity {
    pub(super) fn split(self, namespace: &str, labels: &Labels, sign: i64) -> Terms {
        let required = self.required.into_iter().map(|term| term.view(namespace, labels));
        let preferred = self
            .preferred
            .into_iter()
            .map(|it| (sign * it.weight, it.pod_affinity_term.view(namespace, labels)));
        (required.collect(), preferred.collect())
    }
}

/// A selector, with the pod's own values of some labels (`matchLabelKeys`, KEP-3243 and KEP-3633).
fn with_keys(
    selector: Option<RawSelector>,
    labels: &Labels,
    same: &[Box<str>],
    other: &[Box<str>],
) -> Selector {
    let mut selector = Selector::from(selector);
    let mut requirements = std::mem::take(&mut selector.requirements).into_vec();
    for (keys, operator) in [(same, Operator::In), (other, Operator::NotIn)] {
        requirements.extend(keys.iter().filter_map(|key| {
            let values = vec![labels.get(key)?.into()];
            Some(Requirement { key: key.clone(), operator, values })
        }));
    }
    selector.requirements = requirements.into();
    selector
}
