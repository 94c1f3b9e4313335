//! Emulated ARM boards in a cluster with ordinary ones: what the trial needs, and the trial.
//!
//! Debian's packages for arm64 (kernel, busybox, what tells the kernel that a time server keeps its
//! clock) are fetched with a package list of their own and unpacked into `target/emulated`; nothing of
//! the machine's own packages changes but the emulator, which is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::shell::{cargo, has, root, run};

const TARGET: &str = "aarch64-unknown-linux-musl";
/// The kernel's package is named by this one.
const KERNEL: &str = "linux-image-arm64";
const PACKAGES: &[&str] = &["busybox-static", "adjtimex", "libc6"];
/// Where machines keep what says where their packages come from.
const SOURCES: &[&str] = &["sources.list.d/debian.sources", "sources.list"];

/// Runs the trial, or one test of it.
pub(crate) fn soak(words: &[String]) -> Result<()> {
    setup::for_tests()?;
    setup::for_emulation();
    if !has("qemu-system-aarch64") {
        return not_run("qemu-system-aarch64 (Debian: qemu-system-arm)");
    }
    let parts = match parts() {
        Ok(parts) => parts,
        Err(error) => return not_run(&format!("Debian's packages for arm64: {error:#}")),
    };
    let arm = arm_binary()?;
    let binary = setup::build_static("fast")?;
    run(cargo()
        .env("KUMQUAT_BINARY", binary)
        .env("KUMQUAT_AARCH64", arm)
        .env("KUMQUAT_EMULATED", parts)
        .args(["test", "--test", "emulated", "--features", "kumquat/fault-injection", "--"])
        .args(["--nocapture", "--test-threads=1"])
        .args(words))
}

fn not_run(what: &str) -> Result<()> {
    println!("not run: emulated boards need {what}");
    Ok(())
}

/// The static binary for ARM boards: `KUMQUAT_AARCH64`, or the one that `cross/build` makes.
fn arm_binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("KUMQUAT_AARCH64") {
        return Ok(given.into());
    }
    run(Command::new(root().join("cross/build")).arg(TARGET).current_dir(root()))?;
    Ok(root().join("target").join(TARGET).join("release/kumquat"))
}

/// The folder with Debian's packages, unpacked; made once.
fn parts() -> Result<PathBuf> {
    let folder = root().join("target/emulated");
    let whole = folder.join("root");
    if whole.exists() {
        return Ok(whole);
    }
    let config = package_list(&folder)?;
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &config).current_dir(&folder);
        command
    };
    run(apt("apt-get").args(["update", "-q"]))?;
    let kernel = named_kernel(apt("apt-cache").args(["depends", KERNEL]))?;
    run(apt("apt-get").args(["download", "-q", &kernel]).args(PACKAGES))?;
    let unpacked = folder.join("unpacked");
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&unpacked))?;
        }
    }
    fs::rename(unpacked, &whole).context("packages unpacked")?;
    Ok(whole)
}

/// A package list for arm64 beside the machine's own, from the same places; gives its configuration.
fn package_list(folder: &Path) -> Result<PathBuf> {
    let _old = fs::remove_dir_all(folder);
    for part in ["state/lists/partial", "cache/archives/partial", "sources.list.d"] {
        fs::create_dir_all(folder.join(part))?;
    }
    let known = |name: &&&str| Path::new("/etc/apt").join(name).exists();
    let Some(source) = SOURCES.iter().find(known) else { bail!("no package list of Debian here") };
    fs::copy(Path::new("/etc/apt").join(source), folder.join(source))?;
    fs::write(folder.join("status"), "")?;
    let at = folder.display();
    let config = folder.join("apt.conf");
    fs::write(
        &config,
        format!(
            "Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Etc::SourceList \"{at}/sources.list\";\nDir::Etc::SourceParts \"{at}/sources.list.d\";\n\
             APT::Architecture \"arm64\";\nAPT::Architectures {{ \"arm64\"; }};\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n"
        ),
    )?;
    Ok(config)
}

/// The package of the kernel itself, as `apt-cache depends` tells it.
fn named_kernel(depends: &mut Command) -> Result<String> {
    let output = depends.output().context("cannot start apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let name = text.split_whitespace().find(|word| word.starts_with("linux-image-6"));
    name.map(str::to_owned).with_context(|| format!("{KERNEL} names no kernel: {text}"))
}
