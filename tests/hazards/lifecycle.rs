//! Mistakes around opening, closing, time, threads and other people's files.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Clock;
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

use crate::DIR;
use crate::open;
use crate::options;

/// H26: what other programs leave in the directory disturbs nobody and is never touched.
#[test]
fn stray_names_do_not_disturb_an_open() {
    let names = [
        "._000001.sst",
        ".DS_Store",
        "000001.sst.bak",
        "1.sst~",
        "x.wal",
        "-1.wal",
        "MANIFEST",
        "MANIFEST-",
        "MANIFEST-1x",
        "CURRENT.old",
        "current",
        "LOCK2",
        "notes.txt",
    ];
    let fs = MemFs::new();
    open(&fs).put("k", "v").unwrap();
    for name in names {
        let file = fs.create(&Path::new(DIR).join(name)).unwrap();
        file.write_at(0, name.as_bytes()).unwrap();
    }
    fs.create_dir_all(&Path::new(DIR).join("a directory")).unwrap();
    for round in 0..3_u8 {
        let db = open(&fs);
        db.put([round], vec![round; 5000]).unwrap();
        db.compact_range::<&[u8], _>(..).unwrap();
        while db.run_one_job().unwrap() {}
        db.verify(&mut |_, _| {}).unwrap();
    }
    for name in names {
        let entries = fs.list(Path::new(DIR)).unwrap();
        let entry = entries.iter().find(|entry| entry.name == name);
        assert_eq!(entry.unwrap().len, name.len() as u64, "{name}");
    }
}

/// H58: a panic while a batch, an iterator and a snapshot are in hand writes nothing by itself, and
/// leaves the database as good as before.
#[test]
fn a_panic_of_the_caller_leaves_the_database_sound() {
    for threads in [0, 2] {
        let fs = MemFs::new();
        let db = options(&fs).background_threads(threads).open(DIR).unwrap();
        db.put("k", "v").unwrap();
        let caller = db.clone();
        let panicked = std::thread::spawn(move || {
            let mut batch = WriteBatch::new();
            batch.put(&caller, "never", "written");
            let _snapshot = caller.snapshot();
            for entry in caller.iter() {
                assert!(entry.is_err(), "on purpose");
            }
            caller.write(batch)
        });
        panicked.join().unwrap_err();
        db.put("l", "w").unwrap();
        assert_eq!(db.iter().count(), 2);
        drop(db);
        assert_eq!(open(&fs).iter().count(), 2);
    }
}

/// A clock that jumps back and forth by days.
#[derive(Debug, Default)]
struct Jumpy(AtomicU64);

impl Clock for Jumpy {
    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.fetch_add(1, Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        let n = self.0.fetch_add(1, Relaxed);
        let days = [20_000, 3, 19_999, 40_000, 0][n as usize % 5];
        days * 24 * 60 * 60 * 1000
    }

    fn unique(&self) -> u64 {
        self.0.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// H61, F21: time decides when old tombstones are driven down, and nothing else.
#[test]
fn a_clock_that_jumps_harms_nothing() {
    let mut fs = MemFs::new();
    let clock = Arc::new(Jumpy::default());
    for round in 0..6_u8 {
        let options = options(&fs).clock(clock.clone()).durability(Durability::Os);
        let db = options.open(DIR).unwrap();
        for i in 0..100_u8 {
            db.put([i], vec![round; 100]).unwrap();
            if i % 3 == 0 {
                db.delete([i]).unwrap();
            }
        }
        for _ in 0..20 {
            db.run_one_job().unwrap();
        }
        assert_eq!(db.iter().count(), 66, "round {round}");
        db.verify(&mut |_, _| {}).unwrap();
        fs = fs.crash_clone(CrashMode::KeepAll, u64::from(round));
    }
}

/// H65: a database that comes back with everything full can write at once: who waits always waits
/// for something that runs.
#[test]
fn writers_get_on_after_a_crash_with_everything_full() {
    for threads in [0, 1, 3] {
        let mut fs = MemFs::new();
        for round in 0..8_u32 {
            let options = options(&fs).memory_budget(16 << 10).background_threads(threads);
            let options = options.durability(Durability::Os).wal_bytes(16 << 10);
            let db = options.open(DIR).unwrap();
            for i in 0..150_u32 {
                let mut batch = WriteBatch::new();
                batch.put(&db, (i * 7919 % 1000).to_be_bytes(), vec![round as u8; 200]);
                batch.deadline(Duration::from_secs(30));
                db.write(batch).unwrap_or_else(|error| panic!("{threads} threads: {error}"));
            }
            // Amid flushes and compactions, with all of the log.
            fs = fs.crash_clone(CrashMode::KeepAll, u64::from(round));
        }
    }
}

/// F12: a flush or compaction for which the disk has no room fails before it writes anything, and
/// leaves nothing behind; when there is room it is done.
#[test]
fn a_disk_without_room_for_a_file_says_so_before_the_work() {
    let mem = MemFs::new();
    let fs = FaultFs::new(Arc::new(mem.clone()));
    let options = options(&mem).durability(Durability::Os).fs(Arc::new(fs.clone()));
    let db = options.open(DIR).unwrap();
    for i in 0..100_u8 {
        db.put([i], [i; 100]).unwrap();
    }
    db.flush().unwrap();
    let ssts = || {
        let files = mem.list(Path::new(DIR)).unwrap();
        files.into_iter().map(|file| file.name).filter(|n| n.contains(".sst")).collect::<Vec<_>>()
    };
    let before = ssts();
    db.put([200], "x").unwrap();
    let full = FaultRule::new(FaultOp::Reserve, FaultError::ENOSPC).path_contains(".sst");
    fs.inject(full.forever());
    let written = fs.calls(FaultOp::Write);
    assert_eq!(db.flush().unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(db.compact_range::<&[u8], _>(..).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(fs.calls(FaultOp::Write), written, "something was written");
    assert_eq!(ssts(), before);
    db.put([201], "x").unwrap();
    assert_eq!(db.iter().count(), 102);
    fs.clear();
    db.flush().unwrap();
    db.compact_range::<&[u8], _>(..).unwrap();
    assert_eq!(db.iter().count(), 102);
}
