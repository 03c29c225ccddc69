//! Commits that check what they build on, against everything that may come between.

use std::sync::Arc;

use esker::Add;
use esker::Db;
use esker::Durability;
use esker::ErrorKind;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Reader;
use esker::Update;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::FaultEffect;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::MemFs;
use shuttle::rand::Rng as _;

use crate::world::any_crash;
use crate::world::generation;
use crate::world::join;
use crate::world::one_in;
use crate::world::open;
use crate::world::open_alone;
use crate::world::scan;
use crate::world::spawn;
use crate::world::tiny;
use crate::world::value;

fn any_durability() -> Durability {
    if one_in(2) { Durability::Sync } else { Durability::Os }
}

/// Two transactions each take a key and read that the other one is free: write skew. Both also read a
/// key that is put beside them, without a transaction; and somebody flushes and compacts.
pub(crate) fn beside_plain_writes() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()).durability(Durability::Os));
    db.put("count", value(1, 10)).unwrap();
    if one_in(2) {
        db.flush().unwrap();
    }
    let taking = ["a", "b"].into_iter().map(|mine| {
        let db = db.clone();
        let (durability, theirs) = (any_durability(), if mine == "a" { "b" } else { "a" });
        spawn(move || {
            let txn = db.transaction();
            txn.durability(durability);
            let free = txn.get(&db, theirs).unwrap().is_none();
            let counted = generation_in(&txn, &db, "count");
            txn.put(&db, mine, value(counted, 300)).unwrap();
            match txn.commit() {
                Ok(()) => (free, counted),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                    (false, 0)
                }
            }
        })
    });
    let taking: Vec<_> = taking.collect();
    let putting = db.clone();
    let putting = spawn(move || {
        for count in 2..=3 {
            putting.put("count", value(count, 300)).unwrap();
        }
    });
    let flushing = db.clone();
    let flushing = spawn(move || {
        flushing.flush().unwrap();
        flushing.compact_range::<&[u8], _>(..).unwrap();
    });
    let taken: Vec<(bool, u8)> = join(taking);
    join([putting, flushing]);
    let won = taken.iter().filter(|(free, _)| *free).count();
    assert!(won <= 1, "both have read that the other is free: {taken:?}");
    for (key, taken) in ["a", "b"].into_iter().zip(taken) {
        assert_eq!(generation(&db, key), taken.1, "{key}");
    }
    assert_eq!(generation(&db, "count"), 3);
    let there = scan(&db);
    db.close().unwrap();
    assert_eq!(scan(&open_alone(&fs)), there);
}

fn generation_in(txn: &esker::Transaction, db: &Db, key: &str) -> u8 {
    txn.get(db, key).unwrap().map_or(0, |value| value[0])
}

/// Each counts the entries of a range and adds one if there are none. A batch that is long, so that
/// its keys are not kept, runs beside.
pub(crate) fn phantoms() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()).durability(Durability::Os));
    // What is found beside the range, and is not written.
    for key in ["j", "z"] {
        db.put(key, value(1, 10)).unwrap();
    }
    let adding = (0..2).map(|adder| {
        let (db, backward) = (db.clone(), one_in(2));
        let by_cursor = one_in(2);
        let durability = any_durability();
        spawn(move || {
            let txn = db.transaction();
            txn.durability(durability);
            let found = if by_cursor {
                let mut cursor = txn.cursor(&db);
                let sought = if backward { cursor.seek_for_prev("m") } else { cursor.seek("k") };
                sought.unwrap() && cursor.key().is_some_and(|key| key.starts_with(b"key"))
            } else if backward {
                txn.prefix(&db, "key").next_back().is_some()
            } else {
                txn.prefix(&db, "key").next().is_some()
            };
            if found {
                return false;
            }
            txn.put(&db, format!("key {adder}"), value(1, 100)).unwrap();
            txn.commit().is_ok()
        })
    });
    let adding: Vec<_> = adding.collect();
    let long = db.clone();
    let long = spawn(move || long.put("zz", value(2, 17 << 10)).unwrap());
    let added: Vec<bool> = join(adding);
    join([long]);
    assert_eq!(added.iter().filter(|added| **added).count(), 1, "{added:?}");
    assert_eq!(scan(&db).len(), 4);
}

/// Three threads count, by transactions and by conditional operations of both durabilities, and what
/// is acknowledged as durable survives.
pub(crate) fn counters() {
    let fs = MemFs::new();
    let durability = any_durability();
    let db = open(&tiny(fs.clone()).durability(durability));
    let len = if one_in(2) { 10 } else { 400 };
    let counting = (0..3).map(|thread| {
        let (db, way) = (db.clone(), shuttle::rand::thread_rng().gen_range(0..3));
        spawn(move || {
            let next = |count: Option<&[u8]>| value(count.map_or(0, |count| count[0]) + 1, len);
            for _ in 0..2 {
                match way {
                    0 => drop(db.fetch_update("count", |count| Update::Put(next(count))).unwrap()),
                    1 => db
                        .transact(|txn| {
                            let count = txn.get(&db, "count")?;
                            txn.put(&db, "count", next(count.as_deref()))
                        })
                        .unwrap(),
                    _ => loop {
                        let found = db.get_versioned("count").unwrap();
                        let (count, version) = found.unzip();
                        let next = next(count.as_deref());
                        if db.put_if_version("count", version, next).unwrap().is_some() {
                            break;
                        }
                    },
                }
            }
            thread
        })
    });
    let counting: Vec<_> = counting.collect();
    join(counting);
    assert_eq!(generation(&db, "count"), 6);
    let crash = fs.crash_clone(CrashMode::Strict, 0);
    if durability == Durability::Sync {
        assert_eq!(generation(&open_alone(&crash), "count"), 6);
    }
}

/// Three threads merge into two counters of a keyspace whose values expire, so that operands are folded
/// when they are written: one by one, both in a batch in either order, and beside conditional operations.
pub(crate) fn folded_merges() {
    let fs = MemFs::new();
    let durability = any_durability();
    let db = open(&tiny(fs.clone()).durability(durability));
    let options = KeyspaceOptions::new().merge_operator(Add).expiring(true);
    let counts = db.keyspace_with("counts", options.clone()).unwrap();
    let counting = (0..3).map(|thread| {
        let (db, counts) = (db.clone(), counts.clone());
        let way = shuttle::rand::thread_rng().gen_range(0..3);
        spawn(move || {
            let one = 1i64.to_le_bytes();
            for _ in 0..2 {
                match way {
                    0 => {
                        counts.merge("a", one).unwrap();
                        counts.merge("b", one).unwrap();
                    }
                    1 => {
                        let keys = if thread == 0 { ["a", "b"] } else { ["b", "a"] };
                        let mut batch = WriteBatch::new();
                        for key in keys {
                            batch.merge(&counts, key, one);
                        }
                        db.write(batch).unwrap();
                    }
                    _ => {
                        let next = |count: Option<&[u8]>| {
                            let count = count.map_or(0, |count| Add::value(count).unwrap());
                            Update::Put((count + 1).to_le_bytes().to_vec())
                        };
                        counts.fetch_update("a", next).unwrap();
                        counts.fetch_update("b", next).unwrap();
                    }
                }
            }
        })
    });
    let counting: Vec<_> = counting.collect();
    join(counting);
    let count =
        |counts: &Keyspace, key: &str| Add::value(&counts.get(key).unwrap().unwrap()).unwrap();
    assert_eq!((count(&counts, "a"), count(&counts, "b")), (6, 6));
    if durability == Durability::Sync {
        let db = open_alone(&fs.crash_clone(CrashMode::Strict, 0));
        let counts = db.keyspace_with("counts", options).unwrap();
        assert_eq!((count(&counts, "a"), count(&counts, "b")), (6, 6));
    }
}

/// A sync fails, or somebody closes the database: nobody waits for ever, and what failed is not seen.
pub(crate) fn failures_and_closes() {
    let mem = MemFs::new();
    let fs = FaultFs::new(Arc::new(mem.clone()));
    let db = open(&tiny(fs.clone()));
    let closes = one_in(2);
    if !closes {
        let rule = FaultRule::new(FaultOp::SyncData, FaultError::EIO).path_contains(".wal");
        let nth = shuttle::rand::thread_rng().gen_range(0..3);
        fs.inject(rule.nth(nth).effect(FaultEffect::SyncFailsAndDropsPages));
    }
    let writing = (0..3).map(|_| {
        let db = db.clone();
        spawn(move || {
            let mut counted = 0;
            for _ in 0..2 {
                let result = db.fetch_update("count", |count| {
                    Update::Put(value(count.map_or(0, |count| count[0]) + 1, 100))
                });
                counted += u8::from(result.is_ok());
            }
            counted
        })
    });
    let writing: Vec<_> = writing.collect();
    if closes {
        db.clone().close().unwrap();
    }
    let counted: u8 = join(writing).into_iter().sum();
    if !closes {
        assert_eq!(generation(&db as &Reader, "count"), counted, "more or less than acknowledged");
    }
    drop(db);
    let crash = any_crash(&mem);
    let found = generation(&open_alone(&crash), "count");
    assert!(found >= counted, "{counted} were durable, {found} are there");
}
