//! Keyspaces: separate maps in one database.

use esker::Error;
use esker::ErrorKind;

use crate::support::TestDb;
use crate::support::key;

#[test]
fn keyspaces_do_not_see_each_other() {
    let mut db = TestDb::new();
    for name in ["a", "b"] {
        let keyspace = db.keyspace(name).unwrap();
        for i in 0..200 {
            keyspace.put(key(i), name).unwrap();
        }
    }
    for _ in 0..2 {
        assert_eq!(db.keyspaces(), ["a", "b", "default"]);
        assert_eq!(db.iter().count(), 0);
        for name in ["a", "b"] {
            let keyspace = db.keyspace(name).unwrap();
            assert_eq!(keyspace.iter().count(), 200);
            assert!(keyspace.iter().all(|entry| entry.unwrap().1 == name));
        }
        db.flush().unwrap();
        db.settle();
        db.reopen();
    }
}

#[test]
fn a_dropped_keyspace_is_gone_with_its_files_and_its_name_is_free() {
    let mut db = TestDb::new();
    let old = db.keyspace("k").unwrap();
    for i in 0..500 {
        old.put(key(i), "old").unwrap();
    }
    db.flush().unwrap();
    let with = db.files().iter().filter(|name| name.ends_with(".sst")).count();
    db.drop_keyspace("k").unwrap();
    let without = db.files().iter().filter(|name| name.ends_with(".sst")).count();
    assert!(with > 0 && without == 0, "{with} files before, {without} after");
    assert!(matches!(old.get("x").unwrap_err(), Error::NoSuchKeyspace { .. }));
    assert!(matches!(old.put("x", "").unwrap_err(), Error::NoSuchKeyspace { .. }));
    assert!(old.iter().next().unwrap().is_err());
    assert!(matches!(db.drop_keyspace("k").unwrap_err(), Error::NoSuchKeyspace { .. }));

    let new = db.keyspace("k").unwrap();
    assert_eq!(new.iter().count(), 0);
    new.put("n", "new").unwrap();
    assert!(old.get("n").is_err());
    drop((old, new));
    db.reopen();
    assert_eq!(db.keyspace("k").unwrap().iter().count(), 1);
}

#[test]
fn an_unflushed_keyspace_stays_dropped_after_reopening() {
    let mut db = TestDb::new();
    let keyspace = db.keyspace("k").unwrap();
    keyspace.put("a", "1").unwrap();
    db.put("b", "2").unwrap();
    db.drop_keyspace("k").unwrap();
    drop(keyspace);
    db.reopen();
    assert_eq!(db.keyspaces(), ["default"]);
    assert_eq!(db.keyspace("k").unwrap().iter().count(), 0);
    assert_eq!(db.get("b").unwrap().unwrap(), "2");
}

#[test]
fn an_idle_keyspace_does_not_hold_up_the_log() {
    let db = TestDb::new();
    let idle = db.keyspace("idle").unwrap();
    idle.put("once", "written").unwrap();
    for i in 0..5000 {
        db.put(key(i), "x".repeat(100)).unwrap();
        if i % 100 == 0 {
            db.settle();
        }
    }
    let wal = db.stats().wal;
    assert!(wal.bytes <= 2 * (64 << 10), "{} bytes in {} segments", wal.bytes, wal.segments);
    assert_eq!(idle.get("once").unwrap().unwrap(), "written");
}

#[test]
fn names_have_limits_and_the_default_stays() {
    let db = TestDb::new();
    for name in [String::new(), "x".repeat(256)] {
        assert_eq!(db.keyspace(&name).unwrap_err().kind(), ErrorKind::Misuse);
    }
    assert!(db.drop_keyspace("default").is_err());
    db.put("k", "v").unwrap();
    assert_eq!(db.keyspace("default").unwrap().get("k").unwrap().unwrap(), "v");
    assert!(db.is_default());
}

#[test]
fn a_snapshot_knows_the_keyspaces_that_were_there_when_it_was_taken() {
    let db = TestDb::new();
    let keyspace = db.keyspace("k").unwrap();
    keyspace.put("a", "1").unwrap();
    let before = db.snapshot();
    db.drop_keyspace("k").unwrap();
    let after = db.snapshot();
    assert_eq!(before.seqno(), after.seqno());
    assert_eq!(before.keyspace(&keyspace).get("a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(before.keyspace(&keyspace).iter().count(), 1);
    let gone = after.keyspace(&keyspace);
    assert!(matches!(gone.get("a").unwrap_err(), Error::NoSuchKeyspace { .. }));
    assert!(matches!(gone.iter().next(), Some(Err(Error::NoSuchKeyspace { .. }))));
    drop(before);
    assert!(matches!(gone.get("a").unwrap_err(), Error::NoSuchKeyspace { .. }));
}

#[test]
fn without_a_snapshot_a_dropped_keyspace_is_gone_for_later_ones() {
    let db = TestDb::new();
    let keyspace = db.keyspace("k").unwrap();
    keyspace.put("a", "1").unwrap();
    db.drop_keyspace("k").unwrap();
    let gone = db.snapshot().keyspace(&keyspace);
    assert!(matches!(gone.get("a").unwrap_err(), Error::NoSuchKeyspace { .. }));
    assert!(matches!(gone.contains_key("a").unwrap_err(), Error::NoSuchKeyspace { .. }));
}
