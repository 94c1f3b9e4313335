//! Checks of the code's own shape: floors, homes of outside crates, purity, sizes, bans.
//!
//! Reads the sources as text; `the_checks_find_what_they_should` proves that each rule can fail.
//! Exceptions stand in [`EXCEPTIONS`], each with its reason.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor. A module may use only lower floors and itself.
const FLOORS: &[(&str, u8)] =
    &[("model", 1), ("logic", 2), ("broker", 3), ("io", 3), ("master", 4), ("node", 4), ("app", 5)];

/// Outside crates and the only places that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("heed::", &["io/store"]),
    ("openraft::", &["io/store"]),
    ("libcontainer::", &["io/keeper"]),
    ("rcgen::", &["io/tls"]),
    ("x509_parser::", &["io/tls"]),
    ("rumqttc::", &["broker", "io/bus"]),
    ("broker::", &["broker", "io/bus", "master", "app"]),
    ("mdns_sd::", &["io/discovery"]),
    ("ruzstd::", &["io/image"]),
    ("tar::", &["io/image"]),
    ("clap::", &["app"]),
    ("qrcodegen::", &["app"]),
];

/// What floors 1 and 2 must not touch.
const IMPURE: &[&str] = &[
    "tokio::",
    "async fn",
    ".await",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "std::thread",
    "std::env::",
    "Instant::now",
    "SystemTime::now",
    "rand::",
    "libc::",
    "nix::",
];

/// Banned everywhere, with what to use instead.
const BANNED: &[(&str, &str)] = &[
    ("unbounded_channel", "a bounded channel with its bound in model::limits"),
    ("unbounded()", "a bounded channel with its bound in model::limits"),
    ("todo!(", "an error, or nothing"),
    ("unimplemented!(", "an error, or nothing"),
    ("dbg!(", "tracing"),
    ("FIXME", "a reason, or the fix"),
    (".unwrap()", "`?`, or expect with the invariant"),
    ("#[ignore", "a test that runs"),
    ("should_panic", "a test of the error"),
];

/// Lines per file, unit tests apart.
const LINES_PER_FILE_MAX: usize = 500;
/// Lines per function.
const LINES_PER_FUNCTION_MAX: usize = 70;
/// Where `unsafe` may stand: the modules that touch the kernel or LMDB's map.
const UNSAFE_HOMES: &[&str] =
    &["io/code.rs", "io/keeper", "io/host", "io/image", "io/store", "io/net"];

/// Where a feature may be asked for: in the roots, and where `fault-injection` makes trials fail.
const FEATURE_HOMES: &[&str] = &["lib.rs", "main.rs", "io/clock.rs", "io/store/file.rs"];

/// Reviewed exceptions: file prefix, text of the finding that it silences, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

#[test]
fn tidy() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut findings = Vec::new();
    let files = rust_files(&src);
    assert!(files.len() > 20, "only {} source files found", files.len());
    for path in files {
        let text = fs::read_to_string(&path).expect("source file is readable");
        let name = path.strip_prefix(&src).expect("file is under src").to_string_lossy();
        check(&name, &text, &mut findings);
    }
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn every_exception_is_needed() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (prefix, text, reason) in EXCEPTIONS {
        assert!(reason.len() > 20, "{prefix}: an exception needs a reason");
        let used = rust_files(&src).into_iter().any(|path| {
            let name = path.strip_prefix(&src).expect("under src").to_string_lossy().into_owned();
            let mut findings = Vec::new();
            check_all(&name, &fs::read_to_string(&path).expect("readable"), &mut findings);
            name.starts_with(prefix) && findings.iter().any(|f| f.contains(text))
        });
        assert!(used, "{prefix}: the exception {text:?} silences nothing");
    }
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("source folder is readable") {
        let path = entry.expect("folder entry is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Adds a line per breach that no exception covers: `file:line: what, why`.
fn check(name: &str, text: &str, findings: &mut Vec<String>) {
    let mut all = Vec::new();
    check_all(name, text, &mut all);
    findings.extend(all.into_iter().filter(|finding| {
        !EXCEPTIONS
            .iter()
            .any(|(prefix, part, _)| name.starts_with(prefix) && finding.contains(part))
    }));
}

fn check_all(name: &str, text: &str, findings: &mut Vec<String>) {
    if !text.starts_with("//!") && !text.starts_with("// @generated") {
        findings.push(format!("{name}:1: no `//!` line that says what the file is for"));
    }
    let generated = text.starts_with("// @generated") || text.contains("\n// @generated");
    // Unit tests come last in a file; the rules are for the code before them.
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines: Vec<&str> = code.lines().collect();
    if is_test_module(name) {
        return;
    }
    if lines.len() > LINES_PER_FILE_MAX && !generated {
        let count = lines.len();
        findings.push(format!("{name}: {count} lines, more than {LINES_PER_FILE_MAX}: split it"));
    }
    for (index, raw) in lines.iter().enumerate() {
        let at = format!("{name}:{}", index + 1);
        let line = code_of(raw);
        check_floor(name, &at, line, findings);
        check_words(name, &at, line, findings);
        check_unsafe(name, &at, index, &lines, findings);
    }
    check_functions(name, &lines, findings);
}

/// `tests.rs` and `tests/` inside `src` hold unit tests that are too long for their file.
fn is_test_module(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.ends_with("_tests.rs") || name.contains("/tests/")
}

fn code_of(raw: &str) -> &str {
    let trimmed = raw.trim_start();
    if trimmed.starts_with("//") { "" } else { raw.split(" // ").next().unwrap_or_default() }
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn check_floor(name: &str, at: &str, line: &str, findings: &mut Vec<String>) {
    let module = word(name);
    let Some(own) = floor_of(module) else { return };
    for part in line.split("crate::").skip(1) {
        let used = word(part);
        if floor_of(used).is_some_and(|floor| used != module && own <= floor) {
            findings.push(format!("{at}: {module} (floor {own}) must not use {used}"));
        }
        let Some(sibling) = part.strip_prefix("io::").map(word) else { continue };
        let own_folder = word(name.split('/').nth(1).unwrap_or_default());
        // All may know the clock, which is a value, the one way to replace a file durably and the one
        // to write a log line seldom or to share out places, which would else be written anew, with its
        // own mistakes, in each adapter that needs it, and who a peer is, which must be judged in one place. The
        // link is a pair of queues and no outside thing: it is what the bus carries further. A process's own
        // code is everybody's.
        let shared = ["clock", "code", "crowd", "durable", "link", "seldom", "tls"];
        if module == "io" && !["", own_folder].contains(&sibling) && !shared.contains(&sibling) {
            findings.push(format!("{at}: adapters do not know each other; meet in floor 4"));
        }
    }
    if module == "model" && line.contains("logic::") {
        findings.push(format!("{at}: model must not use logic"));
    }
    if module == "broker" && ["model::", "logic::"].iter().any(|ours| line.contains(ours)) {
        findings.push(format!("{at}: the broker knows nothing of kumquat"));
    }
    if own <= 2 {
        for impure in IMPURE.iter().filter(|impure| line.contains(**impure)) {
            findings.push(format!("{at}: {impure} in pure floor {own}; take it as an input"));
        }
    }
}

fn check_words(name: &str, at: &str, line: &str, findings: &mut Vec<String>) {
    for (crate_name, homes) in HOMES {
        let named = line.match_indices(crate_name).any(|(start, _)| {
            !line[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
        });
        if named && !homes.iter().any(|home| name.starts_with(home)) {
            findings.push(format!("{at}: {crate_name} belongs in {homes:?} only"));
        }
    }
    for (banned, instead) in BANNED.iter().filter(|(banned, _)| line.contains(banned)) {
        findings.push(format!("{at}: {banned} is banned, use {instead}"));
    }
    if line.contains("cfg(feature") && !FEATURE_HOMES.contains(&name) {
        findings.push(format!("{at}: features are chosen in {FEATURE_HOMES:?} only"));
    }
}

fn check_unsafe(name: &str, at: &str, index: usize, lines: &[&str], findings: &mut Vec<String>) {
    let line = code_of(lines[index]);
    let opens = ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|form| line.contains(form));
    if !opens {
        return;
    }
    let near = &lines[index.saturating_sub(8)..=index];
    if !UNSAFE_HOMES.iter().any(|home| name.starts_with(home)) {
        findings.push(format!("{at}: unsafe outside {UNSAFE_HOMES:?}"));
    } else if !near.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
        findings.push(format!("{at}: unsafe without a SAFETY comment"));
    }
}

/// rustfmt puts the closing brace of a function at the indent of its `fn` line.
fn check_functions(name: &str, lines: &[&str], findings: &mut Vec<String>) {
    let mut open: Option<(usize, usize)> = None;
    for (index, raw) in lines.iter().enumerate() {
        let line = code_of(raw);
        let indent = raw.len() - raw.trim_start().len();
        match open {
            None if is_function_start(line) => open = Some((index, indent)),
            Some((start, at)) if at == indent && raw.trim() == "}" => {
                let length = index - start + 1;
                if length > LINES_PER_FUNCTION_MAX {
                    findings.push(format!("{name}:{}: function of {length} lines", start + 1));
                }
                open = None;
            }
            Some((_, at)) if at == indent && raw.trim_end().ends_with(';') => open = None,
            _ => (),
        }
    }
}

fn is_function_start(line: &str) -> bool {
    let declared = line.trim_start();
    let head = declared.split("fn ").next().unwrap_or_default();
    declared.contains("fn ")
        && head.split_whitespace().all(|part| {
            ["pub", "const", "async", "unsafe", "extern", "\"C\""].contains(&part)
                || part.starts_with("pub(")
        })
        && !line.trim_end().ends_with(';')
        && !line.trim_end().ends_with('}')
}

#[test]
fn the_checks_find_what_they_should() {
    let cases = [
        ("logic/a.rs", "//! x\nuse crate::io::store;\n", "must not use io"),
        ("master/a.rs", "//! x\nuse crate::node::pods;\n", "must not use node"),
        ("model/a.rs", "//! x\nuse logic::schedule;\n", "must not use logic"),
        ("logic/a.rs", "//! x\nlet t = Instant::now();\n", "take it as an input"),
        ("logic/a.rs", "//! x\npub async fn f() {}\n", "take it as an input"),
        ("master/a.rs", "//! x\nuse heed::Env;\n", "belongs in"),
        ("master/a.rs", "//! x\nuse rumqttc::Client;\n", "belongs in"),
        ("broker/a.rs", "//! x\nuse model::limits;\n", "knows nothing"),
        ("node/a.rs", "//! x\nlet c = unbounded_channel();\n", "is banned"),
        ("io/http/a.rs", "//! x\nunsafe { f() }\n", "unsafe outside"),
        ("io/control/a.rs", "//! x\nuse crate::io::store::Store;\n", "adapters do not know"),
        ("io/keeper/a.rs", "//! x\nunsafe { f() }\n", "without a SAFETY"),
        ("node/a.rs", "//! x\n#[cfg(feature = \"x\")]\n", "features are chosen"),
        ("node/a.rs", "use std::fmt;\n", "no `//!`"),
        ("app/a.rs", "//! x\nlet x = y.unwrap();\n", "is banned"),
    ];
    for (name, text, expected) in cases {
        let mut findings = Vec::new();
        check(name, text, &mut findings);
        assert!(findings.iter().any(|f| f.contains(expected)), "{name}: {text:?}: {findings:?}");
    }
    let long = format!("//! x\npub(crate) async fn f() {{\n{}}}\n", "    g();\n".repeat(70));
    let mut findings = Vec::new();
    check("node/a.rs", &long, &mut findings);
    assert!(findings.iter().any(|f| f.contains("function of 72 lines")), "{findings:?}");
    findings.clear();
    let fine = "//! x\nuse crate::io::store;\n// SAFETY: heed::x unwrap() \nfn f() {}\n";
    check("master/a.rs", fine, &mut findings);
    assert!(findings.is_empty(), "{findings:?}");
}
