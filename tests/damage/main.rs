//! Damaged files of every kind: the right data or a typed error that names the file. Never wrong
//! data, never a key that was there and reads as absent, never a panic; and what cannot be opened
//! is left as it was.
//!
//! Small databases in memory, each made the same way in every run. By default every byte of the
//! smaller files is tried and a part of those of the larger ones; `ESKER_DAMAGE_ALL=1` tries every
//! byte of all of them, and more than one flip for each.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and may use clocks"
)]

mod blob;
mod files;
#[path = "../harness/frames.rs"]
mod frames;
mod image;
mod log;
mod manifest;
mod sst;
mod verdict;
