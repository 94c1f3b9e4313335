//! Secrets at rest: no byte of them on the disk, and every reader sees them in the open.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use model::ids::{ObjectKey, Uid};
use model::view::kind;

use super::super::{Applied, Base, Change, ListRange, Op, Options, SecretsKeys, Store};

const PLAIN: &[u8] = br#"{"data":{"password":"bm9ib2R5IGtub3dz"}}"#;

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Option<Bytes>>>>);

impl Applied for Seen {
    fn applied(&mut self, change: &Change) {
        self.0.lock().expect("whole").push(change.body.clone());
    }
}

fn put(name: &str, base: Base, body: &[u8]) -> Op {
    let key =
        ObjectKey { kind: kind::SECRETS, namespace: "default".to_owned(), name: name.to_owned() };
    let body = Some(Bytes::copy_from_slice(body));
    Op { key, base, uid: Uid([7; 16]), body, keep_old: true }
}

/// Whether any file below holds these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("a folder").flatten().any(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => holds(&path, bytes),
            false => {
                let found = std::fs::read(path).expect("a file");
                found.windows(bytes.len()).any(|window| window == bytes)
            }
        }
    })
}

fn options(dir: &Path, keys: Option<&SecretsKeys>) -> Options {
    Options { secrets: keys.cloned(), ..Options::new(dir.join("store")) }
}

#[tokio::test]
async fn secrets_are_sealed_on_the_disk_and_open_for_readers() {
    let dir = std::env::temp_dir().join(format!("kumquat-sealed-{}", std::process::id()));
    let _gone = std::fs::remove_dir_all(&dir);
    let word = &PLAIN[21..36];
    // As an earlier version left it.
    let store = Store::open_alone(options(&dir, None), Box::new(())).expect("opened");
    store.propose(vec![put("old", Base::Absent, PLAIN)]).await.expect("written");
    store.close().await;
    assert!(holds(&dir.join("store"), word), "the test finds what lies in the open");

    let keys = SecretsKeys::open(&dir).expect("keys");
    let seen = Seen::default();
    let store =
        Store::open_alone(options(&dir, Some(&keys)), Box::new(seen.clone())).expect("opened");
    let mut cursor = store.watch_kind(&kind::SECRETS, None, store.version()).expect("followed");
    let written = store.propose(vec![put("new", Base::Absent, PLAIN)]).await.expect("written");
    let at = Base::At(written.versions[0]);
    store.propose(vec![put("new", at, PLAIN)]).await.expect("written again");
    for old in [None, Some(PLAIN)] {
        let change = cursor.next().await.expect("a change");
        assert_eq!(change.body.as_deref(), Some(PLAIN));
        assert_eq!(change.old.as_deref(), old);
    }
    let range = ListRange { kind: kind::SECRETS, namespace: None, after: None, limit: 10 };
    let bodies = |store: &Store| {
        let page = store.list(&range).expect("listed");
        page.records.into_iter().map(|record| record.body).collect::<Vec<_>>()
    };
    assert_eq!(bodies(&store), [PLAIN, PLAIN]);
    assert!(seen.0.lock().expect("whole").iter().all(|body| body.as_deref() == Some(PLAIN)));
    assert_eq!(seen.0.lock().expect("whole").len(), 3);

    // The one of the earlier version is to be sealed; after a rotation both are.
    let stale = |store: &Store| store.stale_secrets(None, 10).expect("read").0;
    assert_eq!(stale(&store).len(), 1);
    let mut watched = keys.current();
    assert_eq!(keys.rotate().expect("another key"), 2);
    assert!(watched.has_changed().expect("open"));
    assert_eq!(*watched.borrow_and_update(), 2);
    for record in stale(&store) {
        let op = put(&record.key.name, Base::At(record.version), &record.body);
        store.propose(vec![op]).await.expect("sealed");
    }
    assert_eq!(stale(&store).len(), 0);
    store.close().await;

    // Whoever has the store and not the keys reads nothing; the keys of another master open it.
    let other = SecretsKeys::open(&dir.join("other")).expect("keys");
    let store = Store::open_alone(options(&dir, Some(&other)), Box::new(())).expect("opened");
    assert!(store.list(&range).is_err(), "no key opens it");
    store.close().await;
    let taken = SecretsKeys::install(&dir.join("taken"), &keys.export()).expect("installed");
    assert_eq!(format!("{taken:?}"), "[1, 2]");
    let store = Store::open_alone(options(&dir, Some(&taken)), Box::new(())).expect("opened");
    assert_eq!(bodies(&store), [PLAIN, PLAIN]);
    store.close().await;

    // A store that never held one in the open holds none of its words.
    let (fresh, keys) = (dir.join("fresh"), SecretsKeys::open(&dir.join("fresh")).expect("keys"));
    let store = Store::open_alone(options(&fresh, Some(&keys)), Box::new(())).expect("opened");
    store.propose(vec![put("new", Base::Absent, PLAIN)]).await.expect("written");
    store.close().await;
    assert!(!holds(&fresh.join("store"), word), "a Secret in the open");
    std::fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn a_secret_opens_in_its_own_place_only_and_damage_is_noticed() {
    let dir = std::env::temp_dir().join(format!("kumquat-places-{}", std::process::id()));
    let _gone = std::fs::remove_dir_all(&dir);
    let keys = SecretsKeys::open(&dir).expect("keys");
    let mut ops = [put("a", Base::Absent, PLAIN)];
    keys.seal_all(&mut ops).expect("sealed");
    let (key, uid) = (ops[0].key.clone(), ops[0].uid);
    let sealed = ops[0].body.clone().expect("a body");
    assert_eq!(keys.open_body(&key, uid, &sealed).as_deref(), Some(PLAIN));
    let elsewhere = ObjectKey { name: "b".to_owned(), ..key.clone() };
    assert_eq!(keys.open_body(&elsewhere, uid, &sealed), None);
    assert_eq!(keys.open_body(&key, Uid([8; 16]), &sealed), None);
    for at in 1..sealed.len() {
        let mut bytes = sealed.to_vec();
        bytes[at] ^= 1;
        assert_eq!(keys.open_body(&key, uid, &bytes.into()), None, "byte {at}");
        assert_eq!(keys.open_body(&key, uid, &sealed.slice(..at)), None, "cut at {at}");
    }
    std::fs::write(dir.join("pki/secrets.key"), "1 x\n").expect("written");
    assert!(SecretsKeys::open(&dir).is_err(), "damaged keys are not replaced");
    std::fs::remove_dir_all(dir).expect("removed");
}
