//! What the tests share: a database in memory, tiny and with background threads, and a clock.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Clock;
use esker::Db;
use esker::Options;
use esker::Reader;
use esker::fs::CrashMode;
use esker::fs::Fs;
use esker::fs::MemFs;
use shuttle::rand::Rng as _;
use shuttle::thread;
use shuttle::thread::JoinHandle;

const DIR: &str = "/db";

/// Each look at it is a millisecond later.
#[derive(Debug, Default)]
struct StepClock(AtomicU64);

impl Clock for StepClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.fetch_add(1, Relaxed)
    }

    fn unique(&self) -> u64 {
        let n = self.0.fetch_add(1, Relaxed).wrapping_add(1);
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ n
    }
}

/// One flushing, one compacting and one log thread; a memtable holds two or three values of 400
/// bytes, a log segment ten.
pub(crate) fn tiny(fs: impl Fs) -> Options {
    Options::new()
        .memtable_bytes(1 << 10)
        .block_bytes(256)
        .file_bytes(4 << 10)
        .wal_bytes(16 << 10)
        .memory_budget(1 << 20)
        .background_threads(2)
        .clock(Arc::new(StepClock::default()))
        .fs(Arc::new(fs))
}

pub(crate) fn open(options: &Options) -> Db {
    options.clone().open(DIR).unwrap()
}

/// Opens what a crash or a close has left, without threads: there is nothing to interleave.
pub(crate) fn open_alone(fs: &MemFs) -> Db {
    let db = tiny(fs.clone()).background_threads(0).open(DIR).unwrap();
    db.verify(&mut |_, _| {}).unwrap();
    db
}

/// No SST is left that no version names.
pub(crate) fn ssts(fs: &MemFs) -> usize {
    let entries = fs.list(Path::new(DIR)).unwrap();
    entries
        .iter()
        .filter(|entry| Path::new(&entry.name).extension() == Some("sst".as_ref()))
        .count()
}

pub(crate) fn any_crash(fs: &MemFs) -> MemFs {
    let mut rng = shuttle::rand::thread_rng();
    let mode = CrashMode::ALL[rng.gen_range(0..CrashMode::ALL.len())];
    fs.crash_clone(mode, rng.r#gen())
}

pub(crate) fn one_in(n: u32) -> bool {
    shuttle::rand::thread_rng().gen_ratio(1, n)
}

/// A value that says its generation and is `len` bytes long.
pub(crate) fn value(generation: u8, len: usize) -> Vec<u8> {
    vec![generation; len]
}

/// The generation of the value of `key`; 0 if there is none.
pub(crate) fn generation(reader: &Reader, key: &str) -> u8 {
    generation_of(reader.get(key).unwrap().as_deref())
}

pub(crate) fn generation_of(value: Option<&[u8]>) -> u8 {
    value.map_or(0, |value| {
        assert!(value.iter().all(|byte| *byte == value[0]), "a value is torn");
        value[0]
    })
}

/// All that an iterator finds, as generations.
pub(crate) fn scan(reader: &Reader) -> BTreeMap<String, u8> {
    let entries = reader.iter().map(Result::unwrap);
    let entry = |(key, value): (esker::Slice, esker::Slice)| {
        (String::from_utf8(key.to_vec()).unwrap(), generation_of(Some(&value[..])))
    };
    entries.map(entry).collect()
}

pub(crate) fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::spawn(run)
}

pub(crate) fn join<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}
