//! Which keys a memtable may hold: a Bloom filter that grows while it is read.
//!
//! All bits of a key lie in one 64-bit word: an insert is one atomic operation, a question one cache
//! miss. At ten bits per key about one absent key in fifty is let through; a filter that got more
//! keys than it was made for lets more through, and never withholds one.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::base::key::KeyHash;
use crate::base::prefetch::prefetch;
use crate::memtable::table::Table;

const BITS_PER_KEY: usize = 10;
/// Bytes that an entry is expected to take.
const ENTRY_LEN: usize = 128;
const KEYS_MIN: usize = 64;
/// The filter takes this part of the memtable at most.
const SHARE: usize = 16;

pub(super) struct Filter(Table<AtomicU64>);

impl Filter {
    /// A filter for a memtable that will take `bytes`.
    pub(super) fn new(bytes: usize) -> Filter {
        let keys = (bytes / ENTRY_LEN).max(KEYS_MIN);
        Filter(Table::new((keys * BITS_PER_KEY / 64).min(bytes / SHARE / 8)))
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Asks for the word of `hash` before it is needed.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        if let Some(word) = self.0.get(upper(hash)) {
            prefetch(word);
        }
    }

    pub(super) fn insert(&self, hash: KeyHash) {
        let (word, bits) = (self.0.get_or_make(upper(hash)), bits(hash));
        // Relaxed: who may see the entry synchronized with its insert later on. The load spares
        // hot keys the bouncing of a cache line.
        if word.load(Ordering::Relaxed) & bits != bits {
            word.fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// `false` if no key with this hash was inserted.
    pub(super) fn may_contain(&self, hash: KeyHash) -> bool {
        let bits = bits(hash);
        self.0.get(upper(hash)).is_some_and(|word| word.load(Ordering::Relaxed) & bits == bits)
    }
}

/// What tells the word of a key.
fn upper(hash: KeyHash) -> u32 {
    (hash.0 >> 32) as u32
}

/// Four bits of a word.
fn bits(hash: KeyHash) -> u64 {
    (0..4).fold(0, |bits, i| bits | 1 << ((hash.0 >> (6 * i)) & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inserted_keys_pass_and_few_others_do() {
        let filter = Filter::new(1 << 20);
        assert_eq!(filter.bytes(), 0);
        let keys = (1 << 20) / ENTRY_LEN;
        for i in 0..keys {
            filter.insert(KeyHash::of(&i.to_be_bytes()));
        }
        assert!((0..keys).all(|i| filter.may_contain(KeyHash::of(&i.to_be_bytes()))));
        let passed =
            (keys..11 * keys).filter(|i| filter.may_contain(KeyHash::of(&i.to_be_bytes()))).count();
        assert!(passed * 100 < 10 * keys * 4, "{passed} of {}", 10 * keys);
        assert!(filter.bytes() <= (1 << 20) / SHARE);
    }

    #[test]
    fn tiny_filters_work() {
        for bytes in [0, 1, 100, 4096] {
            let filter = Filter::new(bytes);
            assert!(!filter.may_contain(KeyHash::of(b"a")));
            filter.insert(KeyHash::of(b"a"));
            assert!(filter.may_contain(KeyHash::of(b"a")));
        }
    }
}
