//! No join token of a backup is brought back: one that was revoked, used up or stolen since the backup was
//! taken would let boards in again, and nobody could tell.
//!
//! In: the store of a restored board that has not started yet. Out: the same without its tokens.

use anyhow::{Context, Result};
use model::ids::{KindKey, ObjectKey};
use model::view::kind;

use crate::io::store::{Base, ListRange, Op, Options, Record, Store};
use crate::master::tokens::NAME_START;

/// Secrets that are looked at in one go.
const PAGE: usize = 64;
/// Where tokens are.
const NAMESPACE: &str = "kube-system";

/// Removes the tokens; gives how many there were. Called where a thread may wait.
///
/// # Errors
/// The store cannot be opened, read or written.
pub(super) fn tokens(options: Options) -> Result<usize> {
    let store = Store::open_alone(options, Box::new(())).context("cannot open the store")?;
    tokio::runtime::Handle::current().block_on(async {
        let removed = remove(&store).await;
        store.close().await;
        removed.context("cannot remove the join tokens")
    })
}

async fn remove(store: &Store) -> Result<usize> {
    let all = find(store)?;
    let count = all.len();
    for record in all {
        let Record { key, version, uid, .. } = record;
        let base = Base::At(version);
        store.propose(vec![Op { key, base, uid, body: None, keep_old: true }]).await?;
    }
    Ok(count)
}

fn find(store: &Store) -> Result<Vec<Record>> {
    let kind: KindKey = kind::SECRETS;
    let mut found = Vec::new();
    let mut after = Some((NAMESPACE.to_owned(), NAME_START.to_owned()));
    loop {
        let namespace = Some(NAMESPACE.to_owned());
        let range = ListRange { kind: kind.clone(), namespace, after, limit: PAGE };
        let page = store.list(&range)?;
        let last: Option<ObjectKey> = page.records.last().map(|record| record.key.clone());
        let before = found.len();
        let looked_at = page.records.len();
        let tokens = page.records.into_iter().filter(|it| it.key.name.starts_with(NAME_START));
        found.extend(tokens);
        match last {
            // Names come in order: behind the first that is none there are no more.
            Some(last) if page.more && found.len() - before == looked_at => {
                after = Some((last.namespace, last.name));
            }
            _ => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use model::ids::Uid;

    use super::*;

    #[tokio::test]
    async fn tokens_go_and_other_secrets_stay() {
        let dir = std::env::temp_dir().join(format!("kumquat-withdraw-{}", std::process::id()));
        let _gone = std::fs::remove_dir_all(&dir);
        let tokens: Vec<String> =
            (0..2 * PAGE + 3).map(|n| format!("{NAME_START}{n:04}")).collect();
        let others = ["aaa", "bootstrap-toke", "bootstrap-tokens", "zzz"];
        let key = |name: &str| ObjectKey {
            kind: kind::SECRETS,
            namespace: NAMESPACE.to_owned(),
            name: name.to_owned(),
        };
        let store = Store::open_alone(Options::new(&dir), Box::new(())).expect("opens");
        for name in tokens.iter().map(String::as_str).chain(others) {
            let body = Some(Bytes::from_static(b"{}"));
            let (base, uid) = (Base::Absent, Uid([1; 16]));
            let op = Op { key: key(name), base, uid, body, keep_old: false };
            store.propose(vec![op]).await.expect("written");
        }
        store.close().await;
        drop(store);
        let options = Options::new(&dir);
        let removed = tokio::task::spawn_blocking(move || super::tokens(options)).await;
        assert_eq!(removed.expect("no panic").expect("removed"), tokens.len());
        let store = Store::open_alone(Options::new(&dir), Box::new(())).expect("opens");
        assert_eq!(store.count(&kind::SECRETS, Some(NAMESPACE)), others.len());
        for name in others {
            assert!(store.get(&key(name)).expect("read").is_some(), "{name}");
        }
        store.close().await;
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
