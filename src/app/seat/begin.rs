//! A reign of this board begins, unless another one was promoted meanwhile.

use std::time::Instant;

use anyhow::Result;

use super::fence::{fenced_by, follow_later, other_masters};
use super::make::{lead, worker};
use super::{Base, Reopen, Seat};
use crate::app::standing::Standing;
use crate::io::link::Socket;
use crate::io::store::Mandate;

/// Leads, or follows whoever leads in a later epoch.
pub(super) async fn begin(
    base: &mut Base,
    socket: &Socket,
    standing: Standing,
    mandate: Mandate,
    reopen: &mut Reopen,
    began: Instant,
) -> Result<(Option<Standing>, Seat)> {
    match fenced_by(base, &standing).await {
        None => {
            let seat = lead(base, socket, &standing, mandate, began).await?;
            Ok((Some(standing), seat))
        }
        Some(record) => {
            let masters = other_masters(base, &standing);
            standing.close().await;
            let holds = follow_later(base, record, masters, reopen).await;
            Ok((None, Seat::Working(worker(base, socket, holds)?)))
        }
    }
}
