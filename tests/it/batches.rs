//! Batches: whole or not at all, in order.

use esker::Durability;
use esker::WriteBatch;

use crate::support::TestDb;
use crate::support::key;

#[test]
fn later_operations_of_a_batch_win() {
    let mut db = TestDb::new();
    let mut batch = WriteBatch::new();
    batch.put(&db, "k", "1").delete(&db, "k").put(&db, "k", "2").put(&db, "gone", "x");
    batch.delete(&db, "gone");
    assert_eq!(batch.len(), 5);
    db.write(batch).unwrap();
    for _ in 0..2 {
        assert_eq!(db.dump(), [(b"k".to_vec(), b"2".to_vec())]);
        db.flush().unwrap();
        db.reopen();
    }
}

#[test]
fn a_batch_spans_keyspaces_and_survives_whole() {
    let mut db = TestDb::new();
    for round in 0..200 {
        let a = db.keyspace("a").unwrap();
        let b = db.keyspace("b").unwrap();
        let mut batch = WriteBatch::new();
        let text = round.to_string();
        batch.put(&a, key(round % 17), &text).put(&b, key(round % 17), &text);
        batch.put(&db, "round", &text).durability(Durability::Os);
        db.write(batch).unwrap();
    }
    db.reopen();
    let (a, b) = (db.keyspace("a").unwrap(), db.keyspace("b").unwrap());
    assert_eq!(db.get("round").unwrap().unwrap(), "199");
    let pairs: Vec<_> = a.iter().map(Result::unwrap).zip(b.iter().map(Result::unwrap)).collect();
    assert_eq!(pairs.len(), 17);
    assert!(pairs.iter().all(|(left, right)| left == right));
}

#[test]
fn an_empty_batch_is_nothing() {
    let db = TestDb::new();
    db.write(WriteBatch::new()).unwrap();
    assert_eq!(db.seqno().get(), 0);
}

#[test]
fn a_batch_larger_than_memtable_and_segment_is_written() {
    let mut db = TestDb::new();
    let mut batch = WriteBatch::new();
    for i in 0..1000 {
        batch.put(&db, key(i), vec![i as u8; 300]);
    }
    assert!(batch.bytes() > 300_000);
    db.write(batch).unwrap();
    db.put("after", "x").unwrap();
    db.reopen();
    assert_eq!(db.iter().count(), 1001);
    db.settle();
    assert_eq!(db.get(key(999)).unwrap().unwrap(), vec![999u64 as u8; 300]);
}
