//! Gives code back that only the start needed.
//!
//! A start runs through code that a quiet board never needs again (founding, joining, first
//! certificates), and the kernel maps it in pieces of 64 kB. These pages count for the process and are
//! the last that the kernel takes when memory runs short. Dropping the mapping keeps them in the page
//! cache, where they are the first to go; what runs comes back at its next use without a disk.

use std::fs;
use std::io;

use nix::libc;

/// Drops the mapped pages of this program's code; gives how many bytes of code there are.
///
/// # Errors
/// The kernel does not tell the mappings, or refuses.
pub fn give_back_code() -> io::Result<usize> {
    let program = std::env::current_exe()?;
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut bytes = 0;
    for line in maps.lines().filter(|line| line.ends_with(&*program.to_string_lossy())) {
        let Some((from, to)) = code_range(line) else { continue };
        // SAFETY: the range is one mapping of the kernel's own list. It is private, of a file, and not
        // writable: a page that is dropped is read again from that file at its next use. Nothing is
        // ever written into code, so nothing can be lost; relocated data is not executable.
        let dropped = unsafe { libc::madvise(from as *mut _, to - from, libc::MADV_DONTNEED) };
        if dropped != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += to - from;
    }
    Ok(bytes)
}

/// Start and end of a mapping with code that nobody may write (`proc(5)`, `/proc/pid/maps`).
fn code_range(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let (from, to) = range.split_once('-')?;
    let hex = |text| usize::from_str_radix(text, 16).ok();
    let (from, to) = (hex(from)?, hex(to)?);
    (rights == "r-xp" && from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_told_from_data() {
        let line = |rights: &str| format!("00400000-00452000 {rights} 00000000 08:02 173521 /a");
        assert_eq!(code_range(&line("r-xp")), Some((0x40_0000, 0x45_2000)));
        for rights in ["r--p", "rw-p", "rwxp", "r-xs"] {
            assert_eq!(code_range(&line(rights)), None, "{rights}");
        }
        assert_eq!(code_range("garbage"), None);
    }

    #[test]
    fn code_runs_on_after_it_was_given_back() {
        let before: Vec<u32> = (0..1000).collect();
        let bytes = give_back_code().expect("given back");
        assert!(bytes > 100_000, "only {bytes} bytes of code");
        assert_eq!(before.iter().sum::<u32>(), 499_500);
    }
}
