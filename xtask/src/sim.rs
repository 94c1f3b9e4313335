//! A thousand simulated boards against one real master.

use std::process::Command;

use anyhow::Result;

use crate::setup;
use crate::shell::run;

/// Builds master and simulator without the slow link and runs them; `words` go to the simulator.
pub(crate) fn sim(words: &[String]) -> Result<()> {
    let (binary, simulator) = setup::build_simulator("fast")?;
    run(Command::new(simulator).args(words).env("KUMQUAT_BINARY", binary))
}
