//! Makes the tables of `src/model` from the recorded data under `data/`.
//!
//! Inputs: `data/kubernetes-1.36/*` and the list in [`kinds`]. Outputs, checked in:
//! `src/model/resource/rows.rs` (Rust), `src/model/schema/tables.bin` and
//! `src/model/access/bootstrap.bin` (packed). With `--check` nothing is written, and a difference is an
//! error.

mod bootstrap;
mod compile;
mod kinds;
mod pack;
mod rows;
mod source;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use kinds::Kind;
use source::Source;

/// Writes the generated files, or with `--check` compares them.
pub(crate) fn generate(words: &[String]) -> Result<()> {
    let check = words.iter().any(|word| word == "--check");
    ensure!(words.iter().all(|word| word == "--check"), "usage: cargo xtask generate [--check]");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent")?;
    let made = make(root, kinds::KINDS)?;
    let mut stale = Vec::new();
    for (path, bytes) in made {
        let known = fs::read(root.join(&path)).unwrap_or_default();
        if known == bytes {
            continue;
        }
        if check {
            stale.push(path.display().to_string());
        } else {
            println!("write {} ({} bytes)", path.display(), bytes.len());
            fs::write(root.join(&path), bytes)
                .with_context(|| format!("write {}", path.display()))?;
        }
    }
    if !stale.is_empty() {
        bail!("{} do not match data/: run `cargo xtask generate`", stale.join(" and "));
    }
    Ok(())
}

fn make(root: &Path, kinds: &[Kind]) -> Result<[(PathBuf, Vec<u8>); 3]> {
    let source = Source::read(&root.join("data/kubernetes-1.36"))?;
    let rows = rows::rows(&source, kinds)?;
    let mut roots: Vec<String> = kinds::EXTRA_SCHEMAS.iter().map(|s| (*s).to_owned()).collect();
    for row in &rows {
        let group = row.kind.group;
        roots.push(source.schema_of(group, &row.version, row.kind_name())?.to_owned());
        for sub in row.subresources() {
            let kind = &sub["responseKind"];
            if kinds::CONNECT_KINDS.iter().any(|connect| kind["kind"] == *connect) {
                continue;
            }
            let word = |name: &str| kind[name].as_str().unwrap_or("");
            let own = word("version").is_empty();
            let (group, version) =
                if own { (group, row.version.as_str()) } else { (word("group"), word("version")) };
            roots.push(source.schema_of(group, version, word("kind"))?.to_owned());
        }
    }
    let types = compile::compile(&source, &roots)?;
    let (packed, ids) = pack::pack(&types)?;
    let text = rustfmt(&rows::write(&source, &rows, &ids)?)?;
    Ok([
        (PathBuf::from("src/model/resource/rows.rs"), text),
        (PathBuf::from("src/model/schema/tables.bin"), packed),
        (PathBuf::from("src/model/access/bootstrap.bin"), bootstrap::pack(&source.bootstrap)?),
    ])
}

fn rustfmt(text: &str) -> Result<Vec<u8>> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--emit", "stdout"])
        .args(["--config", "max_width=100,use_small_heuristics=Max"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start rustfmt")?;
    child.stdin.take().context("rustfmt has no input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "rustfmt refused the generated rows");
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checked_in_tables_match_the_data() {
        generate(&["--check".into()]).unwrap();
    }

    #[test]
    fn a_kind_that_is_not_listed_leaves_no_trace() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut kinds: Vec<Kind> = Vec::new();
        kinds.extend(kinds::KINDS.iter().filter(|k| k.plural != "endpointslices").cloned());
        assert_eq!(kinds.len() + 1, kinds::KINDS.len());
        for (path, bytes) in make(root, &kinds).unwrap() {
            let text = String::from_utf8_lossy(&bytes);
            // What the first roles allow is a real server's, whether or not we serve it.
            if path.ends_with("bootstrap.bin") {
                continue;
            }
            assert!(!text.to_lowercase().contains("endpointslice"), "{}", path.display());
            assert!(text.contains("Endpoints"), "{}", path.display());
        }
        kinds.push(kinds[0].clone());
        kinds.last_mut().unwrap().plural = "nothing";
        assert!(make(root, &kinds).is_err());
    }
}
