//! A person's wish that this board leads, and what comes of it.
//!
//! A promotion opens a new epoch with what this board's log holds; what the others acknowledged without
//! it is lost. So it is refused while they may go on by themselves: nobody is needed then, and there
//! would be two leaders. Who cannot be reached is not known to be gone: of several voters a majority may
//! go on unseen, and only a person can say that it does not.

use std::time::Duration;

use anyhow::{Context, Result};
use model::masters::{MemberId, MembersV1};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::make::{hold, worker};
use super::{Base, Event, Reopen, Seat, Seats};
use crate::app::mastership::Mastership;
use crate::app::member::Holds;
use crate::app::standing::Standing;
use crate::io::link::Socket;
use crate::io::store::Store;
use crate::master::elector::Present;

/// How long the others may take to say that they are there.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A person's wish that this board leads.
pub(in crate::app) struct Promotion {
    /// Also when others may lead.
    pub(in crate::app) force: bool,
    /// Told when it leads, or why it does not.
    pub(in crate::app) answer: oneshot::Sender<Result<(), String>>,
}

/// A wish while the others are asked, beside the seat: it must not be deaf meanwhile.
pub(super) struct Asking {
    promotion: Promotion,
    /// What they allow; dropped with this.
    allowed: JoinSet<Result<(), String>>,
}

/// A wish, and what the others allow.
pub(super) type Asked = (Promotion, Result<(), String>);

/// Waits until the others have been asked; for ever where nobody asks.
///
/// # Cancel safety
/// Nothing is lost when this is dropped.
pub(super) async fn asked(asking: &mut Option<Asking>) -> Asked {
    let Some(Asking { allowed, .. }) = asking else { return std::future::pending().await };
    let said = match allowed.join_next().await {
        Some(Ok(said)) => said,
        _ => Err("the other boards could not be asked".to_owned()),
    };
    let asked = asking.take().map(|asking| (asking.promotion, said));
    asked.expect("it was there a moment ago, and nothing waits in between")
}

impl Seats {
    /// Hears a person's wish that this board leads: it is refused at once, or the others are asked.
    pub(super) fn hear_out(&self, promotion: Promotion) -> Option<Asking> {
        if let Err(why) = self.may_be_promoted(promotion.force) {
            refuse(promotion, why);
            return None;
        }
        let mut allowed = JoinSet::new();
        allowed.spawn(self.others_allow(promotion.force));
        Some(Asking { promotion, allowed })
    }

    /// What comes of a wish of which the others were asked. Meanwhile the seat may be another one.
    pub(super) fn judge(&self, (promotion, allowed): Asked) -> Event {
        match self.may_be_promoted(promotion.force).and(allowed) {
            Ok(()) => Event::Promote(promotion.answer),
            Err(why) => {
                refuse(promotion, why);
                Event::Nothing
            }
        }
    }

    /// Whether this board is one that could lead in a new epoch, as far as it knows by itself.
    fn may_be_promoted(&self, force: bool) -> Result<(), String> {
        let reign = self.standing.as_ref().map(|standing| standing.store.reign());
        // A reign that was won meanwhile begins with the next exchange of seats.
        let won = reign
            .is_some_and(|reign| reign.borrow().as_ref().is_some_and(|mandate| !mandate.is_over()));
        match &self.seat {
            Seat::Leading(_) => Err("this board leads already".to_owned()),
            Seat::Following(_) if won => Err("this board leads already".to_owned()),
            Seat::Working(_) if self.reopen.waits => {
                Err("this board's copy of the log is lost or damaged: promote a board that has the log; if \
                     none is left, what this board logged names the way on (`last_resort`)"
                    .to_owned())
            }
            Seat::Working(_) => {
                Err("this board does not hold the log: promote one that does (`kumquat status`)"
                    .to_owned())
            }
            Seat::Following(follower) if follower.member.is_led() && !force => {
                Err("the leader answers, and a second one would be cut off from it: switch that \
                     board off first, or say --force"
                    .to_owned())
            }
            Seat::Following(_) => Ok(()),
        }
    }

    /// Asks the other masters: a way to the leader that does not stand at the moment says little.
    fn others_allow(&self, force: bool) -> impl Future<Output = Result<(), String>> + use<> {
        let standing = self.standing.as_ref();
        let engine = standing.and_then(|it| it.members.grouping().engine().borrow().clone());
        async move {
            let Some(engine) = engine else { return Ok(()) };
            let members = engine.group.health().borrow().members.clone();
            let ids: Vec<MemberId> = members.members.iter().map(|member| member.id).collect();
            let present = engine.elector.present(ids, ANSWER_WITHIN).await;
            allowed(&members, (engine.own, engine.group.epoch()), &present, force)
        }
    }
}

fn refuse(promotion: Promotion, why: String) {
    // An error means that whoever asked has gone.
    let _gone = promotion.answer.send(Err(why));
}

/// Whether the member `own`, whose log is of that epoch, may be made the leader when only those answer.
fn allowed(
    members: &MembersV1,
    (own, epoch): (MemberId, u64),
    present: &Present,
    force: bool,
) -> Result<(), String> {
    if present.epoch > epoch {
        return Err(
            "another board was promoted meanwhile and answers: this one follows it by itself"
                .to_owned(),
        );
    }
    let voters = members.voters();
    let is_there = |id: MemberId| id == own || present.members.contains(&id);
    let boards = |there: bool| {
        let ids = voters.iter().filter(|id| **id != own && is_there(**id) == there);
        let names: Vec<&str> =
            ids.filter_map(|id| members.get(*id)).map(|member| &*member.board).collect();
        names.join(", ")
    };
    match () {
        () if force => Ok(()),
        () if members.is_quorum(is_there) => Err(format!(
            "{} answers: enough boards are there to choose a leader by themselves, and one made here would \
             be cut off from them. Wait a moment, or switch them off first, or say --force",
            boards(true)
        )),
        () if voters.len() > 1 => Err(format!(
            "{} of {} boards that decide do not answer ({}). If this board is only cut off from them, they go \
             on without it, and what they take would be lost: mend the network, or switch them on. If \
             they are gone for good, say --force",
            voters.iter().filter(|id| !is_there(**id)).count(),
            voters.len(),
            boards(false)
        )),
        () => Ok(()),
    }
}

/// Makes this board the only master of a new epoch, with all that its log holds; tells whoever asked.
///
/// The wish is written first: a power cut on the way leaves a member that leads nobody, or whoever was
/// promoted. What does not succeed leaves a worker, which opens its log again, as what the log says that it
/// is then.
pub(super) async fn promote(
    base: &mut Base,
    socket: &Socket,
    answer: oneshot::Sender<Result<(), String>>,
    reopen: &mut Reopen,
) -> Result<(Option<Standing>, Seat)> {
    let promoted = match own_epoch(base).await {
        Ok(mastership) => hold(base, socket, mastership).await,
        Err(error) => Err(error),
    };
    let said = promoted.as_ref().map(drop).map_err(|error| format!("{error:#}"));
    // An error means that whoever asked has gone.
    let _gone = answer.send(said);
    match promoted {
        Ok((standing, seat)) => Ok((Some(standing), seat)),
        Err(error) => {
            let (error, pause) = (format!("{error:#}"), reopen.next());
            tracing::error!(error, ?pause, "this board could not be promoted: check its disk");
            Ok((None, Seat::Working(worker(base, socket, Holds::Pausing)?)))
        }
    }
}

/// Begins the epoch, on the disk.
async fn own_epoch(base: &Base) -> Result<Option<Mastership>> {
    let dirs = base.dirs.clone();
    tokio::task::spawn_blocking(move || {
        Mastership::begin_promotion(&dirs)?;
        let epoch = Mastership::load(&dirs)?.map_or(0, |known| known.epoch);
        let promoted = Store::promote(&dirs.store(), epoch);
        let version = promoted.context("the log cannot go on by itself")?;
        tracing::warn!(version = version.0, "this board was promoted: it leads in a new epoch");
        Mastership::load(&dirs)
    })
    .await?
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::masters::{MemberV1, Part};

    use super::*;

    fn members(voters: u64, learners: u64) -> MembersV1 {
        let member = |id: u64| MemberV1 {
            id: MemberId(id),
            board: format!("pi-{id}"),
            key: [0; 32],
            part: if id <= voters { Part::Voter } else { Part::Learner },
        };
        let configs = vec![(1..=voters).map(MemberId).collect()];
        MembersV1 { configs, members: (1..=voters + learners).map(member).collect() }
    }

    fn said(of: &MembersV1, own: u64, answer: &[u64], epoch: u64, force: bool) -> String {
        let answering: BTreeSet<MemberId> = answer.iter().copied().map(MemberId).collect();
        let present = Present { members: answering, epoch };
        allowed(of, (MemberId(own), 1), &present, force).err().unwrap_or_default()
    }

    #[test]
    fn nobody_is_promoted_while_the_others_may_go_on() {
        let (two, three) = (members(1, 1), members(3, 1));
        assert_eq!(said(&two, 2, &[], 0, false), "", "the one voter is away");
        assert!(said(&two, 2, &[1], 1, false).starts_with("pi-1 answers"));
        assert_eq!(said(&two, 2, &[1], 1, true), "");
        // The leader of three is gone: the other two elect one of them.
        assert!(said(&three, 2, &[3], 1, false).starts_with("pi-3 answers"));
        assert!(said(&three, 4, &[2, 3], 1, false).starts_with("pi-2, pi-3 answers"));
        // This board's cable is out.
        let cut = said(&three, 2, &[], 0, false);
        assert!(cut.starts_with("2 of 3") && cut.contains("(pi-1, pi-3)"), "{cut}");
        assert!(cut.contains("--force"), "{cut}");
        assert!(said(&three, 4, &[2], 1, false).starts_with("2 of 3"));
        assert_eq!(said(&three, 2, &[], 0, true), "");
    }

    #[tokio::test(start_paused = true)]
    async fn the_seat_listens_to_others_while_they_are_asked() {
        let (answer, _answered) = oneshot::channel();
        let mut allowed = JoinSet::new();
        allowed.spawn(async {
            tokio::time::sleep(ANSWER_WITHIN).await;
            Err("pi-1 answers".to_owned())
        });
        let mut asking = Some(Asking { promotion: Promotion { force: true, answer }, allowed });
        // Each time something else happens to the seat, the wait is dropped and begun anew.
        for _ in 0..10 {
            let early = tokio::time::timeout(ANSWER_WITHIN / 20, asked(&mut asking)).await;
            assert!(early.is_err() && asking.is_some());
        }
        let (promotion, said) = asked(&mut asking).await;
        assert!(promotion.force);
        assert_eq!(said, Err("pi-1 answers".to_owned()));
        assert!(asking.is_none(), "the next wish is heard");
    }

    #[test]
    fn a_board_that_was_fenced_opens_no_second_epoch_of_that_number() {
        for force in [false, true] {
            let fenced = said(&members(1, 1), 2, &[1], 2, force);
            assert!(fenced.contains("promoted meanwhile"), "{fenced}");
        }
    }
}
