//! Long runs of tombstones: queues, and scans over what was deleted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use esker::Durability;
use esker::Options;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

/// Items are `producer, number`, under keys that say when they were pushed.
#[test]
fn a_queue_gives_every_item_once_and_in_order() {
    const PRODUCERS: u64 = 3;
    const ITEMS: u64 = 1500;
    let fs = MemFs::new();
    let options = tiny().memtable_bytes(16 << 10).background_threads(2).fs(Arc::new(fs));
    let db = options.durability(Durability::Os).open(DIR).unwrap();
    let next = AtomicU64::new(1000);
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let (db, next) = (&db, &next);
            scope.spawn(move || {
                for n in 0..ITEMS {
                    let at = next.fetch_add(1, Relaxed);
                    db.put(at.to_be_bytes(), [producer.to_be_bytes(), n.to_be_bytes()].concat())
                        .unwrap();
                }
            });
        }
        let mut seen = [0; PRODUCERS as usize];
        let mut again = 0;
        while seen.iter().any(|count| *count < ITEMS) {
            let Some((at, item)) = db.first_key_value().unwrap() else { continue };
            assert_eq!(db.take(&at).unwrap().unwrap(), item);
            if item == "again" {
                again += 1;
                continue;
            }
            let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
            let (producer, n) = (number(&item[..8]) as usize, number(&item[8..]));
            assert_eq!(n, seen[producer], "of producer {producer}");
            seen[producer] += 1;
            if n % 50 == 49 {
                // Back into what is dead: the next one to come.
                db.put((number(&at) - 25).to_be_bytes(), "again").unwrap();
                assert_eq!(db.first_key_value().unwrap().unwrap().1, "again");
            }
        }
        assert!(again + 1 >= PRODUCERS * ITEMS / 50);
    });
    while let Some((at, item)) = db.first_key_value().unwrap() {
        assert_eq!(item, "again");
        assert_eq!(db.take(&at).unwrap().unwrap(), "again");
    }
    assert!(db.last_key_value().unwrap().is_none());
}

/// Puts, deletes of runs, and readers of many instants: forwards, backwards, from anywhere.
#[test]
fn what_is_dead_is_judged_by_each_reader_for_itself() {
    let db = TestDb::with(tiny().memtable_bytes(6 << 10));
    let mut model = std::collections::BTreeMap::new();
    let mut held = VecDeque::new();
    let mut random = 7_u64;
    let mut below = |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % n) as usize
    };
    for round in 0..400 {
        let (from, count) = (below(900), below(120));
        for i in from..from + if below(3) == 0 { 1 } else { count } {
            if round % 4 == 0 {
                model.insert(key(i), value(i, round));
                db.put(key(i), value(i, round)).unwrap();
            } else if round % 4 < 3 {
                model.remove(&key(i));
                db.delete(key(i)).unwrap();
            }
        }
        if below(4) == 0 {
            db.run_one_job().unwrap();
        }
        for _ in 0..below(4) {
            let start = key(below(1000));
            let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
            let found = db.range(start.clone()..).map(|entry| text(&entry.unwrap().0)).take(5);
            let expected = model.range(start.clone()..).map(|(key, _)| text(key)).take(5);
            assert!(found.eq(expected));
            let found = db.range(..start.clone()).rev().map(|entry| text(&entry.unwrap().0));
            let expected = model.range(..start).rev().map(|(key, _)| text(key));
            assert!(found.take(5).eq(expected.take(5)));
        }
        if below(5) == 0 {
            held.push_back((db.snapshot(), model.clone()));
        }
        if held.len() > 5 {
            let (snapshot, model) = held.pop_front().unwrap();
            let found: Vec<_> = snapshot.iter().map(|entry| entry.unwrap().0).collect();
            assert!(found.iter().map(|key| &key[..]).eq(model.keys().map(|key| &key[..])));
        }
    }
}

/// Reads of the file system and, roughly, entries met: what a scan from the front costs.
#[test]
fn a_scan_over_deleted_keys_costs_a_few_blocks_once_compaction_has_seen_them() {
    const KEYS: usize = 20_000;
    let faults = FaultFs::new(Arc::new(MemFs::new()));
    let options = Options::new()
        .memtable_bytes(256 << 10)
        .mmap(false)
        .durability(Durability::Os)
        .background_threads(0)
        .fs(Arc::new(faults.clone()));
    let db = options.clone().open(DIR).unwrap();
    for i in 0..KEYS {
        db.put(key(i), value(i, 0)).unwrap();
    }
    db.put("last", "lives").unwrap();
    db.compact_range::<&[u8], _>(..).unwrap();
    for i in 0..KEYS {
        db.delete(key(i)).unwrap();
    }
    db.flush().unwrap();
    let tombstones = |db: &esker::Db| -> u64 {
        db.stats().keyspaces[0].levels.iter().map(|level| level.tombstones).sum()
    };
    let scan = |db: &esker::Db| {
        let before = faults.calls(FaultOp::Read);
        assert_eq!(db.first_key_value().unwrap().unwrap().0, "last");
        faults.calls(FaultOp::Read) - before
    };
    db.close().unwrap();
    let db = options.clone().open(DIR).unwrap();
    let before = scan(&db);
    // Nothing but the tombstones asks for it: fewer files than level 0 may have.
    while db.run_one_job().unwrap() {}
    assert_eq!(tombstones(&db), 0);
    db.close().unwrap();
    let db = options.open(DIR).unwrap();
    let after = scan(&db);
    assert!(before > 100 && after < 10, "{before} reads, then {after}");
}
