//! A bus on which nothing is said once its master may not act any more.

use std::sync::Arc;

use bytes::Bytes;

use super::{MasterBus, Waiting};
use crate::io::link::Gate;

/// Drops what meets a shut gate: delivery is a hint anyway, and the leader that follows says it anew.
pub struct Gated {
    bus: Arc<dyn MasterBus>,
    gate: Gate,
}

impl Gated {
    /// The bus behind this gate.
    pub fn new(bus: Arc<dyn MasterBus>, gate: Gate) -> Self {
        Self { bus, gate }
    }
}

impl MasterBus for Gated {
    fn publish<'a>(&'a self, topic: &'a str, payload: Bytes, retain: bool) -> Waiting<'a, ()> {
        match self.gate.is_open() {
            true => self.bus.publish(topic, payload, retain),
            false => Box::pin(std::future::ready(())),
        }
    }

    fn disconnect(&self, board: &str) {
        // Keeps somebody out, which is never wrong.
        self.bus.disconnect(board);
    }

    fn key_of(&self, board: &str) -> Option<[u8; 32]> {
        self.bus.key_of(board)
    }

    fn renew_shared(&self) {
        if self.gate.is_open() {
            self.bus.renew_shared();
        }
    }
}
