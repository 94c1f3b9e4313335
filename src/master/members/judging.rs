//! What only objects say of a board that holds the log or may: for what it was let in, and whether it was
//! thrown out.
//!
//! Both stand by its key, so that nobody changes them by deleting its Node, which comes back without what
//! a person or its join has written there.

use std::iter::once;

use logic::masters::Seen;
use model::join::key_text;
use model::masters::{MembersV1, ROLE};
use model::token::TokenRole;
use serde_json::Value;

use crate::io::store::Store;
use crate::master::keys::{Keys, node_key};

/// Reads the objects.
pub(super) struct Judge<'a> {
    store: &'a Store,
    keys: Keys,
}

impl<'a> Judge<'a> {
    /// By the objects of this store.
    pub(super) fn of(store: &'a Store) -> Self {
        Self { store, keys: Keys::of(store.clone()) }
    }

    /// Adds it to what is seen of a board; `by` are the keys that stand for it: that of the member that it
    /// was last, and that with which it asks.
    pub(super) fn board(&self, board: &mut Seen, by: impl IntoIterator<Item = [u8; 32]>) {
        let node = self.store.get(&node_key(&board.board)).ok().flatten();
        let node: Value =
            node.and_then(|node| serde_json::from_slice(&node.body).ok()).unwrap_or_default();
        // What it was let in for binds, whatever it says itself.
        match node["metadata"]["annotations"][ROLE].as_str().and_then(|role| role.parse().ok()) {
            Some(TokenRole::Worker) => board.role = TokenRole::Worker,
            Some(TokenRole::Master) if board.role == TokenRole::Auto => {
                board.role = TokenRole::Master;
            }
            _ => {}
        }
        for key in by {
            // A key that cannot be judged is not trusted with the log.
            if self.keys.is_worker(&key_text(&key)).unwrap_or(true) {
                board.role = TokenRole::Worker;
            }
            board.evicted |= self.keys.is_thrown_out(&key).unwrap_or(true);
        }
    }

    /// Members that were thrown out and are not among `seen`: their Nodes went with that.
    pub(super) fn turned_out(&self, seen: &[Seen], members: &MembersV1, now: u64) -> Vec<Seen> {
        let is_seen = |name: &str| seen.iter().any(|board| board.board == name);
        let gone = members.members.iter().filter(|member| !is_seen(&member.board));
        let shown = gone.map(|member| {
            let mut board = Seen {
                board: member.board.clone(),
                heard_ms: None,
                lag_entries: 0,
                ready: false,
                stable_since: now,
                role: TokenRole::Auto,
                zone: None,
                capable: false,
                leaving: false,
                evicted: false,
            };
            self.board(&mut board, once(member.key));
            board
        });
        shown.filter(|board| board.evicted).collect()
    }
}

#[cfg(test)]
mod tests {
    use model::join::{EVICTED, WORKERS};
    use model::masters::MemberId;
    use serde_json::json;

    use super::*;
    use crate::master::controllers::tests::Master;

    async fn list(master: &Master, name: &str, key: u8) {
        let (entry, namespace) = (json!({ key_text(&[key; 32]): "pi" }), "kube-system");
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": entry,
            "metadata": { "name": name, "namespace": namespace } });
        let op = logic::controller::Op::Create { kind: model::view::kind::CONFIG_MAPS, object };
        master.registry.commit(vec![op]).await.expect("written");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_key_was_let_in_for_outlives_its_node() {
        let mut master = Master::new().await;
        list(&master, WORKERS, 2).await;
        list(&master, EVICTED, 3).await;
        let members = [(MemberId(1), 1), (MemberId(2), 2), (MemberId(3), 3)];
        let members = members.map(|(id, key)| (id, format!("pi-{id}"), [key; 32]));
        let ids = members.iter().map(|(id, ..)| *id).collect();
        let members = MembersV1::of([ids], members).expect("a group");
        let judge = Judge::of(master.registry.store());
        let out = judge.turned_out(&[], &members, 7);
        let names: Vec<&str> = out.iter().map(|board| &*board.board).collect();
        assert_eq!(names, ["pi-3"], "at once, although its Node is gone");
        assert_eq!(judge.turned_out(&out, &members, 7), [], "once");
        let asks = |key: u8| {
            let mut board = Seen { capable: true, evicted: false, ..out[0].clone() };
            judge.board(&mut board, [[key; 32]]);
            (board.role, board.evicted)
        };
        assert_eq!(asks(1), (TokenRole::Auto, false));
        assert_eq!(asks(2), (TokenRole::Worker, false), "no Node says so, the key does");
        assert_eq!(asks(3), (TokenRole::Auto, true));
        master.stop().await;
    }
}
