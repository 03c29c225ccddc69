//! A workload on a file system that fails, then crashes: see `tests/harness`.
#![no_main]

#[path = "../../tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::fault_injection(data));
