//! What every decoder promises of arbitrary bytes, as functions of a fuzzer's input. The fuzz
//! targets and `tests/corpus.rs` both include this; each function panics only on a broken promise.
//!
//! An input is read as a sequence of choices: the first says in which mode. In *raw* mode the rest
//! is the file. Else a valid file is built from the choices, and then either damaged, so that what is
//! read must be a part of what was written, or damaged and sealed anew, so that the code behind the
//! checksums sees bytes that no writer wrote.
#![allow(dead_code, unused_imports, reason = "each target uses one of them")]

mod allocations;
mod blob;
mod block;
mod filter;
mod input;
mod manifest;
mod sst;
mod wal;

pub(crate) use blob::blob_decode;
pub(crate) use block::block_decode;
pub(crate) use filter::filter;
pub(crate) use manifest::manifest_decode;
pub(crate) use sst::sst_decode;
pub(crate) use wal::wal_decode;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::Clock;
use esker::Db;
use esker::Error;
use esker::Options;
use esker::Recovery;
use esker::fs::Fs as _;
use esker::fs::MemFs;

const DIR: &str = "/db";

/// Panics unless the error is one that damaged files may cause.
fn allow(error: &Error, what: &dyn Debug) {
    let allowed = matches!(error, Error::Corruption { .. } | Error::UnsupportedFormat { .. });
    assert!(allowed, "{what:?}: {error}");
}

/// A file system whose only directory holds these files.
fn fs_of(files: &[(String, &[u8])]) -> MemFs {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new(DIR)).unwrap();
    for (name, bytes) in files {
        let file = fs.create(&Path::new(DIR).join(name)).unwrap();
        if !bytes.is_empty() {
            file.write_at(0, bytes).unwrap();
        }
        file.sync_data().unwrap();
    }
    fs.sync_dir(Path::new(DIR)).unwrap();
    fs
}

/// A clock that stands still: its random number is always the same.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn unique(&self) -> u64 {
        0x5eed
    }
}

fn open(fs: &MemFs, recovery: Recovery) -> Result<Db, Error> {
    Options::new()
        .memory_budget(64 << 10)
        .memtable_bytes(4 << 10)
        .block_bytes(256)
        .wal_bytes(16 << 10)
        .background_threads(0)
        .create_if_missing(false)
        .recovery(recovery)
        .clock(Arc::new(Still))
        .fs(Arc::new(fs.clone()))
        .open(DIR)
}
