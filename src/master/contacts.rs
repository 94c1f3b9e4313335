//! Who is heard: the driver of `logic::contact`.
//!
//! Sessions of boards tell what they hear; one task judges silence at its deadlines and sleeps
//! otherwise. A judgement shows in the world and brings the keys of that board's Node to all
//! controllers. A board that speaks again shows as heard before its message is acted on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use logic::contact::{ContactBook, Patience, Seen};
use tokio::sync::{Notify, watch};

use super::controllers::Views;

/// The book behind the views of a master.
pub(super) struct Listening {
    book: Mutex<ContactBook>,
    /// A deadline may have come closer.
    wake: Notify,
    start: Instant,
}

impl Listening {
    pub(super) fn new(patience: Patience) -> Self {
        let book = Mutex::new(ContactBook::new(patience));
        Self { book, wake: Notify::new(), start: Instant::now() }
    }

    /// The book; whoever also needs the world takes that first.
    pub(super) fn book(&self) -> MutexGuard<'_, ContactBook> {
        // The book of a panicked holder is as good as before: entries change as a whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Monotonic milliseconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes the judge look at its deadlines again.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// The contacts of a master; clones share them.
#[derive(Clone)]
pub struct Contacts(Views);

impl Contacts {
    /// The contacts of the master that has these views.
    pub fn new(views: &Views) -> Self {
        Self(views.clone())
    }

    /// A message of this board came in.
    pub fn heard(&self, board: &str) {
        let listening = self.0.listening();
        let changed = listening.book().heard(board, listening.now());
        if changed {
            self.0.show_contacts(&[board]);
            listening.wake();
        }
    }

    /// A session of this board began.
    pub fn connected(&self, board: &str) {
        self.0.listening().book().connected(board);
    }

    /// The session of this board ended.
    pub fn gone(&self, board: &str) {
        let listening = self.0.listening();
        listening.book().gone(board, listening.now());
        listening.wake();
    }

    /// Every board and how it was seen, by name.
    pub fn seen(&self) -> Vec<(String, Seen)> {
        let listening = self.0.listening();
        let now = listening.now();
        listening.book().seen(now).map(|(name, seen)| (name.to_owned(), seen)).collect()
    }

    /// What a person should know: most boards are silent, so no pod is moved.
    pub fn warning(&self) -> Option<String> {
        let book = self.0.listening().book();
        let ((lost, all), names) = (book.lost_of(), book.lost().take(NAMES_MAX));
        book.mass_silence().then(|| {
            let names = names.collect::<Vec<_>>().join(", ");
            let more = if lost > NAMES_MAX { ", ..." } else { "" };
            format!(
                "{lost} of {all} boards are silent ({names}{more}), so no pod is moved away from \
                 them: check the power and the network of those boards, and of this one"
            )
        })
    }

    /// Judges whoever is over the time.
    fn judge(&self) {
        let listening = self.0.listening();
        let lost = listening.book().judge(listening.now());
        if lost.is_empty() {
            return;
        }
        for board in &lost {
            tracing::warn!(node = &**board, "board is silent");
        }
        let names: Vec<&str> = lost.iter().map(|name| &**name).collect();
        self.0.show_contacts(&names);
    }
}

/// Names in a warning.
const NAMES_MAX: usize = 5;

/// Judges boards until `stop` turns true.
pub async fn run(contacts: Contacts, mut stop: watch::Receiver<bool>) {
    let listening = contacts.0.listening();
    while !*stop.borrow() {
        contacts.judge();
        let deadline = listening.book().deadline();
        let due = async {
            match deadline {
                Some(deadline) => {
                    let wait = deadline.saturating_sub(listening.now()).max(1);
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                None => std::future::pending().await,
            }
        };
        // Cancel safety: all arms only wait.
        tokio::select! {
            () = due => (),
            () = listening.wake.notified() => (),
            changed = stop.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
