//! Arbitrary and damaged blob files: see `tests/decoders`.
#![no_main]

#[path = "../../tests/decoders/mod.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoders::blob_decode(data));
