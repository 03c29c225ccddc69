//! Tests of the public interface, one module per feature.
#![allow(
    clippy::unwrap_used,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "a test fails by panicking, and names its own files"
)]

mod anomalies;
mod bank;
mod basics;
mod batches;
mod blobs;
mod changes;
mod changes_model;
mod combined;
mod compaction;
mod concurrency;
mod conditional;
mod expiring_merges;
mod expiring_merges_model;
mod expiry;
mod keyspaces;
mod log;
mod merges;
mod options;
mod pages;
mod queues;
mod range_deletes;
mod ranges;
mod read_only;
mod recovery;
mod regressions;
mod snapshots;
mod support;
mod transaction_model;
mod transactions;
mod warmth;
