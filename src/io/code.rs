//! Gives back what a process has mapped of its own program.
//!
//! A start runs through code that a quiet board never needs again (founding, joining, first
//! certificates), and the kernel maps it in pieces of 64 kB. These pages count for the process and are
//! the last that the kernel takes when memory runs short. Dropping the mapping keeps them in the page
//! cache, where they are the first to go; what runs comes back at its next use without a disk.

use std::io;
use std::time::{Duration, Instant};

use nix::libc;

/// A process that nothing has woken for so long is quiet.
const QUIET_AFTER: Duration = Duration::from_secs(5);

/// Drops the mapped pages of this program's code and constants; gives how many bytes these have.
///
/// # Errors
/// The kernel refuses.
pub fn give_back() -> io::Result<usize> {
    let mut bytes = 0;
    for (from, length) in constant_segments() {
        // SAFETY: the range is a segment of this program that was never writable (`constant_segments`),
        // mapped privately from its file: a page that is dropped is read again from there at its next
        // use, and holds what it held.
        let dropped = unsafe { libc::madvise(from as *mut _, length, libc::MADV_DONTNEED) };
        if dropped != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += length;
    }
    Ok(bytes)
}

/// First byte and length of this program's segments that are mapped without the right to write: whole
/// pages, since neighbours never share one. What the loader relocates lies in a writable segment.
fn constant_segments() -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    // SAFETY: the callback gets the pointer that is given here, to a vector that outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut found).cast()) };
    found
}

/// Collects segments of the first object, which is the program (`dl_iterate_phdr(3)`).
unsafe extern "C" fn collect(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: libc gives a valid description, which holds `dlpi_phnum` headers, for this call.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (object.dlpi_addr as usize, std::slice::from_raw_parts(object.dlpi_phdr, count))
    };
    // SAFETY: `constant_segments` passes its vector, which nothing else uses meanwhile.
    let found = unsafe { &mut *found.cast::<Vec<(usize, usize)>>() };
    // SAFETY: sysconf has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let constant = |flags: u32| flags & libc::PF_W == 0;
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    found.extend(loaded.filter(|header| constant(header.p_flags)).map(|header| {
        let from = base + header.p_vaddr as usize;
        let start = from - from % page;
        (start, (from - start + header.p_filesz as usize).next_multiple_of(page))
    }));
    1
}

/// A process that waits for work gives its code back once it has been quiet for a while.
#[derive(Debug)]
pub struct Quiet {
    /// When it will have been; `None` once it was.
    due: Option<Instant>,
}

impl Quiet {
    /// Of a process that has just begun.
    pub fn new() -> Self {
        Self { due: Some(Instant::now() + QUIET_AFTER) }
    }

    /// It has something to do.
    pub fn disturb(&mut self) {
        *self = Self::new();
    }

    /// When [`Self::settle`] has something to do.
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Gives the code back when it is time.
    pub fn settle(&mut self) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.due = None;
            // An old kernel that refuses costs memory and nothing else.
            let _refused = give_back();
        }
    }
}

impl Default for Quiet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_told_from_what_is_written() {
        let segments = constant_segments();
        let holds = |address: usize| {
            segments.iter().any(|(from, length)| (*from..from + length).contains(&address))
        };
        assert!(holds(constant_segments as *const () as usize), "code");
        assert!(holds("constant".as_ptr() as usize), "constants");
        static WRITTEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        assert!(!holds(&raw const WRITTEN as usize), "data");
        // Holds an address that the loader fills in where the program's place is not fixed.
        static RELOCATED: &[&str] = &["relocated"];
        if cfg!(target_feature = "crt-static") {
            assert_eq!(RELOCATED[0], "relocated");
        } else {
            assert!(!holds(RELOCATED.as_ptr() as usize), "relocated constants");
        }
    }

    #[test]
    fn code_runs_on_after_it_was_given_back() {
        let before: Vec<u32> = (0..1000).collect();
        let bytes = give_back().expect("given back");
        assert!(bytes > 100_000, "only {bytes} bytes of code");
        assert_eq!(before.iter().sum::<u32>(), 499_500);
    }

    #[test]
    fn code_is_given_back_once_until_the_next_work() {
        let mut quiet = Quiet { due: Some(Instant::now()) };
        quiet.settle();
        assert_eq!(quiet.due(), None);
        quiet.disturb();
        let due = quiet.due().expect("due");
        quiet.settle();
        assert_eq!(quiet.due(), Some(due), "not before it is quiet");
    }
}
