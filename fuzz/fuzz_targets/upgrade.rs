//! See `targets::upgraded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kumquat_fuzz::upgraded(bytes);
});
