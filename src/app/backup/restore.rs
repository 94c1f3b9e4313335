//! A fresh board becomes the master of a saved cluster.
//!
//! ```text
//! data-dir is fresh -> restore.new/{store, pki, board.json}, all of it durable and the backup read to its end
//!   -> rename to restore -> each part to its place, board.json last -> restore is removed
//! ```
//! Before the rename a cut leaves a fresh board, after it the next start goes on from there.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use model::backup::BackupHeadV1;
use model::masters::SecretBytes;
use model::timestamp::Timestamp;
use nix::sys::statvfs::statvfs;

use super::args::RestoreArgs;
use super::content::read_head;
use super::wanted;
use super::withdraw;
use super::write::{Counted, Task, check};
use crate::app::dirs::Dirs;
use crate::app::identity::{self, Identity, Role};
use crate::app::up;
use crate::io::backup::{Opener, Secret};
use crate::io::store::{Options, SecretsKeys, SnapshotFacts, Store};
use crate::io::tls::{Pki, TokenKeys};

/// A disk with less than this is full.
const FULL_BYTES: u64 = 256 * 1024;
/// What is whole and goes to its places.
const WHOLE: &str = "restore";
/// What is being written.
const STAGING: &str = "restore.new";

/// Restores; the board must not run.
pub(super) fn run(
    dirs: &Dirs,
    arguments: &RestoreArgs,
    secret: Option<Secret>,
    task: &Task,
) -> Result<()> {
    let dirs = up::prepare(dirs)?;
    let _lock = up::lock(&dirs.data)?;
    if finish(&dirs.data)? {
        say!(
            "an earlier restore into {} is complete now: start the board with `kumquat up`",
            dirs.data.display()
        );
        return Ok(());
    }
    refuse_used(&dirs)?;
    let staging = Staging::make(&dirs.data)?;
    let (identity, facts, notes) = fill(&staging.0, &dirs, arguments, secret, task)?;
    staging.place(&dirs.data)?;
    finish(&dirs.data)?;
    say!(
        "restored cluster {} as board {}: {} objects, up to version {}; start it with `kumquat up`",
        identity.cluster,
        identity.name,
        facts.objects,
        facts.version
    );
    say!("{}", notes.text());
    Ok(())
}

/// What is otherwise than a person may think after a restore.
struct Notes {
    taken: Timestamp,
    tokens: usize,
    evicted: usize,
}

impl Notes {
    fn text(&self) -> String {
        let Self { taken, tokens, evicted } = self;
        format!(
            "no board joins with a token of the backup ({tokens} removed): `kumquat token create` makes new \
             ones\nWARNING: the cluster knows only the {evicted} boards that were thrown out before {taken}; those \
             thrown out later are let in again: `kumquat board evict NAME` once more, and change the Secrets \
             that they had. If one of them was a master, the cluster took other keys then, and no board comes by \
             itself: `kumquat board leave --forget` on each, then a new token"
        )
    }
}

/// A board that is something already would lose that.
fn refuse_used(dirs: &Dirs) -> Result<()> {
    let authority = dirs.data.join("pki/ca.crt");
    let parts = [dirs.board(), dirs.store(), dirs.master(), dirs.genesis(), authority];
    let Some(part) = parts.into_iter().find(|part| part.exists()) else { return Ok(()) };
    bail!(
        "{} is in use: {} is there. Restore on a fresh board, or into another folder with --data-dir; or, if \
         nothing of this board is needed any more, remove that folder first",
        dirs.data.display(),
        part.display()
    )
}

/// The folder of what is not whole yet; it goes when this is dropped.
struct Staging(PathBuf);

impl Staging {
    fn make(data: &Path) -> Result<Self> {
        let path = data.join(STAGING);
        remove(&path)?;
        let made = fs::create_dir(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// From here on a cut leaves a restored board.
    fn place(self, data: &Path) -> Result<()> {
        let placed = (|| {
            for folder in [self.0.join("pki"), self.0.join("store"), self.0.clone()] {
                sync(&folder)?;
            }
            fs::rename(&self.0, data.join(WHOLE))?;
            sync(data)
        })();
        placed.with_context(|| format!("cannot write {}", data.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is removed by the next restore or start.
        let _gone = remove(&self.0);
    }
}

/// Everything of the restored board, below `staging`.
fn fill(
    staging: &Path,
    dirs: &Dirs,
    arguments: &RestoreArgs,
    secret: Option<Secret>,
    task: &Task,
) -> Result<(Identity, SnapshotFacts, Notes)> {
    let path = &arguments.file;
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let size = file.metadata()?.len();
    let named = || path.display().to_string();
    let followed = task.follow(file, "restoring", size);
    let mut opener = Opener::new(followed, |header| wanted(secret, header)).with_context(named)?;
    let head = read_head(&mut opener).with_context(named)?;
    let identity = identity(&head, arguments)?;
    let epochs = epochs(&head, arguments)?;
    let store = staging.join("store");
    let mut counted = Counted { from: opener, bytes: 0 };
    let restored = Store::restore(&store, &mut counted, epochs);
    let facts = restored.map_err(|error| told_full(error.into(), staging)).with_context(named)?;
    // The snapshot was read to the end of the file, which was authenticated.
    if counted.read(&mut [0])? != 0 {
        bail!("{} goes on after its end", path.display());
    }
    check(&head, facts, counted.bytes).with_context(named)?;
    Pki::restore(staging, &head.authority, &head.authority_key.0)?;
    let text = |pem: &SecretBytes| String::from_utf8_lossy(&pem.0).into_owned();
    let pems: Vec<String> = head.token_keys.iter().map(text).collect();
    if !pems.is_empty() {
        TokenKeys::install(staging, &pems)?;
    }
    let mut options = Options::new(&store);
    if !head.secrets_keys.is_empty() {
        let keys = SecretsKeys::install(staging, &head.secrets_keys);
        options.secrets = Some(keys.context("cannot keep the keys of Secrets")?);
    }
    let tokens = withdraw::tokens(options).map_err(|error| told_full(error, staging))?;
    identity.save(&Dirs::new(staging, &dirs.run))?;
    let notes = Notes { taken: head.taken, tokens, evicted: head.evicted.len() };
    Ok((identity, facts, notes))
}

/// The database calls a write that the disk had half the space for an error of the device.
fn told_full(error: anyhow::Error, folder: &Path) -> anyhow::Error {
    #[allow(clippy::useless_conversion, reason = "both are 32 bits wide on some boards")]
    let free =
        statvfs(folder).map(|disk| u64::from(disk.blocks_free()) * u64::from(disk.fragment_size()));
    match free {
        Ok(free) if free < FULL_BYTES => {
            anyhow::Error::from(io::Error::from(ErrorKind::StorageFull))
                .context(format!("{error:#}"))
        }
        _ => error,
    }
}

/// Who this board becomes.
fn identity(head: &BackupHeadV1, arguments: &RestoreArgs) -> Result<Identity> {
    let name = identity::chosen_name(arguments.name.as_deref())?;
    if head.boards.contains(&name) {
        bail!(
            "{name} is a board of cluster {} already, and a board keeps its name for life: give this one \
             another with --name (boards: {})",
            head.cluster,
            head.boards.join(" ")
        );
    }
    Ok(Identity {
        name,
        cluster: head.cluster.clone(),
        id: identity::random_id()?,
        pod_range: head.pod_range.parse()?,
        service_range: head.service_range.parse()?,
        role: Role::Founder,
    })
}

fn epochs(head: &BackupHeadV1, arguments: &RestoreArgs) -> Result<u64> {
    let next = head.epoch + 1;
    match arguments.epoch.unwrap_or(next).checked_sub(head.epoch) {
        Some(epochs @ 1..=model::limits::BACKUP_EPOCHS_MAX) => Ok(epochs),
        _ => bail!(
            "--epoch: the backup is of epoch {}, so give {next} to {}",
            head.epoch,
            head.epoch + model::limits::BACKUP_EPOCHS_MAX
        ),
    }
}

/// Puts a whole restored board to its places, if there is one, and removes what never was whole; whether
/// there was one. Whoever calls it holds the lock of the data-dir.
///
/// # Errors
/// The disk refuses: what is done is done, and the next call goes on.
pub(in crate::app) fn finish(data: &Path) -> Result<bool> {
    remove(&data.join(STAGING))?;
    let whole = data.join(WHOLE);
    if !whole.exists() {
        return Ok(false);
    }
    let placed = (|| {
        let pki = data.join("pki");
        fs::create_dir_all(&pki)?;
        fs::set_permissions(&pki, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let names = match fs::read_dir(whole.join("pki")) {
            Ok(names) => names.map(|entry| entry.map(|entry| entry.file_name())).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        for name in names? {
            fs::rename(whole.join("pki").join(&name), pki.join(&name))?;
        }
        sync(&pki)?;
        place(&whole.join("store"), &data.join("store"))?;
        sync(data)?;
        place(&whole.join("board.json"), &data.join("board.json"))?;
        sync(data)
    })();
    placed.with_context(|| format!("cannot finish the restore into {}", data.display()))?;
    remove(&whole)?;
    Ok(true)
}

fn place(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file below, with what it holds.
    fn tree(folder: &Path) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => found.extend(tree(&path)),
                false => found.push((path.clone(), fs::read_to_string(&path).expect("text"))),
            }
        }
        found.sort();
        found
    }

    fn staged(data: &Path) -> Staging {
        let _gone = fs::remove_dir_all(data);
        fs::create_dir_all(data.join("pki")).expect("made");
        fs::write(data.join("pki/board.pem"), "the board's own").expect("written");
        let staging = Staging::make(data).expect("made");
        for folder in ["pki", "store/log"] {
            fs::create_dir_all(staging.0.join(folder)).expect("made");
        }
        for name in ["pki/ca.crt", "pki/ca.key", "store/log/1", "board.json"] {
            fs::write(staging.0.join(name), name).expect("written");
        }
        staging
    }

    #[test]
    fn a_cut_leaves_a_fresh_board_or_a_restored_one() {
        let data = std::env::temp_dir().join(format!("kumquat-restore-{}", std::process::id()));
        // Before the rename: whoever starts next finds a fresh board.
        std::mem::forget(staged(&data));
        assert!(!finish(&data).expect("nothing to finish"));
        assert_eq!(tree(&data), [(data.join("pki/board.pem"), "the board's own".to_owned())]);
        // A refusal on the way leaves the same.
        drop(staged(&data));
        assert_eq!(tree(&data).len(), 1);
        // After it: at whatever step, the next start has all of it.
        staged(&data).place(&data).expect("placed");
        assert!(finish(&data).expect("finished"));
        let whole = tree(&data);
        assert_eq!(whole.len(), 5, "{whole:?}");
        let steps = ["pki/ca.crt", "pki/ca.key", "store", "board.json"];
        for done in 0..=steps.len() {
            staged(&data).place(&data).expect("placed");
            for step in &steps[..done] {
                fs::rename(data.join(WHOLE).join(step), data.join(step)).expect("moved");
            }
            assert_eq!(data.join("board.json").exists(), done == steps.len());
            assert!(finish(&data).expect("finished"), "after {done} steps");
            assert_eq!(tree(&data), whole, "after {done} steps");
            assert!(!finish(&data).expect("nothing to do"));
        }
        fs::remove_dir_all(data).expect("removed");
    }
}
