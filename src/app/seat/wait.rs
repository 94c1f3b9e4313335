//! What a seat waits for.

use std::time::Duration;

use model::leader::SignedRecord;
use model::masters::{CertifiedV1, MemberId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Event;
use crate::app::member::Said;
use crate::io::peer::Connection;
use crate::io::store::Mandate;
use crate::master::members::Engine;

/// Resolves when the reign is over; never without one.
pub(super) async fn over(own: Option<&Mandate>) {
    match own {
        Some(own) => own.over().await,
        None => std::future::pending().await,
    }
}

/// Resolves when this board shall lead otherwise than in `own`, or lead no more.
pub(super) async fn reign_changes(
    reigns: Option<watch::Receiver<Option<Mandate>>>,
    own: Option<&Mandate>,
) -> Event {
    let Some(mut reigns) = reigns else { return std::future::pending().await };
    loop {
        // The store's thread says late that a reign is over when it waits for the disk.
        let mandate = reigns.borrow_and_update().clone().filter(|mandate| !mandate.is_over());
        match (mandate, own) {
            (Some(mandate), Some(own)) if mandate.reign() == own.reign() => {}
            (Some(mandate), _) => return Event::Lead(mandate),
            (None, Some(_)) => return Event::Follow,
            (None, None) => {}
        }
        if reigns.changed().await.is_err() {
            // The store is closed: that shows elsewhere.
            return std::future::pending().await;
        }
    }
}

/// Waits until the leader wants a board to hold the log, or a member to do so no more.
pub(super) async fn told(said: Option<watch::Receiver<Option<Said>>>, is_member: bool) -> Event {
    let Some(mut said) = said else { return std::future::pending().await };
    let word = said.wait_for(Option::is_some).await.map(|said| said.clone());
    match (word, is_member) {
        (Ok(Some(Said::Kit(kit))), false) => Event::Join(kit),
        (Ok(Some(Said::Gone)), true) => Event::Leave,
        // It does not ask, or is told what it is already.
        _ => std::future::pending().await,
    }
}

/// Waits until another authority counts; for ever on a board that is no master.
pub(super) async fn is_due(another: Option<watch::Receiver<Option<[u8; 32]>>>) {
    if let Some(mut another) = another
        && another.wait_for(Option::is_some).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Waits for a certificate of another authority.
pub(super) async fn certified(
    certificates: Option<watch::Receiver<Option<CertifiedV1>>>,
) -> Box<CertifiedV1> {
    if let Some(mut certificates) = certificates
        && let Ok(certified) = certificates.wait_for(Option::is_some).await
        && let Some(certified) = certified.clone()
    {
        return Box::new(certified);
    }
    std::future::pending().await
}

/// Waits for that moment; for ever without one.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for the engine to fail, and says why.
pub(super) async fn engine_failed(engine: Option<watch::Receiver<Option<Engine>>>) -> String {
    let Some(mut engine) = engine else { return std::future::pending().await };
    let running = engine.wait_for(Option::is_some).await.map(|running| running.clone());
    let Ok(Some(running)) = running else { return std::future::pending().await };
    let mut health = running.group.health();
    let failed = health.wait_for(|health| health.failed.is_some()).await;
    let failed = failed.map(|health| health.failed.clone().unwrap_or_default());
    match failed {
        Ok(why) => why,
        // It was asked to end.
        Err(_) => std::future::pending().await,
    }
}

/// How often a leader of a later epoch that does not answer is looked for again; a member that has not
/// answered for so long may follow one.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Waits until a leader of a later epoch that was heard of says so itself: `confirmed` asks it.
pub(super) async fn deposed<Asked: Future<Output = bool>>(
    rivals: Option<watch::Receiver<Option<SignedRecord>>>,
    confirmed: impl Fn(SignedRecord) -> Asked,
) -> SignedRecord {
    let Some(mut rivals) = rivals else { return std::future::pending().await };
    loop {
        let heard = rivals.wait_for(Option::is_some).await.map(|heard| heard.clone());
        let Ok(Some(record)) = heard else {
            // Nobody listens any more: that shows elsewhere.
            return std::future::pending().await;
        };
        if confirmed(record.clone()).await {
            return record;
        }
        // An error shows at the next look.
        let _newer = timeout(LOOK_AGAIN, rivals.changed()).await;
    }
}

/// Waits until `ask` finds a leader of a later epoch; it asks where members are `silent`. Where no
/// announcement arrives, a leader that was cut off learns in no other way that somebody was promoted.
pub(super) async fn fenced_meanwhile<Asked: Future<Output = Option<SignedRecord>>>(
    silent: impl Fn() -> Vec<MemberId>,
    ask: impl Fn(Vec<MemberId>) -> Asked,
) -> SignedRecord {
    loop {
        sleep(LOOK_AGAIN).await;
        let silent = silent();
        if silent.is_empty() {
            continue;
        }
        if let Some(record) = ask(silent).await {
            return record;
        }
    }
}

/// Waits until this board has been led for a while, if it was a master and still has its keys.
pub(super) async fn led_again(tunnel: Option<watch::Receiver<Option<Connection>>>) {
    let Some(mut tunnel) = tunnel else { return std::future::pending().await };
    loop {
        if tunnel.wait_for(Option::is_some).await.is_err() {
            return std::future::pending().await;
        }
        let closed = async { tunnel.wait_for(Option::is_none).await.map(drop) };
        match timeout(LED_FOR, closed).await {
            Err(_) => return,
            Ok(Ok(())) => {}
            Ok(Err(_)) => return std::future::pending().await,
        }
    }
}

/// A tunnel that has stood for so long leads to whoever leads.
const LED_FOR: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use model::leader::LeaderRecord;

    use super::*;

    fn record() -> SignedRecord {
        let record = LeaderRecord {
            cluster: "c".into(),
            epoch: 2,
            term: 1,
            name: "b".into(),
            addresses: vec![Ipv4Addr::LOCALHOST],
            api_port: 1,
            mqtt_port: 2,
            peer_port: 3,
            ca: [1; 16],
        };
        SignedRecord::sign(record, |_| vec![1]).expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_asks_where_nobody_answers_it_whether_it_was_fenced() {
        let (silent, asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let who = || (0..silent.load(Ordering::Relaxed)).map(|_| MemberId(2)).collect::<Vec<_>>();
        let ask = |of: Vec<MemberId>| {
            assert_eq!(of, [MemberId(2)]);
            std::future::ready((asked.fetch_add(1, Ordering::Relaxed) == 3).then(record))
        };
        let waiting = fenced_meanwhile(who, ask);
        tokio::pin!(waiting);
        assert!(timeout(LOOK_AGAIN * 10, &mut waiting).await.is_err());
        assert_eq!(asked.load(Ordering::Relaxed), 0, "everybody answers");
        silent.store(1, Ordering::Relaxed);
        assert!(timeout(LOOK_AGAIN * 3, &mut waiting).await.is_err(), "away, not promoted");
        let later = timeout(LOOK_AGAIN * 2, waiting).await.expect("it says who leads");
        assert_eq!(later, record());
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_alone_deposes_nobody() {
        let heard = watch::Sender::new(Some(record()));
        let asked = AtomicUsize::new(0);
        let answers_at = 4;
        let confirmed = |_| std::future::ready(asked.fetch_add(1, Ordering::Relaxed) == answers_at);
        let waiting = deposed(Some(heard.subscribe()), confirmed);
        tokio::pin!(waiting);
        let early = timeout(LOOK_AGAIN * 3 + LOOK_AGAIN / 2, &mut waiting).await;
        assert!(early.is_err(), "nobody there says so");
        assert_eq!(asked.load(Ordering::Relaxed), answers_at);
        timeout(LOOK_AGAIN * 2, waiting).await.expect("it says so itself");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_hear_of_a_leader_keeps_its_keys() {
        let tunnel = watch::Sender::new(None::<Connection>);
        let waiting = led_again(Some(tunnel.subscribe()));
        assert!(timeout(LED_FOR * 100, waiting).await.is_err());
    }
}
