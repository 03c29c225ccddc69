//! Snapshots: one instant of everything, for as long as it is held.

use crate::support::TestDb;
use crate::support::key;
use crate::support::value;

#[test]
fn a_snapshot_survives_overwrites_deletes_flush_and_compaction() {
    let db = TestDb::new();
    for i in 0..200 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    let snapshot = db.snapshot();
    let before = db.dump();
    for generation in 1..5 {
        for i in 0..200 {
            if i % 3 == 0 {
                db.delete(key(i)).unwrap();
            } else {
                db.put(key(i), value(i, generation)).unwrap();
            }
        }
        db.put(key(1000 + generation), "later").unwrap();
    }
    db.flush().unwrap();
    db.settle();
    db.compact_range::<&[u8], _>(..).unwrap();
    for i in 0..200 {
        assert_eq!(snapshot.get(key(i)).unwrap().unwrap(), value(i, 0));
    }
    assert!(!snapshot.contains_key(key(1001)).unwrap());
    let entries = snapshot.iter().map(|e| e.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap());
    assert_eq!(entries.collect::<Vec<_>>(), before);
    let back = snapshot.iter().rev().map(|e| e.unwrap().0.to_vec()).collect::<Vec<_>>();
    assert!(back.iter().rev().eq(before.iter().map(|(key, _)| key)));
    assert_eq!(db.stats().snapshots, 1);
    drop(snapshot);
    assert_eq!(db.stats().snapshots, 0);
}

#[test]
fn what_only_a_snapshot_needed_goes_once_it_is_dropped() {
    let db = TestDb::new();
    for i in 0..300 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    let snapshot = db.snapshot();
    for i in 0..300 {
        db.delete(key(i)).unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(snapshot.iter().count(), 300);
    assert!(db.stats().sst_bytes() > 0);
    drop(snapshot);
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.stats().sst_bytes(), 0);
}

#[test]
fn a_snapshot_covers_all_keyspaces_and_outlives_a_drop() {
    let db = TestDb::new();
    let keyspace = db.keyspace("k").unwrap();
    for i in 0..100 {
        keyspace.put(key(i), value(i, 0)).unwrap();
    }
    let snapshot = db.snapshot();
    let late = db.keyspace("late").unwrap();
    late.put("x", "y").unwrap();
    keyspace.put(key(0), "changed").unwrap();
    let view = snapshot.keyspace(&keyspace);
    assert_eq!(view.get(key(0)).unwrap().unwrap(), value(0, 0));
    assert_eq!(snapshot.keyspace(&late).iter().count(), 0);
    db.drop_keyspace("k").unwrap();
    assert_eq!(view.iter().count(), 100);
    assert_eq!(view.get(key(99)).unwrap().unwrap(), value(99, 0));
}

#[test]
fn an_iterator_sees_the_instant_it_was_made() {
    let db = TestDb::new();
    for i in 0..100 {
        db.put(key(i), "old").unwrap();
    }
    let mut iter = db.iter();
    let mut cursor = db.cursor();
    for i in 0..200 {
        db.put(key(i), "new").unwrap();
    }
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(iter.by_ref().filter(|entry| entry.as_ref().unwrap().1 == "old").count(), 100);
    assert!(cursor.seek_to_last().unwrap());
    assert_eq!(cursor.key().unwrap(), key(99));
    assert_eq!(cursor.value().unwrap(), b"old");
}

#[test]
fn a_snapshot_does_not_read_another_database() {
    let (db, other) = (TestDb::new(), TestDb::new());
    other.put("k", "v").unwrap();
    let reader = db.snapshot().keyspace(&other);
    assert_eq!(reader.get("k").unwrap_err().kind(), esker::ErrorKind::Misuse);
    assert_eq!(reader.iter().next().unwrap().unwrap_err().kind(), esker::ErrorKind::Misuse);
}
