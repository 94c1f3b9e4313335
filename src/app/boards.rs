//! `kumquat board`: the boards of the cluster, letting one in, throwing one out, leaving.

use std::io::IsTerminal;

use anyhow::{Context, Result, bail};
use http::Method;
use model::token::TokenRole;
use serde_json::Value;

use super::cli::{BoardCommand, Output};
use super::client::{Ending, warnings_text};
use super::dirs::Dirs;
use super::leaving;
use crate::io::control::Client;

/// Runs the command.
pub(super) async fn run(dirs: &Dirs, command: &BoardCommand) -> Result<Ending> {
    let client = Client::new(&dirs.socket());
    match command {
        BoardCommand::List(output) => {
            let status = client.get_json("/v1/status").await?;
            match output.output {
                Output::Json => say!("{}", status["boards"]),
                Output::Text => super::say::raw(&table(&status)),
            }
        }
        BoardCommand::Approve { name, words, role } => {
            let role = TokenRole::from(*role);
            let words = match words {
                Some(words) => words.clone(),
                None => compared(name, waits(&client.get_json("/v1/status").await?, name)?)?,
            };
            let uri = format!(
                "/v1/boards/approve?name={}&words={}&role={role}",
                escaped(name),
                escaped(&words)
            );
            let done: Value = serde_json::from_slice(&client.ask(Method::POST, &uri).await?)?;
            say!(
                "board {name} is in as {role}; its words: {}",
                done["words"].as_str().unwrap_or("-")
            );
        }
        BoardCommand::Leave { force, forget, timeout } => {
            return leaving::run(&client, *force, *forget, *timeout).await;
        }
        BoardCommand::Evict { name, output } => {
            let uri = format!("/v1/boards/evict?name={}", escaped(name));
            let done: Value = serde_json::from_slice(&client.ask(Method::POST, &uri).await?)?;
            match output.output {
                Output::Json => say!("{done}"),
                Output::Text => {
                    eprint!("{}", said(name, &done));
                    super::say::raw(&secrets(&done));
                }
            }
        }
    }
    Ok(Ending::Done)
}

/// The words of the one board that waits under this name.
fn waits<'a>(status: &'a Value, name: &str) -> Result<&'a str> {
    let all = status["pending"].as_array().into_iter().flatten();
    let named: Vec<&Value> = all.filter(|board| board["name"] == name).collect();
    match named[..] {
        [board] => board["words"].as_str().context("the board that leads shows no words"),
        [] => bail!(
            "no board waits as {name}: `kumquat board list` shows those that do; on the board: \
             `kumquat up --join`"
        ),
        _ => bail!(
            "{} boards wait as {name}: say which by the words that it shows, `kumquat board approve \
             {name} --words \"...\"`",
            named.len()
        ),
    }
}

/// Asks the person at the terminal whether the board shows these words, too.
fn compared(name: &str, words: &str) -> Result<String> {
    let remedy = format!("kumquat board approve {name} --words \"{words}\"");
    if !std::io::stdin().is_terminal() {
        bail!("compare the words with those that {name} shows; if they are the same: {remedy}");
    }
    eprint!("{name} waits with the words\n\n    {words}\n\nDoes the board show the same? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(words.to_owned()),
        _ => bail!("board {name} is not let in"),
    }
}

/// For a query string.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let one = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// What a person should do about a board that was thrown out.
fn said(name: &str, done: &Value) -> String {
    let key = done["key"].as_str().unwrap_or("-");
    let count = done["secrets"].as_array().map_or(0, Vec::len);
    let what = match count {
        0 => "its pods used no Secrets",
        _ => "whoever has the board has these Secrets: change them",
    };
    let mut text =
        format!("board {name} is out for good, its key {key} is refused everywhere; {what}\n");
    if done["master"] == true {
        text += "WARNING: this board was a master, so whoever has it has the keys of the cluster, and every \
                 Secret that there was: change them. The cluster takes other keys as soon as all other \
                 masters have them (`kumquat status` tells when that waits): from then on what the old \
                 ones sign is refused, tokens of pods are renewed, Secrets are sealed anew. Every \
                 kubeconfig is refused then, too: get another with `kumquat kubeconfig`; join tokens are \
                 gone already. Backups so far that are sealed with the recovery key are open to whoever \
                 has the board, and bring back objects, but no board: save others, and write the new recovery \
                 key down\n";
    }
    text
}

/// `NAMESPACE/NAME`, one a line.
fn secrets(done: &Value) -> String {
    let secrets = done["secrets"].as_array().into_iter().flatten();
    let text = |secret: &Value, field: &str| secret[field].as_str().unwrap_or("-").to_owned();
    secrets.map(|one| format!("{}/{}\n", text(one, "namespace"), text(one, "name"))).collect()
}

/// The boards that wait for a person's word.
fn pending(status: &Value) -> String {
    let waiting = status["pending"].as_array().map(Vec::as_slice).unwrap_or_default();
    if waiting.is_empty() {
        return String::new();
    }
    let mut out = format!("\n{:<24} {:<16} {}\n", "WAITING", "ADDRESS", "WORDS");
    for board in waiting {
        let text = |field: &str| board[field].as_str().unwrap_or("-");
        out += &format!("{:<24} {:<16} {}\n", text("name"), text("address"), text("words"));
    }
    out + "compare the words with those of the board, then: kumquat board approve NAME --words \"...\"\n"
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
    out + &pending(status) + &warnings_text(status)
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
        ], "pending": [
            { "name": "pi-3", "address": "10.0.0.3", "words": "balon mitar kusel dofin hekam ruvin" },
        ], "warnings": [{ "board": "pi-2", "reason": "silent", "remedy": "look at it" }] });
        let text = table(&status);
        let lines: Vec<&str> = text.lines().collect();
        let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
        let expected = ["pi-1", "10.0.0.1", "master", "yes", "arm64", "3", "4s", "ago", "0.1.0"];
        assert_eq!(words(1), expected);
        assert_eq!(words(2), ["pi-2", "-", "-", "no", "-", "-", "4m", "ago", "-"]);
        assert!(text.contains("remedy: look at it"), "{text}");
        assert!(text.contains("pi-3") && text.contains("balon mitar kusel"), "{text}");
        assert_eq!(waits(&status, "pi-3").expect("waits"), "balon mitar kusel dofin hekam ruvin");
        assert!(waits(&status, "pi-4").is_err_and(|why| why.to_string().contains("no board")));
        let two =
            serde_json::json!({ "pending": [{ "name": "a", "words": "b" }, { "name": "a" }] });
        assert!(waits(&two, "a").is_err_and(|why| why.to_string().contains("--words")));
        assert!(!table(&serde_json::json!({ "boards": [], "pending": [] })).contains("WAITING"));
    }

    #[test]
    fn an_eviction_names_the_secrets_alone_on_stdout() {
        let done = serde_json::json!({ "board": "pi-2", "key": "ab", "pods": 2, "secrets": [
            { "namespace": "default", "name": "db", "pods": ["a", "b"] },
            { "namespace": "web", "name": "tls", "pods": ["c"] },
        ] });
        assert_eq!(secrets(&done), "default/db\nweb/tls\n");
        assert!(said("pi-2", &done).contains("change them"));
        assert!(!said("pi-2", &done).contains("WARNING"));
        let was_master = serde_json::json!({ "master": true, "secrets": [] });
        assert!(said("pi-2", &was_master).contains("recovery key"), "its backups, too");
        assert!(said("pi-2", &was_master).contains("kumquat kubeconfig"));
        assert!(said("pi-2", &serde_json::json!({ "secrets": [] })).contains("no Secrets"));
        assert_eq!(escaped("pi-2 a&b%"), "pi-2%20a%26b%25");
    }
}
