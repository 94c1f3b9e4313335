//! Which of the nodes that fit is best: free room, few siblings, preferences, images. The last word has a
//! hash, so that equal nodes share the pods and the choice is the same on every run.

use model::view::{PodView, Scheduling, Taint, TaintEffect};

use super::board::{Board, weighed};
use super::census::Census;
use super::company::Company;

const WEIGHT_ROOM: u64 = 1;
const WEIGHT_SPREAD: u64 = 2;
const WEIGHT_AFFINITY: u64 = 2;
const WEIGHT_TAINTS: u64 = 3;
const WEIGHT_COMPANY: u64 = 2;
const WEIGHT_IMAGES: u64 = 1;
/// Images below this are no reason to prefer a board (upstream's `minThreshold`).
const IMAGE_BYTES_LEAST: u64 = 23 * 1024 * 1024;
/// Images above this count no more, for each container (upstream's `maxContainerThreshold`).
const IMAGE_BYTES_MOST: u64 = 1_000 * 1024 * 1024;
pub(super) const SCORE_MAX: u64 = 100;

/// The best of `fitting`, which are places in `boards`.
pub(super) fn best<'a>(
    pod: &PodView,
    wish: &Scheduling,
    boards: &[Board<'a>],
    fitting: &[usize],
    company: &Company<'_>,
    census: &mut Census<'a>,
) -> Option<usize> {
    let candidates: Vec<&Board<'_>> = fitting.iter().map(|&index| &boards[index]).collect();
    let of = |measure: &dyn Fn(&Board<'_>) -> u64| -> Vec<u64> {
        candidates.iter().map(|board| measure(board)).collect()
    };
    let siblings = of(&|board| siblings(pod, board));
    let preferred = of(&|board| preference(wish, board));
    let unborne = of(&|board| unborne_taints(pod, board));
    let (evenness, liking) = (company.evenness(&candidates), company.liking(&candidates));
    let images: Vec<(u64, u64)> =
        wish.images.iter().map(|hash| (*hash, census.boards_with(*hash, boards))).collect();
    let most = |values: &[u64]| values.iter().copied().max().unwrap_or_default();
    let (most_siblings, most_preferred, most_unborne) =
        (most(&siblings), most(&preferred), most(&unborne));
    // More is better after the turn: a share of the largest value, or all when that is zero.
    let few = |value: u64, most: u64| (most - value) * SCORE_MAX / most.max(1);
    let scored = fitting.iter().enumerate().map(|(place, &index)| {
        let board = &boards[index];
        let score = WEIGHT_ROOM * room(pod, board)
            + WEIGHT_SPREAD * (few(siblings[place], most_siblings) + evenness[place])
            + WEIGHT_AFFINITY * preferred[place] * SCORE_MAX / most_preferred.max(1)
            + WEIGHT_COMPANY * liking[place]
            + WEIGHT_IMAGES * locality(&images, boards.len(), board)
            + WEIGHT_TAINTS * few(unborne[place], most_unborne);
        (score, tie(pod, board), index)
    });
    scored.max().map(|(_, _, index)| index)
}

/// Bytes of the pod's images that the board has, each weighed by the share of boards that have it, so
/// that the only board with an image does not draw all pods (upstream's `ImageLocality`).
fn locality(images: &[(u64, u64)], boards: usize, board: &Board<'_>) -> u64 {
    if images.is_empty() {
        return 0;
    }
    let share = |(hash, holders): &(u64, u64)| {
        let bytes = board.node().image_bytes(*hash).unwrap_or_default();
        bytes.saturating_mul(*holders) / boards as u64
    };
    let sum: u64 = images.iter().map(share).sum();
    let most = IMAGE_BYTES_MOST * images.len() as u64;
    let sum = sum.clamp(IMAGE_BYTES_LEAST, most);
    SCORE_MAX * (sum - IMAGE_BYTES_LEAST) / (most - IMAGE_BYTES_LEAST)
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
