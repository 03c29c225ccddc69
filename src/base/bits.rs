//! Bits that threads share, one for each of a number of things.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// They guard nothing but themselves, so relaxed loads and stores are enough.
#[derive(Debug)]
pub(crate) struct AtomicBits(Box<[AtomicU64]>);

impl AtomicBits {
    /// At least `len`, none of them set.
    pub(crate) fn new(len: usize) -> AtomicBits {
        AtomicBits((0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Is bit `n` set? One that does not exist is not.
    #[inline]
    pub(crate) fn has(&self, n: usize) -> bool {
        let word = self.0.get(n / 64);
        word.is_some_and(|word| word.load(Relaxed) >> (n % 64) & 1 == 1)
    }

    /// Sets bit `n`, if it exists.
    pub(crate) fn add(&self, n: usize) {
        if let Some(word) = self.0.get(n / 64) {
            word.fetch_or(1 << (n % 64), Relaxed);
        }
    }

    /// Clears bit `n`.
    pub(crate) fn remove(&self, n: usize) {
        if let Some(word) = self.0.get(n / 64) {
            word.fetch_and(!(1 << (n % 64)), Relaxed);
        }
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> usize {
        size_of_val::<[_]>(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_and_cleared_one_by_one() {
        let bits = AtomicBits::new(130);
        for n in [0, 63, 64, 129] {
            assert!(!bits.has(n));
            bits.add(n);
            assert!(bits.has(n) && !bits.has(n + 1));
        }
        bits.remove(64);
        assert!(bits.has(63) && !bits.has(64) && bits.has(129));
        assert_eq!(bits.memory(), 24);
    }

    #[test]
    fn bits_that_do_not_exist_are_not_set() {
        let bits = AtomicBits::new(0);
        bits.add(0);
        bits.remove(7);
        assert!(!bits.has(0) && bits.memory() == 0);
    }
}
