//! Mistakes around the log, the manifest, and what is acknowledged.

use std::path::Path;
use std::sync::Arc;

use esker::Db;
use esker::Durability;
use esker::ErrorKind;
use esker::Recovery;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::FaultEffect;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::Fs as _;
use esker::fs::MemFs;
use esker::fs::ReadMode;

use crate::DIR;
use crate::open;
use crate::options;

fn read(fs: &MemFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path, ReadMode::Pread).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

/// The only file of this kind.
fn file_of(fs: &MemFs, part: &str) -> std::path::PathBuf {
    let files = fs.list(Path::new(DIR)).unwrap();
    let mut files = files.into_iter().filter(|file| file.name.contains(part));
    let name = files.next().unwrap().name;
    assert!(files.next().is_none(), "more than one file has {part} in its name");
    Path::new(DIR).join(name)
}

fn faulty(fs: &MemFs, durability: Durability) -> (FaultFs, Db) {
    let faults = FaultFs::new(Arc::new(fs.clone()));
    let options = options(fs).durability(durability).fs(Arc::new(faults.clone()));
    (faults, options.open(DIR).unwrap())
}

/// H9, H13: after a failed sync nothing is synced again, nothing more is acknowledged, and reads go
/// on; reopening finds a state that was allowed.
#[test]
fn nothing_is_acknowledged_after_a_failed_sync() {
    let fs = MemFs::new();
    let (faults, db) = faulty(&fs, Durability::Sync);
    db.put("before", "x").unwrap();
    let rule = FaultRule::new(FaultOp::SyncData, FaultError::EIO).path_contains(".wal");
    faults.inject(rule.effect(FaultEffect::SyncFailsAndDropsPages));
    assert_eq!(db.put("during", "x").unwrap_err().kind(), ErrorKind::Io);
    let syncs = faults.calls(FaultOp::SyncData);
    for _ in 0..3 {
        assert_eq!(db.put("after", "x").unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(db.sync().unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(db.flush().unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    let error = db.put("after", "x").unwrap_err().to_string();
    assert!(error.contains("reopen") && error.contains(".wal"), "{error}");
    assert_eq!(db.get("before").unwrap().unwrap(), "x");
    assert!(db.get("during").unwrap().is_none() && db.get("after").unwrap().is_none());
    drop(db);
    assert_eq!(faults.calls(FaultOp::SyncData), syncs, "synced again");
    for mode in CrashMode::ALL {
        let db = open(&fs.crash_clone(mode, 3));
        assert_eq!(db.get("before").unwrap().unwrap(), "x");
        assert!(db.get("after").unwrap().is_none());
    }
}

/// H10: the sync of an edit fails, and the edit is on disk after all. What it names must still be
/// there, what it removes too, and no number may be used twice.
#[test]
fn an_edit_whose_fate_is_unknown_may_have_happened_or_not() {
    for effect in [FaultEffect::Fail, FaultEffect::FailAfterDoing] {
        let fs = MemFs::new();
        let (faults, db) = faulty(&fs, Durability::Os);
        for i in 0..120_u8 {
            db.put([i], [i; 100]).unwrap();
        }
        let rule = FaultRule::new(FaultOp::SyncData, FaultError::EIO).path_contains("MANIFEST");
        faults.inject(rule.effect(effect));
        db.flush().unwrap_err();
        let files = |fs: &MemFs| -> Vec<_> {
            let files = fs.list(Path::new(DIR)).unwrap();
            files.into_iter().map(|file| file.name).filter(|name| name.contains(".sst")).collect()
        };
        let before = files(&fs);
        for _ in 0..3 {
            assert_eq!(db.flush().unwrap_err().kind(), ErrorKind::ReadOnly);
            let _ = db.run_one_job();
        }
        assert_eq!(files(&fs), before, "{effect:?}");
        assert_eq!(db.iter().count(), 120);
        for mode in [CrashMode::KeepAll, CrashMode::Subset] {
            for seed in 0..8 {
                let after = open(&fs.crash_clone(mode, seed));
                let count = after.iter().count();
                assert!(mode != CrashMode::KeepAll || count == 120, "{effect:?}: {count}");
                after.verify(&mut |_, _| {}).unwrap();
            }
        }
    }
}

/// H12: a disk that fills up in the middle of an edit leaves half of it. Nothing may be appended
/// behind that, or the next open would find garbage in the middle.
#[test]
fn a_torn_edit_is_never_appended_to() {
    let fs = MemFs::new();
    let (faults, db) = faulty(&fs, Durability::Os);
    db.put("k", "v").unwrap();
    let rule = FaultRule::new(FaultOp::Write, FaultError::ENOSPC).path_contains("MANIFEST");
    faults.inject(rule.effect(FaultEffect::ShortWriteThenFail));
    db.flush().unwrap_err();
    let torn = read(&fs, &file_of(&fs, "MANIFEST"));
    assert_eq!(db.keyspace("new").unwrap_err().kind(), ErrorKind::ReadOnly);
    let _ = db.run_one_job();
    drop(db);
    assert_eq!(read(&fs, &file_of(&fs, "MANIFEST")), torn);
    let db = open(&fs);
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
    db.keyspace("new").unwrap();
}

/// H14, H16: a torn tail is dropped without an error, and writing goes on in another place.
#[test]
fn a_torn_tail_is_dropped_and_never_appended_to() {
    for seed in 0..60 {
        let fs = MemFs::new();
        let db = options(&fs).durability(Durability::Os).open(DIR).unwrap();
        for i in 0..30_u8 {
            db.put([i], vec![i; 150]).unwrap();
        }
        let mut fs = fs.crash_clone(CrashMode::Prefix, seed);
        let mut expected = None;
        for round in 0..3_u8 {
            let db = open(&fs);
            let count = db.iter().count();
            assert_eq!(count, expected.unwrap_or(count), "seed {seed}, round {round}");
            let mut batch = WriteBatch::new();
            batch.put(&db, [100 + round], "x").durability(Durability::Sync);
            db.write(batch).unwrap();
            expected = Some(count + 1);
            fs = fs.crash_clone(CrashMode::Strict, seed);
        }
    }
}

/// H15: damage with acknowledged records behind it is an error that names the place, by default;
/// with the other recovery it costs everything behind, and no more, and says so.
#[test]
fn damage_in_the_middle_of_the_log_is_no_torn_tail() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Sync).open(DIR).unwrap();
    for i in 0..50_u8 {
        db.put([i], vec![i; 100]).unwrap();
    }
    let fs = fs.crash_clone(CrashMode::KeepAll, 0);
    let log = file_of(&fs, ".wal");
    let at = read(&fs, &log).windows(100).position(|bytes| bytes == [20; 100]).unwrap();
    fs.open_writable(&log).unwrap().write_at(at as u64, &[0; 3]).unwrap();
    let error = options(&fs).open(DIR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.to_string().contains(log.to_str().unwrap()), "{error}");
    let lenient = options(&fs).recovery(Recovery::ToLastConsistentPoint);
    let db = lenient.open(DIR).unwrap();
    assert_eq!(db.iter().count(), 20);
}

/// H18, H24: records of every length around the borders of sectors and pages, in segments that are
/// used again and again.
#[test]
fn records_of_every_length_survive_recycled_segments() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Os).open(DIR).unwrap();
    let lengths: Vec<usize> = (0..600).chain(4000..4200).chain(8100..8200).collect();
    for round in 0..2_u8 {
        for len in &lengths {
            db.put(len.to_be_bytes(), vec![round; *len]).unwrap();
        }
    }
    let after = open(&fs.crash_clone(CrashMode::KeepAll, 0));
    for len in &lengths {
        assert_eq!(after.get(len.to_be_bytes()).unwrap().unwrap(), vec![1; *len], "{len}");
    }
}

/// H20: a keyspace that is written once keeps its part of the log, however often others flush.
#[test]
fn the_log_stays_until_every_keyspace_has_flushed() {
    let fs = MemFs::new();
    let db = options(&fs).wal_bytes(64 << 20).durability(Durability::Os).open(DIR).unwrap();
    let idle = db.keyspace("idle").unwrap();
    idle.put("k", "v").unwrap();
    for round in 0..10_u8 {
        for i in 0..100_u8 {
            db.put([i], vec![round; 100]).unwrap();
        }
        while db.run_one_job().unwrap() {}
        db.sync().unwrap();
        let after = open(&fs.crash_clone(CrashMode::Strict, u64::from(round)));
        assert_eq!(after.keyspace("idle").unwrap().get("k").unwrap().unwrap(), "v");
        assert_eq!(after.get([7]).unwrap().unwrap(), [round; 100]);
    }
}

/// H21, H22: keyspaces are dropped and created by the manifest, their entries are in the log. After
/// a crash neither comes back without the other, and creating one leaves the log alone.
#[test]
fn dropping_and_creating_keyspaces_across_crashes_loses_and_revives_nothing() {
    let mut fs = MemFs::new();
    for round in 0..12_u8 {
        let db = options(&fs).durability(Durability::Os).open(DIR).unwrap();
        assert_eq!(db.iter().count(), usize::from(round));
        db.put([round], "kept").unwrap();
        let side = db.keyspace("side").unwrap();
        assert_eq!(side.iter().count(), usize::from(round % 3), "round {round}");
        side.put([round], "x").unwrap();
        if round % 3 == 2 {
            db.drop_keyspace("side").unwrap();
        }
        fs = fs.crash_clone(CrashMode::KeepAll, 0);
    }
}

/// H23: lengths do not wrap where fewer bytes would hold them.
#[test]
fn lengths_at_the_limits_of_their_fields_survive_log_and_files() {
    let fs = MemFs::new();
    let options = || options(&fs).memory_budget(64 << 20).memtable_bytes(4 << 20);
    let values = [0, 127, 128, 255, 256, 16_383, 16_384, 65_535, 65_536, 65_537, 1 << 20, 3 << 20];
    let keys = [0, 1, 127, 128, 255, 256, 16_383, 16_384, 65_534, 65_535];
    let db = options().durability(Durability::Os).open(DIR).unwrap();
    let side = db.keyspace("side").unwrap();
    for len in values {
        db.put(format!("{len}"), vec![len as u8; len]).unwrap();
    }
    for len in keys {
        side.put(vec![b'k'; len], format!("{len}")).unwrap();
    }
    let check = |db: &Db| {
        for len in values {
            let found = db.get(format!("{len}")).unwrap().unwrap();
            assert!(found == vec![len as u8; len], "value of {len}");
        }
        let side = db.keyspace("side").unwrap();
        for len in keys {
            let found = side.get(vec![b'k'; len]).unwrap().unwrap();
            assert_eq!(found, *format!("{len}"), "key of {len}");
        }
    };
    let crashed = fs.crash_clone(CrashMode::KeepAll, 0);
    let after = options().fs(Arc::new(crashed)).open(DIR).unwrap();
    check(&after);
    after.flush().unwrap();
    check(&after);
}

/// H25: the log that a recovery begins is found by the next, time and again.
#[test]
fn what_is_written_between_many_crashes_accumulates() {
    let mut fs = MemFs::new();
    for round in 0..40_u8 {
        let db = options(&fs).durability(Durability::Sync).open(DIR).unwrap();
        assert_eq!(db.iter().count(), usize::from(round));
        db.put([round], "x").unwrap();
        let mode = CrashMode::ALL[usize::from(round) % 4];
        fs = fs.crash_clone(mode, u64::from(round));
    }
}

/// H17: power fails between a rotation of the log and the sync of the segment before. What is in
/// the new segment must not count without what is missing in the old one.
#[test]
fn a_segment_does_not_count_without_the_end_of_the_one_before() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Os).wal_bytes(16 << 10).open(DIR).unwrap();
    db.put("first", "x").unwrap();
    db.sync().unwrap();
    for i in 0..60_u32 {
        db.put(i.to_be_bytes(), vec![1; 200]).unwrap();
    }
    let mut lost = 0;
    for seed in 0..200 {
        let after = open(&fs.crash_clone(CrashMode::Subset, seed));
        assert!(after.get("first").unwrap().is_some());
        let count = after.iter().count() as u32 - 1;
        // A prefix: the last one that is there has all before it.
        for i in 0..60_u32 {
            assert_eq!(after.get(i.to_be_bytes()).unwrap().is_some(), i < count, "seed {seed}");
        }
        lost += u32::from(count < 60);
    }
    assert!(lost > 50, "only {lost} cuts took anything");
}
