//! `kumquat board`: the boards of the cluster.

use anyhow::Result;
use serde_json::Value;

use super::cli::{BoardCommand, Output};
use super::client::{Ending, warnings_text};
use super::dirs::Dirs;
use crate::io::control::Client;

/// Runs the command.
pub(super) async fn run(dirs: &Dirs, command: &BoardCommand) -> Result<Ending> {
    let BoardCommand::List(output) = command;
    let status = Client::new(&dirs.socket()).get_json("/v1/status").await?;
    match output.output {
        Output::Json => say!("{}", status["boards"]),
        Output::Text => super::say::raw(&table(&status)),
    }
    Ok(Ending::Done)
}

fn table(status: &Value) -> String {
    let mut out = format!(
        "{:<24} {:<16} {:<8} {:<6} {:<5} {:>5}  {:<11} {}\n",
        "BOARD", "ADDRESS", "ROLE", "READY", "ARCH", "PODS", "LAST HEARD", "VERSION"
    );
    for board in status["boards"].as_array().into_iter().flatten() {
        let text = |field: &str| board[field].as_str().unwrap_or("-");
        let number = |field: &str| board[field].as_u64();
        let pods = number("pods").map_or("-".to_owned(), |count| count.to_string());
        let heard = number("lastHeardSeconds").map_or("-".to_owned(), ago);
        out += &format!(
            "{:<24} {:<16} {:<8} {:<6} {:<5} {:>5}  {:<11} {}\n",
            text("name"),
            text("address"),
            text("role"),
            if board["ready"] == true { "yes" } else { "no" },
            text("architecture"),
            pods,
            heard,
            text("version"),
        );
    }
    out + &warnings_text(status)
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s ago"),
        120..7_200 => format!("{}m ago", seconds / 60),
        _ => format!("{}h ago", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_are_shown_with_what_is_known() {
        let status = serde_json::json!({ "boards": [
            { "name": "pi-1", "address": "10.0.0.1", "role": "master", "ready": true,
                "version": "0.1.0", "architecture": "arm64", "pods": 3, "lastHeardSeconds": 4 },
            { "name": "pi-2", "ready": false, "lastHeardSeconds": 240 },
        ], "warnings": [{ "board": "pi-2", "reason": "silent", "remedy": "look at it" }] });
        let text = table(&status);
        let lines: Vec<&str> = text.lines().collect();
        let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
        let expected = ["pi-1", "10.0.0.1", "master", "yes", "arm64", "3", "4s", "ago", "0.1.0"];
        assert_eq!(words(1), expected);
        assert_eq!(words(2), ["pi-2", "-", "-", "no", "-", "-", "4m", "ago", "-"]);
        assert!(text.contains("remedy: look at it"), "{text}");
    }
}
