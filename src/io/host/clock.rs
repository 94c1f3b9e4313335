//! Whether the system's clock follows a time server.

use nix::libc;

/// What the kernel says of its clock (adjtimex(2)); `None` when it says nothing. Daemons that follow a
/// time server (timesyncd, chrony, ntpd) tell the kernel so.
pub fn synchronised() -> Option<bool> {
    // SAFETY: `timex` holds numbers only, for which zero is a value; mode 0 means to change nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` of our own, which the kernel fills.
    let answer = unsafe { libc::adjtimex(&raw mut state) };
    (answer >= 0).then_some(answer != libc::TIME_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_can_be_asked() {
        assert!(synchronised().is_some());
    }
}
