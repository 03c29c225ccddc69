//! What may happen to a database, as data, and how to draw it from choices.

use std::fmt;
use std::ops::Bound;
use std::time::Duration;

use esker::Compression;
use esker::Options;
use esker::fs::CrashMode;

use crate::harness::choices::Choices;

/// Keyspaces: the default one and two others.
pub(crate) const KEYSPACES: usize = 3;
/// From here on keyspaces have an operator that appends operands with commas.
pub(crate) const MERGING: usize = 1;
/// The keyspace with values that expire, too.
pub(crate) const EXPIRING: usize = 2;
/// Snapshots, iterators and cursors that are held at once, of each.
pub(crate) const SLOTS: usize = 3;

/// A key of a small pool: an index, so that it shrinks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) u8);

/// Up to here keys are drawn three times out of four, so that they are met again.
pub(crate) const HOT_KEYS: u8 = 48;

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

/// One operation of a batch; a delete if it has no value, up to another key if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) keyspace: usize,
    pub(crate) key: Key,
    pub(crate) value: Option<Value>,
    pub(crate) until: Option<Key>,
    /// An operand rather than a value, in a keyspace that merges.
    pub(crate) merge: bool,
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
    DeleteRange(usize, KeyRange),
    /// All keys that begin with the first so many bytes of the key.
    DeletePrefix(usize, Key, u8),
    /// In a keyspace that merges.
    Merge(usize, Key, Value),
    /// In the keyspace with values that expire: one that does after so many waits.
    PutFor(Key, Value, u8),
    Wait,
    /// Puts this many keys in a row, one by one.
    Fill(usize, Key, u8, Value),
    /// Deletes this many keys in a row, one by one, and looks again and again at what is left.
    Drain(usize, Key, u8),
    /// In a transaction that looks at all that it reads and writes, and is rolled back or not.
    Transact {
        writes: Vec<Write>,
        commit: bool,
    },
    /// Puts a value, or deletes the key, if it holds what is expected; `right`: it does.
    Swap {
        keyspace: usize,
        key: Key,
        value: Option<Value>,
        right: bool,
    },
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

/// A run of operations; prints one per line.
#[derive(Clone)]
pub(crate) struct Ops(pub(crate) Vec<Op>);

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|op| write!(f, "\n    {op:?},"))
    }
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
    /// Values of so many bytes lie apart, most of the time.
    pub(crate) separate: usize,
}

impl Settings {
    pub(crate) fn options(&self) -> Options {
        let age = if self.eager_tombstones { 1 } else { 86_400_000 };
        Options::new()
            .memtable_bytes(self.memtable)
            .block_bytes(self.block)
            .file_bytes(self.file)
            .wal_bytes(self.wal)
            .log_retention(if self.lz4 { 4 * self.wal } else { 0 }, Duration::MAX)
            .memory_budget(self.budget)
            .compression(if self.lz4 { Compression::Lz4 } else { Compression::None })
            .mmap(self.mmap)
            .filter_bits_per_key(self.filter_bits)
            .background_threads(self.threads)
            .tombstone_age(Duration::from_millis(age))
    }
}

impl Key {
    fn draw(choices: &mut Choices) -> Key {
        match choices.below(4) {
            0..3 => Key(choices.below(u64::from(HOT_KEYS)) as u8),
            _ => Key(choices.below(256) as u8),
        }
    }
}

impl Value {
    fn draw(choices: &mut Choices) -> Value {
        let len = match choices.below(20) {
            0..2 => 0,
            2..12 => 1 + choices.below(60),
            12..17 => 60 + choices.below(256) * 2,
            17..19 => 1000 + choices.below(100),
            _ => 2000 + choices.below(256) * 16,
        };
        let seed = choices.below(256) as u8;
        Value { len: len as u16, seed, plain: seed & 1 == 1 }
    }
}

impl Write {
    fn draw(choices: &mut Choices) -> Write {
        let keyspace = choices.index(KEYSPACES);
        let key = Key::draw(choices);
        let value = (choices.below(3) < 2).then(|| Value::draw(choices));
        let merge = value.is_some_and(|value| value.seed % 4 > 1);
        let ranged = value.is_none() && choices.below(3) == 0;
        let until = ranged.then(|| Key::draw(choices));
        Write { keyspace, key, value, until, merge }
    }
}

impl From {
    fn draw(choices: &mut Choices) -> From {
        let snapshot = match choices.index(2 * SLOTS) {
            slot @ 0..SLOTS => Some(slot),
            _ => None,
        };
        From { snapshot, keyspace: choices.index(KEYSPACES) }
    }
}

fn draw_bound(choices: &mut Choices) -> Bound<Key> {
    match choices.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(Key::draw(choices)),
        _ => Bound::Excluded(Key::draw(choices)),
    }
}

fn draw_range(choices: &mut Choices) -> KeyRange {
    (draw_bound(choices), draw_bound(choices))
}

fn draw_moves(choices: &mut Choices) -> Vec<Move> {
    let count = 1 + choices.below(16);
    let draw = |_| match choices.below(16) {
        0..2 => Move::Seek(Key::draw(choices)),
        2..4 => Move::SeekForPrev(Key::draw(choices)),
        4 => Move::First,
        5 => Move::Last,
        6..11 => Move::Next,
        _ => Move::Prev,
    };
    (0..count).map(draw).collect()
}

/// Up to seven ends, as bits.
fn draw_ends(choices: &mut Choices) -> Vec<bool> {
    let bits = choices.below(256);
    let count = 1 + bits % 7;
    (1..=count).map(|n| bits >> n & 1 == 1).collect()
}

impl Op {
    pub(crate) fn draw(choices: &mut Choices) -> Op {
        let choice = choices.below(256);
        if let 128..146 = choice {
            return Op::draw_change(choice, choices);
        }
        match choice % 128 {
            0..17 => Op::Put(choices.index(KEYSPACES), Key::draw(choices), Value::draw(choices)),
            17..19 => Op::DeleteRange(choices.index(KEYSPACES), draw_range(choices)),
            19 => {
                let (keyspace, key) = (choices.index(KEYSPACES), Key::draw(choices));
                Op::DeletePrefix(keyspace, key, choices.below(6) as u8)
            }
            20..24 => Op::PutFor(Key::draw(choices), Value::draw(choices), choices.below(4) as u8),
            24..32 => {
                let (key, value) = (Key::draw(choices), Value::draw(choices));
                // No choice of its own, so that inputs keep their meaning.
                Op::Merge(if value.seed & 2 == 0 { MERGING } else { EXPIRING }, key, value)
            }
            32..42 => Op::Delete(choices.index(KEYSPACES), Key::draw(choices)),
            42..48 => {
                let (keyspace, first) = (choices.index(KEYSPACES), Key::draw(choices));
                Op::Fill(keyspace, first, choices.below(32) as u8, Value::draw(choices))
            }
            48..60 => {
                let count = choices.below(12);
                let writes = (0..count).map(|_| Write::draw(choices)).collect();
                Op::Batch { writes, unsynced: choices.below(2) == 1 }
            }
            60..92 => Op::draw_read(choices),
            92..98 => Op::draw_held(choices),
            98 => Op::Sync,
            99 => Op::Wait,
            100..103 => Op::Flush,
            103..105 => Op::CompactRange(choices.index(KEYSPACES), draw_range(choices)),
            105..113 => Op::RunOneJob,
            113..115 => Op::Settle,
            115..118 => Op::Reopen,
            118..120 => Op::Crash { mode: choices.pick(&CrashMode::ALL), seed: choices.below(256) },
            120..123 => Op::CrashAtEvent {
                n: choices.below(256) as u8,
                mode: choices.pick(&CrashMode::ALL),
                seed: choices.below(256),
            },
            123..126 => Op::DropKeyspace(1 + choices.index(KEYSPACES - 1)),
            _ => Op::Verify,
        }
    }

    fn draw_change(choice: u64, choices: &mut Choices) -> Op {
        let (keyspace, key) = (choices.index(KEYSPACES), Key::draw(choices));
        match choice {
            128..134 => Op::Drain(keyspace, key, choices.below(256) as u8),
            134..140 => {
                let count = choices.below(8);
                let writes = (0..count).map(|_| Write::draw(choices)).collect();
                Op::Transact { writes, commit: choices.below(4) > 0 }
            }
            _ => {
                let value = (choices.below(3) < 2).then(|| Value::draw(choices));
                Op::Swap { keyspace, key, value, right: choices.below(4) > 0 }
            }
        }
    }

    fn draw_read(choices: &mut Choices) -> Op {
        match choices.below(16) {
            0..4 => Op::Get(From::draw(choices), Key::draw(choices)),
            4 => {
                let (from, count) = (From::draw(choices), choices.below(10));
                Op::MultiGet(from, (0..count).map(|_| Key::draw(choices)).collect())
            }
            5..8 => Op::Scan {
                from: From::draw(choices),
                range: draw_range(choices),
                ends: draw_ends(choices),
            },
            8 => Op::Prefix {
                from: From::draw(choices),
                prefix: Key::draw(choices),
                len: choices.below(20) as u8,
                reverse: choices.below(2) == 1,
            },
            9..12 => Op::Walk(From::draw(choices), draw_moves(choices)),
            12..14 => Op::StepIter { slot: choices.index(SLOTS), ends: draw_ends(choices) },
            _ => Op::MoveCursor { slot: choices.index(SLOTS), moves: draw_moves(choices) },
        }
    }

    fn draw_held(choices: &mut Choices) -> Op {
        let slot = choices.index(SLOTS);
        match choices.below(6) {
            0..2 => Op::TakeSnapshot(slot),
            2 => Op::DropSnapshot(slot),
            3 | 4 => {
                let from = From::draw(choices);
                Op::HoldIter { slot, from, range: draw_range(choices) }
            }
            _ => Op::HoldCursor { slot, from: From::draw(choices) },
        }
    }
}

impl Settings {
    /// Without threads, so that all runs are alike.
    pub(crate) fn draw(choices: &mut Choices) -> Settings {
        let size = choices.index(4);
        let bits = choices.below(256);
        Settings {
            memtable: 1024 << size,
            // No choice of its own, so that inputs keep their meaning.
            separate: [usize::MAX, 50, 300, 1000][size],
            block: 256 << (bits & 1),
            file: 4096 << (bits >> 1 & 1),
            wal: 16 << 10 << (bits >> 2 & 1),
            budget: if bits >> 3 & 1 == 1 { 1 << 20 } else { 32 << 10 },
            lz4: bits >> 4 & 1 == 0,
            mmap: bits >> 5 & 1 == 0,
            filter_bits: if bits >> 6 & 1 == 1 { 0 } else { 10 },
            threads: 0,
            eager_tombstones: bits >> 7 == 1,
        }
    }
}
