//! The log's files: how many there are, and how long.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use esker::Db;
use esker::Durability;
use esker::Options;
use esker::fs::CrashMode;
use esker::fs::Fs;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;

const WAL_BYTES: u64 = 8 << 20;

/// So long is the first segment, and each further one that is not made for a large batch.
fn segment_bytes(durability: Durability) -> u64 {
    WAL_BYTES / if durability == Durability::Sync { 8 } else { 64 }
}

fn options(durability: Durability) -> Options {
    tiny()
        .memtable_bytes(1 << 20)
        .memory_budget(8 << 20)
        .wal_bytes(WAL_BYTES)
        .durability(durability)
}

/// The lengths of all segments, used or not.
fn segments(fs: &MemFs) -> Vec<u64> {
    let entries = fs.list(Path::new(DIR)).unwrap();
    entries.into_iter().filter(|e| e.name.ends_with(".wal")).map(|e| e.len).collect()
}

fn entries(db: &Db) -> Vec<(Vec<u8>, Vec<u8>)> {
    db.iter().map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
}

fn fill(db: &Db) {
    for i in 0..1500 {
        db.put(key(i), vec![i as u8; 1000]).unwrap();
    }
}

#[test]
fn a_log_that_is_not_needed_is_given_back() {
    for durability in [Durability::Sync, Durability::Os] {
        let mut db = TestDb::with(options(durability));
        fill(&db);
        db.put(key(0), vec![7; 3 << 20]).unwrap();
        assert!(segments(&db.fs).iter().sum::<u64>() > 3 << 20);
        db.flush().unwrap();
        db.settle();
        assert_eq!(segments(&db.fs), [segment_bytes(durability)]);
        let before = entries(&db);

        // What is written next is found, and what is at rest stays as it is.
        db.put("next", "1").unwrap();
        let names = db.fs.list(Path::new(DIR)).unwrap();
        db.settle();
        assert_eq!(db.fs.list(Path::new(DIR)).unwrap(), names);
        db.reopen();
        db.delete("next").unwrap();
        assert_eq!(entries(&db), before);
    }
}

#[test]
fn a_crash_while_the_log_is_given_back_loses_nothing() {
    for durability in [Durability::Sync, Durability::Os] {
        let db = TestDb::with(options(durability));
        fill(&db);
        // In a segment of its own, which is too long to stay.
        db.put(key(0), vec![7; 3 << 20]).unwrap();
        db.flush().unwrap();
        let expected = entries(&db);
        let states = Arc::new(Mutex::new(Vec::new()));
        let seen = states.clone();
        db.fs.on_event(Some(Arc::new(move |event, fs| {
            for mode in CrashMode::ALL {
                seen.lock().unwrap().push((event, mode, fs.crash_clone(mode, event)));
            }
        })));
        db.settle();
        db.fs.on_event(None);
        assert_eq!(segments(&db.fs).len(), 1);
        let states = std::mem::take(&mut *states.lock().unwrap());
        assert!(states.len() > 4 * 5, "{} states", states.len());
        for (event, mode, fs) in states {
            let what = format!("{mode:?} before event {event}");
            let open = || options(durability).fs(Arc::new(fs.clone())).open(DIR);
            let after = open().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(entries(&after) == expected, "{what}");
            after.put("after", "the crash").unwrap();
            after.close().unwrap();
            let again = open().unwrap_or_else(|error| panic!("{what}, again: {error}"));
            assert!(again.get("after").unwrap().is_some(), "{what}");
            again.delete("after").unwrap();
            assert!(entries(&again) == expected, "{what}, again");
        }
    }
}

#[test]
fn a_database_at_rest_keeps_a_small_log() {
    let fs = MemFs::new();
    let least = segment_bytes(Durability::Os);
    let options = options(Durability::Os).background_threads(2);
    let db = options.fs(Arc::new(fs.clone())).open(DIR).unwrap();
    for round in 0..3 {
        fill(&db);
        db.flush().unwrap();
        for wait in 0.. {
            if segments(&fs) == [least] {
                break;
            }
            assert!(wait < 4000, "round {round}: {:?}", segments(&fs));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(db.stats().wal.bytes, least);
    }
    let before = entries(&db);
    drop(db);
    let db = tiny().fs(Arc::new(fs)).open(DIR).unwrap();
    assert!(entries(&db) == before);
}
