//! Hazards that a reading of the engine turned up.

use esker::Db;
use esker::Durability;
use esker::ErrorKind;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::FaultError;
use esker::fs::FaultFs;
use esker::fs::FaultOp;
use esker::fs::FaultRule;
use esker::fs::Fs as _;
use esker::fs::MemFs;
use esker::fs::ReadMode;
use std::path::Path;
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use crate::DIR;
use crate::open;
use crate::options;

/// The manifest tells of sequence numbers whose writes a power cut took. The log must say durably
/// that they are skipped before anything refers to numbers above the gap.
#[test]
fn skipped_sequence_numbers_are_not_taken_for_lost_ones() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Os).open(DIR).unwrap();
    for i in 0..10_u8 {
        db.put([i], vec![i; 600]).unwrap();
    }
    db.keyspace("new").unwrap();
    let mut skipped = 0;
    for seed in 0..40 {
        let cut = fs.crash_clone(CrashMode::Prefix, seed);
        let after = open(&cut);
        let count = after.iter().count();
        skipped += usize::from((1..10).contains(&count));
        after.flush().unwrap();
        drop(after);
        let again = options(&cut).open(DIR);
        let again = again.unwrap_or_else(|error| panic!("with {count} writes left: {error}"));
        assert_eq!(again.iter().count(), count);
    }
    assert!(skipped > 0);
}

/// A batch for a keyspace of another database must not reach the log: it could not be replayed.
#[test]
fn a_keyspace_of_another_database_is_refused() {
    let (one, two) = (MemFs::new(), MemFs::new());
    let db = open(&one);
    let stranger = open(&two);
    let keyspace = stranger.keyspace("elsewhere").unwrap();
    for keyspace in [&*stranger, &keyspace] {
        let mut batch = WriteBatch::new();
        batch.put(&db, "k", "v").put(keyspace, "k", "v");
        let error = db.write(batch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
    }
    assert!(db.get("k").unwrap().is_none() && stranger.get("k").unwrap().is_none());
    db.put("k", "mine").unwrap();
    stranger.put("k", "yours").unwrap();
    drop((db, stranger, keyspace));
    assert_eq!(open(&one).get("k").unwrap().unwrap(), "mine");
    assert_eq!(open(&two).get("k").unwrap().unwrap(), "yours");
}

/// A tombstone that a snapshot keeps alive on the bottom level is not rewritten for ever.
#[test]
fn an_old_tombstone_that_must_stay_keeps_nobody_busy() {
    let fs = MemFs::new();
    let db = options(&fs).tombstone_age(Duration::ZERO).open(DIR).unwrap();
    db.put("k", "v").unwrap();
    let snapshot = db.snapshot();
    db.delete("k").unwrap();
    db.flush().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let mut jobs = 0;
    while db.run_one_job().unwrap() {
        jobs += 1;
        assert!(jobs < 100, "jobs without end");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(snapshot.get("k").unwrap().unwrap(), "v");
    drop(snapshot);
    while db.run_one_job().unwrap() {
        jobs += 1;
        assert!(jobs < 100, "jobs without end");
        std::thread::sleep(Duration::from_millis(2));
    }
    let stats = db.stats();
    assert!(stats.keyspaces[0].levels.iter().all(|level| level.files.is_empty()), "it has gone");
}

/// What a manifest says of a keyspace that was created after unsynced writes does not claim that
/// these are durable.
#[test]
fn a_new_keyspace_claims_nothing_about_unsynced_writes() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Os).open(DIR).unwrap();
    // Four files on level 0: a compaction is due, and its end is where manifests are replaced.
    for i in 0..4_u8 {
        db.put([i], "x").unwrap();
        let before = db.stats().background.flushes;
        while db.stats().background.flushes == before {
            db.flush().unwrap();
        }
    }
    for _ in 0..12_000 {
        db.keyspace("a keyspace with a rather long name, to fill the manifest").unwrap();
        db.drop_keyspace("a keyspace with a rather long name, to fill the manifest").unwrap();
    }
    db.put("unsynced", "x").unwrap();
    db.keyspace("new").unwrap();
    let manifest = |fs: &MemFs| {
        let files = fs.list(Path::new(DIR)).unwrap();
        files.into_iter().find(|file| file.name.starts_with("MANIFEST")).unwrap().name
    };
    let before = manifest(&fs);
    assert!(db.run_one_job().unwrap());
    assert_ne!(manifest(&fs), before, "the manifest was replaced");
    let after = open(&fs.crash_clone(CrashMode::Strict, 0));
    assert_eq!(after.iter().count(), 4);
}

/// Many keyspaces, none of which fills its own memtable, stay within the budget together.
#[test]
fn many_small_memtables_stay_within_the_budget() {
    let budget = 256 << 10;
    for threads in [0, 2] {
        let fs = MemFs::new();
        let options = options(&fs).memory_budget(budget).memtable_bytes(64 << 10);
        let options = options.wal_bytes(64 << 20).background_threads(threads);
        let db = options.durability(Durability::Os).open(DIR).unwrap();
        let keyspaces: Vec<_> = (0..40).map(|i| db.keyspace(&format!("{i}")).unwrap()).collect();
        for round in 0..40_u8 {
            for keyspace in &keyspaces {
                keyspace.put([round], vec![round; 1000]).unwrap();
            }
            let used = db.stats().memory.memtables;
            assert!(
                used < budget as u64 * 5 / 8,
                "{threads} threads: {used} bytes in round {round}"
            );
        }
    }
}

/// A clock or file system of the caller's may use a database of its own on the same thread.
#[test]
fn a_write_within_a_write_is_no_panic() {
    let (fs, other) = (MemFs::new(), MemFs::new());
    let db = open(&fs);
    let journal = open(&other);
    fs.on_event(Some(Arc::new(move |event, _: &MemFs| {
        journal.put(event.to_le_bytes(), "an event").unwrap();
    })));
    db.put("k", "v").unwrap();
    fs.on_event(None);
    assert_eq!(db.get("k").unwrap().unwrap(), "v");
}

/// Without threads, interval durability is kept by the writers themselves.
#[test]
fn interval_durability_holds_without_threads() {
    let fs = MemFs::new();
    let interval = Durability::Interval(Duration::from_millis(2));
    let db = options(&fs).durability(interval).open(DIR).unwrap();
    for i in 0..20_u8 {
        db.put([i], "x").unwrap();
        std::thread::sleep(Duration::from_millis(3));
    }
    let after = open(&fs.crash_clone(CrashMode::Strict, 0));
    assert!(after.iter().count() >= 18, "{}", after.iter().count());
}

/// Runs `slow`, held up at the event that is chosen until the database was closed, and opened again
/// by somebody else; returns what `slow` returned, and the new handle.
fn close_during<T: Send>(
    fs: &MemFs,
    db: &Db,
    event_of: impl Fn(u64) -> bool + Send + Sync + 'static,
    slow: impl FnOnce(&Db) -> T + Send,
) -> (T, Db) {
    let held = Arc::new(Barrier::new(2));
    let closed = Arc::new(AtomicBool::new(false));
    let (at, until) = (held.clone(), closed.clone());
    let first = fs.events();
    let done = AtomicBool::new(false);
    fs.on_event(Some(Arc::new(move |event, _: &MemFs| {
        if event_of(event - first) && !done.swap(true, AcqRel) {
            at.wait();
            // A close that waits for us is what should be: do not wait for it for ever.
            for _ in 0..150 {
                if until.load(Acquire) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    })));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| slow(db));
        held.wait();
        db.clone().close().unwrap();
        let again = open(fs);
        again.put("from the new", "handle").unwrap();
        closed.store(true, Release);
        (slow.join().unwrap(), again)
    })
}

/// A write that is acknowledged while another thread closes the database is in the database.
#[test]
fn close_waits_for_writes_under_way() {
    for (event, durability) in [(0, Durability::Os), (0, Durability::Sync), (1, Durability::Sync)] {
        let fs = MemFs::new();
        let db = options(&fs).durability(durability).open(DIR).unwrap();
        let (result, again) =
            close_during(&fs, &db, move |e| e == event, |db| db.put("late", "write"));
        fs.on_event(None);
        let found = again.get("late").unwrap().is_some();
        assert!(result.is_err() || found, "event {event}: acknowledged and lost");
        drop(again);
        drop(open(&fs));
    }
}

/// A flush or compaction on a caller's thread does not go on after a close and disturb whoever
/// opens the database next.
#[test]
fn close_waits_for_jobs_on_callers_threads() {
    for event in 0..12 {
        let fs = MemFs::new();
        let db = options(&fs).open(DIR).unwrap();
        for i in 0..200_u8 {
            db.put([i], vec![i; 300]).unwrap();
        }
        let slow = |db: &Db| db.compact_range::<&[u8], _>(..);
        let (_, again) = close_during(&fs, &db, move |e| e == event, slow);
        fs.on_event(None);
        again.flush().unwrap();
        again.compact_range::<&[u8], _>(..).unwrap();
        assert_eq!(again.iter().count(), 201, "event {event}");
        again.verify(&mut |_, _| {}).unwrap();
        drop(again);
        drop(db);
        assert_eq!(open(&fs).iter().count(), 201, "event {event}");
    }
}

/// A compaction that cannot run is no reason for a flush to fail, and neither is a flush that failed
/// before the cause was mended.
#[test]
fn a_flush_fails_only_for_reasons_of_its_own() {
    let mem = MemFs::new();
    let fs = FaultFs::new(Arc::new(mem.clone()));
    let options = options(&mem).background_threads(2).fs(Arc::new(fs.clone()));
    let db = options.open(DIR).unwrap();
    fs.inject(FaultRule::new(FaultOp::Open, FaultError::EMFILE).path_contains(".sst").forever());
    for i in 0..8_u8 {
        db.put([i], "x").unwrap();
        db.flush().unwrap_or_else(|error| panic!("flush {i}: {error}"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(db.stats().background.failures > 0, "compactions were due, and failed");
    fs.clear();
    fs.inject(FaultRule::new(FaultOp::Create, FaultError::ENOSPC).path_contains(".sst").forever());
    db.put("k", "v").unwrap();
    db.flush().unwrap_err();
    fs.clear();
    db.flush().unwrap();
}

/// As above, with two crashes in a row: what is taken over from the log begins behind the gap.
#[test]
fn a_gap_at_the_beginning_of_the_log_survives_further_crashes() {
    let fs = MemFs::new();
    let db = options(&fs).durability(Durability::Os).open(DIR).unwrap();
    db.put("lost", "x").unwrap();
    db.keyspace("new").unwrap();
    let mut fs = fs.crash_clone(CrashMode::Strict, 0);
    for round in 0..4_u8 {
        let db = open(&fs);
        assert_eq!(db.iter().count(), usize::from(round));
        db.put([round], "x").unwrap();
        fs = fs.crash_clone(CrashMode::KeepAll, 0);
    }
}

/// Without threads no write waits, so none waits beyond its deadline.
#[test]
fn without_threads_a_deadline_is_no_error_while_jobs_can_run() {
    let fs = MemFs::new();
    let db = options(&fs).memtable_bytes(64 << 10).open(DIR).unwrap();
    for i in 0..20_u8 {
        db.put([i], "x").unwrap();
        db.flush().unwrap();
    }
    assert!(db.stats().keyspaces[0].levels[0].files.len() >= 12, "level 0 is behind");
    for i in 0..20_u8 {
        let mut batch = WriteBatch::new();
        batch.put(&db, [i], vec![0; 40_000]).deadline(Duration::from_micros(50));
        db.write(batch).unwrap();
    }
}

/// Files of other programs may have any name.
#[test]
fn names_with_enormous_numbers_are_left_alone() {
    for name in
        ["18446744073709551615.wal", "18446744073709551614.sst", "MANIFEST-9000000000000000000"]
    {
        let fs = MemFs::new();
        open(&fs).put("k", "v").unwrap();
        let path = Path::new(DIR).join(name);
        fs.create(&path).unwrap();
        for _ in 0..3 {
            let db = open(&fs);
            db.put("l", "w").unwrap();
            db.flush().unwrap();
            db.compact_range::<&[u8], _>(..).unwrap();
            assert_eq!(db.iter().count(), 2, "{name}");
        }
        assert!(fs.exists(&path).unwrap(), "{name}");
    }
}

/// Writers, readers, flushes and compactions on many threads while the database closes: each ends,
/// with a result or with "closed"; what was acknowledged is there.
#[test]
fn close_ends_everything_that_runs() {
    for round in 0..10_u64 {
        let fs = MemFs::new();
        let db = options(&fs).background_threads(round as usize % 3).open(DIR).unwrap();
        let acknowledged = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3_u8)
                .map(|writer| {
                    let db = &db;
                    scope.spawn(move || {
                        (0..=u32::MAX)
                            .take_while(|n: &u32| {
                                let mut key = vec![writer];
                                key.extend(n.to_be_bytes());
                                db.put(key, [7; 200]).is_ok()
                            })
                            .count()
                    })
                })
                .collect();
            scope.spawn(|| while db.iter().all(|entry| entry.is_ok()) {});
            scope.spawn(|| while db.flush().is_ok() {});
            scope.spawn(|| while db.compact_range::<&[u8], _>(..).is_ok() {});
            scope.spawn(|| {
                while db.keyspace("other").is_ok_and(|other| other.put("k", "v").is_ok()) {
                    let _ = db.drop_keyspace("other");
                }
            });
            std::thread::sleep(Duration::from_millis(10 + round * 7));
            scope.spawn(|| db.clone().close().unwrap());
            db.clone().close().unwrap();
            // The directory is free for the next one.
            drop(open(&fs));
            writers.into_iter().map(|writer| writer.join().unwrap()).sum::<usize>()
        });
        let db = open(&fs);
        db.verify(&mut |_, _| {}).unwrap();
        // A write that failed may be there.
        assert!((acknowledged..=acknowledged + 3).contains(&db.iter().count()), "round {round}");
    }
}

/// The last records of a log that was closed have nothing behind them. The manifest bears witness.
#[test]
fn a_flip_anywhere_in_the_log_of_a_closed_database_is_corruption() {
    for durability in [Durability::Os, Durability::Sync] {
        let fs = MemFs::new();
        let db = options(&fs).durability(durability).open(DIR).unwrap();
        for i in 0..5_u8 {
            db.put([i], [i; 40]).unwrap();
        }
        db.close().unwrap();
        let mut flips = 0;
        for entry in fs.list(Path::new(DIR)).unwrap() {
            let path = Path::new(DIR).join(&entry.name);
            if !entry.name.contains(".wal") {
                continue;
            }
            let file = fs.open(&path, ReadMode::Pread).unwrap();
            let mut bytes = vec![0; file.len() as usize];
            file.read_at(0, &mut bytes).unwrap();
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            for (at, byte) in bytes.iter().enumerate().take(written) {
                let damaged = fs.crash_clone(CrashMode::KeepAll, 0);
                let flipped = [byte ^ 4];
                damaged.open_writable(&path).unwrap().write_at(at as u64, &flipped).unwrap();
                match options(&damaged).open(DIR) {
                    Ok(db) => assert_eq!(db.iter().count(), 5, "flip at {at}"),
                    Err(error) => {
                        flips += 1;
                        assert_eq!(error.kind(), ErrorKind::Corruption, "flip at {at}: {error}");
                    }
                }
            }
        }
        assert!(flips > 5 * 44, "only {flips} were noticed");
    }
}
