//! `kumquat doctor`: gathers facts of this board, has them judged, and prints what was found.
//!
//! It needs no running board and changes nothing. What is tried (making links) is tried in a network
//! namespace that ends at once.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use logic::doctor::{self, Facts, FeatureState, Finding, PortUse, Running, State, Warning};
use model::network::Ipv4Block;
use model::timestamp::Timestamp;
use serde_json::{Value, json};

use super::cli::{Output, OutputArgs, UpArgs};
use super::client::Ending;
use super::config::{self, Config, Range};
use super::dirs::Dirs;
use super::identity::Identity;
use crate::io::clock::Clock;
use crate::io::control::Client;
use crate::io::host::Inquiry;
use crate::io::net::trial;

/// How long a running board may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(3);

/// Runs the command.
///
/// # Errors
/// The configuration or the board's identity cannot be read.
pub(super) async fn run(dirs: &Dirs, arguments: &OutputArgs) -> Result<Ending> {
    let config = config::load(&UpArgs::default()).context("the board cannot be judged")?;
    let identity = Identity::load(dirs, &config)?;
    let inquiry = inquiry(dirs, &config, identity.as_ref());
    let facts = tokio::task::spawn_blocking(move || {
        let mut facts = inquiry.facts();
        try_links(&mut facts);
        try_rules(&mut facts);
        facts
    });
    let mut facts = facts.await?;
    facts.built_seconds = Clock::built().0 / Timestamp::from_seconds(1).0;
    facts.running = running(dirs).await;
    let findings = doctor::examine(&facts);
    match arguments.output {
        Output::Json => say!("{}", value(&facts, &findings)),
        Output::Text => {
            let coloured =
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            super::say::raw(&text(&findings, coloured));
        }
    }
    Ok(match doctor::worst(&findings) {
        State::Fail => Ending::Failed,
        State::Ok | State::Warn => Ending::Done,
    })
}

fn inquiry(dirs: &Dirs, config: &Config, identity: Option<&Identity>) -> Inquiry {
    let block = |range: Range| Ipv4Block::new(range.base, range.prefix);
    let (pods, services) = match identity {
        Some(identity) => (identity.pod_range, identity.service_range),
        None => (
            config.pod_range.unwrap_or(Range::PODS),
            config.service_range.unwrap_or(Range::SERVICES),
        ),
    };
    let port = |port, protocol, purpose, flag| PortUse {
        port,
        protocol,
        purpose,
        flag,
        // Responders of mDNS share its port.
        shared: port == 5353,
        owner: None,
    };
    Inquiry {
        root: PathBuf::from("/"),
        data_dir: std::path::absolute(&dirs.data).unwrap_or_else(|_| dirs.data.clone()),
        ports: vec![
            port(config.api_port, "tcp", "the Kubernetes API", "--api-port"),
            port(config.mqtt_port, "tcp", "the bus", "--mqtt-port"),
            port(config.peer_port, "tcp", "joining and the tunnel", "--peer-port"),
            port(5353, "udp", "mDNS", ""),
            port(8472, "udp", "pods on other subnets", ""),
        ],
        pod_range: block(pods),
        service_range: block(services),
        name: identity.map(|it| it.name.clone()).or_else(|| config.name.clone()),
    }
}

/// What was made counts more than what a list of modules says.
fn try_links(facts: &mut Facts) {
    // Who may not try is not told more than the lists say.
    let Ok(tried) = trial::links() else { return };
    for (name, made) in tried {
        let Some(feature) = facts.features.iter_mut().find(|it| it.name == name) else { continue };
        feature.state = match (made, feature.state) {
            (Ok(()), _) => FeatureState::Works,
            (Err(_), FeatureState::Missing | FeatureState::Unknown) => FeatureState::Missing,
            (Err(_), _) => FeatureState::Refused,
        };
    }
}

/// Rules that were taken tell that all their modules work; rules that were not, that one does not.
fn try_rules(facts: &mut Facts) {
    let Ok(tried) = trial::rules() else { return };
    let of_rules = |name: &str| name.starts_with("nf_") || name.starts_with("nft_");
    let known_missing =
        facts.features.iter().any(|it| of_rules(it.name) && it.state == FeatureState::Missing);
    for feature in facts.features.iter_mut().filter(|it| of_rules(it.name)) {
        match tried {
            Ok(()) => feature.state = FeatureState::Works,
            Err(_) if feature.name == "nf_tables" && !known_missing => {
                feature.state = FeatureState::Refused;
            }
            Err(_) => {}
        }
    }
}

/// What the board of this run-dir says; `None` when none runs, or does not answer.
async fn running(dirs: &Dirs) -> Option<Running> {
    let socket: &Path = &dirs.socket();
    let status = Client::new(socket).within(STATUS_WITHIN).get_json("/v1/status").await.ok()?;
    Some(read_status(&status))
}

fn read_status(status: &Value) -> Running {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |field: &str| status[field].as_array().cloned().unwrap_or_default();
    let boards = list("boards");
    let warning = |it: &Value| Warning {
        board: text(&it["board"]),
        reason: text(&it["reason"]),
        remedy: text(&it["remedy"]),
    };
    Running {
        cluster: text(&status["cluster"]),
        ready: boards.iter().filter(|board| board["ready"] == true).count(),
        boards: boards.len(),
        warnings: list("warnings").iter().map(warning).collect(),
    }
}

/// For programs; fields are only ever added.
fn value(facts: &Facts, findings: &[Finding]) -> Value {
    json!({
        "state": doctor::worst(findings),
        "board": {
            "model": facts.model,
            "profile": facts.profile.name,
            "architecture": facts.architecture,
            "kernel": facts.kernel_version,
        },
        "findings": findings,
    })
}

/// For people.
fn text(findings: &[Finding], coloured: bool) -> String {
    let mut out = String::new();
    for Finding { check, state, what, remedy } in findings {
        let (word, colour) = match state {
            State::Ok => ("ok", "32"),
            State::Warn => ("warn", "33"),
            State::Fail => ("FAIL", "31"),
        };
        let word = match coloured {
            true => format!("\u{1b}[{colour}m{word:<4}\u{1b}[0m"),
            false => format!("{word:<4}"),
        };
        out += &format!("{word}  {check:<16}  {what}\n");
        if let Some(remedy) = remedy {
            let label = if *state == State::Ok { "note" } else { "remedy" };
            out += &format!("{:<24}{label}: {remedy}\n", "");
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (fails, warns) = (count(State::Fail), count(State::Warn));
    out + &match (fails, warns) {
        (0, 0) => "\nThis board has all that it needs.\n".to_owned(),
        (0, warns) => format!("\nThis board works; to be better: {warns}.\n"),
        (fails, warns) => format!("\nDoes not work: {fails}; could be better: {warns}.\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_colours_on_terminals_only() {
        let finding = |state, remedy: Option<&str>| Finding {
            check: "clock",
            state,
            what: "it is late".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let findings = [finding(State::Ok, None), finding(State::Warn, Some("set it"))];
        let plain = text(&findings, false);
        assert!(plain.starts_with("ok    clock             it is late\nwarn  clock"), "{plain}");
        assert!(
            plain.contains("remedy: set it\n") && plain.contains("to be better: 1."),
            "{plain}"
        );
        assert!(!plain.contains('\u{1b}'));
        assert!(text(&findings, true).contains("\u{1b}[33mwarn\u{1b}[0m"));
    }

    #[test]
    fn a_status_is_read() {
        let status = json!({
            "cluster": "home",
            "boards": [{ "name": "a", "ready": true }, { "name": "b", "ready": false }],
            "warnings": [{ "board": "b", "reason": "silent", "remedy": "plug it in" }],
        });
        let read = read_status(&status);
        assert_eq!((read.cluster.as_str(), read.ready, read.boards), ("home", 1, 2));
        assert_eq!(read.warnings[0].remedy, "plug it in");
        assert_eq!(read_status(&Value::Null), Running::default());
    }
}
