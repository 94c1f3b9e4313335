//! See `targets::kubernetes_protobuf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kumquat_fuzz::kubernetes_protobuf(bytes);
});
