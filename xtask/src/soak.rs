//! The long trials: the same tests as in CI, with many rounds.

use anyhow::{Result, bail};

use crate::setup;
use crate::shell::{cargo, run};

/// A long trial: its name, the test binary, which tests of it, how many rounds, and how many tests run
/// at a time.
struct Trial {
    name: &'static str,
    binary: &'static str,
    filter: &'static str,
    rounds: u32,
    threads: u32,
}

const TRIALS: &[Trial] = &[
    Trial { name: "power", binary: "power", filter: "", rounds: 200, threads: 1 },
    Trial { name: "images", binary: "image_power", filter: "", rounds: 200, threads: 1 },
    Trial { name: "restarts", binary: "cluster", filter: "survival::", rounds: 50, threads: 1 },
    // Most of a fault is waiting for somebody to notice it.
    Trial { name: "faults", binary: "faults", filter: "", rounds: 50, threads: 3 },
    Trial { name: "rolls", binary: "services", filter: "rolling::", rounds: 20, threads: 1 },
    // A round takes about ten seconds.
    Trial { name: "hour", binary: "services", filter: "soak::", rounds: 360, threads: 1 },
];

/// Runs one trial, or one test of it (`soak faults link_down`), or all trials.
pub(crate) fn soak(words: &[String]) -> Result<()> {
    let wanted = words.first().map(String::as_str);
    let chosen: Vec<_> =
        TRIALS.iter().filter(|trial| wanted.is_none_or(|name| name == trial.name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = TRIALS.iter().map(|trial| trial.name).collect();
        bail!("no trial of that name; there are: {}", names.join(", "));
    }
    setup::for_tests()?;
    let test = words.get(1).map(String::as_str);
    for trial in chosen {
        run(cargo()
            .env("KUMQUAT_SOAK_ROUNDS", trial.rounds.to_string())
            .args(["test", "--test", trial.binary, "--", "--nocapture"])
            .arg(format!("--test-threads={}", trial.threads))
            .args(test.or((!trial.filter.is_empty()).then_some(trial.filter))))?;
    }
    Ok(())
}
