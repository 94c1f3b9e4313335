//! What a fresh machine lacks, and the demo.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell::{cargo, has, root, run, succeeds};

/// A program that a task needs, and the Debian package that has it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

/// What a binary with the feature `fault-injection` reads from its environment.
const FAULTS: &[u8] = b"KUMQUAT_FAULTS";

const BUILD_TOOLS: &[Tool] =
    &[Tool { program: "cc", package: "gcc" }, Tool { program: "musl-gcc", package: "musl-tools" }];

const TEST_TOOLS: &[Tool] = &[
    Tool { program: "busybox", package: "busybox-static" },
    Tool { program: "crun", package: "crun" },
    Tool { program: "dnsmasq", package: "dnsmasq-base" },
    Tool { program: "ip", package: "iproute2" },
    Tool { program: "losetup", package: "mount" },
    Tool { program: "mkfs.ext4", package: "e2fsprogs" },
    Tool { program: "mosquitto", package: "mosquitto" },
    Tool { program: "nft", package: "nftables" },
    Tool { program: "runc", package: "runc" },
    Tool { program: "strace", package: "strace" },
];

const EMULATION_TOOLS: &[Tool] =
    &[Tool { program: "qemu-system-aarch64", package: "qemu-system-arm" }];

/// Builds the release binary and runs its demo.
pub(crate) fn demo(arguments: &[String]) -> Result<()> {
    run_demo("release", arguments)
}

/// Runs `boards` boards with the demo's workload until Ctrl-C, from a build without the slow link.
pub(crate) fn cluster(words: &[String]) -> Result<()> {
    let boards = words.first().map_or("1", String::as_str);
    run_demo("fast", &["--boards".into(), boards.into()])
}

fn run_demo(profile: &str, arguments: &[String]) -> Result<()> {
    let binary = build_static(profile)?;
    let mut command = if is_root() { Command::new(&binary) } else { sudo(&binary)? };
    run(command.arg("demo").args(arguments))
}

/// Builds the static binary of this machine's architecture in a profile; gives its path.
pub(crate) fn build_static(profile: &str) -> Result<PathBuf> {
    let target = static_target()?;
    run(static_cargo(&target).args(["build", "--profile", profile, "--bin", "kumquat"]))?;
    let binary = root().join("target").join(&target).join(profile).join("kumquat");
    without_faults(&std::fs::read(&binary)?)?;
    Ok(binary)
}

/// Fails for a binary that can be told to fail: nobody may be given one.
fn without_faults(binary: &[u8]) -> Result<()> {
    if binary.windows(FAULTS.len()).any(|part| part == FAULTS) {
        bail!("the binary has the feature fault-injection");
    }
    Ok(())
}

/// The same with what trials use to make disks and clocks fail; never for users. It lies elsewhere, so
/// that nobody takes it for the other.
pub(crate) fn build_with_faults(profile: &str) -> Result<PathBuf> {
    let target = static_target()?;
    let folder = root().join("target/faulty");
    let words =
        ["build", "--profile", profile, "--bin", "kumquat", "--features", "fault-injection"];
    run(static_cargo(&target).env("CARGO_TARGET_DIR", &folder).args(words))?;
    let binary = folder.join(&target).join(profile).join("kumquat");
    if without_faults(&std::fs::read(&binary)?).is_ok() {
        bail!("a binary with the feature fault-injection is not told from others");
    }
    Ok(binary)
}

/// Builds that binary and the simulator of boards, which shares everything with it; gives both paths.
pub(crate) fn build_simulator(profile: &str) -> Result<(PathBuf, PathBuf)> {
    let target = static_target()?;
    let packages = ["--package", "kumquat", "--package", "kumquat-sim", "--bins"];
    run(static_cargo(&target).args(["build", "--profile", profile]).args(packages))?;
    let folder = root().join("target").join(&target).join(profile);
    Ok((folder.join("kumquat"), folder.join("kumquat-sim")))
}

fn static_cargo(target: &str) -> Command {
    let mut command = cargo();
    command.envs(static_environment(target)).env("CARGO_BUILD_TARGET", target);
    command
}

/// Installs what the tests use; what cannot be had is named and its tests say that they did not run.
pub(crate) fn for_tests() -> Result<()> {
    install(BUILD_TOOLS)?;
    if let Err(error) = install(TEST_TOOLS) {
        eprintln!("xtask: {error:#}; tests that need it say that they were not run");
    }
    if !has("kubectl.1.33") && !has("kubectl") {
        eprintln!("xtask: no kubectl here: the kubectl tests say that they were not run");
    }
    Ok(())
}

/// Installs the emulator of ARM boards, if it can be had.
pub(crate) fn for_emulation() {
    if let Err(error) = install(EMULATION_TOOLS) {
        eprintln!("xtask: {error:#}");
    }
}

/// A target whose binaries are static: musl when its standard library can be had, else static glibc.
/// `KUMQUAT_LIBC=glibc` asks for the latter.
fn static_target() -> Result<String> {
    install(BUILD_TOOLS)?;
    let arch = std::env::consts::ARCH;
    let musl = format!("{arch}-unknown-linux-musl");
    let wanted = std::env::var("KUMQUAT_LIBC").is_ok_and(|libc| libc == "glibc");
    let mut add = Command::new("rustup");
    add.args(["target", "add", &musl]).current_dir(root());
    if !wanted && has("musl-gcc") && succeeds(&mut add) {
        return Ok(musl);
    }
    eprintln!("xtask: no musl target here: building a static glibc binary instead");
    Ok(format!("{arch}-unknown-linux-gnu"))
}

/// What the build of a static target needs in its environment. A panic ends the process, so a
/// release needs no tables for unwinding (8 % of its bytes); glibc needs its own. Its place in memory is
/// fixed (`docs/adr/0016-fixed-address.md`).
fn static_environment(target: &str) -> Vec<(String, String)> {
    let name = target.to_uppercase().replace('-', "_");
    let mut environment: Vec<_> = build_time().into_iter().collect();
    let key = format!("CARGO_TARGET_{name}_RUSTFLAGS");
    let flags = "-C force-unwind-tables=no -C relocation-model=static";
    if target.ends_with("gnu") {
        environment.push((key, format!("{flags} -C target-feature=+crt-static")));
    } else {
        let link = "-C link-arg=-Wl,--no-eh-frame-hdr,-T,cross/no-unwind.ld";
        environment.push((key, format!("{flags} {link}")));
        environment.push((format!("CC_{}", target.replace('-', "_")), "musl-gcc".into()));
    }
    environment
}

/// The time of the commit, below which the clock of a board never falls; the same commit gives the
/// same bytes. Outside of a repository the source knows when it was written.
fn build_time() -> Option<(String, String)> {
    let name = "SOURCE_DATE_EPOCH";
    if std::env::var_os(name).is_some() {
        return None;
    }
    let log = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()).output();
    let text = String::from_utf8(log.ok()?.stdout).ok()?;
    let seconds: u64 = text.trim().parse().ok()?;
    Some((name.into(), seconds.to_string()))
}

fn install(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools.iter().filter(|tool| !has(tool.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    if !has("apt-get") {
        bail!("missing: {}; install them with your package tool", packages.join(", "));
    }
    let apt = || {
        let mut command = Command::new(if is_root() { "apt-get" } else { "sudo" });
        if !is_root() {
            command.arg("apt-get");
        }
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    run(apt().args(["update", "-q"]))?;
    run(apt().args(["install", "-q", "-y", "--no-install-recommends"]).args(packages))
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn sudo(program: &std::path::Path) -> Result<Command> {
    if !has("sudo") {
        bail!("the demo makes network namespaces and containers: run it as root");
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}
