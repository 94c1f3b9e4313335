//! The board itself: what it is, its clock, power, heat, watchdog, name, and what it says when it runs.

use model::validation::names;

use super::{Facts, Finding, State};

/// Names that systems come with: a second board with the same card has the same.
const COMMON_NAMES: [&str; 10] = [
    "raspberrypi",
    "localhost",
    "debian",
    "ubuntu",
    "armbian",
    "beaglebone",
    "beagleplay",
    "orangepi",
    "rock",
    "odroid",
];
/// 2100-01-01: no clock is right that says more.
const CLOCK_SECONDS_MAX: i64 = 4_102_444_800;
/// A clock may be this much behind the build of this program, which knows its own time zone badly.
const CLOCK_SLACK_SECONDS: i64 = 2 * 86_400;

pub(super) fn board(facts: &Facts) -> Finding {
    const CHECK: &str = "board";
    let model = facts.model.as_deref().unwrap_or("a board without a device tree");
    let (profile, arch, kernel) = (&facts.profile.name, &facts.architecture, &facts.kernel_version);
    let mut what = format!("{model} (profile {profile}, {arch}, kernel {kernel})");
    if !facts.devices.is_empty() {
        what += &format!("; it has {}", facts.devices.join(", "));
    }
    if !facts.is_root {
        what += "; some checks need root: run this with sudo to see all";
    }
    Finding::ok(CHECK, what)
}

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![clock(facts)];
    findings.extend(watchdog(facts));
    findings.extend(power(facts));
    findings.extend(temperature(facts));
    findings.push(name(facts));
    findings.push(unit(facts));
    findings
}

fn clock(facts: &Facts) -> Finding {
    const CHECK: &str = "clock";
    let seconds = facts.clock_seconds;
    let year = 1970 + seconds / 31_556_952;
    let set = "run `timedatectl set-ntp true` and see that the board reaches a time server, or set it \
               once: `date -s '2026-11-22 12:00'`, and give the board a clock with a battery";
    if seconds < facts.built_seconds - CLOCK_SLACK_SECONDS || seconds > CLOCK_SECONDS_MAX {
        let what = format!(
            "the clock says the year {year}, which cannot be: the cluster keeps its own time, but \
             programs in containers see this one, and certificates of others look invalid to them"
        );
        return Finding::warn(CHECK, what, set);
    }
    match facts.clock_synced {
        Some(true) => Finding::ok(CHECK, "the clock follows a time server"),
        Some(false) => Finding::warn(
            CHECK,
            "the clock follows no time server; the cluster keeps its own time, but programs in \
             containers see this one",
            "run `timedatectl set-ntp true`; without internet give /etc/systemd/timesyncd.conf a time \
             server of this network (NTP=192.168.1.1)",
        ),
        None => {
            Finding::ok(CHECK, "the kernel does not tell whether the clock follows a time server")
        }
    }
}

fn watchdog(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "watchdog";
    let watchdog = facts.profile.watchdog.as_ref()?;
    let (device, seconds) = (&watchdog.device, watchdog.seconds_max);
    Some(match facts.watchdog? {
        true => Finding {
            remedy: Some(format!(
                "to have a board that hangs restarted: `RuntimeWatchdogSec={seconds}s` in \
                 /etc/systemd/system.conf, or `watchdog = true` in /etc/kumquat/config.toml"
            )),
            ..Finding::ok(CHECK, format!("{device} is there ({seconds} s at most)"))
        },
        false => Finding::warn(
            CHECK,
            format!("{device} is missing: a board that hangs stays down until somebody comes"),
            format!("enable it: {}", watchdog.enable),
        ),
    })
}

fn power(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "power";
    let supply = facts.profile.sensors.supply.as_deref().unwrap_or("enough for this board");
    Some(match facts.undervoltage? {
        true => Finding::warn(
            CHECK,
            "the supply voltage is too low: boards reset and cards are damaged by that",
            format!("use a supply of {supply} with a short, thick cable, and fewer USB devices"),
        ),
        false => Finding::ok(CHECK, "the supply voltage is fine"),
    })
}

fn temperature(facts: &Facts) -> Option<Finding> {
    const CHECK: &str = "temperature";
    let limit = facts.profile.sensors.throttle_celsius;
    let celsius = facts.milli_celsius.map(|milli| milli / 1_000);
    let at = celsius.map_or("temperature unknown".to_owned(), |celsius| format!("{celsius} °C"));
    if facts.throttled == Some(true) {
        return Some(Finding::warn(
            CHECK,
            format!("the processor is slowed down ({at}; it slows down from {limit} °C on)"),
            "give the board a heat sink or a fan, and a power supply that is strong enough",
        ));
    }
    celsius.map(|_| Finding::ok(CHECK, format!("{at}, and slows down from {limit} °C on")))
}

fn name(facts: &Facts) -> Finding {
    const CHECK: &str = "name";
    let name = facts.name.as_deref().unwrap_or(&facts.hostname);
    let rename =
        "give it a name of its own: `hostnamectl set-hostname pi-2`, or `kumquat up --name pi-2`";
    if !names::label(name).is_empty() {
        let what = format!(
            "{name:?} cannot be a board's name: small letters, digits and `-` only, 63 at most"
        );
        return Finding::fail(CHECK, what, rename);
    }
    if facts.name.is_none() && COMMON_NAMES.contains(&name) {
        let what = format!(
            "{name:?} is what every new card of this system is called: a second board with it cannot join"
        );
        return Finding::warn(CHECK, what, rename);
    }
    Finding::ok(CHECK, format!("this board is {name:?}"))
}

fn unit(facts: &Facts) -> Finding {
    const CHECK: &str = "service";
    let Some(unit) = &facts.unit else {
        return Finding::ok(CHECK, "not installed as a systemd service");
    };
    let path = &unit.path;
    if unit.kill_mode != "process" {
        let found = if unit.kill_mode.is_empty() { "control-group" } else { &unit.kill_mode };
        return Finding::fail(
            CHECK,
            format!("{path} has KillMode={found}: a restart of the service kills all pods"),
            format!(
                "put `KillMode=process` into the section [Service] of {path} and run `systemctl daemon-reload`"
            ),
        );
    }
    if !unit.delegate {
        return Finding::warn(
            CHECK,
            format!(
                "{path} does not say Delegate=yes: systemd may move containers' control groups"
            ),
            format!(
                "put `Delegate=yes` into the section [Service] of {path} and run `systemctl daemon-reload`"
            ),
        );
    }
    Finding::ok(CHECK, format!("{path} leaves pods alone when the service restarts"))
}

/// What a running board adds: the warnings of its status, about whichever board they are.
pub(super) fn running(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "cluster";
    let Some(running) = &facts.running else {
        return vec![Finding::ok(CHECK, "kumquat does not run here (or only root may ask it)")];
    };
    let mut findings: Vec<Finding> = running
        .warnings
        .iter()
        .map(|warning| {
            let what = format!("board {}: {}", warning.board, warning.reason);
            Finding::warn(CHECK, what, warning.remedy.clone())
        })
        .collect();
    let state = if running.ready == running.boards { State::Ok } else { State::Warn };
    let what = format!(
        "cluster {}: {} of {} boards are ready",
        running.cluster, running.ready, running.boards
    );
    let remedy = (state == State::Warn).then(|| {
        "look at `kumquat status`: check power and network of the boards that are not".to_owned()
    });
    findings.insert(0, Finding { check: CHECK, state, what, remedy });
    findings
}
