//! Every input that the fuzzer has found worth keeping, as a plain test: no target fails on its
//! corpus in `fuzz/corpus`, and none has lost it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod decoders;
mod harness;

use std::fs;
use std::path::Path;

/// Runs `target` on each file of its corpus, in order of their names.
fn replay(name: &str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    for path in paths {
        let data = fs::read(&path).unwrap();
        let caught = std::panic::catch_unwind(|| target(&data));
        assert!(caught.is_ok(), "{name} fails on {}", path.display());
    }
}

#[test]
fn crash_recovery_holds_on_its_corpus() {
    replay("crash_recovery", harness::crash_recovery);
}

#[test]
fn ops_model_holds_on_its_corpus() {
    replay("ops_model", harness::ops_model);
}

#[test]
fn fault_injection_holds_on_its_corpus() {
    replay("fault_injection", harness::fault_injection);
}

#[test]
fn files_on_disk_holds_on_its_corpus() {
    replay("files_on_disk", harness::files_on_disk);
}

#[test]
fn wal_decode_holds_on_its_corpus() {
    replay("wal_decode", decoders::wal_decode);
}

#[test]
fn sst_decode_holds_on_its_corpus() {
    replay("sst_decode", decoders::sst_decode);
}

#[test]
fn blob_decode_holds_on_its_corpus() {
    replay("blob_decode", decoders::blob_decode);
}

#[test]
fn block_decode_holds_on_its_corpus() {
    replay("block_decode", decoders::block_decode);
}

#[test]
fn manifest_decode_holds_on_its_corpus() {
    replay("manifest_decode", decoders::manifest_decode);
}

#[test]
fn filter_holds_on_its_corpus() {
    replay("filter", decoders::filter);
}
