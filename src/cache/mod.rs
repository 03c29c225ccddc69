//! The block cache: one for the whole database, bounded in bytes.
//!
//! *What is in it.* Blocks that cannot be read in place: decompressed data blocks, and where files
//! are not mapped every block. Raw blocks of mapped files never come here: the page cache has them.
//!
//! *Overview of types.* A [`BlockCache`] owns the [`Block`]s and decides which stay. Each open file
//! has [`FileBlocks`], by which it finds its own without asking the cache: see slots.rs.
//!
//! *Invariants.* I1: what is inserted was verified against its checksum, so a hit needs no check.
//! I2: a file number is never used twice, so (file, block) names the same bytes for ever. Blocks of a
//! file that is deleted would do no harm; they are taken out to make room.
//!
//! *Lending.* Memory that memtables do not use is the cache's ([`BlockCache::lend`]): what they take
//! is held as entries without bytes that weigh as much and are never evicted, each a small part of
//! the capacity, so that it is taken from all shards alike, and given back as easily. (RocksDB
//! charges its memtables to its cache by such entries.)
//!
//! What is evicted for that leaves holes in the cache's memory, from which hardly anything goes back:
//! so blocks that lie in the sparsest parts of it leave too ([`BlockCache::tend_memory`]).
//!
//! *Policy.* `quick_cache`: new blocks queue up in a small probation, and only one that is asked for
//! again, or was evicted lately, joins the hot ones; so a long scan does not empty the cache. It
//! hears of the first hit of a block, and of those that come through slots once in each generation:
//! the time in which a 16th of the capacity is inserted. Its counts stop at two, and its hands take
//! longer than a generation to come round, so it decides as if it heard of all. While nothing is
//! inserted, everything fits, and it hears nothing.
//!
//! *Admission.* While the cache is full, a block that the page cache has is given a place by chance
//! only, once in [`ADMITTED`] times: one that is wanted often comes in soon, and what is wanted once
//! displaces nothing, nor is it built, inserted and evicted for nothing. (Caches on flash admit so,
//! to spare it writes.) One that had to come from the disk is always let in: to read it again would
//! cost a hundred times as much as a place.

use std::cell::RefCell;
use std::fmt;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use quick_cache::Lifecycle;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::base::chance::one_of;
use crate::base::stats::Counter;
use crate::base::sync::Mutex;
use crate::cache::slots::Slots;

mod block;
mod memory;
mod pool;
mod slots;
#[cfg(test)]
mod tests;

pub(crate) use block::Block;
pub(crate) use block::BlockGuard;
pub(crate) use slots::FileBlocks;

/// What an entry costs beside its block: key, links, table slot, counts.
const ENTRY_OVERHEAD: u64 = 104;
/// Size of a typical block, from which the number of entries is guessed.
const TYPICAL_BLOCK: u64 = 4096;
/// Generations in which as much is inserted as the cache can hold.
const GENERATIONS: u64 = 16;
/// A full cache admits one of so many blocks.
const ADMITTED: u32 = 16;
/// The number of no file: of what holds lent memory.
const LENT: u64 = u64::MAX;
/// Entries that would hold all of the capacity: many for each shard, so that shards lend alike.
const LENT_PARTS: u64 = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockId {
    file: u64,
    block: u64,
}

#[derive(Clone, Copy, Debug)]
struct ByBytes {
    lent_part: u64,
}

impl Weighter<BlockId, Block> for ByBytes {
    fn weight(&self, id: &BlockId, block: &Block) -> u64 {
        if id.file == LENT { self.lent_part } else { block.space() as u64 + ENTRY_OVERHEAD }
    }
}

/// Blocks that left the cache. Their slots are cleared when the shard is unlocked.
#[derive(Default)]
struct Evicted {
    first: Option<Block>,
    others: Vec<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Collect;

impl Lifecycle<BlockId, Block> for Collect {
    type RequestState = Evicted;

    fn is_pinned(&self, id: &BlockId, _: &Block) -> bool {
        id.file == LENT
    }

    fn on_evict(&self, evicted: &mut Evicted, _: BlockId, block: Block) {
        if evicted.first.is_none() {
            evicted.first = Some(block);
        } else {
            evicted.others.push(block);
        }
    }
}

/// Hashes the two integers of a [`BlockId`] with one wide multiplication each.
#[derive(Clone, Copy, Debug, Default)]
struct MixHasher(u64);

fn mix(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ (wide >> 64) as u64
}

impl Hasher for MixHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 =
            mix(self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93 ^ self.0.rotate_left(29));
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct MixState;

impl BuildHasher for MixState {
    type Hasher = MixHasher;

    fn build_hasher(&self) -> MixHasher {
        MixHasher::default()
    }
}

type Blocks = Cache<BlockId, Block, ByBytes, MixState, Collect>;

/// Verified blocks, by file and number.
#[derive(Debug)]
pub(crate) struct BlockCache {
    capacity: u64,
    /// None if nothing is to be cached.
    blocks: Option<Blocks>,
    weights: ByBytes,
    /// Entries that hold lent memory.
    lent_parts: Mutex<u64>,
    /// What they have for a block.
    nothing: Block,
    generation_bytes: u64,
    /// Bytes inserted since the cache was made.
    inserted: AtomicU64,
    generation: Generation,
    /// Did the last block that was inserted displace another?
    full: AtomicBool,
    /// Blocks that had to be loaded, and those among them that nobody had asked for.
    loaded: Counter,
    kept: Counter,
    helper: Helper,
}

/// Wakes the thread that calls [`BlockCache::tend_memory`], if there is one.
#[derive(Default)]
struct Helper(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helper").field("is_set", &self.0.get().is_some()).finish()
    }
}

/// Has a cache line of its own, which is written once in a generation: every hit reads it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Generation(AtomicU32);

impl BlockCache {
    /// A cache of `capacity_bytes`; one of 0 bytes keeps nothing.
    pub(crate) fn new(capacity_bytes: u64) -> BlockCache {
        let entries = usize::try_from(capacity_bytes / TYPICAL_BLOCK).unwrap_or(usize::MAX);
        let weights = ByBytes { lent_part: (capacity_bytes / LENT_PARTS).max(1) };
        pool::allow(capacity_bytes, 0);
        BlockCache {
            capacity: capacity_bytes,
            blocks: (capacity_bytes > 0)
                .then(|| Cache::with(entries.max(1), capacity_bytes, weights, MixState, Collect)),
            weights,
            lent_parts: Mutex::new(0),
            nothing: Block::from(&[][..]),
            generation_bytes: (capacity_bytes / GENERATIONS).max(1),
            inserted: AtomicU64::new(0),
            generation: Generation::default(),
            full: AtomicBool::new(false),
            loaded: Counter::default(),
            kept: Counter::default(),
            helper: Helper::default(),
        }
    }

    /// Makes memory ready for blocks to come, if little that is ready is left, and leaves what is too
    /// much. For a thread on which nobody waits: it may take milliseconds, less if processors are
    /// `busy`, for which blocks to come lie on smaller pages.
    pub(crate) fn tend_memory(&self, busy: bool) {
        pool::shed(|places| self.vacate(places));
        pool::prepare(busy);
    }

    /// Takes all blocks out that lie at these addresses, which ascend.
    fn vacate(&self, places: &[Range<usize>]) {
        let Some(blocks) = &self.blocks else { return };
        let gone = RefCell::new(Vec::new());
        blocks.retain(|id, block| {
            let at = block.address();
            let place = places.partition_point(|place| place.end <= at);
            let goes =
                id.file != LENT && places.get(place).is_some_and(|place| place.contains(&at));
            if goes {
                gone.borrow_mut().push(block.clone());
            }
            !goes
        });
        gone.into_inner().into_iter().for_each(Block::leave);
        memory::forget_spares();
        self.full.store(false, Relaxed);
    }

    /// From now on `wake` is called when it is time to [`BlockCache::tend_memory`]: by readers and
    /// writers, so it should take no longer than waking a thread.
    pub(crate) fn set_helper(&self, wake: impl Fn() + Send + Sync + 'static) {
        // Set once, when the database is opened.
        let _ = self.helper.0.set(Box::new(wake));
    }

    /// Bytes held, bookkeeping included, lent ones not.
    pub(crate) fn used_bytes(&self) -> u64 {
        let lent = self.lent_parts.lock();
        self.blocks.as_ref().map_or(0, |blocks| blocks.weight() - *lent * self.weights.lent_part)
    }

    /// Blocks held.
    pub(crate) fn len(&self) -> u64 {
        let lent = self.lent_parts.lock();
        self.blocks.as_ref().map_or(0, |blocks| blocks.len() as u64 - *lent)
    }

    /// How many blocks readers have had to load.
    pub(crate) fn misses(&self) -> u64 {
        let kept = self.kept.get();
        self.loaded.get().saturating_sub(kept)
    }

    /// How many blocks were loaded because readers had what is in them in other blocks before.
    pub(crate) fn kept(&self) -> u64 {
        self.kept.get()
    }

    /// Is a block that is not here worth a place, even if it can be had again cheaply?
    fn admits(&self) -> bool {
        self.blocks.is_some() && (!self.full.load(Relaxed) || one_of(ADMITTED))
    }

    /// Is there so much room that a shard is hardly full, and for a block beside?
    fn has_room(&self) -> bool {
        let least = self.generation_bytes + TYPICAL_BLOCK;
        let has_room = self.blocks.as_ref().is_some_and(|blocks| room(blocks) >= least);
        if has_room {
            self.full.store(false, Relaxed);
        }
        has_room
    }

    /// Does without `bytes` of the capacity from now on, in place of what was lent before. Evicts
    /// what has no room any more.
    pub(crate) fn lend(&self, bytes: u64) {
        let Some(blocks) = &self.blocks else { return };
        let wanted = bytes.div_ceil(self.weights.lent_part).min(LENT_PARTS);
        let mut lent = self.lent_parts.lock();
        let before = *lent;
        while *lent < wanted {
            put(blocks, BlockId { file: LENT, block: *lent }, self.nothing.clone());
            *lent += 1;
        }
        while *lent > wanted {
            self.full.store(false, Relaxed);
            *lent -= 1;
            blocks.remove(&BlockId { file: LENT, block: *lent });
        }
        drop(lent);
        pool::allow(before * self.weights.lent_part, wanted * self.weights.lent_part);
        if wanted > before && pool::has_surplus() {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(wake) = self.helper.0.get() {
            wake();
        }
    }

    /// Advances as blocks are inserted.
    #[inline]
    fn generation(&self) -> u32 {
        self.generation.0.load(Relaxed)
    }

    /// Is it here? Asks past all slots, and does not count as a hit.
    fn has(&self, id: BlockId) -> bool {
        self.blocks.as_ref().is_some_and(|blocks| blocks.contains_key(&id))
    }

    fn get(&self, id: BlockId) -> Option<Block> {
        self.blocks.as_ref()?.get(&id)
    }

    /// Notes a hit that came through a slot.
    #[cold]
    fn touch(&self, id: BlockId) {
        self.get(id);
    }

    /// Points slot `n` of `slots` at the block, if it is here and this is its slot.
    fn link(&self, id: BlockId, slots: &Arc<Slots>, n: usize) {
        if let Some(blocks) = &self.blocks {
            // The question is asked under the shard's lock, so that no eviction comes between.
            blocks.remove_if(&id, |block| {
                let header = block.0.header();
                if header.settle(slots, n) {
                    header.touch(self.generation());
                    slots.set(n, &block.0);
                }
                false
            });
        }
    }

    /// Takes the first `count` blocks of `file` out.
    fn forget(&self, file: u64, count: usize) {
        let Some(blocks) = &self.blocks else { return };
        for block in 0..count as u64 {
            if let Some((_, block)) = blocks.remove(&BlockId { file, block }) {
                block.leave();
            }
        }
    }

    fn insert(&self, id: BlockId, block: Block) {
        let Some(blocks) = &self.blocks else { return };
        let len = self.weights.weight(&id, &block);
        let full = put(blocks, id, block);
        if full != self.full.load(Relaxed) {
            self.full.store(full, Relaxed);
        }
        let before = self.inserted.fetch_add(len, Relaxed);
        let generation = (before + len) / self.generation_bytes;
        if generation != before / self.generation_bytes {
            self.generation.0.store(generation as u32, Relaxed);
        }
        if pool::is_spare_due() {
            self.wake();
        }
    }
}

impl Drop for BlockCache {
    fn drop(&mut self) {
        let lent = *self.lent_parts.get_mut() * self.weights.lent_part;
        // First the blocks, or others would leave some of theirs.
        self.blocks = None;
        pool::allow(lent, self.capacity);
    }
}

/// True if other blocks had to leave.
fn put(blocks: &Blocks, id: BlockId, block: Block) -> bool {
    let mut evicted = Evicted::default();
    blocks.insert_with_lifecycle(id, block, &mut evicted);
    let full = evicted.first.is_some();
    evicted.first.into_iter().chain(evicted.others).for_each(Block::leave);
    full
}

/// Bytes that could be inserted without anything leaving.
fn room(blocks: &Blocks) -> u64 {
    blocks.capacity().saturating_sub(blocks.weight())
}
