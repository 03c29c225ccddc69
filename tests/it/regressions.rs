//! One test per bug that was found: the name states what holds now.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::ErrorKind;
use esker::fs::CrashMode;
use esker::fs::Fs as _;
use esker::fs::ReadMode;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;

/// Tombstones past their age that a snapshot kept alive on the deepest level were rewritten there
/// again and again, for as long as the snapshot lived: a whole core and disk for nothing. Such a
/// file is now left alone until rewriting it drops every tombstone in it.
#[test]
fn tombstones_that_a_snapshot_needs_are_not_rewritten_for_ever() {
    let db = TestDb::with(tiny().tombstone_age(Duration::from_millis(1)));
    for i in 0..20 {
        db.put(key(i), "value").unwrap();
    }
    db.flush().unwrap();
    let snapshot = db.snapshot();
    for i in 0..20 {
        db.delete(key(i)).unwrap();
    }
    db.flush().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let settle = || {
        let mut jobs = 0;
        while db.run_one_job().unwrap() {
            jobs += 1;
            assert!(jobs < 100, "the jobs never end");
        }
    };
    settle();
    assert_eq!(snapshot.iter().count(), 20);
    let tombstones = || -> u64 {
        let levels = &db.stats().keyspaces[0].levels;
        levels.iter().map(|level| level.tombstones).sum()
    };
    assert_eq!(tombstones(), 20);
    drop(snapshot);
    settle();
    assert_eq!(tombstones(), 0);
}

/// A database whose values end in small integers could not be opened again, even after it had been
/// closed in good order: recovery looks for signs of lost records in a recycled segment, too, took
/// a value's end and the next record's checksum for the head of a record, met many of those, and
/// gave up with `Corruption`. What cannot be a sequence number of the log is now passed over.
#[test]
fn values_that_look_like_records_do_not_keep_a_recycled_log_from_opening() {
    for len in 16..24 {
        let mut db = TestDb::with(tiny());
        let value = [&vec![b'x'; len][..], &4000_u32.to_le_bytes()].concat();
        // More than one segment in each round, then a flush that lets the full ones go.
        for round in 0..4 {
            for i in 0..150 * (round + 1) {
                db.put(key(i % 7), &value).unwrap();
            }
            db.flush().unwrap();
            db.reopen();
        }
        assert_eq!(db.dump().len(), 7);
    }
}

/// A log that writes to a keyspace which the manifest does not know (the manifest was cut, or is an
/// older copy) was reported as a bug of esker; and with a log larger than the memtables may be, only
/// after files had been changed. It is corruption of the manifest, and found before that.
#[test]
fn a_log_that_is_newer_than_the_manifest_is_corruption_and_changes_nothing() {
    let db = TestDb::with(tiny().memtable_bytes(32 << 10));
    for i in 0..300 {
        db.put(key(i), "value").unwrap();
    }
    db.keyspace("new").unwrap().put("k", "v").unwrap();
    let dir = Path::new(DIR);
    let manifest = db.files().into_iter().find(|name| name.starts_with("MANIFEST")).unwrap();
    for budget in [128 << 10, 1 << 20] {
        let fs = db.fs.crash_clone(CrashMode::KeepAll, 0);
        let path = dir.join(&manifest);
        let len = fs.open(&path, ReadMode::Pread).unwrap().len();
        fs.open_writable(&path).unwrap().set_len(len - 8).unwrap();
        let before = fs.list(dir).unwrap();
        let options = tiny().memtable_bytes(32 << 10).memory_budget(budget);
        let error = options.fs(Arc::new(fs.clone())).open(DIR).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.to_string().contains(&manifest), "{error}");
        assert_eq!(fs.list(dir).unwrap(), before);
    }
}

/// What a program prints when it prints its state: not the files, nor the memtables.
#[test]
fn a_handle_prints_as_one_line() {
    let fs = esker::fs::MemFs::new();
    let db = esker::Options::new().background_threads(0).fs(std::sync::Arc::new(fs));
    let db = db.open("/db").unwrap();
    db.put("secret", "value").unwrap();
    assert_eq!(format!("{db:?}"), "Db { directory: \"/db\", .. }");
}
