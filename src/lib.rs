//! An embeddable, ordered key-value store: a log-structured merge tree that is fast, survives any
//! crash, and is small enough to be read.
//!
//! A [`Db`] is a directory on disk and a handle to it. It holds one ordered map of byte strings, the
//! default keyspace, and as many others as you create. Writes go to a log and to memory, and reach
//! sorted files in the background; reads take no lock that a writer can hold. All handles are cheap
//! to clone, and everything may be shared between threads.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let db = esker::Db::open(path)?;
//! db.put("apple", "red")?;
//! assert_eq!(db.get("apple")?.unwrap(), "red");
//! db.delete("apple")?;
//! assert!(db.get("apple")?.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Overview
//!
//! | to | use |
//! |---|---|
//! | open a database | [`Db::open`], [`Options`] |
//! | write | [`Keyspace::put`], [`Keyspace::delete`], [`WriteBatch`] and [`Db::write`] |
//! | let values expire | [`Keyspace::put_with_ttl`], [`Reader::ttl`], [`KeyspaceOptions::default_ttl`] |
//! | count, and change without reading | [`Keyspace::merge`], [`KeyspaceOptions::merge_operator`] |
//! | count within a window of time | [`KeyspaceOptions::expiring`] |
//! | read one key, or many | [`Reader::get`], [`Reader::contains_key`], [`Reader::multi_get`] |
//! | walk through keys | [`Reader::range`], [`Reader::prefix`], [`Reader::iter`], [`Reader::cursor`] |
//! | hand out a range in pieces | [`Iter::page`], [`Reader::next_page`] |
//! | keep maps apart | [`Db::keyspace`], [`Db::drop_keyspace`] |
//! | read a state that stands still | [`Db::snapshot`] |
//! | read and write as if alone | [`Db::transact`], [`Transaction`] |
//! | write only if nothing has changed | [`Keyspace::compare_and_swap`], [`Keyspace::put_if_version`] |
//! | choose what a write survives | [`Durability`], [`Db::sync`] |
//! | look inside | [`Db::stats`], [`Db::verify`] |
//! | reclaim space now | [`Keyspace::compact_range`], [`Db::flush`] |
//!
//! A `Db` dereferences to its default [`Keyspace`], and a `Keyspace` to a [`Reader`]; so does a
//! [`Snapshot`]. That is why a `Db` can be read and written like a map.
//!
//! # Limits
//!
//! A key is any bytes, up to 65,535 of them, none included. A value has at most 1 GiB, a batch
//! almost 2 GiB. Keys are ordered as bytes; numbers as keys want to be big-endian.
//!
//! # Examples
//!
//! *Ranges and prefixes*, from either end. An [`Iter`] sees the state of the moment it was made in.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let db = esker::Db::open(dir.path())?;
//! for (key, value) in [("city/lund", "91"), ("city/umeå", "90"), ("land/se", "10")] {
//!     db.put(key, value)?;
//! }
//! for entry in db.prefix("city/") {
//!     let (key, value) = entry?;
//!     println!("{key:?} = {value:?}");
//! }
//! assert_eq!(db.range("city/m"..).count(), 2);
//! let (last, _) = db.iter().next_back().unwrap()?;
//! assert_eq!(last, "land/se");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! *A batch* is applied whole or not at all, over any number of keyspaces, also through a crash; and
//! it costs one append to the log.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let db = esker::Db::open(dir.path())?;
//! let accounts = db.keyspace("accounts")?;
//! let mut batch = esker::WriteBatch::new();
//! batch.put(&accounts, "ada", "70").put(&accounts, "bob", "30").put(&db, "transfers", "1");
//! db.write(batch)?;
//! # assert_eq!(accounts.get("bob")?.unwrap(), "30");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! *Keyspaces* are ordered maps of their own, which share the log: a batch over several is still one
//! append. Dropping one frees its files as soon as nobody reads them any more.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let db = esker::Db::open(dir.path())?;
//! let by_id = db.keyspace("users by id")?;
//! let by_name = db.keyspace("users by name")?;
//! by_id.put(7_u32.to_be_bytes(), "Ada")?;
//! by_name.put("Ada", 7_u32.to_be_bytes())?;
//! assert!(db.get("Ada")?.is_none());
//! db.drop_keyspace("users by name")?;
//! assert_eq!(db.keyspaces(), ["default", "users by id"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! *A snapshot* is the state of all keyspaces at one instant, whatever is written later.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let db = esker::Db::open(dir.path())?;
//! db.put("k", "old")?;
//! let snapshot = db.snapshot();
//! db.put("k", "new")?;
//! assert_eq!(snapshot.get("k")?.unwrap(), "old");
//! assert_eq!(db.get("k")?.unwrap(), "new");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! *A transaction* reads and writes as if it were alone. If another one came between, it fails with a
//! conflict and has changed nothing; [`Db::transact`] then runs it again.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let db = esker::Db::open(dir.path())?;
//! let balance = |txn: &esker::Transaction, who: &str| -> esker::Result<u64> {
//!     let value = txn.get(&db, who)?;
//!     Ok(value.map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap())))
//! };
//! db.put("ada", 100_u64.to_be_bytes())?;
//! db.transact(|txn| {
//!     let (ada, bob) = (balance(txn, "ada")?, balance(txn, "bob")?);
//!     txn.put(&db, "ada", (ada - 30).to_be_bytes())?;
//!     txn.put(&db, "bob", (bob + 30).to_be_bytes())
//! })?;
//! assert_eq!(db.get("bob")?.unwrap(), 30_u64.to_be_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! *Durability.* By default a write that has returned survives a power cut. Where losing the last
//! moments is acceptable, writes that wait for no disk are many times faster; they survive the death
//! of the process all the same, and what a power cut leaves is a prefix of the writes, without holes
//! and with batches whole.
//!
//! ```
//! use esker::{Durability, Options, WriteBatch};
//! use std::time::Duration;
//!
//! # let dir = tempfile::tempdir()?;
//! let db = Options::new()
//!     .durability(Durability::Interval(Duration::from_millis(100)))
//!     .open(dir.path())?;
//! db.put("page views", "17")?;
//!
//! let mut batch = WriteBatch::new();
//! batch.put(&db, "order", "paid").durability(Durability::Sync);
//! db.write(batch)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! *Errors* say what went wrong, in which file and where; [`Error::kind`] says what to do about it.
//! After a failed sync the database takes no more writes until it is reopened: nobody can know what
//! is on the disk before recovery has looked.
//!
//! ```
//! use esker::{Db, ErrorKind};
//!
//! # let dir = tempfile::tempdir()?;
//! let db = Db::open(dir.path())?;
//! match Db::open(dir.path()) {
//!     Err(error) if error.kind() == ErrorKind::Busy => println!("{error}: try again later"),
//!     Err(error) if error.kind() == ErrorKind::Corruption => println!("{error}: restore a backup"),
//!     other => panic!("a database is open once at a time, and yet {other:?}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! *Tests of your own code* can run on [`fs::MemFs`](crate::fs) (feature `testing`), a file system in
//! memory which crashes and fails on demand: see [`Options::fs`].
//!
//! # How it is built
//!
//! The modules, in the order in which a write passes them; each knows only those further down in the
//! table of layers in `DESIGN.md`, which also has the file formats and the invariants.
//!
//! - `repair`: what still reads of a damaged database, put into a new one.
//! - `api`: what you hold; validates, calls the engine once, wraps.
//! - `engine`: all shared state, locks and threads: commit, reads, recovery, jobs, backpressure.
//! - `wal`: the write-ahead log, in `record`s.
//! - `memtable`: the newest writes, sorted in memory.
//! - `compaction`: flush and compaction as functions from files to files.
//! - `sst`: sorted files that are searched where they lie.
//! - `manifest`: which files there are, as a log of edits.
//! - `version`: the immutable shape of one keyspace's tree.
//! - `iter`: merges sources into what a reader sees.
//! - `cache`: decompressed blocks.
//! - [`fs`]: the only door to the operating system.
//! - `base`: keys, sequence numbers, batches, errors, options.

pub mod fs;

mod api;
mod base;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod bench_api;
mod blob;
mod cache;
mod compaction;
mod engine;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod fuzz_api;
mod iter;
mod manifest;
mod memtable;
mod record;
mod repair;
mod sst;
mod tools;
mod version;
mod wal;

pub use api::batch::WriteBatch;
pub use api::changes::Change;
pub use api::changes::ChangeBatch;
pub use api::changes::ChangeOp;
pub use api::changes::Changes;
pub use api::conditional::Swap;
pub use api::conditional::Update;
pub use api::cursor::Cursor;
pub use api::db::Db;
pub use api::db::Verified;
pub use api::iter::Iter;
pub use api::keys::Keys;
pub use api::keyspace::Keyspace;
pub use api::options::KeyspaceOptions;
pub use api::options::Options;
pub use api::page::Page;
pub use api::page::PageLimit;
pub use api::page::PageToken;
pub use api::reader::Reader;
pub use api::reader::Ttl;
pub use api::snapshot::Snapshot;
pub use api::transaction::Savepoint;
pub use api::transaction::Transaction;
pub use api::transaction::TransactionCursor;
pub use api::transaction::TransactionIter;
pub use base::clock::Clock;
pub use base::clock::SystemClock;
pub use base::compression::Compression;
pub use base::error::Error;
pub use base::error::ErrorKind;
pub use base::error::Result;
pub use base::hooks::MergeOperator;
pub use base::hooks::MergeResult;
pub use base::operators::Add;
pub use base::operators::Append;
pub use base::operators::Max;
pub use base::operators::Min;
pub use base::operators::SetUnion;
pub use base::options::Durability;
pub use base::options::Isolation;
pub use base::options::Recovery;
pub use base::seqno::SeqNo;
pub use base::slice::Key;
pub use base::slice::Slice;
pub use base::slice::Value;
pub use base::stats::LatencySummary;
pub use engine::stats::BackgroundStats;
pub use engine::stats::BlobStats;
pub use engine::stats::BlockCacheStats;
pub use engine::stats::FileStats;
pub use engine::stats::KeyspaceStats;
pub use engine::stats::LevelStats;
pub use engine::stats::MemoryStats;
pub use engine::stats::Stall;
pub use engine::stats::StallStats;
pub use engine::stats::Stats;
pub use engine::stats::TransactionStats;
pub use engine::stats::WalStats;
pub use engine::stats::WriteStats;
pub use repair::Loss;
pub use repair::RepairReport;
pub use repair::RepairedKeyspace;
pub use repair::repair;
pub use tools::dump::dump;
pub use wal::GivenUp;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
