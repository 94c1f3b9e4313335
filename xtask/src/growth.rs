//! Boards that get another version: a cluster of the first release grows to three masters, and
//! `kumquat upgrade` goes on or back. Builds that release from its commit once.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::setup;
use crate::shell::{cargo, root, run};

/// The release that had one master.
const RELEASE: &str = "0.2.0";

/// Builds what is missing and runs the trial.
pub(crate) fn soak() -> Result<()> {
    setup::for_tests()?;
    let folder = root().join("target").join(format!("v{RELEASE}"));
    let old = folder.join("kumquat");
    if !old.is_file() {
        build(&folder)?;
    }
    let new = setup::build_static("fast")?;
    let words = ["test", "--test", "upgrade", "--", "--nocapture", "--test-threads=1"];
    run(cargo().env("KUMQUAT_BINARY", &new).args(words))
}

/// Builds the release in a tree and a target folder of its own.
fn build(folder: &Path) -> Result<()> {
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(words).current_dir(root());
        command
    };
    let line = format!("version = \"{RELEASE}\"");
    let log =
        git(&["log", "--format=%H", "--reverse", "-S", &line, "--", "Cargo.toml"]).output()?;
    let commits = String::from_utf8(log.stdout)?;
    // The first commit with that line is the release; a later one takes it away.
    let commit = commits.lines().next().context("no commit has that version: is this a clone?")?;
    let tree = folder.join("tree");
    if !tree.is_dir() {
        let path = tree.to_str().context("the path of the tree is no text")?;
        run(&mut git(&["worktree", "add", "--detach", "--force", path, commit]))?;
    }
    let built = folder.join("target");
    run(cargo()
        .current_dir(&tree)
        .env("CARGO_TARGET_DIR", &built)
        .args(["build", "--bin", "kumquat"]))?;
    std::fs::copy(built.join("debug/kumquat"), folder.join("kumquat"))?;
    let said = Command::new(folder.join("kumquat")).arg("version").output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains(RELEASE), "the commit {commit} builds {said}");
    Ok(())
}
