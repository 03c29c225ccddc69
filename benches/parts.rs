//! The parts of the machine one by one: memtable, data block, filter, SST, merge.
//!
//! Keys have 16 bytes, values 100. Everything is in memory: the figures are processor time and
//! cache misses, of which there are more the larger the structure is.

mod numbers;

use std::hint::black_box;
use std::thread;

use criterion::BatchSize;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use crossbeam_skiplist::SkipMap;

use esker::bench_api::Cursor;
use esker::bench_api::Memtable;
use esker::bench_api::Memtables;
use esker::bench_api::Sst;

use numbers::Numbers;

const VALUE: [u8; 100] = [b'v'; 100];
/// What memtables are expected to grow to.
const BYTES: usize = 64 << 20;
const FILTER_BITS: u32 = 10;
const BLOCK_BYTES: usize = 4096;

/// Key number `n`: 16 decimal digits. Odd ones are never stored.
fn key(n: u64) -> [u8; 16] {
    let mut key = [b'0'; 16];
    let mut rest = n;
    for digit in key.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// A file of every `step`-th of `n` stored keys, from the `first` on.
fn sst(n: u64, first: u64, step: u64, lz4: bool) -> Sst {
    let keys: Vec<_> = (first..n).step_by(step as usize).map(|i| key(2 * i)).collect();
    let entries = keys.iter().map(|key| (&key[..], &VALUE[..]));
    Sst::build(entries, BLOCK_BYTES, lz4, FILTER_BITS).expect("an SST in memory")
}

/// Inserts the keys of these numbers, in this order.
fn fill(memtable: &Memtable, numbers: impl Iterator<Item = u64>) {
    for (seqno, number) in (1..).zip(numbers) {
        memtable.put(&key(2 * number), seqno, &VALUE);
    }
}

/// Every number below `n` once, in random order.
fn shuffled(n: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..n).collect();
    let mut numbers = Numbers(1);
    for i in (1..order.len()).rev() {
        order.swap(i, numbers.below(i as u64 + 1) as usize);
    }
    order
}

fn memtable_inserts(c: &mut Criterion) {
    let mut group = c.benchmark_group("memtable");
    group.sample_size(10);
    let memtables = Memtables::new(BYTES);
    for n in [100_000, 500_000, 1_000_000] {
        let order = shuffled(n);
        group.throughput(Throughput::Elements(n));
        group.bench_function(BenchmarkId::new("insert at random", n), |b| {
            let fill = |memtable: Memtable| {
                fill(&memtable, order.iter().copied());
                memtable
            };
            b.iter_batched(|| memtables.make(), fill, BatchSize::PerIteration);
        });
        group.bench_function(BenchmarkId::new("insert at random, crossbeam-skiplist", n), |b| {
            let fill = |map: SkipMap<[u8; 16], [u8; 100]>| {
                for number in &order {
                    map.insert(key(2 * number), VALUE);
                }
                map
            };
            b.iter_batched(SkipMap::new, fill, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// What is done to an empty memtable.
type Fill<'a> = &'a dyn Fn(&Memtable);

fn memtable_patterns(c: &mut Criterion) {
    let mut group = c.benchmark_group("memtable");
    group.sample_size(10);
    let memtables = Memtables::new(BYTES);
    let n = 500_000;
    group.throughput(Throughput::Elements(n));
    let order = shuffled(n);
    let patterns: [(&str, Fill<'_>); 5] = [
        ("ascending", &|memtable| fill(memtable, 0..n)),
        ("descending", &|memtable| fill(memtable, (0..n).rev())),
        ("sorted batches of 100", &|memtable| {
            let mut numbers = Numbers(6);
            let firsts = (0..n / 100).map(|_| numbers.below(1 << 40));
            fill(memtable, firsts.flat_map(|first| first..first + 100));
        }),
        ("ascending, two threads", &|memtable| {
            thread::scope(|scope| {
                for first in [0, n] {
                    scope.spawn(move || fill(memtable, first..first + n / 2));
                }
            });
        }),
        ("at random, two threads", &|memtable| {
            thread::scope(|scope| {
                for half in order.chunks(order.len() / 2) {
                    scope.spawn(move || fill(memtable, half.iter().copied()));
                }
            });
        }),
    ];
    for (name, pattern) in patterns {
        group.bench_function(BenchmarkId::new(format!("insert {name}"), n), |b| {
            let run = |memtable: Memtable| {
                pattern(&memtable);
                memtable
            };
            b.iter_batched(|| memtables.make(), run, BatchSize::PerIteration);
        });
    }
    let filled = || {
        let memtable = memtables.make();
        fill(&memtable, order.iter().copied());
        memtable
    };
    group.bench_function(BenchmarkId::new("drop", n), |b| {
        b.iter_batched(filled, drop, BatchSize::PerIteration);
    });
    group.finish();
}

fn memtable_reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("memtable");
    let n = 500_000;
    let filled = Memtable::new(BYTES);
    fill(&filled, shuffled(n).into_iter());
    let mut numbers = Numbers(1);
    group.throughput(Throughput::Elements(1));
    group.bench_function("get, 500k", |b| {
        b.iter(|| black_box(filled.get(&key(2 * numbers.below(n)))));
    });
    group.bench_function("get absent, 500k", |b| {
        b.iter(|| black_box(filled.get(&key(2 * numbers.below(n) + 1))));
    });
    let mut cursor = filled.cursor();
    group.bench_function("seek, 500k", |b| {
        b.iter(|| black_box(cursor.seek(&key(2 * numbers.below(n)))));
    });
    group.throughput(Throughput::Elements(n));
    group.sample_size(10);
    group.bench_function("walk, 500k", |b| {
        b.iter(|| {
            let mut bytes = 0;
            let mut valid = cursor.seek_to_first().expect("memory");
            while valid {
                bytes += cursor.entry_len();
                valid = cursor.next().expect("memory");
            }
            black_box(bytes)
        });
    });
    group.bench_function("walk backward, 500k", |b| {
        b.iter(|| {
            let mut bytes = 0;
            let mut valid = cursor.seek_to_last().expect("memory");
            while valid {
                bytes += cursor.entry_len();
                valid = cursor.prev().expect("memory");
            }
            black_box(bytes)
        });
    });
    group.finish();
}

/// One data block: the file has no other.
fn block(c: &mut Criterion) {
    let mut group = c.benchmark_group("block");
    let n = 30;
    let file = sst(n, 0, 1, false);
    assert_eq!(file.data_blocks(), 1);
    let mut numbers = Numbers(3);
    group.throughput(Throughput::Elements(1));
    group.bench_function("point lookup", |b| {
        b.iter(|| black_box(file.get(&key(2 * numbers.below(n)))));
    });
    let mut cursor = file.cursor();
    group.bench_function("seek", |b| {
        b.iter(|| black_box(cursor.seek(&key(2 * numbers.below(n)))));
    });
    group.finish();
}

fn file(c: &mut Criterion) {
    let mut group = c.benchmark_group("sst");
    let n = 500_000;
    let mut numbers = Numbers(4);
    let raw = sst(n, 0, 1, false);
    group.throughput(Throughput::Elements(1));
    group.bench_function("filter probe, 500k", |b| {
        b.iter(|| black_box(raw.may_contain(&key(2 * numbers.below(n) + 1))));
    });
    group.bench_function("get absent, 500k", |b| {
        b.iter(|| black_box(raw.get(&key(2 * numbers.below(n) + 1))));
    });
    for (name, file) in [("raw", &raw), ("lz4", &sst(n, 0, 1, true))] {
        group.bench_function(BenchmarkId::new("get, 500k", name), |b| {
            b.iter(|| black_box(file.get(&key(2 * numbers.below(n)))));
        });
        let mut cursor = file.cursor();
        group.bench_function(BenchmarkId::new("seek, 500k", name), |b| {
            b.iter(|| black_box(cursor.seek(&key(2 * numbers.below(n)))));
        });
    }
    group.finish();
}

/// Keys are dealt out to the sources in turn, so that the winner changes at every step.
fn merge(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge");
    let n = 64_000;
    for sources in [1, 2, 4, 8, 16] {
        let files: Vec<Sst> = (0..sources).map(|first| sst(n, first, sources, false)).collect();
        group.throughput(Throughput::Elements(n));
        group.bench_function(BenchmarkId::new("walk 64k", sources), |b| {
            b.iter(|| {
                let mut cursor = Cursor::merge(&files);
                let mut bytes = 0;
                let mut valid = cursor.seek_to_first().expect("an SST in memory");
                while valid {
                    bytes += cursor.entry_len();
                    valid = cursor.next().expect("an SST in memory");
                }
                black_box(bytes)
            });
        });
        group.throughput(Throughput::Elements(1));
        let mut numbers = Numbers(5);
        let mut cursor = Cursor::merge(&files);
        group.bench_function(BenchmarkId::new("seek", sources), |b| {
            b.iter(|| black_box(cursor.seek(&key(2 * numbers.below(n)))));
        });
    }
    group.finish();
}

criterion_group!(parts, memtable_inserts, memtable_patterns, memtable_reads, block, file, merge);
criterion_main!(parts);
