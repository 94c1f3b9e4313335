//! See `targets::dns_query`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kumquat_fuzz::dns_query(bytes);
});
