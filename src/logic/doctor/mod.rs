//! What a board lacks: facts in, findings out, each with what exactly a person can do about it.
//!
//! The facts are gathered by `io::host`; nothing here looks at the board. A fact that is not known is
//! no finding: boards differ, and a doctor that guesses is not believed twice. A finding fails when
//! the board cannot do its work, and warns when it does so worse or not for long.

mod disk;
mod facts;
mod kernel;
mod machine;
mod network;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use facts::{
    Disk, Facts, Feature, FeatureState, Flash, PortUse, RouteFact, Running, Swap, Unit, Warning,
};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but worse than it could, or not for long.
    Warn,
    /// It does not work.
    Fail,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check, for programs.
    pub check: &'static str,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub what: String,
    /// What a person can do; none when nothing needs to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, state: State::Ok, what: what.into(), remedy: None }
    }

    fn warn(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, state: State::Warn, what: what.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Fail, ..Self::warn(check, what, remedy) }
    }
}

/// Everything that can be said of these facts, in the order of the checks.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![machine::board(facts)];
    findings.extend(kernel::examine(facts));
    findings.extend(disk::examine(facts));
    findings.extend(machine::examine(facts));
    findings.extend(network::examine(facts));
    findings.extend(machine::running(facts));
    findings
}

/// The worst of some findings.
pub fn worst(findings: &[Finding]) -> State {
    findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok)
}
