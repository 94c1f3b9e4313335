//! A test image made on the spot: Debian's static busybox with a `/bin/sh`.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::fs::File;
use std::path::{Path, PathBuf};

use kumquat::io::image::build::{SingleFile, write_archive};

/// Name of the image.
pub const IMAGE: &str = "kumquat.test/busybox:v1";

const PROGRAM: &str = "/bin/busybox";

/// Whether busybox is here; says so when not.
pub fn present(test: &str) -> bool {
    let there = Path::new(PROGRAM).exists();
    if !there {
        println!("not run: {test} needs {PROGRAM} (Debian: busybox-static)");
    }
    there
}

/// Writes an OCI archive into `folder`; its `/bin/busybox` answers to a few usual names.
pub fn archive(folder: &Path) -> PathBuf {
    archive_as(folder, IMAGE)
}

/// The same image under another name.
pub fn archive_as(folder: &Path, name: &str) -> PathBuf {
    archive_with(
        folder,
        name,
        &["bin/sh", "bin/sleep", "bin/echo", "bin/usleep", "bin/cat", "bin/true"],
    )
}

/// An image whose busybox answers to these names, which begin with `bin/`.
pub fn archive_with(folder: &Path, name: &str, links: &[&str]) -> PathBuf {
    let path = folder.join("busybox.tar");
    let file = SingleFile {
        name,
        program: Path::new(PROGRAM),
        path: "bin/busybox",
        links,
        entrypoint: &["/bin/sh"],
    };
    let mut writer = File::create(&path).expect("archive file");
    write_archive(&file, &mut writer).expect("archive");
    path
}
