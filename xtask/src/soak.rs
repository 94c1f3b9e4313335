//! The long trials: the same tests as in CI, with many rounds.

use anyhow::{Result, bail};

use crate::emulated;
use crate::growth;
use crate::masters;
use crate::setup;
use crate::shell::{cargo, run};

/// A long trial: its name, the test binary (none: unit tests), which tests of it, how many rounds or
/// minutes, and how many tests run at a time.
struct Trial {
    name: &'static str,
    binary: Option<&'static str>,
    filter: &'static str,
    /// At least.
    rounds: u32,
    minutes: u32,
    threads: u32,
}

const TRIALS: &[Trial] = &[
    Trial { name: "power", binary: Some("power"), filter: "", rounds: 200, minutes: 0, threads: 1 },
    Trial {
        name: "images",
        binary: Some("image_power"),
        filter: "",
        rounds: 200,
        minutes: 0,
        threads: 1,
    },
    Trial {
        name: "restarts",
        binary: Some("cluster"),
        filter: "survival::",
        rounds: 50,
        minutes: 0,
        threads: 1,
    },
    // Most of a fault is waiting for somebody to notice it.
    Trial {
        name: "faults",
        binary: Some("faults"),
        filter: "",
        rounds: 50,
        minutes: 0,
        threads: 3,
    },
    Trial {
        name: "rolls",
        binary: Some("services"),
        filter: "rolling::",
        rounds: 20,
        minutes: 0,
        threads: 1,
    },
    Trial {
        name: "hour",
        binary: Some("services"),
        filter: "soak::",
        rounds: 4,
        minutes: 60,
        threads: 1,
    },
    Trial {
        name: "histories",
        binary: None,
        filter: "store::group::tests::linear::",
        rounds: 1_000,
        minutes: 0,
        threads: 1,
    },
];

/// Runs one trial, or one test of it (`soak faults link_down`), or all trials.
pub(crate) fn soak(words: &[String]) -> Result<()> {
    let wanted = words.first().map(String::as_str);
    if wanted == Some("masters") {
        return masters::soak(&words[1..]);
    }
    if wanted == Some("emulated") {
        return emulated::soak(&words[1..]);
    }
    if wanted == Some("upgrade") {
        return growth::soak();
    }
    let chosen: Vec<_> =
        TRIALS.iter().filter(|trial| wanted.is_none_or(|name| name == trial.name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = TRIALS.iter().map(|trial| trial.name).collect();
        bail!("no trial of that name; there are: {}", names.join(", "));
    }
    setup::for_tests()?;
    // What users run: memory is measured too.
    let binary = setup::build_static("fast")?;
    let test = words.get(1).map(String::as_str);
    for trial in chosen {
        let which = trial.binary.map_or(vec!["--lib"], |binary| vec!["--test", binary]);
        run(cargo()
            .env("KUMQUAT_BINARY", &binary)
            .env("KUMQUAT_SOAK_ROUNDS", trial.rounds.to_string())
            .env("KUMQUAT_SOAK_MINUTES", trial.minutes.to_string())
            .arg("test")
            .args(which)
            .args(["--", "--nocapture"])
            .arg(format!("--test-threads={}", trial.threads))
            .args(test.or((!trial.filter.is_empty()).then_some(trial.filter))))?;
    }
    Ok(())
}
