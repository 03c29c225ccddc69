//! Which keys a memtable may hold: a Bloom filter that grows while it is read.
//!
//! All bits of a key lie in one 64-bit word: an insert is one atomic operation, a question one cache
//! miss. At ten bits per key about one absent key in fifty is let through; a filter that got more
//! keys than it was made for lets more through, and never withholds one.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::base::key::KeyHash;
use crate::base::prefetch::prefetch;

const BITS_PER_KEY: usize = 10;
/// Bytes that an entry is expected to take.
const ENTRY_LEN: usize = 128;
const KEYS_MIN: usize = 64;
/// The filter takes this part of the memtable at most.
const SHARE: usize = 16;

pub(super) struct Filter {
    len: usize,
    /// Made by the first insert: an empty memtable is cheap.
    words: OnceLock<Box<[AtomicU64]>>,
}

impl Filter {
    /// A filter for a memtable that will take `bytes`.
    pub(super) fn new(bytes: usize) -> Filter {
        let keys = (bytes / ENTRY_LEN).max(KEYS_MIN);
        let len = (keys * BITS_PER_KEY / 64).min(bytes / SHARE / 8).max(1);
        Filter { len: len.min(u32::MAX as usize), words: OnceLock::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.words.get().map_or(0, |words| words.len() * 8)
    }

    /// Asks for the word of `hash` before it is needed.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        if let Some(word) = self.words.get().and_then(|words| words.get(self.position(hash))) {
            prefetch(word);
        }
    }

    pub(super) fn insert(&self, hash: KeyHash) {
        let words = self.words.get_or_init(|| (0..self.len).map(|_| AtomicU64::new(0)).collect());
        if let Some(word) = words.get(self.position(hash)) {
            let bits = bits(hash);
            // Relaxed: who may see the entry synchronized with its insert later on. The load spares
            // hot keys the bouncing of a cache line.
            if word.load(Ordering::Relaxed) & bits != bits {
                word.fetch_or(bits, Ordering::Relaxed);
            }
        }
    }

    /// `false` if no key with this hash was inserted.
    pub(super) fn may_contain(&self, hash: KeyHash) -> bool {
        let bits = bits(hash);
        self.words
            .get()
            .and_then(|words| words.get(self.position(hash)))
            .is_some_and(|word| word.load(Ordering::Relaxed) & bits == bits)
    }

    fn position(&self, hash: KeyHash) -> usize {
        ((u128::from(hash.0 >> 32) * self.len as u128) >> 32) as usize
    }
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
