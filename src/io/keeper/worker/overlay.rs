//! A container's root filesystem: an overlay of the image's layers and a writable directory, mounted
//! in a mount namespace of its own, so that no mount is left on the board when the container ends.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use model::limits::IMAGE_LAYERS_MAX;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::Failure;
use crate::io::keeper::wire::Refusal;

/// Puts this process into a mount namespace that sees the board's mounts and shows it none.
pub(super) fn enter_private_namespace() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    Ok(())
}

/// Mounts the overlay at `<bundle>/rootfs`.
///
/// The layers are named by short relative links, because mount options must fit a page and cannot
/// hold `:` and `,`.
pub(super) fn mount_rootfs(
    bundle: &Path,
    lower_dirs: &[PathBuf],
    writable_dir: &Path,
) -> Result<(), Failure> {
    if lower_dirs.is_empty() || lower_dirs.len() > IMAGE_LAYERS_MAX {
        let text = format!("{} image layers instead of 1 to {IMAGE_LAYERS_MAX}", lower_dirs.len());
        return Err(Failure::new(Refusal::Invalid, text));
    }
    let links = bundle.join("l");
    fs::create_dir(&links)?;
    let mut lower = String::new();
    for (index, dir) in lower_dirs.iter().enumerate() {
        if !dir.is_dir() {
            let text = format!("image layer {} is not a directory", dir.display());
            return Err(Failure::new(Refusal::Invalid, text));
        }
        symlink(dir, links.join(index.to_string()))?;
        let separator = if index == 0 { "" } else { ":" };
        lower.push_str(&format!("{separator}l/{index}"));
    }
    for name in ["upper", "work"] {
        // A work directory left by a crash of a volatile overlay is refused by the kernel.
        let dir = writable_dir.join(name);
        remove_tree(&dir)?;
        fs::create_dir_all(&dir)?;
        symlink(&dir, links.join(name))?;
    }
    fs::create_dir(bundle.join("rootfs"))?;
    std::env::set_current_dir(bundle)?;
    let options = format!("lowerdir={lower},upperdir=l/upper,workdir=l/work");
    let mounted = [format!("{options},volatile"), options].iter().try_fold((), |(), options| {
        let flags = MsFlags::empty();
        match mount(Some("overlay"), "rootfs", Some("overlay"), flags, Some(options.as_str())) {
            Ok(()) => Err(Ok(())),
            Err(nix::Error::EINVAL) if options.ends_with("volatile") => Ok(()),
            Err(error) => Err(Err(error)),
        }
    });
    match mounted {
        Err(Ok(())) => Ok(()),
        Err(Err(error)) => Err(explain(error, writable_dir)),
        Ok(()) => Err(explain(nix::Error::EINVAL, writable_dir)),
    }
}

fn explain(error: nix::Error, writable_dir: &Path) -> Failure {
    let text = match error {
        nix::Error::ENODEV => {
            "the kernel has no overlay filesystem: load it with `modprobe overlay`".to_owned()
        }
        nix::Error::EINVAL => format!(
            "mounting the overlay: the filesystem under {} cannot hold a writable layer (FAT, NFS \
             and another overlay cannot): use ext4, xfs, btrfs or f2fs for --data-dir",
            writable_dir.display()
        ),
        error => format!("mounting the overlay: {}", io::Error::from(error)),
    };
    Failure::new(Refusal::Failed, text)
}

/// Unmounts the overlay again, in this namespace.
pub(super) fn unmount_rootfs(bundle: &Path) {
    let _ = umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH);
}

/// Removes a directory and everything below it; one that is not there is fine.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("removing {}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}
