//! The loop that feeds the policy and carries out what it decides, one action at a time.
//!
//! It runs on every master, because the policy counts what voters do whoever leads; it acts only
//! while this board leads and may act.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logic::contact::Contact;
use logic::masters::{Action, Input, Policy, Seen, Wanted, Warning};
use model::masters::{MasterAtV1, MemberId, MembersV1, Part};
use model::token::TokenRole;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::act::{self, Trouble};
use super::grouping::Engine;
use super::judging::Judge;
use super::{Desk, Grouping};
use crate::io::store::{GroupHealth, Mandate, SecretsKeys};
use crate::io::tls::{Pki, TokenKeys};
use crate::master::controllers::Views;
use crate::master::registry::Registry;

/// How long a member may take to leave the group.
const TAKE_OUT_WITHIN: Duration = Duration::from_secs(20);
/// A leader that has led for so long, and changed nothing for as long, knows its group: a change is over
/// a moment before the group's health shows it.
const SURE_AFTER: Duration = Duration::from_secs(10);
/// Label of the place that shares a failure.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the leader's part works with; made anew for each reign.
#[derive(Clone)]
pub struct Leading {
    /// The objects.
    pub registry: Registry,
    /// The same, as controllers see them.
    pub views: Views,
    /// In whose name.
    pub mandate: Mandate,
    /// Signs certificates of masters, and its key is what they get.
    pub pki: Arc<Pki>,
    /// Sign service accounts' tokens; every master has the same.
    pub token_keys: TokenKeys,
    /// Seal Secrets.
    pub secrets_keys: SecretsKeys,
    /// Where this board is.
    pub at: watch::Receiver<MasterAtV1>,
    /// What its configuration wants of the group, where the object says nothing.
    pub wanted: Wanted,
}

/// The masters as this board sees and changes them; clones share it.
#[derive(Clone)]
pub struct Members(Arc<Shared>);

struct Shared {
    grouping: Grouping,
    desk: Desk,
    leading: watch::Sender<Option<Leading>>,
    warnings: watch::Sender<BTreeSet<Warning>>,
    /// Boards that shall hold the log no more, and until when that is said; for good without an end.
    leaving: watch::Sender<BTreeMap<String, Option<Instant>>>,
    woken: Notify,
}

impl Members {
    /// Of this board's part in the group.
    pub fn new(grouping: Grouping) -> Self {
        Self(Arc::new(Shared {
            grouping,
            desk: Desk::default(),
            leading: watch::Sender::new(None),
            warnings: watch::Sender::default(),
            leaving: watch::Sender::default(),
            woken: Notify::new(),
        }))
    }

    /// Where boards ask for the kit.
    pub fn desk(&self) -> &Desk {
        &self.0.desk
    }

    /// This board's part.
    pub fn grouping(&self) -> &Grouping {
        &self.0.grouping
    }

    /// This board leads, or does so no more.
    pub fn lead(&self, leading: Option<Leading>) {
        self.0.leading.send_replace(leading);
    }

    /// What a person should know of the masters.
    pub fn warnings(&self) -> BTreeSet<Warning> {
        self.0.warnings.borrow().clone()
    }

    /// How the group fares; none while there is none.
    pub fn health(&self) -> Option<GroupHealth> {
        let engine = self.0.grouping.engine().borrow().clone()?;
        Some(engine.group.health().borrow().clone())
    }

    /// A board shall be no member any more; resolves when it is none. The caller sets a deadline.
    ///
    /// Cancel safety: the wish stays until the process ends or [`Members::keep`] takes it back.
    pub async fn remove(&self, board: &str) {
        self.0.leaving.send_modify(|leaving| {
            leaving.insert(board.to_owned(), None);
        });
        self.0.woken.notify_one();
        let Some(engine) = self.0.grouping.engine().borrow().clone() else { return };
        let mut health = engine.group.health();
        let gone = |health: &GroupHealth| health.members.of_board(board).is_none();
        // An error means that the engine has ended.
        let _gone = health.wait_for(gone).await;
    }

    /// As [`Members::remove`], within a moment; a board that holds no log is none already.
    ///
    /// # Errors
    /// It is still a member.
    pub async fn take_out(&self, board: &str) -> Result<(), String> {
        if self.health().is_none_or(|health| health.members.of_board(board).is_none()) {
            return Ok(());
        }
        let removing = tokio::time::timeout(TAKE_OUT_WITHIN, self.remove(board)).await;
        self.keep(board);
        removing.map_err(|_| "it still holds the log: try again".to_owned())
    }

    /// A board wishes to be no member any more; it says so again and again for as long as it does.
    pub fn let_go(&self, board: &str, within: Duration) {
        let until = Some(Instant::now() + within);
        let is_new = self.0.leaving.send_if_modified(|leaving| {
            leaving.retain(|_, until| until.is_none_or(|until| until > Instant::now()));
            match leaving.get_mut(board) {
                // It shall go whatever it wishes.
                Some(None) => false,
                Some(said) => std::mem::replace(said, until).is_none(),
                None => leaving.insert(board.to_owned(), until).is_none(),
            }
        });
        if is_new {
            self.0.woken.notify_one();
        }
    }

    /// A board may be a member again.
    pub fn keep(&self, board: &str) {
        self.0.leaving.send_if_modified(|leaving| leaving.remove(board).is_some());
    }

    fn is_leaving(&self, board: &str) -> bool {
        let leaving = self.0.leaving.borrow();
        let until = leaving.get(board);
        until.is_some_and(|until| until.is_none_or(|until| until > Instant::now()))
    }
}

/// Drives the policy until `stop`. `own` is the member that this board is: the founder's while it is
/// alone.
pub async fn run(members: Members, own: MemberId, mut stop: watch::Receiver<bool>) {
    let driver = Driver::new(members, own);
    // Cancel safety: what is under way is begun anew by whoever leads next.
    tokio::select! {
        () = driver.run() => {}
        // An error means that nobody can ask any more.
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

struct Driver {
    members: Members,
    own: MemberId,
    policy: Policy,
    /// The group as the policy knows it.
    known: MembersV1,
    leads: bool,
    led_since: Option<Instant>,
    /// When the last change of the group was over.
    changed_at: Option<Instant>,
    /// The newest vote that the policy knows of, and whether it was won.
    vote: (u64, bool),
    /// Boards that are ready, and since when.
    stable: BTreeMap<Box<str>, u64>,
    began: Instant,
    acting: Option<Acting>,
    /// While this board leads. Every reign of it has the same store, whose positions only grow.
    judge: Option<Judge>,
}

/// An action under way.
type Acting = Pin<Box<dyn Future<Output = Result<(), Trouble>> + Send>>;

impl Driver {
    fn new(members: Members, own: MemberId) -> Self {
        let founder = members.grouping().member(own, Part::Voter);
        let known = MembersV1::sole(own, founder.board, founder.key);
        let policy = Policy::new(own, known.clone());
        let (stable, began) = (BTreeMap::new(), Instant::now());
        Self {
            members,
            own,
            policy,
            known,
            leads: false,
            led_since: None,
            changed_at: None,
            vote: (0, false),
            stable,
            began,
            acting: None,
            judge: None,
        }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    async fn run(mut self) {
        let shared = Arc::clone(&self.members.0);
        let (mut leading, mut engine) = (shared.leading.subscribe(), shared.grouping.engine());
        let mut health = engine.borrow_and_update().as_ref().map(|engine| engine.group.health());
        loop {
            let now = self.now();
            let sure = self.unsure_for().map(|left| now + millis(left));
            let wake = [self.policy.wake_at(), sure].into_iter().flatten().min();
            let pause = wake.map(|at| at.saturating_sub(now).max(PAUSE_MS_MIN));
            let due = async {
                match pause {
                    Some(millis) => sleep(Duration::from_millis(millis)).await,
                    None => std::future::pending().await,
                }
            };
            // Cancel safety: nothing is lost that the next look would not find. The senders are as old
            // as `shared`.
            tokio::select! {
                () = due => {}
                Ok(()) = leading.changed() => {}
                Ok(()) = engine.changed() => {
                    let now = engine.borrow_and_update();
                    health = now.as_ref().map(|engine| engine.group.health());
                }
                Some(()) = changed(&mut health) => {}
                () = shared.desk.changed() => {}
                () = shared.woken.notified() => {}
                done = finished(&mut self.acting) => self.done(done),
            }
            let leading = leading.borrow_and_update().clone();
            let engine = engine.borrow().clone();
            self.look(leading, engine);
        }
    }

    /// Tells the policy what there is, and begins what it wants.
    fn look(&mut self, leading: Option<Leading>, engine: Option<Engine>) {
        let mut actions = Vec::new();
        let health = engine.as_ref().map(|engine| engine.group.health().borrow().clone());
        if let Some(health) = &health {
            self.follow(health, &mut actions);
        }
        let leads = leading.as_ref().is_some_and(|leading| leading.mandate.may_act());
        if leads != self.leads {
            self.leads = leads;
            self.led_since = leads.then(Instant::now);
            self.stable.clear();
            let now = self.now();
            actions.extend(self.policy.take(Input::Leads(leads), now));
        }
        let Some(leading) = leading.filter(|_| leads) else {
            self.acting = None;
            self.judge = None;
            return;
        };
        let mut judge = self.judge.take().unwrap_or_else(|| Judge::of(leading.registry.store()));
        judge.look_again();
        let said = judge.rows().map(|rows| rows.said);
        let wanted = said.unwrap_or_default().over(leading.wanted);
        let now = self.now();
        actions.extend(self.policy.take(Input::Wanted(wanted), now));
        for (board, old) in self.lost() {
            actions.extend(self.policy.take(Input::Rejoin { board, old }, now));
        }
        let heard = engine.as_ref().map(|engine| engine.group.heard()).unwrap_or_default();
        let boards = self.seen(&leading, &mut judge, health.as_ref(), &heard);
        actions.extend(self.policy.take(Input::Boards(boards), now));
        let warnings = self.policy.warnings();
        self.members.0.warnings.send_if_modified(|told| {
            let is_new = told != warnings;
            told.clone_from(warnings);
            is_new
        });
        self.begin(actions, &leading, engine.as_ref());
        if self.acting.is_none() {
            self.dismiss_strangers(health.as_ref());
        }
        if self.acting.is_none() && engine.is_some() {
            let work = self.work(&leading, engine.as_ref());
            if judge.rows().is_ok_and(|rows| work.are_old(rows)) {
                self.acting = Some(Box::pin(work.keep_rows()));
            }
        }
        self.judge = Some(judge);
    }

    /// Boards that ask as if they were no members and are some: their copy of the log is lost (another
    /// card, a damaged one). Their votes went with it, so they come back as other members.
    fn lost(&self) -> Vec<(String, MemberId)> {
        let candidates = self.members.desk().candidates().into_iter();
        let lost = candidates.filter(|(_, it)| it.ask.member.is_none() && !it.ask.pausing);
        lost.filter_map(|(board, _)| {
            let old = self.known.of_board(&board)?.id;
            Some((board, old))
        })
        .collect()
    }

    /// How long this leader must still wait before it may say who is no member.
    fn unsure_for(&self) -> Option<Duration> {
        let led_since = self.led_since?;
        let since = self.changed_at.map_or(led_since, |at| at.max(led_since));
        SURE_AFTER.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
    }

    /// Boards that take themselves for members and are none any more are told so; not in the first
    /// moments of a reign or after a change, and not while somebody is being added.
    fn dismiss_strangers(&self, health: Option<&GroupHealth>) {
        let known = match health {
            Some(health) if health.members.configs.is_empty() => return,
            Some(health) => &health.members,
            None => &self.known,
        };
        let is_old = |since: Instant| since.elapsed() >= SURE_AFTER;
        if !self.led_since.is_some_and(is_old) || !self.changed_at.is_none_or(is_old) {
            return;
        }
        for (board, candidate) in self.members.desk().candidates() {
            if let Some(id) = candidate.ask.member
                && known.get(id).is_none()
            {
                tracing::info!(board, member = %id, "a board is a member no more");
                self.members.desk().dismiss(&board, id);
            }
        }
    }

    fn work(&self, leading: &Leading, engine: Option<&Engine>) -> act::Work {
        act::Work {
            leading: leading.clone(),
            members: self.members.clone(),
            engine: engine.cloned(),
            known: self.known.clone(),
            sure: self.unsure_for().is_none(),
        }
    }

    fn follow(&mut self, health: &GroupHealth, actions: &mut Vec<Action>) {
        let now = self.now();
        if health.members != self.known && !health.members.configs.is_empty() {
            self.known = health.members.clone();
            actions.extend(self.policy.take(Input::Changed(self.known.clone()), now));
        }
        let vote = &health.vote;
        let stood = (vote.term, vote.granted);
        if stood > self.vote {
            self.vote = stood;
            let began = Input::TermBegan { by: vote.of, won: vote.granted };
            actions.extend(self.policy.take(began, now));
        }
    }

    fn begin(&mut self, actions: Vec<Action>, leading: &Leading, engine: Option<&Engine>) {
        for action in actions {
            if let Action::Warn(warning) = &action {
                tracing::warn!(?warning, "the group of masters is not as it should be");
                continue;
            }
            if self.acting.is_some() {
                tracing::debug!(?action, "another change of the masters is under way");
                // Decided anew in a second; unsaid, the policy would wait for it much longer.
                let now = self.now();
                self.policy.take(Input::NotBegun, now);
                continue;
            }
            tracing::info!(?action, "the masters change");
            let work = self.work(leading, engine);
            self.acting = Some(Box::pin(work.carry_out(action)));
        }
    }

    fn done(&mut self, done: Result<(), Trouble>) {
        self.acting = None;
        self.changed_at = Some(Instant::now());
        if let Err(error) = done {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, cause, "the masters did not change; trying again");
            let now = self.now();
            // What it wants next shows with the next look.
            self.policy.take(Input::Failed, now);
        }
    }

    /// Every Node as the policy sees it.
    fn seen(
        &mut self,
        leading: &Leading,
        judge: &mut Judge,
        health: Option<&GroupHealth>,
        heard: &BTreeMap<MemberId, Duration>,
    ) -> Vec<Seen> {
        let now = self.now();
        let candidates = self.members.desk().candidates();
        let own = self.members.grouping().member(self.own, Part::Voter).board;
        let world = leading.views.world();
        let mut seen = Vec::new();
        for node in world.nodes() {
            let name = &*node.meta.name;
            let is_own = name == own;
            let ready = node.ready && (is_own || world.contact(name) == Contact::Heard);
            match ready {
                true => drop(self.stable.entry(name.into()).or_insert(now)),
                false => drop(self.stable.remove(name)),
            }
            let member = self.known.of_board(name);
            let candidate = candidates.get(name);
            let ask = candidate.map(|candidate| &candidate.ask);
            seen.push(Seen {
                board: name.to_owned(),
                heard_ms: match member {
                    _ if is_own => Some(now),
                    Some(member) => {
                        heard.get(&member.id).map(|ago| now.saturating_sub(millis(*ago)))
                    }
                    None => None,
                },
                lag_entries: member.map_or(0, |member| lag(member.id, health)),
                ready,
                stable_since: self.stable.get(name).copied().unwrap_or(now),
                role: ask.map_or(TokenRole::Auto, |ask| ask.role),
                zone: node.meta.labels.get(ZONE).map(str::to_owned),
                capable: is_own || ask.is_some_and(|ask| ask.capable),
                leaving: self.members.is_leaving(name) || ask.is_some_and(|ask| ask.leaving),
                evicted: false,
            });
        }
        drop(world);
        for board in &mut seen {
            let member = self.known.of_board(&board.board).map(|member| member.key);
            let asks = candidates.get(&board.board).map(|it| it.key);
            if member.is_some() || board.capable {
                judge.board(board, member.into_iter().chain(asks));
            }
        }
        let out = judge.turned_out(&seen, &self.known, now);
        seen.extend(out);
        seen
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Shortest pause between two looks.
const PAUSE_MS_MIN: u64 = 50;

/// Entries that a member is behind the leader.
fn lag(id: MemberId, health: Option<&GroupHealth>) -> u64 {
    let Some(health) = health else { return 0 };
    let matched = health.matched.get(&id).copied().unwrap_or(0);
    health.last_index.saturating_sub(matched)
}

/// Waits for the group to fare otherwise; for ever where there is none.
async fn changed(health: &mut Option<watch::Receiver<GroupHealth>>) -> Option<()> {
    let known = health.as_mut()?;
    let news = known.changed().await.ok();
    if news.is_none() {
        *health = None;
    }
    news
}

/// Waits for the action under way; for ever without one.
async fn finished(acting: &mut Option<Acting>) -> Result<(), Trouble> {
    match acting {
        Some(acting) => acting.await,
        None => std::future::pending().await,
    }
}
