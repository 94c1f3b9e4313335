//! The seat goes on under another authority of the cluster.

use anyhow::{Error, Result};
use model::masters::CertifiedV1;
use tokio::sync::watch;
use tokio::time::sleep;

use super::make::{UNABLE_PAUSE, reopen_log, worker};
use super::{Base, Reopen, Seat};
use crate::app::authority;
use crate::app::member::Holds;
use crate::app::standing::Standing;
use crate::io::link::Socket;

/// A master closes everything that it has opened under the authority of before, takes the keys over that
/// lie ready, and opens it again. A disk that refuses is asked again, with growing pauses: what is written
/// already is finished then, and the log is closed meanwhile.
pub(super) async fn rekey(
    base: &mut Base,
    socket: &Socket,
    standing: Standing,
    reopen: &mut Reopen,
    renewals: &watch::Sender<u64>,
) -> Result<(Option<Standing>, Seat)> {
    let counts = *standing.due.borrow();
    standing.cut().await;
    let (dirs, now) = (base.dirs.clone(), base.clock.now());
    let taking = tokio::task::spawn_blocking(move || match counts {
        Some(pin) => authority::take_ready(&dirs, pin, now),
        None => Ok(()),
    });
    let taken = taking.await.map_err(Error::from).flatten();
    renewals.send_modify(|count| *count += 1);
    match taken {
        Ok(()) => tracing::warn!("this board has the new authority of the cluster"),
        Err(error) => {
            let (error, pause) = (format!("{error:#}"), reopen.next());
            tracing::error!(
                error,
                ?pause,
                "the new authority cannot be taken over: check the disk"
            );
            // Nobody elects it meanwhile: it could not lead.
            return Ok((None, Seat::Working(worker(base, socket, Holds::Pausing)?)));
        }
    }
    reopen_log(base, socket, reopen, false).await
}

/// A board without the log shows its new certificate from now on.
pub(super) async fn certified(
    base: &Base,
    socket: &Socket,
    certified: Box<CertifiedV1>,
    reopen: &Reopen,
    renewals: &watch::Sender<u64>,
) -> Result<(Option<Standing>, Seat)> {
    let (dirs, now) = (base.dirs.clone(), base.clock.now());
    let keeping = tokio::task::spawn_blocking(move || authority::keep(&dirs, &certified, now));
    match keeping.await.map_err(Error::from).flatten() {
        Ok(()) => tracing::warn!("this board follows the new authority of the cluster"),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(error, "the new authority cannot be followed: check the disk");
            sleep(UNABLE_PAUSE).await;
        }
    }
    renewals.send_modify(|count| *count += 1);
    Ok((None, Seat::Working(worker(base, socket, reopen.holds())?)))
}
