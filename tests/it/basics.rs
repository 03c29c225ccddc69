//! Single operations, limits, opening and closing.

use std::sync::Arc;

use esker::Db;
use esker::Error;
use esker::ErrorKind;
use esker::Options;
use esker::WriteBatch;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

#[test]
fn what_was_put_is_got_until_it_is_deleted() {
    let mut db = TestDb::new();
    for i in 0..500 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    for i in (0..500).step_by(3) {
        db.delete(key(i)).unwrap();
    }
    for round in 0..3 {
        for i in 0..500 {
            let expected = (i % 3 != 0).then(|| value(i, 0));
            assert_eq!(db.get(key(i)).unwrap().map(|v| v.to_vec()), expected);
            assert_eq!(db.contains_key(key(i)).unwrap(), expected.is_some());
        }
        match round {
            0 => db.settle(),
            _ => db.reopen(),
        }
    }
    assert!(db.get("absent").unwrap().is_none());
}

#[test]
fn keys_and_values_of_every_length_are_kept() {
    let mut db = TestDb::new();
    let lengths = [0, 1, 2, 15, 16, 17, 31, 38, 39, 255, 256, 4095, 4096, 65_534, 65_535];
    for len in lengths {
        db.put(vec![b'k'; len], vec![b'v'; len]).unwrap();
    }
    db.put("large", vec![1; 3 << 20]).unwrap();
    for _ in 0..2 {
        for len in lengths {
            assert_eq!(db.get(vec![b'k'; len]).unwrap().unwrap(), vec![b'v'; len]);
        }
        assert_eq!(db.get("large").unwrap().unwrap(), vec![1; 3 << 20]);
        db.flush().unwrap();
        db.settle();
        db.reopen();
    }
    assert_eq!(db.iter().count(), lengths.len() + 1);
}

#[test]
fn too_long_a_key_or_value_changes_nothing() {
    let db = TestDb::new();
    let error = db.put(vec![0; 65_536], "v").unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }));
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let huge = vec![0; (1 << 30) + 1];
    assert_eq!(db.put("k", &huge).unwrap_err().kind(), ErrorKind::Misuse);
    let mut batch = WriteBatch::new();
    batch.put(&db, "a", "1").put(&db, vec![0; 65_536], "2").put(&db, "b", "3");
    assert_eq!(db.write(batch).unwrap_err().kind(), ErrorKind::Misuse);
    assert_eq!(db.iter().count(), 0);
    assert_eq!(db.seqno().get(), 0);
}

#[test]
fn multi_get_answers_in_the_order_of_the_keys() {
    let db = TestDb::new();
    for i in 0..300 {
        db.put(key(i), value(i, 1)).unwrap();
    }
    let keys: Vec<_> = [7, 299, 3, 1000, 7, 0].iter().map(|i| key(*i)).collect();
    let values = db.multi_get(&keys).unwrap();
    for (key, found) in keys.iter().zip(&values) {
        assert_eq!(found, &db.get(key).unwrap());
    }
    assert!(values[3].is_none());
    assert!(db.multi_get::<&[u8]>([]).unwrap().is_empty());
}

#[test]
fn multi_get_finds_what_get_finds_whatever_the_tree_looks_like() {
    let db = TestDb::new();
    let mut random = 1_u64;
    let mut any = |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % end
    };
    for round in 0..4_000 {
        let n = any(1_500) as usize;
        if any(4) == 0 {
            db.delete(key(n)).unwrap();
        } else {
            let long = if any(50) == 0 { 3_000 } else { any(60) as usize };
            db.put(key(n), vec![round as u8; long]).unwrap();
        }
        if round % 900 == 0 {
            db.run_one_job().unwrap();
        }
        if round % 100 == 0 {
            let many = any(200);
            let keys: Vec<_> = (0..many).map(|_| key(any(1_600) as usize)).collect();
            let singly: Vec<_> = keys.iter().map(|key| db.get(key).unwrap()).collect();
            assert_eq!(db.multi_get(&keys).unwrap(), singly);
        }
    }
    let stats = db.stats();
    let files = stats.keyspaces.iter().flat_map(|keyspace| &keyspace.levels);
    assert!(files.map(|level| level.files.len()).sum::<usize>() > 2);
}

#[test]
fn a_second_opener_is_turned_away() {
    let fs = Arc::new(MemFs::new());
    let db = tiny().fs(fs.clone()).open(DIR).unwrap();
    let error = tiny().fs(fs.clone()).open(DIR).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }));
    assert_eq!(error.kind(), ErrorKind::Busy);
    drop(db);
    tiny().fs(fs).open(DIR).unwrap();
}

#[test]
fn a_second_opener_on_disk_is_turned_away_also_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Db::open(&path).unwrap();
    assert!(matches!(Db::open(&path).unwrap_err(), Error::Locked { .. }));
    #[cfg(unix)]
    {
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Db::open(&link).unwrap_err(), Error::Locked { .. }));
    }
    let keyspace = db.keyspace("other").unwrap();
    db.close().unwrap();
    assert!(matches!(keyspace.put("k", "v").unwrap_err(), Error::Closed));
    assert!(matches!(keyspace.get("k").unwrap_err(), Error::Closed));
    Db::open(&path).unwrap();
}

#[test]
fn handles_keep_the_database_open() {
    let fs = Arc::new(MemFs::new());
    let db = tiny().fs(fs.clone()).open(DIR).unwrap();
    db.put("k", "v").unwrap();
    let mut iter = db.iter();
    drop(db);
    assert!(matches!(tiny().fs(fs.clone()).open(DIR).unwrap_err(), Error::Locked { .. }));
    assert_eq!(iter.next().unwrap().unwrap().1, "v");
    drop(iter);
    let db = tiny().fs(fs).open(DIR).unwrap();
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}

#[test]
fn a_directory_that_is_no_database_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = Options::new().create_if_missing(false).open(&missing).unwrap_err();
    assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
    assert!(!missing.exists());

    std::fs::write(dir.path().join("thesis.txt"), "precious").unwrap();
    for create in [false, true] {
        let error = Options::new().create_if_missing(create).open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::NotADatabase { .. }), "{error}");
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }
}

#[test]
fn handles_are_send_sync_and_static() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    fn check_send<T: Send + 'static>() {}
    check::<Db>();
    check::<esker::Keyspace>();
    check::<esker::Reader>();
    check::<esker::Snapshot>();
    check::<esker::Slice>();
    check::<Error>();
    check_send::<esker::Iter>();
    check_send::<esker::Cursor>();
    check_send::<WriteBatch>();
}
