//! Every Node gets a block of the pod range, and keeps it (upstream's `range_allocator.go`).
//!
//! One key stands for all Nodes, so that one plan gives out blocks and no two of them get the same.
//! The search begins at a place that the Node's name determines: a Node that was deleted and comes
//! back gets the block that its pods still use, unless it was given away.

use std::collections::BTreeSet;

use model::ids::ObjectKey;
use model::limits::{NODE_BLOCK_PREFIX, PLAN_PODS_MAX};
use model::network::Ipv4Block;
use model::timestamp::Timestamp;
use model::view::{NodeView, View, data_hash, kind};
use serde_json::json;

use super::{Controller, Event, ObjectReference, Op, Plan, node_key};
use crate::world::{Changed, World};

/// How soon a Node that got none is looked at again.
const RETRY_MILLIS: i64 = 60_000;
const COMPONENT: &str = "node-ipam-controller";

/// The controller of `spec.podCIDR`.
#[derive(Debug)]
pub struct NodeIpamController {
    range: Ipv4Block,
}

impl NodeIpamController {
    /// For a cluster with these pod addresses.
    pub fn new(range: Ipv4Block) -> Self {
        Self { range }
    }

    /// How many blocks the range has.
    fn blocks(&self) -> u32 {
        1 << NODE_BLOCK_PREFIX.saturating_sub(self.range.prefix).min(31)
    }

    fn block(&self, place: u32) -> Option<Ipv4Block> {
        let offset = place.checked_mul(1 << (32 - u32::from(NODE_BLOCK_PREFIX)))?;
        let first = self.range.nth(offset)?;
        Some(Ipv4Block::new(first, NODE_BLOCK_PREFIX.max(self.range.prefix)))
    }

    fn free(&self, node: &str, used: &BTreeSet<Ipv4Block>) -> Option<Ipv4Block> {
        let blocks = self.blocks();
        // Names differ in their last byte, hashes of them hardly: Fibonacci hashing spreads them.
        let mixed = data_hash(node.as_bytes()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let start = (mixed >> 32) as u32 % blocks;
        // Blocks that somebody chose by hand may be larger or smaller.
        let odd: Vec<&Ipv4Block> =
            used.iter().filter(|it| it.prefix != NODE_BLOCK_PREFIX).collect();
        let is_free = |block: &Ipv4Block| {
            !used.contains(block) && !odd.iter().any(|it| it.covers(block) || block.covers(it))
        };
        (start..blocks).chain(0..start).filter_map(|place| self.block(place)).find(is_free)
    }
}

impl Controller for NodeIpamController {
    fn name(&self) -> &'static str {
        COMPONENT
    }

    fn keys_for(&self, world: &World, changed: &Changed, keys: &mut Vec<ObjectKey>) {
        if changed.key.kind != kind::NODES {
            return;
        }
        let freed =
            changed.gone && matches!(&changed.old, Some(View::Node(it)) if it.pods.is_some());
        let waits = world.node(&changed.key.name).is_some_and(waits);
        if waits || (freed && world.nodes().any(self::waits)) {
            keys.push(node_key(""));
        }
    }

    fn plan(&self, world: &World, _: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan { independent: true, ..Plan::default() };
        let mut used: BTreeSet<Ipv4Block> = world.nodes().filter_map(|node| node.pods).collect();
        for node in world.nodes().filter(|node| waits(node)).take(PLAN_PODS_MAX) {
            let Some(block) = self.free(&node.meta.name, &used) else {
                plan.ops.push(none_left(node, self.range));
                plan.again(now.plus_millis(RETRY_MILLIS));
                break;
            };
            used.insert(block);
            let block = block.to_string();
            plan.ops.push(Op::Patch {
                key: node.meta.key(kind::NODES),
                base: node.meta.version,
                subresource: None,
                merge: json!({ "spec": { "podCIDR": block, "podCIDRs": [block] } }),
            });
        }
        plan
    }
}

fn waits(node: &NodeView) -> bool {
    node.pods.is_none() && node.meta.deleting.is_none()
}

fn none_left(node: &NodeView, range: Ipv4Block) -> Op {
    Op::Event(Event {
        about: ObjectReference::of("v1", "Node", &node.meta),
        warning: true,
        reason: "CIDRNotAvailable",
        message: format!(
            "no block of {range} is left for the pods of {}: found the cluster with a wider \
             --pod-range, or delete Nodes of boards that are gone",
            node.meta.name
        ),
        component: COMPONENT,
    })
}
