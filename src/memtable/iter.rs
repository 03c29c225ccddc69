//! The cursor over a memtable.
//!
//! It owns the memtable and borrows nothing, so that it can be kept, sent and put into a merge. It
//! steps within one node's order as it was when it got there, and looks for the neighbour of its
//! entry where that ends.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::range_tombstone::is_behind;
use crate::base::seqno::SeqNo;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::slice::Slice;
use crate::memtable::Memtable;
use crate::memtable::key::Probe;
use crate::memtable::list::Position;
use crate::memtable::record::Record;

pub(crate) struct MemtableIter {
    memtable: Arc<Memtable>,
    at: Option<Position>,
}

impl MemtableIter {
    pub(super) fn new(memtable: Arc<Memtable>) -> MemtableIter {
        MemtableIter { memtable, at: None }
    }

    /// To there, from where a reader goes on, mostly.
    fn stand_at(&mut self, at: Option<Position>) {
        self.at = at;
        if let Some(at) = &self.at {
            at.prefetch_ahead();
        }
    }

    /// To the neighbour of where it stood.
    fn step_to(&mut self, at: Option<Position>) {
        self.at = at;
        if let Some(at) = &self.at {
            at.prefetch_next();
        }
    }

    fn record(&self) -> Record {
        match &self.at {
            Some(at) => at.record(),
            None => panic!("a cursor that stands nowhere has no entry"),
        }
    }
}

impl InternalIter for MemtableIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.stand_at(self.memtable.list.lower_bound(&Probe::new(target)));
        Ok(())
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.at = self.memtable.list.upper_bound(&Probe::new(target));
        Ok(())
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.at = self.memtable.list.front();
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.at = self.memtable.list.back();
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.step_to(self.at.and_then(|at| at.next()));
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.at = self.at.and_then(|at| at.prev());
        Ok(())
    }

    fn try_next(&mut self) -> Option<Trailer> {
        let next = self.at?.next()?;
        let (record, user) = (next.record(), self.key().user);
        let KeyRef { user: next_user, trailer } = record.key();
        if next_user == user {
            return None;
        }
        self.step_to(Some(next));
        Some(trailer)
    }

    fn pass_versions(&mut self, user: &[u8]) -> Result<()> {
        let behind = Probe::new(KeyRef::after_all(user));
        self.stand_at(self.at.and_then(|at| self.memtable.list.first_behind(&behind, &at)));
        Ok(())
    }

    fn skip_forward(&mut self, to: Option<&[u8]>, below: SeqNo) -> Result<()> {
        self.next()?;
        if !self.valid() || !is_behind(to, self.key().user) || !self.memtable.is_older_than(below) {
            return Ok(());
        }
        if let Some(to) = to {
            return self.seek(KeyRef::before_all(to));
        }
        self.at = None;
        Ok(())
    }

    fn skip_backward(&mut self, from: &[u8], below: SeqNo) -> Result<()> {
        self.prev()?;
        if !self.valid() || self.key().user < from || !self.memtable.is_older_than(below) {
            return Ok(());
        }
        self.seek_for_prev(KeyRef::before_all(from))
    }

    fn valid(&self) -> bool {
        self.at.is_some()
    }

    fn key(&self) -> KeyRef<'_> {
        self.memtable.records.key(self.record())
    }

    fn is_hot(&self) -> bool {
        self.memtable.is_hot()
    }

    fn value(&self) -> &[u8] {
        self.memtable.records.value(self.record())
    }

    fn value_slice(&self) -> Slice {
        slice_of(&self.memtable, self.record())
    }
}

/// The value of a record of `memtable`, to keep: copied if it is short, else it keeps the memtable.
pub(super) fn slice_of(memtable: &Arc<Memtable>, record: Record) -> Slice {
    let value = memtable.records.value(record);
    if value.len() <= COPY_LEN_MAX {
        return Slice::copy_from(value);
    }
    Slice::from(Bytes::from_owner(PinnedValue { memtable: Arc::clone(memtable), record }))
}

/// A value that keeps its memtable alive.
struct PinnedValue {
    memtable: Arc<Memtable>,
    record: Record,
}

impl AsRef<[u8]> for PinnedValue {
    fn as_ref(&self) -> &[u8] {
        self.memtable.records.value(self.record)
    }
}
