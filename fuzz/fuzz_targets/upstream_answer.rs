//! What an upstream says after a request.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    postern_proxy::fuzz::upstream_answer(bytes);
});
