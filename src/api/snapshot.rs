//! Snapshot: a consistent view over all keyspaces at one instant.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::api::keyspace::Keyspace;
use crate::api::reader::Reader;
use crate::base::seqno::SeqNo;
use crate::engine::Engine;
use crate::engine::snapshots::SnapshotPin;

/// The state of all keyspaces at one instant, untouched by anything that happens later. Reads the
/// default keyspace by the methods of [`Reader`], which it has by [`Deref`], and any other through
/// [`Snapshot::keyspace`].
///
/// While it lives, compaction keeps what it sees: drop it when you are done. What expires by
/// [`put_with_ttl`](Keyspace::put_with_ttl) after it was taken is there for it.
#[derive(Clone)]
pub struct Snapshot {
    reader: Reader,
    pin: Arc<SnapshotPin>,
}

impl Snapshot {
    pub(crate) fn new(engine: &Arc<Engine>) -> Snapshot {
        let pin = engine.pin_snapshot();
        let reader = Reader::at(engine.clone(), engine.default_keyspace(), pin.clone());
        Snapshot { reader, pin }
    }

    /// Reads `keyspace` as of this snapshot. A keyspace that was created later is empty.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// let snapshot = db.snapshot();
    /// users.delete("1")?;
    /// assert_eq!(snapshot.keyspace(&users).get("1")?.unwrap(), "Ada");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Reads of a keyspace of another database fail with
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument).
    pub fn keyspace(&self, keyspace: &Keyspace) -> Reader {
        Reader::at(self.reader.engine.clone(), keyspace.state().clone(), self.pin.clone())
    }

    /// The sequence number of the newest write that it sees.
    pub fn seqno(&self) -> SeqNo {
        self.pin.seqno()
    }
}

impl Deref for Snapshot {
    type Target = Reader;

    /// Reads of the default keyspace.
    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("seqno", &self.seqno()).finish_non_exhaustive()
    }
}
