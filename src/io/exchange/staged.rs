//! A new binary on its way into the folder of the old one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::upgrade::{ELF_HEAD_BYTES, elf_arch};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::process;

/// How long a binary may take to say its version.
const SAYS_WITHIN: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// Another process that forks at that moment may hold the file open for writing until its execve.
const FREE_WITHIN: Duration = Duration::from_secs(2);
/// Longest answer of `version -o json` that is read.
const SAID_BYTES_MAX: u64 = 4 * 1024;
const PIECE_BYTES: usize = 64 * 1024;

/// A finished file that is still needed; whoever else starts from the same folder leaves it alone as long as
/// this lives.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "a lock ends with its value")] Flock<File>);

/// A file that is written; what is not finished is removed.
#[derive(Debug)]
pub struct Staging {
    /// Held, too.
    file: Flock<File>,
    path: Option<PathBuf>,
    hash: Sha256,
    bytes: u64,
    bytes_max: u64,
}

impl Staging {
    /// Begins the file at `path`, which will have at most so many bytes.
    ///
    /// # Errors
    /// The folder cannot be written, or somebody else's file that is needed lies there.
    pub fn begin(path: &Path, bytes_max: u64) -> io::Result<Self> {
        if !discard_unused(path)? {
            return Err(in_use());
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
        let file = hold(file)?;
        // Before it was held, it may have been taken for what nobody needs.
        if fs::metadata(path)?.ino() != file.metadata()?.ino() {
            return Err(in_use());
        }
        Ok(Self { file, path: Some(path.to_owned()), hash: Sha256::new(), bytes: 0, bytes_max })
    }

    /// Adds to it.
    ///
    /// # Errors
    /// The disk, or more bytes than were said.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(io::Error::other("it is longer than was said"));
        }
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }

    /// Makes it durable under its name, if it is the file with this SHA-256; it can be run then.
    ///
    /// # Errors
    /// The disk, or it is another file.
    pub fn finish(mut self, sha256: &[u8; 32]) -> io::Result<Held> {
        let found: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        if found != *sha256 {
            return Err(io::Error::other("it came with another digest"));
        }
        self.file.sync_all()?;
        let path = self.path.take().unwrap_or_default();
        let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        File::open(folder)?.sync_all()?;
        // Nobody can run what is open for writing.
        Ok(Held(hold(File::open(&path)?)?))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _gone = fs::remove_file(path);
        }
    }
}

/// Removes a staged file, unless a process of this machine fetches it, is about to try it, or runs it: several
/// boards may be started from one binary. Gives whether nothing is there.
///
/// # Errors
/// It cannot be removed.
pub(super) fn discard_unused(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    let found = file.metadata()?;
    // Who goes on as that binary lets go of it once it runs it, so this order misses nobody.
    let _free = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Err((_, Errno::EWOULDBLOCK)) => return Ok(false),
        // A file system without locks: then whoever runs it counts.
        locked => locked.ok(),
    };
    if process::is_run(&found) {
        return Ok(false);
    }
    fs::remove_file(path)?;
    Ok(true)
}

fn hold(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockSharedNonblock).map_err(|(_, errno)| errno.into())
}

fn in_use() -> io::Error {
    io::Error::other("another kumquat of this machine fetches a binary there, or tries it")
}

/// SHA-256 of a file.
///
/// # Errors
/// The file cannot be read.
pub fn digest_of(path: &Path) -> io::Result<[u8; 32]> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&piece[..count]),
        }
    }
}

/// The version that a binary says it has, if it runs on this board at all. Blocking.
///
/// # Errors
/// Why this board cannot run it, as a sentence.
pub fn says_version(path: &Path) -> Result<String, String> {
    let mut head = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(ELF_HEAD_BYTES as u64).read_to_end(&mut head));
    read.map_err(|error| error.to_string())?;
    let (arch, own) = (elf_arch(&head)?, std::env::consts::ARCH);
    if arch != own {
        return Err(format!("it is for {arch}, and this board is {own}"));
    }
    let said = run(path).map_err(|error| format!("it does not run here: {error}"))?;
    let said: serde_json::Value = serde_json::from_slice(&said)
        .map_err(|_| "it does not say its version: it is no kumquat".to_owned())?;
    let version = said["version"].as_str().ok_or("it does not say its version")?;
    Ok(version.to_owned())
}

/// What `version -o json` prints.
fn run(path: &Path) -> io::Result<Vec<u8>> {
    let began = Instant::now();
    let mut command = Command::new(path);
    command.args(["version", "-o", "json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && began.elapsed() < FREE_WITHIN =>
            {
                std::thread::sleep(POLL_EVERY);
            }
            spawned => break spawned?,
        }
    };
    while child.try_wait()?.is_none() {
        if began.elapsed() > SAYS_WITHIN {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        std::thread::sleep(POLL_EVERY);
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("it ended with {status}")));
    }
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(SAID_BYTES_MAX).read_to_end(&mut said)?;
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_that_was_meant_stays() {
        let folder = std::env::temp_dir().join(format!("kumquat-staging-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("folder");
        let path = folder.join("kumquat.trial");
        let digest: [u8; 32] = Sha256::digest(b"new binary").into();
        let stage = |bytes_max, end: &[u8]| -> io::Result<()> {
            let mut staging = Staging::begin(&path, bytes_max)?;
            staging.write(b"new ")?;
            staging.write(end)?;
            staging.finish(&digest).map(drop)
        };
        for (bytes_max, end) in [(10, &b"binarx"[..]), (9, b"binary"), (10, b"")] {
            assert!(stage(bytes_max, end).is_err());
            assert!(!path.exists(), "nothing stays behind");
        }
        stage(10, b"binary").expect("staged");
        assert_eq!(digest_of(&path).expect("read"), digest);
        assert!(says_version(&path).expect_err("no program").contains("ELF"));
        fs::remove_dir_all(folder).expect("removed");
    }
}
