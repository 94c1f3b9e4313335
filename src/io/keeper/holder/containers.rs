//! The containers that the holder watches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::workers::Workers;
use crate::io::keeper::cgroup::Hierarchies;
use crate::io::keeper::process::{PidFd, is_child, now_micros};
use crate::io::keeper::pump::Output;
use crate::io::keeper::record::RecordV1;
use crate::io::keeper::wire::{ContainerStateV1, ExitV1, Refusal, RunStateV1};
use crate::io::keeper::worker::{Failure, Site};

/// How long an exit is held back until the log is complete.
const LOG_WAIT: Duration = Duration::from_secs(1);

struct Container {
    record: RecordV1,
    /// Present while the init process lives.
    process: Option<PidFd>,
    /// Started under an earlier holder: nobody tells us its exit code.
    orphan: bool,
    exit: Option<ExitV1>,
    /// Keeps the bytes of an ended container until the pump has them.
    outputs: Vec<File>,
    drained: bool,
    /// Until when an exit waits for the log; none when it was published or there is none.
    publish_by: Option<Instant>,
}

/// All of them, by id.
#[derive(Default)]
pub(super) struct Containers(BTreeMap<String, Container>);

impl Containers {
    /// Reads back what earlier holders wrote. What was never finished is removed; what cannot be read
    /// may well run, and is left as it is.
    pub(super) fn recover(site: &Site, workers: &mut Workers) -> io::Result<Self> {
        let mut found = Self::default();
        let mut unreadable = BTreeSet::new();
        for entry in fs::read_dir(site.layout.containers())? {
            let entry = entry?;
            let Ok(id) = entry.file_name().into_string() else { continue };
            match RecordV1::read(&entry.path()) {
                Ok(record) => found.restore(site, id, record),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    workers.remove(site, &id, None);
                }
                Err(error) => {
                    eprintln!("holder: container {id} is left alone, its record: {error}");
                    unreadable.insert(id);
                }
            }
        }
        for entry in fs::read_dir(site.layout.runtime())? {
            let Ok(id) = entry?.file_name().into_string() else { continue };
            let known = found.0.contains_key(&id) || unreadable.contains(&id);
            if !known && !workers.has(&id) {
                workers.remove(site, &id, None);
            }
        }
        let pods: Vec<&str> = found.0.values().map(|c| c.record.pod_uid.as_str()).collect();
        let keep = |name: &str| {
            name == "keeper"
                || pods.contains(&name)
                || site.layout.sandbox(name).exists()
                || !unreadable.is_empty()
        };
        Hierarchies::detect()?.prune(&PathBuf::from(&site.cgroup), &keep);
        Ok(found)
    }

    fn restore(&mut self, site: &Site, id: String, record: RecordV1) {
        let dir = site.layout.container(&id);
        let mut exit = ExitV1::read(&dir).ok();
        let mut process = None;
        if exit.is_none() {
            process = PidFd::open_same(record.pid, record.start_ticks);
            if process.is_none() {
                exit = Some(unknown_exit(site, &record));
            }
        }
        if let Some(exit) = &exit
            && let Err(error) = exit.write(&dir)
        {
            eprintln!("holder: recording the exit of {id}: {error}");
        }
        let container = Container {
            outputs: open_outputs(site, &id),
            process,
            // After an upgrade by execve they are still ours, after a crash of the holder not.
            orphan: !is_child(record.pid),
            exit,
            drained: false,
            publish_by: None,
            record,
        };
        self.0.insert(id, container);
    }

    /// Takes a container that a starter has made and recorded.
    pub(super) fn adopt(&mut self, site: &Site, id: &str) -> io::Result<()> {
        let record = RecordV1::read(&site.layout.container(id))?;
        let process = PidFd::open_same(record.pid, record.start_ticks)
            .ok_or_else(|| io::Error::other("its process is gone"))?;
        let container = Container {
            outputs: open_outputs(site, id),
            process: Some(process),
            orphan: false,
            exit: None,
            drained: false,
            publish_by: None,
            record,
        };
        self.0.insert(id.to_owned(), container);
        Ok(())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    pub(super) fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }

    pub(super) fn log_path(&self, id: &str) -> Option<PathBuf> {
        self.0.get(id).map(|container| container.record.log_path.clone())
    }

    pub(super) fn states(&self) -> Vec<ContainerStateV1> {
        self.0.values().map(state).collect()
    }

    pub(super) fn undrained(&self) -> Vec<String> {
        let undrained = self.0.iter().filter(|(_, container)| !container.drained);
        undrained.map(|(id, _)| id.clone()).collect()
    }

    /// The log of this container is complete.
    pub(super) fn drained(&mut self, id: &str) {
        if let Some(container) = self.0.get_mut(id) {
            container.drained = true;
            container.outputs.clear();
        }
    }

    /// Processes of containers that are not our children.
    pub(super) fn orphans(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let orphans = self.0.values().filter(|container| container.orphan);
        orphans.filter_map(|container| Some(container.process.as_ref()?.as_fd()))
    }

    pub(super) fn note_orphans_ended(&mut self, site: &Site) {
        for container in self.0.values_mut().filter(|container| container.orphan) {
            if container.process.as_ref().is_some_and(|process| process.wait(0)) {
                let exit = unknown_exit(site, &container.record);
                note_exit(site, container, exit);
            }
        }
    }

    /// A child that is no worker has ended: a container's init, or something that fell to us.
    pub(super) fn child_ended(&mut self, site: &Site, pid: u32, mut exit: ExitV1) {
        let of_pid = |c: &&mut Container| c.record.pid == pid && c.exit.is_none();
        if let Some(container) = self.0.values_mut().find(of_pid) {
            exit.oom = oom_killed(site, &container.record);
            note_exit(site, container, exit);
        }
    }

    /// Exits to tell now: their log is complete, or they waited long enough for it.
    pub(super) fn take_publishable(&mut self) -> Vec<ContainerStateV1> {
        let now = Instant::now();
        let due = |c: &&mut Container| c.publish_by.is_some_and(|by| c.drained || by <= now);
        let due = self.0.values_mut().filter(due);
        due.map(|container| {
            container.publish_by = None;
            state(container)
        })
        .collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|container| container.publish_by).min()
    }

    /// Whether nothing of this container runs or is still to be logged or told.
    pub(super) fn is_settled(&self, id: &str) -> bool {
        self.0
            .get(id)
            .is_none_or(|container| container.exit.is_some() && container.publish_by.is_none())
    }

    pub(super) fn check_running(&self, id: &str) -> Result<(), Failure> {
        self.process(id).and_then(|process| match process {
            Some(_) => Ok(()),
            None => Err(Failure::new(Refusal::Invalid, format!("container {id} does not run"))),
        })
    }

    pub(super) fn signal(&self, id: &str, signo: i32) -> Result<(), Failure> {
        match self.process(id)? {
            Some(process) => process.signal(signo).map_err(Failure::from),
            None => Ok(()),
        }
    }

    /// Kills a container; one that is not there needs none.
    pub(super) fn kill(&self, id: &str) -> Result<(), Failure> {
        match self.signal(id, libc::SIGKILL) {
            Err(failure) if failure.refusal == Refusal::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn process(&self, id: &str) -> Result<Option<&PidFd>, Failure> {
        let missing = || Failure::new(Refusal::NotFound, format!("no container {id}"));
        Ok(self.0.get(id).ok_or_else(missing)?.process.as_ref())
    }
}

fn state(container: &Container) -> ContainerStateV1 {
    let RecordV1 { id, pod_uid, pid, started_at_micros, .. } = &container.record;
    ContainerStateV1 {
        id: id.clone(),
        pod_uid: pod_uid.clone(),
        pid: *pid,
        state: container.exit.clone().map_or(RunStateV1::Running, RunStateV1::Exited),
        started_at_micros: *started_at_micros,
    }
}

fn note_exit(site: &Site, container: &mut Container, exit: ExitV1) {
    let id = &container.record.id;
    if let Err(error) = exit.write(&site.layout.container(id)) {
        eprintln!("holder: recording the exit of {id}: {error}");
    }
    container.exit = Some(exit);
    container.process = None;
    container.publish_by = Some(Instant::now() + LOG_WAIT);
}

fn unknown_exit(site: &Site, record: &RecordV1) -> ExitV1 {
    let oom = oom_killed(site, record);
    ExitV1 { code: None, signal: None, at_micros: now_micros(), oom }
}

fn oom_killed(site: &Site, record: &RecordV1) -> bool {
    let cgroup = site.container_cgroup(&record.pod_uid, &record.id);
    Hierarchies::detect().is_ok_and(|hierarchies| hierarchies.oom_killed(&cgroup))
}

fn open_outputs(site: &Site, id: &str) -> Vec<File> {
    let open = |output: Output| {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let path = site.layout.container(id).join(output.name());
        File::options().read(true).custom_flags(flags).open(path).ok()
    };
    [Output::Stdout, Output::Stderr].into_iter().filter_map(open).collect()
}
