//! Datagrams from strangers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    postern_netstack::fuzz::datagram(bytes);
});
