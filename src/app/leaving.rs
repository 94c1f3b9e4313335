//! `kumquat board leave`: asks this board again and again how far it is, and says so.
//!
//! Its own seat changes on the way, and who leads; what is refused for a moment is asked again.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use http::{Method, StatusCode};
use serde_json::Value;

use super::client::Ending;
use crate::io::control::{Client, ClientError};

/// Pause between two questions. A leader forgets the wish when it is not told again.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for one answer: the leader writes, and lets go.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long `up` may take to end: containers get ten seconds.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Runs the command.
pub(super) async fn run(
    client: &Client,
    force: bool,
    forget: bool,
    within: Duration,
) -> Result<Ending> {
    let uri = match (force, forget) {
        (_, true) => "/v1/boards/leave?forget=1",
        (true, _) => "/v1/boards/leave?force=1",
        _ => "/v1/boards/leave",
    };
    if forget {
        eprintln!("looks whether a leader is there: 15 s");
    }
    let client = client.within(ANSWER_WITHIN);
    let deadline = Instant::now() + within;
    let mut said = String::new();
    loop {
        let waits = match client.ask(Method::POST, uri).await {
            Ok(answer) => match progress(&serde_json::from_slice(&answer)?) {
                Progress::Left(text) => {
                    eprintln!("{text}");
                    return ended(&client).await;
                }
                Progress::Waits(waits) => waits,
            },
            Err(error) if is_passing(&error) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if waits != said {
            eprintln!("{waits}");
            said = waits;
        }
        if Instant::now() >= deadline {
            eprintln!(
                "not within {} s: this board is still in its cluster; run the command again, or stay: `kubectl \
                 uncordon` its Node",
                within.as_secs()
            );
            return Ok(Ending::TimedOut);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// How far the board is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Left(String),
    Waits(String),
}

fn progress(said: &Value) -> Progress {
    let text = |field: &str| said[field].as_str().unwrap_or("-").to_owned();
    if said["left"] == true {
        let (board, cluster) = (text("board"), text("cluster"));
        return Progress::Left(format!(
            "board {board} is out of cluster {cluster}; its containers are stopped, and it forgets the cluster"
        ));
    }
    let waits = said["waits"].as_array().into_iter().flatten();
    let waits: Vec<&str> = waits.filter_map(Value::as_str).collect();
    Progress::Waits(format!("waits: {}", waits.join("; ")))
}

/// Whether it may be otherwise in a second: the seat changes, another board leads.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
        ClientError::TimedOut { .. } => true,
        _ => false,
    }
}

/// Waits until `up` answers no more.
async fn ended(client: &Client) -> Result<Ending> {
    let began = Instant::now();
    let client = client.within(ASK_EVERY);
    while began.elapsed() < ENDS_WITHIN {
        match client.get("/v1/images").await {
            Err(ClientError::NotRunning { .. }) => return Ok(Ending::Done),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    bail!("the board is out of its cluster, but `kumquat up` does not end: look at its log")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_person_reads_what_is_waited_for() {
        let waits = json!({ "left": false, "waits": ["it leads", "pods stop: default/a"] });
        let expected = "waits: it leads; pods stop: default/a".to_owned();
        assert_eq!(progress(&waits), Progress::Waits(expected));
        let left = json!({ "left": true, "board": "pi-3", "cluster": "lab" });
        let Progress::Left(text) = progress(&left) else { panic!("{left}") };
        assert!(text.starts_with("board pi-3 is out of cluster lab"), "{text}");
    }

    #[test]
    fn what_a_person_must_change_is_not_asked_again() {
        let refused =
            |status| is_passing(&ClientError::Refused { status, message: "why".to_owned() });
        assert!(refused(StatusCode::SERVICE_UNAVAILABLE));
        assert!(!refused(StatusCode::CONFLICT), "pods without a controller, the only board");
        assert!(!refused(StatusCode::NOT_FOUND), "an older leader");
    }
}
