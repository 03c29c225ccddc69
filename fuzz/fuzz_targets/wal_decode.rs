//! Arbitrary and damaged logs: see `tests/decoders`.
#![no_main]

#[path = "../../tests/decoders/mod.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoders::wal_decode(data));
