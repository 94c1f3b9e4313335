//! A pod's namespaces, pinned by bind mounts instead of a pause process.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::overlay::remove_tree;
use super::{Failure, Site, answer};
use crate::io::keeper::cgroup::Hierarchies;
use crate::io::keeper::wire::{Refusal, ResponseV1, SandboxV1};

/// Files of a sandbox that may be mount points.
pub(in crate::io::keeper) const PINS: [&str; 4] = ["net", "ipc", "uts", "pid"];

/// Runs in a fork of the holder. `net` is a network namespace to adopt; else a new one is made.
pub(in crate::io::keeper) fn run_create(
    site: &Site,
    sandbox: &SandboxV1,
    net: Option<&Path>,
    mut stream: UnixStream,
) -> u8 {
    let made = create(site, sandbox, net).inspect_err(|_| {
        let _ = unpin(&site.layout.sandbox(&sandbox.uid));
    });
    answer(&mut stream, made.map(|()| ResponseV1::Done))
}

/// Runs in a fork of the holder.
pub(in crate::io::keeper) fn run_remove(site: &Site, uid: &str, mut stream: UnixStream) -> u8 {
    let removed = unpin(&site.layout.sandbox(uid))
        .and_then(|()| Hierarchies::detect()?.remove(&site.pod_cgroup(uid)));
    answer(&mut stream, removed.map(|()| ResponseV1::Done).map_err(Failure::from))
}

fn create(site: &Site, sandbox: &SandboxV1, net: Option<&Path>) -> Result<(), Failure> {
    let dir = site.layout.sandbox(&sandbox.uid);
    if dir.join("ready").exists() {
        return Ok(());
    }
    if let Some(net) = net {
        refuse_own(net)?;
    }
    unpin(&dir)?;
    fs::create_dir_all(&dir)?;
    let mut flags = CloneFlags::CLONE_NEWUTS;
    let mut pins = vec!["uts"];
    let own_network = !sandbox.host_network && net.is_none();
    if own_network {
        flags |= CloneFlags::CLONE_NEWNET;
        pins.push("net");
    }
    if !sandbox.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
        pins.push("ipc");
    }
    let failed = |what: &str, error: nix::Error| {
        Failure::new(Refusal::Failed, format!("{what}: {}", io::Error::from(error)))
    };
    unshare(flags).map_err(|error| failed("making the pod's namespaces", error))?;
    if !sandbox.hostname.is_empty() {
        nix::unistd::sethostname(&sandbox.hostname)
            .map_err(|error| failed("setting the pod's host name", error))?;
    }
    if own_network {
        bring_up_loopback()?;
    }
    let own = pins.into_iter().map(|pin| (pin, PathBuf::from(format!("/proc/self/ns/{pin}"))));
    let adopted = net.filter(|_| !sandbox.host_network).map(|net| ("net", net.to_owned()));
    for (pin, source) in own.chain(adopted) {
        let target = dir.join(pin);
        File::create(&target)?;
        mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|error| failed("pinning the pod's namespaces", error))?;
    }
    File::create(dir.join("ready"))?;
    Ok(())
}

/// A pod without `hostNetwork` never gets the board's own links, whatever the path to adopt names.
fn refuse_own(net: &Path) -> Result<(), Failure> {
    let (own, adopted) = (fs::metadata("/proc/self/ns/net")?, fs::metadata(net)?);
    if own.dev() != adopted.dev() || own.ino() == adopted.ino() {
        let text = "the network namespace to adopt is gone".to_owned();
        return Err(Failure::new(Refusal::Failed, text));
    }
    Ok(())
}

/// Unmounts and removes a sandbox; one that is not there is fine.
pub(in crate::io::keeper) fn unpin(dir: &Path) -> io::Result<()> {
    for pin in PINS {
        // More than once when a crash left a mount upon a mount.
        while umount2(&dir.join(pin), MntFlags::MNT_DETACH).is_ok() {}
    }
    remove_tree(dir)
}

fn bring_up_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: `ifreq` is a C struct of integers and a union of such; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which `request` is, and keeps no pointer to it.
    let set = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
