//! Volumes of a pod: filled before its containers start, kept up while they run.
//!
//! In: the pod and the objects it names. Out: directories to bind into containers. Everything that
//! comes from the API lies under the run-dir (memory on a real board) and is replaced as a whole.

mod atomic;
mod payload;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use logic::pod::spec::{EmptyDir, HostPath, Pod, Volume, VolumeMount};
use logic::pod::token::{TokenText, life_seconds};
use model::quantity::Quantity;
use nix::mount::{MntFlags, MsFlags};

use super::container::field::BoardFacts;
use super::object::Objects;
use super::place::{PodPlaces, file_name};

/// Why volumes could not be filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFault {
    pub(crate) message: String,
    /// Trying again can help without a change of objects or pod.
    pub(crate) retry: bool,
}

/// Fills every volume of a pod.
pub(crate) fn prepare(
    pod: &Pod,
    objects: &Objects,
    board: &BoardFacts,
    places: &PodPlaces,
) -> Result<(), VolumeFault> {
    for volume in &pod.spec.volumes {
        fill(volume, pod, objects, board, places).map_err(|fault| VolumeFault {
            message: format!(
                "MountVolume.SetUp failed for volume {:?} : {}",
                volume.name, fault.message
            ),
            ..fault
        })?;
    }
    Ok(())
}

fn fill(
    volume: &Volume,
    pod: &Pod,
    objects: &Objects,
    board: &BoardFacts,
    places: &PodPlaces,
) -> Result<(), VolumeFault> {
    let fixed = |message: String| VolumeFault { message, retry: false };
    let transient = |error: io::Error| VolumeFault { message: error.to_string(), retry: true };
    let fs_group = pod.spec.security_context.fs_group;
    let dir = source_dir(volume, places);
    if let Some(payload) = payload::of_volume(volume, pod, objects, board).map_err(fixed)? {
        return atomic::write(&dir, &payload, fs_group).map_err(transient);
    }
    if let Some(host_path) = &volume.host_path {
        return check_host_path(host_path).map_err(fixed);
    }
    let default = EmptyDir::default();
    match (&volume.empty_dir, volume.other.keys().next()) {
        (None, Some(kind)) => {
            Err(fixed(format!("volumes of type {kind} are not supported on this board")))
        }
        (empty_dir, _) => {
            let empty_dir = empty_dir.as_ref().unwrap_or(&default);
            make_empty_dir(&dir, empty_dir, fs_group).map_err(transient)
        }
    }
}

/// Where a volume lies on the board.
fn source_dir(volume: &Volume, places: &PodPlaces) -> PathBuf {
    if let Some(host_path) = &volume.host_path {
        return PathBuf::from(&host_path.path);
    }
    let in_memory = volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.starts_with("Memory"));
    let root = if is_projected(volume) || in_memory { &places.run } else { &places.data };
    root.join("volumes").join(file_name(&volume.name))
}

/// Filled from the API: read-only for containers.
pub(crate) fn is_projected(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

/// The tokens that lie in a pod's volumes.
pub(crate) fn tokens_found(pod: &Pod, places: &PodPlaces) -> Vec<TokenText> {
    let mut found = Vec::new();
    for volume in &pod.spec.volumes {
        let sources = volume.projected.iter().flat_map(|projected| &projected.sources);
        for file in sources.filter_map(|source| source.service_account_token.as_ref()) {
            // Its path was checked when it was written.
            let path = source_dir(volume, places).join(&file.path);
            if let Ok(text) = fs::read_to_string(path) {
                found.push((file.audience.clone(), life_seconds(file), text));
            }
        }
    }
    found
}

/// The path on the board that a mount shows, with its `subPath` made if need be.
///
/// # Errors
/// A sentence for a person.
pub(crate) fn mount_source(
    mount: &VolumeMount,
    sub_path: &str,
    pod: &Pod,
    places: &PodPlaces,
) -> Result<PathBuf, String> {
    let volume = pod.spec.volumes.iter().find(|volume| volume.name == mount.name);
    let volume = volume.ok_or_else(|| format!("volume {:?} not found", mount.name))?;
    let root = source_dir(volume, places);
    let mut path = root.clone();
    if is_projected(volume) {
        // Our own links: ..data and what points into it.
        let joined = root.join(sub_path.trim_start_matches('/'));
        let real = |path: &Path| path.canonicalize().map_err(|_| missing_sub_path(sub_path));
        return match sub_path.is_empty() {
            true => Ok(root),
            false => real(&joined)?
                .starts_with(real(&root)?)
                .then_some(real(&joined)?)
                .ok_or_else(|| missing_sub_path(sub_path)),
        };
    }
    for part in sub_path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        path.push(part);
        let fault = |error: io::Error| format!("subPath {sub_path:?}: {error}");
        match fs::symlink_metadata(&path) {
            // A container could point it at anything on the board.
            Ok(meta) if meta.is_symlink() => {
                return Err(format!("subPath {sub_path:?} leads through a symbolic link"));
            }
            Ok(_) if part == ".." => return Err(missing_sub_path(sub_path)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path).map_err(fault)?;
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(&path, mode).map_err(fault)?;
            }
            Err(error) => return Err(fault(error)),
        }
    }
    Ok(path)
}

fn missing_sub_path(sub_path: &str) -> String {
    format!("subPath {sub_path:?} does not exist in the volume")
}

fn make_empty_dir(dir: &Path, spec: &EmptyDir, fs_group: Option<u32>) -> io::Result<()> {
    let existed = dir.is_dir();
    fs::create_dir_all(dir)?;
    if spec.medium.starts_with("Memory") && !is_mount_point(dir)? {
        let size = spec.size_limit.as_ref().and_then(|amount| Quantity::parse(&amount.text()).ok());
        let size = size.map(|size| format!("size={},", size.value())).unwrap_or_default();
        let options = format!("{size}mode=0777");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options.as_str()))?;
    } else if existed {
        return Ok(());
    }
    let mode = if fs_group.is_some() { 0o2777 } else { 0o777 };
    if let Some(gid) = fs_group {
        std::os::unix::fs::chown(dir, None, Some(gid))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

fn is_mount_point(dir: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = dir.parent().unwrap_or(dir);
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

fn check_host_path(spec: &HostPath) -> Result<(), String> {
    let HostPath { path, r#type } = spec;
    let meta = fs::metadata(path).ok();
    let kind = meta.as_ref().map(fs::Metadata::file_type);
    let fault = |what: &str| Err(format!("hostPath type check failed: {path} is not {what}"));
    match (r#type.as_str(), kind) {
        ("" | "DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(|error| format!("hostPath {path}: {error}"))
        }
        ("FileOrCreate", None) => {
            fs::write(path, b"").map_err(|error| format!("hostPath {path}: {error}"))
        }
        ("", Some(_)) => Ok(()),
        ("Directory" | "DirectoryOrCreate", Some(kind)) if kind.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(kind)) if kind.is_file() => Ok(()),
        ("Socket", Some(kind)) if kind.is_socket() => Ok(()),
        ("CharDevice", Some(kind)) if kind.is_char_device() => Ok(()),
        ("BlockDevice", Some(kind)) if kind.is_block_device() => Ok(()),
        ("Directory" | "DirectoryOrCreate", _) => fault("a directory"),
        ("File" | "FileOrCreate", _) => fault("a file"),
        ("Socket", _) => fault("a socket file"),
        ("CharDevice", _) => fault("a character device"),
        ("BlockDevice", _) => fault("a block device"),
        (other, _) => Err(format!("hostPath type {other:?} is not supported")),
    }
}

/// Unmounts what was mounted for a pod's volumes.
pub(crate) fn release(run: &Path) -> io::Result<()> {
    for name in super::place::entries(&run.join("volumes"))? {
        let dir = run.join("volumes").join(name);
        if dir.is_dir() && is_mount_point(&dir)? {
            nix::mount::umount2(&dir, MntFlags::MNT_DETACH)?;
        }
    }
    Ok(())
}
