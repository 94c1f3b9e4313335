//! Another authority on this board's disk, and how boards give and get it.
//!
//! ```text
//! masters   pki/next.json    keys that lie ready: made here, or fetched from another master
//!           pki/taking.json  they are being taken over: what is found there at a start is finished
//! others    pki/certified.json  the same for a certificate
//! all       pki/group        what names the group of masters since its authority is not the first one
//! ```
//! Whoever dials a board that it knows by its key, and sees an authority that it does not know, asks for a
//! certificate of it. Nobody who knows no more than the lost keys can answer that: the board that answers
//! has to be one of the masters that were known before, with its own key.

mod disk;
mod gain;
mod serve;
#[cfg(test)]
pub(super) mod tests;

pub(super) use disk::{AuthorityDisk, finish, forget, group, keep, set_group, take_ready};
pub(super) use gain::Certifying;
pub(super) use serve::Desk;

use model::masters::MasterAtV1;

use crate::io::store::Store;
use crate::io::tls::{BoardPeer, Pinned};
use crate::master::keys::Keys;

/// Where a board asks for its certificate, and masters for keys.
const CERTIFY: &str = "/v1/authority";
const KEYS: &str = "/v1/authority/keys";
const HAS: &str = "/v1/authority/has";

/// What a master knows of boards' keys: its copy of the objects and the group. Before it has one, it knows
/// the masters whose keys came with its own.
pub(super) struct ByStore {
    keys: Keys,
    store: Store,
    told: Vec<MasterAtV1>,
}

impl ByStore {
    pub(super) fn new(store: &Store, told: &[MasterAtV1]) -> Self {
        Self { keys: Keys::of(store.clone()), store: store.clone(), told: told.to_vec() }
    }

    fn was_told(&self, board: &BoardPeer) -> bool {
        let is_it = |at: &MasterAtV1| at.board == board.name && at.key == board.key;
        self.store.members().is_none() && self.told.iter().any(is_it)
    }
}

impl Pinned for ByStore {
    fn is_board(&self, board: &BoardPeer) -> bool {
        self.keys.is_pinned(board) || self.was_told(board)
    }

    fn is_master(&self, board: &BoardPeer) -> bool {
        self.keys.is_pinned_master(board) || self.was_told(board)
    }
}
