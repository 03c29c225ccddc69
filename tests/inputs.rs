//! The functions behind the fuzz targets, on random inputs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use harness::choices::mix;

/// Random bytes, the same for the same seed.
fn input(seed: u64) -> Vec<u8> {
    let len = mix(seed) % 600;
    (0..len).map(|n| mix(seed << 32 | n) as u8).collect()
}

fn run(target: fn(&[u8]), name: &str) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let first = number("ESKER_INPUT_FIRST").unwrap_or(0);
    let inputs = number("ESKER_INPUTS").unwrap_or(300);
    for seed in first..first + inputs {
        let caught = std::panic::catch_unwind(|| target(&input(seed)));
        assert!(caught.is_ok(), "{name}: input {seed}");
    }
}

#[test]
fn crashes_and_recoveries_keep_the_promises() {
    run(harness::crash_recovery, "crash_recovery");
}

#[test]
fn operations_are_answered_like_a_map_would() {
    run(harness::ops_model, "ops_model");
}

#[test]
fn failing_calls_lose_nothing_and_invent_nothing() {
    run(harness::fault_injection, "fault_injection");
}

#[test]
fn damaged_files_are_read_right_or_not_at_all() {
    run(harness::files_on_disk, "files_on_disk");
}
