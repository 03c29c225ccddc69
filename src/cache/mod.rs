//! The block cache: one for the whole database, bounded in bytes.
//!
//! *What is in it.* Blocks that cannot be read in place: decompressed data blocks, and where files
//! are not mapped every block. Raw blocks of mapped files never come here: the page cache has them.
//!
//! *Invariants.* I1: what is inserted was verified against its checksum, so a hit needs no check.
//! I2: a file number is never used twice, so (file, offset) names the same bytes for ever and
//! nothing needs to be invalidated when a file is deleted; its blocks age out.
//!
//! *Policy.* `quick_cache`: new blocks queue up in a small probation, and only one that is asked for
//! again, or was evicted lately, joins the hot ones; so a long scan does not empty the cache.
//!
//! *Why `Arc<[u8]>`.* Its reference count lies in front of the bytes, in a cache line that a reader
//! needs anyway; that of `Bytes` would be one cache miss more for each hit.

use std::hash::BuildHasher;
use std::hash::Hasher;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use quick_cache::sync::DefaultLifecycle;

use crate::base::ids::FileId;

/// What an entry costs beside its bytes: key, links, table slot, and counts.
const ENTRY_OVERHEAD: u64 = 120;
/// Size of a typical block, from which the number of entries is guessed.
const TYPICAL_BLOCK: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockId {
    file: u64,
    offset: u64,
}

#[derive(Clone, Copy, Debug)]
struct ByBytes;

impl Weighter<BlockId, Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &BlockId, block: &Arc<[u8]>) -> u64 {
        block.len() as u64 + ENTRY_OVERHEAD
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

/// Verified blocks, by file and offset.
#[derive(Debug)]
pub(crate) struct BlockCache {
    /// None if nothing is to be cached.
    blocks: Option<Cache<BlockId, Arc<[u8]>, ByBytes, MixState>>,
}

impl BlockCache {
    /// A cache of `capacity_bytes`; one of 0 bytes keeps nothing.
    pub(crate) fn new(capacity_bytes: u64) -> BlockCache {
        let entries = usize::try_from(capacity_bytes / TYPICAL_BLOCK).unwrap_or(usize::MAX);
        BlockCache {
            blocks: (capacity_bytes > 0).then(|| {
                Cache::with(
                    entries.max(1),
                    capacity_bytes,
                    ByBytes,
                    MixState,
                    DefaultLifecycle::default(),
                )
            }),
        }
    }

    /// The block at `offset` of `file`, if it is here.
    pub(crate) fn get(&self, file: FileId, offset: u64) -> Option<Arc<[u8]>> {
        self.blocks.as_ref()?.get(&BlockId { file: file.0, offset })
    }

    /// Keeps a block that was verified. One that exceeds the capacity is not kept.
    pub(crate) fn insert(&self, file: FileId, offset: u64, block: Arc<[u8]>) {
        if let Some(blocks) = &self.blocks {
            blocks.insert(BlockId { file: file.0, offset }, block);
        }
    }

    /// Bytes held, bookkeeping included.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.blocks.as_ref().map_or(0, Cache::weight)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn blocks_come_back_by_file_and_offset() {
        let cache = BlockCache::new(1 << 20);
        cache.insert(FileId(1), 0, Arc::from(*b"a"));
        cache.insert(FileId(1), 4096, Arc::from(*b"b"));
        cache.insert(FileId(2), 0, Arc::from(*b"c"));
        assert_eq!(*cache.get(FileId(1), 0).unwrap(), *b"a");
        assert_eq!(*cache.get(FileId(1), 4096).unwrap(), *b"b");
        assert_eq!(*cache.get(FileId(2), 0).unwrap(), *b"c");
        assert_eq!(cache.get(FileId(2), 4096), None);
    }

    #[test]
    fn bytes_stay_within_the_capacity() {
        let cache = BlockCache::new(1 << 20);
        for n in 0..2000 {
            cache.insert(FileId(n % 7), n * 100, Arc::from(vec![1; 3000]));
            assert!(cache.used_bytes() <= 1 << 20);
        }
        assert!(cache.used_bytes() > (1 << 20) / 2);
        cache.insert(FileId(9), 0, Arc::from(vec![1; 2 << 20]));
        assert_eq!(cache.get(FileId(9), 0), None);
    }

    #[test]
    fn capacity_zero_caches_nothing() {
        let cache = BlockCache::new(0);
        cache.insert(FileId(1), 0, Arc::from(*b"a"));
        assert_eq!(cache.get(FileId(1), 0), None);
        assert_eq!(cache.used_bytes(), 0);
    }

    #[test]
    fn a_scan_does_not_displace_hot_blocks() {
        let cache = BlockCache::new(4 << 20);
        let hot = |n: u64| (FileId(1), n * 4096);
        for round in 0..4 {
            for n in 0..200 {
                let (file, offset) = hot(n);
                if cache.get(file, offset).is_none() {
                    assert!(round < 2);
                    cache.insert(file, offset, Arc::from(vec![1; 4096]));
                }
            }
        }
        for n in 0..10_000 {
            cache.insert(FileId(2), n * 4096, Arc::from(vec![2; 4096]));
        }
        let kept = (0..200).filter(|n| cache.get(hot(*n).0, hot(*n).1).is_some()).count();
        assert!(kept > 180, "{kept} of 200 hot blocks are left");
    }

    #[test]
    fn neighbouring_blocks_hash_apart() {
        let mut low = HashSet::new();
        let mut high = HashSet::new();
        for file in 0..16u64 {
            for block in 0..256u64 {
                let hash = MixState.hash_one(BlockId { file, offset: block * 4106 });
                low.insert(hash & 0xffff);
                high.insert(hash >> 48);
            }
        }
        // 4096 random draws from 65536 leave about 3970 distinct ones.
        assert!(low.len() > 3800, "{}", low.len());
        assert!(high.len() > 3800, "{}", high.len());
    }
}
