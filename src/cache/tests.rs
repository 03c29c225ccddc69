//! Tests of the block cache and its slots.

use std::collections::HashSet;
use std::hash::BuildHasher as _;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::base::ids::FileId;

fn block(len: usize, byte: u8) -> Block {
    Block::filled(len, |bytes| {
        bytes.fill(byte);
        Ok::<(), ()>(())
    })
    .unwrap()
}

fn file(cache: &Arc<BlockCache>, number: u64, count: usize) -> FileBlocks {
    FileBlocks::new(Arc::clone(cache), FileId(number), count)
}

/// What a reader does: the slot, the cache, the file. True if it was a hit.
fn read(file: &FileBlocks, n: usize, len: usize) -> bool {
    if file.get(n).is_some() || file.find(n).is_some() {
        return true;
    }
    if file.admits() {
        file.insert(n, block(len, n as u8));
    }
    false
}

/// A generator of numbers with a long tail: the n-th of `count` comes about 1/n as often as the
/// first.
struct Zipf {
    sums: Vec<f64>,
    state: u64,
}

impl Zipf {
    fn new(count: usize) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=count).map(|n| {
            sum += (n as f64).powf(-0.99);
            sum
        });
        Zipf { sums: sums.collect(), state: 1 }
    }

    fn next(&mut self) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let part = (self.state >> 11) as f64 / (1u64 << 53) as f64;
        let wanted = part * self.sums.last().unwrap();
        let rank = self.sums.partition_point(|sum| *sum < wanted).min(self.sums.len() - 1);
        // Neighbours in rank are not neighbours in the file.
        rank * 7919 % self.sums.len()
    }
}

#[test]
fn blocks_come_back_by_file_and_number() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let (one, two) = (file(&cache, 1, 2), file(&cache, 2, 2));
    one.insert(0, Block::from(&b"a"[..]));
    one.insert(1, Block::from(&b"b"[..]));
    two.insert(0, Block::from(&b"c"[..]));
    for (file, n, bytes) in [(&one, 0, b"a"), (&one, 1, b"b"), (&two, 0, b"c")] {
        assert!(file.get(n).is_none());
        assert_eq!(*file.find(n).unwrap(), *bytes);
        let lent = file.get(n).unwrap();
        assert_eq!(*lent, *bytes);
        assert_eq!(*lent.to_block().unwrap(), *bytes);
    }
    assert!(two.find(1).is_none() && two.get(1).is_none());
    // A number beyond the file's end has no slot.
    one.insert(2, Block::from(&b"d"[..]));
    assert!(one.find(2).is_some() && one.get(2).is_none());
}

#[test]
fn lent_memory_makes_blocks_leave_and_comes_back() {
    const BLOCK: u64 = 3968 + ENTRY_OVERHEAD;
    let cache = Arc::new(BlockCache::new(4 << 20));
    let blocks = file(&cache, 1, 2000);
    let mut n = 0;
    for lent in [0, 3 << 20, 1 << 20, 2 << 20, 2 << 20, 0] {
        cache.lend(lent);
        assert!(cache.used_bytes() + lent <= 4 << 20, "{} beside {lent}", cache.used_bytes());
        for _ in 0..1200 {
            n = (n + 1) % 2000;
            read(&blocks, n, 3896);
            assert!(cache.used_bytes() + lent <= 4 << 20, "{} beside {lent}", cache.used_bytes());
        }
        let room = (4 << 20) - lent;
        // Shards are not filled alike.
        assert!(cache.used_bytes() + 32 * BLOCK + room / 8 >= room, "{}", cache.used_bytes());
        let here = (0..2000).filter(|n| blocks.get(*n).is_some()).count() as u64;
        assert!(here * BLOCK <= room, "{here} slots lead to blocks beside {lent}");
    }
}

#[test]
fn more_can_be_lent_than_there_is() {
    let cache = Arc::new(BlockCache::new(64 << 10));
    let blocks = file(&cache, 1, 10);
    cache.lend(u64::MAX);
    for n in 0..10 {
        read(&blocks, n, 1000);
    }
    cache.lend(0);
    read(&blocks, 0, 1000);
    assert!(read(&blocks, 0, 1000));
    BlockCache::new(0).lend(1);
}

#[test]
fn blocks_of_places_that_are_left_are_gone() {
    let cache = Arc::new(BlockCache::new(4 << 20));
    let blocks = file(&cache, 1, 400);
    cache.lend(1 << 20);
    (0..400).for_each(|n| {
        read(&blocks, n, 4000);
        read(&blocks, n, 4000);
    });
    let place = |n| Some(blocks.get(n)?.to_block()?.address());
    let mut places: Vec<usize> = (0..400).filter_map(place).collect();
    places.sort_unstable();
    let (low, high) = (places[20]..places[60], places[200]..places[250]);
    let goes = |at: usize| low.contains(&at) || high.contains(&at);
    let stay: Vec<bool> = (0..400).map(|n| place(n).is_some_and(|at| !goes(at))).collect();
    let before = cache.len();
    cache.vacate(&[low.clone(), high.clone()]);
    assert_eq!(cache.len(), before - 90);
    (0..400).for_each(|n| assert_eq!(place(n).is_some(), stay[n]));
    // What was lent is lent still.
    assert!(cache.used_bytes() <= 3 << 20);
    cache.lend(0);
    assert!(read(&blocks, 0, 4000) || !stay[0]);
}

#[test]
fn memory_of_evicted_blocks_serves_again_unless_somebody_reads_them() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let blocks = file(&cache, 1, 5000);
    let (mut places, mut held) = (HashSet::new(), Vec::new());
    for n in 0..5000 {
        // A length now and then is too far from the others to be of use to them.
        let len = if n % 50 == 0 { 900 } else { 4000 + n % 90 };
        let new = block(len, n as u8);
        places.insert(new.as_ptr());
        if n % 40 == 0 {
            held.push((new.clone(), len, n as u8));
        }
        blocks.insert(n, new);
    }
    let kept = (1 << 20) / 4000 + held.len();
    assert!(places.len() < 2 * kept, "{} places for {kept} blocks", places.len());
    for (block, len, byte) in held {
        assert!(block.len() == len && block.iter().all(|b| *b == byte));
    }
}

#[test]
fn bytes_stay_within_the_capacity() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let files: Vec<FileBlocks> = (0..7).map(|n| file(&cache, n, 2000)).collect();
    for n in 0..2000 {
        files[n % 7].insert(n, block(3000, 1));
        assert!(cache.used_bytes() <= 1 << 20);
    }
    assert!(cache.used_bytes() > (1 << 20) / 2);
    files[0].insert(1, block(2 << 20, 1));
    assert!(files[0].find(1).is_none());
}

#[test]
fn capacity_zero_caches_nothing() {
    let cache = Arc::new(BlockCache::new(0));
    let file = file(&cache, 1, 1);
    file.insert(0, block(10, 1));
    assert!(file.find(0).is_none());
    assert_eq!(cache.used_bytes(), 0);
}

#[test]
fn a_full_cache_admits_few_and_one_with_room_all() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let (old, new) = (file(&cache, 1, 4000), file(&cache, 2, 4000));
    for n in 0..100 {
        assert!(old.admits());
        old.insert(n, block(2048, 1));
    }
    for n in 100..4000 {
        old.insert(n, block(2048, 1));
    }
    let admitted = (0..1000 * ADMITTED).filter(|_| old.admits()).count();
    assert!((800..1200).contains(&admitted), "{admitted} of {}", 1000 * ADMITTED);
    // One that comes in without displacing another shows that there is room again.
    old.forget();
    new.insert(0, block(2048, 1));
    assert!((1..100).all(|_| new.admits()));
}

#[test]
fn a_scan_does_not_displace_hot_blocks() {
    let cache = Arc::new(BlockCache::new(4 << 20));
    let (hot, scanned) = (file(&cache, 1, 200), file(&cache, 2, 20_000));
    for _ in 0..4 {
        for n in 0..200 {
            read(&hot, n, 4096);
        }
    }
    for n in 0..20_000 {
        read(&scanned, n, 4096);
        // Hits that the cache hears of only now and then.
        read(&hot, n % 200, 4096);
    }
    let kept = (0..200).filter(|n| hot.get(*n).is_some()).count();
    assert!(kept > 180, "{kept} of 200 hot blocks are left");
}

/// Eviction is as good as if each hit had been told to quick_cache, and each miss had come in.
#[test]
fn hits_through_slots_count_like_hits_in_the_cache() {
    const BLOCKS: usize = 4096;
    let capacity = BLOCKS as u64 / 4 * (2112 + ENTRY_OVERHEAD);
    let (slotted, plain) =
        (Arc::new(BlockCache::new(capacity)), Arc::new(BlockCache::new(capacity)));
    let file = file(&slotted, 1, BLOCKS);
    let (mut zipf, mut hits, mut wanted) = (Zipf::new(BLOCKS), 0, 0);
    for turn in 0..300_000 {
        let n = zipf.next();
        let hit = read(&file, n, 2048);
        let id = BlockId { file: 1, block: n as u64 };
        let plain_hit = plain.get(id).is_some();
        if !plain_hit {
            plain.insert(id, block(2048, n as u8));
        }
        if turn >= 100_000 {
            hits += u32::from(hit);
            wanted += u32::from(plain_hit);
        }
    }
    let rate = |hits: u32| f64::from(hits) / 200_000.0;
    assert!(rate(hits) > rate(wanted) - 0.01, "{} against {}", rate(hits), rate(wanted));
    assert!(rate(hits) > 0.6, "{}", rate(hits));
}

#[test]
fn what_fits_is_touched_once() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let file = file(&cache, 1, 100);
    (0..100).for_each(|n| file.insert(n, block(1000, 1)));
    (0..100).for_each(|n| drop(file.find(n)));
    let generation = cache.generation();
    for n in (0..100).cycle().take(1000) {
        let lent = file.get(n).unwrap();
        assert!(!lent.header().unwrap().touch(generation));
    }
}

#[test]
fn slots_point_only_at_what_the_cache_counts() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let file = Arc::new(file(&cache, 1, 1000));
    let reads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 0..4u64 {
            let (file, reads) = (Arc::clone(&file), &reads);
            scope.spawn(move || {
                let mut zipf = Zipf::new(1000);
                zipf.state = seed;
                for _ in 0..20_000 {
                    let n = zipf.next();
                    if let Some(lent) = file.get(n) {
                        assert!(lent.iter().all(|byte| *byte == n as u8));
                        assert_eq!(lent.len(), 3000);
                    } else if file.find(n).is_none() {
                        file.insert(n, block(3000, n as u8));
                    }
                    reads.fetch_add(1, Relaxed);
                }
            });
        }
    });
    assert_eq!(reads.into_inner(), 80_000);
    assert!(file.occupied() > 10);
    for n in 0..1000 {
        let in_cache = cache.has(BlockId { file: 1, block: n as u64 });
        if let Some(lent) = file.get(n) {
            assert!(in_cache);
            // The slot's, the cache's, and the one asked for here.
            let block = lent.to_block().unwrap();
            assert!(block.0.count() <= 4);
        }
    }
    assert!(cache.used_bytes() <= 1 << 20);
}

#[test]
fn slots_go_with_their_file_and_its_blocks_age_out() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let gone = file(&cache, 1, 100);
    (0..100).for_each(|n| gone.insert(n, block(4096, 1)));
    let blocks: Vec<Block> = (0..100).filter_map(|n| gone.find(n)).collect();
    assert_eq!(gone.occupied(), 100);
    // A word for each block, and a bit.
    assert_eq!(gone.pinned_bytes(), 800 + 16);
    drop(gone);
    // Held by the cache and by this test.
    assert!(blocks.iter().all(|block| block.0.count() == 2));
    assert!(blocks.iter().all(|block| block.0.header().home().is_none()));
    let other = file(&cache, 2, 1000);
    let mut zipf = Zipf::new(1000);
    for _ in 0..50_000 {
        read(&other, zipf.next(), 4096);
    }
    assert!(blocks.iter().all(|block| block.0.count() == 1));
}

#[test]
fn a_block_that_is_replaced_leaves_its_slot() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let file = file(&cache, 1, 1);
    // Two readers have decoded the same block.
    file.insert(0, block(100, 1));
    assert!(file.find(0).is_some());
    let first = file.get(0).unwrap().to_block().unwrap();
    file.insert(0, block(100, 1));
    assert!(file.get(0).is_none());
    assert_eq!(first.0.count(), 1);
    assert!(file.find(0).is_some() && file.get(0).is_some());
}

#[test]
fn neighbouring_blocks_hash_apart() {
    let mut low = HashSet::new();
    let mut high = HashSet::new();
    for file in 0..16u64 {
        for block in 0..256u64 {
            let hash = MixState.hash_one(BlockId { file, block });
            low.insert(hash & 0xffff);
            high.insert(hash >> 48);
        }
    }
    // 4096 random draws from 65536 leave about 3970 distinct ones.
    assert!(low.len() > 3800, "{}", low.len());
    assert!(high.len() > 3800, "{}", high.len());
}

#[test]
fn what_a_file_forgets_leaves_cache_and_slots() {
    let cache = Arc::new(BlockCache::new(1 << 20));
    let (gone, kept) = (file(&cache, 1, 20), file(&cache, 2, 20));
    for _ in 0..3 {
        for n in 0..20 {
            read(&gone, n, 100);
            read(&kept, n, 100);
        }
    }
    assert_eq!((gone.occupied(), kept.occupied()), (20, 20));
    let used = cache.used_bytes();
    gone.forget();
    assert_eq!((gone.occupied(), kept.occupied()), (0, 20));
    assert_eq!(cache.used_bytes(), used / 2);
    assert!((0..20).all(|n| gone.find(n).is_none() && kept.get(n).is_some()));
}

#[test]
fn readers_ask_for_memory_ahead() {
    let cache = Arc::new(BlockCache::new(256 << 20));
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    cache.set_helper(move || {
        counter.fetch_add(1, Relaxed);
    });
    let blocks = file(&cache, 1, 4096);
    // There is one pool for all tests: so others may have taken, and asked for, some of its chunks.
    let asked = (0..4096).any(|n| {
        blocks.insert(n, block(16 << 10, 0));
        calls.load(Relaxed) > 0
    });
    assert!(asked);
}
