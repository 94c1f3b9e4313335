//! The store as one of a group's replicas: what the engine asks for, and what it is asked for.
//!
//! ```text
//! leader: queue -> stage -> Ask::Propose -> (engine) -> Append -> Commit -> answer
//! all:    Append* -> one fdatasync -> flushed*     Truncate, SaveVote: durable before they are answered
//!         Commit -> apply -> hook                  Install: state and log become the snapshot's
//! ```
//! Requests are served in the order in which they come. The log may hold entries that are not
//! committed; nothing beyond `applied` is shown, flushed to LMDB or put into a snapshot.

use std::{io, time::Instant};

use model::{
    limits::{STORE_GROUP_BYTES_MAX, STORE_OVERLAY_BYTES_MAX, STORE_OVERLAY_FLUSH_BYTES},
    masters::{LogIdV1, MemberId, Reign},
};

use super::{
    entry::{EntryV1, FRAME_BYTES},
    flight::{Flight, Queued},
    group::seam::{Ask, Asks, Done, Flushed, GroupRequest, LogEntry, Refusal},
    log::{AppendError, Group},
    open, record,
    requests::{Unattached, Write},
    stage::Staged,
    standing::{Mandate, NotLeading},
    types::{Applied, ProposeError},
    writer::{Role, Writer},
};

/// Left free in a segment for entries that nobody proposes: the first of a term, changes of the group.
const SPARE_BYTES: u64 = 16 * 1024;

/// This replica.
pub(super) struct Replica {
    asks: Asks,
    /// Whether this board leads, in the reign that is told.
    leads: bool,
    flight: Flight,
    /// The engine does not know yet of the newest snapshot.
    owes_snapshot: bool,
}

/// Entries that become durable with one sync.
#[derive(Default)]
pub(super) struct Appends {
    group: Option<Group>,
    count: u64,
    flushed: Vec<Flushed>,
}

impl Replica {
    pub(super) fn new(asks: Asks) -> Self {
        Self { asks, leads: false, flight: Flight::default(), owes_snapshot: false }
    }

    /// There is a new snapshot.
    pub(super) fn has_snapshot(&mut self) {
        self.owes_snapshot = true;
        self.tell_snapshot();
    }

    /// Tells the engine of a snapshot of which it does not know.
    pub(super) fn tell_snapshot(&mut self) {
        // A full queue is tried again at the next flush.
        self.owes_snapshot = self.owes_snapshot && self.asks.try_send(Ask::Snapshot).is_err();
    }
}

impl Writer {
    /// Serves one request of the engine.
    pub(super) fn follow(&mut self, request: GroupRequest, appends: &mut Appends) {
        if let GroupRequest::Append { entries, flushed } = request {
            return self.take_append(entries, flushed, appends);
        }
        // What came before is on disk before anything else happens: an applied entry must be there.
        // Whoever asked for it is told when it fails, and the log takes nothing after that.
        let _ = self.flush_appends(appends);
        match request {
            GroupRequest::Append { .. } => {}
            GroupRequest::Truncate { after, done } => answer(done, self.truncate(after)),
            GroupRequest::Purge { upto } => self.purge(upto),
            GroupRequest::SaveVote { vote, done } => {
                self.waits_for_disk(true);
                let saved = match &mut self.vote {
                    Some(file) => file.save(vote),
                    None => Err(io::Error::other("this store is no member of a group")),
                };
                self.waits_for_disk(false);
                answer(done, saved);
            }
            GroupRequest::Commit { entries, done } => answer(done, self.apply_committed(entries)),
            GroupRequest::Read { from, upto, bytes_max, done } => {
                let read = self.log.read(from, upto, bytes_max);
                let entry = |logged: super::log::Logged| LogEntry {
                    term: logged.id.term,
                    index: logged.id.index,
                    payload: logged.payload,
                    tag: 0,
                };
                answer(done, read.map(|found| found.into_iter().map(entry).collect()));
            }
            GroupRequest::Install { file, done } => answer(done, self.install(file)),
            GroupRequest::Snapshot { done } => self.write_snapshot(done),
            GroupRequest::Newest { done } => self.newest_snapshot(done),
            GroupRequest::Refused { tags, why } => self.refused(&tags, why),
            GroupRequest::Reign(Some(mandate)) => self.begin_reign(mandate),
            GroupRequest::Reign(None) => self.end_reign(),
        }
    }

    fn take_append(&mut self, entries: Vec<LogEntry>, flushed: Flushed, appends: &mut Appends) {
        let Role::Group(_) = &self.role else {
            return flushed(Err(io::Error::other("this store is no member of a group")));
        };
        let next = self.log.position().index + appends.count + 1;
        let follows = entries.iter().zip(next..).all(|(entry, index)| entry.index == index);
        if !follows {
            // What came before is told first; it fails by itself or not at all.
            let _ = self.flush_appends(appends);
            return flushed(Err(io::Error::other("entries do not follow the end of the log")));
        }
        for LogEntry { term, index, payload, tag } in entries {
            if appends.group.as_ref().is_some_and(|group| group.bytes() >= STORE_GROUP_BYTES_MAX)
                && let Err(errno) = self.flush_appends(appends)
            {
                return flushed(Err(io::Error::from_raw_os_error(errno)));
            }
            let group = appends.group.get_or_insert_with(|| self.log.group());
            self.log.add_of_term(group, term, &payload);
            appends.count += 1;
            if let Role::Group(replica) = &mut self.role
                && tag != 0
            {
                replica.flight.appended(tag, index);
            }
        }
        appends.flushed.push(flushed);
    }

    /// Makes durable what was to be appended, and tells each in turn.
    ///
    /// # Errors
    /// The errno that each was told.
    pub(super) fn flush_appends(&mut self, appends: &mut Appends) -> Result<(), i32> {
        let Appends { group, flushed, .. } = std::mem::take(appends);
        let appended = self.append(&group.unwrap_or_default());
        let outcome = match appended.and_then(|()| self.note_held().map_err(AppendError::Failed)) {
            Ok(()) => Ok(()),
            Err(AppendError::Full) => Err(libc::ENOSPC),
            Err(AppendError::Descriptors) => Err(libc::EMFILE),
            Err(AppendError::Failed(error)) => {
                self.fail(&error);
                Err(error.raw_os_error().unwrap_or(libc::EIO))
            }
        };
        for flushed in flushed {
            flushed(outcome.map_err(io::Error::from_raw_os_error));
        }
        outcome
    }

    fn truncate(&mut self, after: u64) -> io::Result<()> {
        if after < self.applied.index {
            return Err(io::Error::other("what is applied is not cut off the log"));
        }
        self.waits_for_disk(true);
        let cut = self.log.truncate_after(after);
        self.waits_for_disk(false);
        match &cut {
            Ok(()) => self.shared.write().segments = self.log.segments().to_vec(),
            Err(error) => self.fail(error),
        }
        if let Role::Group(replica) = &mut self.role {
            replica.flight.truncated(after);
        }
        cut
    }

    /// Notes what nobody needs any more; it goes between other requests.
    fn purge(&mut self, upto: u64) {
        // No further than a snapshot reaches: a lost LMDB is rebuilt from it.
        let covered = self.work.newest.as_ref().map_or(0, |newest| newest.head.last.index);
        self.purging = self.purging.max(Some(upto.min(covered)));
    }

    fn apply_committed(&mut self, entries: Vec<LogEntry>) -> io::Result<()> {
        let applied = self.applied.index;
        if !entries.iter().zip(applied + 1..).all(|(entry, index)| entry.index == index) {
            return Err(io::Error::other("committed entries do not follow the applied ones"));
        }
        // The engine commits what a majority has, which may leave this log out: one that ends before the
        // state would count as lost.
        if entries.last().is_some_and(|last| last.index > self.log.position().index) {
            return Err(io::Error::other("committed entries are not in this log"));
        }
        if self.shared.read().overlay_bytes > STORE_OVERLAY_BYTES_MAX {
            self.flush_all()?;
        }
        let mut staged = Vec::with_capacity(entries.len());
        for LogEntry { term, index, payload, .. } in &entries {
            let entry = EntryV1::decode(payload).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "an entry is of a later release")
            })?;
            self.options.clock.advance(entry.time());
            let at = self.log.position_of(LogIdV1 { term: *term, index: *index });
            staged.push(Staged { entry, at });
        }
        let places: Vec<_> =
            staged.iter().map(|staged| (staged.at.index, staged.at.place())).collect();
        self.apply(staged);
        if let Role::Group(replica) = &mut self.role {
            for (index, place) in places {
                replica.flight.applied(index, place);
            }
        }
        if self.shared.read().overlay_bytes >= STORE_OVERLAY_FLUSH_BYTES {
            self.flush();
        }
        Ok(())
    }

    /// Takes a proposal in; it is staged when everything that has arrived is known.
    pub(super) fn queue(&mut self, write: Write) {
        let Role::Group(replica) = &mut self.role else { return };
        if write.ops.is_empty() {
            // Whoever asked may have gone.
            let _ = write.answer.send(Ok(super::requests::versions(0, 0)));
            return;
        }
        match write.ops.iter().map(|op| record::encode_key(&op.key)).collect() {
            Some(keys) => replica.flight.push(write, keys),
            None => write.refuse(ProposeError::TooLarge),
        }
    }

    /// Stages what is queued and nothing in flight touches, and hands it to the engine.
    pub(super) fn hand_over(&mut self) {
        loop {
            let Role::Group(replica) = &mut self.role else { return };
            if !replica.leads || replica.flight.queue.is_empty() || !replica.flight.has_room() {
                return;
            }
            let Some(mandate) = self.reign.borrow().clone() else { return };
            let queue = std::mem::take(&mut replica.flight.queue);
            let number = replica.flight.begin_group();
            let (mut entries, mut bytes, mut held) = (Vec::new(), 0, false);
            for queued in queue {
                let fits = !held && bytes < STORE_GROUP_BYTES_MAX;
                match self.stage_queued(queued, number, fits) {
                    Staging::Out(tag, payload) => {
                        bytes += payload.len();
                        entries.push((tag, payload));
                    }
                    Staging::Held => held = true,
                    Staging::Blocked | Staging::Answered => {}
                }
            }
            if entries.is_empty() {
                return;
            }
            let tags: Vec<u64> = entries.iter().map(|(tag, _)| *tag).collect();
            let Role::Group(replica) = &mut self.role else { return };
            let asked = Ask::Propose { mandate, entries };
            if replica.asks.try_send(asked).is_err() {
                self.refused(&tags, Refusal::NotLeading { hint: None });
                return;
            }
        }
    }

    fn stage_queued(&mut self, queued: Queued, group: u64, fits: bool) -> Staging {
        let Role::Group(replica) = &mut self.role else { return Staging::Answered };
        if !fits || !replica.flight.is_free(&queued.keys) {
            let staging = if fits { Staging::Blocked } else { Staging::Held };
            replica.flight.queue.push_back(queued);
            return staging;
        }
        let (out_bytes, reserved) = (replica.flight.bytes(), replica.flight.unappended_bytes());
        let count = queued.write.ops.len();
        let ops = queued.write.ops.clone();
        let overlay_bytes = self.shared.read().overlay_bytes as u64 + out_bytes;
        if overlay_bytes > STORE_OVERLAY_BYTES_MAX as u64 {
            self.flush();
            if self.shared.read().overlay_bytes > STORE_OVERLAY_FLUSH_BYTES {
                self.found_no_room();
                queued.write.refuse(ProposeError::NoSpace);
                return Staging::Answered;
            }
        }
        let payload = match self.stage_for_group(ops) {
            Ok(payload) => payload,
            Err(error) => {
                queued.write.refuse(error);
                return Staging::Answered;
            }
        };
        let bytes = (payload.len() + FRAME_BYTES) as u64;
        self.waits_for_disk(true);
        let room = self.log.reserve(reserved, bytes + SPARE_BYTES);
        self.waits_for_disk(false);
        let Role::Group(replica) = &mut self.role else { return Staging::Answered };
        match room {
            Ok(true) => Staging::Out(replica.flight.put_out(group, queued, count, bytes), payload),
            Ok(false) => {
                replica.flight.queue.push_back(queued);
                Staging::Held
            }
            Err(error) => {
                let error = match error {
                    AppendError::Full => {
                        self.found_no_room();
                        ProposeError::NoSpace
                    }
                    AppendError::Descriptors => ProposeError::Descriptors,
                    AppendError::Failed(error) => {
                        self.fail(&error);
                        ProposeError::Failed
                    }
                };
                queued.write.refuse(error);
                Staging::Answered
            }
        }
    }

    fn refused(&mut self, tags: &[u64], why: Refusal) {
        let Role::Group(replica) = &mut self.role else { return };
        for tag in tags {
            let error = match why {
                Refusal::NotLeading { hint } => ProposeError::NotLeading { hint },
                Refusal::Unknown => ProposeError::Unknown,
            };
            replica.flight.refused(*tag, error);
        }
    }

    fn begin_reign(&mut self, mandate: Mandate) {
        let Role::Group(replica) = &mut self.role else { return };
        let standing = self.reign.borrow().clone();
        replica.leads = true;
        if let Some(standing) = standing.filter(|standing| standing.reign() == mandate.reign()) {
            // This master was alone until a moment ago, and leads on. Whoever waits for the end looks anew.
            standing.adopt(&mandate);
            return self.end_alone.iter().for_each(|end| end.send_modify(|_| {}));
        }
        // Whatever was out in an earlier reign is decided: the first entry of this one is applied, and
        // what that reign had not handed to the engine before is dropped on the way. Ordinals go on
        // behind the last applied entry, which need not be that first one.
        replica.flight.clear(None);
        self.shared.write().forget_memory();
        self.reign.send_replace(Some(mandate));
    }

    pub(super) fn end_reign(&mut self) {
        if let Role::Group(replica) = &mut self.role {
            replica.leads = false;
            replica.flight.end_reign(None);
        }
        if let Some(end) = self.end_alone.take() {
            end.send_replace(true);
        }
        let led = self.reign.borrow().is_some();
        if led && matches!(self.role, Role::Group(_)) {
            self.shared.write().forget_memory();
        }
        self.reign.send_replace(None);
    }

    /// Ends the part of this store in a group, or as the only master.
    pub(super) fn leave(&mut self) {
        self.end_reign();
        if let Role::Group(replica) = &mut self.role {
            replica.flight.clear(None);
        }
        self.role = Role::Idle;
    }

    /// Shows every object to a hook, which sees every change from then on.
    pub(super) fn attach(
        &mut self,
        reign: Reign,
        mut hook: Box<dyn Applied>,
    ) -> Result<(), Unattached> {
        let standing = self.reign.borrow().as_ref().map(Mandate::reign);
        if standing != Some(reign) {
            return Err(NotLeading { hint: None::<MemberId> }.into());
        }
        open::show(&self.shared, hook.as_mut())?;
        let version = self.shared.read().version;
        hook.opened(version);
        self.hook = hook;
        Ok(())
    }

    /// When somebody has waited long enough for the group.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.role {
            Role::Group(replica) => replica.flight.deadline(),
            _ => None,
        }
    }

    /// Answers those who have waited long enough for the group.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Role::Group(replica) = &mut self.role {
            replica.flight.expire(now);
        }
    }
}

/// What became of a queued proposal.
enum Staging {
    /// It goes out.
    Out(u64, bytes::Bytes),
    /// It and all behind it wait for the next group.
    Held,
    /// It waits for what is in flight.
    Blocked,
    /// It was answered.
    Answered,
}

/// Answers the engine.
pub(super) fn answer<T>(done: Done<T>, result: io::Result<T>) {
    // An engine that is gone asks no more.
    let _ = done.send(result);
}
