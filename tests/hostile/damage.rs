//! Damaged files in the data-dir: repaired by themselves, or a clear error and the way on.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::board::{Board, possible, text};
use super::{
    CONFIG_MAPS, PODS, SOON, assert_quiet, assert_refused, config_map, import_busybox, pod,
    running, still_serves, wait_ready,
};

fn flip(path: &Path, at: u64, count: u64) {
    let mut bytes = fs::read(path).expect("file");
    let end = usize::try_from(at + count).expect("small").min(bytes.len());
    for byte in &mut bytes[usize::try_from(at).expect("small").min(end)..end] {
        *byte ^= 0xa5;
    }
    fs::write(path, bytes).expect("file");
}

/// Does harm to a file.
type Damage = fn(&Path);

/// Damages a file in every way: flipped bytes at several places, cut, zeroed, emptied, noise.
fn damages() -> Vec<(&'static str, Damage)> {
    fn length(path: &Path) -> u64 {
        fs::metadata(path).expect("file").len()
    }
    fn cut(path: &Path, length: u64) {
        let file = fs::File::options().write(true).open(path).expect("file");
        file.set_len(length).expect("cut");
    }
    vec![
        ("flipped at the start", |path| flip(path, 0, 64)),
        ("flipped in the middle", |path| flip(path, length(path) / 2, 64)),
        ("flipped at the end", |path| flip(path, length(path).saturating_sub(64), 64)),
        ("cut in half", |path| cut(path, length(path) / 2)),
        ("emptied", |path| cut(path, 0)),
        ("zeroed", |path| fs::write(path, vec![0; length(path) as usize]).expect("file")),
        ("noise", |path| {
            let noise = (0..length(path)).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8);
            fs::write(path, noise.collect::<Vec<_>>()).expect("file");
        }),
    ]
}

fn write_maps(board: &Board, names: std::ops::Range<usize>) {
    for number in names {
        board.create(CONFIG_MAPS, &config_map(&format!("map-{number}"), &number.to_string()));
    }
}

fn assert_maps(board: &Board, names: std::ops::Range<usize>) {
    for number in names {
        let map = board.get(&format!("{CONFIG_MAPS}/map-{number}"));
        assert_eq!(map["data"]["value"], number.to_string(), "map-{number}");
    }
}

fn version(board: &Board) -> u64 {
    let text = board.get(CONFIG_MAPS)["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    text.expect("version").parse().expect("number")
}

#[test]
fn a_damaged_state_database_is_rebuilt() {
    let Some(mut board) = running("dmg-state") else { return };
    let file = board.data_dir().join("store/state/data.mdb");
    let mut written = 0;
    let mut last = 0;
    for (name, damage) in damages() {
        write_maps(&board, written..written + 20);
        written += 20;
        // A clean stop flushes the state, so that there is something to damage.
        board.stop();
        assert!(file.exists(), "{}", file.display());
        damage(&file);
        board.up(&[]);
        assert_maps(&board, 0..written);
        let now = version(&board);
        assert!(now > last, "{name}: version {now} after {last}");
        last = now;
        assert_quiet(&board);
    }
    let rebuilt = board.log().matches("rebuilding it").count();
    println!("{} kinds of damage, rebuilt {rebuilt} times, nothing lost", damages().len());
    assert!(rebuilt >= 4, "the damage was not seen:\n{}", board.log());
}

/// The segment of the log, and its length.
fn segment(board: &Board) -> PathBuf {
    let entries = fs::read_dir(board.data_dir().join("store/log")).expect("log").flatten();
    let mut segments: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| fs::metadata(path).is_ok_and(|facts| facts.len() > 0))
        .collect();
    segments.sort();
    segments.pop().expect("a segment")
}

fn find(bytes: &[u8], text: &[u8]) -> usize {
    bytes.windows(text.len()).position(|part| part == text).expect("text in the log")
}

#[test]
fn a_damaged_log_names_the_way_on_and_following_it_works() {
    let Some(mut board) = running("dmg-log") else { return };
    write_maps(&board, 0..30);
    let highest = version(&board);
    board.kill();
    let path = segment(&board);
    let at = find(&fs::read(&path).expect("log"), b"\"map-20\"");
    flip(&path, at as u64, 4);
    // Without the state, only the log holds the objects: what follows the damage is lost.
    fs::remove_dir_all(board.data_dir().join("store/state")).expect("state");

    let refused = board.up_refused(&[]);
    println!("{}", text(&refused).trim());
    assert_refused(
        "up",
        &refused,
        &["is damaged at byte", "last good version", "kumquat repair --accept-loss-after"],
    );
    let again = board.up_refused(&[]);
    assert_refused("up again", &again, &["--accept-loss-after"]);
    let said = text(&refused);
    let good = said.rsplit("--accept-loss-after ").next().expect("a version");
    let good: String = good.chars().take_while(char::is_ascii_digit).collect();
    let too_far = board.command(&["repair", "--accept-loss-after", &u64::MAX.to_string()]);
    assert_refused("repair beyond", &too_far, &["good only up to version", &good]);
    let repaired = board.command(&["repair", "--accept-loss-after", &good]);
    assert!(repaired.status.success(), "{}", text(&repaired));
    let twice = board.command(&["repair", "--accept-loss-after", &good]);
    assert_refused("repair again", &twice, &["nothing to repair"]);

    board.up(&[]);
    assert_maps(&board, 0..20);
    let next = board.create(CONFIG_MAPS, &config_map("after", "x"));
    let next: u64 = next["metadata"]["resourceVersion"].as_str().expect("text").parse().expect("n");
    assert!(next > highest, "version {next} was given out before (up to {highest})");
    // A client that saw what was lost must not go on as if nothing had happened.
    let watch = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1&resourceVersion={highest}");
    let expired = board.api_text(&watch).unwrap_or_else(|error| error);
    assert!(expired.contains("410") || expired.contains("Expired"), "{expired}");
    println!("kept 20 of 30 objects; versions went on at {next} after {highest}");
    assert_quiet(&board);
}

#[test]
fn a_torn_end_of_the_log_is_cut() {
    let Some(mut board) = running("dmg-tail") else { return };
    write_maps(&board, 0..5);
    board.kill();
    let path = segment(&board);
    let bytes = fs::read(&path).expect("log");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("records");
    // The last record may end with a few zeros of its own.
    let torn = [&bytes[..last + 64], b"half a record"].concat();
    fs::write(&path, torn).expect("log");
    board.up(&[]);
    assert_maps(&board, 0..5);
    still_serves(&board, "after-tail");
}

/// One file of the data-dir and what a start with it damaged must say (nothing: it is repaired).
fn check(board: &mut Board, file: &str, words: &[&str]) {
    let path = board.data_dir().join(file);
    let whole = fs::read(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    for (name, damage) in damages() {
        damage(&path);
        if words.is_empty() {
            board.up(&[]);
            board.stop();
        } else {
            let refused = board.up_refused(&[]);
            assert_refused(&format!("{file} {name}"), &refused, words);
            if name == "noise" {
                println!("{file}: {}", text(&refused).trim());
            }
            fs::write(&path, &whole).expect("file");
        }
    }
}

#[test]
fn damaged_keys_and_records_are_repaired_or_refused() {
    let Some(mut board) = running("dmg-files") else { return };
    import_busybox(&board);
    still_serves(&board, "before");
    board.stop();
    check(&mut board, "board.json", &["board.json", "damaged", "--data-dir"]);
    check(&mut board, "pki/ca.key", &["pki/ca", "damaged", "restore"]);
    check(&mut board, "pki/ca.crt", &["pki/ca.crt", "damaged", "restore"]);
    check(&mut board, "pki/api.pem", &[]);
    check(&mut board, "pki/admin.pem", &[]);
    check(&mut board, "images/index.json", &["images/index.json", "damaged", "import"]);
    fs::remove_file(board.data_dir().join("images/lock")).expect("lock");
    board.up(&[]);
    assert_eq!(board.get(&format!("{CONFIG_MAPS}/before"))["data"]["value"], "x");
    let listed = board.command(&["image", "list"]);
    assert!(text(&listed).contains("kumquat.test/busybox:v1"), "{}", text(&listed));
    assert_quiet(&board);
}

#[test]
fn a_damaged_desired_set_comes_again_from_the_master() {
    if !possible("dmg-desired") || !super::busybox::present("dmg-desired") {
        return;
    }
    let Some(mut board) = running("dmg-desired") else { return };
    import_busybox(&board);
    board.create(PODS, &pod("steady", "echo up; exec sleep 1000"));
    wait_ready(&board, "steady");
    let folder = board.data_dir().join("node");
    board.stop();
    check(&mut board, "node/fence", &["node/fence", "damaged", "remove it"]);
    board.up(&[]);
    for file in ["desired", "key"] {
        for (name, damage) in damages() {
            board.kill();
            damage(&folder.join(file));
            board.up(&[]);
            let probe = json!({"metadata": {"labels": {"after": name.replace(' ', "-")}}});
            board.api("PATCH", &format!("{PODS}/steady"), Some(&probe)).expect("patch");
            wait_ready(&board, "steady");
            let fresh = format!("fresh-{}", name.replace(' ', "-"));
            board.create(PODS, &pod(&fresh, "exec sleep 1000"));
            wait_ready(&board, &fresh);
            board.api("DELETE", &format!("{PODS}/{fresh}"), None).expect("delete");
            let deadline = std::time::Instant::now() + SOON;
            while board.api("GET", &format!("{PODS}/{fresh}"), None).is_ok() {
                assert!(std::time::Instant::now() < deadline, "{file} {name}: pod stays");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
    }
    assert_quiet(&board);
}
