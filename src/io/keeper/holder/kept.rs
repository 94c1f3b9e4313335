//! Descriptors that outlive the agent: what comes in on a socket waits for the next agent.
//!
//! The holder never looks at them. They pass an upgrade by execve under their names, in the
//! environment: an older build that does not know of them takes no harm.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use model::limits::{KEPT_DESCRIPTORS_MAX, KEPT_NAME_BYTES_MAX, KEPT_SETS_MAX};

use crate::io::keeper::paths::check_id;
use crate::io::keeper::process::{inherited, let_inherit};
use crate::io::keeper::wire::Refusal;
use crate::io::keeper::worker::Failure;

/// Sets of descriptors by name.
#[derive(Debug, Default)]
pub(in crate::io::keeper) struct Kept(BTreeMap<String, Vec<OwnedFd>>);

impl Kept {
    /// Names the sets of an upgrade: `dns=7,8 other=9`.
    pub(in crate::io::keeper) const VARIABLE: &str = "KUMQUAT_KEPT";

    /// Keeps a set instead of the one with this name; an empty one is forgotten.
    pub(super) fn put(&mut self, name: &str, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        check_id(name)?;
        let room = self.0.contains_key(name) || self.0.len() < KEPT_SETS_MAX;
        if name.len() > KEPT_NAME_BYTES_MAX || fds.len() > KEPT_DESCRIPTORS_MAX || !room {
            return Err(Failure::new(Refusal::Exhausted, "too many descriptors are kept"));
        }
        match fds.is_empty() {
            true => drop(self.0.remove(name)),
            false => drop(self.0.insert(name.to_owned(), fds)),
        }
        Ok(())
    }

    /// A set by its name.
    pub(super) fn get(&self, name: &str) -> Result<&[OwnedFd], Failure> {
        let none = || Failure::new(Refusal::NotFound, format!("nothing is kept as {name:?}"));
        self.0.get(name).map(Vec::as_slice).ok_or_else(none)
    }

    /// Lets the sets pass an execve; gives what names them there.
    pub(super) fn pass_on(&self) -> io::Result<String> {
        let mut words = Vec::new();
        for (name, fds) in &self.0 {
            let mut numbers = Vec::new();
            for fd in fds {
                let_inherit(fd.as_raw_fd())?;
                numbers.push(fd.as_raw_fd().to_string());
            }
            words.push(format!("{name}={}", numbers.join(",")));
        }
        Ok(words.join(" "))
    }

    /// Takes over what was passed on; what cannot be is left out.
    pub(in crate::io::keeper) fn inherit(words: &OsStr) -> Self {
        let mut kept = Self::default();
        for word in words.to_str().unwrap_or_default().split(' ') {
            let Some((name, numbers)) = word.split_once('=') else { continue };
            let fds = numbers.split(',').map(|number| inherited(number.as_ref()));
            if let Ok(fds) = fds.collect::<io::Result<Vec<OwnedFd>>>()
                && let Err(Failure { text, .. }) = kept.put(name, fds)
            {
                eprintln!("holder: {word}: {text}");
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn sets_pass_an_upgrade_and_are_bounded() {
        let (mut ours, theirs) = UnixStream::pair().expect("pair");
        let copy = || vec![OwnedFd::from(theirs.try_clone().expect("copy"))];
        let mut kept = Kept::default();
        kept.put("dns", copy()).expect("room");
        kept.put("dns", copy()).expect("replaced");
        assert!(kept.put("a b", copy()).is_err() && kept.put(&"x".repeat(33), copy()).is_err());
        let words = kept.pass_on().expect("open");
        // What execve does: the numbers stay, their owners are gone.
        let fds = std::mem::take(&mut kept.0);
        std::mem::forget(fds);
        let passed = Kept::inherit(words.as_ref());
        let fd = passed.get("dns").expect("passed").first().expect("one");
        UnixStream::from(fd.try_clone().expect("open")).write_all(b"x").expect("room");
        let mut byte = [0];
        ours.read_exact(&mut byte).expect("the same socket");
        assert!(passed.get("other").is_err());
        assert!(Kept::inherit("dns=999999 =999998 x".as_ref()).get("dns").is_err());
        for index in 0..KEPT_SETS_MAX {
            kept.put(&format!("set{index}"), copy()).expect("room");
        }
        assert!(kept.put("more", copy()).is_err());
        kept.put("set0", Vec::new()).expect("forgotten");
        kept.put("more", copy()).expect("room");
    }
}
