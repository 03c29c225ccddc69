//! WriteBatch: operations that are applied together or not at all.

use std::borrow::Cow;
use std::ops::Bound;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use crate::api::iter::owned_bounds;
use crate::api::iter::prefix_bounds;
use crate::api::keyspace::Keyspace;
use crate::base::batch::Batch;
use crate::base::batch::Op;
use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::key::KEY_LEN_MAX;
use crate::base::key::VALUE_LEN_MAX;
use crate::base::options::Durability;
use crate::base::range::Bounds;
use crate::base::range_tombstone::range_of;
use crate::base::range_tombstone::stored_end;
use crate::base::spans::SpanEnd;
use crate::base::value::ValueKind;
use crate::engine::Engine;
use crate::engine::commit::WriteMode;
use crate::engine::keyspaces::KeyspaceState;

/// Ordered operations over any number of keyspaces, applied atomically by
/// [`Db::write`](crate::Db::write). Later operations on a key win over earlier ones.
///
/// An operation that exceeds a limit is remembered and makes the whole batch fail when it is
/// written. A batch holds at most 2 GiB.
///
/// ```
/// use esker::{Durability, WriteBatch};
///
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// let mut batch = WriteBatch::new();
/// batch.put(&db, "a", "1").put(&db, "b", "2").delete(&db, "a").durability(Durability::Os);
/// assert_eq!(batch.len(), 3);
/// db.write(batch)?;
/// assert_eq!(db.iter().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    batch: Batch,
    keyspaces: Vec<Arc<KeyspaceState>>,
    mode: WriteMode,
    error: Option<Error>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Appends: set the value of `key` in `keyspace`.
    pub fn put(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> &mut WriteBatch {
        let form = keyspace.engine().put_form(keyspace.state(), value.as_ref().into());
        self.push_form(keyspace, key.as_ref(), form)
    }

    /// Appends: set the value of `key` in `keyspace` for so long from now on. See
    /// [`Keyspace::put_with_ttl`].
    pub fn put_with_ttl(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> &mut WriteBatch {
        let form = keyspace.put_for(ttl, value.as_ref());
        self.push_form(keyspace, key.as_ref(), form)
    }

    /// Appends a put as it is stored, or keeps the error.
    pub(crate) fn push_form(
        &mut self,
        keyspace: &Keyspace,
        key: &[u8],
        form: Result<(ValueKind, Cow<'_, [u8]>)>,
    ) -> &mut WriteBatch {
        match form {
            Ok((kind, value)) => self.push(keyspace, kind, key, &value),
            Err(error) => {
                self.error.get_or_insert(error);
                self
            }
        }
    }

    /// Appends: remove `key` from `keyspace`.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> &mut WriteBatch {
        self.push(keyspace, ValueKind::Delete, key.as_ref(), &[])
    }

    /// Appends: remove all keys of `range` from `keyspace`, those put earlier in this batch too. One
    /// operation; none if the range is empty. See [`Keyspace::delete_range`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// # use esker::WriteBatch;
    /// db.put("old", "1")?;
    /// let mut batch = WriteBatch::new();
    /// batch.delete_range(&db, "a".."z").put(&db, "new", "2");
    /// db.write(batch)?;
    /// assert_eq!(db.first_key_value()?.unwrap().0, "new");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete_range<K: AsRef<[u8]>, R: RangeBounds<K>>(
        &mut self,
        keyspace: &Keyspace,
        range: R,
    ) -> &mut WriteBatch {
        self.push_range(keyspace, &owned_bounds(&range))
    }

    /// Appends: remove all keys that begin with `prefix` from `keyspace`. See
    /// [`WriteBatch::delete_range`].
    pub fn delete_prefix(
        &mut self,
        keyspace: &Keyspace,
        prefix: impl AsRef<[u8]>,
    ) -> &mut WriteBatch {
        self.push_range(keyspace, &prefix_bounds(prefix.as_ref()))
    }

    fn push_range(&mut self, keyspace: &Keyspace, bounds: &Bounds) -> &mut WriteBatch {
        match checked_range(bounds) {
            Ok(None) => self,
            Ok(Some((from, to))) => {
                let end = stored_end(to.as_deref());
                self.push(keyspace, ValueKind::DeleteRange, &from, end)
            }
            Err(error) => {
                self.error.get_or_insert(error);
                self
            }
        }
    }

    /// Appends: merge `operand` into the value of `key` in `keyspace`, which must have a merge
    /// operator. See [`Keyspace::merge`]. In a keyspace whose values
    /// [expire](crate::KeyspaceOptions::expiring) it is folded when the batch is written, over what the
    /// batch did to the key before; if that fails nothing of the batch is written.
    pub fn merge(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        operand: impl AsRef<[u8]>,
    ) -> &mut WriteBatch {
        self.push(keyspace, ValueKind::Merge, key.as_ref(), operand.as_ref())
    }

    /// What this batch survives once it is written, whatever the database's default is.
    pub fn durability(&mut self, durability: Durability) -> &mut WriteBatch {
        self.mode.durability = Some(durability);
        self
    }

    /// Longest time the write may wait for compaction, whatever the database's default is.
    pub fn deadline(&mut self, deadline: Duration) -> &mut WriteBatch {
        self.mode.deadline = Some(deadline);
        self
    }

    fn push(
        &mut self,
        keyspace: &Keyspace,
        kind: ValueKind,
        key: &[u8],
        value: &[u8],
    ) -> &mut WriteBatch {
        if self.error.is_none() {
            self.error = self.try_push(keyspace, kind, key, value).err();
        }
        self
    }

    fn try_push(
        &mut self,
        keyspace: &Keyspace,
        kind: ValueKind,
        key: &[u8],
        value: &[u8],
    ) -> Result<()> {
        check_limits(key, value)?;
        if kind == ValueKind::Merge {
            keyspace.state().check_merges()?;
        }
        if !self.batch.has_room(key, value) {
            return Err(Error::argument("a batch holds at most 2 GiB: write it in parts"));
        }
        let state = keyspace.state();
        if !self.keyspaces.iter().any(|known| Arc::ptr_eq(known, state)) {
            self.keyspaces.push(state.clone());
        }
        self.batch.push(Op { kind, keyspace: state.id, key, value });
        Ok(())
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.batch.len() as usize
    }

    /// Holds it no operation?
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Bytes the operations take in the log.
    pub fn bytes(&self) -> usize {
        self.batch.bytes().len()
    }

    /// Removes all operations, and keeps the memory for the next ones.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.keyspaces.clear();
        self.error = None;
    }

    pub(crate) fn commit(mut self, engine: &Engine) -> Result<()> {
        if let Some(error) = self.error {
            return Err(error);
        }
        for state in &self.keyspaces {
            engine.check_own(state)?;
        }
        engine.commit(&mut self.batch, &self.keyspaces, self.mode)
    }
}

/// The range tombstone that has the keys within `bounds`, if there can be any.
pub(crate) fn checked_range(bounds: &Bounds) -> Result<Option<(Vec<u8>, SpanEnd)>> {
    for bound in [&bounds.0, &bounds.1] {
        if let Bound::Included(key) | Bound::Excluded(key) = bound {
            check_limits(key, &[])?;
        }
    }
    Ok(range_of(bounds))
}

/// Checks the lengths of a key and a value.
pub(crate) fn check_limits(key: &[u8], value: &[u8]) -> Result<()> {
    if key.len() > KEY_LEN_MAX {
        return Err(Error::argument(format!(
            "a key of {} bytes exceeds the limit of {KEY_LEN_MAX} bytes",
            key.len()
        )));
    }
    if value.len() > VALUE_LEN_MAX {
        return Err(Error::argument(format!(
            "a value of {} bytes exceeds the limit of {VALUE_LEN_MAX} bytes",
            value.len()
        )));
    }
    Ok(())
}
