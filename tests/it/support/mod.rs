//! What the tests share: a database in memory with tiny buffers, so that levels exist after a
//! hundred keys; checked byte by byte at the end of every test.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Clock;
use esker::Db;
use esker::Options;
use esker::fs::MemFs;

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub(crate) struct TestClock {
    pub(crate) ms: AtomicU64,
    unique: AtomicU64,
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.ms.load(Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        self.ms.load(Relaxed)
    }

    fn unique(&self) -> u64 {
        self.unique.fetch_add(1, Relaxed)
    }
}

/// A database on a simulated file system. On drop everything in it is verified.
pub(crate) struct TestDb {
    pub(crate) fs: MemFs,
    pub(crate) options: Options,
    db: Option<Db>,
}

/// Where the database lies in its file system.
pub(crate) const DIR: &str = "/db";

/// Options with which 200 operations reach the third level.
pub(crate) fn tiny() -> Options {
    Options::new()
        .memtable_bytes(1536)
        .block_bytes(256)
        .file_bytes(4 << 10)
        .wal_bytes(64 << 10)
        .memory_budget(1 << 20)
        .background_threads(0)
}

impl TestDb {
    pub(crate) fn new() -> TestDb {
        TestDb::with(tiny())
    }

    pub(crate) fn with(options: Options) -> TestDb {
        let fs = MemFs::new();
        let options = options.fs(Arc::new(fs.clone()));
        let db = options.clone().open(DIR).unwrap();
        TestDb { fs, options, db: Some(db) }
    }

    /// Closes and opens again.
    pub(crate) fn reopen(&mut self) {
        if let Some(db) = self.db.take() {
            db.close().unwrap();
        }
        self.db = Some(self.options.clone().open(DIR).unwrap());
    }

    /// Runs background jobs until none is due.
    pub(crate) fn settle(&self) {
        while self.run_one_job().unwrap() {}
    }

    /// Names of the files in the directory.
    pub(crate) fn files(&self) -> Vec<String> {
        use esker::fs::Fs as _;
        self.fs.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    /// All entries, forwards.
    pub(crate) fn dump(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.iter().map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
    }
}

impl Deref for TestDb {
    type Target = Db;

    fn deref(&self) -> &Db {
        self.db.as_ref().unwrap()
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        if !std::thread::panicking()
            && let Some(db) = &self.db
        {
            db.verify(&mut |_, _| {}).unwrap();
        }
    }
}

/// Every file of the database with its bytes.
pub(crate) fn contents(fs: &MemFs) -> Vec<(String, Vec<u8>)> {
    use esker::fs::Fs as _;
    let entries = fs.list(Path::new(DIR)).unwrap();
    entries
        .into_iter()
        .map(|entry| {
            let path = Path::new(DIR).join(&entry.name);
            let file = fs.open(&path, esker::fs::ReadMode::Pread).unwrap();
            let mut bytes = vec![0; file.len() as usize];
            file.read_at(0, &mut bytes).unwrap();
            (entry.name, bytes)
        })
        .collect()
}

/// The i-th key.
pub(crate) fn key(i: usize) -> Vec<u8> {
    format!("key{i:06}").into_bytes()
}

/// A value for the i-th key that tells its generation.
pub(crate) fn value(i: usize, generation: usize) -> Vec<u8> {
    format!("value {i} of generation {generation} {}", "x".repeat(i % 50)).into_bytes()
}
