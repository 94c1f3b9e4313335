//! Hostile bodies: everything that reads bytes from outside, fed with mutated real ones.
//!
//! A seeded walk (the failing seed is printed) over recorded objects: bytes are flipped, dropped,
//! doubled and replaced by JSON tokens, then decoded, checked, and used as patches of each other.
//! Nothing may panic; what is accepted must be stable and readable by `serde_json`.

use serde_json::Value;

use crate::{patch, protobuf, resource::RESOURCES, resource::Resource, schema};

const RECORDED: &str = include_str!("../../tests/data/defaulting-and-validation.jsonl");
const ROUNDS: u64 = 4_000;
const TOKENS: [&str; 16] = [
    "null",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-1",
    "1e400",
    "true",
    "\"$patch\":\"delete\",",
    "[[",
    "{\"a\":",
    "\"$retainKeys\":[\"x\"],",
    "\"\\ud800\"",
    "99999999999999999999",
    "\"1Ki\"",
    "\u{0}",
];

/// xorshift64*: enough randomness for mutations.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
    }
}

fn corpus() -> Vec<(&'static Resource, String)> {
    let mut corpus = Vec::new();
    for line in RECORDED.lines() {
        let case: Value = serde_json::from_str(line).expect("recorded JSON");
        for part in ["body", "answer"] {
            let kind = case[part]["kind"].as_str().unwrap_or("");
            if let Some(resource) = RESOURCES.iter().find(|r| r.kind == kind) {
                corpus.push((resource, case[part].to_string()));
            }
        }
    }
    corpus
}

fn mutate(text: &str, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..dice.roll(6) {
        let at = dice.roll(bytes.len());
        let end = (at + dice.roll(12)).min(bytes.len());
        match dice.roll(5) {
            0 => bytes[at] ^= 1 << dice.roll(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => {
                let token = TOKENS[dice.roll(TOKENS.len())].bytes();
                bytes.splice(at..end, token);
            }
            _ => {
                // A whole value for another: from a colon to the next comma.
                let rest = &bytes[at..];
                let colon = rest.iter().position(|b| *b == b':').map(|p| at + p + 1);
                let comma = rest.iter().position(|b| *b == b',').map(|p| at + p);
                if let (Some(colon), Some(comma)) = (colon, comma)
                    && colon < comma
                {
                    bytes.splice(colon..comma, TOKENS[dice.roll(TOKENS.len())].bytes());
                }
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

/// Checks `object`; what is accepted must not change when checked again.
fn check_stable(resource: &Resource, object: &mut Value) {
    if schema::check(resource, object).is_ok() {
        let mut again = object.clone();
        assert_eq!(schema::check(resource, &mut again), Ok(Vec::new()));
        assert_eq!(&again, object);
    }
}

#[test]
fn mutated_bodies_never_panic() {
    let (mut accepted, mut patched) = (0, 0);
    for seed in 1..=ROUNDS {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let outcome = std::panic::catch_unwind(move || {
            let (resource, text) = corpus_of(seed);
            let body = mutate(&text, &mut dice);
            let read = schema::decode_json(&body);
            let plain = serde_json::from_slice::<Value>(&body);
            if let Ok(plain) = &plain {
                assert!(read.is_ok(), "{plain}");
            }
            let Ok((mut object, _)) = read else { return (0, 0) };
            if std::str::from_utf8(&body).is_ok() && !text_has_lone_surrogate(&body) {
                assert!(plain.is_ok());
            }
            check_stable(resource, &mut object);
            let mut base: Value = serde_json::from_str(&text).expect("recorded JSON");
            let kind = dice.roll(3);
            let applied = match kind {
                0 => patch::strategic(resource, &mut base, object),
                1 => patch::merge(&mut base, object),
                _ => patch::json(&mut base, json_patch(object, &mut dice)),
            };
            check_stable(resource, &mut base);
            (1, usize::from(applied.is_ok()))
        });
        let (read, applied) = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        accepted += read;
        patched += applied;
    }
    assert!(accepted > 500 && patched > 300, "{accepted} {patched}");
}

fn corpus_of(seed: u64) -> (&'static Resource, String) {
    thread_local!(static CORPUS: Vec<(&'static Resource, String)> = corpus());
    CORPUS.with(|corpus| corpus[seed as usize % corpus.len()].clone())
}

fn text_has_lone_surrogate(body: &[u8]) -> bool {
    body.windows(3).any(|three| three.eq_ignore_ascii_case(b"\\ud"))
}

/// Operations with paths that exist in part, and `object` as their values.
fn json_patch(object: Value, dice: &mut Dice) -> Value {
    let paths = ["", "/spec", "/metadata/labels/a~1b", "/spec/containers/0", "/spec/x/-", "x"];
    let ops = ["add", "remove", "replace", "move", "copy", "test", "?"];
    let op = |dice: &mut Dice| {
        serde_json::json!({
            "op": ops[dice.roll(ops.len())], "path": paths[dice.roll(paths.len())],
            "from": paths[dice.roll(paths.len())], "value": object,
        })
    };
    (0..3).map(|_| op(dice)).collect()
}

#[test]
fn random_bytes_never_panic() {
    let mut dice = Dice(7);
    for len in 0..2_000 {
        let mut body: Vec<u8> = (0..len % 257).map(|_| dice.roll(256) as u8).collect();
        assert!(protobuf::decode(&body).is_err());
        let _ = schema::decode_json(&body);
        body.splice(0..0, protobuf::MAGIC);
        let _ = protobuf::decode(&body);
    }
}
