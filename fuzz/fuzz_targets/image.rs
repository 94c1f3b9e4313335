//! See `targets::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kumquat_fuzz::image(bytes);
});
