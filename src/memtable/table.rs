//! A table of words for a memtable, of which only the pages that something was put into take
//! memory: so a memtable with a few entries is cheap, whatever it may grow to.

use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

const PAGE_BYTES: usize = 4 << 10;

/// A page: made when something is first put into it.
type Page<T> = OnceLock<Box<[T]>>;

pub(super) struct Table<T> {
    len: usize,
    /// Made by the first insert.
    pages: OnceLock<Box<[Page<T>]>>,
    /// Bytes in pages.
    bytes: AtomicUsize,
}

impl<T: Default> Table<T> {
    const PER_PAGE: usize = PAGE_BYTES / size_of::<T>();

    /// A table of `len` words, but 2^32 at most and one at least.
    pub(super) fn new(len: usize) -> Table<T> {
        let len = len.clamp(1, u32::MAX as usize);
        Table { len, pages: OnceLock::new(), bytes: AtomicUsize::new(0) }
    }

    /// The place of what has this hash, of 32 bits.
    #[inline]
    fn position(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.len as u64) >> 32) as usize
    }

    /// The word for `hash`; none if nothing was put near it.
    #[inline]
    pub(super) fn get(&self, hash: u32) -> Option<&T> {
        let n = self.position(hash);
        self.pages.get()?.get(n / Self::PER_PAGE)?.get()?.get(n % Self::PER_PAGE)
    }

    /// The word for `hash`.
    #[inline]
    pub(super) fn get_or_make(&self, hash: u32) -> &T {
        let n = self.position(hash);
        let pages = self.pages.get_or_init(|| self.empty_pages());
        let page = pages[n / Self::PER_PAGE].get_or_init(|| self.new_page(n / Self::PER_PAGE));
        &page[n % Self::PER_PAGE]
    }

    #[cold]
    fn empty_pages(&self) -> Box<[Page<T>]> {
        (0..self.len.div_ceil(Self::PER_PAGE)).map(|_| OnceLock::new()).collect()
    }

    #[cold]
    fn new_page(&self, page: usize) -> Box<[T]> {
        let len = (self.len - page * Self::PER_PAGE).min(Self::PER_PAGE);
        self.bytes.fetch_add(len * size_of::<T>(), Relaxed);
        (0..len).map(|_| T::default()).collect()
    }

    /// Bytes of memory held.
    pub(super) fn bytes(&self) -> usize {
        let pages = self.pages.get().map_or(0, |pages| size_of_val::<[_]>(pages));
        pages + self.bytes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn each_word_has_its_hashes() {
        let count = if cfg!(miri) { 100 } else { 10_000 };
        for len in [1, 3, 511, 512, 513, 3000] {
            let table: Table<AtomicU64> = Table::new(len);
            let hashes = || (0..=u32::MAX).step_by((u32::MAX / count) as usize);
            for hash in hashes() {
                table.get_or_make(hash).fetch_add(1, Relaxed);
            }
            let most = hashes().map(|hash| table.get(hash).unwrap().load(Relaxed)).max().unwrap();
            let even = hashes().count() as u64 / len as u64;
            assert!((even..=even + 2).contains(&most), "{most} of {len}");
        }
    }

    #[test]
    fn only_pages_in_use_take_memory() {
        let table: Table<AtomicU64> = Table::new(1 << 20);
        assert_eq!((table.bytes(), table.get(7).is_none()), (0, true));
        table.get_or_make(7);
        let pages = (1 << 20) / 512 * size_of::<Page<AtomicU64>>();
        assert_eq!(table.bytes(), pages + PAGE_BYTES);
        table.get_or_make(8);
        assert_eq!(table.bytes(), pages + PAGE_BYTES);
        table.get_or_make(u32::MAX);
        assert_eq!(table.bytes(), pages + 2 * PAGE_BYTES);
        let small: Table<AtomicU64> = Table::new(4);
        small.get_or_make(0);
        assert_eq!(small.bytes(), size_of::<Page<AtomicU64>>() + 32);
    }
}
