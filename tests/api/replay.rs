//! Replays the recorded requests against our server and compares the answers with those of a real
//! kube-apiserver 1.36.2: code, headers and body, volatile values aside.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use super::exchanges::{EXCHANGES, Expect};
use super::harness::{As, Reply, Server};

const RECORDED: &str = include_str!("../data/real-apiserver-answers.txt");

/// Headers that every client may rely on; the others are compared where they matter.
const HEADERS: [&str; 8] = [
    "content-type",
    "cache-control",
    "warning",
    "retry-after",
    "vary",
    "x-content-type-options",
    "location",
    "etag",
];

/// Fields whose values differ from run to run: replaced by a word that says that they are there.
const VOLATILE: [&str; 8] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "continue",
    "clusterIP",
    "clusterIPs",
    "managedFields",
];

/// Stands for a line that the recording holds only the beginning of.
const CUT: &str = "CUT";

struct Recorded {
    code: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

fn recorded() -> BTreeMap<&'static str, Recorded> {
    let answers = RECORDED.split("\n## ").next().expect("the part with whole answers");
    let mut found = BTreeMap::new();
    for part in answers.split("\n### ").skip(1) {
        let (title, rest) = part.split_once('\n').expect("a title");
        let (head, body) = rest.split_once("\n\n").expect("an empty line after the headers");
        let mut lines = head.lines();
        let status = lines.next().expect("a status line");
        let code = status.split(' ').nth(1).expect("a code").parse().expect("a number");
        let mut headers = BTreeMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").expect("a header");
            let all: &mut String = headers.entry(name.to_ascii_lowercase()).or_default();
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(value);
        }
        let body = body.trim_end().to_owned();
        found.insert(title, Recorded { code, headers, body });
    }
    found
}

/// Replaces what differs from run to run.
fn normalize(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (name, value) in fields.iter_mut() {
                if VOLATILE.contains(&name.as_str()) && !value.is_null() {
                    *value = json!("VOLATILE");
                } else if name == "cells" {
                    for cell in value.as_array_mut().into_iter().flatten() {
                        if cell.as_str().is_some_and(is_age) {
                            *cell = json!("AGE");
                        }
                        normalize(cell);
                    }
                } else {
                    normalize(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::String(text) => *text = normalize_text(text),
        _ => {}
    }
}

fn is_age(cell: &str) -> bool {
    cell.strip_suffix(['s', 'm'])
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Uids, versions and generated names inside texts.
fn normalize_text(text: &str) -> String {
    let mut out = text.to_owned();
    if let Some(at) = out.find("UID in record (") {
        let start = at + "UID in record (".len();
        out.replace_range(start..start + 36, "UID");
    }
    if let Some(rest) = out.strip_prefix("Timeout: Too large resource version: ") {
        let digits = rest.chars().filter(char::is_ascii_digit).count();
        assert!(digits > 2);
        out = "Timeout: Too large resource version: N, current: N".into();
    }
    if out.len() == 7 && out.starts_with("g-") {
        out = "g-RANDOM".into();
    }
    out
}

/// A body as values: one document, or one per line of a stream.
fn documents(body: &str) -> Vec<Value> {
    let trimmed = body.trim();
    if trimmed.is_empty() {
        return Vec::new();
    }
    if let Ok(value) = serde_json::from_str(trimmed) {
        return vec![value];
    }
    if trimmed.starts_with("apiVersion:") {
        return vec![serde_norway::from_str(trimmed).expect("YAML")];
    }
    if !trimmed.starts_with('{') {
        return vec![json!(trimmed)];
    }
    trimmed.lines().map(|line| serde_json::from_str(line).unwrap_or(json!(CUT))).collect()
}

fn normalized(body: &str) -> Vec<Value> {
    let mut documents = documents(body);
    documents.iter_mut().for_each(normalize);
    documents
}

fn compare_heads(recorded: &Recorded, reply: &Reply) -> Vec<String> {
    let mut differences = Vec::new();
    if recorded.code != reply.code {
        differences.push(format!("code {} is not {}", reply.code, recorded.code));
    }
    // What the browser-facing HTTP/1.1 recording lacks is not asked for.
    for name in HEADERS {
        let theirs = recorded.headers.get(name).cloned().unwrap_or_default();
        let ours: Vec<_> =
            reply.headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
        let ours = ours.join(", ");
        let same = match name {
            // Hashes of the documents, which differ with the kinds served.
            "etag" | "location" => theirs.is_empty() == ours.is_empty(),
            _ => theirs.eq_ignore_ascii_case(&ours),
        };
        if !same {
            differences.push(format!("{name}: {ours:?} is not {theirs:?}"));
        }
    }
    if reply.header("audit-id").len() != 36 {
        differences.push("no audit-id".into());
    }
    differences
}

fn compare_bodies(
    recorded: &Recorded,
    reply: &Reply,
    change: Option<fn(&mut Value)>,
) -> Vec<String> {
    let (mut theirs, mut ours) = (normalized(&recorded.body), normalized(&reply.text()));
    for (theirs, ours) in theirs.iter().zip(&mut ours) {
        if *theirs == CUT {
            *ours = json!(CUT);
        }
    }
    if let Some(change) = change {
        if theirs == ours {
            return vec!["the bodies are equal: the difference is no longer one".into()];
        }
        theirs.iter_mut().chain(&mut ours).for_each(change);
    }
    if theirs == ours {
        return Vec::new();
    }
    let text = |all: &[Value]| {
        let texts: Vec<_> = all.iter().map(|v| format!("{v:#}")).collect();
        texts.join("\n")
    };
    vec![format!("body\n{}\nis not\n{}", text(&ours), text(&theirs))]
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_answers_of_a_real_server() {
    let server = Server::start().await;
    let start = server.get("/api/v1/namespaces/default/configmaps").await.json();
    let start = start["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let mut recorded = recorded();
    let (mut equal, mut justified, mut failed) = (0, Vec::new(), Vec::new());
    for exchange in EXCHANGES {
        let path = exchange.path.replace("START", &start);
        let method = Method::from_bytes(exchange.method.as_bytes()).unwrap();
        let reply = server.request(As::Admin, method, &path, exchange.headers, exchange.body).await;
        if matches!(exchange.expect, Expect::Step) {
            assert_eq!(reply.code, 200, "{}", reply.text());
            continue;
        }
        let theirs = recorded.remove(exchange.title);
        let theirs = theirs.unwrap_or_else(|| panic!("{} was not recorded", exchange.title));
        let differences = match exchange.expect {
            Expect::Same => {
                let mut all = compare_heads(&theirs, &reply);
                all.extend(compare_bodies(&theirs, &reply, None));
                all
            }
            Expect::But(reason, change) => {
                justified.push((exchange.title, reason));
                let mut all = compare_heads(&theirs, &reply);
                all.extend(compare_bodies(&theirs, &reply, Some(change)));
                all
            }
            Expect::Head => compare_heads(&theirs, &reply),
            Expect::Other(reason, code) => {
                justified.push((exchange.title, reason));
                let as_said = reply.code == code;
                if as_said { Vec::new() } else { vec![format!("{} {}", reply.code, reply.text())] }
            }
            Expect::Step => unreachable!("handled above"),
        };
        match differences.is_empty() {
            true if matches!(exchange.expect, Expect::Same | Expect::Head) => equal += 1,
            true => {}
            false => failed.push(format!("== {}: {}", exchange.title, differences.join("; "))),
        }
    }
    println!("{equal} answers equal, {} justified differences:", justified.len());
    for (title, reason) in &justified {
        println!("  {title}: {reason}");
    }
    assert!(failed.is_empty(), "{} differ\n{}", failed.len(), failed.join("\n"));
    assert!(recorded.is_empty(), "not replayed: {:?}", recorded.keys().collect::<Vec<_>>());
}
