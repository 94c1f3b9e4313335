//! Senseless starts: configuration, names, ports, a second board, a user without rights, a wrong clock.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

use kumquat::io::net;

use super::board::{Board, possible, text};
use super::{CONFIG_MAPS, assert_quiet, assert_refused, config_map, running, still_serves};

const YEAR_SECONDS: i64 = 365 * 86_400;

#[test]
fn a_wrong_configuration_is_named() {
    if !possible("starts-config") {
        return;
    }
    let board = Board::new("starts-config");
    let file = board.data_dir().join("config.toml");
    for (content, words) in [
        (&b"name = "[..], &["config.toml", "line 1"][..]),
        (b"nmae = 'x'", &["config.toml", "nmae"]),
        (b"api-port = 'many'", &["config.toml", "api-port"]),
        (b"api-port = 70000", &["config.toml", "api-port"]),
        (b"role = 'king'", &["config.toml", "king"]),
        (b"pod-range = '10.0.0.0/99'", &["10.0.0.0/99", "8 to 28"]),
        (b"\xff\xfe\x00", &["config.toml"]),
        (&[0; 4096], &["config.toml"]),
    ] {
        fs::write(&file, content).expect("file");
        let refused = board.up_refused(&["--config", file.to_str().expect("path")]);
        assert_refused(&String::from_utf8_lossy(content), &refused, words);
    }
    let folder = board.data_dir();
    let refused = board.up_refused(&["--config", folder.to_str().expect("path")]);
    assert_refused("a folder", &refused, &["cannot read"]);
    let missing = board.up_refused(&["--config", "/nonexistent/config.toml"]);
    assert_refused("a missing file that was asked for", &missing, &["/nonexistent/config.toml"]);
    fs::remove_file(file).expect("file");
    assert_eq!(fs::read_dir(folder).expect("folder").count(), 0, "nothing was made");
}

#[test]
fn a_name_that_cannot_be_is_refused_with_the_rule() {
    if !possible("starts-name") {
        return;
    }
    let board = Board::new("starts-name");
    let long = "a".repeat(64);
    for name in ["", "Pi", "a_b", "-a", "a-", "a b", "../../etc", "pi.local", "ü", &long] {
        let refused = board.up_refused(&[&format!("--name={name}")]);
        assert_refused(name, &refused, &["--name", "lower-case letters", "63"]);
    }
    let range = board.up_refused(&["--service-range", "10.43.0.7/16"]);
    assert_refused("range", &range, &["write 10.43.0.0/16"]);
    for arguments in [&["--api-port", "0x"][..], &["--api-port", "65536"], &["--role", "king"]] {
        let usage = board.up_refused(arguments);
        assert_eq!(usage.status.code(), Some(2), "{arguments:?}: {}", text(&usage));
    }
}

#[test]
fn a_second_board_on_the_same_folder_or_port_is_refused() {
    let Some(board) = running("starts-second") else { return };
    let second = board.up_refused(&[]);
    assert_refused("the same folder", &second, &["another kumquat runs on", "stop it first"]);
    let repair = board.command(&["repair", "--accept-loss-after", "0"]);
    assert_refused("repair beside a board", &repair, &["another kumquat runs on"]);
    let renamed = board.command(&["status"]);
    assert!(renamed.status.success(), "{}", text(&renamed));
    still_serves(&board, "after-second");
}

#[test]
fn a_taken_port_is_named_with_a_remedy() {
    if !possible("starts-port") {
        return;
    }
    let mut board = Board::new("starts-port");
    let taken = net::inside(board.namespace(), || TcpListener::bind(("0.0.0.0", 6443)));
    let taken = taken.expect("the port");
    let refused = board.up_refused(&[]);
    assert_refused("port", &refused, &["6443", "--api-port"]);
    drop(taken);
    board.up(&[]);
    board.stop();
    let renamed = board.up_refused(&["--name", "other"]);
    assert_refused("another name", &renamed, &["this board is called board", "--name"]);
    board.up(&[]);
    still_serves(&board, "after-port");
}

#[test]
fn who_is_not_root_is_told_so() {
    let Some(board) = running("starts-root") else { return };
    board.create(CONFIG_MAPS, &config_map("secret", "x"));
    // The board's own copy, which lies where everybody may read.
    let binary = board.data_dir().with_file_name("kumquat");
    let nobody = |arguments: &[&str]| -> Output {
        let program = binary.to_str().expect("path");
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", program]);
        command.args(arguments).arg("--data-dir").arg(board.data_dir());
        command.arg("--run-dir").arg(board.run_dir()).output().expect("setpriv")
    };
    let version = nobody(&["version"]);
    assert!(version.status.success(), "{}", text(&version));
    let up = nobody(&["up", "--config", "/dev/null"]);
    assert_refused("up", &up, &["root", "sudo"]);
    for arguments in [&["status"][..], &["kubeconfig"], &["image", "list"]] {
        assert_refused(arguments[0], &nobody(arguments), &["root", "sudo"]);
    }
    assert_quiet(&board);
}

/// The library that shifts the wall clock, or nothing where the board takes no preloaded library.
fn clock_shift(board: &Board) -> Option<PathBuf> {
    let library = board.data_dir().with_file_name("libclock_shift.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/clock_shift.rs");
    let built = Command::new("rustc")
        .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "panic=abort", "-o"])
        .arg(&library)
        .arg(source)
        .output();
    let built = built.is_ok_and(|output| {
        assert!(output.status.success(), "{}", text(&output));
        true
    });
    let linked = Command::new("ldd").arg(Board::dynamic_binary()).output();
    let dynamic = linked.is_ok_and(|output| text(&output).contains("libc.so"));
    if !built || !dynamic {
        println!("not run: wrong clocks need rustc and a binary linked to libc.so");
        return None;
    }
    Some(library)
}

#[test]
fn a_wrong_clock_does_not_keep_clients_out() {
    if !possible("starts-clock") {
        return;
    }
    let mut board = Board::new("starts-clock");
    let Some(library) = clock_shift(&board) else { return };
    board.install(&Board::dynamic_binary());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now");
    let now = i64::try_from(now.as_secs()).expect("seconds");
    let mut stamps = Vec::new();
    for (round, shift) in [-now, 0, 20 * YEAR_SECONDS, -now, 0].into_iter().enumerate() {
        board.environment(&[
            ("LD_PRELOAD", library.to_str().expect("path")),
            ("CLOCK_SHIFT", &shift.to_string()),
        ]);
        board.up(&[]);
        board.forget_kubeconfig();
        let made = board.create(CONFIG_MAPS, &config_map(&format!("round-{round}"), "x"));
        let stamp = made["metadata"]["creationTimestamp"].as_str().expect("stamp").to_owned();
        println!("clock moved by {} years: created {stamp}", shift / YEAR_SECONDS);
        stamps.push(stamp);
        board.stop();
    }
    assert!(stamps[0].as_str() > "2026-09", "{stamps:?}");
    assert!(stamps.is_sorted(), "time goes back: {stamps:?}");
    // Over years only a clock is believed that a time server keeps; `tests/trust` has the matrix.
    assert!(!("2030".."2046").contains(&stamps[2].as_str()), "{stamps:?}");
    assert_quiet(&board);
}

#[test]
fn a_board_that_still_starts_stops_cleanly() {
    if !possible("starts-stop") {
        return;
    }
    let mut board = Board::new("starts-stop");
    board.up(&[]);
    board.stop();
    for millis in [30, 60, 100, 150, 200, 250, 300] {
        board.start(&[]);
        std::thread::sleep(std::time::Duration::from_millis(millis));
        let caught = std::fs::read_to_string(format!("/proc/{}/status", board.pid()));
        let caught = caught
            .expect("status")
            .lines()
            .find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
        // Before its first lines of Rust there is nothing to stop in order.
        if caught.is_some_and(|mask| mask & (1 << 14) != 0) {
            board.stop();
        } else {
            board.kill();
        }
    }
    board.up(&[]);
    still_serves(&board, "after-stops");
}
