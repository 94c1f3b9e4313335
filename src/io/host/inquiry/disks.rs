//! Cards and chips, the file systems of root and data-dir, swap.

use std::path::{Path, PathBuf};

use logic::doctor::{Disk, Flash, Swap};

use super::super::DiskSpace;
use super::super::mounts::{Mount, mount_of, mounts};
use super::{names, read};

/// Cards and eMMC chips with what they tell of their wear.
pub(super) fn flash(root: &Path) -> Vec<Flash> {
    let is_whole = |name: &String| {
        let number = name.strip_prefix("mmcblk").unwrap_or("x");
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let hex = |text: &str| u8::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    let describe = |device: String| {
        let text = |file: &str| read(root, &format!("sys/block/{device}/device/{file}"));
        let lives = text("life_time");
        let name = text("name").trim().to_owned();
        Flash {
            name: if name.is_empty() { "unnamed".to_owned() } else { name },
            life_tenths: lives.split_whitespace().filter_map(hex).max(),
            pre_eol: hex(&text("pre_eol_info")),
            device,
        }
    };
    names(&root.join("sys/block")).into_iter().filter(is_whole).map(describe).collect()
}

/// The file system of the root, and that of the data-dir when it is another.
pub(super) fn disks(root: &Path, data_dir: &Path) -> Vec<Disk> {
    let mounts = mounts(&read(root, "proc/self/mountinfo"));
    let top = mount_of(&mounts, Path::new("/"));
    let data = mount_of(&mounts, data_dir).filter(|data| Some(data) != top.as_ref());
    let describe = |what: &'static str, mount: Option<Mount>| {
        let mount = mount?;
        let inside = root.join(mount.point.trim_start_matches('/'));
        let space = DiskSpace::of(&inside).unwrap_or_default();
        Some(Disk {
            what,
            errors: mount.errors(root),
            device: mount.device().unwrap_or(&mount.source).to_owned(),
            read_only: mount.read_only,
            point: mount.point,
            available_bytes: space.available_bytes,
            total_bytes: space.total_bytes,
        })
    };
    [("root", top), ("data-dir", data)]
        .into_iter()
        .filter_map(|(what, mount)| describe(what, mount))
        .collect()
}

/// Swap spaces of proc(5).
pub(super) fn swaps(root: &Path) -> Vec<Swap> {
    let mounts = mounts(&read(root, "proc/self/mountinfo"));
    let is_card = |path: &str| path.starts_with("/dev/mmcblk");
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (path, kind) = (fields.next()?.to_owned(), fields.next()?);
        let on_flash = match kind {
            "file" => {
                mount_of(&mounts, &PathBuf::from(&path)).is_some_and(|it| is_card(&it.source))
            }
            _ => is_card(&path),
        };
        Some(Swap { path, on_flash })
    };
    read(root, "proc/swaps").lines().skip(1).filter_map(line).collect()
}
