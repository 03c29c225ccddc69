//! The blocks of one open file in the cache, and the way to them that takes no lock.
//!
//! Each block of the file has a slot, one word, which is empty or points at the block. A hit loads
//! the slot and borrows what it points at: no look-up, no lock, no reference count that other
//! threads write to.
//!
//! *Invariants.* S1: a slot points only at a block that the cache has, except between an eviction's
//! unlocking of the shard and its clearing of the slot, by the same thread, at once. So what slots
//! keep alive beyond what the cache counts are the blocks that running evictions have in their
//! hands. It is set under the lock of the shard that has the block, and cleared only if it still
//! points at what was evicted. S2: a block has one slot for ever, so clearing that is enough. S3:
//! blocks know their slots weakly, so the slots go with the reader of the file, and the blocks that
//! the cache still has of it age out.
//!
//! *A slot is set at the second read* of a block: what is read once, by a scan, costs nothing more.

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;

use arc_swap::ArcSwapAny;

use crate::base::bits::AtomicBits;
use crate::base::ids::FileId;
use crate::base::prefetch::prefetch;
use crate::cache::BlockCache;
use crate::cache::BlockId;
use crate::cache::block::Block;
use crate::cache::block::BlockGuard;
use crate::cache::memory::Shared;

/// A word for each block of a file.
pub(super) struct Slots(Box<[ArcSwapAny<Option<Shared>>]>);

impl Slots {
    fn new(count: usize) -> Slots {
        Slots((0..count).map(|_| ArcSwapAny::new(None)).collect())
    }

    /// Points slot `n` at `block`. Requires: the lock of the shard that has the block.
    pub(super) fn set(&self, n: usize, block: &Shared) {
        if let Some(slot) = self.0.get(n) {
            slot.store(Some(block.clone()));
        }
    }

    /// Empties slot `n` if it still points at `block`.
    pub(super) fn clear(&self, n: usize, block: &Shared) {
        if let Some(slot) = self.0.get(n) {
            let ours = slot.load();
            if ours.as_ref().is_some_and(|ours| ours.is(block)) {
                slot.compare_and_swap(&ours, None);
            }
        }
    }

    /// How many slots point at a block.
    #[cfg(test)]
    pub(super) fn occupied(&self) -> usize {
        self.0.iter().filter(|slot| slot.load().is_some()).count()
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("count", &self.0.len()).finish_non_exhaustive()
    }
}

/// The blocks of one open file, by number, as far as the cache has them.
#[derive(Debug)]
pub(crate) struct FileBlocks {
    cache: Arc<BlockCache>,
    file: FileId,
    count: usize,
    /// Made when a block is read a second time.
    slots: OnceLock<Arc<Slots>>,
    /// Which blocks the cache was given through this handle: it need not be asked for others. Made
    /// with the first.
    given: OnceLock<AtomicBits>,
}

impl FileBlocks {
    /// Those of `file`, which has `count`.
    pub(crate) fn new(cache: Arc<BlockCache>, file: FileId, count: usize) -> FileBlocks {
        FileBlocks { cache, file, count, slots: OnceLock::new(), given: OnceLock::new() }
    }

    /// Block `n`, if its slot points at it.
    #[inline]
    pub(crate) fn get(&self, n: usize) -> Option<BlockGuard> {
        let slot = self.slots.get()?.0.get(n)?;
        let block = BlockGuard::new(slot.load())?;
        let header = block.header()?;
        if header.touch(self.cache.generation()) {
            self.cache.touch(self.id(n));
        }
        Some(block)
    }

    /// Asks for the slots of `count` blocks from `n` on before they are needed.
    #[inline]
    pub(crate) fn prefetch(&self, n: usize, count: usize) {
        if let Some(slots) = self.slots.get() {
            prefetch(slots.0.get(n..n + count).unwrap_or_default());
        }
    }

    /// Is block `n` in the cache? Does not count as a hit.
    pub(crate) fn has(&self, n: usize) -> bool {
        let slot = self.slots.get().and_then(|slots| slots.0.get(n));
        slot.is_some_and(|slot| slot.load().is_some())
            || self.was_given(n) && self.cache.has(self.id(n))
    }

    /// Was block `n` put into the cache, and not found missing there since?
    fn was_given(&self, n: usize) -> bool {
        self.given.get().is_some_and(|given| given.has(n))
    }

    /// Block `n`, if the cache has it. From now on its slot points at it.
    pub(crate) fn find(&self, n: usize) -> Option<Block> {
        if !self.was_given(n) {
            return None;
        }
        let Some(block) = self.cache.get(self.id(n)) else {
            // If somebody is at putting it there, it will be loaded and put there once more.
            self.given.get()?.remove(n);
            return None;
        };
        if n < self.count {
            let slots = self.slots.get_or_init(|| Arc::new(Slots::new(self.count)));
            self.cache.link(self.id(n), slots, n);
        }
        Some(block)
    }

    /// Is a block that is not in the cache worth a place, even if it can be had again cheaply?
    pub(crate) fn admits(&self) -> bool {
        self.cache.admits()
    }

    /// Counts a block that was loaded.
    pub(crate) fn note_load(&self) {
        self.cache.loaded.add(1);
    }

    /// Puts block `n`, which was verified, into the cache. One that exceeds the capacity is not
    /// kept.
    pub(crate) fn insert(&self, n: usize, block: Block) {
        self.given.get_or_init(|| AtomicBits::new(self.count)).add(n);
        self.cache.insert(self.id(n), block);
    }

    /// Holds on to block `n`, which was inserted because readers had what is in it in other blocks:
    /// as if they had read it twice.
    pub(crate) fn keep(&self, n: usize) {
        if self.find(n).is_some() {
            self.cache.kept.add(1);
        }
    }

    /// Can a block be inserted without another's leaving?
    pub(crate) fn has_room(&self) -> bool {
        self.cache.has_room()
    }

    /// Takes all blocks of the file out of the cache.
    pub(crate) fn forget(&self) {
        self.cache.forget(self.file.0, self.count);
    }

    /// Bytes of memory that it takes to know where blocks are.
    pub(crate) fn pinned_bytes(&self) -> usize {
        let slots = self.slots.get().map_or(0, |slots| size_of_val::<[_]>(&slots.0));
        slots + self.given.get().map_or(0, AtomicBits::memory)
    }

    fn id(&self, n: usize) -> BlockId {
        BlockId { file: self.file.0, block: n as u64 }
    }

    /// How many slots point at a block.
    #[cfg(test)]
    pub(super) fn occupied(&self) -> usize {
        self.slots.get().map_or(0, |slots| slots.occupied())
    }
}
