//! The first bytes of a client.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    postern_proxy::fuzz::client_hello(bytes);
});
