//! The block cache follows compaction: what is warm stays warm, and what is gone leaves.

use std::sync::Arc;

use esker::Db;
use esker::Options;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

const KEYS: usize = 2000;

/// Some 200 blocks that compress, of which the cache holds many times as many.
fn options() -> Options {
    tiny().block_bytes(1024).memory_budget(8 << 20)
}

fn text(i: usize, generation: usize) -> Vec<u8> {
    value(i, generation).repeat(2)
}

fn fill(db: &Db) {
    for i in 0..KEYS {
        db.put(key(i), text(i, 0)).unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
}

/// Reads everything; how many blocks had to be loaded.
fn read_all(db: &Db) -> u64 {
    let before = db.stats().block_cache.misses;
    for i in 0..KEYS {
        assert!(db.get(key(i)).unwrap().is_some());
    }
    db.stats().block_cache.misses - before
}

fn warm(db: &Db) -> u64 {
    let blocks = read_all(db);
    assert!(blocks > 100 && read_all(db) == 0, "{blocks} blocks");
    blocks
}

#[test]
fn a_warm_database_stays_warm_through_compactions() {
    let db = TestDb::with(options());
    fill(&db);
    let blocks = warm(&db);
    let before = db.stats().background.compactions;
    // They go down level by level, and nobody reads meanwhile.
    for i in (0..KEYS).map(|n| n * 7919 % KEYS).take(KEYS / 10) {
        db.put(key(i), text(i, 1)).unwrap();
        db.settle();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    let stats = db.stats();
    assert!(stats.background.compactions > before + 5, "{:?}", stats.background);
    assert!(stats.block_cache.kept > blocks / 2, "{:?}", stats.block_cache);
    // No more than one copy of each, though all of them have been written anew.
    assert!(stats.block_cache.blocks <= blocks + blocks / 10, "{:?}", stats.block_cache);
    let missed = read_all(&db);
    assert!(missed <= blocks / 20, "{missed} of {blocks}");
}

#[test]
fn what_is_cold_stays_cold() {
    let db = TestDb::with(options());
    fill(&db);
    // It has each block read once.
    assert_eq!(db.iter().count(), KEYS);
    assert!(db.stats().block_cache.blocks > 100);
    for i in (0..KEYS).step_by(10) {
        db.put(key(i), text(i, 1)).unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    let stats = db.stats().block_cache;
    assert_eq!((stats.blocks, stats.kept), (0, 0));
}

#[test]
fn blocks_of_files_that_are_gone_leave_the_cache() {
    let db = TestDb::with(options());
    fill(&db);
    let side = db.keyspace("side").unwrap();
    for i in 0..KEYS {
        side.put(key(i), text(i, 0)).unwrap();
    }
    side.compact_range::<&[u8], _>(..).unwrap();
    let blocks = warm(&db);
    assert_eq!(db.stats().block_cache.blocks, blocks);
    for _ in 0..2 {
        for i in 0..KEYS {
            assert!(side.get(key(i)).unwrap().is_some());
        }
    }
    assert!(db.stats().block_cache.blocks > blocks);
    drop(side);
    db.drop_keyspace("side").unwrap();
    db.settle();
    assert_eq!(db.stats().block_cache.blocks, blocks);

    db.delete_range::<&[u8], _>(..).unwrap();
    db.flush().unwrap();
    db.settle();
    let stats = db.stats();
    assert_eq!((stats.block_cache.blocks, stats.memory.block_cache), (0, 0));
}

#[test]
fn a_compaction_that_fails_changes_nothing_in_the_cache() {
    let faults = FaultFs::new(Arc::new(MemFs::new()));
    let db = options().fs(Arc::new(faults.clone())).open(DIR).unwrap();
    fill(&db);
    let blocks = warm(&db);
    for i in (0..KEYS).step_by(10) {
        db.put(key(i), text(i, 1)).unwrap();
    }
    db.flush().unwrap();
    let before = db.stats().block_cache;
    for nth in [0, 2, 5] {
        let rule = FaultRule::new(FaultOp::Write, FaultError::ENOSPC);
        faults.inject(rule.nth(nth).path_contains(".sst").forever());
        assert!(db.compact_range::<&[u8], _>(..).is_err());
        faults.clear();
        let after = db.stats().block_cache;
        assert!(after.blocks <= before.blocks + blocks / 20, "{before:?}, then {after:?}");
        assert_eq!(after.misses, before.misses);
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    let missed = read_all(&db);
    assert!(missed <= blocks / 20, "{missed} of {blocks}");
}
