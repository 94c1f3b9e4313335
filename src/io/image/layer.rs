//! Unpacks one layer into a directory that overlayfs can use as a lower directory.
//!
//! The rules are those of the OCI image layer specification (`layer.md`): whiteouts become character
//! devices 0/0, opaque whiteouts an attribute, hard links may name files of lower layers (those are
//! copied up first), directories that a path needs but the layer does not list take owner, mode and
//! attributes of the layer below, where `tar` would make them root's 0755 and so hide the lower ones.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use model::limits::{IMAGE_LAYER_BYTES_MAX, IMAGE_LAYER_ENTRIES_MAX};
use nix::sys::stat::SFlag;

use super::decompress::decompressed;
use super::digest::{Digest, HashingReader};
use super::error::TarFault;
use super::merged::{Components, Merged};
use super::tarstream::{self, Entry, Kind};
use super::tree::{Attributes, Dir, is_whiteout, kind, set_file_xattr};

const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// Unpacks `blob` into the empty directory `target`, on top of `lowers` (topmost first), and gives
/// the digest and size of the uncompressed layer. Nothing is synced.
///
/// # Errors
/// A stream that is no layer, or whose links or names lead nowhere, and what the kernel says.
pub(super) fn unpack(
    blob: impl Read,
    target: &Path,
    lowers: &[PathBuf],
) -> io::Result<(Digest, u64)> {
    let mut stream = HashingReader::new(decompressed(blob)?, IMAGE_LAYER_BYTES_MAX);
    let layers = std::iter::once(target).chain(lowers.iter().map(PathBuf::as_path));
    let mut unpacker =
        Unpacker { view: Merged::open(layers)?, times: BTreeMap::new(), parent: None };
    unpacker.copy_root()?;
    tarstream::for_each(&mut stream, IMAGE_LAYER_ENTRIES_MAX, |entry, content| {
        let shown = entry.display();
        unpacker.take(entry, content).map_err(|error| named(&shown, error))
    })?;
    unpacker.set_directory_times()?;
    stream.finish()
}

fn named(entry: &str, error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TarFault>()) {
        Some(fault) => TarFault(format!("{entry}: {fault}")).into(),
        None => io::Error::new(error.kind(), format!("{entry}: {error}")),
    }
}

struct Unpacker {
    view: Merged,
    /// Modification times of directories, set when nothing is put into them any more.
    times: BTreeMap<Components, i64>,
    /// The last parent directory by the path that asked for it: entries come in runs.
    parent: Option<(Components, Components, Dir)>,
}

impl Unpacker {
    fn copy_root(&mut self) -> io::Result<()> {
        let attributes = match self.view.find_below(&[])? {
            Some(found) => Attributes::of(&found.stat),
            None => Attributes { mode: 0o755, uid: 0, gid: 0 },
        };
        self.view.top().set_own_attributes(attributes)
    }

    fn take(&mut self, entry: Entry, content: &mut dyn Read) -> io::Result<()> {
        let Some((name, parent_path)) = entry.path.split_last() else {
            return self.take_root(&entry);
        };
        self.open_parent(parent_path)?;
        let (_, parent_resolved, parent) =
            self.parent.as_ref().expect("open_parent has just set it");
        if name == OPAQUE_MARK {
            return parent.set_opaque();
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            return whiteout(parent, hidden);
        }
        let mut path = parent_resolved.clone();
        path.push(name.clone());
        let was_whiteout = self.clear(&path, entry.kind)?;
        let (_, _, parent) = self.parent.as_ref().expect("clear keeps the parent of its path");
        let attributes = Attributes { mode: entry.mode, uid: entry.uid, gid: entry.gid };
        match entry.kind {
            Kind::Directory => {
                make_directory(parent, name, was_whiteout)?;
                let dir = parent.child(name)?;
                set_dir_xattrs(&dir, &entry)?;
                dir.set_own_attributes(attributes)?;
                self.times.insert(path, entry.mtime_seconds);
                return Ok(());
            }
            Kind::File => write_file(parent, name, &entry, content)?,
            Kind::Symlink => {
                parent.make_symlink(name, &entry.link)?;
                parent.set_owner(name, attributes)?;
                parent.set_mtime(name, entry.mtime_seconds)?;
                // A path that led through here may lead elsewhere from now on.
                self.parent = None;
                return Ok(());
            }
            Kind::HardLink => return self.hard_link(&path, &entry),
            Kind::CharDevice => parent.make_node(name, SFlag::S_IFCHR, entry.device)?,
            Kind::BlockDevice => parent.make_node(name, SFlag::S_IFBLK, entry.device)?,
            Kind::Fifo => parent.make_node(name, SFlag::S_IFIFO, (0, 0))?,
        }
        parent.set_attributes(name, attributes)?;
        parent.set_mtime(name, entry.mtime_seconds)
    }

    fn take_root(&mut self, entry: &Entry) -> io::Result<()> {
        if entry.kind != Kind::Directory {
            return Err(TarFault("the root of an image is a directory".to_owned()).into());
        }
        let attributes = Attributes { mode: entry.mode, uid: entry.uid, gid: entry.gid };
        set_dir_xattrs(self.view.top(), entry)?;
        self.view.top().set_own_attributes(attributes)
    }

    /// Opens (and makes) the directory that an entry goes into.
    fn open_parent(&mut self, path: &[Vec<u8>]) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(asked, _, _)| asked == path) {
            return Ok(());
        }
        let resolved = self.view.resolve(path, true)?;
        let dir = self.make_directories(&resolved)?;
        self.parent = Some((path.to_vec(), resolved, dir));
        Ok(())
    }

    /// Makes every directory of a resolved path in this layer, as the layers below have them.
    fn make_directories(&mut self, path: &[Vec<u8>]) -> io::Result<Dir> {
        let mut dir = self.view.top().duplicate()?;
        for (depth, name) in path.iter().enumerate() {
            let here = dir.stat(name)?;
            let is_dir = here.is_some_and(|stat| kind(&stat) == SFlag::S_IFDIR);
            if !is_dir {
                let hidden = here.is_some_and(|stat| is_whiteout(&stat));
                if here.is_some() && !hidden {
                    return Err(TarFault("its parent is not a directory".to_owned()).into());
                }
                let below = if hidden { None } else { self.view.find_below(&path[..=depth])? };
                dir.remove(name)?;
                make_directory(&dir, name, hidden)?;
                let below = below.filter(|found| kind(&found.stat) == SFlag::S_IFDIR);
                let attributes = match below {
                    Some(found) => Attributes::of(&found.stat),
                    None => Attributes { mode: 0o755, uid: 0, gid: 0 },
                };
                dir.child(name)?.set_own_attributes(attributes)?;
            }
            dir = dir.child(name)?;
        }
        Ok(dir)
    }

    /// Makes room for an entry in this layer; a directory stays when a directory comes. Says
    /// whether a whiteout was there, which a new directory has to keep up as opaque.
    fn clear(&mut self, path: &[Vec<u8>], coming: Kind) -> io::Result<bool> {
        let (name, _) = path.split_last().expect("the root is handled apart");
        let (_, _, parent) = self.parent.as_ref().expect("opened before");
        let Some(stat) = parent.stat(name)? else { return Ok(false) };
        if kind(&stat) == SFlag::S_IFDIR {
            if coming == Kind::Directory {
                return Ok(false);
            }
            self.times.retain(|dir, _| !dir.starts_with(path));
        }
        parent.remove(name)?;
        Ok(is_whiteout(&stat))
    }

    fn hard_link(&mut self, path: &[Vec<u8>], entry: &Entry) -> io::Result<()> {
        let target = self.view.resolve(&tarstream::components(&entry.link)?, false)?;
        let missing = || TarFault("hard link to a file that is not there".to_owned());
        let (target_name, target_parents) = target.split_last().ok_or_else(missing)?;
        if target == path {
            return Err(missing().into());
        }
        let found = self.view.find(&target)?.ok_or_else(missing)?;
        if kind(&found.stat) == SFlag::S_IFDIR {
            return Err(TarFault("hard link to a directory".to_owned()).into());
        }
        let source = self.make_directories(target_parents)?;
        if source.stat(target_name)?.is_none() {
            let lower = found.parent.ok_or_else(missing)?;
            copy_up(&lower, target_name, &source)?;
        }
        let (_, _, parent) = self.parent.as_ref().expect("opened before");
        let name = path.last().expect("the root is handled apart");
        parent.link(name, &source, target_name)
    }

    /// Deepest first, so that no later step touches a directory again.
    fn set_directory_times(&self) -> io::Result<()> {
        for (path, seconds) in self.times.iter().rev() {
            let (name, parents) = path.split_last().expect("the root has no time here");
            let mut dir = self.view.top().duplicate()?;
            for part in parents {
                dir = dir.child(part)?;
            }
            dir.set_mtime(name, *seconds)?;
        }
        Ok(())
    }
}

/// Hides `name` of the layers below; what this layer itself has under it stays.
fn whiteout(parent: &Dir, name: &[u8]) -> io::Result<()> {
    if name.is_empty() || name == b"." || name == b".." || name.starts_with(WHITEOUT_PREFIX) {
        return Err(TarFault("whiteout without a name".to_owned()).into());
    }
    match parent.stat(name)? {
        None => parent.make_whiteout(name),
        Some(stat) if kind(&stat) == SFlag::S_IFDIR => parent.child(name)?.set_opaque(),
        Some(_) => Ok(()),
    }
}

fn make_directory(parent: &Dir, name: &[u8], opaque: bool) -> io::Result<()> {
    if parent.stat(name)?.is_none() {
        parent.make_dir(name)?;
    }
    if opaque { parent.child(name)?.set_opaque() } else { Ok(()) }
}

fn write_file(parent: &Dir, name: &[u8], entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
    let mut file = parent.make_file(name)?;
    let written = io::copy(content, &mut file)?;
    if written != entry.size {
        return Err(TarFault("the stream ends in the middle of it".to_owned()).into());
    }
    // The owner first: a change of owner drops security.capability.
    let attributes = Attributes { mode: entry.mode, uid: entry.uid, gid: entry.gid };
    parent.set_owner(name, attributes)?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| attribute_is_kept(name)) {
        ignore_unsupported(set_file_xattr(&file, name, value))?;
    }
    Ok(())
}

fn set_dir_xattrs(dir: &Dir, entry: &Entry) -> io::Result<()> {
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| attribute_is_kept(name)) {
        ignore_unsupported(dir.set_own_xattr(name, value))?;
    }
    Ok(())
}

/// Only what belongs to the image: `trusted.overlay.*` would steer our own overlay.
fn attribute_is_kept(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
}

fn ignore_unsupported(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        other => other,
    }
}

#[allow(clippy::unnecessary_cast, reason = "the width of a time differs on 32-bit boards")]
fn copy_up(from: &Dir, name: &[u8], to: &Dir) -> io::Result<()> {
    let stat = from.stat(name)?.ok_or(io::ErrorKind::NotFound)?;
    let attributes = Attributes::of(&stat);
    match kind(&stat) {
        SFlag::S_IFREG => {
            let mut file = to.make_file(name)?;
            io::copy(&mut from.read_file(name)?, &mut file)?;
        }
        SFlag::S_IFLNK => {
            to.make_symlink(name, &from.read_link(name)?)?;
            return to.set_owner(name, attributes);
        }
        other => {
            let device = (
                u32::try_from(nix::sys::stat::major(stat.st_rdev)).unwrap_or(0),
                u32::try_from(nix::sys::stat::minor(stat.st_rdev)).unwrap_or(0),
            );
            to.make_node(name, other, device)?;
        }
    }
    to.set_attributes(name, attributes)?;
    to.set_mtime(name, stat.st_mtime as i64)
}
