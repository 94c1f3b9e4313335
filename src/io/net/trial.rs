//! Whether the kernel makes the links that pods need: tried for real, in a namespace of its own.
//!
//! A module that is only on the disk is loaded by that, as a start of the first pod would do it. The
//! namespace ends with its thread, and the links with it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, unshare};

use super::Links;
use super::namespace::on_thread;

/// Kinds of links by their modules' names, each with what came of making one.
///
/// # Errors
/// There is no namespace to be had: only root may try.
pub fn links() -> io::Result<[(&'static str, io::Result<()>); 2]> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let mut links = Links::open()?;
        let own = File::open("/proc/thread-self/ns/net")?;
        links.set_up("lo")?;
        let veth = links.add_veth("kqtry0", "kqtry1", own.as_fd());
        let vxlan = links.add_vxlan("kqtry2", (1, 8_472), [2, 0, 0, 0, 0, 1], 1_450);
        Ok([("veth", veth), ("vxlan", vxlan)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_works_here_and_leaves_nothing() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: network namespaces need root");
            return;
        }
        for (name, made) in links().expect("a namespace") {
            made.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert!(nix::net::if_::if_nametoindex("kqtry0").is_err(), "not in this namespace");
    }
}
