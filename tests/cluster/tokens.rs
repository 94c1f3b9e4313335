//! Pods that call the API: their token, where they find it, and what becomes of it.

use std::path::Path;
use std::time::Duration;

use crate::board::Board;
use crate::{PODS, new_board, pod, wait_ready, wait_until};

const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Prints what a client in a pod reads, and again when its token changes.
fn reader() -> String {
    format!(
        "echo host=$KUBERNETES_SERVICE_HOST port=$KUBERNETES_SERVICE_PORT; \
         echo namespace=$(cat {FOLDER}/namespace); head -1 {FOLDER}/ca.crt; \
         while true; do t=$(cat {FOLDER}/token); \
         [ \"$t\" = \"$old\" ] || echo token=$t; old=$t; sleep 0.2; done"
    )
}

/// The values of the lines `what=...` of a pod's log.
fn said(board: &Board, pod: &str, what: &str) -> Vec<String> {
    let log = board.api_text(&format!("{PODS}/{pod}/log")).unwrap_or_default();
    let lines = log.lines().filter_map(|line| line.strip_prefix(what)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_pod_finds_the_api_and_its_token() {
    let Some(mut board) = new_board("tokens") else { return };
    board.create(PODS, &pod("reader", &reader()));
    wait_ready(&board, "reader");
    let patience = Duration::from_secs(20);
    wait_until("it has read its token", patience, || !said(&board, "reader", "token").is_empty());
    let tokens = said(&board, "reader", "token");
    assert_eq!(said(&board, "reader", "host"), ["10.43.0.1 port=443"]);
    assert_eq!(said(&board, "reader", "namespace"), ["default"]);
    assert_eq!(tokens[0].split('.').count(), 3, "{tokens:?}");
    // It lies on no disk.
    let (_, signature) = tokens[0].rsplit_once('.').expect("three parts");
    assert!(holds(&board.run_dir(), signature.as_bytes()), "in the pod's volume");
    assert!(!holds(&board.data_dir(), signature.as_bytes()), "a token on the card");
    // An agent that restarts goes on with the token that it finds.
    board.stop();
    board.up(&[]);
    wait_ready(&board, "reader");
    let silent_script = format!("ls {FOLDER} || echo none=here; sleep 100");
    let mut silent = pod("silent", &silent_script);
    silent["spec"]["automountServiceAccountToken"] = false.into();
    board.create(PODS, &silent);
    wait_until("the other has none", patience, || !said(&board, "silent", "none").is_empty());
    assert_eq!(said(&board, "reader", "token"), tokens, "the same token");
}

/// Whether any file below holds these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        // Logs hold what containers say.
        if path.is_dir() {
            return !path.ends_with("logs") && holds(&path, bytes);
        }
        // A pipe or socket would be waited for.
        let found = match path.is_file() {
            true => std::fs::read(path).unwrap_or_default(),
            false => Vec::new(),
        };
        found.windows(bytes.len()).any(|window| window == bytes)
    })
}
