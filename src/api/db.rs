//! Db: an open database.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::api::batch::WriteBatch;
use crate::api::keyspace::Keyspace;
use crate::api::options::KeyspaceOptions;
use crate::api::options::Options;
use crate::api::snapshot::Snapshot;
use crate::api::transaction::Transaction;
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::options::Config;
use crate::base::options::Isolation;
use crate::base::seqno::SeqNo;
use crate::engine::DEFAULT_KEYSPACE;
use crate::engine::Engine;
use crate::engine::stats::Stats;
use crate::fs::Fs;

/// An open database: the default keyspace (whose methods it has by [`Deref`]) and everything that
/// concerns the database as a whole.
///
/// A handle: clone it, send it, share it. The database closes when it is told to ([`Db::close`]) or
/// when the last handle to it or to its keyspaces, snapshots, iterators and cursors is dropped.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let db = esker::Db::open(dir.path())?;
/// db.put("apple", "red")?;
/// db.put("lemon", "yellow")?;
/// assert_eq!(db.get("apple")?.unwrap(), "red");
/// db.delete("apple")?;
/// assert!(db.get("apple")?.is_none());
/// for entry in db.iter() {
///     let (key, value) = entry?;
///     assert_eq!((&key[..], &value[..]), (&b"lemon"[..], &b"yellow"[..]));
/// }
/// db.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Db {
    engine: Arc<Engine>,
    default: Keyspace,
}

impl Deref for Db {
    type Target = Keyspace;

    /// The default keyspace.
    fn deref(&self) -> &Keyspace {
        &self.default
    }
}

impl Db {
    /// Opens or creates the database in the directory `path` with the default options.
    ///
    /// # Errors
    /// See [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Db> {
        Options::new().open(path)
    }

    pub(crate) fn open_with(
        path: &Path,
        config: &Config,
        fs: &Arc<dyn Fs>,
        clock: Arc<dyn Clock>,
    ) -> Result<Db> {
        let engine = Engine::open(path, config, fs, clock)?;
        let default = Keyspace::new(engine.clone(), engine.default_keyspace());
        Ok(Db { engine, default })
    }

    /// The keyspace `name`, created if it does not exist: an ordered map of its own, with its own
    /// memtable and files. `"default"` is the one that `Db` itself reads and writes.
    ///
    /// Creating one takes a sync; getting one takes a lock for a moment: keep the handle.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// assert!(db.get("1")?.is_none());
    /// assert_eq!(db.keyspaces(), ["default", "users"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` for an empty name or one above 255 bytes; `Io`; `ReadOnly`; `Closed`.
    #[doc(alias = "column family")]
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.keyspace_with(name, KeyspaceOptions::new())
    }

    /// As [`Db::keyspace`], with options: what they say is stored with the keyspace, durably, when
    /// it is created or when it has nothing to the contrary yet; what it has already must be the
    /// same.
    ///
    /// ```
    /// use esker::{Add, KeyspaceOptions, Max};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let counters = db.keyspace_with("counters", KeyspaceOptions::new().merge_operator(Add))?;
    /// counters.merge("k", 1_i64.to_le_bytes())?;
    /// let other = db.keyspace_with("counters", KeyspaceOptions::new().merge_operator(Max));
    /// assert!(matches!(other, Err(esker::Error::MergeOperator { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Db::keyspace`]; `MergeOperator` if the keyspace has another merge operator;
    /// `InvalidArgument` for an operator if values of the keyspace expire, and nothing says that they
    /// [may](KeyspaceOptions::expiring).
    pub fn keyspace_with(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        let state = self.engine.open_keyspace(name, &options.into_config())?;
        Ok(Keyspace::new(self.engine.clone(), state))
    }

    /// The names of all keyspaces, sorted.
    pub fn keyspaces(&self) -> Vec<String> {
        self.engine.keyspace_names()
    }

    /// Removes the keyspace `name` with all its data, durably. Handles to it fail from then on;
    /// snapshots and iterators that exist go on.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let old = db.keyspace("old")?;
    /// db.drop_keyspace("old")?;
    /// assert!(old.put("k", "v").is_err());
    /// assert_eq!(db.keyspaces(), ["default"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `NoSuchKeyspace`; `InvalidArgument` for the default keyspace; `Io`; `ReadOnly`; `Closed`.
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.engine.drop_keyspace(name)
    }

    /// Writes a batch: all of it or, on an error or after a crash, none of it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let users = db.keyspace("users")?;
    /// let mut batch = esker::WriteBatch::new();
    /// batch.put(&users, "1", "Ada").put(&db, "user count", "1").delete(&db, "empty");
    /// db.write(batch)?;
    /// assert_eq!(users.get("1")?.unwrap(), "Ada");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` if an operation exceeds a limit; `NoSuchKeyspace` if a keyspace was
    /// dropped; `Stalled` beyond the deadline; `Io`, and `ReadOnly` after an earlier failure;
    /// `Closed`. After an `Io` error it is not known whether the batch survives a crash; it is not
    /// visible until then. For a batch that merges where values expire also what
    /// [`Keyspace::merge`] lists.
    pub fn write(&self, batch: WriteBatch) -> Result<()> {
        batch.commit(&self.engine)
    }

    /// A consistent view over all keyspaces as of now. Costs a lock for a moment; keeps the
    /// versions that it sees from being compacted away while it lives.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("k", "old")?;
    /// let snapshot = db.snapshot();
    /// db.put("k", "new")?;
    /// assert_eq!(snapshot.get("k")?.unwrap(), "old");
    /// assert_eq!(db.get("k")?.unwrap(), "new");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.engine)
    }

    /// Begins a serializable transaction: [`Isolation::Serializable`]. See [`Transaction`].
    pub fn transaction(&self) -> Transaction {
        self.transaction_with(Isolation::Serializable)
    }

    /// Begins a transaction on the given level.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let [one, other] = [(); 2].map(|()| db.transaction_with(esker::Isolation::Snapshot));
    /// one.put(&db, "k", "1")?;
    /// other.put(&db, "k", "2")?;
    /// one.commit()?;
    /// let error = other.commit().unwrap_err();
    /// assert_eq!(error.kind(), esker::ErrorKind::Conflict);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn transaction_with(&self, isolation: Isolation) -> Transaction {
        Transaction::begin(&self.engine, isolation)
    }

    /// A batch that reads its own writes over the newest state, and checks nothing when it is
    /// committed: a transaction of the level [`Isolation::ReadCommitted`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let batch = db.indexed_batch();
    /// batch.put(&db, "k", "v")?;
    /// assert_eq!(batch.get(&db, "k")?.unwrap(), "v");
    /// assert_eq!(db.get("k")?, None);
    /// batch.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "write batch with index")]
    pub fn indexed_batch(&self) -> Transaction {
        self.transaction_with(Isolation::ReadCommitted)
    }

    /// Runs `body` in a serializable transaction and commits it. After a conflict it is run again in
    /// a new one, up to 100 times in all, and from the third time on after a pause of up to some
    /// milliseconds.
    ///
    /// An error of `body` rolls the transaction back and is returned, unless it is a conflict
    /// itself.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let free = db.transact(|txn| {
    ///     let free = txn.get(&db, "seat/12")?.is_none();
    ///     if free {
    ///         txn.put(&db, "seat/12", "Ada")?;
    ///     }
    ///     Ok(free)
    /// })?;
    /// assert!(free);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of `body`; those of [`Transaction::commit`], a conflict if the last attempt had one.
    pub fn transact<T>(&self, body: impl FnMut(&Transaction) -> Result<T>) -> Result<T> {
        self.transact_with(Isolation::Serializable, body)
    }

    /// As [`Db::transact`], on the given level.
    ///
    /// # Errors
    /// As [`Db::transact`].
    pub fn transact_with<T>(
        &self,
        isolation: Isolation,
        mut body: impl FnMut(&Transaction) -> Result<T>,
    ) -> Result<T> {
        self.engine.retry(|| {
            let txn = self.transaction_with(isolation);
            let result = body(&txn)?;
            txn.commit()?;
            Ok(result)
        })
    }

    /// The sequence number of the newest visible write.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let before = db.seqno();
    /// db.put("k", "v")?;
    /// assert!(db.seqno() > before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seqno(&self) -> SeqNo {
        self.engine.visible()
    }

    /// Makes every write that was acknowledged before the call durable, whatever its durability
    /// was.
    ///
    /// # Errors
    /// `Io`, after which the database is read-only; `ReadOnly`; `Closed`.
    pub fn sync(&self) -> Result<()> {
        self.engine.sync()
    }

    /// Writes all memtables of all keyspaces to files and waits for it.
    ///
    /// # Errors
    /// `Io`; `ReadOnly`; `Closed`.
    pub fn flush(&self) -> Result<()> {
        self.engine.flush()
    }

    /// What the database holds and has done: sizes, counts, stalls, latencies, memory.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("k", "v")?;
    /// let stats = db.stats();
    /// assert_eq!(stats.keyspaces[0].name, "default");
    /// assert!(stats.memory.memtables > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Reads every byte of every file and checks it: checksums, order, filters, levels, and that
    /// newer versions lie above older ones. Reads and writes go on meanwhile. `progress` is called
    /// with bytes done and bytes in all.
    ///
    /// # Errors
    /// `Corruption` naming the first damaged file and offset; `Io`.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified> {
        self.engine.verify(progress)
    }

    /// Runs one flush or compaction, if any is due, on this thread; true if there was one. With
    /// [`Options::background_threads`] at 0 this is how a test drives them.
    ///
    /// # Errors
    /// What the job failed with.
    pub fn run_one_job(&self) -> Result<bool> {
        self.engine.run_one_job()
    }

    /// Closes the database: makes all writes durable, stops the background work and releases the
    /// directory, also if other handles are still around; they fail with
    /// [`Error::Closed`](crate::Error::Closed) from then on.
    ///
    /// Dropping the last handle does the same, but can only log an error.
    ///
    /// # Errors
    /// `Io`, if the writes could not be made durable. The database is closed all the same.
    pub fn close(self) -> Result<()> {
        self.engine.close()
    }
}

pub use crate::engine::verify::Verified;

impl Keyspace {
    /// Is this the keyspace that [`Db`] itself reads and writes?
    pub fn is_default(&self) -> bool {
        self.name() == DEFAULT_KEYSPACE
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("directory", &self.engine.directory()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;
    use crate::base::options::Durability;
    use crate::fs::MemFs;

    #[test]
    fn after_a_failure_no_sync_makes_anything_durable() {
        let options = Options::new().durability(Durability::Os).background_threads(0);
        let db = options.fs(Arc::new(MemFs::new())).open("/db").unwrap();
        // Beyond the first segment of the log.
        for n in 0..40 {
            db.put([n], vec![n; 64 << 10]).unwrap();
        }
        let engine = db.engine();
        let synced = engine.synced();
        assert!(synced < engine.visible());
        let _ = engine.fail(Error::internal("a sync failed"));
        assert!(engine.sync_ended_segments().is_err());
        assert!(engine.sync_headers().is_err());
        assert_eq!(engine.synced(), synced);
    }

    #[test]
    fn a_compaction_runs_until_what_it_has_replaced_is_gone() {
        let options = Options::new().durability(Durability::Os).background_threads(0);
        let db = options.fs(Arc::new(MemFs::new())).open("/db").unwrap();
        for n in 0..4 {
            db.put([n], "value").unwrap();
            db.flush().unwrap();
        }
        let engine = db.engine();
        let job = engine.next_compaction().unwrap();
        assert!(engine.next_compaction().is_none());
        drop((job.plan, job.claim));
        assert!(engine.next_compaction().is_some());
        assert_eq!(engine.stats().background.running, 1);
        drop(job.running);
        assert_eq!(engine.stats().background.running, 0);
    }
}
