//! Filters: see `tests/decoders`.
#![no_main]

#[path = "../../tests/decoders/mod.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decoders::filter(data));
