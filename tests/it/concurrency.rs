//! Writers, readers, snapshots and background jobs at once.

use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Release;
use std::time::Duration;

use esker::Clock;
use esker::Durability;
use esker::ErrorKind;
use esker::Result;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::DirEntry;
use esker::fs::DirLock;
use esker::fs::Fs;
use esker::fs::LockMode;
use esker::fs::MemFs;
use esker::fs::ReadMode;
use esker::fs::ReadableFile;
use esker::fs::WritableFile;

use crate::support::DIR;
use crate::support::TestDb;
use crate::support::key;
use crate::support::tiny;

const ACCOUNTS: usize = 50;

/// Ends the readers when the last writer ends, be it by a panic.
struct StopWhenLast<'a> {
    running: &'a AtomicU64,
    stop: &'a AtomicBool,
}

impl Drop for StopWhenLast<'_> {
    fn drop(&mut self) {
        if self.running.fetch_sub(1, AcqRel) == 1 || std::thread::panicking() {
            self.stop.store(true, Release);
        }
    }
}

/// Batches move amounts between accounts of two keyspaces; whoever looks at one instant sees the
/// same sum.
#[test]
fn every_reader_sees_whole_batches() {
    let options = tiny().background_threads(3).memtable_bytes(8 << 10);
    let db = TestDb::with(options.durability(Durability::Os));
    let other = db.keyspace("other").unwrap();
    let mut batch = WriteBatch::new();
    for i in 0..ACCOUNTS {
        batch.put(&db, key(i), 100u64.to_le_bytes()).put(&other, key(i), 100u64.to_le_bytes());
    }
    db.write(batch).unwrap();
    let stop = AtomicBool::new(false);
    let running = AtomicU64::new(2);
    let amount = |value: esker::Slice| u64::from_le_bytes(value[..].try_into().unwrap());
    std::thread::scope(|scope| {
        // Each writer owns a share of the accounts, so that no update is lost without transactions.
        let running = &running;
        for writer in 0..2 {
            let (db, other, stop) = (&db, &other, &stop);
            scope.spawn(move || {
                let _stop = StopWhenLast { running, stop };
                for round in 0..3000usize {
                    let from = (round * 7 + writer) % ACCOUNTS / 2 * 2 + writer;
                    let to = (round * 13 + writer) % ACCOUNTS / 2 * 2 + writer;
                    let (from, to) = (from % ACCOUNTS, to % ACCOUNTS);
                    let a = amount(db.get(key(from)).unwrap().unwrap());
                    let b = amount(other.get(key(to)).unwrap().unwrap());
                    let moved = a.min(round as u64 % 10);
                    let mut batch = WriteBatch::new();
                    batch.put(db, key(from), (a - moved).to_le_bytes());
                    batch.put(other, key(to), (b + moved).to_le_bytes());
                    db.write(batch).unwrap();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Acquire) {
                    let snapshot = db.snapshot();
                    let sum = |reader: &esker::Reader| -> u64 {
                        reader.iter().map(|entry| amount(entry.unwrap().1)).sum()
                    };
                    let total = sum(&snapshot) + sum(&snapshot.keyspace(&other));
                    assert_eq!(total, 200 * ACCOUNTS as u64);
                    let first = snapshot.multi_get((0..ACCOUNTS).map(key)).unwrap();
                    assert!(first.iter().all(Option::is_some));
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Acquire) {
                db.compact_range::<&[u8], _>(..).unwrap();
            }
        });
    });
}

/// A value that was seen, or whose write has returned, is never unseen again.
#[test]
fn reads_never_go_back_in_time() {
    let db = TestDb::with(tiny().background_threads(2).durability(Durability::Os));
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=20_000u64 {
                db.put("counter", n.to_le_bytes()).unwrap();
                written.store(n, Release);
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while last < 20_000 {
                    let floor = written.load(Acquire).max(last);
                    let found = db.get("counter").unwrap();
                    let found = found.map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap()));
                    assert!(found >= floor, "{found} after {floor}");
                    last = found;
                }
            });
        }
    });
}

#[test]
fn concurrent_synced_writers_share_syncs_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = esker::Db::open(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let db = &db;
            scope.spawn(move || {
                for i in 0..50 {
                    db.put(key(writer * 1000 + i), "x").unwrap();
                }
            });
        }
    });
    let stats = db.stats();
    assert_eq!(stats.writes.batches, 400);
    assert!(stats.wal.syncs < 400, "{} syncs", stats.wal.syncs);
    db.close().unwrap();
    assert_eq!(esker::Db::open(dir.path()).unwrap().iter().count(), 400);
}

#[test]
fn keyspaces_come_and_go_under_load() {
    let db = TestDb::with(tiny().background_threads(2).durability(Durability::Os));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let db = &db;
            scope.spawn(move || {
                for round in 0..30 {
                    let name = format!("k{}", (thread + round) % 4);
                    let keyspace = db.keyspace(&name).unwrap();
                    for i in 0..40 {
                        if keyspace.put(key(i), vec![7; 200]).is_err() {
                            break;
                        }
                    }
                    if round % 5 == thread {
                        drop(db.drop_keyspace(&name));
                    }
                }
            });
        }
    });
    db.flush().unwrap();
    for name in db.keyspaces() {
        assert!(db.keyspace(&name).unwrap().iter().all(|entry| entry.is_ok()));
    }
}

/// A clock that stands still unless it is told to go on.
#[derive(Debug, Default)]
struct ManualClock {
    millis: AtomicU64,
    ids: AtomicU64,
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.millis.load(Acquire))
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }

    fn unique(&self) -> u64 {
        self.ids.fetch_add(1, AcqRel)
    }
}

/// Waits for something that other threads are about to do.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..5000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: not in five seconds");
}

/// A file system on which the sync of the thread "slow" takes until it is told to return.
#[derive(Clone, Debug, Default)]
struct SlowSyncs {
    fs: MemFs,
    synced: Arc<AtomicBool>,
    go_on: Arc<AtomicBool>,
}

#[derive(Debug)]
struct SlowFile(Box<dyn WritableFile>, SlowSyncs);

impl SlowSyncs {
    fn file(&self, file: Result<Box<dyn WritableFile>>) -> Result<Box<dyn WritableFile>> {
        Ok(Box::new(SlowFile(file?, self.clone())))
    }
}

impl Fs for SlowSyncs {
    fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.fs.create_dir_all(path)
    }
    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        self.file(self.fs.create(path))
    }
    fn open_writable(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        self.file(self.fs.open_writable(path))
    }
    fn open(&self, path: &Path, mode: ReadMode) -> Result<Arc<dyn ReadableFile>> {
        self.fs.open(path, mode)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.fs.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.fs.remove(path)
    }
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.fs.list(path)
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        self.fs.exists(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.fs.sync_dir(path)
    }
    fn lock(&self, path: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
        self.fs.lock(path, mode)
    }
    fn canonical(&self, path: &Path) -> Result<PathBuf> {
        self.fs.canonical(path)
    }
}

impl WritableFile for SlowFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn sync_data(&self) -> Result<()> {
        self.0.sync_data()?;
        if std::thread::current().name() == Some("slow") {
            self.1.synced.store(true, Release);
            eventually("the other write", || self.1.go_on.load(Acquire));
        }
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len)
    }
    fn reserve(&self, range: Range<u64>) -> Result<bool> {
        self.0.reserve(range)
    }
}

/// Its sync is due while it still waits for an earlier writer, whose slow sync began too early to
/// cover it. When both have returned nobody would sync it any more.
#[test]
fn a_write_whose_interval_ends_while_it_waits_for_an_earlier_sync_is_synced() {
    let clock = Arc::new(ManualClock::default());
    let slow = SlowSyncs::default();
    let options = tiny().background_threads(2).clock(clock.clone()).fs(Arc::new(slow.clone()));
    let db = options.durability(Durability::Sync).open(DIR).unwrap();
    db.put("first", "").unwrap();
    std::thread::scope(|scope| {
        let db = &db;
        let builder = std::thread::Builder::new().name("slow".to_owned());
        builder.spawn_scoped(scope, || db.put("slow", "").unwrap()).unwrap();
        eventually("the slow sync", || slow.synced.load(Acquire));
        let events = slow.fs.events();
        scope.spawn(move || {
            let mut batch = WriteBatch::new();
            batch.put(db, "fast", "").durability(Durability::Interval(Duration::from_millis(10)));
            db.write(batch).unwrap();
        });
        eventually("the write of the fast one", || slow.fs.events() > events);
        clock.millis.fetch_add(20, AcqRel);
        // Time for the log's thread to see that a sync is due. If it does not, the test cannot fail.
        std::thread::sleep(Duration::from_millis(100));
        slow.go_on.store(true, Release);
    });
    clock.millis.fetch_add(20, AcqRel);
    eventually("the sync of what was acknowledged", || {
        let crashed = slow.fs.crash_clone(CrashMode::Strict, 0);
        let found = tiny().fs(Arc::new(crashed)).open(DIR).unwrap();
        found.get("fast").unwrap().is_some()
    });
}

/// A flush that has written its file when the database closes can't install it any more: the file
/// was left to the next open.
#[test]
fn a_flush_that_a_close_overtakes_leaves_no_file() {
    let slow = SlowSyncs::default();
    let db = tiny().fs(Arc::new(slow.clone())).open(DIR).unwrap();
    db.put("key", "value").unwrap();
    std::thread::scope(|scope| {
        let db = &db;
        let builder = std::thread::Builder::new().name("slow".to_owned());
        let flush = builder.spawn_scoped(scope, || db.flush()).unwrap();
        eventually("the sync of the flush", || slow.synced.load(Acquire));
        let close = scope.spawn(|| db.clone().close());
        eventually("the close", || db.get("key").is_err());
        slow.go_on.store(true, Release);
        close.join().unwrap().unwrap();
        assert_eq!(flush.join().unwrap().unwrap_err().kind(), ErrorKind::Misuse);
    });
    let listing = slow.fs.list(Path::new(DIR)).unwrap();
    let is_sst = |entry: &&DirEntry| entry.name.ends_with(".sst");
    assert_eq!(listing.iter().filter(is_sst).count(), 0, "{listing:?}");
    let db = tiny().fs(Arc::new(slow.fs)).open(DIR).unwrap();
    assert_eq!(db.get("key").unwrap().as_deref(), Some(&b"value"[..]));
}
