//! Hostile files given to `kumquat image import`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::board::{Board, text};
use super::{assert_refused, running, still_serves};

/// What the image folder holds beyond an empty store.
pub(super) fn leftovers(board: &Board) -> Vec<PathBuf> {
    let images = board.data_dir().join("images");
    let inside = |part: &str| {
        let entries = fs::read_dir(images.join(part)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    ["tmp", "blobs", "layers"].into_iter().flat_map(inside).collect()
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1_024, 0);
    out
}

fn gzip(write: impl FnOnce(&mut GzEncoder<Vec<u8>>)) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    write(&mut encoder);
    encoder.finish().expect("gzip")
}

/// An OCI archive of one image with one layer; `config` may be made wrong.
fn image(layer: &[u8], diff_id: &str, change: impl Fn(&mut BTreeMap<String, Vec<u8>>)) -> Vec<u8> {
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let mut files = BTreeMap::new();
    let mut put = |bytes: Vec<u8>| {
        let digest = digest(&bytes);
        let size = bytes.len();
        files.insert(format!("blobs/sha256/{}", &digest["sha256:".len()..]), bytes);
        json!({"mediaType": "application/octet-stream", "digest": digest, "size": size})
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let config = put(config.to_string().into_bytes());
    let layer = put(layer.to_vec());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let mut manifest: Value = put(manifest.to_string().into_bytes());
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "kumquat.test/evil:v1"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    files.insert("index.json".into(), index.to_string().into_bytes());
    change(&mut files);
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    tar(&files)
}

fn with_layer(layer: &[u8]) -> Vec<u8> {
    image(layer, &digest(layer), |_| ())
}

/// Name, archive, and a word that the refusal must hold.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = tar(&[("etc/hello", b"hi")]);
    let noise: Vec<u8> =
        (0..50_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let whole = with_layer(&good);
    let escape = |name: &str| with_layer(&tar(&[(name, b"evil")]));
    let bomb = gzip(|encoder| {
        let zeros = vec![0; 1 << 20];
        let mut header = tar::Header::new_gnu();
        header.set_path("bomb").expect("path");
        header.set_size(1 << 50);
        header.set_mode(0o644);
        header.set_cksum();
        encoder.write_all(header.as_bytes()).expect("gzip");
        (0..64).for_each(|_| encoder.write_all(&zeros).expect("gzip"));
    });
    let many = (0..10_001).map(|n| format!("f{n}")).collect::<Vec<_>>();
    let many: Vec<(&str, &[u8])> =
        many.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
    let swap = |files: &mut BTreeMap<String, Vec<u8>>| {
        let layer = files.iter_mut().find(|(_, bytes)| bytes.len() == 2_048);
        let (_, layer) = layer.expect("the layer");
        layer[600] ^= 1;
    };
    let huge_index = |files: &mut BTreeMap<String, Vec<u8>>| {
        files.insert("index.json".into(), vec![b' '; 5 << 20]);
    };
    let deep_index = |files: &mut BTreeMap<String, Vec<u8>>| {
        files.insert("index.json".into(), b"[".repeat(1 << 20));
    };
    vec![
        ("nothing", Vec::new(), "not an image archive"),
        ("noise", noise, "not an image archive"),
        ("text", b"hello, world\n".repeat(1_000), "not an image archive"),
        ("half a gzip", gzip(|e| e.write_all(&whole).expect("gzip"))[..300].to_vec(), "archive"),
        ("half a tar", whole[..whole.len() / 2].to_vec(), "archive"),
        ("no index", tar(&[("a", b"b")]), "neither index.json"),
        ("wrong blob", image(&good, &digest(&good), swap), "digest"),
        ("wrong diff id", image(&good, &digest(b"other"), |_| ()), "damaged"),
        ("path with ..", escape("../../../etc/evil"), "damaged"),
        ("inner ..", escape("a/../../../evil"), "damaged"),
        ("bomb", with_layer(&bomb), ""),
        ("many files", tar(&many), "more than 10000 entries"),
        ("huge index", image(&good, &digest(&good), huge_index), "too large"),
        ("deep index", image(&good, &digest(&good), deep_index), "damaged"),
    ]
}

#[test]
fn a_hostile_archive_is_refused_and_leaves_nothing() {
    let Some(board) = running("archives") else { return };
    let folder = board.data_dir();
    for (name, bytes, word) in hostile() {
        let file = folder.join("hostile.tar");
        fs::write(&file, &bytes).expect("archive");
        let began = std::time::Instant::now();
        let refused = board.command(&["image", "import", file.to_str().expect("path")]);
        println!("{name}: {:.1} s: {}", began.elapsed().as_secs_f64(), text(&refused).trim());
        assert_refused(name, &refused, &[word]);
        assert_eq!(leftovers(&board), Vec::<PathBuf>::new(), "{name}");
    }
    for outside in ["/evil", "/etc/evil"] {
        assert!(!std::path::Path::new(outside).exists(), "{outside}");
    }
    let missing = board.command(&["image", "import", "/nonexistent.tar"]);
    assert_refused("a missing file", &missing, &["cannot read /nonexistent.tar"]);
    let folder = board.command(&["image", "import", "/tmp"]);
    assert_refused("a folder", &folder, &["/tmp"]);
    still_serves(&board, "after-archives");
    super::import_busybox(&board);
    assert!(!leftovers(&board).is_empty(), "a good image is kept");
}
