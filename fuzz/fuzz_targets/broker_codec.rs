//! See `targets::broker_codec`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kumquat_fuzz::broker_codec(bytes);
});
