//! Mistakes around values that lie apart: collection, snapshots, writes and crashes in between.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use esker::Db;
use esker::Durability;
use esker::Keyspace;
use esker::KeyspaceOptions;
use esker::fs::CrashMode;
use esker::fs::Fs as _;
use esker::fs::MemFs;

use crate::DIR;
use crate::options;

fn apart(db: &Db) -> Keyspace {
    db.keyspace_with("apart", KeyspaceOptions::new().separate_values(100)).unwrap()
}

fn value(key: u8, round: u16) -> Vec<u8> {
    let noise = |n: u32| (n * n * 7 + n / 3 + u32::from(key) * 31 + u32::from(round)) as u8;
    (0..150 + u32::from(key)).map(noise).collect()
}

fn blob_files(fs: &MemFs) -> Vec<String> {
    let entries = fs.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name);
    entries.filter(|name| name.contains(".blob")).collect()
}

/// H51: while values are moved out of blob files, and those files go, every crash leaves all of them
/// readable; and what was written over a value that is moved stays the newer one.
#[test]
fn values_that_are_moved_survive_a_crash_at_any_moment() {
    let fs = MemFs::new();
    let db = options(&fs).open(DIR).unwrap();
    let keyspace = apart(&db);
    let mut model = BTreeMap::new();
    let mut put = |key: u8, round: u16| {
        let mut batch = esker::WriteBatch::new();
        batch.durability(Durability::Os).put(&keyspace, [key], value(key, round));
        db.write(batch).unwrap();
        model.insert(key, value(key, round));
    };
    (0..60).for_each(|key| put(key, 0));
    // Of each round's values a few stay live, so that they have to be moved.
    for round in 1..8 {
        (0..60).filter(|key| u16::from(*key) % 8 >= round).for_each(|key| put(key, round));
        db.flush().unwrap();
    }
    db.sync().unwrap();
    let crashes: Arc<Mutex<Vec<(u64, MemFs)>>> = Arc::default();
    let seen = crashes.clone();
    fs.on_event(Some(Arc::new(move |at, fs| {
        for (n, mode) in CrashMode::ALL.into_iter().enumerate() {
            seen.lock().push((at, fs.crash_clone(mode, at * 10 + n as u64)));
        }
    })));
    let before = blob_files(&fs);
    while db.run_one_job().unwrap() {}
    fs.on_event(None);
    let after = blob_files(&fs);
    assert!(before.iter().any(|name| !after.contains(name)), "{before:?}, then {after:?}");
    assert!(after.iter().any(|name| !before.contains(name)), "{before:?}, then {after:?}");
    let crashes = std::mem::take(&mut *crashes.lock());
    assert!(crashes.len() > 100, "{}", crashes.len());
    for (at, crashed) in crashes {
        let db = options(&crashed).open(DIR).unwrap_or_else(|error| panic!("event {at}: {error}"));
        let keyspace = apart(&db);
        let found = keyspace.iter().map(|entry| entry.unwrap());
        let found: BTreeMap<u8, Vec<u8>> = found.map(|(key, v)| (key[0], v.to_vec())).collect();
        assert!(found == model, "event {at}");
        while db.run_one_job().unwrap() {}
        db.verify(&mut |_, _| {}).unwrap();
        let stats = db.stats();
        let stats = stats.keyspaces.iter().find(|keyspace| keyspace.name == "apart").unwrap();
        assert_eq!(blob_files(&crashed).len(), stats.blobs.files, "event {at}: debris");
    }
}

/// H51, H52: threads write and snapshots read while values are moved all the time.
#[test]
fn values_that_are_moved_beside_writers_and_readers_stay_what_they_are() {
    let fs = MemFs::new();
    let db = options(&fs).background_threads(3).durability(Durability::Os).open(DIR).unwrap();
    let keyspace = apart(&db);
    for key in 0..40 {
        keyspace.put([key], value(key, 0)).unwrap();
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..120_u16 {
                for key in 0..40 {
                    keyspace.put([key], value(key, round)).unwrap();
                }
            }
            is_over.store(true, Relaxed);
        });
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let snapshot = db.snapshot();
                let reader = snapshot.keyspace(&keyspace);
                let first: Vec<_> = reader.iter().map(|entry| entry.unwrap()).collect();
                for (key, value) in first {
                    assert!((0..120).any(|round| value == self::value(key[0], round)));
                    assert_eq!(reader.get(&key).unwrap().unwrap(), value);
                }
            }
        });
    });
    for key in 0..40 {
        assert_eq!(keyspace.get([key]).unwrap().unwrap(), value(key, 119));
    }
    db.verify(&mut |_, _| {}).unwrap();
}
