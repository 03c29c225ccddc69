//! An embeddable LSM-tree storage engine.

pub mod fs;

mod base;
mod cache;
mod iter;
mod manifest;
mod memtable;
mod record;
mod sst;
mod wal;

pub use base::clock::Clock;
pub use base::clock::SystemClock;
pub use base::compression::Compression;
pub use base::error::Error;
pub use base::error::ErrorKind;
pub use base::error::Result;
pub use base::options::Durability;
pub use base::options::Recovery;
pub use base::seqno::SeqNo;
pub use base::slice::Key;
pub use base::slice::Slice;
pub use base::slice::Value;
pub use base::stats::LatencySummary;
