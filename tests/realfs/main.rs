//! Real file systems in a bad state: full, cut off from power, or without file handles.
//!
//! The first two need Linux, root, loop devices, and the programs that make file systems; what is
//! missing is said, and what depends on it skipped. `ESKER_POWER_CUTS` sets the number of power cuts
//! for each file system (default: 20), `ESKER_PROCESS_SEED` what is random.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may use threads and clocks"
)]

mod disk;
mod full;
mod handles;
mod power;
#[allow(dead_code, reason = "the other tests with a process use the rest")]
#[path = "../process/mod.rs"]
mod process;
