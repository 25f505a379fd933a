//! Packets out of a peer's tunnel.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    postern_netstack::fuzz::ip_ingress(bytes);
});
