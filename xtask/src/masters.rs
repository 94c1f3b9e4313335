//! Failover by cell: what happens to which master, in a group of how many voters.
//!
//! Cells with as many voters follow each other on one cluster of `tests/masters`, several trials each;
//! after one that fails the others go on with a new cluster. Every trial adds a line to the cell's file
//! in `target/soak/masters`, so a run that was ended goes on where it was. The table at the end is made
//! from the files. With `--together` groups of three and of five voters have their trials at the same time.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::setup;
use crate::shell::{cargo, root, run};

const FAULTS: &[&str] = &[
    "killed",
    "stopped",
    "frozen",
    "link-down",
    "one-way",
    "disk-full",
    "sync-fails",
    "clock-jump",
];
const ROLES: &[&str] = &["leader", "follower"];
const VOTERS: &[usize] = &[3, 5];
/// A cluster without any fault: packets of an idle group.
const IDLE: &[&str] = &["idle-none-3", "idle-none-5"];
const TRIALS: usize = 10;

/// One trial, as the test writes it down.
#[derive(Debug, Deserialize)]
struct Trial {
    /// Longest time without an accepted write around the event.
    #[serde(default)]
    gap_ms: f64,
    /// The same at the doors of the boards that nothing happened to, the longest of them.
    #[serde(default)]
    door_gap_ms: f64,
    #[serde(default)]
    accepted: u64,
    #[serde(default)]
    unknown: u64,
    #[serde(default)]
    lost: u64,
    /// Writes shown twice, out of order, or although they had been refused.
    #[serde(default)]
    wrong: u64,
    /// Acts of a reign after a later one had acted.
    #[serde(default)]
    leaders: u64,
    #[serde(default)]
    restarted: u64,
    #[serde(default)]
    packets_per_second: f64,
}

/// Runs what is missing and prints all.
pub(crate) fn soak(words: &[String]) -> Result<()> {
    let (mut trials, mut wanted, mut together) = (TRIALS, None, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--trials" => {
                let count = words.next().context("--trials needs a number")?;
                trials = count.parse().with_context(|| format!("--trials {count}"))?;
            }
            "--together" => together = true,
            option if option.starts_with('-') => bail!("{option}: only --trials N and --together"),
            name => wanted = Some(name.to_owned()),
        }
    }
    let cells: Vec<String> = cells()
        .into_iter()
        .filter(|cell| wanted.as_ref().is_none_or(|part| cell.contains(part.as_str())))
        .collect();
    if cells.is_empty() {
        bail!("no cell has such a name; they are called like killed-leader-3");
    }
    let folder = root().join("target/soak/masters");
    fs::create_dir_all(&folder)?;
    let count = |cell: &String| missing(&folder, cell, trials);
    let mut broken = BTreeSet::new();
    if cells.iter().any(|cell| count(cell).map_or(true, |left| left > 0)) {
        setup::for_tests()?;
        let binary = setup::build_with_faults("fast")?;
        let group = |end| {
            let of_group = cells.iter().filter(|cell| cell.ends_with(end)).collect::<Vec<_>>();
            complete(&binary, &folder, &of_group, trials)
        };
        let (three, five) = match together {
            true => std::thread::scope(|scope| {
                let three = scope.spawn(|| group("-3"));
                let five = group("-5");
                (three.join().expect("trials do not panic"), five)
            }),
            false => (group("-3"), group("-5")),
        };
        broken = three?;
        broken.extend(five?);
    }
    let shown = table(&folder, &cells);
    if !broken.is_empty() {
        let names: Vec<_> = broken.iter().map(String::as_str).collect();
        bail!("trials failed in: {}; their cells are not complete", names.join(", "));
    }
    let short = cells.iter().filter(|cell| count(cell).map_or(true, |left| left > 0)).count();
    if short > 0 {
        bail!("{short} of {} cells have fewer than {trials} trials", cells.len());
    }
    shown
}

/// How many trials a cell lacks.
fn missing(folder: &Path, cell: &str, trials: usize) -> Result<usize> {
    Ok(trials.saturating_sub(read(folder, cell)?.len()))
}

/// Runs what cells of one group lack, each cell until a trial of it fails; gives those that failed.
fn complete(
    binary: &Path,
    folder: &Path,
    cells: &[&String],
    trials: usize,
) -> Result<BTreeSet<String>> {
    let mut broken = BTreeSet::new();
    loop {
        let mut left = Vec::new();
        for cell in cells {
            match missing(folder, cell, trials)? {
                0 => {}
                _ if broken.contains(*cell) => {}
                count => left.push((*cell, count)),
            }
        }
        if left.is_empty() {
            return Ok(broken);
        }
        let Err(error) = run_cells(binary, folder, &left) else { return Ok(broken) };
        // The first that is not complete is the one that failed; the others still tell something.
        let unfinished = |cell| missing(folder, cell, trials).is_ok_and(|left| left > 0);
        let first = left.iter().find(|(cell, _)| unfinished(cell));
        let Some((cell, _)) = first else { return Ok(broken) };
        eprintln!("xtask: {cell}: {error:#}");
        broken.insert((*cell).clone());
    }
}

fn cells() -> Vec<String> {
    let mut cells = Vec::new();
    for voters in VOTERS {
        for fault in FAULTS {
            cells.extend(ROLES.iter().map(|role| format!("{fault}-{role}-{voters}")));
        }
    }
    cells.extend(IDLE.iter().map(|cell| (*cell).to_owned()));
    cells
}

fn file(folder: &Path, cell: &str) -> PathBuf {
    folder.join(format!("{cell}.jsonl"))
}

fn read(folder: &Path, cell: &str) -> Result<Vec<Trial>> {
    let path = file(folder, cell);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path)?;
    let trial = |line: &str| {
        serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))
    };
    text.lines().filter(|line| !line.is_empty()).map(trial).collect()
}

/// Runs cells one after another on one cluster.
fn run_cells(binary: &Path, folder: &Path, cells: &[(&String, usize)]) -> Result<()> {
    let wanted: Vec<String> =
        cells.iter().map(|(cell, trials)| format!("{cell}:{trials}")).collect();
    println!("\n== {}", wanted.join(" "));
    std::io::stdout().flush()?;
    run(cargo()
        .env("KUMQUAT_BINARY", binary)
        .env("KUMQUAT_CELLS", wanted.join(" "))
        .env("KUMQUAT_CELLS_FOLDER", folder)
        .args(["test", "--test", "masters", "--features", "fault-injection"])
        .args(["--", "--nocapture", "--exact", "failover::cells"]))
}

fn table(folder: &Path, cells: &[String]) -> Result<()> {
    println!(
        "\n{:<24} {:>4} {:>8} {:>8} {:>8} {:>9} {:>8} {:>5} {:>6} {:>8} {:>10}",
        "cell",
        "n",
        "p50 ms",
        "max ms",
        "door ms",
        "accepted",
        "unknown",
        "lost",
        "wrong",
        "leaders",
        "restarted"
    );
    let mut all = Vec::new();
    let mut bad = Vec::new();
    for cell in cells {
        let trials = read(folder, cell)?;
        if trials.is_empty() {
            println!("{cell:<24} {:>4}", 0);
            continue;
        }
        if cell.starts_with("idle") {
            let packets = trials.iter().map(|trial| trial.packets_per_second);
            println!("{cell:<24} {:>4} {:>8.1} packets a second", trials.len(), middle(packets));
            continue;
        }
        let gaps: Vec<f64> = trials.iter().map(|trial| trial.gap_ms).collect();
        all.extend(&gaps);
        let sum = |part: fn(&Trial) -> u64| trials.iter().map(part).sum::<u64>();
        let [lost, wrong, leaders, restarted] =
            [sum(|t| t.lost), sum(|t| t.wrong), sum(|t| t.leaders), sum(|t| t.restarted)];
        println!(
            "{cell:<24} {:>4} {:>8.0} {:>8.0} {:>8.0} {:>9} {:>8} {lost:>5} {wrong:>6} {leaders:>8} {restarted:>10}",
            trials.len(),
            middle(gaps.iter().copied()),
            gaps.iter().copied().fold(0.0, f64::max),
            middle(trials.iter().map(|trial| trial.door_gap_ms)),
            sum(|t| t.accepted),
            sum(|t| t.unknown),
        );
        if lost + wrong + leaders + restarted > 0 {
            bad.push(cell.as_str());
        }
    }
    if !all.is_empty() {
        println!("all cells: {} trials, p99 {:.0} ms", all.len(), at_share(&mut all, 0.99));
    }
    if !bad.is_empty() {
        bail!("promises broken in: {}", bad.join(", "));
    }
    Ok(())
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    at_share(&mut values.collect::<Vec<_>>(), 0.5)
}

/// The smallest value that at least this share of them do not exceed.
fn at_share(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod figures {
    use super::*;

    #[test]
    fn shares_of_few_and_of_many() {
        assert_eq!(at_share(&mut [], 0.5), 0.0);
        assert_eq!(at_share(&mut [3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(at_share(&mut [4.0, 3.0, 1.0, 2.0], 0.5), 2.0);
        let mut many: Vec<f64> = (1..=280).map(f64::from).collect();
        assert_eq!(at_share(&mut many, 0.99), 278.0);
    }

    #[test]
    fn every_cell_of_the_matrix_is_there_once() {
        let mut cells = cells();
        let count = cells.len();
        assert_eq!(count, FAULTS.len() * ROLES.len() * VOTERS.len() + IDLE.len());
        cells.sort();
        cells.dedup();
        assert_eq!(cells.len(), count);
    }
}
