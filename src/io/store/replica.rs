//! How a store becomes a group's replica, where it stands then, and its snapshots.

use std::{
    io,
    path::{Path, PathBuf},
};

use model::masters::{LogIdV1, MemberId, MemberV1, MembersV1, SnapshotHeadV1, VoteV1};

use super::{
    entry::EntryV1,
    follow::Replica,
    group::seam::{Done, GroupState, SnapshotFile},
    install,
    live::Overlay,
    log::{AppendError, Position, io_error},
    open,
    requests::Entry,
    snapshot::{self, Head, Written},
    stage::Staged,
    types::OpenError,
    vote::{Ballot, VoteFile},
    writer::{Role, Writer},
};

impl Writer {
    /// Becomes a member of a group; gives where log and state stand.
    pub(super) fn enter(&mut self, entry: Entry) -> Result<GroupState, OpenError> {
        let Entry { own, epoch, asks, keep } = entry;
        let refused = |own| OpenError::Member { dir: self.options.dir.clone(), own };
        match (&self.role, &self.vote, &keep) {
            (Role::Sole, None, Some(_)) if self.log.position().epoch == epoch => {}
            (Role::Idle, Some(vote), None) => {
                let Ballot { own: known, epoch: voted, .. } = vote.ballot();
                if (known, voted) != (own, epoch) {
                    return Err(refused(known));
                }
            }
            // Entries that no group knows would be taken for the group's.
            (Role::Idle, None, None) if self.log.segments().is_empty() => {}
            (Role::Idle, None, None) => return Err(refused(MemberId(0))),
            _ => return Err(OpenError::Busy(self.options.dir.clone())),
        }
        let mut vote = VoteV1 { term: 0, of: own, granted: false };
        if let Some(first) = keep {
            self.found_group(first)?;
            vote = VoteV1 { term: self.applied.term, of: own, granted: true };
        }
        if self.vote.is_none() {
            let ballot = Ballot { epoch, own, vote };
            let made = VoteFile::create(&self.paths.vote, ballot, &self.options.faults);
            self.vote = Some(made.map_err(io_error("make", &self.paths.vote))?);
        }
        self.role = Role::Group(Box::new(Replica::new(asks)));
        self.state()
    }

    /// Logs that this master, which is alone, is the first member of a group.
    fn found_group(&mut self, first: MemberV1) -> Result<(), OpenError> {
        let mut group = self.log.group();
        let entry = EntryV1::Members(MembersV1::sole(first.id, first.board, first.key));
        if self.owes_term_start {
            let entry = EntryV1::At(self.options.clock.now(), Vec::new());
            let at = self.log.add(&mut group, &entry.encode());
            self.append_and_apply(&group, entry, at)?;
            self.owes_term_start = false;
            group = self.log.group();
        }
        let at = self.log.add(&mut group, &entry.encode());
        self.append_and_apply(&group, entry, at)
    }

    fn append_and_apply(
        &mut self,
        group: &super::log::Group,
        entry: EntryV1,
        at: Position,
    ) -> Result<(), OpenError> {
        let dir = self.log.dir().to_owned();
        let failed = |source| io_error("write", &dir)(source);
        match self.append(group) {
            Ok(()) => {
                self.apply(vec![Staged { entry, at }]);
                Ok(())
            }
            Err(AppendError::Full) => Err(failed(io::Error::from_raw_os_error(libc::ENOSPC))),
            Err(AppendError::Descriptors) => {
                Err(failed(io::Error::from_raw_os_error(libc::EMFILE)))
            }
            Err(AppendError::Failed(error)) => {
                self.fail(&error);
                Err(failed(error))
            }
        }
    }

    fn state(&self) -> Result<GroupState, OpenError> {
        let purged = self.log.before_epoch();
        let last = self.log.position();
        let id = |at: Position| LogIdV1 { term: at.term, index: at.index };
        let known = |id: LogIdV1| (id.index > 0).then_some(id);
        let ballot = self.vote.as_ref().map(VoteFile::ballot);
        let vote = ballot.map(|ballot| ballot.vote).filter(|vote| vote.term > 0);
        let first = purged.map_or(1, |purged| purged.index + 1);
        let first_of_terms = self.log.first_of_terms(first);
        let live = self.shared.read();
        Ok(GroupState {
            epoch: ballot.map_or(last.epoch, |ballot| ballot.epoch),
            vote,
            purged,
            last: known(id(last)),
            applied: known(id(self.applied)),
            members: live.membership.clone().map(|membership| (membership.at, membership.members)),
            first_of_terms: first_of_terms.map_err(io_error("read", self.log.dir()))?,
        })
    }

    /// Replaces state and log by a snapshot of another member.
    pub(super) fn install(&mut self, file: SnapshotFile) -> io::Result<()> {
        let SnapshotFile { path, head } = file;
        if head.last.index <= self.applied.index {
            return Err(io::Error::other("the snapshot is older than the state"));
        }
        self.waits_for_disk(true);
        let installed = self.install_file(&path, &head);
        self.waits_for_disk(false);
        installed?;
        self.newest = None;
        Ok(())
    }

    fn install_file(&mut self, file: &Path, wanted: &SnapshotHeadV1) -> io::Result<()> {
        let last = wanted.last;
        let keeps_log = self.log.term_at(last.index)? == Some(last.term)
            && self.log.position().epoch == wanted.epoch;
        let SnapshotHeadV1 { epoch, base, .. } = *wanted;
        let position = Position { epoch, base, term: last.term, index: last.index };
        let (path, head) = install::begin(&self.paths, file, position, keeps_log, &self.options)?;
        let placed = self.place(path, head, keeps_log);
        if let Err(error) = &placed {
            // Log and state may not belong together: the next start finishes it.
            self.fail(error);
        }
        placed
    }

    fn place(&mut self, path: PathBuf, head: Head, keeps_log: bool) -> io::Result<()> {
        self.close_for_install();
        install::place_log(&mut self.log, &head, keeps_log).map_err(io::Error::other)?;
        let state =
            install::place_state(&self.paths, path, head.clone()).map_err(io::Error::other)?;
        self.open_installed(state, head).map_err(io::Error::other)?;
        install::end(&self.paths, &self.options)
    }

    fn close_for_install(&mut self) {
        let state = {
            let mut live = self.shared.write();
            live.installing = true;
            live.state.take()
        };
        if let Some(state) = state {
            state.close();
        }
    }

    fn open_installed(&mut self, state: super::state::State, head: Head) -> Result<(), OpenError> {
        let Head { position, membership } = head;
        if let Some(membership) = &membership {
            self.options.clock.advance(membership.time);
        }
        // As much as there is: nobody waits for that.
        let counts = open::count(&state, &Overlay::new())?;
        let mut live = self.shared.write();
        live.overlay_clear();
        live.memory.clear();
        live.counts = counts;
        live.membership = membership;
        live.state = Some(state);
        live.installing = false;
        live.segments = self.log.segments().to_vec();
        live.restart_history(open::last_version(position));
        drop(live);
        self.applied = position;
        self.next_ordinal = 1;
        self.flush_at = None;
        self.purging = None;
        self.flushed_bytes = self.log.appended_bytes();
        Ok(())
    }

    /// Begins a snapshot of what is applied, and answers when it is written.
    pub(super) fn write_snapshot(&mut self, done: Done<SnapshotFile>) {
        if self.snapshot.is_none() {
            if let Err(error) = self.flush_all() {
                // An engine that is gone asks no more.
                let _ = done.send(Err(error));
                return;
            }
            self.start_snapshot();
        }
        if let Role::Group(replica) = &mut self.role
            && self.snapshot.is_some()
        {
            return replica.snapshots.push(done);
        }
        let _ = done.send(Err(io::Error::other("the snapshot cannot be started")));
    }

    /// Tells those who wait for a snapshot.
    pub(super) fn tell_snapshot(&mut self, result: io::Result<Written>) {
        let file = result.map(|written| self.snapshot_file(written));
        if let Ok(file) = &file {
            self.newest = Some(file.clone());
        }
        let Role::Group(replica) = &mut self.role else { return };
        replica.asked_for_snapshot = false;
        for done in std::mem::take(&mut replica.snapshots) {
            let file = file.as_ref().map(SnapshotFile::clone);
            // An engine that is gone asks no more.
            let _ = done.send(file.map_err(|error| io::Error::other(error.to_string())));
        }
    }

    /// The newest snapshot from which another member of this epoch can go on.
    pub(super) fn newest_snapshot(&mut self) -> io::Result<Option<SnapshotFile>> {
        if self.newest.is_none()
            && let Some((path, head)) = snapshot::newest(&self.paths.snapshots)?
        {
            let (sha256, bytes) = snapshot::digest(&path)?;
            let sha256 = Some(sha256);
            self.newest = Some(self.snapshot_file(Written { path, head, bytes, sha256 }));
        }
        let purged = self.log.before_epoch().map_or(0, |purged| purged.index);
        let epoch = self.log.position().epoch;
        let good = |file: &&SnapshotFile| {
            file.head.epoch == epoch
                && file.head.last.index >= purged
                && !file.head.members.members.is_empty()
        };
        Ok(self.newest.as_ref().filter(good).cloned())
    }

    fn snapshot_file(&self, written: Written) -> SnapshotFile {
        let Written { path, head: Head { position, membership }, bytes, sha256 } = written;
        let vote = self.vote.as_ref().map(|vote| vote.ballot().vote).unwrap_or_default();
        let head = SnapshotHeadV1 {
            vote,
            last: LogIdV1 { term: position.term, index: position.index },
            members: membership.map(|membership| membership.members).unwrap_or_default(),
            epoch: position.epoch,
            base: position.base,
            bytes,
            sha256: sha256.unwrap_or_default(),
        };
        SnapshotFile { path, head }
    }
}
