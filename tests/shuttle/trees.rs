//! Readers against what changes the shape of a tree: seals, flushes, compactions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::SeqCst;

use esker::Db;
use esker::Durability;
use esker::Reader;
use esker::fs::MemFs;
use shuttle::rand::Rng as _;

use crate::world::generation;
use crate::world::generation_of;
use crate::world::join;
use crate::world::one_in;
use crate::world::open;
use crate::world::open_alone;
use crate::world::scan;
use crate::world::spawn;
use crate::world::ssts;
use crate::world::tiny;
use crate::world::value;

/// Two writers fill memtables, somebody flushes, and nothing that was seen or acknowledged is
/// missing at any moment.
pub(crate) fn switched_memtables() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()).durability(Durability::Os));
    let written = Arc::new([AtomicU8::new(0), AtomicU8::new(0)]);
    let mut threads = Vec::new();
    for writer in 0..2 {
        let (db, written) = (db.clone(), written.clone());
        threads.push(spawn(move || {
            for count in 1..=4 {
                db.put(format!("key {writer}"), value(count, 400)).unwrap();
                written[writer].store(count, SeqCst);
            }
        }));
    }
    let flushed = db.clone();
    threads.push(spawn(move || flushed.flush().unwrap()));
    let mut last = [0; 2];
    for _ in 0..2 {
        for (writer, last) in last.iter_mut().enumerate() {
            let key = format!("key {writer}");
            let least = written[writer].load(SeqCst).max(*last);
            let found = if one_in(2) {
                generation(&db, &key)
            } else {
                scan(&db).get(&key).copied().unwrap_or(0)
            };
            assert!(found >= least, "{key}: {found} after {least}");
            *last = found;
        }
    }
    join(threads);
    assert_eq!((generation(&db, "key 0"), generation(&db, "key 1")), (4, 4));
    db.close().unwrap();
    let db = open_alone(&fs);
    assert_eq!((generation(&db, "key 0"), generation(&db, "key 1")), (4, 4));
}

/// Few steps, so that a reader is interrupted at every one of them: a key is overwritten and
/// flushed, after which the old version is in no file.
pub(crate) fn one_reader() {
    let db = open(&tiny(MemFs::new()).durability(Durability::Os).background_threads(0));
    db.put("a", value(1, 10)).unwrap();
    db.put("b", value(1, 10)).unwrap();
    let writer = db.clone();
    let writer = spawn(move || {
        writer.put("a", value(2, 10)).unwrap();
        writer.put("b", value(2, 10)).unwrap();
        writer.flush().unwrap();
    });
    let both = |found: BTreeMap<String, u8>| ["a", "b"].map(|key| *found.get(key).unwrap_or(&0));
    let way = shuttle::rand::thread_rng().gen_range(0..4);
    let [a, b] = match way {
        0 => ["a", "b"].map(|key| generation(&db, key)),
        1 => {
            let values = db.multi_get(["a", "b"]).unwrap();
            [0, 1].map(|i: usize| generation_of(values[i].as_deref()))
        }
        2 => both(scan(&db)),
        _ => {
            let snapshot = db.snapshot();
            let found = both(scan(&snapshot));
            assert_eq!(both(scan(&snapshot)), found);
            found
        }
    };
    assert!(way == 0 || a >= b, "{a} and {b} at one instant");
    assert!(a >= 1 && b >= 1, "{a} and {b}: a key is missing");
    join([writer]);
}

const KEYS: [&str; 3] = ["a", "b", "c"];

fn put_all(db: &Db, generation: u8) {
    for key in KEYS {
        db.put(key, value(generation, 100)).unwrap();
    }
}

/// Every key is there, and none is older than in `last`.
fn check_all(reader: &Reader, last: &mut [u8; 3]) {
    let found: [u8; 3] = if one_in(2) {
        KEYS.map(|key| generation(reader, key))
    } else {
        let found = scan(reader);
        assert_eq!(found.len(), KEYS.len(), "{found:?}");
        KEYS.map(|key| found[key])
    };
    for (found, last) in found.into_iter().zip(last) {
        assert!(found >= *last, "{found} after {last}");
        *last = found;
    }
}

/// Flushes and compactions install versions while others read.
pub(crate) fn installed_versions() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()).durability(Durability::Os));
    put_all(&db, 1);
    db.flush().unwrap();
    let writer = db.clone();
    let writer = spawn(move || {
        put_all(&writer, 2);
        writer.flush().unwrap();
        put_all(&writer, 3);
    });
    let compacting = db.clone();
    let compacting = spawn(move || {
        for _ in 0..2 {
            compacting.compact_range::<&[u8], _>(..).unwrap();
        }
    });
    let reader = db.clone();
    let reader = spawn(move || {
        let mut last = [1; 3];
        for _ in 0..2 {
            check_all(&reader, &mut last);
        }
    });
    let mut last = [1; 3];
    for _ in 0..2 {
        check_all(&db, &mut last);
    }
    join([writer, compacting, reader]);
    check_all(&db, &mut [3; 3]);
    db.compact_range::<&[u8], _>(..).unwrap();
    db.close().unwrap();
    assert!(ssts(&fs) <= 1, "files that nobody reads are left");
    check_all(&open_alone(&fs), &mut [3; 3]);
}

/// Snapshots are taken and dropped while what they see is overwritten, deleted and compacted.
pub(crate) fn snapshots() {
    let fs = MemFs::new();
    let db = open(&tiny(fs.clone()).durability(Durability::Os));
    put_all(&db, 1);
    let writer = db.clone();
    let writer = spawn(move || {
        put_all(&writer, 2);
        for key in KEYS {
            writer.delete(key).unwrap();
        }
    });
    let compacting = db.clone();
    let compacting = spawn(move || {
        for _ in 0..2 {
            compacting.compact_range::<&[u8], _>(..).unwrap();
        }
    });
    let readers = (0..2).map(|_| {
        let db = db.clone();
        spawn(move || {
            for _ in 0..2 {
                let snapshot = db.snapshot();
                let first = scan(&snapshot);
                let twin = if one_in(2) { Some(db.snapshot()) } else { None };
                for key in KEYS {
                    assert_eq!(generation(&snapshot, key), first.get(key).copied().unwrap_or(0));
                }
                drop(twin);
                assert_eq!(scan(&snapshot), first);
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    join(readers.into_iter().chain([writer, compacting]));
    assert!(scan(&db).is_empty());
    db.compact_range::<&[u8], _>(..).unwrap();
    db.close().unwrap();
    assert_eq!(ssts(&fs), 0, "tombstones are left that nobody needs");
    assert!(scan(&open_alone(&fs)).is_empty());
}

/// Readers that learn where nothing lives, while somebody writes there: who begins to read after a
/// write has returned finds it, and who reads as of earlier does not.
pub(crate) fn dead_spans() {
    let db = open(&tiny(MemFs::new()).durability(Durability::Os).background_threads(0));
    let key = |n: u8| format!("{n}");
    for n in 0..6 {
        db.put(key(n), value(1, 1)).unwrap();
        db.delete(key(n)).unwrap();
    }
    db.put("9", value(1, 1)).unwrap();
    let written = Arc::new(AtomicU8::new(0));
    let writers = [1, 4].map(|n| {
        let (db, written) = (db.clone(), written.clone());
        spawn(move || {
            db.put(key(n), value(2, 1)).unwrap();
            written.fetch_or(n, SeqCst);
            db.delete(key(n + 1)).unwrap();
        })
    });
    let read = move |db: &Db, written: &AtomicU8| {
        for backward in [false, true, false] {
            let sure = written.load(SeqCst);
            let found: Vec<_> = if backward {
                let mut found: Vec<_> = db.iter().rev().map(|entry| entry.unwrap().0).collect();
                found.reverse();
                found
            } else {
                db.iter().map(|entry| entry.unwrap().0).collect()
            };
            let known = [("1", 1), ("4", 4), ("9", sure)];
            for (key, bit) in known {
                let is_there = found.iter().any(|found| found == key);
                assert!(is_there || sure & bit == 0 && key != "9", "{key} of {found:?}");
            }
            assert!(found.iter().all(|found| known.iter().any(|(key, _)| found == key)));
        }
    };
    let (beside, seen) = (db.clone(), written.clone());
    let reader = spawn(move || read(&beside, &seen));
    read(&db, &written);
    join(writers);
    reader.join().unwrap();
    read(&db, &written);
}

/// A reader that has loaded its view of the memtables, and its number only after a write into the
/// next one: it proves nothing of that write.
pub(crate) fn dead_spans_of_older_views() {
    let db = open(&tiny(MemFs::new()).durability(Durability::Os).background_threads(0));
    for n in 0..6 {
        db.delete(format!("{n}")).unwrap();
    }
    // The next write goes into a new memtable.
    db.put("9", [9; 1 << 10]).unwrap();
    let before = db.snapshot();
    let writer = spawn({
        let db = db.clone();
        move || db.put("3", value(1, 1)).unwrap()
    });
    let reader = spawn({
        let db = db.clone();
        move || db.iter().count()
    });
    assert_eq!(before.iter().count(), 1);
    // Whoever begins to read tells the claim its number.
    drop(db.iter());
    join([writer]);
    reader.join().unwrap();
    assert_eq!(db.iter().next().unwrap().unwrap().0, "3");
}

/// Files that a range delete covers go unread, but not while a snapshot sees what is in them.
pub(crate) fn snapshots_before_range_deletes() {
    let db = open(&tiny(MemFs::new()).durability(Durability::Os));
    db.put("a", value(1, 1)).unwrap();
    db.flush().unwrap();
    let snapshot = db.snapshot();
    db.delete_range("a".."b").unwrap();
    db.flush().unwrap();
    for _ in 0..3 {
        assert_eq!(snapshot.iter().count(), 1);
        shuttle::thread::yield_now();
    }
    assert_eq!(db.iter().count(), 0);
}
