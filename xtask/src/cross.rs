//! The binaries for boards: every target of `cross/build`, one after another.

use std::process::Command;

use anyhow::Result;

use crate::shell::{root, run};

/// Targets that are built and, where this machine can, run with `version`.
const BUILT: [&str; 2] = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];
/// Targets that are checked: Rust has no standard library for them, so a build takes much longer.
const CHECKED: [&str; 2] = ["armv7-unknown-linux-musleabihf", "arm-unknown-linux-musleabihf"];

/// Builds the 64-bit targets and checks the 32-bit ones.
pub(crate) fn cross() -> Result<()> {
    let build = || {
        let mut command = Command::new(root().join("cross/build"));
        command.current_dir(root());
        command
    };
    for target in BUILT {
        run(build().arg(target))?;
    }
    for target in CHECKED {
        run(build().args([target, "check"]))?;
    }
    Ok(())
}
