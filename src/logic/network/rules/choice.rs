//! How one of several targets is chosen. Services that choose alike share one chain, named by this.

use std::fmt;
use std::sync::Arc;

use super::program::{Verdict, names};

/// How a target is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Choice {
    /// How many there are; with 0 the packet is dropped without a word.
    pub count: u32,
    /// How long a client stays with its target after its last connection; 0 for not at all.
    pub sticky_seconds: u32,
    /// Only the targets of this board.
    pub local: bool,
    /// The frontend is a port of all addresses.
    pub any: bool,
}

impl Choice {
    /// Where it leads: to its chain, or nowhere.
    pub fn verdict(self) -> Verdict {
        match self.count {
            0 => Verdict::Drop,
            _ => Verdict::Goto(self.to_string().into()),
        }
    }

    /// The set of frontends that remember their clients for as long.
    pub fn sticky_set(self) -> Option<Arc<str>> {
        let sticky = self.sticky_seconds > 0 && self.count > 0;
        sticky.then(|| format!("{}{}", names::STICKY, self.sticky_seconds).into())
    }
}

impl fmt::Display for Choice {
    /// The name of its chain: `pick-3`, `pick-1-local-any-sticky-10800`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pick-{}", self.count)?;
        if self.local {
            f.write_str("-local")?;
        }
        if self.any {
            f.write_str("-any")?;
        }
        if self.sticky_seconds > 0 {
            write!(f, "-sticky-{}", self.sticky_seconds)?;
        }
        Ok(())
    }
}
