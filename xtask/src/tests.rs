//! The test command: what the README gives and CI calls.

use anyhow::Result;

use crate::setup;
use crate::shell::{cargo, run};

/// Runs all tests, or those that `filter` names, one test binary after another.
pub(crate) fn run_tests(filter: &[String]) -> Result<()> {
    setup::for_tests()?;
    run(cargo().args(["build", "--workspace", "--bins", "--tests"]))?;
    run(cargo().args(["test", "--workspace", "--no-fail-fast"]).args(filter))
}
