//! What only objects say of a board that holds the log or may: for what it was let in, and whether it was
//! thrown out.
//!
//! Both stand by its key, so that nobody changes them by deleting its Node, which comes back without what
//! a person or its join has written there.

use std::collections::BTreeMap;
use std::iter::once;

use logic::masters::Seen;
use model::join::key_text;
use model::limits::MEMBER_VERDICTS_MAX;
use model::masters::{MembersV1, ROLE};
use model::token::TokenRole;
use serde_json::Value;

use super::Rows;
use crate::io::store::{Store, StoreError};
use crate::master::keys::{Keys, node_key};

/// Reads the objects, and remembers what they said for as long as the log does not grow: a leader looks
/// each second, and each read of the store touches its table of readers, which lies on flash.
pub(super) struct Judge {
    store: Store,
    keys: Keys,
    /// Position in the log at which the rest was read.
    position: u64,
    rows: Option<Rows>,
    roles: BTreeMap<String, Option<TokenRole>>,
    verdicts: BTreeMap<[u8; 32], Verdict>,
}

/// What the lists say of a key.
#[derive(Clone, Copy)]
struct Verdict {
    is_worker: bool,
    is_evicted: bool,
}

impl Judge {
    /// By the objects of this store.
    pub(super) fn of(store: &Store) -> Self {
        Self {
            store: store.clone(),
            keys: Keys::of(store.clone()),
            position: 0,
            rows: None,
            roles: BTreeMap::new(),
            verdicts: BTreeMap::new(),
        }
    }

    /// Forgets what may be old.
    pub(super) fn look_again(&mut self) {
        let position = self.store.version().position();
        let is_long = self.roles.len().max(self.verdicts.len()) > MEMBER_VERDICTS_MAX;
        if position != self.position || is_long {
            self.position = position;
            self.rows = None;
            self.roles.clear();
            self.verdicts.clear();
        }
    }

    /// What the object of the masters says.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn rows(&mut self) -> Result<&Rows, StoreError> {
        let rows = match self.rows.take() {
            Some(rows) => rows,
            None => Rows::read(&self.store)?.0,
        };
        Ok(self.rows.insert(rows))
    }

    /// Adds it to what is seen of a board; `by` are the keys that stand for it: that of the member that it
    /// was last, and that with which it asks.
    pub(super) fn board(&mut self, board: &mut Seen, by: impl IntoIterator<Item = [u8; 32]>) {
        // What it was let in for binds, whatever it says itself.
        match self.role(&board.board) {
            Some(TokenRole::Worker) => board.role = TokenRole::Worker,
            Some(TokenRole::Master) if board.role == TokenRole::Auto => {
                board.role = TokenRole::Master;
            }
            _ => {}
        }
        for key in by {
            let verdict = self.verdict(key);
            if verdict.is_worker {
                board.role = TokenRole::Worker;
            }
            board.evicted |= verdict.is_evicted;
        }
    }

    fn role(&mut self, board: &str) -> Option<TokenRole> {
        if let Some(role) = self.roles.get(board) {
            return *role;
        }
        let node = self.store.get(&node_key(board)).ok()?;
        let node: Value =
            node.and_then(|node| serde_json::from_slice(&node.body).ok()).unwrap_or_default();
        let role =
            node["metadata"]["annotations"][ROLE].as_str().and_then(|role| role.parse().ok());
        self.roles.insert(board.to_owned(), role);
        role
    }

    fn verdict(&mut self, key: [u8; 32]) -> Verdict {
        if let Some(verdict) = self.verdicts.get(&key) {
            return *verdict;
        }
        let read = || {
            let is_worker = self.keys.is_worker(&key_text(&key))?;
            Ok::<_, StoreError>(Verdict { is_worker, is_evicted: self.keys.is_thrown_out(&key)? })
        };
        match read() {
            Ok(verdict) => *self.verdicts.entry(key).or_insert(verdict),
            // A key that cannot be judged is not trusted with the log.
            Err(_) => Verdict { is_worker: true, is_evicted: true },
        }
    }

    /// Members that were thrown out and are not among `seen`: their Nodes went with that.
    pub(super) fn turned_out(&mut self, seen: &[Seen], members: &MembersV1, now: u64) -> Vec<Seen> {
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
        let mut judge = Judge::of(master.registry.store());
        judge.look_again();
        assert!(!judge.verdict([3; 32]).is_evicted);
        list(&master, EVICTED, 3).await;
        assert!(!judge.verdict([3; 32]).is_evicted, "as remembered");
        judge.look_again();
        let members = [(MemberId(1), 1), (MemberId(2), 2), (MemberId(3), 3)];
        let members = members.map(|(id, key)| (id, format!("pi-{id}"), [key; 32]));
        let ids = members.iter().map(|(id, ..)| *id).collect();
        let members = MembersV1::of([ids], members).expect("a group");
        let out = judge.turned_out(&[], &members, 7);
        let names: Vec<&str> = out.iter().map(|board| &*board.board).collect();
        assert_eq!(names, ["pi-3"], "at once, although its Node is gone");
        assert_eq!(judge.turned_out(&out, &members, 7), [], "once");
        let mut asks = |key: u8| {
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
