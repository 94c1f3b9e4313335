//! Makes what sits.

use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use model::masters::KitV1;
use tokio::time::{sleep, timeout};

use super::{Base, Reopen, Seat};
use crate::app::follower::FollowerRole;
use crate::app::identity::Role;
use crate::app::master::{Lead, MasterRole};
use crate::app::mastership::Mastership;
use crate::app::member::{Ears, Holds, MemberOptions, MemberRole};
use crate::app::standing::Standing;
use crate::io::discovery;
use crate::io::link::Socket;
use crate::io::store::{self, Mandate};
use crate::io::tls::Credentials;

/// The board's certificate, from its join.
fn own_credentials(base: &Base) -> Result<Credentials> {
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
    let error = match MasterRole::start(base, standing, lead, socket.plug()).await {
        Ok(master) => {
            say_ready(base, began);
            return Ok(Seat::Leading(Box::new(master)));
        }
        Err(error) => format!("{error:#}"),
    };
    if mandate.is_over() {
        tracing::info!(error, "the reign was over before it began");
    } else {
        tracing::error!(error, "this board cannot lead: another master shall");
        let handing = standing.members.grouping().hand_over();
        let handed = timeout(UNABLE_PAUSE, handing).await;
        if !matches!(handed, Ok(true)) {
            // Nobody took over: it is tried again, not at once.
            sleep(UNABLE_PAUSE).await;
        }
    }
    // Half of a leading role may hear of the objects already.
    standing.store.detach().await;
    Ok(Seat::Following(follower(base, socket, standing)?))
}

/// Pause before a board that could not lead tries again.
pub(super) const UNABLE_PAUSE: Duration = Duration::from_secs(1);

/// Opens the log of a board that is a member, and follows; or leads, when it was promoted.
pub(super) async fn hold(
    base: &mut Base,
    socket: &Socket,
    mastership: Option<Mastership>,
) -> Result<(Standing, Seat)> {
    let began = Instant::now();
    let standing = match Standing::open(base, mastership.as_ref()).await {
        Ok(standing) => standing,
        Err(error) => {
            base.doors.close();
            return Err(error);
        }
    };
    match sit(base, socket, &standing, mastership, began).await {
        Ok(seat) => Ok((standing, seat)),
        Err(error) => {
            standing.close().await;
            base.doors.close();
            Err(error)
        }
    }
}

/// The seat of a board that has opened its log.
///
/// # Errors
/// What the seat cannot be started without.
pub(super) async fn sit(
    base: &mut Base,
    socket: &Socket,
    standing: &Standing,
    mastership: Option<Mastership>,
    began: Instant,
) -> Result<Seat> {
    let mastership = without_promoted(base, standing, mastership)?;
    if standing.enter(&base.dirs, mastership.as_ref()).await? {
        return Ok(Seat::Following(follower(base, socket, standing)?));
    }
    if base.identity.role != Role::Founder {
        bail!("the log of this board names no group: start the board again");
    }
    let master = MasterRole::start(base, standing, Lead::Alone, socket.plug()).await?;
    say_ready(base, began);
    Ok(Seat::Leading(Box::new(master)))
}

/// Opens what this board holds of the log; `None` when a member's copy is lost, and with it its vote: once a
/// leader answers, the board begins anew as a worker, and the leader gives it another one.
///
/// # Errors
/// As [`Standing::open`].
pub(super) async fn open_held(
    base: &mut Base,
    mastership: Option<&Mastership>,
    reopen: &mut Reopen,
) -> Result<Option<Standing>> {
    match Standing::open(base, mastership).await {
        Err(error) if is_lost(&error, mastership) => {
            wait_for_leader(&error, reopen);
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// What this board is a member as; a promotion that was cut off before its last step has ended that.
fn without_promoted(
    base: &mut Base,
    standing: &Standing,
    mastership: Option<Mastership>,
) -> Result<Option<Mastership>> {
    if mastership.as_ref().is_some_and(|it| it.is_promoted(&standing.store)) {
        Mastership::finish_promotion(&base.dirs, &base.identity)?;
        base.identity.role = Role::Founder;
        return Ok(None);
    }
    Ok(mastership)
}

/// Nobody is known yet who has the log: it may be that only this board had it, so all stays in its place.
fn wait_for_leader(error: &Error, reopen: &mut Reopen) -> Holds {
    let (last_resort, error) = (last_resort(error), loss(error));
    let pause = reopen.wait_for_leader();
    tracing::error!(
        error,
        ?pause,
        last_resort,
        "this board cannot use its copy of the log, and waits for the leader to give it another; if no leader \
         comes, run `kumquat promote` on a board that has the log; if none has, restore a backup on a board \
         with an empty data directory, or stop this board and go on with what it can read, by the command that \
         `last_resort` names"
    );
    Holds::Pausing
}

/// How this board goes on with what it can read, where it can; no other may have the log then.
fn last_resort(error: &Error) -> Option<String> {
    use store::OpenError::{Damaged, Lost, Vote};
    let kept = match error.chain().find_map(|cause| cause.downcast_ref::<store::OpenError>()) {
        Some(Damaged { last_good, .. }) => last_good.0,
        // Nothing that can be read is cut off.
        Some(Lost(_) | Vote(_)) => 0,
        _ => return None,
    };
    Some(format!("kumquat repair --accept-loss-after {kept} --last-copy"))
}

async fn begin_anew(base: &mut Base, error: &Error, reopen: &mut Reopen) -> Holds {
    let (error, kept) = (loss(error), base.dirs.store().with_extension("old"));
    let kept = kept.display();
    tracing::error!(
        error,
        %kept,
        "this board's copy of the log is lost: it asks the leader for another"
    );
    base.doors.close();
    step_down(base, reopen).await
}

/// Whether this replica may have promised or confirmed what it does not know any more, or cannot read what
/// the others can give it again.
fn is_lost(error: &Error, mastership: Option<&Mastership>) -> bool {
    use store::OpenError::{Damaged, Io, Lost, Unrecoverable, Vote};
    let Some(mastership) = mastership else { return false };
    match error.chain().find_map(|cause| cause.downcast_ref::<store::OpenError>()) {
        Some(Lost(_) | Vote(_)) => true,
        // Others hold the whole log, so there is nothing to repair. Should they be gone, nobody leads this
        // board, and nothing is given up.
        Some(Damaged { .. } | Unrecoverable { .. }) => mastership.entered,
        // A card says so where its cells are worn out.
        Some(Io { action: "read", source, .. }) => {
            mastership.entered && source.raw_os_error() == Some(libc::EIO)
        }
        _ => false,
    }
}

/// Without the remedies of a master that is alone.
fn loss(error: &Error) -> String {
    match error.chain().find_map(|cause| cause.downcast_ref::<store::OpenError>()) {
        Some(store::OpenError::Damaged { path, offset, .. }) => {
            format!("log {} is damaged at byte {offset}", path.display())
        }
        Some(store::OpenError::Unrecoverable { dir, .. }) => {
            format!("state in {} is lost", dir.display())
        }
        _ => format!("{error:#}"),
    }
}

/// Forgets that this board was a master. Whoever founded the cluster has not founded this one any
/// more, else its next start would begin a reign of its own. The keys of the cluster stay until a leader
/// answers ([`forget_keys`]): there may be no other board that has them. A disk that refuses is asked again
/// later; the board is a worker meanwhile. Says what it holds.
pub(super) async fn step_down(base: &mut Base, reopen: &mut Reopen) -> Holds {
    (reopen.at, reopen.forgets, reopen.waits) = (None, false, false);
    base.identity.role = Role::Member;
    let (identity, dirs) = (base.identity.clone(), base.dirs.clone());
    let stepped = tokio::task::spawn_blocking(move || {
        identity.save(&dirs)?;
        Mastership::step_down(&dirs)
    });
    match stepped.await.map_err(Error::from).flatten() {
        Ok(()) => Holds::Nothing,
        Err(error) => {
            let (error, pause) = (format!("{error:#}"), reopen.next());
            tracing::error!(error, ?pause, "this board cannot leave the masters: check its disk");
            reopen.forgets = true;
            Holds::Pausing
        }
    }
}

/// The same on the leader's word: it has the keys.
pub(super) async fn leave(base: &mut Base, reopen: &mut Reopen) -> Holds {
    let holds = step_down(base, reopen).await;
    if holds == Holds::Nothing {
        forget_keys(base).await;
    }
    holds
}

/// Removes the keys of the cluster from a board that is a master no more; what a disk refuses is tried again
/// while a leader answers.
pub(super) async fn forget_keys(base: &Base) {
    let (name, dirs, now) = (base.identity.name.clone(), base.dirs.clone(), base.clock.now());
    let forgotten = tokio::task::spawn_blocking(move || Mastership::forget_keys(&dirs, &name, now));
    if let Err(error) = forgotten.await.map_err(Error::from).flatten() {
        let error = format!("{error:#}");
        tracing::warn!(error, "the keys of the cluster cannot be removed: check the disk");
    }
}

/// The role of a master that another one leads.
pub(super) fn follower(base: &Base, socket: &Socket, standing: &Standing) -> Result<FollowerRole> {
    let own = standing.members.grouping().engine().borrow().as_ref().map(|engine| engine.own);
    let credentials = standing.credentials.clone();
    let ears = Ears::Own(standing.roll.record(), standing.members.grouping().book());
    let holds = own.map_or(Holds::Pausing, Holds::Log);
    let seeking = Some(standing.seeking.clone());
    let member = member(base, socket, credentials, holds, (ears, seeking))?;
    Ok(FollowerRole::start(member, standing, &base.doors))
}

/// The role of a board without a standing. The doors of masters close: nobody would accept on them.
pub(super) fn worker(base: &Base, socket: &Socket, holds: Holds) -> Result<MemberRole> {
    base.doors.close();
    base.clock.follow();
    let ears = Ears::Asking(base.doors.api.clone());
    member(base, socket, own_credentials(base)?, holds, (ears, None))
}

fn member(
    base: &Base,
    socket: &Socket,
    credentials: Credentials,
    holds: Holds,
    (ears, seeking): (Ears, Option<discovery::Members>),
) -> Result<MemberRole> {
    // What cannot be read is no reason to follow nobody: the rest of the board is told of it.
    let since = Mastership::load(&base.dirs).ok().flatten().map_or(0, |it| it.epoch);
    MemberRole::start(MemberOptions {
        dirs: &base.dirs,
        config: &base.config,
        identity: &base.identity,
        credentials,
        addresses: base.addresses.clone(),
        holds,
        since,
        link: socket.plug(),
        ears,
        leaving: base.leaving.clone(),
        seeking,
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
    base: &mut Base,
    socket: &Socket,
    kit: Box<KitV1>,
    reopen: &mut Reopen,
) -> Result<(Option<Standing>, Seat)> {
    (reopen.at, reopen.forgets, reopen.waits) = (None, false, false);
    let dirs = base.dirs.clone();
    let taking = tokio::task::spawn_blocking(move || Mastership::take(&dirs, &kit)).await?;
    let held = match &taking {
        Ok(mastership) => hold(base, socket, Some(mastership.clone())).await,
        Err(error) => Err(anyhow!("{error:#}")),
    };
    match held {
        Ok((standing, seat)) => Ok((Some(standing), seat)),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(error, "this board cannot become a master: check its disk");
            let holds = match taking {
                Ok(_) => {
                    reopen.next();
                    Holds::Pausing
                }
                Err(_) => Holds::Nothing,
            };
            Ok((None, Seat::Working(worker(base, socket, holds)?)))
        }
    }
}

/// Tries again to hold the log; a worker meanwhile. `is_led`: that worker has been led for a while.
pub(super) async fn reopen_log(
    base: &mut Base,
    socket: &Socket,
    reopen: &mut Reopen,
    is_led: bool,
) -> Result<(Option<Standing>, Seat)> {
    if reopen.forgets {
        let holds = step_down(base, reopen).await;
        return Ok((None, Seat::Working(worker(base, socket, holds)?)));
    }
    (reopen.at, reopen.waits) = (None, false);
    let mastership = Mastership::load(&base.dirs)?;
    match hold(base, socket, mastership.clone()).await {
        Ok((standing, seat)) => Ok((Some(standing), seat)),
        Err(error) if is_lost(&error, mastership.as_ref()) => {
            let holds = match is_led {
                true => begin_anew(base, &error, reopen).await,
                false => wait_for_leader(&error, reopen),
            };
            Ok((None, Seat::Working(worker(base, socket, holds)?)))
        }
        Err(error) => {
            let pause = reopen.next();
            let error = format!("{error:#}");
            tracing::error!(error, ?pause, "this board cannot hold the log: check its disk");
            Ok((None, Seat::Working(worker(base, socket, Holds::Pausing)?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use model::masters::MemberId;

    use super::*;

    #[tokio::test]
    async fn a_damaged_log_is_replaced_where_others_have_it() {
        let root = std::env::temp_dir().join(format!("kumquat-damaged-{}", std::process::id()));
        let _gone = fs::remove_dir_all(&root);
        let open = || store::Store::open(store::Options::new(&root));
        for _ in 0..3 {
            let store = open().expect("opens");
            store.lead_alone(Box::new(())).await.expect("leads");
            store.close().await;
        }
        let segments = fs::read_dir(root.join("log")).expect("a log");
        let first = segments.map(|segment| segment.expect("a segment").path()).min();
        let path = first.expect("a segment");
        let mut bytes = fs::read(&path).expect("readable");
        // In the first frame, behind the segment's header.
        bytes[60] ^= 1;
        fs::write(&path, bytes).expect("written");
        let error = Error::from(open().expect_err("damaged")).context("cannot open the store");
        let member = |entered, promoting| Mastership {
            member: MemberId(1),
            epoch: 1,
            masters: Vec::new(),
            entered,
            promoting,
        };
        assert!(is_lost(&error, Some(&member(true, false))), "{error:#}");
        assert!(!loss(&error).contains("repair"), "{}", loss(&error));
        assert!(last_resort(&error).is_some_and(|it| it.ends_with(" --last-copy")));
        assert!(!is_lost(&error, Some(&member(false, false))), "nobody counts on it yet");
        assert!(is_lost(&error, Some(&member(true, true))), "it waits for who may never come");
        assert!(!is_lost(&error, None), "who is alone has nobody to ask");
        let refused = |action, code| {
            let source = std::io::Error::from_raw_os_error(code);
            let error = store::OpenError::Io { action, path: root.clone(), source };
            is_lost(&error.into(), Some(&member(true, false)))
        };
        assert!(!refused("write", libc::ENOSPC), "it is there when there is room");
        assert!(!refused("sync", libc::EIO), "what it has can be read");
        assert!(!refused("read", libc::EACCES), "somebody may allow it again");
        assert!(refused("read", libc::EIO), "a worn-out card");
        fs::remove_dir_all(root).expect("removable");
    }
}
