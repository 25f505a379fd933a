//! A message of the mapping stream.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    postern_proto::fuzz::conversions(bytes);
});
