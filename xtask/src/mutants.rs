//! Whether the tests notice when kumquat is broken on purpose.
//!
//! Each `tests/mutants/*.patch` breaks one promise, in our code or (`engine:`) in a copy of the Raft
//! engine. It is applied to a copy of the tree with a target folder of its own, and at least one of
//! the tests that its head names must then fail, which all pass without it. A patch that does not
//! apply or build, and a test that fails without it, are errors: they prove nothing.
//!
//! ```text
//! mutant: answers before the flush
//! test: --test power
//! engine: openraft          (only for patches to the engine's copy)
//! --- a/src/...
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::shell::{cargo, root, run};

/// A test that takes longer hangs, which is a way to fail.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
const POLL_EVERY: Duration = Duration::from_millis(100);

/// One patch.
#[derive(Debug, PartialEq, Eq)]
struct Mutant {
    path: PathBuf,
    /// What it breaks.
    title: String,
    /// Arguments of `cargo test`, one of which must fail.
    tests: Vec<String>,
    /// The crate to whose copy it applies, when it is not ours.
    engine: Option<String>,
}

/// Where mutants live: a copy of the tree, its target folder, a copy of the engine.
struct Lab {
    tree: PathBuf,
    target: PathBuf,
    engine: PathBuf,
}

/// Runs all mutants, or those whose file names hold the first word.
pub(crate) fn mutants(words: &[String]) -> Result<()> {
    let wanted = words.first().map_or("", String::as_str);
    let mut mutants = Vec::new();
    for entry in fs::read_dir(root().join("tests/mutants")).context("folder of the mutants")? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.ends_with(".patch") && name.contains(wanted)) {
            let text = fs::read_to_string(&path)?;
            mutants.push(read(path, &text)?);
        }
    }
    ensure!(!mutants.is_empty(), "no mutant of that name");
    mutants.sort_by(|a, b| a.path.cmp(&b.path));
    let lab = Lab::prepare()?;
    let tests: BTreeSet<&String> = mutants.iter().flat_map(|mutant| &mutant.tests).collect();
    for test in tests {
        ensure!(lab.passes(test)?, "fails without any mutant: cargo test {test}");
    }
    let mut survivors = Vec::new();
    for mutant in &mutants {
        match lab.caught_by(mutant)? {
            Some(test) => println!("caught: {} (by {test})", mutant.title),
            None => survivors.push(mutant.title.as_str()),
        }
    }
    let caught = mutants.len() - survivors.len();
    println!("{caught} of {} mutants caught", mutants.len());
    ensure!(survivors.is_empty(), "not noticed: {}", survivors.join("; "));
    Ok(())
}

/// Reads the head of a patch.
fn read(path: PathBuf, text: &str) -> Result<Mutant> {
    let head = text.lines().take_while(|line| !line.starts_with("--- "));
    let (mut title, mut tests, mut engine) = (None, Vec::new(), None);
    for line in head {
        match line.split_once(": ") {
            Some(("mutant", words)) => title = Some(words.to_owned()),
            Some(("test", words)) => tests.push(words.to_owned()),
            Some(("engine", name)) => engine = Some(name.to_owned()),
            _ => {}
        }
    }
    let title = title.with_context(|| format!("{}: no `mutant:` line", path.display()))?;
    ensure!(!tests.is_empty(), "{}: no `test:` line", path.display());
    Ok(Mutant { path, title, tests, engine })
}

impl Lab {
    /// Copies the tree as it stands, and what is compiled of outside crates.
    fn prepare() -> Result<Self> {
        let base = root().join("target/mutants");
        let lab = Self {
            tree: base.join("tree"),
            target: base.join("target"),
            engine: base.join("engine"),
        };
        fs::create_dir_all(&base)?;
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(root())
            .output()
            .context("git lists the tree")?;
        ensure!(listed.status.success(), "git does not list the tree");
        let mut kept = BTreeSet::new();
        for name in listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = PathBuf::from(String::from_utf8_lossy(name).into_owned());
            if root().join(&name).is_file() {
                copy_changed(&root().join(&name), &lab.tree.join(&name))?;
                kept.insert(name);
            }
        }
        remove_others(&lab.tree, &lab.tree, &kept)?;
        lab.seed()?;
        Ok(lab)
    }

    /// Links what this tree has compiled: crates from outside are the same for the copy.
    fn seed(&self) -> Result<()> {
        let (from, to) = (root().join("target/debug"), self.target.join("debug"));
        if to.exists() || !from.exists() {
            return Ok(());
        }
        fs::create_dir_all(&to)?;
        for folder in ["deps", "build", ".fingerprint"].map(|name| from.join(name)) {
            if folder.exists() {
                run(Command::new("cp").arg("-al").arg(&folder).arg(&to))?;
            }
        }
        Ok(())
    }

    fn test(&self, words: &str) -> Command {
        let mut command = cargo();
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        command.args(["test", "--quiet", "--offline"]).args(words.split_whitespace());
        command
    }

    /// Whether a test passes in the tree as it is.
    fn passes(&self, words: &str) -> Result<bool> {
        let (options, _) = words.split_once(" -- ").unwrap_or((words, ""));
        run(self.test(options).arg("--no-run")).context("the tests of the copy do not build")?;
        let mut command = self.test(words);
        // Its own group, so that what it started ends with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        eprintln!("+ cargo test {words}");
        let began = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            if began.elapsed() > DEADLINE {
                let group = i32::try_from(child.id()).context("a process id")?;
                // SAFETY: kill has no preconditions; the group is that of our child, not yet waited for.
                unsafe { libc::kill(-group, libc::SIGKILL) };
                child.wait()?;
                eprintln!("xtask: hung for {} s", DEADLINE.as_secs());
                return Ok(false);
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Breaks the copy, looks which test notices, mends it again.
    fn caught_by<'a>(&self, mutant: &'a Mutant) -> Result<Option<&'a str>> {
        eprintln!("xtask: mutant {}", mutant.title);
        match &mutant.engine {
            Some(name) => self.swap_engine(name, &mutant.path)?,
            None => apply(&self.tree, &mutant.path, false)?,
        }
        let mut caught = Ok(None);
        for test in &mutant.tests {
            caught = self.passes(test).map(|passed| (!passed).then_some(test.as_str()));
            if !matches!(caught, Ok(None)) {
                break;
            }
        }
        match mutant.engine {
            Some(_) => self.restore_manifests()?,
            None => apply(&self.tree, &mutant.path, true)?,
        }
        caught
    }

    /// Builds the copy against a broken copy of a crate.
    fn swap_engine(&self, name: &str, patch: &Path) -> Result<()> {
        let output = cargo()
            .args(["metadata", "--format-version=1", "--offline"])
            .stderr(Stdio::inherit())
            .output()?;
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let packages = metadata["packages"].as_array().context("packages")?;
        let package = packages.iter().find(|package| package["name"] == name);
        let manifest = package.and_then(|package| package["manifest_path"].as_str());
        let source = Path::new(manifest.with_context(|| format!("{name} is not used"))?);
        let source = source.parent().context("folder of the crate")?;
        let _absent = fs::remove_dir_all(&self.engine);
        run(Command::new("cp").arg("-r").arg(source).arg(&self.engine))?;
        let manifest = self.engine.join("Cargo.toml");
        // A workspace of its own: it lies below the one of this repository.
        let text = format!("{}\n[workspace]\n", fs::read_to_string(&manifest)?);
        fs::write(&manifest, text)?;
        apply(&self.engine, patch, false)?;
        let manifest = self.tree.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        let table = "[patch.crates-io]\n";
        let (before, after) = text.split_once(table).context("the table of patched crates")?;
        let text = format!("{before}{table}{name} = {{ path = \"../engine\" }}\n{after}");
        Ok(fs::write(&manifest, text)?)
    }

    fn restore_manifests(&self) -> Result<()> {
        for name in ["Cargo.toml", "Cargo.lock"] {
            copy_changed(&root().join(name), &self.tree.join(name))?;
        }
        Ok(())
    }
}

/// Applies a patch to a folder, or takes it back. The folder is no repository, although one is above.
fn apply(folder: &Path, patch: &Path, back: bool) -> Result<()> {
    let above = folder.parent().context("folder of the copies")?;
    let mut command = Command::new("git");
    command.env("GIT_CEILING_DIRECTORIES", above).current_dir(folder).arg("apply");
    if back {
        command.arg("--reverse");
    }
    run(command.arg(patch)).with_context(|| format!("{} does not apply", patch.display()))
}

/// Copies a file unless the copy has the same bytes: its time decides what is compiled again.
fn copy_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("folder of the copy")?)?;
    let _absent = fs::remove_file(to);
    fs::copy(from, to)?;
    Ok(())
}

/// Removes what the tree no longer has.
fn remove_others(tree: &Path, folder: &Path, kept: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(tree, &path, kept)?;
        } else if !kept.contains(path.strip_prefix(tree)?) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod reading {
    use super::*;
    use crate::shell::succeeds;

    #[test]
    fn the_head_of_a_patch_is_read() {
        let text = "mutant: a b\ntest: --lib x\ntest: --test y -- z\n--- a/src\ntest: no\n";
        let mutant = read("p".into(), text).expect("a head");
        assert_eq!((mutant.title.as_str(), mutant.engine), ("a b", None));
        assert_eq!(mutant.tests, ["--lib x", "--test y -- z"]);
        assert!(read("p".into(), "mutant: a\n--- a/src\n").is_err(), "no test");
        assert!(read("p".into(), "test: a\n--- a/src\n").is_err(), "no title");
    }

    #[test]
    fn every_patch_of_the_repository_has_a_head_and_applies() {
        let folder = root().join("tests/mutants");
        let patches =
            fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path());
        for path in patches.filter(|path| path.extension().is_some_and(|it| it == "patch")) {
            let text = fs::read_to_string(&path).expect("text");
            let mutant = read(path.clone(), &text).expect("a head");
            // The engine's source is elsewhere, and always the same.
            if mutant.engine.is_none() {
                let mut check = Command::new("git");
                check.current_dir(root()).args(["apply", "--check"]).arg(&path);
                assert!(succeeds(&mut check), "{} no longer applies", path.display());
            }
        }
    }
}
