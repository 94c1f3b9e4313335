//! See `targets::leader_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kumquat_fuzz::leader_record(bytes);
});
