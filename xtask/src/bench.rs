//! The budgets of SPEC.md, measured on this machine.

use anyhow::Result;

use crate::setup;
use crate::shell::{cargo, root, run};

/// Builds the static release binary and measures one board; minutes of idling may be given. `boards`
/// measures ten boards on a switch, `masters` three masters among them, `broker` the broker beside mosquitto, `rules` the rules of services
/// beside those of iptables, `dns` the DNS
/// beside dnsmasq, `pods` a hundred pods and
/// where their time goes, beside crun and runc.
pub(crate) fn bench(words: &[String]) -> Result<()> {
    setup::for_tests()?;
    if words.first().is_some_and(|word| word == "broker") {
        return broker();
    }
    if words.first().is_some_and(|word| word == "dns") {
        return dns();
    }
    if words.first().is_some_and(|word| word == "rules") {
        return rules();
    }
    if let Some((word, rest)) = words.split_first()
        && word == "backup"
    {
        return backup(rest.first().map_or("10000", String::as_str));
    }
    if words.first().is_some_and(|word| word == "masters") {
        return masters(&words[1..]);
    }
    let (benches, words, default) = match words.split_first() {
        Some((word, rest)) if word == "boards" => (&["boards"][..], rest, "2"),
        Some((word, rest)) if word == "pods" => (&["pods", "keeper"][..], rest, "0"),
        _ => (&["keeper", "board"][..], words, "10"),
    };
    let binary = setup::build_static("release")?;
    let minutes = words.first().map_or(default, String::as_str);
    for bench in benches {
        run(cargo()
            .current_dir(root())
            .env("KUMQUAT_BINARY", &binary)
            .env("KUMQUAT_IDLE_MINUTES", minutes)
            .args(["bench", "--profile", "dev", "--bench", bench]))?;
    }
    Ok(())
}

/// Three masters among ten boards: what idling for so many seconds costs each, and what a write does.
fn masters(words: &[String]) -> Result<()> {
    let binary = setup::build_static("release")?;
    let mut bench = cargo();
    if let Some(seconds) = words.first() {
        bench.env("KUMQUAT_IDLE_SECONDS", seconds);
    }
    let arguments = ["bench", "--profile", "dev", "--bench", "masters"];
    run(bench.current_dir(root()).env("KUMQUAT_BINARY", &binary).args(arguments))
}

/// A board's DNS beside dnsmasq, and unbound where it is installed, under the same load.
fn dns() -> Result<()> {
    let binary = setup::build_static("release")?;
    let bench = ["bench", "--profile", "fast", "--bench", "dns"];
    run(cargo().current_dir(root()).env("KUMQUAT_BINARY", &binary).args(bench))
}

/// A cluster of so many objects is saved and restored.
fn backup(objects: &str) -> Result<()> {
    let binary = setup::build_static("release")?;
    run(cargo()
        .current_dir(root())
        .env("KUMQUAT_BINARY", &binary)
        .env("KUMQUAT_OBJECTS", objects)
        .args(["bench", "--profile", "dev", "--bench", "backup"]))
}

/// Rules of up to 10,000 services beside the chains that iptables has for them.
fn rules() -> Result<()> {
    let bench = ["bench", "--profile", "fast", "--bench", "rules"];
    run(cargo().current_dir(root()).args(bench))
}

/// The broker as a process of its own, and mosquitto, under the same load.
fn broker() -> Result<()> {
    let package = ["--package", "kumquat-broker", "--profile", "fast"];
    run(cargo().arg("build").args(package).args(["--example", "serve"]))?;
    let server = root().join("target/fast/examples/serve");
    run(cargo()
        .env("KUMQUAT_BROKER_SERVER", server)
        .arg("bench")
        .args(package)
        .args(["--bench", "load"]))
}
