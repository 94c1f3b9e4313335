//! What one pod wants of other pods, worked out once for all boards (upstream's `podtopologyspread`
//! and `interpodaffinity`).
//!
//! Deliberately absent: the wishes of pods that already run, other than to be alone; several required
//! affinity terms are each met by any pod, not all by the same one.

use std::collections::{HashMap, HashSet};

use model::view::{PodSet, PodView, Scheduling, Spread};

use super::board::{Board, Refusal};
use super::census::{Asked, Census, chosen};
use super::score::SCORE_MAX;

/// The wishes of one pod, and how the boards meet them.
#[derive(Default)]
pub(super) struct Company<'a> {
    spread: Vec<Evenness<'a>>,
    /// A label, and the places that have such pods; the pod may be the first of them itself.
    near: Vec<(&'a str, HashMap<&'a str, u32>, bool)>,
    /// A label, and the places that have pods to stay away from.
    apart: Vec<(&'a str, HashMap<&'a str, u32>)>,
    /// Labels and places whose pods want this one away.
    repelled: HashSet<(&'a str, &'a str)>,
    preferred: Vec<(i64, &'a str, HashMap<&'a str, u32>)>,
}

/// One spread constraint.
struct Evenness<'a> {
    wish: &'a Spread,
    /// Pods by place, of the boards that count.
    places: HashMap<&'a str, u64>,
    least: u64,
    /// The pod is one of those that are counted.
    itself: u64,
}

impl<'a> Company<'a> {
    pub(super) fn new(
        pod: &'a PodView,
        wish: &'a Scheduling,
        boards: &[Board<'a>],
        census: &mut Census<'a>,
    ) -> Self {
        let mut company = Self::default();
        let world = census.world();
        for (at, loner) in &census.loners {
            for term in loner.apart.iter().filter(|term| chosen(world, &term.pods, pod)) {
                let place = boards[*at].place(&term.topology_key);
                company.repelled.extend(place.map(|place| (&*term.topology_key, place)));
            }
        }
        for spread in &wish.company.spread {
            company.spread.push(Evenness::new(spread, pod, wish, boards, census));
        }
        for term in &wish.company.near {
            let places = census.domains(term, boards);
            let first = places.is_empty() && chosen(world, &term.pods, pod);
            company.near.push((&term.topology_key, places, first));
        }
        for term in &pod.apart {
            company.apart.push((&term.topology_key, census.domains(term, boards)));
        }
        for (weight, term) in &wish.company.preferred {
            company.preferred.push((*weight, &term.topology_key, census.domains(term, boards)));
        }
        company
    }

    /// Whether the pod may join the pods of a board, in upstream's words if not.
    pub(super) fn check(&self, board: &Board<'_>) -> Result<(), Refusal> {
        for even in self.spread.iter().filter(|even| even.wish.is_hard) {
            even.check(board)?;
        }
        let has = |key: &str, places: &HashMap<&str, u32>| {
            board.place(key).is_some_and(|place| places.contains_key(place))
        };
        let met = |(key, places, first): &(&str, HashMap<&str, u32>, bool)| {
            has(key, places) || (*first && board.place(key).is_some())
        };
        if !self.near.iter().all(met) {
            return Refusal::one("node(s) didn't match pod affinity rules", true);
        }
        if self.apart.iter().any(|(key, places)| has(key, places)) {
            return Refusal::one("node(s) didn't match pod anti-affinity rules", false);
        }
        let repels = |(key, place): &(&str, &str)| board.place(key) == Some(*place);
        if self.repelled.iter().any(repels) {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Refusal::one(reason, false);
        }
        Ok(())
    }

    /// How evenly pods are spread with each of these boards, from 0 to 100; upstream's
    /// normalisation. All the same without a soft constraint.
    pub(super) fn evenness(&self, boards: &[&Board<'_>]) -> Vec<u64> {
        let soft: Vec<&Evenness<'_>> = self.spread.iter().filter(|it| !it.wish.is_hard).collect();
        if soft.is_empty() {
            return vec![0; boards.len()];
        }
        let cost =
            |board: &&Board<'_>| -> Option<u64> { soft.iter().map(|even| even.cost(board)).sum() };
        let costs: Vec<Option<u64>> = boards.iter().map(cost).collect();
        let most = costs.iter().flatten().max().copied().unwrap_or_default();
        let least = costs.iter().flatten().min().copied().unwrap_or_default();
        let score = |cost: Option<u64>| match cost {
            None => 0,
            Some(_) if most == 0 => SCORE_MAX,
            Some(cost) => SCORE_MAX * (most + least - cost) / most,
        };
        costs.into_iter().map(score).collect()
    }

    /// How much the pod likes the pods of each of these boards, from 0 to 100.
    pub(super) fn liking(&self, boards: &[&Board<'_>]) -> Vec<u64> {
        let of = |board: &&Board<'_>| -> i64 {
            let weight = |(weight, key, places): &(i64, &str, HashMap<&str, u32>)| {
                let count = board.place(key).and_then(|place| places.get(place));
                weight * i64::from(count.copied().unwrap_or_default())
            };
            self.preferred.iter().map(weight).sum()
        };
        let liking: Vec<i64> = boards.iter().map(of).collect();
        let most = liking.iter().max().copied().unwrap_or_default();
        let least = liking.iter().min().copied().unwrap_or_default();
        let range = most.abs_diff(least).max(1);
        liking.into_iter().map(|it| SCORE_MAX * it.abs_diff(least) / range).collect()
    }
}

impl<'a> Evenness<'a> {
    fn new(
        spread: &'a Spread,
        pod: &PodView,
        wish: &Scheduling,
        boards: &[Board<'a>],
        census: &mut Census<'a>,
    ) -> Self {
        let pods = PodSet::within(&pod.meta.namespace, spread.selector.clone());
        let counts = census.count(&Asked { pods, leaving: false });
        let hard = || wish.company.spread.iter().filter(|it| it.is_hard);
        let mut places: HashMap<&'a str, u64> = HashMap::new();
        for (board, count) in boards.iter().zip(counts) {
            let known = hard().all(|it| board.place(&it.topology_key).is_some());
            let counts = known
                && (!spread.honors_affinity || board.matches_affinity(wish))
                && (!spread.honors_taints || board.unborne_taint(pod).is_none());
            if let Some(place) = board.place(&spread.topology_key).filter(|_| counts) {
                *places.entry(place).or_default() += u64::from(*count);
            }
        }
        let few = (places.len() as u64) < spread.min_domains;
        let least = if few { 0 } else { places.values().min().copied().unwrap_or_default() };
        let itself = u64::from(spread.selector.matches(&pod.meta.labels));
        Self { wish: spread, places, least, itself }
    }

    fn check(&self, board: &Board<'_>) -> Result<(), Refusal> {
        const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
        let Some(place) = board.place(&self.wish.topology_key) else {
            return Refusal::one(format!("{MISMATCH} (missing required label)"), true);
        };
        let have = self.places.get(place).copied().unwrap_or_default();
        if have + self.itself > self.wish.max_skew + self.least {
            return Refusal::one(MISMATCH, false);
        }
        Ok(())
    }

    /// What a board costs: more where there are many pods, weighed by the number of places
    /// (upstream's `scoreForCount` and `topologyNormalizingWeight`). `None` without the label.
    fn cost(&self, board: &Board<'_>) -> Option<u64> {
        let place = board.place(&self.wish.topology_key)?;
        let have = self.places.get(place).copied().unwrap_or_default() as f64;
        let weight = (self.places.len() as f64 + 2.0).ln();
        let cost = have * weight + self.wish.max_skew.saturating_sub(1) as f64;
        Some(cost.round() as u64)
    }
}
