//! Transaction: reads and writes that are applied together, as if nothing else had happened.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use crate::api::batch::check_limits;
use crate::api::batch::checked_range;
use crate::api::iter::owned_bounds;
use crate::api::iter::prefix_bounds;
use crate::api::keyspace::Keyspace;
use crate::base::error::Result;
use crate::base::options::Durability;
use crate::base::options::Isolation;
use crate::base::range::Bounds;
use crate::base::range_tombstone::stored_end;
use crate::base::seqno::SeqNo;
use crate::base::slice::Key;
use crate::base::slice::Value;
use crate::base::value::ValueKind;
use crate::engine::Engine;
use crate::engine::transaction::SavepointId;
use crate::engine::transaction::Txn;

mod walk;

pub use walk::TransactionCursor;
pub use walk::TransactionIter;

/// A transaction over any number of keyspaces. Made by [`Db::transaction`](crate::Db::transaction);
/// [`Db::transact`](crate::Db::transact) makes one, commits it, and tries again after a conflict.
///
/// It reads the state of the moment it began, and its own writes over that. It is *optimistic*: it
/// takes no locks, and nobody waits for it; [`Transaction::commit`] finds out whether another one
/// came between, by the rules of its [`Isolation`]. Dropping it rolls it back.
///
/// While it lives, compaction keeps what it reads; and what it has written and read takes memory:
/// all transactions together at most an eighth of
/// [`Options::memory_budget`](crate::Options::memory_budget).
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// db.put("stock", "3")?;
/// let txn = db.transaction();
/// let stock: u32 = std::str::from_utf8(&txn.get(&db, "stock")?.unwrap())?.parse()?;
/// txn.put(&db, "stock", (stock - 1).to_string())?;
/// txn.put(&db, "order/17", "1 piece")?;
/// assert_eq!(txn.get(&db, "stock")?.unwrap(), "2");
/// assert_eq!(db.get("stock")?.unwrap(), "3");
/// txn.commit()?;
/// assert_eq!(db.get("stock")?.unwrap(), "2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Transaction {
    txn: Txn,
}

/// A place in a transaction that its writes can be rolled back to. Made by
/// [`Transaction::savepoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint(SavepointId);

impl Transaction {
    pub(crate) fn begin(engine: &Arc<Engine>, isolation: Isolation) -> Transaction {
        Transaction { txn: Txn::begin(engine, isolation) }
    }

    /// Its level.
    pub fn isolation(&self) -> Isolation {
        self.txn.isolation()
    }

    /// The sequence number of the newest write of others that it sees.
    pub fn seqno(&self) -> SeqNo {
        self.txn.seqno()
    }

    /// What it survives once it is committed, whatever the database's default is.
    pub fn durability(&self, durability: Durability) -> &Transaction {
        self.txn.set_mode(|mode| mode.durability = Some(durability));
        self
    }

    /// Longest time the commit may wait for compaction, whatever the database's default is.
    pub fn deadline(&self, deadline: Duration) -> &Transaction {
        self.txn.set_mode(|mode| mode.deadline = Some(deadline));
        self
    }

    /// Number of operations that the commit will write.
    pub fn len(&self) -> usize {
        self.txn.len()
    }

    /// Has it written nothing?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the value of `key` in `keyspace`.
    ///
    /// # Errors
    /// `InvalidArgument` for a key or value above its limit; `TransactionMemory`. The transaction
    /// is as it was.
    pub fn put(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        let (kind, value) = keyspace.engine().put_form(keyspace.state(), value.as_ref().into())?;
        self.write(keyspace, kind, key.as_ref(), &value)
    }

    /// Sets the value of `key` in `keyspace` for so long from now on; see
    /// [`Keyspace::put_with_ttl`].
    ///
    /// # Errors
    /// As [`Transaction::put`]; `InvalidArgument` if the keyspace has a merge operator and was not
    /// declared to be [expiring](crate::KeyspaceOptions::expiring).
    pub fn put_with_ttl(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<()> {
        let (kind, value) = keyspace.put_for(ttl, value.as_ref())?;
        self.write(keyspace, kind, key.as_ref(), &value)
    }

    /// Has the keyspace's merge operator combine `operand` with the value of `key`; see
    /// [`Keyspace::merge`]. It reads nothing, so on the level `Serializable` it conflicts with
    /// nobody: counters that many transactions add to are best written so. In a keyspace whose values
    /// [expire](crate::KeyspaceOptions::expiring) it is the commit that folds, into the value that
    /// the key has then; that conflicts with nobody either.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// use esker::{Add, KeyspaceOptions};
    /// let sums = db.keyspace_with("sums", KeyspaceOptions::new().merge_operator(Add))?;
    /// let txn = db.transaction();
    /// txn.merge(&sums, "visits", 2_i64.to_le_bytes())?;
    /// sums.merge("visits", 40_i64.to_le_bytes())?;
    /// txn.commit()?;
    /// assert_eq!(Add::value(&sums.get("visits")?.unwrap()), Some(42));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::put`]; `MergeOperator` if the keyspace has none.
    pub fn merge(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        operand: impl AsRef<[u8]>,
    ) -> Result<()> {
        keyspace.state().check_merges()?;
        self.write(keyspace, ValueKind::Merge, key.as_ref(), operand.as_ref())
    }

    /// Removes `key` from `keyspace`, if it is there.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn delete(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        self.write(keyspace, ValueKind::Delete, key.as_ref(), &[])
    }

    /// Removes all keys of `range` from `keyspace`, those that the transaction itself has put too. One
    /// operation, none if the range is empty. It reads nothing; on the level
    /// [`Isolation::Snapshot`] it writes every key of the range. See [`Keyspace::delete_range`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("b", "1")?;
    /// let txn = db.transaction();
    /// txn.put(&db, "c", "2")?;
    /// txn.delete_range(&db, "a"..="c")?;
    /// assert_eq!(txn.iter(&db).count(), 0);
    /// txn.commit()?;
    /// assert_eq!(db.iter().count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn delete_range<K: AsRef<[u8]>, R: RangeBounds<K>>(
        &self,
        keyspace: &Keyspace,
        range: R,
    ) -> Result<()> {
        self.delete_within(keyspace, &owned_bounds(&range))
    }

    /// Removes all keys that begin with `prefix` from `keyspace`; see
    /// [`Transaction::delete_range`].
    ///
    /// # Errors
    /// As [`Transaction::put`].
    pub fn delete_prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<()> {
        self.delete_within(keyspace, &prefix_bounds(prefix.as_ref()))
    }

    fn delete_within(&self, keyspace: &Keyspace, bounds: &Bounds) -> Result<()> {
        let Some((from, to)) = checked_range(bounds)? else { return Ok(()) };
        self.write(keyspace, ValueKind::DeleteRange, &from, stored_end(to.as_deref()))
    }

    fn write(&self, keyspace: &Keyspace, kind: ValueKind, key: &[u8], value: &[u8]) -> Result<()> {
        check_limits(key, value)?;
        self.txn.write(keyspace.state(), kind, key, value)
    }

    /// The value of `key` in `keyspace`.
    ///
    /// # Errors
    /// As [`Reader::get`](crate::Reader::get); `TransactionMemory`, since what is read is noted.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.txn.get(keyspace.state(), key.as_ref())
    }

    /// Is `key` in `keyspace`?
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn contains_key(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        self.txn.contains_key(keyspace.state(), key.as_ref())
    }

    /// How many bytes the value of `key` in `keyspace` has; see
    /// [`Reader::size_of`](crate::Reader::size_of). It counts as read.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("a", "value")?;
    /// let txn = db.transaction();
    /// txn.put(&db, "b", "longer value")?;
    /// assert_eq!(txn.size_of(&db, "a")?, Some(5));
    /// assert_eq!(txn.size_of(&db, "b")?, Some(12));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn size_of(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<usize>> {
        self.txn.size_of(keyspace.state(), key.as_ref())
    }

    /// The entries of `keyspace` whose keys lie in `range`, in order, from either end. What is
    /// written through the transaction later on does not appear.
    ///
    /// On the level [`Isolation::Serializable`] what counts as read is what the iterator has come
    /// past, from either end, and not the rest of the range.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("a", "1")?;
    /// db.put("c", "3")?;
    /// let txn = db.transaction();
    /// txn.put(&db, "b", "2")?;
    /// txn.delete(&db, "c")?;
    /// let keys: Vec<_> = txn.range(&db, "a"..).map(|entry| entry.unwrap().0).collect();
    /// assert_eq!(keys, ["a", "b"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn range<K: AsRef<[u8]>, R: RangeBounds<K>>(
        &self,
        keyspace: &Keyspace,
        range: R,
    ) -> TransactionIter<'_> {
        TransactionIter::new(&self.txn, keyspace, owned_bounds(&range))
    }

    /// The entries of `keyspace` whose keys begin with `prefix`. See [`Transaction::range`].
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> TransactionIter<'_> {
        TransactionIter::new(&self.txn, keyspace, prefix_bounds(prefix.as_ref()))
    }

    /// All entries of `keyspace`. See [`Transaction::range`].
    pub fn iter(&self, keyspace: &Keyspace) -> TransactionIter<'_> {
        self.range::<&[u8], _>(keyspace, ..)
    }

    /// The first entry of `keyspace`.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn first_key_value(&self, keyspace: &Keyspace) -> Result<Option<(Key, Value)>> {
        self.iter(keyspace).next().transpose()
    }

    /// The last entry of `keyspace`.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn last_key_value(&self, keyspace: &Keyspace) -> Result<Option<(Key, Value)>> {
        self.iter(keyspace).next_back().transpose()
    }

    /// A cursor over `keyspace` with what was written so far. What counts as read is what it has
    /// come past; a seek alone has read what lies between the key that was sought and the one that
    /// was found.
    pub fn cursor(&self, keyspace: &Keyspace) -> TransactionCursor<'_> {
        TransactionCursor::new(&self.txn, keyspace)
    }

    /// A place that the writes from here on can be rolled back to.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let txn = db.transaction();
    /// txn.put(&db, "a", "1")?;
    /// let before = txn.savepoint();
    /// txn.put(&db, "a", "2")?;
    /// txn.rollback_to(before)?;
    /// txn.commit()?;
    /// assert_eq!(db.get("a")?.unwrap(), "1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn savepoint(&self) -> Savepoint {
        Savepoint(self.txn.savepoint())
    }

    /// Forgets what was written since `savepoint`, and all savepoints since; this one stays. What
    /// was read counts as read all the same: the program knows it. Costs as much as writing again
    /// what was written before.
    ///
    /// # Errors
    /// `InvalidArgument` if the savepoint is of another transaction, or was rolled back itself.
    pub fn rollback_to(&self, savepoint: Savepoint) -> Result<()> {
        self.txn.rollback_to(savepoint.0)
    }

    /// Ends it: all that was written becomes visible at once, and durable as
    /// [`Transaction::durability`] says; or nothing of it does. One that has written nothing
    /// succeeds.
    ///
    /// Cost: a [`Db::write`](crate::Db::write), and, if others wrote meanwhile, a look into memory
    /// for each key that was read; files are looked into only if they were written since it began.
    ///
    /// # Errors
    /// `Conflict`, by the rules of its [`Isolation`]: begin anew. What it conflicts with is visible
    /// when this returns. `NoSuchKeyspace` if a keyspace that was read or written was dropped;
    /// otherwise as [`Db::write`](crate::Db::write).
    pub fn commit(self) -> Result<()> {
        self.txn.commit()
    }

    /// Ends it without a trace. Dropping it does the same.
    pub fn rollback(self) {}
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("isolation", &self.isolation())
            .field("seqno", &self.seqno())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
