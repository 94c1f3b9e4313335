//! What boards and the command say to each other when a binary is exchanged, and what a binary is for.
//!
//! JSON, but for the request to a board, which travels with the other streams. Fields are only ever
//! added, with a default.

use serde::{Deserialize, Serialize};

/// The request to a board; the answer is JSON lines: one [`BoardBuildV1`], or [`LineV1`]s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpgradeRequestV1 {
    /// What does it run?
    State,
    /// Fetch this binary and try it.
    Try(TryV1),
}

/// A binary that a board shall try.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TryV1 {
    /// Which run of the command wants it.
    pub attempt: String,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its size.
    pub bytes: u64,
    /// Seconds within which the board must be ready with it.
    pub ready_seconds: u32,
}

/// What a board runs, and what became of the last binary that it tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BoardBuildV1 {
    /// Version of the binary that runs.
    pub version: String,
    /// Its architecture, in Rust's words: `x86_64`, `aarch64`, `arm`.
    pub arch: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// It has not proven itself yet.
    pub on_trial: bool,
    /// The last exchange.
    pub last: Option<OutcomeV1>,
}

/// What became of a binary on a board.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutcomeV1 {
    /// Which run of the command wanted it.
    pub attempt: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Whether the board kept it.
    pub kept: bool,
    /// Why not.
    pub why: String,
    /// From the exchange to this outcome; 0 when the board was off meanwhile.
    pub millis: u64,
}

/// A file that the command has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpgradeFileV1 {
    /// SHA-256 in hex.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// For which architecture.
    pub arch: String,
}

/// `POST /v1/upgrade`; the answer is [`LineV1`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpgradeAskV1 {
    /// Unique for each run of the command.
    pub attempt: String,
    /// At most one for each architecture.
    pub files: Vec<UpgradeFileV1>,
    /// Say what would be done.
    pub dry_run: bool,
    /// Seconds within which each board must be ready.
    pub ready_seconds: u32,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LineV1 {
    /// How far it is.
    Say(String),
    /// The leader lacks the file with this SHA-256: `PUT /v1/upgrade/<sha256>`, then ask again.
    Need(String),
    /// All that could be done is done.
    Done {
        /// Boards that were exchanged or had it before.
        run: u32,
        /// Boards that were left out.
        left_out: u32,
    },
    /// It ends here.
    Failed(String),
}

/// Bytes of a file's head that [`elf_arch`] reads.
pub const ELF_HEAD_BYTES: usize = 20;

/// For which architecture a Linux program is, in Rust's words, by the head of its file.
///
/// # Errors
/// It is no program that a board could run.
pub fn elf_arch(head: &[u8]) -> Result<&'static str, String> {
    let [0x7f, b'E', b'L', b'F', class, data, ..] = *head else {
        return Err("it is no Linux program (ELF)".to_owned());
    };
    let number = |at: usize| match head.get(at..at + 2) {
        Some(&[low, high]) => Ok(u16::from_le_bytes([low, high])),
        _ => Err("it is cut off".to_owned()),
    };
    // 2: executable, 3: shared object, which a position-independent program is too (elf(5)).
    if data != 1 || !matches!(number(16)?, 2 | 3) {
        return Err("it is no program for boards of ours".to_owned());
    }
    match (class, number(18)?) {
        (2, 62) => Ok("x86_64"),
        (2, 183) => Ok("aarch64"),
        (1, 40) => Ok("arm"),
        (_, machine) => Err(format!("it is for another processor (ELF machine {machine})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(class: u8, kind: u8, machine: u8) -> Vec<u8> {
        let mut head = vec![0x7f, b'E', b'L', b'F', class, 1, 1, 0];
        head.resize(16, 0);
        head.extend([kind, 0, machine, 0]);
        head
    }

    #[test]
    fn programs_are_told_from_other_files() {
        assert_eq!(elf_arch(&head(2, 3, 62)), Ok("x86_64"));
        assert_eq!(elf_arch(&head(2, 2, 183)), Ok("aarch64"));
        assert_eq!(elf_arch(&head(1, 2, 40)), Ok("arm"));
        for bad in [head(1, 2, 62), head(2, 1, 62), head(2, 3, 243), b"#!/bin/sh\n".to_vec()] {
            assert!(elf_arch(&bad).is_err(), "{bad:?}");
        }
        assert!(elf_arch(&head(2, 3, 62)[..17]).is_err() && elf_arch(&[]).is_err());
    }

    #[test]
    fn what_is_missing_in_json_has_a_default() {
        let build: BoardBuildV1 = serde_json::from_str("{\"sha256\":\"ab\"}").expect("read");
        assert_eq!((build.sha256.as_str(), build.on_trial), ("ab", false));
        let line = serde_json::to_string(&LineV1::Say("a".into())).expect("written");
        assert_eq!(line, "{\"say\":\"a\"}");
    }
}
