//! Certificates that end are issued again, by cluster time, while the master runs: the API's once a
//! year, the admin's a year before its end. Those between boards live as long as the authority.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::io::clock::Clock;
use crate::io::tls::{ApiTls, Pki, TlsError};

/// They are looked at once a day of cluster time.
const LOOK_EVERY_MILLIS: i64 = 86_400_000;
/// How often the clock is asked whether a day has passed: cluster time may jump over years.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Looks until `stop`.
pub(super) async fn renew(
    (pki, tls): (Arc<Pki>, Arc<ApiTls>),
    clock: Clock,
    mut stop: watch::Receiver<bool>,
) {
    let mut looked_at = clock.now();
    loop {
        // Cancel safety: both only wait.
        tokio::select! {
            () = sleep(ASK_EVERY) => {}
            // An error means that nobody can ask any more.
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let now = clock.now();
        if now < looked_at.plus_millis(LOOK_EVERY_MILLIS) {
            continue;
        }
        looked_at = now;
        let (pki, tls) = (Arc::clone(&pki), Arc::clone(&tls));
        let looked = tokio::task::spawn_blocking(move || {
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
