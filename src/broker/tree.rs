//! Subscriptions by filter: a tree with one level of a filter per edge.
//!
//! Input: filters and topics that `topic` judged valid, so the recursion is bounded. Nodes without
//! subscribers and children are removed at once. Children are a sorted vector that grows by one at
//! first: most nodes have one child, and a master has a few nodes per board.

use rumqttc::mqttbytes::QoS;

/// Subscribers `K` by filter; a subscriber stands at most once at each filter.
pub(crate) struct Tree<K> {
    root: Node<K>,
}

struct Node<K> {
    children: Vec<(Box<str>, Node<K>)>,
    /// Sorted by subscriber.
    subscribers: Vec<(K, QoS)>,
}

impl<K> Default for Node<K> {
    fn default() -> Self {
        Self { children: Vec::new(), subscribers: Vec::new() }
    }
}

impl<K> Default for Tree<K> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<K: Ord> Tree<K> {
    /// Adds a subscription; the same filter again replaces its quality of service.
    pub(crate) fn add(&mut self, filter: &str, subscriber: K, qos: QoS) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            let index = match node.find(level) {
                Ok(index) => index,
                Err(index) => {
                    make_room(&mut node.children);
                    node.children.insert(index, (level.into(), Node::default()));
                    index
                }
            };
            node = &mut node.children[index].1;
        }
        match node.subscribers.binary_search_by(|(known, _)| known.cmp(&subscriber)) {
            Ok(index) => node.subscribers[index].1 = qos,
            Err(index) => {
                make_room(&mut node.subscribers);
                node.subscribers.insert(index, (subscriber, qos));
            }
        }
    }

    /// Removes a subscription; whether there was one.
    pub(crate) fn remove(&mut self, filter: &str, subscriber: &K) -> bool {
        self.root.remove(Some(filter), subscriber)
    }

    /// Calls `found` for each subscription whose filter selects the topic.
    pub(crate) fn each(&self, topic: &str, found: &mut impl FnMut(&K, QoS)) {
        self.root.each(topic, !topic.starts_with('$'), found);
    }
}

impl<K: Ord> Node<K> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.subscribers.is_empty()
    }

    fn find(&self, level: &str) -> Result<usize, usize> {
        self.children.binary_search_by(|(name, _)| (**name).cmp(level))
    }

    fn child(&self, level: &str) -> Option<&Node<K>> {
        self.find(level).ok().map(|index| &self.children[index].1)
    }

    fn remove(&mut self, filter: Option<&str>, subscriber: &K) -> bool {
        let Some(filter) = filter else {
            let found = self.subscribers.binary_search_by(|(known, _)| known.cmp(subscriber));
            return found.map(|index| self.subscribers.remove(index)).is_ok();
        };
        let (level, rest) = split(filter);
        let Ok(index) = self.find(level) else { return false };
        let removed = self.children[index].1.remove(rest, subscriber);
        if self.children[index].1.is_empty() {
            self.children.remove(index);
        }
        removed
    }

    fn each(&self, topic: &str, wildcards: bool, found: &mut impl FnMut(&K, QoS)) {
        let (level, rest) = split(topic);
        if let Some(all) = self.child("#").filter(|_| wildcards) {
            all.tell(found);
        }
        let any = self.child("+").filter(|_| wildcards);
        for node in self.child(level).into_iter().chain(any) {
            match rest {
                Some(rest) => node.each(rest, true, found),
                None => {
                    node.tell(found);
                    // `a/#` selects `a` too.
                    if let Some(all) = node.child("#") {
                        all.tell(found);
                    }
                }
            }
        }
    }

    fn tell(&self, found: &mut impl FnMut(&K, QoS)) {
        for (subscriber, qos) in &self.subscribers {
            found(subscriber, *qos);
        }
    }
}

fn split(levels: &str) -> (&str, Option<&str>) {
    levels.split_once('/').map_or((levels, None), |(first, rest)| (first, Some(rest)))
}

/// Vectors double from four elements on; most here keep one.
fn make_room<T>(vector: &mut Vec<T>) {
    if vector.len() == vector.capacity() && vector.len() < 4 {
        vector.reserve_exact(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::topic;

    /// xorshift64*: enough for walks.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, below: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
        }
    }

    fn random_topic(dice: &mut Dice, wildcards: bool) -> String {
        let names = ["a", "b", "", "$a", "ab"];
        let mut levels = Vec::new();
        for _ in 0..=dice.roll(4) {
            let name = names[dice.roll(names.len())];
            levels.push(if wildcards && dice.roll(4) == 0 { "+" } else { name });
        }
        if wildcards && dice.roll(3) == 0 {
            levels.push("#");
        }
        if levels == [""] { "/".into() } else { levels.join("/") }
    }

    /// The tree against a list of subscriptions and the matcher of one filter.
    #[test]
    fn a_random_walk_agrees_with_a_naive_matcher() {
        let (mut hits, mut removals) = (0, 0);
        for seed in 1..=300u64 {
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut tree = Tree::<u8>::default();
            let mut oracle = BTreeMap::<(String, u8), u8>::new();
            for _ in 0..120 {
                let (filter, subscriber) = (random_topic(&mut dice, true), dice.roll(6) as u8);
                let qos = [QoS::AtMostOnce, QoS::AtLeastOnce][dice.roll(2)];
                if dice.roll(3) > 0 {
                    tree.add(&filter, subscriber, qos);
                    oracle.insert((filter, subscriber), qos as u8);
                } else {
                    let removed = tree.remove(&filter, &subscriber);
                    assert_eq!(removed, oracle.remove(&(filter, subscriber)).is_some());
                    removals += usize::from(removed);
                }
                let topic = random_topic(&mut dice, false);
                let mut found = Vec::new();
                tree.each(&topic, &mut |subscriber, qos| found.push((*subscriber, qos as u8)));
                let selected = oracle.iter().filter(|((f, _), _)| topic::matches(f, &topic));
                let mut expected: Vec<_> = selected.map(|((_, s), qos)| (*s, *qos)).collect();
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected, "seed {seed}, topic {topic:?}");
                hits += found.len();
            }
            for (filter, subscriber) in oracle.keys() {
                assert!(tree.remove(filter, subscriber), "seed {seed}");
            }
            assert!(tree.root.is_empty(), "seed {seed}: nodes are left");
        }
        assert!(hits > 1000 && removals > 100, "{hits} hits, {removals} removals");
    }
}
