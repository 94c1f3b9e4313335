//! How a store becomes a group's replica, where it stands then, and how a snapshot replaces it.

use std::{
    io,
    path::{Path, PathBuf},
};

use model::masters::{LogIdV1, MemberId, MemberV1, MembersV1, SnapshotHeadV1, VoteV1};

use super::{
    entry::EntryV1,
    follow::Replica,
    group::seam::{GroupState, SnapshotFile},
    install,
    live::Overlay,
    log::{AppendError, Position, io_error},
    open,
    requests::Entry,
    snapshot::Head,
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
            let ballot = Ballot { epoch, own, vote, held: false };
            let made = VoteFile::create(&self.paths.vote, ballot, &self.options.faults);
            self.vote = Some(made.map_err(io_error("make", &self.paths.vote))?);
        }
        // Also where an earlier release kept no mark.
        self.note_held().map_err(io_error("mark", &self.paths.vote))?;
        self.role = Role::Group(Box::new(Replica::new(asks)));
        self.state()
    }

    /// Keeps for good that the log holds an entry, before anybody counts on it: a replica that comes back
    /// without any has lost its copy then.
    pub(super) fn note_held(&mut self) -> io::Result<()> {
        let is_empty = self.log.position().index == 0;
        match &mut self.vote {
            Some(vote) if !is_empty && !vote.ballot().held => vote.save_held(),
            _ => Ok(()),
        }
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
        // It reads the state that goes, and would take away the file that comes.
        self.work.abandon();
        let installed = self.install_file(&path, &head);
        self.waits_for_disk(false);
        self.installed_snapshot(installed, &head)
    }

    fn install_file(
        &mut self,
        file: &Path,
        wanted: &SnapshotHeadV1,
    ) -> io::Result<(PathBuf, Head)> {
        let last = wanted.last;
        let keeps_log = self.log.term_at(last.index)? == Some(last.term)
            && self.log.position().epoch == wanted.epoch;
        let SnapshotHeadV1 { epoch, base, .. } = *wanted;
        let position = Position { epoch, base, term: last.term, index: last.index };
        let (path, head) = install::begin(&self.paths, file, position, keeps_log, &self.options)?;
        let placed = self.place(path.clone(), head.clone(), keeps_log);
        if let Err(error) = &placed {
            // Log and state may not belong together: the next start finishes it.
            self.fail(error);
        }
        placed?;
        self.note_held()?;
        Ok((path, head))
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
        std::mem::take(&mut self.captures).stop();
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
}
