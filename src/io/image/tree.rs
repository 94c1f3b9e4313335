//! Directories held by descriptor: every step opens one component and never follows a link.
//!
//! Whatever an image contains, nothing outside the directory that a [`Dir`] was opened on can be
//! reached through it. Whiteouts and opaque marks are those of overlayfs
//! (Documentation/filesystems/overlayfs.rst).

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags};

/// Overlayfs mark of a directory that hides those below.
const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

/// Owner and mode to give to a new entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Attributes {
    pub(super) fn of(stat: &FileStat) -> Self {
        Self { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }
    }
}

/// Whether a stat shows an overlayfs whiteout.
pub(super) fn is_whiteout(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

/// The file type of a stat.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn name_of(name: &[u8]) -> &OsStr {
    debug_assert!(!name.contains(&b'/') && name != b"..");
    OsStr::from_bytes(name)
}

impl Dir {
    /// Opens a directory that we made ourselves.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self(file.into()))
    }

    pub(super) fn duplicate(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    fn openat(&self, name: &[u8], flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(
            Some(self.0.as_raw_fd()),
            name_of(name),
            flags,
            Mode::from_bits_truncate(mode),
        )?;
        // SAFETY: openat has just given this descriptor and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Opens a directory in this one; a symbolic link is an error.
    pub(super) fn child(&self, name: &[u8]) -> io::Result<Self> {
        Ok(Self(self.openat(name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?))
    }

    /// Opens a regular file for reading; nothing else (a FIFO would block).
    pub(super) fn read_file(&self, name: &[u8]) -> io::Result<File> {
        let file = File::from(self.openat(name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    /// What an entry is, without following it; `None` when it is not there.
    pub(super) fn stat(&self, name: &[u8]) -> io::Result<Option<FileStat>> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        match nix::sys::stat::fstatat(Some(self.0.as_raw_fd()), name_of(name), flags) {
            Ok(stat) => Ok(Some(stat)),
            Err(nix::Error::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What this directory itself is.
    pub(super) fn stat_self(&self) -> io::Result<FileStat> {
        Ok(nix::sys::stat::fstat(self.0.as_raw_fd())?)
    }

    pub(super) fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        let target = nix::fcntl::readlinkat(Some(self.0.as_raw_fd()), name_of(name))?;
        Ok(target.as_bytes().to_vec())
    }

    pub(super) fn make_dir(&self, name: &[u8]) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(0o700);
        Ok(nix::sys::stat::mkdirat(Some(self.0.as_raw_fd()), name_of(name), mode)?)
    }

    pub(super) fn make_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(File::from(self.openat(name, flags, 0o600)?))
    }

    pub(super) fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        let target = OsStr::from_bytes(target);
        Ok(nix::unistd::symlinkat(target, Some(self.0.as_raw_fd()), name_of(name))?)
    }

    pub(super) fn make_node(&self, name: &[u8], kind: SFlag, device: (u32, u32)) -> io::Result<()> {
        let device = nix::sys::stat::makedev(device.0.into(), device.1.into());
        let mode = Mode::from_bits_truncate(0o600);
        let fd = Some(self.0.as_raw_fd());
        Ok(nix::sys::stat::mknodat(fd, name_of(name), kind, mode, device)?)
    }

    /// Hides what lower layers have under this name.
    pub(super) fn make_whiteout(&self, name: &[u8]) -> io::Result<()> {
        self.make_node(name, SFlag::S_IFCHR, (0, 0))
    }

    /// Makes `name` here another name of `from_name` in `from`.
    pub(super) fn link(&self, name: &[u8], from: &Self, from_name: &[u8]) -> io::Result<()> {
        Ok(nix::unistd::linkat(
            Some(from.0.as_raw_fd()),
            name_of(from_name),
            Some(self.0.as_raw_fd()),
            name_of(name),
            LinkatFlags::empty().difference(LinkatFlags::AT_SYMLINK_FOLLOW),
        )?)
    }

    /// Removes an entry with everything below it; no link is followed.
    pub(super) fn remove(&self, name: &[u8]) -> io::Result<()> {
        let Some(stat) = self.stat(name)? else { return Ok(()) };
        if kind(&stat) != SFlag::S_IFDIR {
            let fd = Some(self.0.as_raw_fd());
            return Ok(nix::unistd::unlinkat(fd, name_of(name), UnlinkatFlags::NoRemoveDir)?);
        }
        let path = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        std::fs::remove_dir_all(Path::new(&path).join(name_of(name)))
    }

    /// Sets owner, then mode (changing the owner clears set-uid) of an entry that is not a link.
    pub(super) fn set_attributes(&self, name: &[u8], attributes: Attributes) -> io::Result<()> {
        self.set_owner(name, attributes)?;
        Ok(nix::sys::stat::fchmodat(
            Some(self.0.as_raw_fd()),
            name_of(name),
            Mode::from_bits_truncate(attributes.mode),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?)
    }

    /// Sets the owner of an entry, also of a link itself.
    pub(super) fn set_owner(&self, name: &[u8], attributes: Attributes) -> io::Result<()> {
        Ok(nix::unistd::fchownat(
            Some(self.0.as_raw_fd()),
            name_of(name),
            Some(Uid::from_raw(attributes.uid)),
            Some(Gid::from_raw(attributes.gid)),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?)
    }

    /// Owner and mode of this directory.
    pub(super) fn set_own_attributes(&self, attributes: Attributes) -> io::Result<()> {
        std::os::unix::fs::fchown(&self.0, Some(attributes.uid), Some(attributes.gid))?;
        let mode = Mode::from_bits_truncate(attributes.mode);
        Ok(nix::sys::stat::fchmod(self.0.as_raw_fd(), mode)?)
    }

    pub(super) fn set_mtime(&self, name: &[u8], seconds: i64) -> io::Result<()> {
        let time = TimeSpec::new(seconds.clamp(0, i64::from(u32::MAX)) as _, 0);
        Ok(nix::sys::stat::utimensat(
            Some(self.0.as_raw_fd()),
            name_of(name),
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )?)
    }

    pub(super) fn is_opaque(&self) -> io::Result<bool> {
        let mut value = [0_u8; 1];
        match get_xattr(&self.0, OPAQUE, &mut value) {
            Ok(count) => Ok(count == 1 && value[0] == b'y'),
            Err(error) if is_no_attribute(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn set_opaque(&self) -> io::Result<()> {
        set_xattr(&self.0, OPAQUE, b"y")
    }

    /// Sets an attribute of this directory.
    pub(super) fn set_own_xattr(&self, name: &[u8], value: &[u8]) -> io::Result<()> {
        set_xattr(&self.0, &attribute_name(name)?, value)
    }

    /// Makes everything below durable (one call for the whole file system).
    pub(super) fn sync_file_system(&self) -> io::Result<()> {
        // SAFETY: syncfs takes a valid descriptor, which self.0 is, and touches no memory.
        match unsafe { libc::syncfs(self.0.as_raw_fd()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn attribute_name(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn is_no_attribute(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP | libc::ERANGE))
}

/// Sets an extended attribute of an open file.
pub(super) fn set_file_xattr(file: &File, name: &[u8], value: &[u8]) -> io::Result<()> {
    set_xattr(file, &attribute_name(name)?, value)
}

fn set_xattr(fd: &impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    let (data, bytes) = (value.as_ptr().cast(), value.len());
    // SAFETY: fd is open, name ends in a zero byte, data points to `bytes` readable bytes.
    match unsafe { libc::fsetxattr(fd, name.as_ptr(), data, bytes, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn get_xattr(fd: &impl AsFd, name: &CStr, value: &mut [u8]) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let (data, bytes) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: fd is open, name ends in a zero byte, data points to `bytes` writable bytes.
    let count = unsafe { libc::fgetxattr(fd, name.as_ptr(), data, bytes) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
