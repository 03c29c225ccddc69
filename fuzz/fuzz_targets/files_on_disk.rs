//! A closed database with damaged files: see `tests/harness`.
#![no_main]

#[path = "../../tests/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::files_on_disk(data));
