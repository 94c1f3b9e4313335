//! Leading: from the first reign to the last, and what becomes of proposals when it ends.

use std::sync::{Mutex, atomic::Ordering};

use super::*;
use crate::io::store::{group::seam::Refusal, requests::Unattached};

/// A replica that leads in term 1, its log at 2.
async fn leader(dir: &Dir) -> (Replica, Leads) {
    let replica = Replica::open(&dir.0).await;
    replica.append_and_commit(&history(2, 0)).await;
    let leads = replica.lead(1).await;
    (replica, leads)
}

fn propose(
    store: &Store,
    ops: Vec<Op>,
) -> tokio::task::JoinHandle<Result<Committed, ProposeError>> {
    let store = store.clone();
    tokio::spawn(async move { store.propose(ops).await })
}

fn placed(term: u64, first: u64, proposed: &[(u64, Bytes)]) -> Vec<LogEntry> {
    let entries = proposed.iter().zip(first..);
    entries
        .map(|((tag, payload), index)| LogEntry {
            term,
            index,
            payload: payload.clone(),
            tag: *tag,
        })
        .collect()
}

#[tokio::test]
async fn a_write_is_answered_when_it_is_committed_and_a_key_in_flight_waits() {
    let dir = Dir::new();
    let (mut replica, _leads) = leader(&dir).await;
    let pod = key("/pods", "a", "b");
    let first = propose(&replica.store, vec![put(pod.clone(), Base::Absent, body("1"))]);
    let (term, proposed) = replica.proposed().await;
    assert_eq!((term, proposed.len()), (1, 1));
    // The same key waits, another one goes on.
    let second = propose(&replica.store, vec![put(pod.clone(), Base::Absent, body("2"))]);
    let other = propose(&replica.store, vec![put(key("/pods", "a", "c"), Base::Any, body("3"))]);
    let (_, more) = replica.proposed().await;
    assert_eq!(more.len(), 1, "only what touches no key in flight");
    let entries = placed(1, 3, &[proposed, more].concat());
    replica.append(entries.clone()).await.expect("appended");
    assert!(!first.is_finished() && replica.store.get(&pod).expect("read").is_none());
    // Read back from the disk the tags are lost, the answers are not.
    replica.commit(replica.read(3, 4, 1 << 20).await).await.expect("applied");
    let versions = [first, other].map(|answered| async { answered.await.expect("joined") });
    for (nth, versions) in versions.into_iter().enumerate() {
        let committed = versions.await.expect("written");
        assert_eq!(committed.versions, [Version::of_entry(3 + nth as u64, 0)]);
    }
    let conflict = second.await.expect("joined");
    let current = Some(Version::of_entry(3, 0));
    assert!(
        matches!(conflict, Err(ProposeError::Conflict { op: 0, current: found }) if found == current),
        "{conflict:?}"
    );
    replica.store.close().await;
}

#[tokio::test]
async fn proposals_that_arrive_together_are_handed_over_together_and_no_more_than_some_groups() {
    let dir = Dir::new();
    let (mut replica, _leads) = leader(&dir).await;
    let mut writes = Vec::new();
    let mut groups = Vec::new();
    for nth in 0..40 {
        let op = put(key("/pods", "a", &format!("p{nth}")), Base::Absent, body("x"));
        writes.push(propose(&replica.store, vec![op]));
        if nth < 4 {
            groups.push(replica.proposed().await.1);
        }
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(replica.asks.try_recv().is_err(), "a fifth group went out");
    let mut next = 3;
    while next < 43 {
        let group = if groups.is_empty() { replica.proposed().await.1 } else { groups.remove(0) };
        let entries = placed(1, next, &group);
        next += entries.len() as u64;
        replica.append_and_commit(&entries).await;
    }
    for write in writes {
        write.await.expect("joined").expect("written");
    }
    assert_eq!(replica.store.count(&"/pods".into(), None), 40);
    replica.store.close().await;
}

#[tokio::test]
async fn what_is_refused_never_happens_and_what_follows_does_not_build_on_it() {
    let dir = Dir::new();
    let (mut replica, _leads) = leader(&dir).await;
    let pod = key("/pods", "a", "b");
    let made = propose(&replica.store, vec![put(pod.clone(), Base::Absent, body("1"))]);
    let (_, proposed) = replica.proposed().await;
    replica.append_and_commit(&placed(1, 3, &proposed)).await;
    let version = made.await.expect("joined").expect("written").versions[0];
    // A delete that is refused after a create of the same name has arrived.
    let gone = propose(&replica.store, vec![delete(pod.clone(), Base::At(version))]);
    let (_, proposed) = replica.proposed().await;
    let again = propose(&replica.store, vec![put(pod.clone(), Base::Absent, body("2"))]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(replica.asks.try_recv().is_err(), "the create was built on a delete that may be lost");
    let tags = proposed.iter().map(|(tag, _)| *tag).collect();
    let why = Refusal::NotLeading { hint: Some(MemberId(9)) };
    replica.store.engine().send(GroupRequest::Refused { tags, why }).expect("runs");
    let gone = gone.await.expect("joined");
    assert!(matches!(gone, Err(ProposeError::NotLeading { hint: Some(MemberId(9)) })), "{gone:?}");
    let again = again.await.expect("joined");
    assert!(matches!(again, Err(ProposeError::Conflict { .. })), "{again:?}");
    replica.store.close().await;
}

#[tokio::test]
async fn who_waits_for_two_seconds_is_told_whether_it_can_have_happened() {
    let dir = Dir::new();
    let (mut replica, _leads) = leader(&dir).await;
    let pod = key("/pods", "a", "b");
    let out = propose(&replica.store, vec![put(pod.clone(), Base::Absent, body("1"))]);
    let (_, proposed) = replica.proposed().await;
    let queued = propose(&replica.store, vec![put(pod.clone(), Base::Any, body("2"))]);
    let (out, queued) = (out.await.expect("joined"), queued.await.expect("joined"));
    assert!(matches!(out, Err(ProposeError::Unknown)), "{out:?}");
    assert!(matches!(queued, Err(ProposeError::Late)), "{queued:?}");
    // It happens after all.
    replica.append_and_commit(&placed(1, 3, &proposed)).await;
    assert!(replica.store.get(&pod).expect("read").is_some());
    let next = propose(&replica.store, vec![delete(pod.clone(), Base::Any)]);
    let (_, proposed) = replica.proposed().await;
    replica.append_and_commit(&placed(1, 4, &proposed)).await;
    next.await.expect("joined").expect("the key is free again");
    replica.store.close().await;
}

#[tokio::test]
async fn a_handle_of_an_old_reign_writes_nothing_in_a_new_one() {
    let dir = Dir::new();
    let (mut replica, leads) = leader(&dir).await;
    let old = replica.store.of(&leads.mandate);
    let pod = key("/pods", "a", "b");
    let lost = propose(&old, vec![put(pod.clone(), Base::Absent, body("1"))]);
    let (_, proposed) = replica.proposed().await;
    replica.append(placed(1, 3, &proposed)).await.expect("appended");
    let queued = propose(&old, vec![put(pod.clone(), Base::Any, body("2"))]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    leads.over.send_replace(true);
    replica.step_down().await;
    assert!(leads.mandate.is_over());
    let queued = queued.await.expect("joined");
    assert!(matches!(queued, Err(ProposeError::NotLeading { .. })), "{queued:?}");
    // The other leader has another entry there.
    replica.truncate(2).await.expect("cut");
    let lost = lost.await.expect("joined");
    assert!(matches!(lost, Err(ProposeError::Unknown)), "{lost:?}");
    replica.append_and_commit(&[blank(2, 3), blank(3, 4)]).await;
    let again = replica.lead(3).await;
    let refused = old.propose(vec![put(pod.clone(), Base::Absent, body("1"))]).await;
    assert!(matches!(refused, Err(ProposeError::NotLeading { .. })), "{refused:?}");
    let event = put(key("/events", "a", "e"), Base::Absent, body("e"));
    let refused = old.propose_memory(vec![event.clone()]).await;
    assert!(matches!(refused, Err(ProposeError::NotLeading { .. })), "{refused:?}");
    let event = replica.store.of(&again.mandate).propose_memory(vec![event]).await.expect("put");
    assert_eq!(event.versions, [Version::of_entry(4, 1)]);
    let attached = old.lead(&leads.mandate, Box::new(())).await;
    assert!(matches!(attached, Err(Unattached::NotLeading(_))), "{attached:?}");
    replica.store.close().await;
}

#[tokio::test]
async fn a_leader_that_is_not_fresh_writes_no_events_and_refuses_nothing_for_its_old_state() {
    let dir = Dir::new();
    let (mut replica, leads) = leader(&dir).await;
    let pod = key("/pods", "a", "b");
    let made = propose(&replica.store, vec![put(pod.clone(), Base::Absent, body("1"))]);
    let (_, proposed) = replica.proposed().await;
    replica.append_and_commit(&placed(1, 3, &proposed)).await;
    made.await.expect("joined").expect("written");
    leads.acked_ms.store(boot_ms().saturating_sub(2 * LEASE_MS), Ordering::SeqCst);
    leads.leads.store(false, Ordering::SeqCst);
    let event = vec![put(key("/events", "a", "e"), Base::Absent, body("e"))];
    let refused = replica.store.propose_memory(event).await;
    assert!(matches!(refused, Err(ProposeError::Late)), "{refused:?}");
    let stale = replica.store.propose(vec![put(pod, Base::Absent, body("2"))]).await;
    assert!(matches!(stale, Err(ProposeError::NotLeading { .. })), "{stale:?}");
    replica.store.close().await;
}

#[tokio::test]
async fn events_of_another_reign_are_gone_and_their_watches_begin_again() {
    let dir = Dir::new();
    let (mut replica, _leads) = leader(&dir).await;
    let event = key("/events", "a", "e");
    let put_event = || vec![put(event.clone(), Base::Absent, body("e"))];
    let first = replica.store.propose_memory(put_event()).await.expect("put").versions[0];
    let mut events = replica.store.watch_kind(&"/events".into(), None, first).expect("now");
    let mut pods = replica.store.watch_kind(&"/pods".into(), None, first).expect("now");
    replica.step_down().await;
    assert_eq!(replica.store.count(&"/events".into(), None), 0);
    assert_eq!(events.next().await.err(), Some(WatchError::Expired));
    replica.append_and_commit(&[blank(2, 3)]).await;
    let _leads = replica.lead(2).await;
    assert!(replica.store.get(&event).expect("read").is_none());
    assert!(replica.store.watch_kind(&"/events".into(), None, first).is_err());
    let again = replica.store.propose_memory(put_event()).await.expect("put").versions[0];
    assert!(again > first && again.position() == 3);
    let write = propose(&replica.store, vec![put(key("/pods", "a", "p"), Base::Any, body("p"))]);
    let (_, proposed) = replica.proposed().await;
    replica.append_and_commit(&placed(2, 4, &proposed)).await;
    let version = write.await.expect("joined").expect("written").versions[0];
    assert_eq!(pods.next().await.expect("a watch of pods goes on").version, version);
    replica.store.close().await;
}

/// An entry that makes so many pods.
fn several(term: u64, index: u64, count: u64) -> LogEntry {
    let op = |nth| OpV1 {
        kind: "/pods".into(),
        namespace: "a".into(),
        name: format!("p{index}-{nth}"),
        base: BaseV1::Absent,
        uid: Uid([3; 16]),
        body: Some(body("x")),
        old: None,
    };
    let payload = EntryV1::At(Timestamp(index as i64), (0..count).map(op).collect()).encode();
    LogEntry { term, index, payload: payload.into(), tag: 0 }
}

#[tokio::test]
async fn a_reign_that_goes_on_gives_no_version_of_the_log_to_an_event() {
    let dir = Dir::new();
    let (replica, _leads) = leader(&dir).await;
    replica.step_down().await;
    // An entry of this leader is applied behind the one above which its reign goes on.
    replica.append_and_commit(&[blank(1, 3), several(1, 4, 5)]).await;
    let _leads = replica.lead(1).await;
    let event = put(key("/events", "a", "e"), Base::Absent, body("e"));
    let event = replica.store.propose_memory(vec![event]).await.expect("put").versions[0];
    let pods = replica.store.list(&all("/pods")).expect("list").records;
    assert_eq!(pods.len(), 5);
    assert!(pods.iter().all(|pod| pod.version < event), "{event}");
    replica.store.close().await;
}

#[tokio::test]
async fn a_hook_sees_every_object_then_every_change_until_it_is_let_go() {
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);
    impl Applied for Seen {
        fn applied(&mut self, change: &Change) {
            self.0.lock().expect("whole").push(change.key.name.clone());
        }

        fn opened(&mut self, version: Version) {
            self.0.lock().expect("whole").push(version.to_string());
        }
    }
    let dir = Dir::new();
    let replica = Replica::open(&dir.0).await;
    let log = history(6, 10);
    replica.append_and_commit(&log[..4]).await;
    let leads = replica.lead(1).await;
    let seen = Seen::default();
    replica.store.lead(&leads.mandate, Box::new(seen.clone())).await.expect("follows");
    replica.append_and_commit(&log[4..5]).await;
    replica.store.detach().await;
    replica.append_and_commit(&log[5..]).await;
    let opened = Version::of_entry(4, 0).to_string();
    assert_eq!(*seen.0.lock().expect("whole"), ["p3", "p4", opened.as_str(), "p5"]);
    replica.store.close().await;
}

#[tokio::test]
async fn a_master_that_is_alone_grows_into_a_group_in_the_same_reign() {
    let dir = Dir::new();
    let store = dir.open();
    let pod = key("/pods", "a", "b");
    let first = store.propose(vec![put(pod.clone(), Base::Absent, body("1"))]).await.expect("put");
    let mandate = store.reign().borrow().clone().expect("leads");
    let bound = store.of(&mandate);
    let (asks, asked) = mpsc::channel(8);
    let member = group().members.remove(0);
    let state = store.enter(OWN, 1, asks, Some(member)).await.expect("grows");
    let term = mandate.reign().term;
    let position = first.versions[0].position();
    assert_eq!(state.vote, Some(VoteV1 { term, of: OWN, granted: true }));
    assert_eq!((state.last, state.applied), (id(term, position + 1), id(term, position + 1)));
    assert_eq!(store.members(), Some(group()));
    let mut replica = Replica { store: store.clone(), asks: asked, state };
    let leads = replica.lead(term).await;
    leads.acked_ms.store(0, Ordering::SeqCst);
    assert!(!mandate.may_act(), "the old mandate asks the new majority");
    leads.acked_ms.store(boot_ms(), Ordering::SeqCst);
    assert!(mandate.may_act() && !mandate.is_over());
    let write = propose(&bound, vec![put(pod, Base::At(first.versions[0]), body("2"))]);
    let (_, proposed) = replica.proposed().await;
    replica.append_and_commit(&placed(term, position + 2, &proposed)).await;
    write.await.expect("joined").expect("the reign goes on");
    replica.step_down().await;
    assert!(mandate.is_over());
    store.close().await;
    let store = Store::open(Options::new(&dir.0)).expect("opens");
    assert_eq!(store.standing(), Standing::Member { own: OWN, epoch: 1 });
    assert_eq!(store.count(&"/pods".into(), None), 1);
    store.close().await;
}

#[tokio::test]
async fn a_full_disk_refuses_before_anything_is_handed_over() {
    let (mut refused, mut appended) = (0, 0);
    for nth in 1..60 {
        let dir = Dir::new();
        let mut options = Options::new(&dir.0);
        options.faults = file::Faults::at(nth, libc::ENOSPC, false);
        let Ok(store) = Store::open(options) else { continue };
        let (sender, asks) = mpsc::channel(8);
        let Ok(state) = store.enter(OWN, 1, sender, None).await else { continue };
        let mut replica = Replica { store, asks, state };
        if replica.append(history(2, 0)).await.is_err() {
            continue;
        }
        replica.commit(history(2, 0)).await.expect("applied");
        let _leads = replica.lead(1).await;
        let mut next = 3;
        for round in 0..8 {
            let large = Bytes::from(vec![b'x'; 200_000]);
            let op = put(key("/pods", "a", &format!("p{round}")), Base::Absent, large);
            let write = propose(&replica.store, vec![op]);
            let proposed = tokio::select! {
                (_, proposed) = replica.proposed() => proposed,
                () = tokio::time::sleep(Duration::from_millis(500)) => Vec::new(),
            };
            if proposed.is_empty() {
                let outcome = write.await.expect("joined");
                assert!(matches!(outcome, Err(ProposeError::NoSpace)), "call {nth}: {outcome:?}");
                refused += 1;
                continue;
            }
            let entries = placed(1, next, &proposed);
            next += 1;
            if replica.append(entries.clone()).await.is_err() {
                // Only injected: a write into room that was made meets no full disk.
                break;
            }
            appended += 1;
            replica.commit(entries).await.expect("applied");
            write.await.expect("joined").expect("written");
        }
        assert!(!replica.store.failed(), "call {nth}");
        replica.store.abandon().await;
    }
    assert!(refused > 3 && appended > 100, "{refused} refused, {appended} appended");
}
