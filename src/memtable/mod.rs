//! Memtables: the newest writes of a keyspace, sorted in memory.
//!
//! ```text
//!  filter   words of 64 bits, one per key: is it here at all?
//!  list     skiplist of entries in THE order: head of the key | trailer | pointer
//!  arena    key bytes, value bytes | key bytes, value bytes | …
//! ```
//!
//! Many threads insert and read at once, without locks. Entries are never changed or removed; all
//! memory goes at once, with the last handle to the memtable. That is why readers need no reference
//! counts on entries and iterators may keep pointers to them.
//!
//! *Invariants.* No two inserts have the same key and trailer (the second would be ignored). A
//! reader that learns a sequence number from the commit that published it sees every entry up to
//! that number: each part is written before the next in the order filter, arena, list.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;

mod arena;
mod filter;
mod iter;
mod key;
mod list;
#[cfg(test)]
mod tests;

use arena::Arena;
use filter::Filter;
use key::Entry;
use list::List;

pub(crate) use iter::MemtableIter;

/// A concurrent ordered map from internal keys to values that only grows.
pub(crate) struct Memtable {
    id: u64,
    // The list points into the arena; see there.
    list: List,
    arena: Arena,
    filter: Filter,
    first_seqno: AtomicU64,
    last_seqno: AtomicU64,
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Memtable {
    /// An empty memtable, which is expected to grow to `bytes_hint`.
    pub(crate) fn new(id: u64, bytes_hint: usize) -> Memtable {
        Memtable {
            id,
            list: List::new(),
            arena: Arena::new(),
            filter: Filter::new(bytes_hint),
            first_seqno: AtomicU64::new(u64::MAX),
            last_seqno: AtomicU64::new(0),
        }
    }

    #[cfg(test)]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Adds an entry. Any number of threads may do so at once.
    pub(crate) fn insert(&self, key: &[u8], trailer: Trailer, value: &[u8]) {
        self.filter.insert(KeyHash::of(key));
        let seqno = trailer.seqno().get();
        // The loads spare most inserts an atomic write to a shared cache line.
        if seqno < self.first_seqno.load(Ordering::Relaxed) {
            self.first_seqno.fetch_min(seqno, Ordering::Relaxed);
        }
        if seqno > self.last_seqno.load(Ordering::Relaxed) {
            self.last_seqno.fetch_max(seqno, Ordering::Relaxed);
        }
        let stored = self.arena.store(key, value);
        self.list.insert(Entry::new(key, trailer, stored));
    }

    /// The newest version of `key` that a reader at `seqno` sees: a value, a tombstone or whatever
    /// its trailer says.
    pub(crate) fn get(&self, key: &[u8], hash: KeyHash, seqno: SeqNo) -> Option<(Trailer, &[u8])> {
        let found = self.find(key, hash, seqno)?;
        Some((found.trailer, self.arena.value(found.stored)))
    }

    fn find(&self, key: &[u8], hash: KeyHash, seqno: SeqNo) -> Option<Entry> {
        if !self.filter.may_contain(hash) {
            return None;
        }
        let found = self.list.lower_bound(&Entry::probe(KeyRef::seek(key, seqno)))?;
        (self.arena.key(found.stored) == key).then_some(found)
    }

    /// As [`Memtable::get`], with the value to keep.
    pub(crate) fn get_slice(
        self: &Arc<Self>,
        key: &[u8],
        hash: KeyHash,
        seqno: SeqNo,
    ) -> Option<(Trailer, Slice)> {
        let found = self.find(key, hash, seqno)?;
        Some((found.trailer, iter::slice_of(self, found.stored)))
    }

    /// Memory in use.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.bytes() + self.list.len() * list::NODE_LEN + self.filter.bytes()
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The smallest sequence number in it.
    #[cfg(test)]
    pub(crate) fn first_seqno(&self) -> Option<SeqNo> {
        let first = self.first_seqno.load(Ordering::Relaxed);
        (first != u64::MAX).then(|| SeqNo::new(first))
    }

    /// The largest sequence number in it.
    #[cfg(test)]
    pub(crate) fn last_seqno(&self) -> Option<SeqNo> {
        self.first_seqno()?;
        Some(SeqNo::new(self.last_seqno.load(Ordering::Relaxed)))
    }

    /// A cursor over everything in it. What is inserted later may or may not appear.
    pub(crate) fn iter(self: &Arc<Self>) -> MemtableIter {
        MemtableIter::new(Arc::clone(self))
    }
}
