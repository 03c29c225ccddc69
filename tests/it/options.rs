//! Options: each is checked, and none changes what is stored.

use std::time::Duration;

use esker::Compression;
use esker::Durability;
use esker::ErrorKind;
use esker::Options;

use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

#[test]
fn options_that_cannot_work_are_refused_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    for bad in [
        Options::new().memtable_bytes(10),
        Options::new().block_bytes(1),
        Options::new().file_bytes(1),
        Options::new().wal_bytes(1),
        Options::new().memory_budget(1 << 20).memtable_bytes(1 << 20),
        Options::new().filter_bits_per_key(1000),
        Options::new().background_threads(100_000),
        Options::new().durability(Durability::Interval(Duration::ZERO)),
    ] {
        assert_eq!(bad.open(&path).unwrap_err().kind(), ErrorKind::Misuse);
        assert!(!path.exists());
    }
}

#[test]
fn every_setting_can_change_between_two_openings() {
    let variants = [
        tiny(),
        tiny().compression(Compression::None).filter_bits_per_key(0),
        tiny().mmap(false).block_bytes(1024),
        tiny().memtable_bytes(16 << 10).file_bytes(64 << 10).filter_bits_per_key(20),
        tiny().background_threads(2).durability(Durability::Os),
        tiny().durability(Durability::Interval(Duration::from_millis(5))).background_threads(1),
    ];
    let mut db = TestDb::new();
    for (round, options) in variants.into_iter().enumerate() {
        db.options = options.fs(std::sync::Arc::new(db.fs.clone()));
        db.reopen();
        for i in 0..300 {
            if i % (round + 2) == 0 {
                db.delete(key(i)).unwrap();
            } else {
                db.put(key(i), value(i, round)).unwrap();
            }
        }
        for i in 0..300 {
            let expected = (i % (round + 2) != 0).then(|| value(i, round));
            assert_eq!(db.get(key(i)).unwrap().map(|v| v.to_vec()), expected, "round {round}");
        }
        db.flush().unwrap();
    }
}

#[test]
fn an_interval_sync_happens_by_itself() {
    let interval = Duration::from_millis(10);
    let durability = Durability::Interval(interval);
    let db = TestDb::with(tiny().background_threads(1).durability(durability));
    db.put("k", "v").unwrap();
    let synced = || {
        let after = db.fs.crash_clone(esker::fs::CrashMode::Strict, 0);
        let after = tiny().fs(std::sync::Arc::new(after)).open(crate::support::DIR).unwrap();
        after.get("k").unwrap().is_some()
    };
    // No bound on the time is asserted: only that nobody has to call sync.
    while !synced() {
        std::thread::sleep(interval);
    }
}
