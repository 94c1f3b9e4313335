//! Makes what sits.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use model::masters::MemberId;

use super::{Base, Reopen, Seat};
use crate::app::follower::FollowerRole;
use crate::app::identity::Role;
use crate::app::master::{Lead, MasterRole};
use crate::app::mastership::Mastership;
use crate::app::member::{MemberOptions, MemberRole};
use crate::app::standing::Standing;
use crate::io::link::Socket;
use crate::io::store::Mandate;
use crate::io::tls::Credentials;

/// The board's certificate, from its join.
pub(super) fn own_credentials(base: &Base) -> Result<Credentials> {
    Credentials::load(&base.dirs.data)?.with_context(|| {
        format!(
            "the certificate of this board is missing from {}: remove {} and join again with a token \
             (`kumquat token create` on the master board)",
            base.dirs.data.join("pki").display(),
            base.dirs.board().display()
        )
    })
}

/// Begins a reign that the masters gave to this board.
pub(super) async fn lead(
    base: &Base,
    socket: &Socket,
    standing: &Standing,
    mandate: Mandate,
    began: Instant,
) -> Result<Seat> {
    let lead = Lead::Elected(mandate.clone());
    match MasterRole::start(base, standing, lead, socket.plug()).await {
        Ok(master) => {
            say_ready(base, began);
            Ok(Seat::Leading(Box::new(master)))
        }
        Err(error) if mandate.is_over() => {
            let error = format!("{error:#}");
            tracing::info!(error, "the reign was over before it began");
            Ok(Seat::Following(follower(base, socket, standing)?))
        }
        Err(error) => Err(error),
    }
}

/// Opens the log of a board that is a member, and follows.
pub(super) async fn hold(
    base: &Base,
    socket: &Socket,
    mastership: Option<&Mastership>,
) -> Result<(Standing, Seat)> {
    let standing = Standing::open(base, mastership).await?;
    if !standing.enter(mastership).await? {
        bail!("the log of this board names no group: start the board again");
    }
    let seat = Seat::Following(follower(base, socket, &standing)?);
    Ok((standing, seat))
}

/// Forgets that this board was a master. Whoever founded the cluster has not founded this one any
/// more, else its next start would begin a reign of its own.
pub(super) async fn leave(base: &mut Base) -> Result<()> {
    base.identity.role = Role::Member;
    let (identity, dirs) = (base.identity.clone(), base.dirs.clone());
    tokio::task::spawn_blocking(move || {
        identity.save(&dirs)?;
        Mastership::leave(&dirs)
    })
    .await?
}

/// The role of a master that another one leads.
pub(super) fn follower(base: &Base, socket: &Socket, standing: &Standing) -> Result<FollowerRole> {
    let own = standing.members.grouping().engine().borrow().as_ref().map(|engine| engine.own);
    let credentials = standing.credentials.clone();
    let member = member(base, socket, credentials, own)?;
    Ok(FollowerRole::start(member, standing))
}

/// The role of a board that holds no log, `own` apart.
pub(super) fn member(
    base: &Base,
    socket: &Socket,
    credentials: Credentials,
    own: Option<MemberId>,
) -> Result<MemberRole> {
    if own.is_none() {
        base.clock.follow();
    }
    MemberRole::start(MemberOptions {
        dirs: &base.dirs,
        config: &base.config,
        identity: &base.identity,
        credentials,
        addresses: base.addresses.clone(),
        member: own,
        link: socket.plug(),
    })
}

pub(super) fn say_ready(base: &Base, began: Instant) {
    let own = base.addresses.borrow().own;
    let api = format!("https://{own}:{}", base.config.api_port);
    tracing::info!(%api, millis = began.elapsed().as_millis(), "API ready");
}

/// Tries again to hold the log; a worker meanwhile.
pub(super) async fn reopen_log(
    base: &Base,
    socket: &Socket,
    reopen: &mut Reopen,
) -> Result<(Option<Standing>, Seat)> {
    reopen.at = None;
    let mastership = Mastership::load(&base.dirs)?;
    match hold(base, socket, mastership.as_ref()).await {
        Ok((standing, seat)) => Ok((Some(standing), seat)),
        Err(error) => {
            let pause = reopen.next();
            let error = format!("{error:#}");
            tracing::error!(error, ?pause, "this board cannot hold the log: check its disk");
            let member = member(base, socket, own_credentials(base)?, None)?;
            Ok((None, Seat::Working(member)))
        }
    }
}
