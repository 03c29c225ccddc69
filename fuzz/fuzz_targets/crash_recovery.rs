//! A workload with crashes at chosen events, some of them during recovery: see `tests/harness`.
#![no_main]

#[path = "../../tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::crash_recovery(data));
