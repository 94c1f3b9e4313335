//! Which of the nodes that fit is best: free room, few siblings, preferences. The last word has a
//! hash, so that equal nodes share the pods and the choice is the same on every run.

use model::view::{PodView, Scheduling, Taint, TaintEffect};

use super::board::{Board, weighed};

const WEIGHT_ROOM: u64 = 1;
const WEIGHT_SPREAD: u64 = 2;
const WEIGHT_AFFINITY: u64 = 2;
const WEIGHT_TAINTS: u64 = 3;
const SCORE_MAX: u64 = 100;

/// The best of `fitting`, which are places in `boards`.
pub(super) fn best(
    pod: &PodView,
    wish: &Scheduling,
    boards: &[Board<'_>],
    fitting: &[usize],
) -> Option<usize> {
    let of = |measure: &dyn Fn(&Board<'_>) -> u64| -> Vec<u64> {
        fitting.iter().map(|&index| measure(&boards[index])).collect()
    };
    let siblings = of(&|board| siblings(pod, board));
    let preferred = of(&|board| preference(wish, board));
    let unborne = of(&|board| unborne_taints(pod, board));
    let most = |values: &[u64]| values.iter().copied().max().unwrap_or_default();
    let (most_siblings, most_preferred, most_unborne) =
        (most(&siblings), most(&preferred), most(&unborne));
    // More is better after the turn: a share of the largest value, or all when that is zero.
    let few = |value: u64, most: u64| (most - value) * SCORE_MAX / most.max(1);
    let scored = fitting.iter().enumerate().map(|(place, &index)| {
        let board = &boards[index];
        let score = WEIGHT_ROOM * room(pod, board)
            + WEIGHT_SPREAD * few(siblings[place], most_siblings)
            + WEIGHT_AFFINITY * preferred[place] * SCORE_MAX / most_preferred.max(1)
            + WEIGHT_TAINTS * few(unborne[place], most_unborne);
        (score, tie(pod, board), index)
    });
    scored.max().map(|(_, _, index)| index)
}

/// Mean share of cpu and memory that stays free (upstream's `LeastAllocated`).
fn room(pod: &PodView, board: &Board<'_>) -> u64 {
    let (cpu_milli, memory_bytes) = weighed(pod);
    let share = |has: u64, taken: u64| match has.checked_sub(taken) {
        Some(free) if has > 0 => {
            (u128::from(free) * u128::from(SCORE_MAX) / u128::from(has)) as u64
        }
        _ => 0,
    };
    let has = &board.node().allocatable;
    let cpu = share(has.cpu_milli, board.weighed_cpu_milli + cpu_milli);
    let memory = share(has.memory_bytes, board.weighed_memory_bytes + memory_bytes);
    (cpu + memory) / 2
}

fn siblings(pod: &PodView, board: &Board<'_>) -> u64 {
    let owner = pod.meta.controller();
    owner.and_then(|owner| board.of_owner.get(&owner.uid)).map_or(0, |count| *count as u64)
}

fn preference(wish: &Scheduling, board: &Board<'_>) -> u64 {
    let labels = &board.node().meta.labels;
    let matching = wish.preferred.iter().filter(|(_, term)| term.matches(board.name(), labels));
    matching.map(|(weight, _)| u64::try_from(*weight).unwrap_or_default()).sum()
}

fn unborne_taints(pod: &PodView, board: &Board<'_>) -> u64 {
    let soft = |taint: &&Taint| taint.effect == TaintEffect::PreferNoSchedule;
    let borne = |taint: &Taint| pod.tolerations.iter().any(|it| it.bears(taint));
    board.node().taints.iter().filter(soft).filter(|taint| !borne(taint)).count() as u64
}

fn tie(pod: &PodView, board: &Board<'_>) -> u64 {
    let bytes = pod.meta.uid.0.iter().copied().chain(board.name().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}
