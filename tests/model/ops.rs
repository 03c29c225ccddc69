//! What may happen to a database, as data, and how to draw it at random.

use std::fmt;
use std::ops::Bound;
use std::ops::Range;
use std::time::Duration;

use esker::Compression;
use esker::Options;
use esker::fs::CrashMode;
use proptest::prelude::*;

/// Keyspaces: the default one and two others.
pub(crate) const KEYSPACES: usize = 3;
/// Snapshots, iterators and cursors that are held at once, of each.
pub(crate) const SLOTS: usize = 3;

/// A key of a small pool: an index, so that it shrinks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) u8);

/// Up to here keys are drawn three times out of four, so that they are met again.
const HOT_KEYS: u8 = 48;

impl Key {
    /// The pool has the empty key, keys of zeros and of 0xff bytes, long shared prefixes on both
    /// sides of 16 bytes, and keys of some 300 bytes.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let n = self.0;
        match n {
            0 => Vec::new(),
            1..=3 => vec![0; usize::from(n)],
            4..=6 => vec![0xff; usize::from(n - 3)],
            7 => vec![0, 0xff],
            8 => b"a".to_vec(),
            9 => b"a\0".to_vec(),
            10 => b"a\0\0".to_vec(),
            11 => b"a\xff".to_vec(),
            12 => b"ab".to_vec(),
            13..=19 => [&[b'p'; 15][..], &[n, b'!']].concat(),
            20..=26 => [&[b'p'; 16][..], &[n]].concat(),
            27..=30 => [&[b'q'; 300][..], &[n]].concat(),
            31 => vec![b'q'; 299],
            _ => format!("key{n:03}").into_bytes(),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

/// A value, by its length and a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) len: u16,
    pub(crate) seed: u8,
    /// Can it be compressed?
    pub(crate) plain: bool,
}

impl Value {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut x = u32::from(self.seed) << 16 | u32::from(self.len) | 1;
        let next = |x: &mut u32| {
            *x ^= *x << 13;
            *x ^= *x >> 17;
            *x ^= *x << 5;
            *x as u8
        };
        (0..self.len).map(|_| if self.plain { self.seed } else { next(&mut x) }).collect()
    }
}

/// One operation of a batch; a delete if it has no value.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) keyspace: usize,
    pub(crate) key: Key,
    pub(crate) value: Option<Value>,
}

/// Who reads what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct From {
    /// The snapshot in this slot if there is one, else the newest state.
    pub(crate) snapshot: Option<usize>,
    pub(crate) keyspace: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Move {
    Seek(Key),
    SeekForPrev(Key),
    First,
    Last,
    Next,
    Prev,
}

pub(crate) type KeyRange = (Bound<Key>, Bound<Key>);

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(usize, Key, Value),
    Delete(usize, Key),
    /// Puts this many keys in a row, one by one.
    Fill(usize, Key, u8, Value),
    /// With `Durability::Os` if `unsynced`.
    Batch {
        writes: Vec<Write>,
        unsynced: bool,
    },
    Sync,
    Get(From, Key),
    MultiGet(From, Vec<Key>),
    /// `ends` tells which end gives the next entry, in turn; true: the back.
    Scan {
        from: From,
        range: KeyRange,
        ends: Vec<bool>,
    },
    Prefix {
        from: From,
        prefix: Key,
        len: u8,
        reverse: bool,
    },
    Walk(From, Vec<Move>),
    TakeSnapshot(usize),
    DropSnapshot(usize),
    HoldIter {
        slot: usize,
        from: From,
        range: KeyRange,
    },
    StepIter {
        slot: usize,
        ends: Vec<bool>,
    },
    HoldCursor {
        slot: usize,
        from: From,
    },
    MoveCursor {
        slot: usize,
        moves: Vec<Move>,
    },
    Flush,
    CompactRange(usize, KeyRange),
    RunOneJob,
    /// Runs jobs until none is due.
    Settle,
    Reopen,
    Crash {
        mode: CrashMode,
        seed: u64,
    },
    /// Crashes before the n-th change of the file system from here on, in the midst of whatever
    /// then happens.
    CrashAtEvent {
        n: u8,
        mode: CrashMode,
        seed: u64,
    },
    DropKeyspace(usize),
    Verify,
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![3 => 0..HOT_KEYS, 1 => HOT_KEYS..=u8::MAX].prop_map(Key)
}

fn value() -> impl Strategy<Value = Value> {
    let len = prop_oneof![
        2 => Just(0_u16),
        8 => 1_u16..60,
        6 => 60_u16..600,
        2 => 1000_u16..1100,
        1 => 2000_u16..6000,
    ];
    (len, any::<u8>(), any::<bool>()).prop_map(|(len, seed, plain)| Value { len, seed, plain })
}

fn write() -> impl Strategy<Value = Write> {
    (0..KEYSPACES, key(), prop::option::weighted(0.7, value()))
        .prop_map(|(keyspace, key, value)| Write { keyspace, key, value })
}

fn from() -> impl Strategy<Value = From> {
    (prop::option::weighted(0.4, 0..SLOTS), 0..KEYSPACES)
        .prop_map(|(snapshot, keyspace)| From { snapshot, keyspace })
}

fn bound() -> impl Strategy<Value = Bound<Key>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
    ]
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        1 => key().prop_map(Move::Seek),
        1 => key().prop_map(Move::SeekForPrev),
        1 => Just(Move::First),
        1 => Just(Move::Last),
        5 => Just(Move::Next),
        5 => Just(Move::Prev),
    ];
    prop::collection::vec(one, 1..24)
}

fn ends() -> impl Strategy<Value = Vec<bool>> {
    prop_oneof![
        Just(vec![false]),
        Just(vec![true]),
        Just(vec![false, true]),
        prop::collection::vec(any::<bool>(), 1..8),
    ]
}

fn mode() -> impl Strategy<Value = CrashMode> {
    prop::sample::select(CrashMode::ALL.to_vec())
}

fn reads() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (from(), key()).prop_map(|(from, key)| Op::Get(from, key)),
        2 => (from(), prop::collection::vec(key(), 0..10))
            .prop_map(|(from, keys)| Op::MultiGet(from, keys)),
        4 => (from(), (bound(), bound()), ends())
            .prop_map(|(from, range, ends)| Op::Scan { from, range, ends }),
        2 => (from(), key(), 0..20_u8, any::<bool>())
            .prop_map(|(from, prefix, len, reverse)| Op::Prefix { from, prefix, len, reverse }),
        3 => (from(), moves()).prop_map(|(from, moves)| Op::Walk(from, moves)),
        2 => (0..SLOTS, ends()).prop_map(|(slot, ends)| Op::StepIter { slot, ends }),
        2 => (0..SLOTS, moves()).prop_map(|(slot, moves)| Op::MoveCursor { slot, moves }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => (0..KEYSPACES, key(), value()).prop_map(|(ks, key, value)| Op::Put(ks, key, value)),
        8 => (0..KEYSPACES, key()).prop_map(|(ks, key)| Op::Delete(ks, key)),
        4 => (0..KEYSPACES, key(), 8..64_u8, value())
            .prop_map(|(ks, key, n, value)| Op::Fill(ks, key, n, value)),
        8 => (prop::collection::vec(write(), 0..12), any::<bool>())
            .prop_map(|(writes, unsynced)| Op::Batch { writes, unsynced }),
        20 => reads(),
        2 => (0..SLOTS).prop_map(Op::TakeSnapshot),
        1 => (0..SLOTS).prop_map(Op::DropSnapshot),
        1 => (0..SLOTS, from(), (bound(), bound()))
            .prop_map(|(slot, from, range)| Op::HoldIter { slot, from, range }),
        1 => (0..SLOTS, from()).prop_map(|(slot, from)| Op::HoldCursor { slot, from }),
        1 => Just(Op::Sync),
        2 => Just(Op::Flush),
        1 => (0..KEYSPACES, (bound(), bound()))
            .prop_map(|(ks, range)| Op::CompactRange(ks, range)),
        5 => Just(Op::RunOneJob),
        2 => Just(Op::Settle),
        1 => Just(Op::Reopen),
        1 => (mode(), any::<u64>()).prop_map(|(mode, seed)| Op::Crash { mode, seed }),
        1 => (any::<u8>(), mode(), any::<u64>())
            .prop_map(|(n, mode, seed)| Op::CrashAtEvent { n, mode, seed }),
        1 => (1..KEYSPACES).prop_map(Op::DropKeyspace),
        1 => Just(Op::Verify),
    ]
}

/// A run of operations; prints one per line.
#[derive(Clone)]
pub(crate) struct Ops(pub(crate) Vec<Op>);

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|op| write!(f, "\n    {op:?},"))
    }
}

/// Draws a run of operations.
pub(crate) fn ops(len: Range<usize>) -> impl Strategy<Value = Ops> {
    prop::collection::vec(op(), len).prop_map(Ops)
}

/// How the database is opened, as data.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) memtable: usize,
    pub(crate) block: usize,
    pub(crate) file: u64,
    pub(crate) wal: u64,
    pub(crate) budget: usize,
    pub(crate) lz4: bool,
    pub(crate) mmap: bool,
    pub(crate) filter_bits: u32,
    pub(crate) threads: usize,
    pub(crate) eager_tombstones: bool,
}

impl Settings {
    pub(crate) fn options(&self) -> Options {
        let age = if self.eager_tombstones { 1 } else { 86_400_000 };
        Options::new()
            .memtable_bytes(self.memtable)
            .block_bytes(self.block)
            .file_bytes(self.file)
            .wal_bytes(self.wal)
            .memory_budget(self.budget)
            .compression(if self.lz4 { Compression::Lz4 } else { Compression::None })
            .mmap(self.mmap)
            .filter_bits_per_key(self.filter_bits)
            .background_threads(self.threads)
            .tombstone_age(Duration::from_millis(age))
    }
}

/// Settings so small that a hundred operations reach the deepest level.
pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    let kib = |sizes: &'static [u64]| prop::sample::select(sizes).prop_map(|size| size << 10);
    let sizes = (
        kib(&[1, 2, 4, 8]),
        prop::sample::select(&[256_usize, 512, 1024][..]),
        kib(&[4, 8, 16]),
        kib(&[16, 32, 64]),
        kib(&[32, 128, 1024]),
    );
    let switches = (
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(&[0_u32, 10][..]),
        prop::sample::select(&[0_usize, 0, 0, 2][..]),
        prop::bool::weighted(0.2),
    );
    (sizes, switches).prop_map(|(sizes, switches)| {
        let (memtable, block, file, wal, budget) = sizes;
        let (lz4, mmap, filter_bits, threads, eager_tombstones) = switches;
        Settings {
            memtable: memtable as usize,
            block,
            file,
            wal,
            budget: budget as usize,
            lz4,
            mmap,
            filter_bits,
            threads,
            eager_tombstones,
        }
    })
}
