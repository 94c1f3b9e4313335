//! One container of a pod: which start it is at, what it shows, when it starts again.

use model::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use super::backoff::{Backoff, go_duration};
use super::event::{Exit, ImageRef, Moment, ProbeKind};
use super::probe::ProbeState;
use super::spec::{Container, RestartPolicy};

/// Where a container belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container that goes on running (`restartPolicy: Always`).
    Sidecar,
    /// The pod's purpose.
    Main,
}

/// How far the current start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing is under way.
    Idle,
    /// The image is looked for.
    ImageAsked,
    /// The image or the configuration is missing; only a change can help.
    Blocked,
    /// The start is under way.
    StartAsked,
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// It ran.
    Ended {
        /// When it ended, for back-off.
        ticks: u64,
    },
}

/// `state.waiting`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// CamelCase word.
    pub reason: String,
    /// Sentence, may be empty.
    pub message: String,
}

/// `state.terminated`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which start it was.
    pub attempt: u32,
    /// Exit code.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// What it wrote to its termination log.
    pub message: String,
    /// When it started, if it did.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Timestamp,
}

/// A stop under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stopping {
    /// SIGKILL is sent then, and again if the exit does not come.
    pub kill_ticks: u64,
    /// The preStop hook is through, or there is none.
    pub hooked: bool,
    /// There is a stop signal before SIGKILL.
    pub graceful: bool,
    /// The stop signal has been sent.
    pub signalled: bool,
    /// Its grace was over by then, and it got a little more.
    pub extended: bool,
    /// SIGKILL has been sent.
    pub killed: bool,
}

/// The state of one container; survives restarts of the board's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Name in the spec.
    pub name: String,
    /// Where it belongs.
    pub role: Role,
    /// Counts starts from 0: `restartCount`.
    pub attempt: u32,
    /// How far the start is.
    pub stage: Stage,
    /// Why it does not run.
    pub waiting: Option<Waiting>,
    /// How the current start ended.
    pub ended: Option<Ended>,
    /// How the start before ended.
    pub last: Option<Ended>,
    /// The image it runs or is about to run.
    pub image: Option<ImageRef>,
    /// Its probes while it runs.
    pub probes: Vec<ProbeState>,
    /// A stop under way.
    pub stop: Option<Stopping>,
    /// The postStart hook is done, or there is none.
    pub hooked: bool,
    pub(super) backoff: Backoff,
    /// `ErrImagePull` becomes `ImagePullBackOff` then.
    pub(super) settle_ticks: Option<u64>,
}

impl ContainerState {
    /// A container that has never started.
    pub fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            attempt: 0,
            stage: Stage::Idle,
            waiting: None,
            ended: None,
            last: None,
            image: None,
            probes: Vec::new(),
            stop: None,
            hooked: false,
            backoff: Backoff::default(),
            settle_ticks: None,
        }
    }

    /// Whether its process is there.
    pub fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running { .. })
    }

    /// Whether something is under way that will be answered by a running container.
    pub fn is_starting(&self) -> bool {
        self.stage == Stage::StartAsked
    }

    /// Whether it ran to a good end.
    pub fn has_succeeded(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. })
            && self.ended.as_ref().is_some_and(|e| e.code == 0)
    }

    /// `started`: runs, its postStart hook and startup probe are through.
    pub fn is_started(&self) -> bool {
        let startup = self.probes.iter().find(|probe| probe.kind == ProbeKind::Startup);
        self.is_running() && self.hooked && startup.is_none_or(|p| p.verdict == Some(true))
    }

    /// `ready`: serves, or is an init container that has done its work.
    pub fn is_ready(&self) -> bool {
        if self.role == Role::Init {
            return self.has_succeeded();
        }
        let readiness = self.probes.iter().find(|probe| probe.kind == ProbeKind::Readiness);
        self.is_started() && readiness.is_none_or(|p| p.verdict == Some(true))
    }

    /// Whether an end is to be followed by another start.
    pub fn wants_restart(&self, policy: RestartPolicy) -> bool {
        let Some(ended) = &self.ended else { return true };
        match (self.role, policy) {
            (Role::Sidecar, _) => true,
            (Role::Init, RestartPolicy::Never) | (Role::Main, RestartPolicy::Never) => false,
            (Role::Init, _) | (Role::Main, RestartPolicy::OnFailure) => ended.code != 0,
            (Role::Main, RestartPolicy::Always) => true,
        }
    }

    /// When the next start may be, after an end.
    pub fn restart_ticks(&self) -> Option<u64> {
        match self.stage {
            Stage::Ended { ticks } => Some(ticks + self.backoff.delay_millis(ticks)),
            _ => None,
        }
    }

    /// Shows that the next start waits; says how long it waits in all.
    pub(super) fn show_backoff(&mut self, pod: &str) -> Option<String> {
        let Stage::Ended { ticks } = self.stage else { return None };
        let delay = go_duration(self.backoff.delay_millis(ticks));
        let name = &self.name;
        let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
        let waiting = Waiting { reason: "CrashLoopBackOff".to_owned(), message };
        if self.waiting.as_ref() == Some(&waiting) {
            return None;
        }
        self.waiting = Some(waiting);
        Some(format!("Back-off restarting failed container {name} in pod {pod}"))
    }

    /// Goes to the next start if there was one before; the caller asks for it.
    pub(super) fn begin_start(&mut self, now: Moment) {
        if let Stage::Ended { ticks } = self.stage {
            self.backoff.count(ticks, now.ticks);
            self.stage = Stage::Idle;
        }
        if self.ended.is_some() {
            self.last = self.ended.take();
            self.attempt += 1;
        }
        self.waiting = None;
    }

    /// It runs.
    pub(super) fn started(&mut self, spec: &Container, since: Timestamp, now: Moment) {
        self.stage = Stage::Running { since };
        self.waiting = None;
        self.hooked = spec.lifecycle.post_start.is_none();
        self.probes = ProbeState::of_container(spec, now.ticks);
    }

    /// It ended.
    pub(super) fn exited(&mut self, exit: &Exit, now: Moment) {
        let started = match self.stage {
            Stage::Running { since } => Some(since),
            _ => None,
        };
        let reason = match exit.code {
            _ if exit.out_of_memory => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        self.end(reason, exit.code, &exit.message, started, exit.at, now);
    }

    /// It is over, for whatever reason.
    pub(super) fn end(
        &mut self,
        reason: &str,
        code: i32,
        message: &str,
        started: Option<Timestamp>,
        finished: Timestamp,
        now: Moment,
    ) {
        self.ended = Some(Ended {
            attempt: self.attempt,
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            started,
            finished: finished.max(started.unwrap_or(finished)),
        });
        self.stage = Stage::Ended { ticks: now.ticks };
        self.waiting = None;
        self.probes.clear();
        self.stop = None;
    }
}
