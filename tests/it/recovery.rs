//! Opening after a crash of the process or of the machine.

use std::path::Path;
use std::sync::Arc;

use esker::Db;
use esker::Durability;
use esker::Error;
use esker::ErrorKind;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::Fs;
use esker::fs::MemFs;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::contents;
use crate::support::key;
use crate::support::tiny;
use crate::support::value;

fn open(fs: &MemFs) -> Db {
    tiny().fs(Arc::new(fs.clone())).open(DIR).unwrap()
}

#[test]
fn synced_writes_survive_every_kind_of_power_cut() {
    let db = TestDb::new();
    for i in 0..300 {
        db.put(key(i), value(i, 0)).unwrap();
        if i % 50 == 49 {
            db.settle();
        }
        for mode in CrashMode::ALL {
            if i % 10 == 0 {
                let after = open(&db.fs.crash_clone(mode, i as u64));
                assert_eq!(after.iter().count(), i + 1, "{mode:?} after {i}");
                after.verify(&mut |_, _| {}).unwrap();
            }
        }
    }
}

#[test]
fn unsynced_writes_survive_as_a_prefix_of_whole_batches() {
    let db = TestDb::with(tiny().durability(Durability::Os));
    for i in 0..200 {
        let other = db.keyspace("other").unwrap();
        let mut batch = WriteBatch::new();
        batch.put(&db, key(i), "x").put(&other, key(i), "x");
        db.write(batch).unwrap();
        if i % 70 == 69 {
            db.settle();
        }
        for mode in CrashMode::ALL {
            let after = open(&db.fs.crash_clone(mode, i as u64 * 31));
            let count = after.iter().count();
            assert!(count <= i + 1);
            assert_eq!(
                after.iter().last().map(|e| e.unwrap().0.to_vec()),
                (count > 0).then(|| key(count - 1))
            );
            let other = after.keyspace("other").unwrap();
            assert_eq!(other.iter().count(), count, "{mode:?} after {i}");
            if mode == CrashMode::KeepAll {
                assert_eq!(count, i + 1);
            }
        }
    }
}

#[test]
fn sync_makes_earlier_writes_durable() {
    let db = TestDb::with(tiny().durability(Durability::Os));
    for i in 0..50 {
        db.put(key(i), "x").unwrap();
    }
    db.sync().unwrap();
    for i in 50..100 {
        db.put(key(i), "x").unwrap();
    }
    let after = open(&db.fs.crash_clone(CrashMode::Strict, 1));
    let count = after.iter().count();
    assert!((50..=100).contains(&count), "{count}");
}

#[test]
fn a_crash_at_any_moment_of_the_first_open_leaves_what_opens() {
    let fs = MemFs::new();
    let clones = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = clones.clone();
    fs.on_event(Some(Arc::new(move |event, fs: &MemFs| {
        for mode in CrashMode::ALL {
            seen.lock().push((event, mode, fs.crash_clone(mode, event)));
        }
    })));
    let db = open(&fs);
    fs.on_event(None);
    drop(db);
    let clones = std::mem::take(&mut *clones.lock());
    assert!(clones.len() > 40, "{}", clones.len());
    for (event, mode, fs) in clones {
        let db = tiny().fs(Arc::new(fs)).open(DIR);
        let db = db.unwrap_or_else(|error| panic!("event {event}, {mode:?}: {error}"));
        db.put("k", "v").unwrap();
        assert_eq!(db.get("k").unwrap().unwrap(), "v");
    }
}

#[test]
fn sequence_numbers_never_go_back() {
    let mut db = TestDb::new();
    let mut last = db.seqno();
    for round in 0..10 {
        for i in 0..20 {
            db.put(key(i), "x").unwrap();
        }
        assert!(db.seqno() > last);
        last = db.seqno();
        if round % 2 == 0 {
            db.compact_range::<&[u8], _>(..).unwrap();
        }
        db.reopen();
        assert!(db.seqno() >= last);
    }
}

#[test]
fn damage_in_the_log_is_named_and_nothing_is_changed() {
    let mut db = TestDb::new();
    for i in 0..100 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    let fs = db.fs.crash_clone(CrashMode::KeepAll, 0);
    let dir = Path::new(DIR);
    let wal = fs.list(dir).unwrap().into_iter().find(|entry| entry.name.ends_with(".wal")).unwrap();
    let path = dir.join(&wal.name);
    fs.open_writable(&path).unwrap().write_at(200, b"damage").unwrap();
    let before = contents(&fs);
    let error = tiny().fs(Arc::new(fs.clone())).open(DIR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.to_string().contains(&wal.name), "{error}");
    assert!(contents(&fs) == before);

    let lenient = tiny().recovery(esker::Recovery::ToLastConsistentPoint);
    let after = lenient.fs(Arc::new(fs)).open(DIR).unwrap();
    assert!(after.stats().given_up.is_some());
    assert!(after.iter().count() < 100);
    db.reopen();
    assert_eq!(db.iter().count(), 100);
}

#[test]
fn what_is_given_up_is_told_exactly_and_kept_aside() {
    let db = TestDb::with(tiny().memtable_bytes(64 << 10).memory_budget(4 << 20));
    for i in 0..600 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    let dir = Path::new(DIR);
    let pristine = db.fs.crash_clone(CrashMode::KeepAll, 0);
    let wals: Vec<_> =
        contents(&pristine).into_iter().filter(|(name, _)| name.ends_with(".wal")).collect();
    assert!(wals.len() >= 3, "{}", wals.len());
    for (damaged, _) in &wals {
        let fs = pristine.crash_clone(CrashMode::KeepAll, 0);
        let path = dir.join(damaged);
        fs.open_writable(&path).unwrap().write_at(300, b"damage").unwrap();
        if tiny().read_only(true).fs(Arc::new(fs.clone())).open(DIR).is_ok() {
            // A segment with less than that in it.
            continue;
        }
        let before = contents(&fs);
        let lenient = tiny().recovery(esker::Recovery::ToLastConsistentPoint);
        let db = lenient.fs(Arc::new(fs.clone())).open(DIR).unwrap();
        let kept = db.iter().count();
        let given_up = db.stats().given_up.unwrap();
        let text = given_up.to_string();
        assert_eq!(given_up.file, path);
        assert!((64..=300).contains(&given_up.offset), "{text}");
        assert_eq!(given_up.first_seqno.get(), kept as u64 + 1, "{text}");
        assert_eq!(given_up.last_seqno.unwrap().get(), 600, "{text}");
        // All behind the damage but the one or two that it hit.
        let rest = 600 - kept as u64;
        assert!((rest - 2..rest).contains(&given_up.batches), "{text}");
        for i in 0..kept {
            assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i, 0)[..]);
        }
        // What was given up is still there, byte for byte.
        let after = contents(&fs);
        for (name, bytes) in before.iter().filter(|(name, _)| name >= damaged) {
            if !name.ends_with(".wal") || bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let aside = (format!("{name}.given-up"), bytes.clone());
            assert!(after.contains(&aside), "{name} is not kept");
            assert!(given_up.kept.contains(&dir.join(&aside.0)), "{text}");
        }
        // The database goes on without it, strictly.
        db.put("more", "x").unwrap();
        db.flush().unwrap();
        drop(db);
        let db = tiny().fs(Arc::new(fs.clone())).open(DIR).unwrap();
        assert_eq!((db.iter().count(), db.stats().given_up), (kept + 1, None));
        db.verify(&mut |_, _| {}).unwrap();
        let still = contents(&fs);
        assert!(
            given_up.kept.iter().all(|path| still.iter().any(|(name, _)| path.ends_with(name)))
        );
    }
}

#[test]
fn a_missing_file_is_an_error_and_never_a_fresh_database() {
    let db = TestDb::new();
    for i in 0..300 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    db.flush().unwrap();
    db.settle();
    db.put("in the log", "x").unwrap();
    let dir = Path::new(DIR);
    for name in db.files().into_iter().filter(|name| name != "LOCK") {
        let fs = db.fs.crash_clone(CrashMode::KeepAll, 0);
        fs.remove(&dir.join(&name)).unwrap();
        match tiny().fs(Arc::new(fs)).open(DIR) {
            // A prepared segment that was never used is no loss.
            Ok(db) => assert_eq!(db.iter().count(), 301, "{name}"),
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, ErrorKind::Corruption | ErrorKind::Io), "{name}: {error}");
            }
        }
    }
}

#[test]
fn unknown_files_are_left_alone() {
    let mut db = TestDb::new();
    db.put("k", "v").unwrap();
    let path = Path::new(DIR).join("notes.txt");
    db.fs.create(&path).unwrap().write_at(0, b"mine").unwrap();
    db.reopen();
    assert!(db.fs.exists(&path).unwrap());
    assert!(db.files().contains(&"notes.txt".to_owned()));
}

#[test]
fn a_log_larger_than_the_memtables_may_be_is_replayed_in_parts() {
    let db = TestDb::with(tiny().memtable_bytes(128 << 10).wal_bytes(4 << 20));
    for i in 0..3000 {
        db.put(key(i), value(i, 0)).unwrap();
    }
    let fs = db.fs.crash_clone(CrashMode::Strict, 0);
    let small = tiny().memory_budget(64 << 10).fs(Arc::new(fs));
    for _ in 0..2 {
        let after = small.clone().open(DIR).unwrap();
        assert_eq!(after.iter().count(), 3000);
        assert!(after.stats().memory.memtables < 64 << 10);
        after.close().unwrap();
    }
}

#[test]
fn errors_say_what_to_do() {
    let fs = MemFs::new();
    drop(open(&fs));
    fs.remove(&Path::new(DIR).join("CURRENT")).unwrap();
    let error = tiny().fs(Arc::new(fs)).open(DIR).unwrap_err();
    assert!(matches!(error, Error::Corruption { .. }));
    assert!(error.to_string().contains("CURRENT"), "{error}");
}
