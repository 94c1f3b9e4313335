//! A board forgets the cluster that it has left: `<data-dir>/left` says that this is due.
//!
//! ```text
//! the leader has let it go ─▶ mark ─▶ `up` stops, and its pods ─▶ forget ─▶ mark removed
//! ```
//! In: a person's word on the control socket. A power cut on the way is made up by the next start, which
//! begins as a board that was never in a cluster. Images stay. Deliberately absent: leaving by order of
//! somebody else; who has lost a board throws it out (`kumquat board evict`).

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use http::{Request, StatusCode};
use model::leader::LeaderRecord;
use model::leave::LEFT;
use model::limits::PEER_REFUSAL_BYTES_MAX;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::dirs::Dirs;
use super::member::dial;
use crate::io::durable;
use crate::io::peer::{self, ALPN, Connection, PeerError};
use crate::io::tls::{Credentials, TlsError};

/// How long the leader may take to let the board go: it ends the connection with which it was asked.
const LET_GO_WITHIN: Duration = Duration::from_secs(15);
/// How long one address of it is tried, and its answer waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A wish lasts for so long after a person's command asked last.
const WISHED_FOR: Duration = Duration::from_secs(15);
/// Pause between two attempts.
const AGAIN: Duration = Duration::from_millis(300);

/// What says that this board is in a cluster, and what that cluster has left on it.
const FORGOTTEN: &[&str] = &[
    "board.json",
    "master.json",
    "cluster.json",
    "genesis.json",
    "confirmed-time",
    "pki",
    "store",
    "store.old",
    "store.older",
    "node",
    "pods",
    "logs",
];

/// Ends this board's time in its cluster; clones are the same.
#[derive(Clone)]
pub(super) struct Departure {
    dirs: Dirs,
    left: mpsc::Sender<()>,
    wished: watch::Sender<Option<Instant>>,
}

/// Why the leader does not let a board go.
pub(super) enum Kept {
    /// It says so: something is still waited for.
    Early(String),
    /// Nobody says anything.
    Silent(String),
}

impl Departure {
    /// For the board with these folders; gives what tells that it has left, too.
    pub(super) fn new(dirs: &Dirs) -> (Self, mpsc::Receiver<()>) {
        let (left, leaves) = mpsc::channel(1);
        (Self { dirs: dirs.clone(), left, wished: watch::Sender::default() }, leaves)
    }

    /// A person wishes that this board leaves, and says so again and again for as long as that is so.
    pub(super) fn wish(&self) {
        let until = Some(Instant::now() + WISHED_FOR);
        self.wished.send_if_modified(|wished| {
            let was = std::mem::replace(wished, until);
            was.is_none_or(|until| until <= Instant::now())
        });
    }

    /// It cannot be.
    pub(super) fn stay(&self) {
        self.wished.send_if_modified(|wished| wished.take().is_some());
    }

    /// Until when that is wished: what this board tells whoever leads, also one that began a moment ago.
    /// Changes when the wish begins; whoever looks at the end of it may find that it lasts longer.
    pub(super) fn wished(&self) -> watch::Receiver<Option<Instant>> {
        self.wished.subscribe()
    }

    /// Has the leader refuse this board's key from here on. The answer may be lost with the connection: a
    /// leader that does not know this board any more has let it go.
    pub(super) async fn take_leave(
        &self,
        leader: &watch::Receiver<Option<LeaderRecord>>,
    ) -> Result<(), Kept> {
        let credentials = Credentials::load(&self.dirs.data).map_err(|error| error.to_string());
        let credentials = credentials.and_then(|it| it.ok_or("it has no certificate".to_owned()));
        let credentials = credentials.map_err(Kept::Silent)?;
        let began = Instant::now();
        let mut why = "nobody leads".to_owned();
        while began.elapsed() < LET_GO_WITHIN {
            let record = leader.borrow().clone();
            for address in record.iter().flat_map(dial::addresses) {
                match timeout(ANSWER_WITHIN, ask(address, &credentials)).await {
                    Ok(Answer::LetGo) => return Ok(()),
                    Ok(Answer::Early(text)) => return Err(Kept::Early(text)),
                    Ok(Answer::None(error)) => why = error,
                    Err(_) => why = "no answer in time".to_owned(),
                }
            }
            sleep(AGAIN).await;
        }
        Err(Kept::Silent(why))
    }

    /// Whether the leader does not know this board any more: it was let go, and did not hear so, or was
    /// thrown out.
    pub(super) async fn is_stranger(&self, leader: &watch::Receiver<Option<LeaderRecord>>) -> bool {
        let Ok(Some(credentials)) = Credentials::load(&self.dirs.data) else { return false };
        let record = leader.borrow().clone();
        for address in record.iter().flat_map(dial::addresses) {
            if open(address, &credentials).await.is_err_and(|error| error.is_stranger()) {
                return true;
            }
        }
        false
    }

    /// From here on the board forgets the cluster, whatever happens, and `up` ends.
    ///
    /// # Errors
    /// The disk refuses: the board stays as it is.
    pub(super) async fn go(&self) -> Result<()> {
        let path = mark(&self.dirs.data);
        let marking = move || durable::replace(&path, b"", durable::PUBLIC);
        tokio::task::spawn_blocking(marking).await?.context("the disk refuses")?;
        // It is full: it was told already.
        let _told = self.left.try_send(());
        Ok(())
    }
}

/// What the leader says of a board that takes its leave.
enum Answer {
    LetGo,
    Early(String),
    None(String),
}

async fn ask(address: SocketAddr, credentials: &Credentials) -> Answer {
    let connection = match open(address, credentials).await {
        Ok(connection) => connection,
        Err(error) if error.is_stranger() => return Answer::LetGo,
        Err(error) => return Answer::None(error.to_string()),
    };
    let asking = async {
        let request = Request::post(LEFT).body(peer::empty()).map_err(|error| error.to_string())?;
        let answer = connection.send(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let text = peer::read(answer.into_body(), PEER_REFUSAL_BYTES_MAX).await?;
        Ok::<_, String>((status, String::from_utf8_lossy(&text).into_owned()))
    };
    match asking.await {
        Ok((status, _)) if status.is_success() => Answer::LetGo,
        Ok((StatusCode::FORBIDDEN, _)) => Answer::LetGo,
        Ok((StatusCode::CONFLICT, text)) => Answer::Early(text),
        Ok((status, text)) => Answer::None(format!("it says {status}: {text}")),
        Err(error) => Answer::None(error),
    }
}

async fn open(address: SocketAddr, credentials: &Credentials) -> Result<Connection, PeerError> {
    let failed = |error: TlsError| PeerError::Connect { address, source: io::Error::other(error) };
    let tls = credentials.client_config(ALPN).map_err(failed)?;
    Connection::open(address, tls, ANSWER_WITHIN).await
}

fn mark(data: &Path) -> PathBuf {
    data.join("left")
}

/// Whether this board has left its cluster and has not forgotten it yet.
pub(super) fn is_due(dirs: &Dirs) -> bool {
    mark(&dirs.data).exists()
}

/// Forgets the cluster that this board has left, if it has.
///
/// # Errors
/// The disk refuses; the next start tries again.
pub(super) fn finish(dirs: &Dirs) -> Result<bool> {
    if !is_due(dirs) {
        return Ok(false);
    }
    for name in FORGOTTEN {
        let path = dirs.data.join(name);
        remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    let mark = mark(&dirs.data);
    // What was removed must be gone for good before nothing says so any more.
    let synced = fs::File::open(&dirs.data).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("cannot write {}", dirs.data.display()))?;
    remove(&mark).with_context(|| format!("cannot remove {}", mark.display()))?;
    Ok(true)
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wish_is_told_once_and_ends_with_the_last_word() {
        let dirs = Dirs::new(Path::new("/none"), Path::new("/none"));
        let (departure, _left) = Departure::new(&dirs);
        let mut wished = departure.wished();
        let lasts = |wished: &watch::Receiver<Option<Instant>>| {
            wished.borrow().is_some_and(|until| until > Instant::now())
        };
        assert!(!lasts(&wished));
        for second in 0..40 {
            departure.wish();
            assert_eq!(wished.has_changed().ok(), Some(second == 0), "second {second}");
            wished.borrow_and_update();
            assert!(lasts(&wished));
            sleep(Duration::from_secs(1)).await;
        }
        sleep(WISHED_FOR).await;
        assert!(!lasts(&wished), "the command was interrupted");
        departure.wish();
        assert!(wished.has_changed().expect("open") && lasts(&wished));
    }

    #[tokio::test]
    async fn a_board_that_has_left_keeps_its_images_alone() {
        let root = std::env::temp_dir().join(format!("kumquat-left-{}", std::process::id()));
        let _gone = fs::remove_dir_all(&root);
        let dirs = Dirs::new(&root, &root);
        for folder in ["pki", "store/log", "store.old", "images/blobs", "pods/1", "node"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        for file in ["board.json", "master.json", "cluster.json", "pki/ca.key", "lock"] {
            fs::write(root.join(file), "x").expect("written");
        }
        assert!(!finish(&dirs).expect("nothing is due"));
        assert!(root.join("board.json").exists());
        let (departure, mut left) = Departure::new(&dirs);
        departure.go().await.expect("marked");
        left.recv().await.expect("told");
        // A cut on the way.
        fs::remove_file(root.join("board.json")).expect("removed");
        assert!(finish(&dirs).expect("forgotten"));
        let rest = fs::read_dir(&root).expect("readable");
        let mut rest: Vec<_> = rest.map(|it| it.expect("an entry").file_name()).collect();
        rest.sort();
        assert_eq!(rest, ["images", "lock"]);
        assert!(!finish(&dirs).expect("once"));
        fs::remove_dir_all(root).expect("removable");
    }
}
