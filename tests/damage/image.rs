//! The databases that are damaged, and the ways to damage a file.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use esker::Clock;
use esker::Compression;
use esker::Db;
use esker::Durability;
use esker::Options;
use esker::Result;
use esker::WriteBatch;
use esker::fs::CrashMode;
use esker::fs::Fs as _;
use esker::fs::MemFs;
use esker::fs::ReadMode;

pub(crate) const DIR: &str = "/db";

/// Contents by keyspace and key.
pub(crate) type State = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Time and random numbers that are the same in every run.
#[derive(Debug)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.fetch_add(1, Relaxed))
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.fetch_add(1, Relaxed)
    }

    fn unique(&self) -> u64 {
        mix(self.0.fetch_add(1, Relaxed))
    }
}

pub(crate) fn mix(n: u64) -> u64 {
    let mut n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Are all bytes to be tried?
pub(crate) fn all() -> bool {
    std::env::var("ESKER_DAMAGE_ALL").is_ok()
}

/// One in `n`, or all of them.
pub(crate) fn one_in(n: usize) -> usize {
    if all() { 1 } else { n }
}

/// `bytes` with the one at `at` flipped: one bit of it, or all.
pub(crate) fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    damaged[at] ^= if at.is_multiple_of(2) { 1 << (at / 2 % 8) } else { 0xff };
    damaged
}

/// Shows `judge` `bytes` with zeros in a range, for ranges of several lengths that begin before `end`,
/// every `step` of the length; and which range it is. Not where there are zeros already.
pub(crate) fn each_zeroed(
    bytes: &[u8],
    end: usize,
    step: impl Fn(usize) -> usize,
    mut judge: impl FnMut(Range<usize>, &[u8]),
) {
    for len in [16, 512, 4096] {
        for start in (0..end).step_by(step(len)) {
            let range = start..(start + len).min(bytes.len());
            let mut damaged = bytes.to_vec();
            damaged[range.clone()].fill(0);
            if damaged != bytes {
                judge(range, &damaged);
            }
        }
    }
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

pub(crate) fn read(fs: &MemFs, name: &str) -> Vec<u8> {
    let file = fs.open(&path(name), ReadMode::Pread).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

pub(crate) fn replace(fs: &MemFs, name: &str, bytes: &[u8]) {
    if fs.exists(&path(name)).unwrap() {
        fs.remove(&path(name)).unwrap();
    }
    fs.create(&path(name)).unwrap().write_at(0, bytes).unwrap();
}

/// Every file with its content; that of LOCK means nothing.
pub(crate) fn all_bytes(fs: &MemFs) -> BTreeMap<String, Option<Vec<u8>>> {
    let entries = fs.list(Path::new(DIR)).unwrap().into_iter().filter(|entry| entry.name != "LOCK");
    entries
        .map(|entry| {
            let bytes = (!entry.is_dir).then(|| read(fs, &entry.name));
            (entry.name, bytes)
        })
        .collect()
}

/// A database at rest, and what it holds.
pub(crate) struct Image {
    pub(crate) name: &'static str,
    pub(crate) fs: MemFs,
    pub(crate) model: State,
    /// After each batch: the last sequence number, and the contents. The first is the empty one.
    pub(crate) steps: Vec<(u64, State)>,
    /// Everything up to this sequence number was flushed to SSTs.
    pub(crate) flushed: u64,
    /// Was it closed, and not cut off?
    pub(crate) closed: bool,
}

impl Image {
    pub(crate) fn copy(&self) -> MemFs {
        self.fs.crash_clone(CrashMode::KeepAll, 0)
    }

    pub(crate) fn files(&self, suffix: &str) -> Vec<String> {
        let entries = self.fs.list(Path::new(DIR)).unwrap();
        let names = entries.into_iter().map(|entry| entry.name);
        names.filter(|name| name.contains(suffix)).collect()
    }

    /// All keys that were ever written, and some that were not, by keyspace.
    pub(crate) fn probes(&self) -> BTreeSet<(String, Vec<u8>)> {
        let mut probes = BTreeSet::new();
        for (_, state) in self.steps.iter().filter(|(seqno, _)| seqno % 5 == 0) {
            for (name, entries) in state {
                probes.extend(entries.keys().map(|key| (name.clone(), key.clone())));
            }
        }
        for (name, entries) in &self.model {
            probes.extend(entries.keys().map(|key| (name.clone(), key.clone())));
            probes.insert((name.clone(), b"absent".to_vec()));
            probes.insert((name.clone(), b"key010absent".to_vec()));
        }
        probes
    }
}

pub(crate) fn options(fs: &MemFs) -> Options {
    Options::new()
        .memtable_bytes(32 << 10)
        .block_bytes(256)
        .file_bytes(4 << 10)
        .wal_bytes(64 << 10)
        .memory_budget(1 << 20)
        .durability(Durability::Os)
        .background_threads(0)
        .clock(Arc::new(TestClock(AtomicU64::new(1000))))
        .fs(Arc::new(fs.clone()))
}

/// Makes a database, and the model beside it.
pub(crate) struct Maker {
    pub(crate) fs: MemFs,
    pub(crate) db: Db,
    pub(crate) steps: Vec<(u64, State)>,
    pub(crate) flushed: u64,
    seed: u64,
}

impl Maker {
    pub(crate) fn new(seed: u64) -> Maker {
        Maker::with(seed, |options| options)
    }

    /// With other options.
    pub(crate) fn with(seed: u64, set: impl Fn(Options) -> Options) -> Maker {
        let fs = MemFs::new();
        let clock = TestClock(AtomicU64::new(seed << 32));
        let db = set(options(&fs)).clock(Arc::new(clock)).open(DIR).unwrap();
        Maker { fs, db, steps: vec![(0, State::new())], flushed: 0, seed }
    }

    pub(crate) fn last(&self) -> u64 {
        self.steps.last().unwrap().0
    }

    /// Writes a batch to keys `keys` of keyspace `name`; every seventh is deleted.
    pub(crate) fn put(&mut self, name: &str, keys: &[u32], len: usize, durability: Durability) {
        let keyspace = self.db.keyspace(name).unwrap();
        let (seqno, mut state) = self.steps.last().unwrap().clone();
        let entries = state.entry(name.to_owned()).or_default();
        let mut batch = WriteBatch::new();
        batch.durability(durability);
        for (n, key) in keys.iter().enumerate() {
            let at = mix(self.seed ^ (seqno + n as u64));
            let key = format!("key{key:03}").into_bytes();
            if at.is_multiple_of(7) {
                batch.delete(&keyspace, &key);
                entries.remove(&key);
            } else {
                let value = format!("{at:x} of {seqno} {}", "abcd".repeat(len / 4)).into_bytes();
                batch.put(&keyspace, &key, &value);
                entries.insert(key, value);
            }
        }
        self.db.write(batch).unwrap();
        state.retain(|_, entries| !entries.is_empty());
        self.steps.push((seqno + keys.len() as u64, state));
        assert_eq!(self.db.seqno().get(), self.last());
    }

    pub(crate) fn flush(&mut self) {
        self.db.flush().unwrap();
        self.flushed = self.last();
    }

    /// Files of the deepest level, compressed.
    pub(crate) fn bottom(&mut self, name: &str, keys: std::ops::Range<u32>) {
        for part in keys.collect::<Vec<_>>().chunks(10) {
            self.put(name, part, 60, Durability::Os);
        }
        self.flush();
        self.db.keyspace(name).unwrap().compact_range::<&[u8], _>(..).unwrap();
    }

    pub(crate) fn reopen(self) -> Maker {
        let Maker { fs, db, steps, flushed, seed } = self;
        db.close().unwrap();
        let db = options(&fs).open(DIR).unwrap();
        Maker { fs, db, steps, flushed, seed }
    }

    pub(crate) fn closed(self, name: &'static str) -> Image {
        let Maker { fs, db, steps, flushed, .. } = self;
        db.close().unwrap();
        let model = steps.last().unwrap().1.clone();
        Image { name, fs, model, steps, flushed, closed: true }
    }

    /// The process dies: all that it wrote is there.
    pub(crate) fn crashed(self, name: &'static str) -> Image {
        let Maker { fs, db, steps, flushed, .. } = self;
        let left = fs.crash_clone(CrashMode::KeepAll, 0);
        drop(db);
        let model = steps.last().unwrap().1.clone();
        Image { name, fs: left, model, steps, flushed, closed: false }
    }
}

/// Two keyspaces, a level of compressed files, raw ones in level 0, overwritten and deleted keys.
pub(crate) fn with_levels() -> Maker {
    with_levels_as(1)
}

/// The same entries under another identity.
pub(crate) fn with_levels_as(identity: u64) -> Maker {
    with_levels_in(Maker { seed: 1, ..Maker::new(identity) })
}

/// The same entries in a database that is there.
pub(crate) fn with_levels_in(mut maker: Maker) -> Maker {
    maker.bottom("default", 0..60);
    maker.bottom("side", 0..20);
    maker.put("default", &(0..60).step_by(3).collect::<Vec<_>>(), 40, Durability::Os);
    maker.put("side", &[3, 5, 7], 40, Durability::Os);
    maker.flush();
    maker.put("default", &(0..60).step_by(5).collect::<Vec<_>>(), 200, Durability::Os);
    maker.flush();
    maker.put("default", &[1, 2, 61], 40, Durability::Os);
    maker
}

/// Files without filters and compression, in which the versions of a few keys go on over many
/// blocks, since a snapshot was taken before each; and with values longer than blocks.
pub(crate) fn with_versions() -> Maker {
    let plain = |options: Options| {
        options.filter_bits_per_key(0).compression(Compression::None).file_bytes(64 << 10)
    };
    let mut maker = Maker::with(7, plain);
    let mut snapshots = Vec::new();
    for n in 0..24 {
        maker.put("default", &[n % 3, 10 + n], 100, Durability::Os);
        snapshots.push(maker.db.snapshot());
    }
    maker.put("default", &[50, 51], 700, Durability::Os);
    maker.flush();
    maker.db.compact_range::<&[u8], _>(..).unwrap();
    for n in 0..8 {
        maker.put("default", &[1, 20 + n], 100, Durability::Os);
        snapshots.push(maker.db.snapshot());
    }
    maker.flush();
    let levels = maker.db.stats().keyspaces.into_iter().flat_map(|keyspace| keyspace.levels);
    let entries: u64 = levels.map(|level| level.entries).sum();
    assert!(entries > 60, "only {entries} entries: the versions are not there");
    maker
}

/// A log of several segments, some of them used for the second time, with batches over two
/// keyspaces, every third one synced; and a segment prepared.
pub(crate) fn with_log(tail: usize) -> Maker {
    let mut maker = Maker::new(2);
    maker.put("side", &[1, 2], 20, Durability::Os);
    for n in 0..60_u32 {
        maker.put("default", &[n % 12], 600, Durability::Os);
        while maker.db.run_one_job().unwrap() {}
    }
    maker.flush();
    while maker.db.run_one_job().unwrap() {}
    for n in 0..40_u32 {
        let durability = if n % 3 == 0 { Durability::Sync } else { Durability::Os };
        let name = if n % 4 == 0 { "side" } else { "default" };
        maker.put(name, &[n % 12, (n + 5) % 12], 300, durability);
        while maker.db.run_one_job().unwrap() {}
    }
    for n in 0..tail {
        maker.put("default", &[n as u32, n as u32 + 1], 20, Durability::Os);
    }
    maker
}

/// Opens a copy, strictly.
pub(crate) fn open(fs: &MemFs, mmap: bool) -> Result<Db> {
    options(fs).mmap(mmap).open(DIR)
}
