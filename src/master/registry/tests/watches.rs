//! WATCH: what a watcher sees, against an oracle.

use std::collections::BTreeMap;
use std::time::Duration;

use model::limits::WATCH_EXISTING_BYTES;

use super::*;

fn query(from: Option<u64>) -> WatchQuery {
    WatchQuery {
        resource: of("/configmaps"),
        namespace: Some("default".into()),
        labels: String::new(),
        fields: String::new(),
        resource_version: from.map(|version| version.to_string()),
        version_match: String::new(),
        bookmarks: false,
        send_initial_events: None,
    }
}

async fn next(watch: &mut Watch) -> Option<Result<WatchEvent, ApiError>> {
    tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("something happens")
}

/// The next event as kind, name and version.
async fn seen(watch: &mut Watch) -> (WatchKind, String, u64) {
    let event = next(watch).await.expect("goes on").expect("no error");
    let object = value(&event.object);
    assert_eq!(object["kind"], "ConfigMap");
    assert_eq!(version(&object), event.version.0);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    (event.kind, name, event.version.0)
}

/// A small generator: the walk is the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What the oracle knows of an object: is it selected, and how often was it written.
type Model = BTreeMap<String, (bool, u64)>;

/// One random write; gives what a watcher of `x=1` has to see of it.
async fn step(bed: &Bed, model: &mut Model, random: &mut Random) -> Option<(WatchKind, String)> {
    let name = format!("o{}", random.below(4));
    let place = target("/configmaps", &name);
    let selected = random.below(2) == 1;
    let labels = json!({"x": if selected { "1" } else { "2" }});
    let before = model.get(&name).copied();
    let Some((was, count)) = before else {
        let mut object = config_map(&name);
        object["metadata"]["labels"] = labels;
        bed.create("/configmaps", "default", object).await;
        model.insert(name.clone(), (selected, 0));
        return selected.then_some((WatchKind::Added, name));
    };
    match random.below(4) {
        0 => {
            bed.delete(&place, Value::Null).await.expect("is deleted");
            model.remove(&name);
            was.then_some((WatchKind::Deleted, name))
        }
        1 => {
            let body = json!({"data": {"count": (count + 1).to_string()}});
            bed.patch(&place, None, body).await.expect("is patched");
            model.insert(name.clone(), (was, count + 1));
            was.then_some((WatchKind::Modified, name))
        }
        _ => {
            let body = json!({"metadata": {"labels": labels},
                "data": {"count": (count + 1).to_string()}});
            bed.patch(&place, None, body).await.expect("is patched");
            model.insert(name.clone(), (selected, count + 1));
            match (was, selected) {
                (false, false) => None,
                (false, true) => Some((WatchKind::Added, name)),
                (true, true) => Some((WatchKind::Modified, name)),
                (true, false) => Some((WatchKind::Deleted, name)),
            }
        }
    }
}

#[tokio::test]
async fn a_selective_watcher_sees_what_the_oracle_says() {
    for seed in 1..=4 {
        let bed = Bed::new().await;
        let start = bed.registry.store().version().0;
        let selective = |from| WatchQuery { labels: "x=1".into(), ..query(Some(from)) };
        let mut live = bed.registry.watch(&selective(start)).expect("starts");
        let mut random = Random(seed);
        let (mut model, mut expected) = (Model::new(), Vec::new());
        for _ in 0..120 {
            if let Some((kind, name)) = step(&bed, &mut model, &mut random).await {
                let version = bed.registry.store().version().0;
                expected.push((kind, name, version));
                let event = seen(&mut live).await;
                assert_eq!(Some(&event), expected.last(), "seed {seed}");
            }
        }
        // A watcher that resumes in the middle sees the rest, and only that.
        let middle = expected.len() / 2;
        let mut late = bed.registry.watch(&selective(expected[middle].2)).expect("starts");
        for event in &expected[middle + 1..] {
            assert_eq!(seen(&mut late).await, *event, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn an_object_that_leaves_shows_its_last_selected_content() {
    let bed = Bed::new().await;
    let mut object = config_map("t");
    object["metadata"]["labels"] = json!({"x": "1"});
    let made = bed.create("/configmaps", "default", object).await;
    let watched = WatchQuery { labels: "x=1".into(), ..query(Some(version(&made))) };
    let mut watch = bed.registry.watch(&watched).expect("starts");
    let body = json!({"metadata": {"labels": {"x": "2"}}});
    let changed = bed.patch(&target("/configmaps", "t"), None, body).await.expect("leaves");
    let event = next(&mut watch).await.expect("goes on").expect("no error");
    assert_eq!(event.kind, WatchKind::Deleted);
    let shown = value(&event.object);
    assert_eq!(shown["metadata"]["labels"], json!({"x": "1"}));
    assert_eq!(version(&shown), version(&changed));
}

#[tokio::test]
async fn a_watch_from_nothing_begins_with_what_exists() {
    let bed = Bed::new().await;
    for name in ["a", "b"] {
        bed.create("/configmaps", "default", config_map(name)).await;
    }
    for from in [None, Some(0)] {
        let mut watch = bed.registry.watch(&query(from)).expect("starts");
        for name in ["a", "b"] {
            let (kind, seen, _) = seen(&mut watch).await;
            assert_eq!((kind, seen.as_str()), (WatchKind::Added, name));
        }
    }
    let mut one = WatchQuery { fields: "metadata.name=b".into(), ..query(None) };
    one.bookmarks = true;
    one.send_initial_events = Some(true);
    let error = bed.registry.watch(&one).err().expect("is refused");
    let message = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
                   sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    assert_eq!((error.code, error.message.as_str()), (422, message));
    one.version_match = "NotOlderThan".into();
    let mut watch = bed.registry.watch(&one).expect("starts");
    assert_eq!(seen(&mut watch).await.1, "b");
    let event = next(&mut watch).await.expect("goes on").expect("no error");
    assert_eq!(event.kind, WatchKind::Bookmark);
    let annotations = &value(&event.object)["metadata"]["annotations"];
    assert_eq!(*annotations, json!({"k8s.io/initial-events-end": "true"}));
}

/// A later page shows what happened after the watch began: the history must not tell it again.
#[tokio::test]
async fn existing_objects_come_in_pages_and_nothing_is_told_twice() {
    let bed = Bed::new().await;
    let large = "x".repeat(WATCH_EXISTING_BYTES / 2);
    for name in ["a", "b", "c", "d", "e"] {
        let mut object = config_map(name);
        object["data"] = json!({ "text": large });
        bed.create("/configmaps", "default", object).await;
    }
    let mut watch = bed.registry.watch(&query(None)).expect("starts");
    assert_eq!(seen(&mut watch).await.1, "a");
    let body = |word: &str| json!({"data": {"word": word}});
    // Shown already: told as a change. Not read yet: shown as it is then, and not told again.
    bed.patch(&target("/configmaps", "b"), None, body("early")).await.expect("changes");
    bed.patch(&target("/configmaps", "e"), None, body("late")).await.expect("changes");
    bed.delete(&target("/configmaps", "d"), Value::Null).await.expect("goes");
    bed.create("/configmaps", "default", config_map("dd")).await;
    let mut told = Vec::new();
    for _ in 0..5 {
        let (kind, name, _) = seen(&mut watch).await;
        told.push(format!("{kind:?} {name}"));
    }
    assert_eq!(told, ["Added b", "Added c", "Added dd", "Added e", "Modified b"]);
    // What comes after all pages is told as ever.
    bed.patch(&target("/configmaps", "e"), None, body("again")).await.expect("changes");
    let (kind, name, _) = seen(&mut watch).await;
    assert_eq!((kind, name.as_str()), (WatchKind::Modified, "e"));
}

#[tokio::test]
async fn a_version_that_is_too_old_is_the_only_event() {
    let mut bed = Bed::new().await;
    let before = bed.registry.store().version();
    // Events live in memory: their history does not survive a restart.
    bed.reopen("10.43.0.0/16").await;
    let events = WatchQuery { resource: of("/events"), ..query(Some(before.0)) };
    let mut watch = bed.registry.watch(&events).expect("starts");
    let error = next(&mut watch).await.expect("one event").expect_err("an error");
    assert_eq!((error.code, error.reason), (410, "Expired"));
    let start = format!("too old resource version: {before} (");
    assert!(error.message.starts_with(&start), "{}", error.message);
    assert!(next(&mut watch).await.is_none());
}

#[tokio::test]
async fn a_watch_resumes_over_restarts() {
    let mut bed = Bed::new().await;
    let mut from = bed.registry.store().version().0;
    for round in 0..6 {
        let name = format!("m{round}");
        let place = target("/configmaps", &name);
        let made = bed.create("/configmaps", "default", config_map(&name)).await;
        bed.reopen("10.43.0.0/16").await;
        let data = json!({"data": {"k": "v"}});
        let changed = bed.patch(&place, None, data).await.expect("is patched");
        bed.reopen("10.43.0.0/16").await;
        bed.delete(&place, Value::Null).await.expect("is deleted");
        let gone = bed.registry.store().version().0;
        let mut watch = bed.registry.watch(&query(Some(from))).expect("starts");
        let expected = [
            (WatchKind::Added, version(&made)),
            (WatchKind::Modified, version(&changed)),
            (WatchKind::Deleted, gone),
        ];
        for (kind, version) in expected {
            assert_eq!(seen(&mut watch).await, (kind, name.clone(), version));
        }
        from = gone;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_tells_how_far_it_is() {
    let bed = Bed::new().await;
    let start = bed.registry.store().version().0;
    let idle = WatchQuery { bookmarks: true, ..query(Some(start)) };
    let mut watch = bed.registry.watch(&idle).expect("starts");
    bed.create("/secrets", "default", json!({"metadata": {"name": "s"}})).await;
    let reached = bed.registry.store().version();
    let event = watch.next().await.expect("goes on").expect("no error");
    assert_eq!((event.kind, event.version), (WatchKind::Bookmark, reached));
}
