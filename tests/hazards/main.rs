//! Mistakes that storage engines are known to have made, and some of our own: one named test each.
//! DESIGN.md, section "Hazards", says which test answers for which.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may use clocks"
)]

mod blobs;
mod engine;
mod lifecycle;
mod log;
mod order;
mod trees;

use std::sync::Arc;

use esker::Db;
use esker::Options;
use esker::fs::MemFs;

const DIR: &str = "/db";

/// Everything tiny, so that little data goes a long way.
fn options(fs: &MemFs) -> Options {
    Options::new()
        .memtable_bytes(4 << 10)
        .block_bytes(256)
        .file_bytes(4 << 10)
        .wal_bytes(64 << 10)
        .memory_budget(1 << 20)
        .background_threads(0)
        .fs(Arc::new(fs.clone()))
}

fn open(fs: &MemFs) -> Db {
    options(fs).open(DIR).unwrap()
}
