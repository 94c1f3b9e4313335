//! Callers that do not forgive: pods on every board look a name up and connect, 50 times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bed::{Bed, PODS};
use crate::inside::{self, Inside};

const EVERY: Duration = Duration::from_millis(20);

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// When it began.
    pub(crate) at: Instant,
    /// Who answered, or why nobody did.
    pub(crate) answer: Result<String, String>,
}

/// Callers at work.
pub(crate) struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<(String, JoinHandle<Vec<Call>>)>,
}

impl Callers {
    /// Makes a pod on each board and has it call `name` from then on.
    pub(crate) fn start(bed: &Bed, name: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let boards = 0..bed.cluster.boards.len();
        for index in boards.clone() {
            // A trial of several rounds has the pods from its first one.
            if bed.master().api("GET", &format!("{PODS}/caller-{index}"), None).is_err() {
                let labels = serde_json::json!({"app": "caller"});
                bed.pod(&format!("caller-{index}"), index, &labels, &crate::bed::idle());
            }
        }
        let mut threads = Vec::new();
        for index in boards {
            let (_, inside) = bed.ready(&format!("caller-{index}"));
            let (name, stop) = (name.to_owned(), stop.clone());
            let label = bed.cluster.boards[index].node().to_owned();
            threads.push((label, std::thread::spawn(move || call_on(&inside, &name, &stop))));
        }
        Self { stop, threads }
    }

    /// Ends them; the calls of each board.
    pub(crate) fn stop(self) -> Vec<(String, Vec<Call>)> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = |(board, thread): (String, JoinHandle<Vec<Call>>)| {
            (board, thread.join().expect("a caller"))
        };
        self.threads.into_iter().map(ended).collect()
    }
}

/// Each call runs on a thread of its own: one that waits does not hold up the next.
fn call_on(inside: &Inside, name: &str, stop: &AtomicBool) -> Vec<Call> {
    let resolver = inside.resolver();
    let work = || {
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let resolver = &resolver;
                running.push(scope.spawn(move || {
                    let at = Instant::now();
                    let answer = resolver.addresses(name).map_err(|error| format!("DNS: {error}"));
                    let answer = answer.and_then(|addresses| {
                        let text = inside::read(addresses[0], 80);
                        text.map_err(|error| format!("{}: {error}", addresses[0]))
                    });
                    Call { at, answer }
                }));
                next += EVERY;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(running.into_iter().map(|call| call.join().expect("a call")).collect())
        })
    };
    inside.run(work).expect("calls inside a pod")
}

/// How many calls were made and failed; the first few failures are printed.
pub(crate) fn judge(what: &str, calls: &[(String, Vec<Call>)], began: Instant) -> (usize, usize) {
    let (mut made, mut failed) = (0, 0);
    for (board, calls) in calls {
        made += calls.len();
        for call in calls.iter().filter(|call| call.answer.is_err()) {
            failed += 1;
            if failed <= 10 {
                let at = call.at.saturating_duration_since(began);
                println!("{what}: from {board} after {at:.2?}: {:?}", call.answer);
            }
        }
    }
    (made, failed)
}

/// From `began` to the last call that failed; zero without failures.
pub(crate) fn last_failure(calls: &[(String, Vec<Call>)], began: Instant) -> Duration {
    let failed = calls.iter().flat_map(|(_, calls)| calls).filter(|call| call.answer.is_err());
    let Some(last) = failed.clone().max_by_key(|call| call.at) else { return Duration::ZERO };
    println!("the last call to fail: {:?}", last.answer);
    let late = Duration::from_secs(1);
    let almost = failed.filter(|call| call.at + late > last.at).count();
    println!("in the second before it {almost} failed");
    last.at.saturating_duration_since(began)
}
