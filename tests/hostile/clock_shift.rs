//! Preloaded into a board by a test: `clock_gettime` of the wall clock, moved by `CLOCK_SHIFT` seconds.
//!
//! Compiled by the test itself as a library of its own, so that no real clock is ever set.

use std::ffi::{c_char, c_int, c_long, CStr};
use std::sync::OnceLock;

const CLOCK_REALTIME: c_int = 0;
const SYS_CLOCK_GETTIME: c_long = if cfg!(target_arch = "x86_64") { 228 } else { 113 };

#[repr(C)]
pub struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn getenv(name: *const c_char) -> *const c_char;
}

fn shift() -> i64 {
    static SHIFT: OnceLock<i64> = OnceLock::new();
    *SHIFT.get_or_init(|| {
        // SAFETY: the name is a C string; the answer is null or one that lives on.
        let text = unsafe { getenv(c"CLOCK_SHIFT".as_ptr()) };
        if text.is_null() {
            return 0;
        }
        // SAFETY: not null, so a C string of the environment.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    })
}

/// # Safety
/// As the C library's: `time` points at room for a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut TimeSpec) -> c_int {
    // SAFETY: the caller's pointer is passed on to the kernel, which checks it.
    let result = unsafe { syscall(SYS_CLOCK_GETTIME, clock, time) };
    if result == 0 && clock == CLOCK_REALTIME {
        // SAFETY: the kernel has just written there.
        unsafe { (*time).seconds = ((*time).seconds + shift()).max(0) };
    }
    result as c_int
}
