//! Memtables: the newest writes of a keyspace, sorted in memory.
//!
//! ```text
//!  filter    words of 64 bits, one per key: is it here at all?
//!  index     hash table: the newest version of the keys that came first
//!  list      unrolled skiplist: sorted nodes of up to 15 entries, eight bytes of the key | pointer
//!  records   trailer, lengths, key bytes, value bytes | trailer, lengths, key bytes, …
//!  ranges    range tombstones, in fragments
//! ```
//!
//! Many threads insert at once; each locks the one node that it inserts into. Readers take no lock
//! and wait for nobody. Records are never changed or removed; all memory goes at once, with the last
//! handle to the memtable. That is why readers need no reference counts on entries and iterators may
//! keep pointers to them. Why readers see whole nodes is told [there](crate::memtable::node).
//!
//! *Invariants.* No two inserts have the same key and trailer (the second would be ignored). A
//! reader that learns a sequence number from the commit that published it sees every entry up to
//! that number: an insert has written all parts when it returns, and is published after that.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::key::head16;
use crate::base::lookup::Lookup;
use crate::base::prefetch::prefetch;
use crate::base::range_tombstone::Fragments;
use crate::base::range_tombstone::end_of;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::ValueKind;

mod arena;
mod filter;
mod hash_index;
mod iter;
mod key;
mod list;
mod node;
mod order;
mod range_del;
mod record;
mod table;
#[cfg(test)]
mod tests;

use arena::FreeChunks;
use filter::Filter;
use hash_index::HashIndex;
use key::Probe;
use list::List;
use range_del::RangeDels;
use record::Record;
use record::Records;

pub(crate) use iter::MemtableIter;
pub(crate) use range_del::RangeRun;

/// A memtable is hot if there was one get for so many of its entries: about the number that lie in a
/// block of its file, so that most of these will be read.
const ENTRIES_PER_GET: u64 = 32;

/// Keys of a batch whose words of the filter are asked for at once.
const GROUP: usize = 32;

/// Sorted entries lie anywhere: they are asked for so many inserts before their turn, and of their values
/// so much; behind it the processor has seen where this leads.
const AHEAD: usize = 4;
const AHEAD_BYTES_MAX: usize = 256;

/// A concurrent ordered map from internal keys to values that only grows.
pub(crate) struct Memtable {
    id: u64,
    // The list points to the records; see `arena`.
    list: List,
    records: Records,
    filter: Filter,
    index: HashIndex,
    len: AtomicUsize,
    ranges: RangeDels,
    /// No entry is newer.
    newest: AtomicU64,
    /// Of the keyspace while this was where it was written to, about.
    gets: AtomicU64,
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Makes the memtables of a database. It keeps the memory of those that are gone, up to that of one,
/// for those to come.
pub(crate) struct Memtables {
    /// What each is expected to grow to.
    bytes: usize,
    free: Arc<FreeChunks>,
}

impl fmt::Debug for Memtables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtables").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Memtables {
    /// Those made will be expected to grow to `bytes`.
    pub(crate) fn new(bytes: usize) -> Memtables {
        Memtables { bytes, free: Arc::new(FreeChunks::new(bytes)) }
    }

    /// An empty memtable.
    pub(crate) fn make(&self, id: u64) -> Memtable {
        Memtable {
            id,
            list: List::new(self.free.clone()),
            records: Records::new(self.free.clone()),
            filter: Filter::new(self.bytes),
            index: HashIndex::new(self.bytes),
            len: AtomicUsize::new(0),
            ranges: RangeDels::default(),
            newest: AtomicU64::new(u64::MAX),
            gets: AtomicU64::new(0),
        }
    }

    /// Keeps no memory for now.
    pub(crate) fn release(&self) {
        self.free.clear();
    }

    /// Memory that is kept.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free.bytes()
    }
}

/// An entry that is to be added.
#[derive(Debug)]
pub(crate) struct Insert<'a> {
    head: u128,
    key: KeyRef<'a>,
    value: &'a [u8],
}

impl<'a> Insert<'a> {
    pub(crate) fn new(key: KeyRef<'a>, value: &'a [u8]) -> Insert<'a> {
        Insert { head: head16(key.user), key, value }
    }
}

impl Memtable {
    /// Notes that its keyspace was read `gets` times.
    pub(crate) fn note_gets(&self, gets: u64) {
        self.gets.fetch_add(gets, Ordering::Relaxed);
    }

    /// Is its keyspace read as well as written, so that readers had in memory what was in here?
    fn is_hot(&self) -> bool {
        self.gets.load(Ordering::Relaxed) * ENTRIES_PER_GET > self.len() as u64
    }

    #[cfg(test)]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Adds an entry, or a range tombstone. Any number of threads may do so at once.
    pub(crate) fn insert(&self, key: &[u8], trailer: Trailer, value: &[u8]) {
        if trailer.kind_byte() == ValueKind::DeleteRange as u8 {
            return self.ranges.add(key, end_of(value), trailer.seqno());
        }
        let hash = KeyHash::of(key);
        self.filter.prefetch(hash);
        self.index.prefetch(hash);
        let key = KeyRef::new(key, trailer);
        let record = self.records.store(key, value);
        if self.list.insert(&Probe::new(key), record) {
            self.len.fetch_add(1, Ordering::Relaxed);
            self.index.insert(hash, record);
        }
        self.filter.insert(hash);
    }

    /// Adds entries, and empties the list. They go in by key, so that a search finds what it goes
    /// through in the processor's cache; from the n-th of so many `turns` on, so that threads that
    /// add lists with the same spread of keys at once do not meet.
    pub(crate) fn insert_sorted(&self, entries: &mut Vec<Insert<'_>>, n: usize, turns: usize) {
        entries.sort_unstable_by_key(|entry| entry.head);
        let first = n * entries.len() / turns;
        entries.rotate_left(first);
        for (index, Insert { key, value, .. }) in entries.iter().enumerate() {
            if let Some(soon) = entries.get(index + AHEAD) {
                prefetch(soon.key.user);
                prefetch(&soon.value[..soon.value.len().min(AHEAD_BYTES_MAX)]);
            }
            self.insert(key.user, key.trailer, value);
        }
        entries.clear();
    }

    /// The newest version of `key` that a reader at `seqno` sees: a value, a tombstone or whatever
    /// its trailer says.
    pub(crate) fn get(&self, key: &[u8], hash: KeyHash, seqno: SeqNo) -> Option<(Trailer, &[u8])> {
        let found = self.find(key, hash, seqno)?;
        Some((found.trailer(), self.records.value(found)))
    }

    fn find(&self, key: &[u8], hash: KeyHash, seqno: SeqNo) -> Option<Record> {
        if !self.filter.may_contain(hash) {
            return None;
        }
        let is_newest = |newest: &Record| {
            let newest = newest.key();
            newest.user == key && newest.trailer.seqno() <= seqno
        };
        if let Some(newest) = self.index.newest(hash).filter(is_newest) {
            return Some(newest);
        }
        let found = self.list.lower_bound(&Probe::new(KeyRef::seek(key, seqno)))?.record();
        (found.key().user == key).then_some(found)
    }

    /// As [`Memtable::get`], with the value to keep.
    pub(crate) fn get_slice(
        self: &Arc<Self>,
        key: &[u8],
        hash: KeyHash,
        seqno: SeqNo,
    ) -> Option<(Trailer, Slice)> {
        let found = self.find(key, hash, seqno)?;
        Some((found.trailer(), iter::slice_of(self, found)))
    }

    /// The same for those of `lookups` that have found nothing yet.
    pub(crate) fn get_many(self: &Arc<Self>, lookups: &mut [Lookup<'_>], seqno: SeqNo) {
        if self.is_empty() {
            return;
        }
        for group in lookups.chunks_mut(GROUP) {
            for lookup in group.iter() {
                self.filter.prefetch(lookup.hash);
                self.index.prefetch(lookup.hash);
            }
            for lookup in group.iter_mut().filter(|lookup| lookup.found.is_none()) {
                lookup.found = self.get_slice(lookup.key, lookup.hash, seqno);
            }
        }
    }

    /// Memory in use.
    pub(crate) fn bytes(&self) -> usize {
        let to_find = self.filter.bytes() + self.index.bytes();
        self.records.bytes() + self.list.bytes() + to_find + self.ranges.bytes()
    }

    /// Number of entries, range tombstones aside.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty() && !self.has_ranges()
    }

    /// Are there range tombstones?
    #[inline]
    pub(crate) fn has_ranges(&self) -> bool {
        self.ranges.len() > 0
    }

    /// Its range tombstones, in runs that together have all of them.
    pub(crate) fn ranges(&self) -> Vec<Arc<RangeRun>> {
        self.ranges.runs()
    }

    /// Its range tombstones, as far as readers at `snapshots`, which ascend, and later ones tell them
    /// apart.
    pub(crate) fn ranges_for(&self, snapshots: &[SeqNo]) -> Fragments {
        self.ranges.for_snapshots(snapshots)
    }

    /// The newest range tombstone over `key` that a reader at `seqno` sees; 0 if there is none.
    pub(crate) fn newest_range_over(&self, key: &[u8], seqno: SeqNo) -> SeqNo {
        self.ranges.newest_over(key, seqno)
    }

    /// The newest range tombstone with a key between `from` and `to`; 0 if there is none.
    pub(crate) fn newest_range_within(&self, from: &[u8], to: Option<&[u8]>) -> SeqNo {
        self.ranges.newest_within(from, to)
    }

    /// Says that it gets no entry that is newer than `last`.
    pub(crate) fn seal(&self, last: SeqNo) {
        self.newest.store(last.get(), Ordering::Relaxed);
    }

    /// No entry is newer; the largest number there is if it may still get any.
    pub(crate) fn newest(&self) -> SeqNo {
        SeqNo::new(self.newest.load(Ordering::Relaxed))
    }

    /// Is every entry older than `seqno`? `false` if that is not known.
    pub(super) fn is_older_than(&self, seqno: SeqNo) -> bool {
        // No entry has the largest number there is.
        seqno == SeqNo::MAX || self.newest() < seqno
    }

    /// A cursor over everything in it. What is inserted later may or may not appear.
    pub(crate) fn iter(self: &Arc<Self>) -> MemtableIter {
        MemtableIter::new(Arc::clone(self))
    }
}
