//! Features that meet: transactions and conditional operations over keyspaces that merge or expire.

use esker::Add;
use esker::Append;
use esker::ErrorKind;
use esker::Isolation;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::Swap;
use esker::Transaction;
use esker::Ttl;
use esker::Update;

use crate::expiry::ms;
use crate::expiry::timed;
use crate::support::TestDb;

fn appending(db: &TestDb) -> Keyspace {
    db.keyspace_with("a", KeyspaceOptions::new().merge_operator(Append::new(","))).unwrap()
}

fn counting(db: &TestDb) -> Keyspace {
    db.keyspace_with("c", KeyspaceOptions::new().merge_operator(Add)).unwrap()
}

fn walk(txn: &Transaction, keyspace: &Keyspace) -> Vec<(String, String)> {
    let text = |entry: esker::Result<(esker::Key, esker::Value)>| {
        let (key, value) = entry.unwrap();
        (String::from_utf8_lossy(&key).into(), String::from_utf8_lossy(&value).into())
    };
    let forward: Vec<_> = txn.iter(keyspace).map(text).collect();
    let mut back: Vec<_> = txn.iter(keyspace).rev().map(text).collect();
    back.reverse();
    assert_eq!(forward, back);
    forward
}

#[test]
fn a_transaction_folds_its_own_operands_over_what_it_sees() {
    let db = TestDb::new();
    let list = appending(&db);
    list.put("old", "0").unwrap();
    list.merge("merged", "1").unwrap();
    list.merge("merged", "2").unwrap();
    db.flush().unwrap();
    for level in [Isolation::Serializable, Isolation::Snapshot, Isolation::ReadCommitted] {
        let txn = db.transaction_with(level);
        for key in ["old", "merged", "new"] {
            txn.merge(&list, key, "x").unwrap();
            txn.merge(&list, key, "y").unwrap();
        }
        txn.put(&list, "put", "p").unwrap();
        txn.merge(&list, "put", "q").unwrap();
        txn.delete(&list, "gone").unwrap();
        txn.merge(&list, "gone", "z").unwrap();
        let expected = [
            ("gone", "z"),
            ("merged", "1,2,x,y"),
            ("new", "x,y"),
            ("old", "0,x,y"),
            ("put", "p,q"),
        ];
        for (key, value) in expected {
            assert_eq!(txn.get(&list, key).unwrap().unwrap(), value);
            assert!(txn.contains_key(&list, key).unwrap());
        }
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(walk(&txn, &list), expected);
        assert_eq!(list.get("merged").unwrap().unwrap(), "1,2");
    }
    let txn = db.transaction();
    txn.merge(&list, "merged", "3").unwrap();
    txn.commit().unwrap();
    assert_eq!(list.get("merged").unwrap().unwrap(), "1,2,3");
}

/// Long chains are remembered by sequence number, and those of a transaction are its own.
#[test]
fn what_a_chain_came_to_in_a_transaction_is_not_remembered_for_others() {
    let db = TestDb::new();
    let count = counting(&db);
    let add = |txn: &Transaction, by: i64| {
        for _ in 0..100 {
            txn.merge(&count, "k", by.to_le_bytes()).unwrap();
        }
    };
    let read = |value: Option<esker::Value>| Add::value(&value.unwrap()).unwrap();
    for _ in 0..100 {
        count.merge("k", 1_i64.to_le_bytes()).unwrap();
    }
    assert_eq!(read(count.get("k").unwrap()), 100);
    let (one, other) = (db.transaction(), db.transaction());
    let begin = one.savepoint();
    add(&one, 1_000);
    add(&other, 5);
    assert_eq!(read(one.get(&count, "k").unwrap()), 100_100);
    assert_eq!(read(other.get(&count, "k").unwrap()), 600);
    one.rollback_to(begin).unwrap();
    add(&one, 7);
    assert_eq!(read(one.get(&count, "k").unwrap()), 800);
    assert_eq!(read(count.get("k").unwrap()), 100);
    one.commit().unwrap();
    assert_eq!(read(count.get("k").unwrap()), 800);
    assert_eq!(other.commit().unwrap_err().kind(), ErrorKind::Conflict, "it has read the sum");
}

#[test]
fn merging_blindly_conflicts_with_nobody_and_reading_the_sum_does() {
    let db = TestDb::new();
    let count = counting(&db);
    let one = 1_i64.to_le_bytes();
    for reads in [false, true] {
        let txn = db.transaction();
        txn.merge(&count, "k", one).unwrap();
        if reads {
            txn.get(&count, "k").unwrap();
        }
        count.merge("k", one).unwrap();
        assert_eq!(txn.commit().is_err(), reads);
    }
    assert_eq!(Add::value(&count.get("k").unwrap().unwrap()), Some(3));
    let plain = db.transaction();
    assert!(plain.merge(&db, "k", "operand").is_err(), "there is no operator");
}

#[test]
fn conditional_operations_see_what_operands_come_to() {
    let db = TestDb::new();
    let list = appending(&db);
    list.merge("k", "1").unwrap();
    list.merge("k", "2").unwrap();
    let before = list.fetch_update("k", |value| Update::Put([value.unwrap(), b"!"].concat()));
    assert_eq!(before.unwrap().unwrap(), "1,2");
    list.merge("k", "3").unwrap();
    let (value, version) = list.get_versioned("k").unwrap().unwrap();
    assert_eq!(value, "1,2!,3");
    list.merge("k", "4").unwrap();
    assert_eq!(list.put_if_version("k", Some(version), "late").unwrap(), None);
    assert_eq!(list.compare_and_swap("k", Some(b"1,2!,3,4"), Some(b"5")).unwrap(), Swap::Done);
    assert_eq!(list.take("k").unwrap().unwrap(), "5");
}

#[test]
fn a_put_in_a_transaction_expires_as_any_other() {
    let (db, clock) = timed();
    let short = db.keyspace_with("s", KeyspaceOptions::new().default_ttl(ms(500))).unwrap();
    let txn = db.transaction();
    txn.put(&short, "default", "v").unwrap();
    txn.put_with_ttl(&short, "longer", "v", ms(2_000)).unwrap();
    txn.put_with_ttl(&short, "ever", "v", std::time::Duration::MAX).unwrap();
    assert_eq!(walk(&txn, &short).len(), 3);
    assert_eq!(txn.get(&short, "default").unwrap().unwrap(), "v");
    txn.commit().unwrap();
    assert_eq!(short.ttl("default").unwrap(), Some(Ttl::For(ms(500))));
    assert_eq!(short.ttl("ever").unwrap(), Some(Ttl::Forever));
    clock.set(1_000_500);
    assert_eq!(
        (short.get("default").unwrap(), short.get("longer").unwrap().is_some()),
        (None, true)
    );

    // A transaction judges by the instant it began at, also of its own writes. (One whose reads are
    // checked cannot be committed then.)
    let txn = db.transaction_with(Isolation::Snapshot);
    txn.put_with_ttl(&short, "own", "v", ms(10)).unwrap();
    clock.set(1_002_000);
    assert!(txn.get(&short, "longer").unwrap().is_some() && short.get("longer").unwrap().is_none());
    assert!(txn.get(&short, "own").unwrap().is_some());
    assert_eq!(walk(&txn, &short).len(), 3);
    txn.commit().unwrap();
    assert_eq!(short.get("own").unwrap(), None);
}

#[test]
fn what_has_expired_is_absent_for_conditional_operations() {
    let (db, clock) = timed();
    let short = db.keyspace_with("s", KeyspaceOptions::new().default_ttl(ms(500))).unwrap();
    assert_eq!(short.put_if_absent("k", "1").unwrap(), None);
    assert_eq!(short.put_if_absent("k", "2").unwrap().unwrap(), "1");
    clock.set(1_000_500);
    assert_eq!(short.get_versioned("k").unwrap(), None);
    assert_eq!(short.compare_and_swap("k", Some(b"1"), None).unwrap(), Swap::Differs(None));
    assert_eq!(short.put_if_absent("k", "3").unwrap(), None);
    assert_eq!(short.ttl("k").unwrap(), Some(Ttl::For(ms(500))));
    short.fetch_update("k", |_| Update::Put(b"4".to_vec())).unwrap();
    clock.set(1_000_999);
    assert_eq!(short.take("k").unwrap().unwrap(), "4");
}

/// The expiry is stored in front of the value, and both together have the limit of a value. A record
/// above it would be in the log when somebody noticed.
#[test]
fn a_value_that_is_too_long_with_its_expiry_is_refused_before_anything_is_written() {
    let (db, _) = timed();
    let short = db.keyspace_with("s", KeyspaceOptions::new().default_ttl(ms(500))).unwrap();
    let longest = vec![0; 1 << 30];
    let txn = db.transaction();
    let refused = [
        short.put("k", &longest),
        short.put_with_ttl("k", &longest, ms(9)),
        txn.put(&short, "k", &longest),
        txn.put_with_ttl(&short, "k", &longest, ms(9)),
        short.put_if_absent("k", &longest).map(drop),
        short.compare_and_swap("k", None, Some(&longest)).map(drop),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Misuse);
    }
    txn.commit().unwrap();
    let mut batch = esker::WriteBatch::new();
    batch.put(&short, "k", &longest);
    assert_eq!(db.write(batch).unwrap_err().kind(), ErrorKind::Misuse);
    short.put("k", "short").unwrap();
    assert_eq!(short.get("k").unwrap().unwrap(), "short");
}
