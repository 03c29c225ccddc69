//! The main operations of a database on the real file system.
//!
//! Keys have 16 bytes, values 100, half of which compress away. Reads run over `ESKER_BENCH_KEYS`
//! keys (default 200,000), loaded in random order and settled. All writes but those of `sync put`
//! have [`Durability::Os`]: a returned put is with the operating system. A fill begins with an empty
//! database and pays for its flushes and compactions as it goes.
//!
//! `TMPDIR` says which disk is measured.

mod numbers;

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use tempfile::TempDir;

use esker::Db;
use esker::Durability;
use esker::Options;
use esker::WriteBatch;

use numbers::Numbers;

const OPS_PER_BATCH: u64 = 100;
const ENTRIES_PER_SCAN: u64 = 10;

impl Numbers {
    fn value(&mut self) -> [u8; 100] {
        let mut value = [b'v'; 100];
        for eight in value[..48].chunks_exact_mut(8) {
            eight.copy_from_slice(&self.next().to_le_bytes());
        }
        value
    }
}

/// Key number `n`: 16 decimal digits. Odd ones are never stored by `loaded`.
fn key(n: u64) -> [u8; 16] {
    let mut key = [b'0'; 16];
    let mut rest = n;
    for digit in key.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

fn empty(durability: Durability) -> (TempDir, Db) {
    let dir = tempfile::tempdir().expect("a directory");
    let db = Options::new().durability(durability).open(dir.path()).expect("a database");
    (dir, db)
}

fn keys() -> u64 {
    let set = std::env::var("ESKER_BENCH_KEYS").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(200_000)
}

/// A database of `n` keys, all on the bottom of the tree.
fn loaded(n: u64) -> (TempDir, Db) {
    let (dir, db) = empty(Durability::Os);
    let mut numbers = Numbers(7);
    // A stride that shares no factor with n visits every key once.
    let stride = (0..n).map(|i| n * 5 / 8 + i).find(|stride| gcd(*stride, n) == 1).unwrap_or(1);
    for i in 0..n {
        db.put(key(2 * (i * stride % n)), numbers.value()).expect("a put");
    }
    db.compact_range::<&[u8], _>(..).expect("a compaction");
    (dir, db)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn writes(c: &mut Criterion) {
    let mut group = c.benchmark_group("write");
    group.throughput(Throughput::Elements(1));
    let mut numbers = Numbers(1);
    group.bench_function("fillseq", |b| {
        let (_dir, db) = empty(Durability::Os);
        let mut n = 0;
        b.iter(|| {
            n += 1;
            db.put(key(n), numbers.value()).expect("a put");
        });
    });
    group.bench_function("fillrandom", |b| {
        let (_dir, db) = empty(Durability::Os);
        b.iter(|| db.put(key(numbers.below(1 << 40)), numbers.value()).expect("a put"));
    });
    group.bench_function("sync put", |b| {
        let (_dir, db) = empty(Durability::Sync);
        b.iter(|| db.put(key(numbers.below(1 << 40)), numbers.value()).expect("a put"));
    });
    group.throughput(Throughput::Elements(OPS_PER_BATCH));
    group.bench_function("batch of 100", |b| {
        let (_dir, db) = empty(Durability::Os);
        b.iter(|| {
            let mut batch = WriteBatch::new();
            for _ in 0..OPS_PER_BATCH {
                batch.put(&db, key(numbers.below(1 << 40)), numbers.value());
            }
            db.write(batch).expect("a write");
        });
    });
    group.finish();
}

fn reads(c: &mut Criterion) {
    let n = keys();
    let (_dir, db) = loaded(n);
    let mut numbers = Numbers(2);
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(1));
    group.bench_function("readrandom", |b| {
        b.iter(|| black_box(db.get(key(2 * numbers.below(n))).expect("a get").expect("a value")));
    });
    group.bench_function("readmissing", |b| {
        b.iter(|| black_box(db.get(key(2 * numbers.below(n) + 1)).expect("a get")));
    });
    group.bench_function("seekrandom, then 10 next", |b| {
        let mut cursor = db.cursor();
        b.iter(|| {
            let mut bytes = 0;
            let mut valid = cursor.seek(key(2 * numbers.below(n))).expect("a seek");
            for _ in 0..ENTRIES_PER_SCAN {
                if !valid {
                    break;
                }
                bytes += cursor.value().map_or(0, <[u8]>::len);
                valid = cursor.next().expect("a step");
            }
            black_box(bytes)
        });
    });
    group.bench_function("range, first 10", |b| {
        b.iter(|| {
            let from = key(2 * numbers.below(n));
            black_box(db.range(&from[..]..).take(ENTRIES_PER_SCAN as usize).count())
        });
    });
    group.throughput(Throughput::Elements(n));
    group.bench_function("readseq, whole database", |b| {
        b.iter(|| {
            let mut cursor = db.cursor();
            let mut bytes = 0;
            let mut valid = cursor.seek_to_first().expect("a seek");
            while valid {
                bytes += cursor.value().map_or(0, <[u8]>::len);
                valid = cursor.next().expect("a step");
            }
            black_box(bytes)
        });
    });
    group.bench_function("readreverse, whole database", |b| {
        b.iter(|| {
            let mut cursor = db.cursor();
            let mut bytes = 0;
            let mut valid = cursor.seek_to_last().expect("a seek");
            while valid {
                bytes += cursor.value().map_or(0, <[u8]>::len);
                valid = cursor.prev().expect("a step");
            }
            black_box(bytes)
        });
    });
    group.finish();
}

fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! { name = db; config = config(); targets = writes, reads }
criterion_main!(db);
