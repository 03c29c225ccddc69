//! Arbitrary and damaged SSTs: see `tests/decoders`.
#![no_main]

#[path = "../../tests/decoders/mod.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoders::sst_decode(data));
