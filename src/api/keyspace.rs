//! Keyspace: a handle to one ordered map of a database.

use std::fmt;
use std::ops::Bound;
use std::ops::Deref;
use std::ops::RangeBounds;
use std::sync::Arc;

use crate::api::batch;
use crate::api::iter::owned_bounds;
use crate::api::reader::Reader;
use crate::base::error::Result;
use crate::base::value::ValueKind;
use crate::engine::Engine;
use crate::engine::keyspaces::KeyspaceState;

/// One ordered map of a database (elsewhere: a column family, tree, table or bucket). Reads by the
/// methods of [`Reader`], which it has by [`Deref`].
///
/// A cheap handle: clone it, send it, share it between threads. It keeps the database open.
#[doc(alias = "column family")]
#[derive(Clone)]
pub struct Keyspace {
    reader: Reader,
}

impl Deref for Keyspace {
    type Target = Reader;

    /// Reads of the newest state.
    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Keyspace {
    pub(crate) fn new(engine: Arc<Engine>, state: Arc<KeyspaceState>) -> Keyspace {
        Keyspace { reader: Reader::latest(engine, state) }
    }

    pub(crate) fn state(&self) -> &Arc<KeyspaceState> {
        &self.reader.state
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.reader.engine
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state().name
    }

    /// Sets the value of `key`, durable as [`Options::durability`](crate::Options::durability)
    /// says. To write several, or with another durability, use a
    /// [`WriteBatch`](crate::WriteBatch).
    ///
    /// Cost: one insert into memory and one append to the log, O(log n) in the memtable; and the
    /// sync, which concurrent writers share.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("k", "v")?;
    /// db.put([0, 255], vec![1; 1000])?;
    /// assert_eq!(db.get([0, 255])?.unwrap().len(), 1000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for a key above 65,535 bytes or a value above 1 GiB; otherwise as
    /// [`Db::write`](crate::Db::write).
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.write_one(ValueKind::Put, key.as_ref(), value.as_ref())
    }

    /// Removes `key`, if it is there; costs as much as a put.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.write_one(ValueKind::Delete, key.as_ref(), &[])
    }

    fn write_one(&self, kind: ValueKind, key: &[u8], value: &[u8]) -> Result<()> {
        batch::check_limits(key, value)?;
        self.reader.engine.commit_one(self.state(), kind, key, value)
    }

    /// Flushes this keyspace and compacts all entries of the range to the bottom of the tree, which
    /// drops tombstones and overwritten versions that no snapshot needs. Waits until it is done.
    /// Needs free disk space for the largest single compaction, not for a copy of the range.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// # db.put("k", "v")?;
    /// db.compact_range("a".."m")?;
    /// db.compact_range::<&[u8], _>(..)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Io`; `Corruption`; `ReadOnly`; `Closed`; `NoSuchKeyspace`.
    pub fn compact_range<K: AsRef<[u8]>, R: RangeBounds<K>>(&self, range: R) -> Result<()> {
        let (from, to) = owned_bounds(&range);
        let bytes = |bound: Bound<Vec<u8>>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => Some(key),
            Bound::Unbounded => None,
        };
        self.reader.engine.compact_range(self.state(), bytes(from), bytes(to))
    }
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyspace").field("name", &self.name()).finish_non_exhaustive()
    }
}
