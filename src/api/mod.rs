//! What users hold. Thin: validate, call the engine once, wrap.
//!
//! *Overview of types.* [`Options`](options::Options) opens a [`Db`](db::Db). A `Db` is its default
//! [`Keyspace`](keyspace::Keyspace) and more; a `Keyspace` is a [`Reader`](reader::Reader) that
//! also writes; a [`Snapshot`](snapshot::Snapshot) is a `Reader` of one instant. A `Reader` gives
//! [`Slice`](crate::Slice)s, an [`Iter`](iter::Iter) or a [`Cursor`](cursor::Cursor). A
//! [`WriteBatch`](batch::WriteBatch) is written whole or not at all, and so is a
//! [`Transaction`](transaction::Transaction), which also reads. [`Changes`](changes::Changes) are the
//! batches that were committed, in order.

pub(crate) mod batch;
pub(crate) mod changes;
pub(crate) mod conditional;
pub(crate) mod cursor;
pub(crate) mod db;
pub(crate) mod iter;
pub(crate) mod keys;
pub(crate) mod keyspace;
pub(crate) mod options;
pub(crate) mod page;
pub(crate) mod reader;
pub(crate) mod snapshot;
pub(crate) mod transaction;
