//! What a hostile peer, a clock and an application do to a TCP flow.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    postern_tcp::world::replay(bytes);
});
