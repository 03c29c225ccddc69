//! Keyspace: a handle to one ordered map of a database.

use std::borrow::Cow;
use std::fmt;
use std::ops::Bound;
use std::ops::Deref;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use crate::api::batch;
use crate::api::iter::owned_bounds;
use crate::api::iter::prefix_bounds;
use crate::api::reader::Reader;
use crate::base::batch::Batch;
use crate::base::error::Result;
use crate::base::range::Bounds;
use crate::base::range_tombstone::stored_end;
use crate::base::value::NEVER_MS;
use crate::base::value::ValueKind;
use crate::base::value::put_until;
use crate::engine::Engine;
use crate::engine::commit::WriteMode;
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
        let (kind, value) = self.engine().put_form(self.state(), value.as_ref().into())?;
        self.write_one(kind, key.as_ref(), &value)
    }

    /// Sets the value of `key` for so long: once `ttl` has passed, by the clock of the database
    /// ([`Options::clock`](crate::Options::clock)), the key is as absent as if it had been deleted.
    /// `Duration::MAX` is for ever, whatever the keyspace's
    /// [default](crate::KeyspaceOptions::default_ttl). The next put of the key sets its time anew.
    ///
    /// *What holds.* Readers see the key until the instant at which it expires, to the millisecond,
    /// and never after it, also if the clock goes back: within one opening of the database the time
    /// that counts stands still until the clock has caught up. So a clock that went back by some
    /// time lets values live longer by as much at most, and one that goes forward too far ends them
    /// earlier by as much; from one opening to the next nothing is remembered but the expiry itself.
    /// A snapshot, and an iterator, judges by the instant that it was made at. The space is free
    /// once compaction comes by: within [`Options::tombstone_age`](crate::Options::tombstone_age)
    /// after the key expired, also if nobody writes any more; usually much earlier. A snapshot that
    /// lives keeps what it sees.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put_with_ttl("session", "Ada", Duration::from_secs(3600))?;
    /// assert_eq!(db.get("session")?.unwrap(), "Ada");
    /// db.put_with_ttl("gone", "at once", Duration::ZERO)?;
    /// assert!(!db.contains_key("gone")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` if the keyspace has a merge operator and was not declared to be
    /// [expiring](crate::KeyspaceOptions::expiring), or for a value above 1 GiB less 8 bytes; otherwise
    /// as [`Keyspace::put`].
    #[doc(alias = "expire")]
    pub fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<()> {
        let (kind, value) = self.put_for(ttl, value.as_ref())?;
        self.write_one(kind, key.as_ref(), &value)
    }

    /// Has the value that `key` has now expire at that time, in milliseconds since 1970; in the past
    /// is at once. False, and nothing is written, if the key is absent. `u64::MAX` is never.
    ///
    /// Atomic: no other write comes between the look at the value and the new time. Costs a read
    /// and a put, and another try whenever something else was written to the database meanwhile.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("offer", "half price")?;
    /// assert!(db.expire_at("offer", 4_102_444_800_000)?); // The year 2100.
    /// assert!(matches!(db.ttl("offer")?, Some(esker::Ttl::For(_))));
    /// assert!(db.persist("offer")?);
    /// assert_eq!(db.ttl("offer")?, Some(esker::Ttl::Forever));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put_with_ttl`] and [`Reader::get`].
    pub fn expire_at(&self, key: impl AsRef<[u8]>, unix_ms: u64) -> Result<bool> {
        self.reader.engine.set_expiry(self.state(), key.as_ref(), unix_ms)
    }

    /// Has the value that `key` has now live for ever. False if the key is absent.
    ///
    /// # Errors
    /// As [`Keyspace::expire_at`].
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.reader.engine.set_expiry(self.state(), key.as_ref(), NEVER_MS)
    }

    /// How a put is stored whose value lives for `ttl` from now on. Notes that values may expire.
    pub(crate) fn put_for<'a>(
        &self,
        ttl: Duration,
        value: &'a [u8],
    ) -> Result<(ValueKind, Cow<'a, [u8]>)> {
        let expiry_ms = self.engine().expiry_in(ttl);
        if expiry_ms != NEVER_MS {
            self.state().claim_expiry()?;
        }
        put_until(expiry_ms, value.into())
    }

    /// Removes `key`, if it is there; costs as much as a put.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.write_one(ValueKind::Delete, key.as_ref(), &[])
    }

    /// Removes all keys of `range`, in one write that costs as much as a put, however many there are.
    /// Nothing happens if the range is empty.
    ///
    /// Reads and iterators get past what is gone by a seek for each source of the tree, at once and not
    /// only after a compaction. Files that are covered whole are removed without being read, as soon as
    /// no snapshot sees them, also if nobody writes any more; the space of what lies in others is free
    /// within [`Options::tombstone_age`](crate::Options::tombstone_age).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// for month in ["2026-10", "2026-11", "2026-12"] {
    ///     db.put(format!("{month}/visits"), "7")?;
    /// }
    /// db.delete_range("2026-10".."2026-12")?;
    /// assert_eq!(db.iter().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::put`]; the bounds have the limit of a key.
    #[doc(alias = "range tombstone")]
    pub fn delete_range<K: AsRef<[u8]>, R: RangeBounds<K>>(&self, range: R) -> Result<()> {
        self.delete_within(&owned_bounds(&range))
    }

    /// Removes all keys that begin with `prefix`; see [`Keyspace::delete_range`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("user/7/name", "Ada")?;
    /// db.put("user/8/name", "Bob")?;
    /// db.delete_prefix("user/7/")?;
    /// assert_eq!(db.first_key_value()?.unwrap().0, "user/8/name");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::delete_range`].
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<()> {
        self.delete_within(&prefix_bounds(prefix.as_ref()))
    }

    /// Removes all keys; a [`Keyspace::delete_range`] of everything. Snapshots see them still. To be
    /// rid of the keyspace itself, [`Db::drop_keyspace`](crate::Db::drop_keyspace).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("k", "v")?;
    /// db.clear()?;
    /// assert!(!db.contains_key("k")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Keyspace::delete_range`].
    #[doc(alias = "truncate")]
    pub fn clear(&self) -> Result<()> {
        self.delete_within(&(Bound::Unbounded, Bound::Unbounded))
    }

    fn delete_within(&self, bounds: &Bounds) -> Result<()> {
        match batch::checked_range(bounds)? {
            Some((from, to)) => {
                self.write_one(ValueKind::DeleteRange, &from, stored_end(to.as_deref()))
            }
            None => self.engine().commit(&mut Batch::default(), &[], WriteMode::default()),
        }
    }

    /// Writes an operand: what the keyspace's merge operator makes of it, and of the value that
    /// `key` has by then, is read as the key's value. Reads nothing: it costs as much as a put, and
    /// concurrent merges of a key lose nothing.
    ///
    /// Operands are folded when the key is read, and when files are written; a snapshot sees what
    /// they came to when it was taken. A read of a key with many operands goes on from what the last
    /// one has folded; flushes and compactions leave one operand at most, if the operator can
    /// [combine](crate::MergeOperator::combine) them, or none where they meet the value.
    ///
    /// *If values of the keyspace [expire](crate::KeyspaceOptions::expiring)* the operand is folded at
    /// once, with nothing in between, into the value that the key has then, and what comes of it expires
    /// when that value would have. If it has expired, to the millisecond, or there is none, the operand
    /// is folded into nothing and what comes of it gets the default time to live; without one it lives
    /// for ever. That costs a read and a conditional write. Merges of a key wait for each other; those
    /// of others do not, but for the few that share one of 64 locks by their hashes.
    ///
    /// ```
    /// use esker::{Add, KeyspaceOptions};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let counters = db.keyspace_with("counters", KeyspaceOptions::new().merge_operator(Add))?;
    /// counters.put("k", 40_i64.to_le_bytes())?;
    /// counters.merge("k", 2_i64.to_le_bytes())?;
    /// assert_eq!(Add::value(&counters.get("k")?.unwrap()), Some(42));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `MergeOperator` if the keyspace has none; otherwise as [`Keyspace::put`]. Whether the operator
    /// likes the operand shows when the key is read; if values of the keyspace expire it shows at once:
    /// `Merge`, or what [`Reader::get`] fails with, and nothing is written. Then there is also
    /// `Conflict`, and nothing is written, if the key was put or deleted by others during each of 100
    /// tries.
    pub fn merge(&self, key: impl AsRef<[u8]>, operand: impl AsRef<[u8]>) -> Result<()> {
        self.state().check_merges()?;
        self.write_one(ValueKind::Merge, key.as_ref(), operand.as_ref())
    }

    /// The name of its merge operator, if it has one.
    pub fn merge_operator(&self) -> Option<String> {
        self.state().fold().map(|fold| fold.name().to_owned())
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
