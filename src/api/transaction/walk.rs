//! TransactionIter and TransactionCursor: ways through the entries that note what they have come past.

use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;

use crate::api::cursor::Cursor;
use crate::api::iter::Iter;
use crate::api::keyspace::Keyspace;
use crate::base::error::Result;
use crate::base::range::Bounds;
use crate::base::slice::Key;
use crate::base::slice::Value;
use crate::base::spans::SpanEnd;
use crate::base::spans::span_of;
use crate::base::spans::successor;
use crate::engine::keyspaces::KeyspaceState;
use crate::engine::transaction::Txn;
use crate::engine::transaction::WalkId;

/// The entries of a range as a transaction sees them. Made by
/// [`Transaction::range`](crate::Transaction::range).
pub struct TransactionIter<'t> {
    txn: &'t Txn,
    state: Arc<KeyspaceState>,
    iter: Iter,
    from: Vec<u8>,
    to: SpanEnd,
    /// What was read from either end.
    front: Option<WalkId>,
    back: Option<WalkId>,
    done: bool,
}

impl<'t> TransactionIter<'t> {
    pub(super) fn new(txn: &'t Txn, keyspace: &Keyspace, bounds: Bounds) -> TransactionIter<'t> {
        let (from, to) = span_of(&bounds);
        let state = keyspace.state().clone();
        let iter = Iter::over(txn.view(&state), bounds);
        TransactionIter { txn, state, iter, from, to, front: None, back: None, done: false }
    }

    fn note_front(&mut self, key: &[u8]) -> Result<()> {
        if self.front.is_none() {
            let to = Some(successor(key));
            self.front = self.txn.begin_walk(&self.state, self.from.clone(), to)?;
        } else {
            self.txn.walk_up_to(self.front, key);
        }
        Ok(())
    }

    fn note_back(&mut self, key: &[u8]) -> Result<()> {
        if self.back.is_none() {
            self.back = self.txn.begin_walk(&self.state, key.to_vec(), self.to.clone())?;
        } else {
            self.txn.walk_down_to(self.back, key);
        }
        Ok(())
    }

    /// Notes what a step has read before it is returned.
    fn finish(
        &mut self,
        step: Option<Result<(Key, Value)>>,
        note: impl FnOnce(&mut Self, &[u8]) -> Result<()>,
    ) -> Option<Result<(Key, Value)>> {
        let noted = match &step {
            Some(Ok((key, _))) => note(self, key),
            // The ends have met: all of it was read.
            None if !self.done => {
                self.txn.note_span(&self.state, self.from.clone(), self.to.clone())
            }
            _ => Ok(()),
        };
        self.done |= noted.is_err() || !matches!(step, Some(Ok(_)));
        match noted {
            Ok(()) => step,
            Err(error) => Some(Err(error)),
        }
    }
}

impl Iterator for TransactionIter<'_> {
    type Item = Result<(Key, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.iter.next();
        self.finish(step, Self::note_front)
    }
}

impl DoubleEndedIterator for TransactionIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.iter.next_back();
        self.finish(step, Self::note_back)
    }
}

impl FusedIterator for TransactionIter<'_> {}

impl Drop for TransactionIter<'_> {
    fn drop(&mut self) {
        self.txn.end_walk(self.front);
        self.txn.end_walk(self.back);
    }
}

impl fmt::Debug for TransactionIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionIter").field("iter", &self.iter).finish_non_exhaustive()
    }
}

/// A place among the entries as a transaction sees them. Made by
/// [`Transaction::cursor`](crate::Transaction::cursor); moves as a [`Cursor`].
pub struct TransactionCursor<'t> {
    txn: &'t Txn,
    state: Arc<KeyspaceState>,
    cursor: Cursor,
    /// What was read since the last seek.
    walk: Option<WalkId>,
}

impl<'t> TransactionCursor<'t> {
    pub(super) fn new(txn: &'t Txn, keyspace: &Keyspace) -> TransactionCursor<'t> {
        let state = keyspace.state().clone();
        let cursor = Cursor::over(txn.view(&state));
        TransactionCursor { txn, state, cursor, walk: None }
    }

    /// After a seek: notes what was read, from `from` or else the entry, up to `to` or else the
    /// entry.
    fn placed(
        &mut self,
        placed: Result<bool>,
        from: Option<Vec<u8>>,
        to: Option<SpanEnd>,
    ) -> Result<bool> {
        let found = placed?;
        self.txn.end_walk(self.walk.take());
        let key = self.cursor.key();
        let from = from.unwrap_or_else(|| key.map(<[u8]>::to_vec).unwrap_or_default());
        let to = to.unwrap_or_else(|| key.map(successor));
        match self.txn.begin_walk(&self.state, from, to) {
            Ok(walk) => self.walk = walk,
            Err(error) => {
                // What cannot be noted must not be read.
                self.cursor.fail(error.clone());
                return Err(error);
            }
        }
        Ok(found)
    }

    /// To the first entry at or after `key`. O(log n).
    ///
    /// # Errors
    /// As [`Cursor::seek`]; `TransactionMemory`. The cursor then stands nowhere.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        let placed = self.cursor.seek(key);
        self.placed(placed, Some(key.to_vec()), None)
    }

    /// To the last entry at or before `key`. O(log n).
    ///
    /// # Errors
    /// As [`TransactionCursor::seek`].
    pub fn seek_for_prev(&mut self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        let placed = self.cursor.seek_for_prev(key);
        self.placed(placed, None, Some(Some(successor(key))))
    }

    /// To the first entry of all.
    ///
    /// # Errors
    /// As [`TransactionCursor::seek`].
    pub fn seek_to_first(&mut self) -> Result<bool> {
        let placed = self.cursor.seek_to_first();
        self.placed(placed, Some(Vec::new()), None)
    }

    /// To the last entry of all.
    ///
    /// # Errors
    /// As [`TransactionCursor::seek`].
    pub fn seek_to_last(&mut self) -> Result<bool> {
        let placed = self.cursor.seek_to_last();
        self.placed(placed, None, Some(None))
    }

    /// One entry on. Nothing happens if the cursor stands nowhere.
    ///
    /// # Errors
    /// As [`TransactionCursor::seek`].
    #[expect(clippy::should_implement_trait, reason = "a lending cursor cannot be an Iterator")]
    pub fn next(&mut self) -> Result<bool> {
        let was_valid = self.cursor.valid();
        let found = self.cursor.next()?;
        match self.cursor.key() {
            Some(key) => self.txn.walk_up_to(self.walk, key),
            None if was_valid => self.txn.walk_to_end(self.walk),
            None => {}
        }
        Ok(found)
    }

    /// One entry back. Nothing happens if the cursor stands nowhere.
    ///
    /// # Errors
    /// As [`TransactionCursor::seek`].
    pub fn prev(&mut self) -> Result<bool> {
        let was_valid = self.cursor.valid();
        let found = self.cursor.prev()?;
        match self.cursor.key() {
            Some(key) => self.txn.walk_down_to(self.walk, key),
            None if was_valid => self.txn.walk_down_to(self.walk, &[]),
            None => {}
        }
        Ok(found)
    }

    /// Does the cursor stand on an entry?
    pub fn valid(&self) -> bool {
        self.cursor.valid()
    }

    /// The key it stands on.
    pub fn key(&self) -> Option<&[u8]> {
        self.cursor.key()
    }

    /// The value it stands on.
    pub fn value(&self) -> Option<&[u8]> {
        self.cursor.value()
    }

    /// The entry it stands on, to keep.
    pub fn entry(&self) -> Option<(Key, Value)> {
        self.cursor.entry()
    }
}

impl Drop for TransactionCursor<'_> {
    fn drop(&mut self) {
        self.txn.end_walk(self.walk);
    }
}

impl fmt::Debug for TransactionCursor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionCursor").field("valid", &self.valid()).finish_non_exhaustive()
    }
}
