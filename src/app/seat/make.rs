//! Makes what sits.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use model::leader::SignedRecord;
use model::masters::{KitV1, MemberId};
use tokio::time::timeout;

use super::{Base, Reopen, Seat};
use crate::app::follower::FollowerRole;
use crate::app::identity::Role;
use crate::app::master::{Lead, MasterRole};
use crate::app::mastership::Mastership;
use crate::app::member::dial;
use crate::app::member::locate::is_ours;
use crate::app::member::{Ears, MemberOptions, MemberRole};
use crate::app::standing::Standing;
use crate::io::link::Socket;
use crate::io::store::{self, Mandate, Store};
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

/// Who was promoted while this board was off: asked only by the one voter of a group, which would
/// lead without asking anybody.
pub(super) async fn fenced_by(base: &Base, standing: &Standing) -> Option<SignedRecord> {
    let members = standing.store.members()?;
    let store::Standing::Member { own, epoch } = standing.store.standing() else { return None };
    if members.voters() != BTreeSet::from([own]) {
        return None;
    }
    let others = standing.members.grouping().book();
    let others = others.borrow().clone();
    for at in others.iter().filter(|at| at.member != own) {
        for address in &at.addresses {
            let address = (*address, at.peer_port).into();
            let asking = dial::leader(address, &standing.credentials);
            let Ok(Ok(record)) = timeout(FENCE_WITHIN, asking).await else { continue };
            let ours = is_ours(&record, &standing.credentials, &base.identity.cluster);
            if ours && record.record().epoch > epoch {
                let leader = record.record().name.as_str();
                tracing::warn!(leader, "another board was promoted meanwhile: this one follows it");
                return Some(record);
            }
        }
    }
    None
}

/// How long another member may take to say who leads.
const FENCE_WITHIN: Duration = Duration::from_secs(2);

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
    let ears = Ears::Own(standing.roll.record(), standing.members.grouping().book());
    let member = start_member(base, socket, credentials, own, ears)?;
    Ok(FollowerRole::start(member, standing, &base.doors))
}

/// The role of a board that holds no log.
pub(super) fn member(base: &Base, socket: &Socket, credentials: Credentials) -> Result<MemberRole> {
    let ears = Ears::Asking(base.doors.api.clone());
    start_member(base, socket, credentials, None, ears)
}

fn start_member(
    base: &Base,
    socket: &Socket,
    credentials: Credentials,
    own: Option<MemberId>,
    ears: Ears,
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
        ears,
    })
}

pub(super) fn say_ready(base: &Base, began: Instant) {
    let own = base.addresses.borrow().own;
    let api = format!("https://{own}:{}", base.config.api_port);
    tracing::info!(%api, millis = began.elapsed().as_millis(), "API ready");
}

/// Becomes the member that the kit names; what does not succeed leaves a worker, which tries again when
/// it is that member already.
pub(super) async fn take_kit(
    base: &Base,
    socket: &Socket,
    kit: Box<KitV1>,
    reopen: &mut Reopen,
) -> Result<(Option<Standing>, Seat)> {
    let dirs = base.dirs.clone();
    let taking = tokio::task::spawn_blocking(move || Mastership::take(&dirs, &kit)).await?;
    let held = match &taking {
        Ok(mastership) => hold(base, socket, Some(mastership)).await,
        Err(error) => Err(anyhow!("{error:#}")),
    };
    match held {
        Ok((standing, seat)) => Ok((Some(standing), seat)),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(error, "this board cannot become a master: check its disk");
            if taking.is_ok() {
                reopen.next();
            }
            let member = member(base, socket, own_credentials(base)?)?;
            Ok((None, Seat::Working(member)))
        }
    }
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
            let member = member(base, socket, own_credentials(base)?)?;
            Ok((None, Seat::Working(member)))
        }
    }
}

/// Makes this board the only master of a new epoch, with all that its log holds.
///
/// What it is is written first: a power cut on the way leaves a member that leads nobody.
pub(super) async fn promote(
    base: &mut Base,
    socket: &Socket,
    began: Instant,
) -> Result<(Standing, Seat)> {
    base.identity.role = Role::Founder;
    let (identity, dirs) = (base.identity.clone(), base.dirs.clone());
    let version = tokio::task::spawn_blocking(move || {
        identity.save(&dirs)?;
        let promoted = Store::promote(&dirs.store());
        let version = promoted.context("the log cannot go on by itself")?;
        Mastership::forget(&dirs)?;
        anyhow::Ok(version)
    })
    .await??;
    let standing = Standing::open(base, None).await?;
    let master = MasterRole::start(base, &standing, Lead::Alone, socket.plug()).await?;
    tracing::warn!(version = version.0, "this board was promoted: it leads in a new epoch");
    say_ready(base, began);
    Ok((standing, Seat::Leading(Box::new(master))))
}
