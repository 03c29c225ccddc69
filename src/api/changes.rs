//! Changes: the feed of all batches that were committed, in order.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::api::db::Db;
use crate::base::batch::Op;
use crate::base::batch::Ops;
use crate::base::error::Result;
use crate::base::ids::KeyspaceId;
use crate::base::range_tombstone::end_of;
use crate::base::seqno::SeqNo;
use crate::base::sorted::SortedMap;
use crate::base::value::EXPIRY_LEN;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::engine::Engine;
use crate::engine::feed::Feed;
use crate::engine::feed::FeedBatch;
use crate::engine::feed::Offer;

/// Every committed batch from a sequence number on: in order, whole, each once. First what the log
/// holds, then what is written, as it comes. Made by [`Db::changes_since`].
///
/// A consumer applies a batch, stores [`ChangeBatch::last_seqno`] together with the result, and goes
/// on from there after a restart:
///
/// ```
/// use esker::{ChangeOp, Error, SeqNo};
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// # let mut stored = SeqNo::ZERO;
/// # db.put("k", "v")?;
/// let mut changes = match db.changes_since(stored) {
///     Err(Error::ChangesGone { .. }) => {
///         let snapshot = db.snapshot();
///         db.sync()?; // Only needed with a durability below `Sync`.
///         // … replace everything by what the snapshot holds …
///         db.changes_since(snapshot.seqno())?
///     }
///     changes => changes?,
/// };
/// while let Some(batch) = changes.next_timeout(Duration::from_millis(10))? {
///     for change in batch.iter() {
///         match change.op {
///             ChangeOp::Put { key, value } => println!("{key:?} is {value:?}"),
///             ChangeOp::Delete { key } => println!("{key:?} is gone"),
///             other => println!("{other:?}"),
///         }
///     }
///     stored = batch.last_seqno();
/// }
/// assert_eq!((stored, changes.lag()), (db.seqno(), 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// *What is shown* is what is visible and on stable storage: no crash takes back what the feed has
/// shown. With [`Durability::Sync`](crate::Durability::Sync) that is every write when it returns;
/// with `Interval`, at the latest when the interval is over; with `Os`, when the log is synced for
/// another reason: a flush, [`Db::sync`], a write that asks for it, or the close. See
/// [`Changes::unsynced`] for more. A database that is opened read-only shows all that its log holds,
/// synced or not.
///
/// *How far back* it reads is for [`Options::log_retention`](crate::Options::log_retention) to say;
/// without that, as far as the log that recovery needs. A feed keeps nothing of the log: if it falls
/// behind, it fails with [`Error::ChangesGone`](crate::Error::ChangesGone).
///
/// As an iterator it ends where nothing more is there yet, and goes on when there is. It takes a
/// buffer of 256 KiB, or of the longest batch, and keeps the database open.
pub struct Changes {
    engine: Arc<Engine>,
    feed: Feed,
    names: Arc<Names>,
}

/// The names of the keyspaces that were met; `None`: it was dropped before.
type Names = SortedMap<KeyspaceId, Option<String>>;

impl Db {
    /// Every batch that was or is committed behind `since`: see [`Changes`]. `since` is the last
    /// sequence number that the consumer knows; [`SeqNo::ZERO`] is before the first write. If it
    /// lies within a batch, the feed begins with that batch.
    ///
    /// ```
    /// use esker::SeqNo;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let mut batch = esker::WriteBatch::new();
    /// batch.put(&db, "a", "1").put(&db, "b", "2");
    /// db.write(batch)?;
    /// db.delete("a")?;
    /// let sizes: Vec<usize> =
    ///     db.changes_since(SeqNo::ZERO)?.map(|batch| Ok(batch?.len())).collect::<esker::Result<_>>()?;
    /// assert_eq!(sizes, [2, 1]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `ChangesGone` if some of these batches are not kept any more, or if the database never had
    /// `since`: it was restored from a backup, or has lost a part of its log; `Closed`.
    pub fn changes_since(&self, since: SeqNo) -> Result<Changes> {
        let engine = self.engine().clone();
        let feed = engine.changes_since(since)?;
        Ok(Changes { engine, feed, names: Arc::default() })
    }
}

impl Changes {
    /// Show what is visible already when only the operating system has it (default: no). What a power
    /// cut then takes from a database with a durability below `Sync`, the feed may have shown, and
    /// its sequence numbers may come again with something else. For consumers that end with the
    /// system: caches, views, other processes on the same machine.
    ///
    /// ```
    /// use esker::{Durability, Options, SeqNo};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let db = Options::new().durability(Durability::Os).open(dir.path())?;
    /// db.put("k", "v")?;
    /// assert!(db.changes_since(SeqNo::ZERO)?.try_next()?.is_none());
    /// assert!(db.changes_since(SeqNo::ZERO)?.unsynced(true).try_next()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn unsynced(mut self, yes: bool) -> Changes {
        self.feed.set_offer(if yes { Offer::Visible } else { Offer::Durable });
        self
    }

    /// The next batch, if it is there; never waits for one.
    ///
    /// # Errors
    /// `ChangesGone` if it is no longer kept; `Corruption` naming file and offset; `Io`; `Closed`.
    /// After an error the next call tries the same again.
    pub fn try_next(&mut self) -> Result<Option<ChangeBatch>> {
        let batch = self.engine.next_change(&mut self.feed)?;
        Ok(batch.map(|batch| self.named(batch)))
    }

    /// The next batch; waits for it if it is not there yet, and returns `None` if none comes within
    /// `timeout`. `Duration::MAX` is for ever.
    ///
    /// An idle consumer is woken when a batch is published. One that has just read something looks
    /// again after a quarter of a millisecond before it sleeps, so that a busy writer need not wake
    /// anybody: that is the most by which it is late.
    ///
    /// # Errors
    /// As of [`Changes::try_next`]; `ReadOnly` if nothing will ever come, as the database is opened
    /// read-only or a failure has made it so.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<ChangeBatch>> {
        let batch = self.engine.wait_for_change(&mut self.feed, timeout)?;
        Ok(batch.map(|batch| self.named(batch)))
    }

    /// Where the feed is: the last sequence number of the last batch, or what it began with. To be
    /// given to [`Db::changes_since`].
    pub fn seqno(&self) -> SeqNo {
        self.feed.seqno()
    }

    /// How far the feed is behind: so many operations are visible to readers that it has not shown.
    pub fn lag(&self) -> u64 {
        self.engine.visible().get().saturating_sub(self.seqno().get())
    }

    fn named(&mut self, batch: FeedBatch) -> ChangeBatch {
        let mut last = None;
        for op in Ops::new(&batch.payload).flatten() {
            if last.replace(op.keyspace) != Some(op.keyspace)
                && !self.names.contains_key(&op.keyspace)
            {
                let name = self.engine.keyspace_name(op.keyspace);
                Arc::make_mut(&mut self.names).insert(op.keyspace, name);
            }
        }
        ChangeBatch {
            first: batch.first,
            last: batch.last,
            payload: batch.payload,
            names: self.names.clone(),
        }
    }
}

impl Iterator for Changes {
    type Item = Result<ChangeBatch>;

    /// [`Changes::try_next`].
    fn next(&mut self) -> Option<Result<ChangeBatch>> {
        self.try_next().transpose()
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("seqno", &self.seqno()).finish_non_exhaustive()
    }
}

/// A batch of a change feed. Cheap to clone; it owns its memory.
#[derive(Clone)]
pub struct ChangeBatch {
    first: SeqNo,
    last: SeqNo,
    payload: Bytes,
    names: Arc<Names>,
}

impl ChangeBatch {
    /// The sequence number of its first operation. Each further one has the next.
    pub fn first_seqno(&self) -> SeqNo {
        self.first
    }

    /// The sequence number of its last operation, which is what a consumer stores.
    pub fn last_seqno(&self) -> SeqNo {
        self.last
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        (self.last.get() - self.first.get() + 1) as usize
    }

    /// A batch is never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of it in the log.
    pub fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// Its operations, in order: of several on one key the last one counts.
    ///
    /// ```
    /// use esker::ChangeOp;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.keyspace("users")?.put("1", "Ada")?;
    /// let batch = db.changes_since(esker::SeqNo::ZERO)?.try_next()?.unwrap();
    /// let change = batch.iter().next().unwrap();
    /// assert_eq!(change.keyspace, Some("users"));
    /// assert_eq!(change.op, ChangeOp::Put { key: b"1", value: b"Ada" });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = Change<'_>> {
        // The log has checked that they decode.
        (self.first.get()..).zip(Ops::new(&self.payload).flatten()).map(|(seqno, op)| Change {
            seqno: SeqNo::new(seqno),
            keyspace: self.names.get(&op.keyspace).and_then(Option::as_deref),
            keyspace_id: op.keyspace.0,
            op: ChangeOp::of(op),
        })
    }
}

impl fmt::Debug for ChangeBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change<'a> {
    /// Its sequence number.
    pub seqno: SeqNo,
    /// The name of its keyspace; `None` if that was dropped before the feed met it.
    ///
    /// That a keyspace is created or dropped is no change of the feed.
    pub keyspace: Option<&'a str>,
    /// The number of its keyspace. One that is dropped and created again has another one.
    pub keyspace_id: u32,
    /// What was done.
    pub op: ChangeOp<'a>,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeOp<'a> {
    /// Sets the value of a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Sets the value of a key until some time.
    PutUntil {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// When it expires, in milliseconds since 1970.
        expiry_ms: u64,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Removes all keys of a range.
    DeleteRange {
        /// The first key.
        from: &'a [u8],
        /// The first key behind the range; none if it goes to the end of all keys.
        to: Option<&'a [u8]>,
    },
    /// Changes the value of a key by the keyspace's merge operator.
    Merge {
        /// The key.
        key: &'a [u8],
        /// The operand.
        operand: &'a [u8],
    },
}

impl<'a> ChangeOp<'a> {
    fn of(op: Op<'a>) -> ChangeOp<'a> {
        let Op { kind, key, value, .. } = op;
        match kind {
            ValueKind::Delete => ChangeOp::Delete { key },
            ValueKind::Merge => ChangeOp::Merge { key, operand: value },
            ValueKind::Expiring => {
                let expiry_ms = expiry_of(value);
                let value = value.get(EXPIRY_LEN..).unwrap_or_default();
                ChangeOp::PutUntil { key, value, expiry_ms }
            }
            ValueKind::DeleteRange => ChangeOp::DeleteRange { from: key, to: end_of(value) },
            // The log holds no others.
            ValueKind::Put | ValueKind::BlobRef | ValueKind::ExpiringBlobRef => {
                ChangeOp::Put { key, value }
            }
        }
    }
}
