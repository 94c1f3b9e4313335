//! Imports of archives made on the spot: whole ones, hostile ones, damaged ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tar::{EntryType, Header};

use super::*;

/// A directory of a test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kumquat-image-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("made");
        Self(dir)
    }

    fn store(&self) -> ImageStore {
        let platform = Platform::of_machine("aarch64");
        ImageStore::open_for(self.0.join("images"), platform).expect("opens")
    }

    /// Names in a directory of the store.
    fn names(&self, part: &str) -> Vec<String> {
        let listing = fs::read_dir(self.0.join("images").join(part)).expect("there");
        listing.map(|e| e.expect("readable").file_name().to_string_lossy().into_owned()).collect()
    }

    fn assert_empty(&self, store: &ImageStore) {
        assert!(store.list().is_empty());
        for part in ["blobs", "layers", "tmp"] {
            assert_eq!(self.names(part), Vec::<String>::new(), "{part}");
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A tar made entry by entry, also with names that the tar crate would refuse.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn put(mut self, kind: EntryType, path: &str, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).expect("gnu header");
            header.set_device_minor(3).expect("gnu header");
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.put(EntryType::Regular, path, 0o644, "", content.as_bytes())
    }

    fn dir(self, path: &str, mode: u32) -> Self {
        self.put(EntryType::Directory, path, mode, "", b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1_024, 0);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

/// The blobs of one image: manifest digest, size, and what goes into the archive.
fn image(architecture: &str, layers: &[Vec<u8>]) -> (Value, BTreeMap<String, Vec<u8>>) {
    let mut blobs = BTreeMap::new();
    let mut put = |bytes: Vec<u8>, media: &str| {
        let digest = Digest::of(&bytes);
        let descriptor = json!({"mediaType": media, "digest": digest, "size": bytes.len()});
        blobs.insert(format!("blobs/sha256/{}", digest.hex()), bytes);
        descriptor
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"], "User": "web"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = put(config.to_string().into_bytes(), document::MEDIA_CONFIG);
    let layers: Vec<Value> =
        layers.iter().map(|layer| put(gzip(layer), "application/x-layer+gzip")).collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = put(manifest.to_string().into_bytes(), document::MEDIA_MANIFEST);
    (manifest, blobs)
}

/// The index comes last, as some writers put it.
fn oci_archive(
    name: Option<&str>,
    manifests: Vec<Value>,
    blobs: BTreeMap<String, Vec<u8>>,
) -> Vec<u8> {
    let mut tar = Tar::default().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    for (path, bytes) in &blobs {
        tar = tar.put(EntryType::Regular, path, 0o644, "", bytes);
    }
    let named = |mut manifest: Value| {
        if let Some(name) = name {
            manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        manifest
    };
    let manifests: Vec<Value> = manifests.into_iter().map(named).collect();
    tar.file("index.json", &json!({"schemaVersion": 2, "manifests": manifests}).to_string()).end()
}

fn simple(name: &str, architecture: &str) -> Vec<u8> {
    let layer = Tar::default().dir("etc/", 0o755).file("etc/passwd", "web:x:5:6::/:\n").end();
    let (manifest, blobs) = image(architecture, &[layer]);
    oci_archive(Some(name), vec![manifest], blobs)
}

#[test]
fn an_image_is_imported_found_exported_and_removed() {
    let scratch = Scratch::new("life");
    let store = scratch.store();
    let names = store.import(&simple("busybox:1.37", "arm64")[..], None).expect("imported");
    assert_eq!(names[0].as_str(), "docker.io/library/busybox:1.37");
    for spelling in ["busybox:1.37", "docker.io/library/busybox:1.37", "library/busybox:1.37"] {
        let image = store.resolve(spelling).expect(spelling);
        assert_eq!(image.config.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
        let passwd = ImageStore::read_file(&image, "/etc/passwd", 100).expect("readable");
        assert_eq!(passwd.as_deref(), Some(&b"web:x:5:6::/:\n"[..]));
    }
    assert!(matches!(store.resolve("busybox:1.36"), Err(ImageError::Absent(_))));
    let mut exported = Vec::new();
    store.export("busybox:1.37", &mut exported).expect("exported");
    store.remove("busybox:1.37").expect("removed");
    scratch.assert_empty(&store);
    let names = store.import(&gzip(&exported)[..], None).expect("imported again");
    assert_eq!(names[0].as_str(), "docker.io/library/busybox:1.37");
    drop(store);
    assert_eq!(scratch.store().list().len(), 1, "a new process sees it");
}

#[test]
fn a_docker_archive_is_imported() {
    let scratch = Scratch::new("docker");
    let layer = Tar::default().file("hello", "hi").end();
    let config = json!({"architecture": "arm64", "os": "linux", "config": {},
        "rootfs": {"diff_ids": [Digest::of(&layer), Digest::of(&layer)]}});
    let index = json!([{"Config": "c.json", "RepoTags": ["app:v1", "me/app:v2"],
        "Layers": ["1/layer.tar", "2/layer.tar"]}]);
    let archive = Tar::default()
        .put(EntryType::Regular, "1/layer.tar", 0o644, "", &layer)
        .put(EntryType::Symlink, "2/layer.tar", 0o777, "../1/layer.tar", b"")
        .file("c.json", &config.to_string())
        .file("manifest.json", &index.to_string())
        .end();
    let store = scratch.store();
    let names = store.import(&archive[..], None).expect("imported");
    assert_eq!(names.len(), 2);
    assert_eq!(store.resolve("app:v1").expect("there").layers.len(), 2);
    assert_eq!(store.list().len(), 1);
    store.remove("app:v1").expect("removed");
    assert_eq!(store.resolve("me/app:v2").expect("still there").layers.len(), 2);
}

#[test]
fn the_wrong_architecture_is_refused_in_plain_words() {
    let scratch = Scratch::new("arch");
    let store = scratch.store();
    let error = store.import(&simple("app:v1", "amd64")[..], None).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "image docker.io/library/app:v1 is built for amd64, this board is arm64"
    );
    scratch.assert_empty(&store);
}

#[test]
fn the_best_platform_of_an_index_is_taken() {
    let scratch = Scratch::new("index");
    let mut blobs = BTreeMap::new();
    let mut manifests = Vec::new();
    for architecture in ["amd64", "arm", "arm64"] {
        let layer = Tar::default().file("for", architecture).end();
        let (mut manifest, more) = image(architecture, &[layer]);
        manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
        manifests.push(manifest);
        blobs.extend(more);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes();
    let digest = Digest::of(&index);
    let nested = json!({"mediaType": document::MEDIA_INDEX, "digest": digest, "size": index.len()});
    blobs.insert(format!("blobs/sha256/{}", digest.hex()), index);
    let store = scratch.store();
    store.import(&oci_archive(Some("app:v1"), vec![nested], blobs)[..], None).expect("imported");
    let image = store.resolve("app:v1").expect("there");
    let chosen = ImageStore::read_file(&image, "for", 100).expect("readable");
    assert_eq!(chosen.as_deref(), Some(&b"arm64"[..]));
    assert_eq!(scratch.names("blobs").len(), 3, "nothing of the other platforms is kept");
}

#[test]
fn an_image_without_a_name_takes_the_callers() {
    let scratch = Scratch::new("nameless");
    let (manifest, blobs) = image("arm64", &[Tar::default().file("a", "b").end()]);
    let archive = oci_archive(None, vec![manifest], blobs);
    let store = scratch.store();
    assert!(matches!(store.import(&archive[..], None), Err(ImageError::Nameless)));
    scratch.assert_empty(&store);
    let name = ImageName::parse("mine:v1").expect("a name");
    assert_eq!(store.import(&archive[..], Some(&name)).expect("imported"), [name]);
}

fn unpacked(scratch: &Scratch, layers: &[Vec<u8>]) -> Result<Vec<PathBuf>, ImageError> {
    let (manifest, blobs) = image("arm64", layers);
    let store = scratch.store();
    store.import(&oci_archive(Some("app:v1"), vec![manifest], blobs)[..], None)?;
    Ok(store.resolve("app:v1").expect("there").layers)
}

fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("not run: {test} needs root for device nodes and owners");
    }
    root
}

#[test]
fn layers_become_what_overlayfs_understands() {
    if !is_root("layers_become_what_overlayfs_understands") {
        return;
    }
    let lower = Tar::default()
        .dir("secret/", 0o700)
        .file("secret/key", "k")
        .file("data", "shared")
        .put(EntryType::Symlink, "lib", 0o777, "usr/lib", b"")
        .dir("usr/lib/", 0o711)
        .end();
    let upper = Tar::default()
        .file("secret/new", "n")
        .file("lib/libx.so", "x")
        .put(EntryType::Link, "copy", 0o644, "data", b"")
        .file("gone/.wh..wh..opq", "")
        .file(".wh.data", "")
        .put(EntryType::Char, "null", 0o666, "", b"")
        .put(EntryType::Fifo, "pipe", 0o600, "", b"")
        .put(EntryType::Regular, "su", 0o4755, "", b"s")
        .end();
    let scratch = Scratch::new("overlay");
    let layers = unpacked(&scratch, &[lower, upper]).expect("imported");
    let top = &layers[0];
    let meta = |path: &str| fs::symlink_metadata(top.join(path)).expect(path);
    assert_eq!(meta("secret").permissions().mode() & 0o7777, 0o700, "as in the lower layer");
    assert_eq!(meta("usr/lib").permissions().mode() & 0o7777, 0o711);
    assert!(meta("usr/lib/libx.so").is_file(), "through the link of the lower layer");
    assert!(fs::symlink_metadata(top.join("lib")).is_err(), "the link itself is not hidden");
    assert_eq!(fs::read(top.join("copy")).expect("copied up"), b"shared");
    // The hard link has copied `data` up: the whiteout only speaks of lower layers.
    assert!(meta("data").is_file());
    assert!(meta("null").file_type().is_char_device() && meta("null").rdev() != 0);
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(meta("su").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(meta("su").mtime(), 1_000);
    assert!(tree::Dir::open(&top.join("gone")).expect("made").is_opaque().expect("readable"));
}

#[test]
fn whiteouts_hide_and_come_back() {
    if !is_root("whiteouts_hide_and_come_back") {
        return;
    }
    let lower = Tar::default().dir("d/", 0o755).file("d/old", "o").file("f", "1").end();
    let upper = Tar::default().file(".wh.f", "").file(".wh.d", "").dir("d/", 0o755).end();
    let scratch = Scratch::new("whiteout");
    let layers = unpacked(&scratch, &[lower, upper]).expect("imported");
    let hidden = fs::symlink_metadata(layers[0].join("f")).expect("there");
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    let dir = tree::Dir::open(&layers[0].join("d")).expect("a directory again");
    assert!(dir.is_opaque().expect("readable"), "what it had before stays hidden");
}

#[test]
fn nothing_leaves_the_image() {
    let scratch = Scratch::new("escape");
    let outside = scratch.0.join("outside");
    fs::create_dir(&outside).expect("made");
    let target = outside.to_str().expect("text");
    for hostile in [
        Tar::default().file("../../../../outside/x", "1"),
        Tar::default().put(EntryType::Symlink, "l", 0o777, target, b"").file("l/../../../x", "1"),
        Tar::default().put(EntryType::Link, "h", 0o644, "../../../../../etc/passwd", b""),
        Tar::default().put(EntryType::Link, "h", 0o644, "/etc/hostname", b""),
        Tar::default().file("f", "1").file("f/x", "1"),
        Tar::default().file(".wh...", ""),
        Tar::default().put(EntryType::GNUSparse, "s", 0o644, "", b""),
    ] {
        let error = unpacked(&scratch, &[hostile.end()]).expect_err("refused");
        assert!(matches!(error, ImageError::Damaged(_)), "{error:?}");
        scratch.assert_empty(&scratch.store());
    }
    // A link to an absolute path means a path inside the image.
    let link = Tar::default()
        .put(EntryType::Symlink, "l", 0o777, target, b"")
        .file("l/x", "1")
        .put(EntryType::Symlink, "up", 0o777, "../../../..", b"")
        .file("up/y", "1");
    let layers = unpacked(&scratch, &[link.end()]).expect("imported");
    assert_eq!(fs::read_dir(&outside).expect("there").count(), 0);
    assert!(layers[0].join(target.trim_start_matches('/')).join("x").is_file());
    assert!(layers[0].join("y").is_file());
}

#[test]
fn damage_anywhere_is_noticed_and_leaves_nothing() {
    let scratch = Scratch::new("damage");
    let whole = simple("app:v1", "arm64");
    let store = scratch.store();
    // The last two blocks of a tar are its end mark: without them nothing is missing.
    for cut in (0..whole.len() - 1_024).step_by(97) {
        let error = store.import(&whole[..cut], None).expect_err("cut");
        assert!(!error.text().is_empty());
        scratch.assert_empty(&store);
    }
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..300 {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let mut damaged = whole.clone();
        let at = (dice % whole.len() as u64) as usize;
        damaged[at] ^= 1 << (dice >> 60 & 7);
        if store.import(&damaged[..], None).is_ok() {
            // The bit was one that means nothing; what was imported is verified all the same.
            for image in store.list() {
                for name in image.names {
                    store.remove(&name).expect("removed");
                }
            }
        }
        scratch.assert_empty(&store);
    }
    for garbage in
        [&b""[..], b"hello", &[0; 10_000], &[0x1f, 0x8b, 8, 0], &[0x28, 0xb5, 0x2f, 0xfd]]
    {
        assert!(store.import(garbage, None).is_err());
        scratch.assert_empty(&store);
    }
}

#[test]
fn blobs_must_be_what_they_are_called() {
    let scratch = Scratch::new("digest");
    let (manifest, mut blobs) = image("arm64", &[Tar::default().file("a", "b").end()]);
    let layer = blobs.iter().find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b])).expect("a layer");
    let path = layer.0.clone();
    blobs.insert(path, gzip(&Tar::default().file("a", "evil").end()));
    let store = scratch.store();
    let archive = oci_archive(Some("app:v1"), vec![manifest], blobs);
    let error = store.import(&archive[..], None).expect_err("refused");
    assert!(error.to_string().contains("has the digest"), "{error}");
    scratch.assert_empty(&store);
}

#[test]
fn a_layer_must_unpack_to_its_diff_id() {
    let scratch = Scratch::new("diff");
    let layer = Tar::default().file("a", "b").end();
    let config = json!({"architecture": "arm64", "os": "linux",
        "rootfs": {"diff_ids": [Digest::of(b"something else")]}});
    let index = json!([{"Config": "c.json", "RepoTags": ["app:v1"], "Layers": ["layer.tar"]}]);
    let archive = Tar::default()
        .put(EntryType::Regular, "layer.tar", 0o644, "", &layer)
        .file("c.json", &config.to_string())
        .file("manifest.json", &index.to_string())
        .end();
    let store = scratch.store();
    let error = store.import(&archive[..], None).expect_err("refused");
    assert!(error.to_string().contains("unpacks to"), "{error}");
    scratch.assert_empty(&store);
}

#[test]
fn what_is_held_stays_and_what_is_not_recorded_goes() {
    let scratch = Scratch::new("hold");
    let store = scratch.store();
    store.import(&simple("app:v1", "arm64")[..], None).expect("imported");
    let image = store.resolve("app:v1").expect("there");
    let hold = store.hold(image.digest).expect("there");
    store.remove("app:v1").expect("removed");
    assert!(image.layers[0].is_dir() && store.resolve("app:v1").is_err());
    drop(store);
    let rubbish = scratch.0.join("images/blobs").join("00".repeat(32));
    fs::write(&rubbish, b"left by a power cut").expect("written");
    drop(hold);
    let store = scratch.store();
    assert!(!Path::new(&rubbish).exists());
    assert!(image.layers[0].is_dir(), "a container may still run on it after a restart");
    store.defer_collection();
    store.import(&simple("other:v1", "arm64")[..], None).expect("imported");
    store.remove("other:v1").expect("removed");
    assert!(image.layers[0].is_dir(), "nobody has said yet which containers there are");
    store.collect().expect("collected");
    scratch.assert_empty(&store);
    assert!(matches!(ImageStore::open(scratch.0.join("images")), Err(ImageError::InUse(_))));
}
