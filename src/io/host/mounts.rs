//! File systems that are mounted, and the wear and errors of what they lie on. Pure but for `errors`.

use std::fs;
use std::path::Path;

/// One mount of `/proc/self/mountinfo` (proc(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where.
    pub(super) point: String,
    /// Type of the file system.
    pub(super) kind: String,
    /// What it was mounted from: `/dev/mmcblk0p2`.
    pub(super) source: String,
    /// Nothing can be written.
    pub(super) read_only: bool,
}

impl Mount {
    /// Name of the block device, when it is one: `mmcblk0p2`.
    pub(super) fn device(&self) -> Option<&str> {
        self.source.strip_prefix("/dev/").filter(|name| !name.contains('/'))
    }

    /// Errors that ext4 has counted on it since its last check.
    pub(super) fn errors(&self, root: &Path) -> u64 {
        let Some(device) = self.device().filter(|_| self.kind == "ext4") else { return 0 };
        let path = root.join("sys/fs/ext4").join(device).join("errors_count");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

/// All mounts, in the kernel's order.
pub(super) fn mounts(mountinfo: &str) -> Vec<Mount> {
    let lines = mountinfo.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let mut rest = rest.split(' ');
        let (kind, source, of_device) = (rest.next()?, rest.next()?, rest.next().unwrap_or(""));
        let read_only = |options: &str| options.split(',').any(|option| option == "ro");
        Some(Mount {
            point: unescape(point),
            kind: kind.to_owned(),
            source: unescape(source),
            read_only: read_only(options) || read_only(of_device),
        })
    });
    lines.collect()
}

/// The mount that a path lies on; the last of several on one point covers the others.
pub(super) fn mount_of(mounts: &[Mount], path: &Path) -> Option<Mount> {
    let holds = |mount: &&Mount| path.starts_with(&mount.point);
    let deepest = |mount: &&Mount| mount.point.len();
    mounts.iter().filter(holds).max_by_key(deepest).cloned()
}

/// Undoes the octal escapes of proc(5): `\040` for a space.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "\
25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw,errors=remount-ro
30 25 179:1 / /boot/firmware rw,relatime - vfat /dev/mmcblk0p1 rw
40 25 8:1 / /var/lib/my\\040data rw - ext4 /dev/sda1 ro,emergency_ro
41 25 0:30 / /var/lib rw - tmpfs tmpfs rw
";

    #[test]
    fn a_path_lies_on_its_deepest_mount() {
        let mounts = mounts(INFO);
        let check = |path: &str, point: &str, read_only: bool| {
            let found = mount_of(&mounts, Path::new(path)).expect("a mount");
            assert_eq!((found.point.as_str(), found.read_only), (point, read_only), "{path}");
        };
        check("/etc", "/", false);
        check("/var/lib/kumquat", "/var/lib", false);
        check("/var/lib/my data/x", "/var/lib/my data", true);
        check("/boot/firmware2", "/", false);
        assert_eq!(mounts[0].device(), Some("mmcblk0p2"));
        assert_eq!(mounts[3].device(), None);
        assert_eq!(mount_of(&[], Path::new("/")), None);
    }
}
