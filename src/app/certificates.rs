//! Certificates that end are issued again, by cluster time, while the master runs: the API's once a
//! year, the admin's a year before its end. Those between boards live as long as the authority.
//!
//! The time at which clients' certificates are judged is kept too, in `<data-dir>/confirmed-time`, or one
//! that has expired would be good again after each restart. It is written once in a week.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use model::timestamp::Timestamp;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::dirs::Dirs;
use crate::io::clock::Clock;
use crate::io::durable;
use crate::io::tls::{ApiTls, Pki, TlsError};

/// They are looked at once a day of cluster time.
const LOOK_EVERY_MILLIS: i64 = 86_400_000;
/// How often the clock is asked whether a day has passed: cluster time may jump over years.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// The kept time is so far off at most.
const KEEP_EVERY_MILLIS: i64 = 7 * LOOK_EVERY_MILLIS;

/// The time that an earlier process kept; none when it kept none that can be read.
pub(super) fn kept(dirs: &Dirs) -> Option<Timestamp> {
    Timestamp::parse(fs::read_to_string(dirs.confirmed()).ok()?.trim())
}

/// Keeps the time at which certificates are judged, when that is due.
async fn keep(dirs: &Dirs, clock: &Clock, kept: &mut Option<Timestamp>) {
    let now = clock.confirmed();
    let off = kept.map(|kept| now.millis().abs_diff(kept.millis()));
    if off.is_some_and(|off| off < KEEP_EVERY_MILLIS.unsigned_abs()) {
        return;
    }
    *kept = Some(now);
    let path = dirs.confirmed();
    let text = format!("{now}\n");
    let writing = spawn_blocking(move || durable::replace(&path, text.as_bytes(), durable::PUBLIC));
    match writing.await {
        Ok(Ok(())) => {}
        // Tried again in a week: until a restart nothing depends on it.
        Ok(Err(error)) => tracing::warn!(%error, "the time of certificates is not kept"),
        Err(error) => tracing::warn!(%error, "the time of certificates is not kept"),
    }
}

/// Looks until `stop`.
pub(super) async fn renew(
    (pki, tls): (Arc<Pki>, Arc<ApiTls>),
    dirs: Dirs,
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) {
    let (mut looked_at, mut kept) = (clock.now(), kept(&dirs));
    loop {
        // Cancel safety: both only wait.
        tokio::select! {
            () = sleep(ASK_EVERY) => {}
            // An error means that nobody can ask any more.
            _ = stop.wait_for(|stop| *stop) => return,
        }
        keep(&dirs, &clock, &mut kept).await;
        let now = clock.now();
        if now < looked_at.plus_millis(LOOK_EVERY_MILLIS) {
            continue;
        }
        looked_at = now;
        let (pki, tls) = (Arc::clone(&pki), Arc::clone(&tls));
        let looked = spawn_blocking(move || {
            let is_new = pki.renew(now)?;
            tls.renew(&pki)?;
            Ok::<_, TlsError>(is_new)
        });
        match looked.await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!(
                "the admin's certificate was issued again: `kumquat kubeconfig` prints it"
            ),
            // The old ones serve as long as they can.
            Ok(Err(error)) => tracing::error!(%error, "certificates cannot be issued again"),
            Err(error) => tracing::error!(%error, "certificates cannot be issued again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_time_of_certificates_outlives_a_restart() {
        let folder = std::env::temp_dir().join(format!("kumquat-time-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("tmp");
        let dirs = Dirs::new(&folder, &folder);
        assert_eq!(kept(&dirs), None);
        let later = Clock::built().plus_millis(500 * LOOK_EVERY_MILLIS);
        let clock = Clock::starting_at(Timestamp(0));
        clock.wait();
        clock.confirmed_before(later);
        let mut known = None;
        keep(&dirs, &clock, &mut known).await;
        let read = kept(&dirs).expect("kept");
        assert!(read.millis() - later.millis() < 60_000, "{read}");
        let again = Clock::starting_at(Timestamp(0));
        again.confirmed_before(read);
        assert!(again.confirmed() >= read);
        // Nothing is written for a little.
        fs::remove_file(dirs.confirmed()).expect("written");
        keep(&dirs, &clock, &mut known).await;
        assert_eq!(kept(&dirs), None);
        fs::remove_dir_all(folder).expect("removed");
    }
}
