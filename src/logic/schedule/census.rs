//! How many pods of which kind are on which board, counted once per pass and kept up to date while
//! pods are placed.

use std::collections::HashMap;

use model::view::{PodSet, PodTerm, PodView};

use super::board::Board;
use crate::world::World;

/// Counts that are kept at a time: more are counted again when they are asked for.
const COUNTS_MAX: usize = 64;

/// The pods of all boards.
pub(super) struct Census<'a> {
    world: &'a World,
    places: HashMap<&'a str, usize>,
    counts: Vec<Count>,
    /// Boards that have an image, by its hash.
    images: HashMap<u64, u64>,
    /// Pods that want others away from them, and their board.
    pub(super) loners: Vec<(usize, &'a PodView)>,
}

/// Pods of one choice by board.
struct Count {
    asked: Asked,
    by_board: Vec<u32>,
}

/// Which pods are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) pods: PodSet,
    /// Those that are being deleted too.
    pub(super) leaving: bool,
}

impl Asked {
    fn has(&self, world: &World, pod: &PodView) -> bool {
        (self.leaving || pod.meta.deleting.is_none()) && chosen(world, &self.pods, pod)
    }
}

/// Whether a choice of pods has this one.
pub(super) fn chosen(world: &World, pods: &PodSet, pod: &PodView) -> bool {
    let namespace = &pod.meta.namespace;
    let labels = world.namespace(namespace).map(|it| &it.meta.labels);
    pods.has(namespace, labels, &pod.meta.labels)
}

impl<'a> Census<'a> {
    pub(super) fn new(world: &'a World, boards: &[Board<'a>]) -> Self {
        let places = boards.iter().enumerate().map(|(at, board)| (board.name(), at)).collect();
        let (counts, images, loners) = (Vec::new(), HashMap::new(), Vec::new());
        let mut census = Self { world, places, counts, images, loners };
        for pod in world.pods().filter(|pod| !pod.apart.is_empty() && !pod.finished()) {
            if let Some(&at) = census.places.get(&*pod.node) {
                census.loners.push((at, pod));
            }
        }
        census
    }

    pub(super) fn world(&self) -> &'a World {
        self.world
    }

    /// Counts a pod in that was given to a board.
    pub(super) fn take(&mut self, at: usize, pod: &'a PodView) {
        for count in &mut self.counts {
            count.by_board[at] += u32::from(count.asked.has(self.world, pod));
        }
        if !pod.apart.is_empty() {
            self.loners.push((at, pod));
        }
    }

    /// Pods of a choice by board.
    pub(super) fn count(&mut self, asked: &Asked) -> &[u32] {
        let known = self.counts.iter().position(|count| count.asked == *asked);
        let at = known.unwrap_or_else(|| {
            if self.counts.len() == COUNTS_MAX {
                self.counts.clear();
            }
            let mut by_board = vec![0; self.places.len()];
            let mut add = |pod: &PodView| {
                if let Some(&at) = self.places.get(&*pod.node)
                    && !pod.finished()
                    && asked.has(self.world, pod)
                {
                    by_board[at] += 1;
                }
            };
            match asked.pods.namespace() {
                Some(namespace) => self.world.pods_in(namespace).for_each(&mut add),
                None => self.world.pods().for_each(&mut add),
            }
            self.counts.push(Count { asked: asked.clone(), by_board });
            self.counts.len() - 1
        });
        &self.counts[at].by_board
    }

    /// How many boards have an image.
    pub(super) fn boards_with(&mut self, image: u64, boards: &[Board<'a>]) -> u64 {
        *self.images.entry(image).or_insert_with(|| {
            boards.iter().filter(|board| board.node().image_bytes(image).is_some()).count() as u64
        })
    }

    /// Pods of a term by place: the value of its label.
    pub(super) fn domains(
        &mut self,
        term: &PodTerm,
        boards: &[Board<'a>],
    ) -> HashMap<&'a str, u32> {
        let asked = Asked { pods: term.pods.clone(), leaving: true };
        let counts = self.count(&asked);
        let mut domains = HashMap::new();
        for (board, count) in boards.iter().zip(counts).filter(|(_, count)| **count > 0) {
            if let Some(place) = board.place(&term.topology_key) {
                *domains.entry(place).or_default() += count;
            }
        }
        domains
    }
}
