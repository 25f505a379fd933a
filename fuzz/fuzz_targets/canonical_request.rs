//! A request head.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    postern_proxy::fuzz::canonical_request(bytes);
});
