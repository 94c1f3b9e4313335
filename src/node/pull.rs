//! Gets images that this board lacks from the cluster.
//!
//! Pods that ask for the same image share one fetch; one that nobody waits for any more ends. An
//! image that could not be had is asked for again, soon when nobody has it (somebody may import it
//! on any board), later and later when something is wrong with it. The pods learn that there is
//! something to try; nothing is written while they wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::limits::{IMAGE_ASK_AGAIN_SECONDS_MAX, NODE_ANSWERS_MAX};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::io::image::{FetchError, Fetched, ImageName, ImageStore, Source};

/// First wait before an image is asked for again.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// Longest wait for an image that nobody has, or while nobody can be asked.
const AGAIN_MAX: Duration = Duration::from_secs(IMAGE_ASK_AGAIN_SECONDS_MAX);
/// First and longest wait for an image with which something is wrong (kubelet's back-off).
const FAULTY_MIN: Duration = Duration::from_secs(10);
const FAULTY_MAX: Duration = Duration::from_secs(300);
/// How long the cluster may take to say whether it has an image.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// Blobs that were begun are removed when nothing has been wanted for this long.
const SWEEP_AFTER: Duration = Duration::from_secs(120);

/// What came of a fetch; shared by all who waited.
type Outcome = Result<Fetched, Arc<FetchError>>;

/// Fetches images; clones share the work.
#[derive(Clone, Debug)]
pub(super) struct Puller(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    images: ImageStore,
    source: Arc<dyn Source>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<String, Arc<watch::Sender<Option<Outcome>>>>,
    /// When to ask again, by the image's text in the pod.
    again: BTreeMap<String, Again>,
}

/// The next try of an image that could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Again {
    at: Instant,
    wait: Duration,
    /// Something is wrong with it; else nobody has it, or nobody could be asked.
    faulty: bool,
}

impl Again {
    fn after(before: Option<Self>, faulty: bool) -> Self {
        let (min, max) = if faulty { (FAULTY_MIN, FAULTY_MAX) } else { (AGAIN_MIN, AGAIN_MAX) };
        let before = before.filter(|before| before.faulty == faulty);
        let wait = before.map_or(min, |before| (before.wait * 2).min(max));
        Self { at: Instant::now() + wait, wait, faulty }
    }
}

impl Puller {
    pub(super) fn new(images: ImageStore, source: Arc<dyn Source>) -> Self {
        Self(Arc::new(Shared { images, source, state: Mutex::default() }))
    }

    /// Fetches the image that a pod calls `text`.
    ///
    /// Cancel safety: the fetch goes on for as long as anybody waits for it.
    pub(super) async fn pull(&self, text: &str, name: &ImageName) -> Outcome {
        let mut outcome = self.join(name);
        let ended = match outcome.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone(),
            Err(_) => None,
        };
        let outcome = ended.unwrap_or_else(|| Err(Arc::new(FetchError::Stopped)));
        let mut state = self.state();
        match &outcome {
            Ok(_) => drop(state.again.remove(text)),
            Err(error) => {
                let faulty = !matches!(
                    **error,
                    FetchError::Absent(_) | FetchError::Away(_) | FetchError::Stopped
                );
                let again = Again::after(state.again.get(text).copied(), faulty);
                state.again.insert(text.to_owned(), again);
            }
        }
        drop(state);
        outcome
    }

    /// The fetch of this image that is under way, or a new one.
    fn join(&self, name: &ImageName) -> watch::Receiver<Option<Outcome>> {
        let mut state = self.state();
        if let Some(running) = state.running.get(name.as_str()) {
            return running.subscribe();
        }
        let (running, outcome) = watch::channel(None);
        let running = Arc::new(running);
        state.running.insert(name.as_str().to_owned(), running.clone());
        tokio::spawn(self.clone().run(name.clone(), running));
        outcome
    }

    async fn run(self, name: ImageName, running: Arc<watch::Sender<Option<Outcome>>>) {
        let (stopper, stop) = watch::channel(false);
        let (images, source, wanted) = (self.0.images.clone(), self.0.source.clone(), name.clone());
        let fetch = tokio::task::spawn_blocking(move || images.fetch(&wanted, source, stop));
        tokio::pin!(fetch);
        // Cancel safety: a fetch that nobody waits for is told to stop and waited for all the same.
        let ended = tokio::select! {
            ended = &mut fetch => ended,
            () = running.closed() => {
                // Who comes from here on begins anew; the store fetches one after the other.
                self.forget(&name, &running);
                stopper.send_replace(true);
                fetch.await
            }
        };
        self.forget(&name, &running);
        let outcome = ended.unwrap_or(Err(FetchError::Stopped)).map_err(Arc::new);
        if let Ok(Fetched { bytes, received_bytes, .. }) = &outcome {
            tracing::info!(image = %name, bytes, received_bytes, "image fetched from the cluster");
        }
        running.send_replace(Some(outcome));
    }

    fn forget(&self, name: &ImageName, running: &Arc<watch::Sender<Option<Outcome>>>) {
        let mut state = self.state();
        if state.running.get(name.as_str()).is_some_and(|other| Arc::ptr_eq(other, running)) {
            state.running.remove(name.as_str());
        }
    }

    /// Asks again for the images that pods lack, and says which there is something to try for. Ends
    /// when `wanted` or `offered` is closed.
    pub(super) async fn ask_again(
        self,
        mut wanted: watch::Receiver<BTreeSet<String>>,
        offered: mpsc::Sender<String>,
    ) {
        loop {
            let names = wanted.borrow_and_update().clone();
            let due = self.due(&names);
            for text in due.now {
                if self.is_worth_a_try(&text).await && offered.send(text).await.is_err() {
                    return;
                }
            }
            let idle = names.is_empty();
            let at = if idle { Some(Instant::now() + SWEEP_AFTER) } else { due.next };
            // Cancel safety: both only wait.
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = offered.closed() => return,
                () = sleep_until(at) => if idle {
                    let images = self.0.images.clone();
                    tokio::task::spawn_blocking(move || images.sweep_partials());
                    if wanted.changed().await.is_err() {
                        return;
                    }
                },
            }
        }
    }

    /// Which images are to be asked for now, and when the next one is.
    fn due(&self, wanted: &BTreeSet<String>) -> Due {
        let mut state = self.state();
        state.again.retain(|text, _| wanted.contains(text));
        let (mut due, now) = (Due::default(), Instant::now());
        for text in wanted {
            // One that failed before this agent began is new here.
            let again =
                *state.again.entry(text.clone()).or_insert_with(|| Again::after(None, false));
            if again.at <= now {
                due.now.push(text.clone());
                let next = Again { at: now + again.wait.max(AGAIN_MIN), ..again };
                state.again.insert(text.clone(), next);
            }
        }
        due.next = state.again.values().map(|again| again.at).min();
        due
    }

    async fn is_worth_a_try(&self, text: &str) -> bool {
        let Ok(name) = ImageName::parse(text) else { return false };
        let offers = timeout(ASK_WITHIN, self.0.source.offers(name.as_str())).await;
        if matches!(offers, Ok(Ok(offers)) if !offers.is_empty()) {
            return true;
        }
        let mut state = self.state();
        let faulty = state.again.get(text).is_some_and(|again| again.faulty);
        let again = Again::after(state.again.get(text).copied(), faulty);
        state.again.insert(text.to_owned(), again);
        false
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Due {
    now: Vec<String>,
    next: Option<Instant>,
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The channel of images for which there is something to try.
pub(super) fn offered() -> (mpsc::Sender<String>, mpsc::Receiver<String>) {
    mpsc::channel(NODE_ANSWERS_MAX)
}

/// A time as Go prints durations rounded to milliseconds: `12ms`, `1.234s`, `1m2.5s`.
pub(super) fn go_duration(time: Duration) -> String {
    let millis = time.as_millis();
    let seconds = |millis: u128| {
        let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
        format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => seconds(millis),
        _ => format!("{}m{}", millis / 60_000, seconds(millis % 60_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_in_kubelet() {
        for (millis, text) in
            [(7, "7ms"), (1_000, "1s"), (1_250, "1.25s"), (62_500, "1m2.5s"), (120_000, "2m0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_is_asked_for_soon_and_what_is_wrong_later_and_later() {
        let waits = |faulty| {
            let mut again = None;
            let mut waits = Vec::new();
            for _ in 0..7 {
                let next = Again::after(again, faulty);
                waits.push(next.wait.as_secs());
                again = Some(next);
            }
            waits
        };
        assert_eq!(waits(false), [1, 2, 4, 8, 10, 10, 10]);
        assert_eq!(waits(true), [10, 20, 40, 80, 160, 300, 300]);
        let faulty = Again::after(None, true);
        assert_eq!(Again::after(Some(faulty), false).wait.as_secs(), 1, "each begins anew");
    }
}
