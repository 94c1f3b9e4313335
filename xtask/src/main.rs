//! Tasks of the repository: `cargo xtask help` lists them.

use std::process::ExitCode;

use anyhow::{Result, bail};

mod bench;
mod cross;
mod emulated;
mod generate;
mod growth;
mod masters;
mod mutants;
mod setup;
mod shell;
mod sim;
mod soak;
mod tests;
mod verify;

const HELP: &str = "\
cargo xtask TASK

  demo [ARGS]     build kumquat and run `kumquat demo` (installs what it needs first)
  test [FILTER]   run every test the way CI does (installs what it needs first)
  verify          check format, lints and generated files; writes nothing
  fix             format, apply lint suggestions
  generate        make the tables of src/model from the recorded reference data
  cross           build for 64-bit boards, check for 32-bit ones, without a container engine
  cluster N       run N boards in network namespaces until Ctrl-C, from a quick build
  bench           measure the budgets of SPEC.md on this machine
  bench backup    measure saving and restoring a cluster of 10,000 objects
  bench masters [SECONDS]   three masters among ten boards: cost of idling and of a durable write
  bench broker    measure the broker beside mosquitto: memory and latency of 1,000 and 3,000 clients
  bench rules     measure the rules of 1 to 10,000 services beside those of Debian's iptables
  bench dns       measure a board's DNS beside dnsmasq: queries a second, memory, a dead upstream, restarts
  sim [FLAGS]     a master with simulated boards: --boards 1000 --pods 10 [--link memory|bus]
  soak [NAME]     the long trials: power, restarts, faults [TEST], histories, ...
  soak NAME       founding, growing, two, moved, authority, hostile: trials of several masters, once, with their figures
  soak masters [--trials N] [CELL]   failover by cell, such as killed-leader-3; goes on where it was
  soak clocks     three masters whose clocks are wrong, in all 12 ways, while the leader dies in each
  soak emulated   an emulated ARM board leads, then works, while its clock is set (`KUMQUAT_AARCH64`: its binary)
  soak upgrade    a cluster of version 0.2.0, built from its commit, grows to three masters; `kumquat upgrade`
  mutants [NAME]  break kumquat on purpose, patch by patch: the tests must notice
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let (task, rest) = words.split_first().map_or(("help", &[][..]), |(t, r)| (t.as_str(), r));
    match task {
        "demo" => setup::demo(rest),
        "cluster" => setup::cluster(rest),
        "test" => tests::run_tests(rest),
        "bench" => bench::bench(rest),
        "sim" => sim::sim(rest),
        "soak" => soak::soak(rest),
        "mutants" => mutants::mutants(rest),
        "cross" => cross::cross(),
        "verify" => verify::verify(),
        "fix" => verify::fix(),
        "generate" => generate::generate(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("unknown task {task:?}\n\n{HELP}"),
    }
}
