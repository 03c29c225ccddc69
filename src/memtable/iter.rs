//! The cursor over a memtable.
//!
//! It owns the memtable and borrows nothing, so that it can be kept, sent and put into a merge. It
//! fetches entries in chunks, in the direction of travel, and each chunk searches for the entry
//! where the last one ended. Chunks grow as the walk goes on: a seek that is followed by few steps
//! fetches little.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyRef;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::slice::Slice;
use crate::memtable::Memtable;
use crate::memtable::arena::Stored;
use crate::memtable::key::Entry;

const CHUNK_MIN: usize = 4;
const CHUNK_MAX: usize = 64;

pub(crate) struct MemtableIter {
    memtable: Arc<Memtable>,
    /// The current entry and those that follow in the direction of travel.
    chunk: Vec<Entry>,
    /// Position of the current entry in the chunk; at its end when the cursor stands nowhere.
    at: usize,
    /// How many entries to fetch next.
    fetch: usize,
    backward: bool,
}

impl MemtableIter {
    pub(super) fn new(memtable: Arc<Memtable>) -> MemtableIter {
        MemtableIter { memtable, chunk: Vec::new(), at: 0, fetch: CHUNK_MIN, backward: false }
    }

    fn refill(&mut self, from: Bound<&Entry>) {
        self.chunk.clear();
        self.at = 0;
        if self.backward {
            self.memtable.list.collect_backward(from, self.fetch, &mut self.chunk);
        } else {
            self.memtable.list.collect_forward(from, self.fetch, &mut self.chunk);
        }
        self.fetch = (2 * self.fetch).min(CHUNK_MAX);
    }

    fn start(&mut self, from: Bound<&Entry>, backward: bool) {
        self.backward = backward;
        self.fetch = CHUNK_MIN;
        self.refill(from);
    }

    fn step(&mut self, backward: bool) {
        let Some(&current) = self.chunk.get(self.at) else {
            return;
        };
        if self.backward == backward {
            self.at += 1;
            if self.at == self.chunk.len() {
                self.refill(Bound::Excluded(&current));
            }
        } else {
            self.start(Bound::Excluded(&current), backward);
        }
    }

    fn entry(&self) -> Stored {
        self.chunk[self.at].stored
    }
}

impl InternalIter for MemtableIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.start(Bound::Included(&Entry::probe(target)), false);
        Ok(())
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.start(Bound::Included(&Entry::probe(target)), true);
        Ok(())
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.start(Bound::Unbounded, false);
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.start(Bound::Unbounded, true);
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.step(false);
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.step(true);
        Ok(())
    }

    fn valid(&self) -> bool {
        self.at < self.chunk.len()
    }

    fn key(&self) -> KeyRef<'_> {
        let entry = &self.chunk[self.at];
        KeyRef::new(self.memtable.arena.key(entry.stored), entry.trailer)
    }

    fn value(&self) -> &[u8] {
        self.memtable.arena.value(self.entry())
    }

    fn value_slice(&self) -> Slice {
        slice_of(&self.memtable, self.entry())
    }
}

/// The value of an entry of `memtable`, to keep: copied if it is short, else it keeps the memtable.
pub(super) fn slice_of(memtable: &Arc<Memtable>, entry: Stored) -> Slice {
    let value = memtable.arena.value(entry);
    if value.len() <= COPY_LEN_MAX {
        return Slice::copy_from(value);
    }
    Slice::from(Bytes::from_owner(PinnedValue { memtable: Arc::clone(memtable), entry }))
}

/// A value that keeps its memtable alive.
struct PinnedValue {
    memtable: Arc<Memtable>,
    entry: Stored,
}

impl AsRef<[u8]> for PinnedValue {
    fn as_ref(&self) -> &[u8] {
        self.memtable.arena.value(self.entry)
    }
}
