//! The budgets of SPEC.md, measured on this machine.

use anyhow::Result;

use crate::setup;
use crate::shell::{cargo, root, run};

/// Builds the static release binary and measures one board; `minutes` of idling may be given.
pub(crate) fn bench(words: &[String]) -> Result<()> {
    setup::for_tests()?;
    let binary = setup::build_static("release")?;
    let minutes = words.first().map_or("10", String::as_str);
    for bench in ["keeper", "board"] {
        run(cargo()
            .current_dir(root())
            .env("KUMQUAT_BINARY", &binary)
            .env("KUMQUAT_IDLE_MINUTES", minutes)
            .args(["bench", "--profile", "dev", "--bench", bench]))?;
    }
    Ok(())
}
