//! A thousand simulated boards against one real master.

use anyhow::Result;

use crate::setup;

/// Builds master and simulator without the slow link and runs them; `words` go to the simulator.
pub(crate) fn sim(words: &[String]) -> Result<()> {
    let binary = setup::build_static("fast")?;
    setup::bench_static("fast", "sim", &binary, words)
}
