//! The view that overlayfs would give of several layers, read without mounting anything.
//!
//! Used to unpack a layer onto those below it (links, parents' modes) and to read small files of an
//! image (`/etc/passwd`). Resolution of symbolic links stays inside the image, as `chroot` would.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;

use model::limits::SYMLINKS_MAX;
use nix::sys::stat::{FileStat, SFlag};

use super::error::TarFault;
use super::tree::{Dir, is_whiteout, kind};

/// A path inside an image, one component each, without links on the way once resolved.
pub(super) type Components = Vec<Vec<u8>>;

/// Layers, topmost first.
#[derive(Debug)]
pub(super) struct Merged {
    layers: Vec<Dir>,
}

/// Where a path was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) stat: FileStat,
    /// The directory that holds the entry; `None` for the root itself.
    pub(super) parent: Option<Dir>,
}

enum Step {
    Found(Found),
    /// Not here; layers below may have it.
    Missing,
    /// Not here, and nothing below counts.
    Hidden,
}

impl Merged {
    /// Opens layers, topmost first.
    pub(super) fn open<'a>(layers: impl IntoIterator<Item = &'a Path>) -> io::Result<Self> {
        Ok(Self { layers: layers.into_iter().map(Dir::open).collect::<io::Result<_>>()? })
    }

    /// The topmost layer.
    pub(super) fn top(&self) -> &Dir {
        &self.layers[0]
    }

    /// Finds a resolved path.
    pub(super) fn find(&self, path: &[Vec<u8>]) -> io::Result<Option<Found>> {
        find_in(&self.layers, path)
    }

    /// Finds a resolved path in the layers below the topmost.
    pub(super) fn find_below(&self, path: &[Vec<u8>]) -> io::Result<Option<Found>> {
        find_in(&self.layers[1..], path)
    }

    /// Follows the links in `path`, the last component only if asked; what does not exist stays as
    /// it is written.
    pub(super) fn resolve(&self, path: &[Vec<u8>], follow_last: bool) -> io::Result<Components> {
        let mut pending: VecDeque<Vec<u8>> = path.iter().cloned().collect();
        let mut resolved = Components::new();
        let mut links = 0;
        while let Some(part) = pending.pop_front() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    resolved.pop();
                    continue;
                }
                _ => resolved.push(part),
            }
            if pending.is_empty() && !follow_last {
                break;
            }
            let Some(found) = self.find(&resolved)? else { continue };
            if kind(&found.stat) != SFlag::S_IFLNK {
                continue;
            }
            links += 1;
            if links > SYMLINKS_MAX {
                return Err(TarFault("too many levels of symbolic links".to_owned()).into());
            }
            let name = resolved.pop().unwrap_or_default();
            let parent = found.parent.expect("a link is not the root, so it has a parent");
            let target = parent.read_link(&name)?;
            if target.first() == Some(&b'/') {
                resolved.clear();
            }
            for part in target.split(|b| *b == b'/').rev() {
                pending.push_front(part.to_vec());
            }
        }
        Ok(resolved)
    }

    /// Opens a regular file by path, following links inside the image.
    pub(super) fn open_file(&self, path: &[Vec<u8>]) -> io::Result<Option<File>> {
        let resolved = self.resolve(path, true)?;
        let Some(found) = self.find(&resolved)? else { return Ok(None) };
        match (found.parent, resolved.last()) {
            (Some(parent), Some(name)) => parent.read_file(name).map(Some),
            _ => Ok(None),
        }
    }
}

fn find_in(layers: &[Dir], path: &[Vec<u8>]) -> io::Result<Option<Found>> {
    for layer in layers {
        match find_in_layer(layer, path)? {
            Step::Found(found) => return Ok(Some(found)),
            Step::Hidden => return Ok(None),
            Step::Missing => {}
        }
    }
    Ok(None)
}

fn find_in_layer(layer: &Dir, path: &[Vec<u8>]) -> io::Result<Step> {
    let Some((last, parents)) = path.split_last() else {
        return Ok(Step::Found(Found { stat: layer.stat_self()?, parent: None }));
    };
    let mut dir = layer.duplicate()?;
    let mut opaque = dir.is_opaque()?;
    let missing = |opaque| if opaque { Step::Hidden } else { Step::Missing };
    for name in parents {
        match dir.stat(name)? {
            None => return Ok(missing(opaque)),
            Some(stat) if kind(&stat) != SFlag::S_IFDIR => return Ok(Step::Hidden),
            Some(_) => dir = dir.child(name)?,
        }
        opaque |= dir.is_opaque()?;
    }
    Ok(match dir.stat(last)? {
        None => missing(opaque),
        Some(stat) if is_whiteout(&stat) => Step::Hidden,
        Some(stat) => Step::Found(Found { stat, parent: Some(dir) }),
    })
}
