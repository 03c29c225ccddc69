//! Range deletes: what they hide, from whom, and what becomes of the files beneath.

use std::ops::Bound;

use esker::Add;
use esker::Append;
use esker::Compression;
use esker::Db;
use esker::ErrorKind;
use esker::Isolation;
use esker::KeyspaceOptions;
use esker::PageLimit;
use esker::Reader;
use esker::WriteBatch;

use crate::expiry::ms;
use crate::expiry::timed;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

fn fill(db: &Db, from: usize, to: usize, generation: usize) {
    for i in from..to {
        db.put(key(i), value(i, generation)).unwrap();
    }
}

/// The numbers of the keys that a reader sees, the same whichever way it looks.
fn seen(reader: &Reader) -> Vec<usize> {
    let number = |key: &[u8]| -> usize { std::str::from_utf8(&key[3..]).unwrap().parse().unwrap() };
    let forward: Vec<usize> = reader.iter().map(|entry| number(&entry.unwrap().0)).collect();
    let mut back: Vec<usize> = reader.iter().rev().map(|entry| number(&entry.unwrap().0)).collect();
    back.reverse();
    assert_eq!(forward, back);
    let mut cursor = reader.cursor();
    let mut walked = Vec::new();
    let mut more = cursor.seek_to_last().unwrap();
    while more {
        walked.push(number(cursor.key().unwrap()));
        more = cursor.prev().unwrap();
    }
    walked.reverse();
    assert_eq!(forward, walked);
    let keys: Vec<Vec<u8>> = (0..400).map(key).collect();
    let found = reader.multi_get(keys.iter()).unwrap();
    for (i, found) in found.iter().enumerate() {
        let there = forward.binary_search(&i).is_ok();
        assert_eq!(found.is_some(), there, "{i}");
        assert_eq!(reader.get(key(i)).unwrap().is_some(), there, "{i}");
        assert_eq!(reader.contains_key(key(i)).unwrap(), there, "{i}");
    }
    forward
}

fn all_but(gone: std::ops::Range<usize>, of: usize) -> Vec<usize> {
    (0..of).filter(|i| !gone.contains(i)).collect()
}

#[test]
fn a_range_delete_hides_what_is_older_wherever_it_lies() {
    let mut db = TestDb::new();
    for generation in 0..4 {
        fill(&db, 0, 300, generation);
        match generation {
            0 => db.compact_range::<&[u8], _>(..).unwrap(),
            1 => db.settle(),
            2 => db.flush().unwrap(),
            _ => {}
        }
    }
    let before = db.snapshot();
    db.delete_range(key(50)..key(250)).unwrap();
    assert_eq!(seen(&db), all_but(50..250, 300));
    assert_eq!(seen(&before).len(), 300);
    // What is put later is there, also in the same place.
    db.put(key(100), "new").unwrap();
    let mut expected = all_but(50..250, 300);
    expected.insert(50, 100);
    assert_eq!(seen(&db), expected);
    for step in 0..4 {
        match step {
            0 => db.flush().unwrap(),
            1 => db.settle(),
            2 => db.compact_range::<&[u8], _>(..).unwrap(),
            _ => {
                drop(before.clone());
                db.verify(&mut |_, _| {}).unwrap();
            }
        }
        assert_eq!(seen(&db), expected, "step {step}");
        assert_eq!(seen(&before).len(), 300, "step {step}");
    }
    drop(before);
    db.reopen();
    assert_eq!(seen(&db), expected);
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(seen(&db), expected);
    let levels = &db.stats().keyspaces[0].levels;
    assert!(levels.iter().all(|level| level.range_tombstones == 0), "nothing is beneath it");
}

#[test]
fn later_operations_of_a_batch_win_over_its_range_deletes_and_the_other_way_round() {
    let mut db = TestDb::new();
    fill(&db, 0, 10, 0);
    let mut batch = WriteBatch::new();
    batch.put(&db, key(3), "gone").put(&db, key(20), "gone");
    batch.delete_range(&db, key(0)..=key(8)).delete_prefix(&db, "key00002");
    batch.put(&db, key(5), "there").put(&db, key(21), "there");
    assert_eq!(batch.len(), 6);
    db.write(batch).unwrap();
    for _ in 0..2 {
        assert_eq!(seen(&db), [5, 9, 21]);
        assert_eq!(db.get(key(5)).unwrap().unwrap(), "there");
        db.reopen();
    }
}

#[test]
fn bounds_of_range_deletes_are_those_of_ranges() {
    let keys: Vec<&[u8]> = vec![b"", b"\0", b"a", b"a\0", b"a\0\0", b"b", b"b\xff", b"\xff\xff"];
    let mut bounds: Vec<Bound<&[u8]>> = vec![Bound::Unbounded];
    for key in &keys {
        bounds.extend([Bound::Included(*key), Bound::Excluded(*key)]);
    }
    for lower in &bounds {
        for upper in &bounds {
            let db = TestDb::new();
            for key in &keys {
                db.put(key, "v").unwrap();
            }
            let range = (*lower, *upper);
            let within: Vec<_> =
                db.range::<&[u8], _>(range).map(|entry| entry.unwrap().0).collect();
            db.delete_range::<&[u8], _>(range).unwrap();
            assert_eq!(db.iter().count(), keys.len() - within.len(), "{range:?}");
            assert_eq!(db.range::<&[u8], _>(range).count(), 0, "{range:?}");
        }
    }
    let db = TestDb::new();
    let longest = vec![0xff; 65_535];
    db.put(&longest, "v").unwrap();
    db.delete_range::<&[u8], _>((Bound::Excluded(&longest[..]), Bound::Unbounded)).unwrap();
    assert_eq!(db.iter().count(), 1);
    db.delete_range(..=&longest[..]).unwrap();
    assert_eq!(db.iter().count(), 0);
    let too_long = vec![0; 65_536];
    let error = db.delete_range(&too_long[..]..).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let mut batch = WriteBatch::new();
    batch.delete_prefix(&db, &too_long);
    assert_eq!(db.write(batch).unwrap_err().kind(), ErrorKind::Misuse);
}

#[test]
fn clear_empties_a_keyspace_and_leaves_it_to_snapshots() {
    let mut db = TestDb::new();
    let other = db.keyspace("other").unwrap();
    other.put("k", "v").unwrap();
    fill(&db, 0, 200, 0);
    db.settle();
    let before = db.snapshot();
    db.clear().unwrap();
    assert_eq!(db.first_key_value().unwrap(), None);
    assert_eq!(db.last_key_value().unwrap(), None);
    assert_eq!(before.iter().count(), 200);
    assert!(other.contains_key("k").unwrap());
    drop(before);
    fill(&db, 7, 9, 1);
    assert_eq!(seen(&db), [7, 8]);
    drop(other);
    db.reopen();
    assert_eq!(seen(&db), [7, 8]);
}

/// By a manifest edit alone: the file system counts the reads.
#[test]
fn files_that_a_range_delete_covers_go_unread() {
    let db = TestDb::with(tiny().compression(Compression::None));
    fill(&db, 0, 400, 0);
    db.compact_range::<&[u8], _>(..).unwrap();
    let stats = db.stats();
    let files = |stats: &esker::Stats| -> usize {
        stats.keyspaces[0].levels.iter().map(|level| level.files.len()).sum()
    };
    assert!(files(&stats) > 5);
    let snapshot = db.snapshot();
    db.delete_range(key(10)..key(395)).unwrap();
    db.flush().unwrap();
    db.settle();
    assert_eq!(db.stats().background.range_deleted_files, 0, "a snapshot sees them");
    drop(snapshot);
    db.settle();
    let after = db.stats();
    assert!(after.background.range_deleted_files + 2 >= files(&stats) as u64);
    assert_eq!(after.background.compaction_bytes_read, stats.background.compaction_bytes_read);
    assert!(after.sst_bytes() < stats.sst_bytes() / 2);
    assert_eq!(seen(&db), all_but(10..395, 400));
}

/// A tombstone that is cut where files are must not reach into its neighbours, and what it hid must not
/// come back once one part of it is gone.
#[test]
fn range_tombstones_are_cut_at_the_borders_of_files() {
    let mut db = TestDb::new();
    fill(&db, 0, 400, 0);
    db.compact_range::<&[u8], _>(..).unwrap();
    // A snapshot keeps what is hidden, and the tombstone with it, through all levels.
    let before = db.snapshot();
    db.delete_range(key(20)..key(380)).unwrap();
    for i in (0..400).step_by(3) {
        db.put(key(i), value(i, 1)).unwrap();
    }
    let expected: Vec<usize> = (0..400).filter(|i| !(20..380).contains(i) || i % 3 == 0).collect();
    db.flush().unwrap();
    for part in [0..100, 90..250, 240..400] {
        db.compact_range(key(part.start)..key(part.end)).unwrap();
        assert_eq!(seen(&db), expected);
        assert_eq!(seen(&before).len(), 400);
        db.verify(&mut |_, _| {}).unwrap();
    }
    let ranged = |db: &Db| -> u64 {
        db.stats().keyspaces[0].levels.iter().map(|level| level.range_tombstones).sum()
    };
    assert!(ranged(&db) > 3, "each file has its part");
    drop(before);
    // Part by part the tombstone goes, and what it hid is gone before it.
    for part in [300..400, 0..50, 40..310] {
        db.compact_range(key(part.start)..key(part.end)).unwrap();
        assert_eq!(seen(&db), expected);
    }
    db.reopen();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!((seen(&db), ranged(&db)), (expected, 0));
}

/// Seqno 0 (R3) is older than any tombstone: what is newer than one must not get it while that lives.
#[test]
fn what_is_newer_than_a_range_tombstone_stays_newer() {
    let db = TestDb::new();
    fill(&db, 0, 300, 0);
    db.compact_range::<&[u8], _>(..).unwrap();
    db.delete_range(key(0)..key(300)).unwrap();
    fill(&db, 100, 200, 1);
    db.flush().unwrap();
    for part in [120..140, 0..150, 180..300, 0..300] {
        db.compact_range(key(part.start)..key(part.end)).unwrap();
        assert_eq!(seen(&db), (100..200).collect::<Vec<_>>());
    }
}

#[test]
fn operands_rest_on_nothing_beneath_a_range_tombstone() {
    let db = TestDb::new();
    let list =
        db.keyspace_with("a", KeyspaceOptions::new().merge_operator(Append::new(","))).unwrap();
    let count = db.keyspace_with("c", KeyspaceOptions::new().merge_operator(Add)).unwrap();
    list.put("k", "0").unwrap();
    list.merge("k", "1").unwrap();
    list.merge("only", "1").unwrap();
    for _ in 0..100 {
        count.merge("n", 1_i64.to_le_bytes()).unwrap();
    }
    let sum = |reader: &Reader| reader.get("n").unwrap().map(|value| Add::value(&value).unwrap());
    assert_eq!(sum(&count), Some(100), "a long chain is remembered");
    let before = db.snapshot();
    list.delete_range("a".."z").unwrap();
    count.delete_prefix("n").unwrap();
    assert_eq!((list.get("k").unwrap(), sum(&count)), (None, None));
    assert_eq!(list.iter().count(), 0);
    list.merge("k", "2").unwrap();
    list.merge("k", "3").unwrap();
    for _ in 0..50 {
        count.merge("n", 2_i64.to_le_bytes()).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(list.get("k").unwrap().unwrap(), "2,3");
        assert_eq!(list.iter().next_back().unwrap().unwrap().1, "2,3");
        assert_eq!(list.iter().count(), 1);
        assert_eq!(sum(&count), Some(100));
        assert_eq!(before.keyspace(&list).get("k").unwrap().unwrap(), "0,1");
        assert_eq!(before.keyspace(&list).iter().count(), 2);
        db.flush().unwrap();
        list.compact_range::<&[u8], _>(..).unwrap();
        count.compact_range::<&[u8], _>(..).unwrap();
    }
    drop(before);
    list.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(list.get("k").unwrap().unwrap(), "2,3");
}

#[test]
fn values_that_expire_are_deleted_by_range_as_others_are() {
    let (db, clock) = timed();
    let short = db.keyspace_with("s", KeyspaceOptions::new().default_ttl(ms(500))).unwrap();
    for name in ["a", "b", "c"] {
        short.put(name, "v").unwrap();
    }
    short.delete_range("a".."b").unwrap();
    assert_eq!(short.ttl("a").unwrap(), None);
    assert!(short.ttl("b").unwrap().is_some());
    assert!(!short.persist("a").unwrap());
    assert_eq!(short.iter().count(), 2);
    db.flush().unwrap();
    clock.set(1_000_600);
    assert_eq!(short.iter().count(), 0);
    db.settle();
    assert_eq!(short.iter().count(), 0);
}

#[test]
fn a_transaction_sees_its_own_range_deletes_and_savepoints_undo_them() {
    let db = TestDb::new();
    fill(&db, 0, 10, 0);
    db.flush().unwrap();
    for level in [Isolation::Serializable, Isolation::Snapshot, Isolation::ReadCommitted] {
        let txn = db.transaction_with(level);
        let keys = || -> Vec<Vec<u8>> {
            let forward: Vec<_> = txn.iter(&db).map(|entry| entry.unwrap().0.to_vec()).collect();
            let mut back: Vec<_> = txn.iter(&db).rev().map(|e| e.unwrap().0.to_vec()).collect();
            back.reverse();
            assert_eq!(forward, back);
            for i in 0..12 {
                let there = forward.contains(&key(i));
                assert_eq!(txn.get(&db, key(i)).unwrap().is_some(), there);
                assert_eq!(txn.contains_key(&db, key(i)).unwrap(), there);
            }
            forward
        };
        txn.put(&db, key(4), "own").unwrap();
        txn.put(&db, key(11), "own").unwrap();
        let all = keys();
        let savepoint = txn.savepoint();
        txn.delete_range(&db, key(2)..key(9)).unwrap();
        txn.put(&db, key(5), "again").unwrap();
        assert_eq!(keys(), [0, 1, 5, 9, 11].map(key));
        txn.delete_prefix(&db, "").unwrap();
        assert_eq!(keys(), Vec::<Vec<u8>>::new());
        txn.rollback_to(savepoint).unwrap();
        assert_eq!(keys(), all);
        txn.delete_range(&db, key(9)..).unwrap();
        assert_eq!(keys(), [0, 1, 2, 3, 4, 5, 6, 7, 8].map(key));
        let cursor_finds = txn.cursor(&db).seek(key(9)).unwrap();
        assert!(!cursor_finds);
        txn.rollback();
    }
    let txn = db.transaction();
    txn.delete_range(&db, key(1)..=key(8)).unwrap();
    txn.commit().unwrap();
    assert_eq!(seen(&db), [0, 9]);
}

/// A committed range delete is a write of each key in it, also of those that were not there.
#[test]
fn range_deletes_conflict_as_writes_of_each_key_in_them() {
    let delete_committed = |db: &TestDb, how: usize| match how {
        0 => db.delete_range("d".."g").unwrap(),
        1 => db.delete_prefix("e").unwrap(),
        2 => {
            let txn = db.transaction();
            txn.delete_range(db, "d"..="f").unwrap();
            txn.commit().unwrap();
        }
        _ => {
            db.clear().unwrap();
            db.flush().unwrap();
        }
    };
    for how in 0..4 {
        let db = TestDb::new();
        for name in ["a", "e", "z"] {
            db.put(name, "v").unwrap();
        }
        let begin = |level| {
            let txn = db.transaction_with(level);
            txn.put(&db, "mine", "v").unwrap();
            txn
        };
        let conflicts = |txn: esker::Transaction| match txn.commit() {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict);
                true
            }
        };
        let read = begin(Isolation::Serializable);
        read.get(&db, "e").unwrap();
        let absent = begin(Isolation::Serializable);
        absent.get(&db, "ee").unwrap();
        let walked = begin(Isolation::Serializable);
        assert_eq!(walked.range(&db, "b".."eee").count(), 1);
        let wrote = begin(Isolation::Snapshot);
        wrote.put(&db, "ef", "v").unwrap();
        let deletes = begin(Isolation::Snapshot);
        deletes.delete_range(&db, "ea".."zz").unwrap();
        let outside = begin(Isolation::Serializable);
        outside.get(&db, "0").unwrap();
        let blind = begin(Isolation::Serializable);
        blind.delete_range(&db, "a".."f").unwrap();
        delete_committed(&db, how);
        for txn in [read, absent, walked, wrote, deletes] {
            assert!(conflicts(txn), "{how}");
        }
        assert_eq!(conflicts(outside), how == 3, "{how}");
        assert!(!conflicts(blind), "{how}");
    }
}

#[test]
fn a_range_delete_conflicts_with_puts_into_it() {
    let db = TestDb::new();
    let txn = db.transaction_with(Isolation::Snapshot);
    txn.delete_range(&db, "a".."c").unwrap();
    db.put("c", "outside").unwrap();
    txn.commit().unwrap();
    let txn = db.transaction_with(Isolation::Snapshot);
    txn.delete_range(&db, "a".."c").unwrap();
    db.put("b", "inside").unwrap();
    assert_eq!(txn.commit().unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn conditional_operations_see_range_deletes() {
    let db = TestDb::new();
    db.put("k", "1").unwrap();
    let (_, version) = db.get_versioned("k").unwrap().unwrap();
    db.delete_prefix("k").unwrap();
    assert_eq!(db.get_versioned("k").unwrap(), None);
    assert_eq!(db.put_if_version("k", Some(version), "2").unwrap(), None);
    assert_eq!(db.take("k").unwrap(), None);
    assert_eq!(db.put_if_absent("k", "3").unwrap(), None);
    assert_eq!(db.take("k").unwrap().unwrap(), "3");
}

#[test]
fn pages_go_on_behind_what_a_range_delete_takes_away() {
    let db = TestDb::new();
    fill(&db, 0, 100, 0);
    let page = db.iter().page(PageLimit::items(10)).unwrap();
    assert_eq!(page.entries.len(), 10);
    db.delete_range(key(5)..key(50)).unwrap();
    let page = db.next_page(&page.next.unwrap(), PageLimit::items(10)).unwrap();
    assert_eq!(page.entries[0].0, key(50));
}

/// Many small ones side by side, and many over each other.
#[test]
fn thousands_of_range_deletes_are_as_good_as_one() {
    let mut db = TestDb::with(tiny().memtable_bytes(1 << 20).memory_budget(8 << 20));
    fill(&db, 0, 300, 0);
    db.flush().unwrap();
    for round in 0..10 {
        for i in (0..200).rev() {
            db.delete_range(key(i)..key(i + 1)).unwrap();
        }
        for i in 0..20 {
            db.delete_range(key(i)..key(220 - i)).unwrap();
        }
        db.put(key(round), "there").unwrap();
    }
    let expected: Vec<usize> = [9].into_iter().chain(220..300).collect();
    assert_eq!(seen(&db), expected);
    db.flush().unwrap();
    assert_eq!(seen(&db), expected);
    let levels = &db.stats().keyspaces[0].levels;
    let ranges: u64 = levels.iter().map(|level| level.range_tombstones).sum();
    assert!(ranges <= 400, "of one stripe only the newest is written: {ranges}");
    db.reopen();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(seen(&db), expected);
}

/// In a memtable, and in what a flush makes of them.
#[test]
fn snapshots_between_range_deletes_that_all_overlap_tell_them_apart() {
    const COUNT: usize = 200;
    let mut db = TestDb::with(tiny().memtable_bytes(1 << 20).memory_budget(8 << 20));
    fill(&db, 0, 2 * COUNT, 0);
    let mut taken = Vec::new();
    for i in 0..COUNT {
        if i % 40 == 17 {
            taken.push((db.snapshot(), (i + COUNT - 1..2 * COUNT).collect::<Vec<_>>()));
        }
        db.delete_range(key(i)..key(i + COUNT)).unwrap();
        if i % 40 == 20 {
            db.put(key(i + COUNT + 1), "there, until the next but one").unwrap();
        }
    }
    let check = || {
        for (snapshot, expected) in &taken {
            assert_eq!(seen(snapshot), *expected);
        }
    };
    check();
    db.flush().unwrap();
    check();
    let last: Vec<usize> = (2 * COUNT - 1..2 * COUNT).collect();
    assert_eq!(seen(&db), last);
    db.compact_range::<&[u8], _>(..).unwrap();
    check();
    drop(taken);
    db.reopen();
    assert_eq!(seen(&db), last);
}

#[test]
fn dump_shows_range_tombstones() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    db.put("b", "v").unwrap();
    let snapshot = db.snapshot();
    db.delete_range("a".."c").unwrap();
    db.delete_range("x"..).unwrap();
    db.put("y", "v").unwrap();
    let dump = |suffix: &str| {
        let mut text = Vec::new();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == suffix) {
                esker::dump(path, &mut text).unwrap();
            }
        }
        String::from_utf8(text).unwrap()
    };
    let log = dump("wal");
    assert!(log.contains("delete \"a\"..\"c\"\n") && log.contains("delete \"x\"..\n"), "{log}");
    db.flush().unwrap();
    let sst = dump("sst");
    assert!(sst.contains("2 delete \"a\"..\"c\"\n"), "{sst}");
    drop(snapshot);
}
