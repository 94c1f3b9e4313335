//! Failover under ten writers: how long until the next accepted write, and what became of all others.
//!
//! A cell is a fault, whom it hits (the leader or a follower) and how many voters there are. Trial
//! follows trial on one cluster: writers write at every board's door, the fault comes and goes, and
//! everybody must be well again. Then, from what was acknowledged, watched and logged: no acknowledged
//! write lost, none applied twice, one leader at a time, and no container started again. One trial per
//! cell with three voters here; the matrix is `cargo xtask soak masters`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::bed::Bed;
use crate::cell::{Cell, FAULTS};

/// In CI a fault need not last longer than everybody takes to notice it.
const LASTS_HERE: Duration = Duration::from_secs(3);

/// Cells of the matrix on one cluster, as `cargo xtask soak masters` asks for them; nothing otherwise.
#[test]
fn cells() {
    let Ok(wanted) = std::env::var("KUMQUAT_CELLS") else { return };
    let folder = std::env::var_os("KUMQUAT_CELLS_FOLDER").map(PathBuf::from);
    let wanted: Vec<(&str, Cell, usize)> = wanted
        .split_whitespace()
        .map(|word| {
            let (name, trials) = word.split_once(':').unwrap_or((word, "1"));
            (name, name.parse().expect("a cell"), trials.parse().expect("a number of trials"))
        })
        .collect();
    let (first, cell, _) = wanted[0];
    let small_disks = wanted.iter().any(|(_, cell, _)| cell.fault.needs_disks());
    let Some(mut bed) = Bed::new(first, cell.voters, small_disks) else { return };
    for (name, cell, trials) in wanted {
        for trial in 0..trials {
            let outcome = bed.trial(cell, trial);
            let line = outcome.line(name, trial);
            println!("{line}");
            for said in outcome.leaders.iter().chain(&outcome.restarted) {
                println!("  {said}");
            }
            outcome.wrong.iter().for_each(|wrong| println!("  {wrong:?}"));
            if let Some(folder) = &folder {
                let file = folder.join(format!("{name}.jsonl"));
                let opened = OpenOptions::new().create(true).append(true).open(file);
                writeln!(opened.expect("file of the cell"), "{line}").expect("written");
            }
        }
    }
}

/// The machinery on a master that has no other: it is killed and loses nothing.
#[test]
fn a_sole_master_is_killed() {
    let Some(mut bed) = Bed::new("sole", 1, false) else { return };
    once(&mut bed, "killed-leader-1");
}

#[test]
fn everything_happens_to_the_leader_of_three() {
    everything("leader");
}

#[test]
fn everything_happens_to_a_follower_of_three() {
    everything("follower");
}

fn everything(role: &str) {
    let test = format!("all-{role}");
    let Some(mut bed) = Bed::new(&test, 3, true) else { return };
    bed.lasts = LASTS_HERE;
    for fault in FAULTS {
        once(&mut bed, &format!("{fault}-{role}-3"));
    }
}

/// One trial of a cell.
fn once(bed: &mut Bed, name: &str) {
    let cell: Cell = name.parse().expect("a cell");
    if cell.fault.needs_faulty_build() && !cfg!(feature = "fault-injection") {
        return println!("not run: {name} needs a build with --features fault-injection");
    }
    let outcome = bed.trial(cell, 0);
    println!("{}", outcome.line(name, 0));
    outcome.assert_kept();
}
