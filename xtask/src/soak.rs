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
    /// Whether boards are told to fail.
    faults: bool,
}

const TRIALS: &[Trial] = &[
    Trial { rounds: 200, ..Trial::of("power", "power", "") },
    Trial { rounds: 200, ..Trial::of("images", "image_power", "") },
    Trial { rounds: 50, ..Trial::of("restarts", "cluster", "survival::") },
    // Most of a fault is waiting for somebody to notice it.
    Trial { rounds: 50, threads: 3, ..Trial::of("faults", "faults", "") },
    Trial { rounds: 20, ..Trial::of("rolls", "services", "rolling::") },
    Trial { rounds: 4, minutes: 60, ..Trial::of("hour", "services", "soak::") },
    Trial::of("founding", "trust", "founding::"),
    Trial::of("growing", "masters", "three::"),
    Trial::of("membership", "masters", "membership::"),
    Trial::of("two", "masters", "two::"),
    Trial::of("moved", "masters", "moved::"),
    Trial::of("authority", "masters", "rekey::"),
    Trial::of("hostile", "hostile", "masters::"),
    // All cells.
    Trial { rounds: 2, faults: true, ..Trial::of("clocks", "masters", "clocks::") },
    Trial {
        rounds: 1_000,
        binary: None,
        ..Trial::of("histories", "", "store::group::tests::linear::")
    },
    Trial { rounds: 100, ..Trial::of("api-histories", "masters", "histories::") },
];

impl Trial {
    /// Once, as in CI, with what it measures shown.
    const fn of(name: &'static str, binary: &'static str, filter: &'static str) -> Self {
        let binary = Some(binary);
        Self { name, binary, filter, rounds: 1, minutes: 0, threads: 1, faults: false }
    }
}

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
    let test = words.get(1).map(String::as_str);
    for trial in chosen {
        // What users run: memory is measured too.
        let binary = match trial.faults {
            true => setup::build_with_faults("fast")?,
            false => setup::build_static("fast")?,
        };
        let which = trial.binary.map_or(vec!["--lib"], |binary| vec!["--test", binary]);
        let faults: &[&str] =
            if trial.faults { &["--features", "kumquat/fault-injection"] } else { &[] };
        run(cargo()
            .env("KUMQUAT_BINARY", &binary)
            .env("KUMQUAT_SOAK_ROUNDS", trial.rounds.to_string())
            .env("KUMQUAT_SOAK_MINUTES", trial.minutes.to_string())
            .arg("test")
            .args(which)
            .args(faults)
            .args(["--", "--nocapture"])
            .arg(format!("--test-threads={}", trial.threads))
            .args(test.or((!trial.filter.is_empty()).then_some(trial.filter))))?;
    }
    Ok(())
}
