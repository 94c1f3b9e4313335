//! How one of several targets is chosen, packed into a number.
//!
//! Services that choose alike share one chain. The number of that chain stands in the map of services:
//! were it a verdict, the kernel would look at all services again whenever one is added.

use std::fmt;

/// Bits of [`Choice::count`].
const COUNT_BITS: u32 = 12;
/// Bits of [`Choice::sticky_seconds`].
const STICKY_BITS: u32 = 17;
const LOCAL: u32 = 1 << 30;
const ANY: u32 = 1 << 29;
const _: () = assert!(COUNT_BITS + STICKY_BITS == 29);
const _: () = assert!(model::limits::SERVICE_ENDPOINTS_MAX < 1 << COUNT_BITS);
const _: () = assert!(model::limits::SERVICE_AFFINITY_SECONDS_MAX < 1 << STICKY_BITS);

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
    /// The number that stands for it.
    pub fn number(self) -> u32 {
        let flags = if self.local { LOCAL } else { 0 } | if self.any { ANY } else { 0 };
        flags | self.sticky_seconds << COUNT_BITS | self.count
    }

    /// The choice that a number stands for.
    pub fn from_number(number: u32) -> Self {
        Self {
            count: number & ((1 << COUNT_BITS) - 1),
            sticky_seconds: (number >> COUNT_BITS) & ((1 << STICKY_BITS) - 1),
            local: number & LOCAL != 0,
            any: number & ANY != 0,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_everything() {
        for count in [0, 1, 1000] {
            for sticky_seconds in [0, 1, 10_800, 86_400] {
                for (local, any) in [(false, false), (true, false), (false, true), (true, true)] {
                    let choice = Choice { count, sticky_seconds, local, any };
                    assert_eq!(Choice::from_number(choice.number()), choice);
                }
            }
        }
    }
}
