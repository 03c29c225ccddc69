//! Merges into keyspaces whose values expire: folded when they are written, exactly once, and with the
//! expiry of what they change.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Add;
use esker::Append;
use esker::ChangeOp;
use esker::Error;
use esker::ErrorKind;
use esker::Isolation;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Options;
use esker::SeqNo;
use esker::Ttl;
use esker::Update;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::MemFs;

use crate::expiry::ms;
use crate::expiry::timed;
use crate::merges::Moody;
use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;

fn expiring() -> KeyspaceOptions {
    KeyspaceOptions::new().merge_operator(Append::new(",")).expiring(true)
}

fn lists(db: &TestDb) -> Keyspace {
    db.keyspace_with("l", expiring()).unwrap()
}

fn counters(db: &TestDb) -> Keyspace {
    db.keyspace_with("c", KeyspaceOptions::new().merge_operator(Add).expiring(true)).unwrap()
}

fn one() -> [u8; 8] {
    1_i64.to_le_bytes()
}

fn sum(keyspace: &Keyspace, key: &str) -> i64 {
    keyspace.get(key).unwrap().map_or(0, |value| Add::value(&value).unwrap())
}

/// Everything, by every way to read it.
fn entries(keyspace: &Keyspace) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let entry = |entry: esker::Result<(esker::Key, esker::Value)>| {
        let (key, value) = entry.unwrap();
        assert_eq!(keyspace.get(&key).unwrap().as_ref(), Some(&value));
        assert!(keyspace.contains_key(&key).unwrap());
        assert_eq!(keyspace.size_of(&key).unwrap(), Some(value.len()));
        (text(&key), text(&value))
    };
    let forward: Vec<_> = keyspace.iter().map(entry).collect();
    let mut back: Vec<_> = keyspace.iter().rev().map(entry).collect();
    back.reverse();
    assert_eq!(forward, back);
    forward
}

fn has(keyspace: &Keyspace, expected: &[(&str, &str)]) {
    let found = entries(keyspace);
    let found: Vec<_> = found.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_counter_keeps_its_window_and_starts_over_behind_it() {
    let (mut db, hands) = timed();
    for stage in 0..5 {
        let start = 1_000_000 + stage * 10_000;
        hands.set(start);
        let counters = counters(&db);
        counters.put_with_ttl("k", one(), ms(60)).unwrap();
        for n in 1..=10 {
            hands.set(start + n * 5);
            counters.merge("k", one()).unwrap();
            assert_eq!(sum(&counters, "k"), 1 + i64::try_from(n).unwrap());
            assert_eq!(counters.ttl("k").unwrap(), Some(Ttl::For(ms(60 - n * 5))));
        }
        drop(counters);
        match stage {
            1 => db.flush().unwrap(),
            2 => db.compact_range::<&[u8], _>(..).unwrap(),
            3 => db.reopen(),
            _ => {}
        }
        let counters = db.keyspace("c").unwrap();
        hands.set(start + 59);
        counters.merge("k", one()).unwrap();
        assert_eq!((sum(&counters, "k"), counters.ttl("k").unwrap()), (12, Some(Ttl::For(ms(1)))));
        hands.set(start + 60);
        assert_eq!(counters.get("k").unwrap(), None);
        counters.merge("k", one()).unwrap();
        assert_eq!((sum(&counters, "k"), counters.ttl("k").unwrap()), (1, Some(Ttl::Forever)));
        counters.delete("k").unwrap();
        counters.merge("k", one()).unwrap();
        assert_eq!((sum(&counters, "k"), counters.ttl("k").unwrap()), (1, Some(Ttl::Forever)));
    }
}

#[test]
fn what_a_merge_begins_gets_the_default_time_to_live() {
    let (mut db, hands) = timed();
    let lists = db.keyspace_with("l", expiring().default_ttl(ms(100))).unwrap();
    lists.merge("k", "a").unwrap();
    lists.put_with_ttl("ever", "e", Duration::MAX).unwrap();
    hands.set(1_000_050);
    lists.merge("k", "b").unwrap();
    lists.merge("ever", "f").unwrap();
    assert_eq!(lists.ttl("k").unwrap(), Some(Ttl::For(ms(50))));
    assert_eq!(lists.ttl("ever").unwrap(), Some(Ttl::Forever));
    hands.set(1_000_100);
    has(&lists, &[("ever", "e,f")]);
    lists.merge("k", "c").unwrap();
    assert!(lists.expire_at("k", 1_000_500).unwrap());
    lists.merge("k", "d").unwrap();
    assert_eq!(lists.ttl("k").unwrap(), Some(Ttl::For(ms(400))));
    assert!(lists.persist("k").unwrap());
    lists.merge("k", "e").unwrap();
    assert_eq!(lists.ttl("k").unwrap(), Some(Ttl::Forever));
    has(&lists, &[("ever", "e,f"), ("k", "c,d,e")]);
    drop(lists);
    db.reopen();
    let lists = db.keyspace("l").unwrap();
    lists.merge("new", "1").unwrap();
    assert_eq!(lists.ttl("new").unwrap(), Some(Ttl::For(ms(100))));
    // Without a default from now on, and with values that expire all the same.
    let lists = db.keyspace_with("l", KeyspaceOptions::new().default_ttl(Duration::MAX)).unwrap();
    lists.merge("new", "2").unwrap();
    lists.merge("newer", "3").unwrap();
    assert_eq!(lists.ttl("new").unwrap(), Some(Ttl::For(ms(100))));
    assert_eq!(lists.ttl("newer").unwrap(), Some(Ttl::Forever));
    lists.put_with_ttl("newer", "4", ms(7)).unwrap();
}

#[test]
fn a_batch_folds_in_its_order() {
    let (db, hands) = timed();
    let lists = lists(&db);
    let blind = db.keyspace_with("b", KeyspaceOptions::new().merge_operator(Append::new("+")));
    let blind = blind.unwrap();
    for key in ["cleared", "deleted", "old", "range", "range again"] {
        lists.put_with_ttl(key, "0", ms(50)).unwrap();
    }
    let from = db.seqno();
    let mut batch = WriteBatch::new();
    batch.merge(&lists, "old", "1").merge(&lists, "new", "1").merge(&blind, "k", "1");
    batch.put(&lists, "put", "p").merge(&lists, "put", "q");
    batch.put_with_ttl(&lists, "until", "u", ms(20)).merge(&lists, "until", "v");
    batch.put_with_ttl(&lists, "gone at once", "u", ms(0)).merge(&lists, "gone at once", "v");
    batch.delete(&lists, "deleted").merge(&lists, "deleted", "d");
    batch.merge(&lists, "cleared", "lost").delete(&lists, "cleared");
    batch.merge(&lists, "over", "lost").put(&lists, "over", "o");
    batch.merge(&lists, "range", "lost").delete_range(&lists, "range".."range b");
    batch.merge(&lists, "range again", "r");
    batch.merge(&lists, "old", "2").merge(&blind, "k", "2").put(&db, "k", "v");
    db.write(batch).unwrap();
    let expected = [
        ("deleted", "d"),
        ("gone at once", "v"),
        ("new", "1"),
        ("old", "0,1,2"),
        ("over", "o"),
        ("put", "p,q"),
        ("range again", "r"),
        ("until", "u,v"),
    ];
    has(&lists, &expected);
    has(&blind, &[("k", "1+2")]);
    let ttl = |key| lists.ttl(key).unwrap().unwrap();
    assert_eq!([ttl("old"), ttl("until")], [Ttl::For(ms(50)), Ttl::For(ms(20))]);
    for key in ["deleted", "gone at once", "new", "over", "put", "range again"] {
        assert_eq!(ttl(key), Ttl::Forever);
    }
    // One batch, of puts; only the keyspace without expiry has operands.
    db.sync().unwrap();
    let mut changes = db.changes_since(from).unwrap();
    let batch = changes.next().unwrap().unwrap();
    assert!(changes.next().is_none());
    let merged = |op| matches!(op, ChangeOp::Merge { operand: b"1" | b"2", .. });
    assert_eq!(batch.iter().filter(|change| merged(change.op)).count(), 2);
    assert!(batch.iter().any(|change| {
        change.op == ChangeOp::PutUntil { key: b"old", value: b"0,1,2", expiry_ms: 1_000_050 }
    }));
    hands.set(1_000_050);
    assert!(lists.get("old").unwrap().is_none() && lists.get("new").unwrap().is_some());
}

#[test]
fn an_operator_that_fails_writes_nothing() {
    let (db, _) = timed();
    let moody = Moody::default();
    let options = KeyspaceOptions::new().merge_operator(moody.clone()).expiring(true);
    let keyspace = db.keyspace_with("m", options).unwrap();
    keyspace.put_with_ttl("bad", "0", ms(1000)).unwrap();
    for mood in [&moody.fails, &moody.panics] {
        mood.store(true, Relaxed);
        let before = db.seqno();
        let mut batch = WriteBatch::new();
        batch.put(&db, "beside", "v").merge(&keyspace, "good", "1").merge(&keyspace, "bad", "1");
        let txn = db.transaction();
        txn.merge(&keyspace, "bad", "1").unwrap();
        for result in [keyspace.merge("bad", "1"), db.write(batch), txn.commit()] {
            let error = result.unwrap_err();
            assert!(matches!(&error, Error::Merge { keyspace, .. } if keyspace == "m"), "{error}");
        }
        assert_eq!(db.seqno(), before);
        has(&keyspace, &[("bad", "0")]);
        // What the batch itself overwrites nobody has to fold.
        let mut batch = WriteBatch::new();
        batch.merge(&keyspace, "bad", "1").put_with_ttl(&keyspace, "bad", "0", ms(1000));
        db.write(batch).unwrap();
        mood.store(false, Relaxed);
    }
    keyspace.merge("bad", "1").unwrap();
    has(&keyspace, &[("bad", "01")]);
    assert!(db.get("beside").unwrap().is_none() && db.stats().read_only.is_none());
}

#[test]
fn a_transaction_sees_what_its_operands_come_to() {
    let (db, hands) = timed();
    let lists = lists(&db);
    for (n, level) in [Isolation::Serializable, Isolation::Snapshot, Isolation::ReadCommitted]
        .into_iter()
        .enumerate()
    {
        let start = 1_000_000 + n as u64 * 1000;
        hands.set(start);
        lists.clear().unwrap();
        lists.put_with_ttl("old", "0", ms(50)).unwrap();
        lists.put_with_ttl("over", "0", ms(10)).unwrap();
        hands.set(start + 10);
        let txn = db.transaction_with(level);
        txn.merge(&lists, "old", "1").unwrap();
        txn.merge(&lists, "over", "1").unwrap();
        txn.put_with_ttl(&lists, "own", "p", ms(20)).unwrap();
        txn.merge(&lists, "own", "q").unwrap();
        let before = txn.savepoint();
        txn.merge(&lists, "old", "lost").unwrap();
        txn.rollback_to(before).unwrap();
        txn.merge(&lists, "old", "2").unwrap();
        let expected = [("old", "0,1,2"), ("over", "1"), ("own", "p,q")];
        for (key, value) in expected {
            assert_eq!(txn.get(&lists, key).unwrap().unwrap(), value);
        }
        let text = |entry: esker::Result<(esker::Key, esker::Value)>| entry.unwrap();
        let forward: Vec<_> = txn.iter(&lists).map(text).collect();
        let mut back: Vec<_> = txn.iter(&lists).rev().map(text).collect();
        back.reverse();
        assert!(
            forward == back && forward.iter().map(|(_, value)| value).eq(["0,1,2", "1", "p,q"])
        );
        txn.commit().unwrap();
        has(&lists, &expected);
        assert_eq!(lists.ttl("old").unwrap(), Some(Ttl::For(ms(40))));
        assert_eq!(lists.ttl("over").unwrap(), Some(Ttl::Forever));
        assert_eq!(lists.ttl("own").unwrap(), Some(Ttl::For(ms(20))));
    }
}

/// Its operands go to the newest state, as those of other keyspaces do.
#[test]
fn merging_in_a_transaction_conflicts_with_nobody_and_reading_does() {
    let (db, _) = timed();
    let counters = counters(&db);
    for reads in [false, true] {
        let txn = db.transaction();
        txn.merge(&counters, "k", one()).unwrap();
        if reads {
            txn.get(&counters, "k").unwrap();
        }
        counters.merge("k", one()).unwrap();
        let conflicts = db.stats().transactions.conflicts;
        assert_eq!(txn.commit().is_err(), reads);
        assert_eq!(db.stats().transactions.conflicts - conflicts, u64::from(reads));
    }
    assert_eq!(sum(&counters, "k"), 3);
    // And who reads is told of merges, as of any write.
    let txn = db.transaction();
    txn.get(&counters, "k").unwrap();
    txn.put(&db, "k", "v").unwrap();
    counters.merge("k", one()).unwrap();
    assert_eq!(txn.commit().unwrap_err().kind(), ErrorKind::Conflict);
    // Snapshot isolation counts a merge as a write of its key.
    let txn = db.transaction_with(Isolation::Snapshot);
    txn.merge(&counters, "k", one()).unwrap();
    counters.merge("k", one()).unwrap();
    assert_eq!(txn.commit().unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn a_commit_folds_into_what_has_not_expired_by_then() {
    let (db, hands) = timed();
    let lists = lists(&db);
    let runs = [("t", Isolation::Serializable), ("b", Isolation::ReadCommitted)];
    for ((key, level), start) in runs.into_iter().zip([2_000_000, 3_000_000]) {
        hands.set(start);
        lists.put_with_ttl(key, "0", ms(100)).unwrap();
        let txn = db.transaction_with(level);
        txn.merge(&lists, key, "1").unwrap();
        hands.set(start + 100);
        txn.commit().unwrap();
    }
    has(&lists, &[("b", "1"), ("t", "1")]);
    assert_eq!(lists.ttl("b").unwrap(), Some(Ttl::Forever));
}

#[test]
fn snapshots_see_what_was_when_they_were_taken() {
    let (db, hands) = timed();
    let counters = counters(&db);
    counters.put_with_ttl("k", one(), ms(30)).unwrap();
    let mut snapshots = Vec::new();
    for n in 0..60 {
        hands.set(1_000_000 + n);
        counters.merge("k", one()).unwrap();
        snapshots.push((db.snapshot(), counters.get("k").unwrap()));
        match n % 5 {
            1 => db.flush().unwrap(),
            3 => db.settle(),
            4 => counters.compact_range::<&[u8], _>(..).unwrap(),
            _ => {}
        }
        for (snapshot, value) in &snapshots {
            let reader = snapshot.keyspace(&counters);
            assert_eq!(reader.get("k").unwrap(), *value);
            assert_eq!(reader.iter().next_back().transpose().unwrap().map(|e| e.1), *value);
        }
    }
    assert_eq!(sum(&counters, "k"), 30);
}

/// Threads that merge one by one, in batches and in transactions, beside others that rewrite the same
/// values: nothing is lost, and nothing counted twice.
#[test]
fn concurrent_merges_sum_up_exactly() {
    let mut db = TestDb::with(tiny().background_threads(2));
    let keyspace = counters(&db);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (db, keyspace) = (&db, &keyspace);
            scope.spawn(move || {
                for n in 0..300 {
                    match (n + thread) % 4 {
                        0 => {
                            let mut batch = WriteBatch::new();
                            batch.merge(keyspace, key(n % 3), one());
                            batch.merge(keyspace, key((n + 1) % 3), one()).put(db, key(n), "v");
                            db.write(batch).unwrap();
                        }
                        1 => {
                            let txn = db.transaction();
                            txn.merge(keyspace, key(n % 3), one()).unwrap();
                            txn.merge(keyspace, key(n % 3), one()).unwrap();
                            txn.commit().unwrap();
                        }
                        _ => (0..2).for_each(|_| keyspace.merge(key(n % 3), one()).unwrap()),
                    }
                }
            });
        }
        scope.spawn(|| {
            for n in 0..300 {
                keyspace.expire_at(key(n % 3), 4_102_444_800_000).unwrap();
                let same =
                    |value: Option<&[u8]>| value.map_or(Update::Keep, |v| Update::Put(v.to_vec()));
                keyspace.fetch_update(key(n % 2), same).unwrap();
            }
        });
    });
    let sum = |db: &TestDb| -> i64 {
        let entries = db.keyspace("c").unwrap().iter();
        entries.map(|entry| Add::value(&entry.unwrap().1).unwrap()).sum()
    };
    assert_eq!(sum(&db), 2400);
    drop(keyspace);
    db.reopen();
    assert_eq!(sum(&db), 2400);
}

#[test]
fn a_keyspace_may_be_declared_later_with_operands_in_it() {
    let (mut db, hands) = timed();
    let plain = KeyspaceOptions::new().merge_operator(Append::new(","));
    let lists = db.keyspace_with("l", plain).unwrap();
    for key in ["a", "b", "c"] {
        lists.merge(key, "1").unwrap();
        lists.merge(key, "2").unwrap();
    }
    let refused = lists.put_with_ttl("a", "v", ms(1)).unwrap_err();
    assert!(refused.to_string().contains("KeyspaceOptions::expiring(true)"), "{refused}");
    let mut early = WriteBatch::new();
    early.merge(&lists, "c", "3");
    let declared = db.keyspace_with("l", KeyspaceOptions::new().expiring(true)).unwrap();
    db.write(early).unwrap();
    lists.merge("a", "3").unwrap();
    assert!(declared.expire_at("b", 1_000_010).unwrap());
    declared.merge("b", "3").unwrap();
    has(&lists, &[("a", "1,2,3"), ("b", "1,2,3"), ("c", "1,2,3")]);
    drop((lists, declared));
    db.reopen();
    let lists = db.keyspace("l").unwrap();
    lists.merge("b", "4").unwrap();
    lists.put_with_ttl("a", "v", ms(10)).unwrap();
    hands.set(1_000_010);
    has(&lists, &[("c", "1,2,3")]);
    lists.compact_range::<&[u8], _>(..).unwrap();
    has(&lists, &[("c", "1,2,3")]);
    // It cannot be taken back, and saying nothing, or less, changes nothing.
    let same = KeyspaceOptions::new().merge_operator(Append::new(",")).expiring(false);
    db.keyspace_with("l", same).unwrap().put_with_ttl("a", "v", ms(10)).unwrap();
}

/// While others merge a keyspace is declared, and a value made to expire. In each batch is an operand
/// of another keyspace, which is folded from the beginning on.
#[test]
fn no_operand_is_lost_when_a_keyspace_is_declared() {
    for round in 0..20 {
        let db = TestDb::with(tiny().background_threads(1));
        let plain = KeyspaceOptions::new().merge_operator(Add);
        let keyspace = db.keyspace_with("c", plain).unwrap();
        let folded = lists(&db);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for n in 0..100 {
                        let mut batch = WriteBatch::new();
                        batch.merge(&keyspace, "k", one());
                        if n % 2 == 0 {
                            batch.merge(&folded, "k", "1");
                        }
                        db.write(batch).unwrap();
                    }
                });
            }
            std::thread::sleep(Duration::from_micros(100 * round));
            counters(&db).expire_at("k", 4_102_444_800_000).unwrap();
        });
        assert_eq!(sum(&keyspace, "k"), 300);
        assert_eq!(folded.get("k").unwrap().unwrap().len(), 299);
        keyspace.compact_range::<&[u8], _>(..).unwrap();
        assert_eq!(sum(&keyspace, "k"), 300);
    }
}

#[test]
fn large_values_are_folded_where_they_lie() {
    let (db, hands) = timed();
    let lists = db.keyspace_with("l", expiring().separate_values(100)).unwrap();
    let large = "x".repeat(500);
    lists.put_with_ttl("k", &large, ms(50)).unwrap();
    lists.put("ever", &large).unwrap();
    for n in 0..3 {
        db.flush().unwrap();
        lists.merge("k", &large).unwrap();
        lists.merge("ever", n.to_string()).unwrap();
        lists.compact_range::<&[u8], _>(..).unwrap();
    }
    assert_eq!(lists.size_of("k").unwrap(), Some(4 * 501 - 1));
    assert_eq!(lists.get("ever").unwrap().unwrap(), format!("{large},0,1,2"));
    assert_eq!(lists.ttl("k").unwrap(), Some(Ttl::For(ms(50))));
    hands.set(1_000_050);
    lists.merge("k", "new").unwrap();
    has(&lists, &[("ever", &format!("{large},0,1,2")), ("k", "new")]);
}

#[test]
fn a_crash_loses_no_merge_and_counts_none_twice() {
    let (db, hands) = timed();
    let keyspace = counters(&db);
    keyspace.put_with_ttl("k", 0_i64.to_le_bytes(), ms(300)).unwrap();
    for n in 1..=400_u64 {
        hands.set(1_000_000 + n);
        keyspace.merge("k", one()).unwrap();
        if n % 37 == 0 {
            db.run_one_job().unwrap();
            let fs = db.fs.crash_clone(CrashMode::Strict, n);
            let after = db.options.clone().fs(Arc::new(fs)).open(DIR).unwrap();
            let after = after.keyspace("c").unwrap();
            // The window has ended in between.
            let expected = if n < 300 { n } else { n - 299 };
            assert_eq!(sum(&after, "k"), i64::try_from(expected).unwrap());
            assert_eq!(after.ttl("k").unwrap() == Some(Ttl::Forever), n >= 300);
            after.merge("k", one()).unwrap();
        }
    }
}

fn repaired(options: &Options) -> esker::Db {
    let report = options.clone().repair(DIR, "/new", &mut |_, _| {}).unwrap();
    assert!(report.is_clean(), "{report}");
    options.clone().open("/new").unwrap()
}

#[test]
fn a_repaired_database_merges_and_expires() {
    let (db, hands) = timed();
    let moody = || KeyspaceOptions::new().merge_operator(Moody::default());
    let keyspace = db.keyspace_with("m", moody()).unwrap();
    for n in 0..200 {
        keyspace.merge(key(n % 7), format!("{n} ")).unwrap();
    }
    let expected = keyspace.get(key(3)).unwrap();
    db.keyspace_with("m", KeyspaceOptions::new().expiring(true)).unwrap();
    keyspace.put_with_ttl("a", "0", ms(100)).unwrap();
    keyspace.merge("a", "1").unwrap();
    let options = db.options.clone().merge_operator(Moody::default());
    drop((keyspace, db));
    let new = repaired(&options);
    let keyspace = new.keyspace("m").unwrap();
    assert_eq!(keyspace.get(key(3)).unwrap(), expected);
    assert_eq!(keyspace.get("a").unwrap().unwrap(), "01");
    assert_eq!(keyspace.ttl("a").unwrap(), Some(Ttl::For(ms(100))));
    keyspace.merge("a", "2").unwrap();
    assert_eq!(keyspace.ttl("a").unwrap(), Some(Ttl::For(ms(100))));
    hands.set(1_000_100);
    assert_eq!(keyspace.iter().count(), 7);
}

#[test]
fn without_the_operator_nothing_is_merged() {
    let options = tiny().fs(Arc::new(MemFs::new()));
    let db = options.clone().open(DIR).unwrap();
    let moody = KeyspaceOptions::new().merge_operator(Moody::default()).expiring(true);
    let keyspace = db.keyspace_with("m", moody).unwrap();
    keyspace.put_with_ttl("k", "0", Duration::from_secs(3600)).unwrap();
    db.close().unwrap();
    let db = options.missing_merge_operators(true).open(DIR).unwrap();
    let keyspace = db.keyspace("m").unwrap();
    let before = db.seqno();
    assert!(matches!(keyspace.merge("k", "1"), Err(Error::MergeOperator { given: None, .. })));
    assert_eq!(db.seqno(), before);
    assert_eq!(keyspace.get("k").unwrap().unwrap(), "0");
    keyspace.put_with_ttl("k", "2", Duration::from_secs(3600)).unwrap();
    db.drop_keyspace("m").unwrap();
    assert!(matches!(keyspace.merge("k", "1"), Err(Error::NoSuchKeyspace { .. })));
}

/// An operator of its own costs the others nothing: their operands are written as they are.
#[test]
fn a_keyspace_without_expiry_stores_its_operands() {
    let db = TestDb::new();
    let keyspace = db.keyspace_with("b", KeyspaceOptions::new().merge_operator(Add)).unwrap();
    for _ in 0..10 {
        keyspace.merge("k", one()).unwrap();
    }
    db.sync().unwrap();
    let changes = db.changes_since(SeqNo::default()).unwrap();
    let batches: Vec<_> = changes.take(10).map(Result::unwrap).collect();
    let is_operand = |batch: &esker::ChangeBatch| {
        batch.iter().all(|change| matches!(change.op, ChangeOp::Merge { .. }))
    };
    assert!(batches.iter().all(is_operand) && batches.len() == 10);
}
