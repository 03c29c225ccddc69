//! Tests of the public interface, one module per feature.
#![allow(
    clippy::unwrap_used,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "a test fails by panicking, and names its own files"
)]

mod basics;
mod batches;
mod compaction;
mod concurrency;
mod expiry;
mod keyspaces;
mod log;
mod merges;
mod options;
mod ranges;
mod read_only;
mod recovery;
mod regressions;
mod snapshots;
mod support;
