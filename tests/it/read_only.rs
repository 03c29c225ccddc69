//! A database that is opened for reading only.

use std::path::Path;
use std::sync::Arc;

use esker::Db;
use esker::Durability;
use esker::Error;
use esker::ErrorKind;
use esker::Options;
use esker::Recovery;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::Fs;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::contents;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

/// Every call that changes something.
const MUTATING: [FaultOp; 11] = [
    FaultOp::Create,
    FaultOp::OpenWritable,
    FaultOp::Write,
    FaultOp::SyncData,
    FaultOp::SyncDir,
    FaultOp::Rename,
    FaultOp::Remove,
    FaultOp::SetLen,
    FaultOp::Reserve,
    FaultOp::CreateDir,
    FaultOp::WriteBack,
];

/// A file system with a database in it whose process died: several levels, two keyspaces, and a log
/// that no file has.
fn crashed() -> MemFs {
    let db = TestDb::new();
    let other = db.keyspace("other").unwrap();
    for i in 0..400 {
        db.put(key(i), value(i, 0)).unwrap();
        other.put(key(i), "x").unwrap();
        if i % 3 == 0 {
            db.delete(key(i / 2)).unwrap();
        }
        if i % 50 == 49 && i < 300 {
            db.settle();
        }
    }
    db.fs.crash_clone(CrashMode::KeepAll, 0)
}

fn reading() -> Options {
    tiny().read_only(true)
}

fn dump(db: &Db) -> Vec<(Vec<u8>, Vec<u8>)> {
    db.iter().map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
}

#[test]
fn everything_is_read_and_nothing_on_disk_is_touched() {
    let fs = crashed();
    let before = contents(&fs);
    let expected =
        dump(&tiny().fs(Arc::new(fs.crash_clone(CrashMode::KeepAll, 0))).open(DIR).unwrap());
    let faults = FaultFs::new(Arc::new(fs.clone()));
    for op in MUTATING {
        faults.inject(FaultRule::new(op, FaultError::EIO).forever());
    }
    let events = fs.events();
    // Also with threads, which must not run.
    for options in [reading(), reading().background_threads(2)] {
        let db = options.fs(Arc::new(faults.clone())).open(DIR).unwrap();
        assert_eq!(dump(&db), expected);
        let (first, _) = &expected[0];
        assert_eq!(db.get(first).unwrap().unwrap(), expected[0].1[..]);
        assert_eq!(db.snapshot().get(first).unwrap().unwrap(), expected[0].1[..]);
        assert_eq!(db.keyspace("other").unwrap().iter().count(), 400);
        assert_eq!(db.keyspaces(), ["default", "other"]);
        assert_eq!(db.iter().rev().count(), expected.len());
        db.verify(&mut |_, _| {}).unwrap();
        assert_eq!(db.stats().read_only.unwrap(), "the database was opened read-only");
        db.close().unwrap();
    }
    for op in MUTATING {
        assert_eq!(faults.calls(op), 0, "{op:?}");
    }
    assert_eq!(fs.events(), events);
    assert!(contents(&fs) == before);
}

#[test]
fn everything_that_writes_is_refused_and_says_why() {
    let fs = crashed();
    let db = reading().fs(Arc::new(fs)).open(DIR).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(&db, "k", "v").durability(Durability::Sync);
    let refused = [
        db.put("k", "v"),
        db.delete("k"),
        db.write(batch),
        db.write(WriteBatch::new()),
        db.flush(),
        db.sync(),
        db.compact_range::<&[u8], _>(..),
        db.run_one_job().map(drop),
        db.keyspace("new").map(drop),
        db.drop_keyspace("other"),
    ];
    for (n, result) in refused.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::ReadOnly { cause: None }), "{n}: {error}");
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
        assert_eq!(error.to_string(), "the database was opened read-only");
    }
}

#[test]
fn readers_share_a_database_and_keep_writers_out() {
    let fs = crashed();
    let first = reading().fs(Arc::new(fs.clone())).open(DIR).unwrap();
    let second = reading().fs(Arc::new(fs.clone())).open(DIR).unwrap();
    let write = || tiny().fs(Arc::new(fs.clone())).open(DIR);
    assert_eq!(write().unwrap_err().kind(), ErrorKind::Busy);
    drop(first);
    assert_eq!(write().unwrap_err().kind(), ErrorKind::Busy);
    second.close().unwrap();
    let writer = write().unwrap();
    let reader = reading().fs(Arc::new(fs.clone())).open(DIR);
    assert_eq!(reader.unwrap_err().kind(), ErrorKind::Busy);
    drop(writer);
    // A copy without the lock file.
    fs.remove(&Path::new(DIR).join("LOCK")).unwrap();
    let events = fs.events();
    reading().fs(Arc::new(fs.clone())).open(DIR).unwrap();
    assert_eq!(fs.events(), events);
}

#[test]
fn what_is_no_database_is_not_made_one() {
    let fs = MemFs::new();
    fs.create_dir_all(Path::new("/empty")).unwrap();
    fs.create_dir_all(Path::new("/strange")).unwrap();
    fs.create(Path::new("/strange/notes")).unwrap();
    let events = fs.events();
    for dir in ["/missing", "/empty", "/strange", "/strange/missing"] {
        let opened = reading().create_if_missing(true).fs(Arc::new(fs.clone())).open(dir);
        assert!(matches!(opened, Err(Error::NotADatabase { .. })), "{dir}: {opened:?}");
    }
    assert_eq!(fs.events(), events);
    // One that has lost its pointer is not nothing.
    let fs = crashed();
    fs.remove(&Path::new(DIR).join("CURRENT")).unwrap();
    let error = reading().fs(Arc::new(fs)).open(DIR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
}

#[test]
fn a_log_larger_than_the_memtables_may_be_is_read_whole() {
    let db = TestDb::with(tiny().memtable_bytes(128 << 10).wal_bytes(4 << 20));
    for i in 0..3000 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    let fs = db.fs.crash_clone(CrashMode::Strict, 0);
    let events = fs.events();
    let small = reading().memory_budget(64 << 10).fs(Arc::new(fs.clone()));
    let db = small.open(DIR).unwrap();
    assert_eq!(db.iter().count(), 3000);
    for i in (0..3000).step_by(7) {
        assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i, 0)[..]);
    }
    assert_eq!(fs.events(), events);
}

#[test]
fn what_is_in_front_of_damage_in_the_log_can_be_read_without_changing_it() {
    let db = TestDb::new();
    for i in 0..100 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    let fs = db.fs.crash_clone(CrashMode::KeepAll, 0);
    let wal = fs.list(Path::new(DIR)).unwrap();
    let wal = wal.into_iter().find(|entry| entry.name.ends_with(".wal")).unwrap();
    let path = Path::new(DIR).join(&wal.name);
    fs.open_writable(&path).unwrap().write_at(2000, b"damage").unwrap();
    let (before, events) = (contents(&fs), fs.events());
    let error = reading().fs(Arc::new(fs.clone())).open(DIR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    let lenient = reading().recovery(Recovery::ToLastConsistentPoint);
    let db = lenient.fs(Arc::new(fs.clone())).open(DIR).unwrap();
    let count = db.iter().count();
    assert!((1..100).contains(&count), "{count}");
    let given_up = db.stats().given_up.unwrap();
    assert_eq!((&given_up.file, &given_up.kept[0]), (&path, &path));
    assert_eq!(given_up.first_seqno.get(), count as u64 + 1);
    drop(db);
    assert_eq!(fs.events(), events);
    assert!(contents(&fs) == before);
}
