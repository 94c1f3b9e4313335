//! Power cuts during image imports: ext4 on a loop device, shut down without log flush at a random
//! moment, mounted again, opened unattended. No layer is ever used that is not whole.
//!
//! Rounds are few here and many in `cargo xtask soak`. Needs root, loop devices, mkfs.ext4; says so and
//! skips otherwise.

#[path = "harness/busybox.rs"]
mod busybox;
#[path = "harness/disk.rs"]
mod disk;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use disk::{Disk, remount, shut_down};
use kumquat::io::image::build::{SingleFile, write_archive};
use kumquat::io::image::{Digest, ImageStore};

/// Different images, so that layers and blobs come, are replaced and go.
const IMAGES: usize = 4;
/// Content large enough for an import to be cut in its middle.
const PROGRAM_BYTES: usize = 3_000_000;

fn rounds() -> usize {
    std::env::var("KUMQUAT_SOAK_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

fn possible() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let tools = ["mkfs.ext4", "losetup"].iter().all(|t| Command::new(t).arg("-V").output().is_ok());
    let possible = root && tools && Path::new("/dev/loop-control").exists();
    if !possible {
        println!("not run: power cuts need root, loop devices and mkfs.ext4");
    }
    possible
}

fn name(number: usize) -> String {
    format!("kumquat.test/cut:v{number}")
}

/// The program of an image: bytes that only its number decides.
fn program(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..PROGRAM_BYTES + number * 1_000).map(|_| byte()).collect()
}

fn archives(folder: &Path) -> Vec<PathBuf> {
    let make = |number: usize| {
        let path = folder.join(format!("{number}.bin"));
        fs::write(&path, program(number)).expect("written");
        let archive = folder.join(format!("{number}.tar"));
        let image_name = name(number);
        let file = SingleFile {
            name: &image_name,
            program: &path,
            path: "bin/program",
            links: &["bin/sh"],
            entrypoint: &["/bin/program"],
        };
        let mut writer = File::create(&archive).expect("created");
        write_archive(&file, &mut writer).expect("written");
        writer.flush().expect("written");
        archive
    };
    (0..IMAGES).map(make).collect()
}

/// Imports and removes until the disk fails; says how many imports were acknowledged, and of which
/// image the last one was.
fn work(store: &ImageStore, archives: &[PathBuf], first: usize) -> (usize, Option<usize>) {
    let mut done = (0, None);
    for number in (0..archives.len()).cycle().skip(first).take(200) {
        let archive = File::open(&archives[number]).expect("there");
        if store.import(archive, None).is_err() {
            return done;
        }
        done = (done.0 + 1, Some(number));
        if store.remove(&name((number + 2) % IMAGES)).is_err() && store.list().len() > IMAGES {
            return done;
        }
    }
    done
}

/// Everything that the store offers is whole: blobs by their digest, layers by their content.
fn check(store: &ImageStore, root: &Path) -> usize {
    let listed = store.list();
    for image in &listed {
        for image_name in &image.names {
            let number: usize =
                image_name.rsplit('v').next().expect("a tag").parse().expect("a number");
            let found = store.resolve(image_name).expect("listed, so there");
            let unpacked = fs::read(found.layers[0].join("bin/program")).expect("unpacked");
            assert!(unpacked == program(number), "layer of {image_name} is not what it was");
            assert!(found.layers[0].join("bin/sh").is_symlink());
            store.export(image_name, std::io::sink()).expect("every blob is there");
        }
    }
    for blob in fs::read_dir(root.join("blobs")).expect("there") {
        let blob = blob.expect("readable");
        let digest = Digest::of(&fs::read(blob.path()).expect("readable"));
        assert_eq!(blob.file_name().to_str(), Some(digest.hex().as_str()), "a damaged blob");
    }
    listed.len()
}

#[test]
fn no_layer_is_used_unverified_after_a_power_cut() {
    if !possible() {
        return;
    }
    let sources = std::env::temp_dir().join(format!("kumquat-cut-{}", std::process::id()));
    fs::create_dir_all(&sources).expect("made");
    let archives = archives(&sources);
    let disk = Disk::new("image-power", 128);
    let mount = disk.folder().to_owned();
    let root = mount.join("images");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    println!("seed {seed}");
    let (mut acknowledged, mut kept) = (0, 0);
    for round in 0..rounds() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let store = ImageStore::open(&root).expect("opens unattended");
        let pause = Duration::from_millis(5 + seed % 1_500);
        let (imports, last) = std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(&store, &archives, round));
            std::thread::sleep(pause);
            shut_down(&mount);
            worker.join().expect("no panic")
        });
        drop(store);
        remount(&mount);
        let store = ImageStore::open(&root).expect("opens unattended");
        kept += check(&store, &root);
        acknowledged += imports;
        if let Some(number) = last {
            store.resolve(&name(number)).expect("an acknowledged import survives");
        }
    }
    println!("{} cuts, {acknowledged} imports acknowledged, {kept} images verified", rounds());
    assert!(acknowledged > 0, "no import was ever acknowledged: the cuts come too early");
    drop(disk);
    fs::remove_dir_all(sources).expect("removable");
}
