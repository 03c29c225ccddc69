//! The ordered list of entries: a concurrent skiplist from which nothing is ever removed.

use std::ops::Bound;

use crossbeam_epoch::Guard;
use crossbeam_skiplist::SkipList;

use crate::memtable::key::Entry;

pub(super) struct List {
    entries: SkipList<Entry, ()>,
}

/// What a node takes beside its key and value: the entry, a reference count, a tower of two levels
/// on average, and the allocator's header.
pub(super) const NODE_LEN: usize = 80;

impl List {
    pub(super) fn new() -> List {
        List { entries: SkipList::new(crossbeam_epoch::default_collector().clone()) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds an entry, unless it is there already.
    pub(super) fn insert(&self, entry: Entry) {
        // The result holds a reference to the node. It is not given back: nodes are freed with the
        // list, whatever their count.
        let _ = self.entries.get_or_insert(entry, (), &guard());
    }

    /// The first entry at or after `probe`.
    pub(super) fn lower_bound(&self, probe: &Entry) -> Option<Entry> {
        let guard = guard();
        let found = self.entries.lower_bound(Bound::Included(probe), &guard)?;
        Some(*found.key())
    }

    /// Up to `n` entries after `from`, appended to `out` in THE order.
    pub(super) fn collect_forward(&self, from: Bound<&Entry>, n: usize, out: &mut Vec<Entry>) {
        let guard = guard();
        let mut cursor = self.entries.lower_bound(from, &guard);
        for _ in 0..n {
            let Some(entry) = cursor else { return };
            out.push(*entry.key());
            cursor = entry.next();
        }
    }

    /// Up to `n` entries before `from`, appended to `out` in descending order.
    pub(super) fn collect_backward(&self, from: Bound<&Entry>, n: usize, out: &mut Vec<Entry>) {
        let guard = guard();
        let mut cursor = self.entries.upper_bound(from, &guard);
        for _ in 0..n {
            let Some(entry) = cursor else { return };
            out.push(*entry.key());
            cursor = entry.prev();
        }
    }
}

fn guard() -> Guard {
    crossbeam_epoch::pin()
}
