//! Where the newest version of a key lies, for the keys that came first: what is written again and
//! again, and read, is mostly among them, and is found without a search of the list. (Recovery adds
//! entries by key, so until a memtable that was recovered is flushed, chance tells which came first.)
//!
//! ```text
//! slot     owner: hash of a key, 0 if free | newest: the record
//! ```
//!
//! A slot belongs to the first hash that wants it, for as long as the memtable lives; a key whose
//! slot belongs to another is searched for. Nothing is ever displaced, and a record is replaced only
//! by a newer one. So once an insert of the owner has returned, the slot names its version or a newer
//! one. A reader that finds its key there, in a version that it may see, needs no search: whatever
//! else it may see was inserted before it learned its sequence number, and is older. Two keys of one
//! hash share a slot: it names the newer of both, which is the newest of its own key all the same.

use std::num::NonZeroU64;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use crate::base::key::KeyHash;
use crate::base::planted::Planted;
use crate::base::prefetch::prefetch;
use crate::base::sync::atomic::AtomicPtr;
use crate::base::sync::atomic::AtomicU64;
use crate::memtable::record::Record;
use crate::memtable::table::Table;

/// The slots take this part of the memtable.
const SHARE: usize = 64;

pub(super) struct HashIndex(Table<Slot>);

#[derive(Default)]
#[cfg_attr(not(esker_shuttle), repr(align(16)))]
struct Slot {
    owner: AtomicU64,
    newest: AtomicPtr<u8>,
}

impl HashIndex {
    /// For a memtable that will take `bytes`.
    pub(super) fn new(bytes: usize) -> HashIndex {
        HashIndex(Table::new(bytes / SHARE / size_of::<Slot>()))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Asks for the slot of `hash` before it is needed.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        if let Some(slot) = self.0.get(lower(hash)) {
            prefetch(slot);
        }
    }

    /// Notes a record that is in the list, whose key has this hash.
    pub(super) fn insert(&self, hash: KeyHash, record: Record) {
        let slot = self.0.get_or_make(lower(hash));
        let Some(hash) = NonZeroU64::new(hash.0) else { return };
        // Relaxed: an owner never changes, who sees none tries to be it, and the record has a word
        // of its own, by which it is acquired.
        let owner = match slot.owner.load(Relaxed) {
            0 => match slot.owner.compare_exchange(0, hash.get(), Relaxed, Relaxed) {
                Ok(_) => hash.get(),
                Err(owner) => owner,
            },
            owner => owner,
        };
        if owner != hash.get() {
            return;
        }
        let mut known = slot.newest.load(Acquire);
        if Planted::OldVersionKept.is_on() && !known.is_null() {
            return;
        }
        while NonNull::new(known).is_none_or(|known| Record::at(known).is_older_than(record)) {
            match slot.newest.compare_exchange(known, record.as_ptr(), Release, Acquire) {
                Ok(_) => break,
                Err(now) => known = now,
            }
        }
    }

    /// The newest record of the keys that have this hash, if there is one and it is known.
    #[inline]
    pub(super) fn newest(&self, hash: KeyHash) -> Option<Record> {
        let slot = self.0.get(lower(hash))?;
        if slot.owner.load(Relaxed) != hash.0 {
            return None;
        }
        NonNull::new(slot.newest.load(Acquire)).map(Record::at)
    }
}

/// What tells the slot of a key: the filter takes the other half for its words.
fn lower(hash: KeyHash) -> u32 {
    hash.0 as u32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::key::KeyRef;
    use crate::base::key::Trailer;
    use crate::base::seqno::SeqNo;
    use crate::base::value::ValueKind;
    use crate::memtable::arena::FreeChunks;
    use crate::memtable::record::Records;

    const A: KeyHash = KeyHash(0x1111_2222_3333_4444);
    const B: KeyHash = KeyHash(0x5555_6666_7777_8888);

    /// Has the records of keys with these hashes, inserted in this order; 1 slot or many.
    fn index(bytes: usize, inserted: &[(KeyHash, &[u8], u64)]) -> (HashIndex, Records) {
        let (index, records) = (HashIndex::new(bytes), Records::new(Arc::new(FreeChunks::new(0))));
        for (hash, user, seqno) in inserted {
            let trailer = Trailer::new(SeqNo::new(*seqno), ValueKind::Put);
            index.insert(*hash, records.store(KeyRef::new(user, trailer), b""));
        }
        (index, records)
    }

    fn newest(index: &HashIndex, hash: KeyHash) -> Option<(Vec<u8>, u64)> {
        let found = index.newest(hash)?;
        Some((found.key().user.to_vec(), found.trailer().seqno().get()))
    }

    #[test]
    fn a_slot_names_the_newest_version_in_whatever_order_they_come() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let inserted = order.map(|seqno| (A, &b"a"[..], seqno));
            let (index, _records) = index(1 << 20, &inserted);
            assert_eq!(newest(&index, A), Some((b"a".to_vec(), 3)));
            assert_eq!(newest(&index, B), None);
        }
    }

    #[test]
    fn who_comes_first_keeps_the_slot() {
        let (index, _records) = index(0, &[(A, b"a", 1), (B, b"b", 2), (A, b"a", 3), (B, b"b", 4)]);
        assert_eq!(newest(&index, A), Some((b"a".to_vec(), 3)));
        assert_eq!(newest(&index, B), None);
    }

    #[test]
    fn keys_of_one_hash_share_a_slot() {
        let (index, _records) = index(1 << 20, &[(A, b"a", 2), (A, b"b", 3), (A, b"a", 1)]);
        assert_eq!(newest(&index, A), Some((b"b".to_vec(), 3)));
    }

    #[test]
    fn a_hash_that_means_a_free_slot_has_none() {
        let none = KeyHash(0);
        let (index, _records) = index(1 << 20, &[(none, b"a", 2)]);
        assert_eq!(newest(&index, none), None);
    }
}
