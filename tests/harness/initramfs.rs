//! What an emulated board boots: Debian's kernel for arm64 with the modules that kumquat needs, busybox,
//! kumquat, and a shell loop on the serial console that obeys the test.
//!
//! Input: a folder that `cargo xtask soak emulated` has filled from Debian's packages. Output: a cpio
//! archive (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst). Nothing here runs.

#![allow(dead_code, unreachable_pub, reason = "each theme uses its part of the harness")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kumquat::io::image::build::{SingleFile, write_archive};

/// Name of the image that lies on every emulated board, as [`IMAGE_FILE`].
pub const IMAGE: &str = "kumquat.test/busybox:arm64";
/// Where its archive lies.
pub const IMAGE_FILE: &str = "/image.tar";
/// What the console says once it obeys; and before the exit status of every command.
pub const PROMPT: &str = "@@";

/// Modules of Debian's kernel; what they need comes with them.
const MODULES: &[&str] = &[
    "crc32c_generic",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "ext4",
    "overlay",
    "bridge",
    "veth",
    "vxlan",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_reject_inet",
    "nft_limit",
    "nf_conntrack_netlink",
];

/// The programs that Debian's packages give, by their path on the board.
const PROGRAMS: &[(&str, &str)] = &[
    ("bin/busybox", "bin/busybox"),
    ("bin/adjtimex-debian", "sbin/adjtimex"),
    ("lib/ld-linux-aarch64.so.1", "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"),
    ("lib/aarch64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libc.so.6"),
    ("lib/aarch64-linux-gnu/libm.so.6", "lib/aarch64-linux-gnu/libm.so.6"),
];

/// The first process. The root is exchanged for a tmpfs: containers cannot leave an initramfs
/// (pivot_root(2)). Commands come as lines.
const INIT: &str = r#"#!/bin/busybox sh
if [ "$1" != again ]; then
  /bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /usr/bin /usr/sbin /sbin /etc /new /data
  /bin/busybox --install -s
  mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
  for module in $(cat /modules/order); do insmod "/modules/$module" || echo "no module $module"; done
  mount -t tmpfs root /new
  cp -a /bin /sbin /usr /lib /etc /root /init /image.tar /new/
  mkdir /new/proc /new/sys /new/dev /new/tmp /new/run /new/data
  for folder in proc sys dev; do mount -o move /$folder /new/$folder; done
  exec switch_root /new /init again
fi
stty -echo
mount -t tmpfs run /run; mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t ext4 /dev/vda /data
for word in $(cat /proc/cmdline); do case $word in board.*) eval "${word#board.}";; esac; done
hostname "$name"
ip link set lo up; ip address add "$address/24" dev eth0; ip link set eth0 up
echo "@@ 0"
while IFS= read -r line; do eval "$line" < /dev/null 2>&1; code=$?; echo; echo "@@ $code"; done
"#;

/// Debian's files for arm64, and kumquat's.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where the packages were unpacked.
    root: PathBuf,
    /// The static kumquat for aarch64.
    kumquat: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
}

impl Parts {
    /// What `cargo xtask soak emulated` has brought; says so when it has not.
    pub fn find(test: &str) -> Option<Self> {
        let of = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let found =
            of("KUMQUAT_EMULATED").zip(of("KUMQUAT_AARCH64")).and_then(|(root, kumquat)| {
                let kernel = entries(&root.join("boot"))
                    .into_iter()
                    .find(|path| path.to_string_lossy().contains("/vmlinuz-"))?;
                kumquat.exists().then_some(Self { root, kumquat, kernel })
            });
        if found.is_none() {
            println!("not run: {test} takes minutes: `cargo xtask soak emulated`");
        }
        found
    }

    /// Writes the initramfs into a file; `folder` is for what it is made of.
    pub fn write(&self, folder: &Path, to: &Path) -> io::Result<()> {
        let mut archive = Archive { out: io::BufWriter::new(fs::File::create(to)?), number: 0 };
        for name in ["bin", "lib", "lib/aarch64-linux-gnu", "modules"] {
            archive.add(name, 0o040_755, &[])?;
        }
        archive.add("init", 0o100_755, INIT.replace("@@", PROMPT).as_bytes())?;
        archive.add("bin/kumquat", 0o100_755, &fs::read(&self.kumquat)?)?;
        for (path, source) in PROGRAMS {
            archive.add(path, 0o100_755, &fs::read(self.root.join(source))?)?;
        }
        let mut order = String::new();
        for (name, bytes) in self.modules()? {
            order.push_str(&format!("{name}.ko\n"));
            archive.add(&format!("modules/{name}.ko"), 0o100_644, &bytes)?;
        }
        archive.add("modules/order", 0o100_644, order.as_bytes())?;
        archive.add(IMAGE_FILE.trim_start_matches('/'), 0o100_644, &self.image(folder)?)?;
        archive.add("TRAILER!!!", 0, &[])?;
        archive.out.flush()
    }

    /// The modules, each after those that it needs.
    fn modules(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut known = BTreeMap::new();
        let mut folders = vec![self.root.join("lib/modules")];
        while let Some(folder) = folders.pop() {
            for path in entries(&folder) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(name) = name.strip_suffix(".ko") {
                    known.insert(name.replace('-', "_"), path);
                }
            }
        }
        let mut ordered = Vec::new();
        for name in MODULES {
            add_module(&known, name, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn image(&self, folder: &Path) -> io::Result<Vec<u8>> {
        let program = self.root.join("bin/busybox");
        let file = SingleFile {
            name: IMAGE,
            program: &program,
            path: "bin/busybox",
            links: &["bin/sh", "bin/sleep", "bin/cat"],
            entrypoint: &["/bin/sh"],
        };
        let path = folder.join("image.tar");
        write_archive(&file, &mut fs::File::create(&path)?)?;
        let bytes = fs::read(&path)?;
        fs::remove_file(&path)?;
        Ok(bytes)
    }
}

/// Adds a module behind its dependencies; what is not there is built into the kernel.
fn add_module(
    known: &BTreeMap<String, PathBuf>,
    name: &str,
    ordered: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    let Some(path) = known.get(name) else { return Ok(()) };
    if ordered.iter().any(|(there, _)| there == name) {
        return Ok(());
    }
    let bytes = fs::read(path)?;
    for needed in dependencies(&bytes) {
        add_module(known, &needed, ordered)?;
    }
    ordered.push((name.to_owned(), bytes));
    Ok(())
}

/// What a module says that it needs: `depends=` among the words of its `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    let words = module.split(|byte| *byte == 0).filter_map(|word| word.strip_prefix(b"depends="));
    let names = words.flat_map(|word| word.split(|byte| *byte == b','));
    let names = names.filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).replace('-', "_")).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).map(|entries| entries.flatten().collect());
    entries.unwrap_or_else(|_| Vec::new()).iter().map(fs::DirEntry::path).collect()
}

/// A cpio archive in the making ("newc").
struct Archive {
    out: io::BufWriter<fs::File>,
    number: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.number += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let fields = [self.number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let head: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        write!(self.out, "070701{head}{name}\0")?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}
