//! How to draw operations and options at random, so that a failure shrinks.

use std::ops::Bound;
use std::ops::Range;

use esker::fs::CrashMode;
use proptest::prelude::*;

use crate::harness::ops::From;
use crate::harness::ops::HOT_KEYS;
use crate::harness::ops::KEYSPACES;
use crate::harness::ops::Key;
use crate::harness::ops::MERGING;
use crate::harness::ops::Move;
use crate::harness::ops::Op;
use crate::harness::ops::Ops;
use crate::harness::ops::SLOTS;
use crate::harness::ops::Settings;
use crate::harness::ops::Value;
use crate::harness::ops::Write;

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
    let until = prop::option::weighted(0.3, key());
    (0..KEYSPACES, key(), prop::option::weighted(0.7, value()), until, any::<bool>()).prop_map(
        |(keyspace, key, value, until, merge)| Write { keyspace, key, value, until, merge },
    )
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
        8 => (key(), value(), 0..4_u8).prop_map(|(key, value, n)| Op::PutFor(key, value, n)),
        2 => Just(Op::Wait),
        10 => (MERGING..KEYSPACES, key(), value())
            .prop_map(|(ks, key, value)| Op::Merge(ks, key, value)),
        8 => (0..KEYSPACES, key()).prop_map(|(ks, key)| Op::Delete(ks, key)),
        3 => (0..KEYSPACES, (bound(), bound()))
            .prop_map(|(ks, range)| Op::DeleteRange(ks, range)),
        1 => (0..KEYSPACES, key(), 0..6_u8)
            .prop_map(|(ks, key, len)| Op::DeletePrefix(ks, key, len)),
        4 => (0..KEYSPACES, key(), 8..64_u8, value())
            .prop_map(|(ks, key, n, value)| Op::Fill(ks, key, n, value)),
        2 => (0..KEYSPACES, key(), any::<u8>()).prop_map(|(ks, key, n)| Op::Drain(ks, key, n)),
        3 => (prop::collection::vec(write(), 0..8), prop::bool::weighted(0.7))
            .prop_map(|(writes, commit)| Op::Transact { writes, commit }),
        3 => (0..KEYSPACES, key(), prop::option::weighted(0.7, value()), any::<bool>())
            .prop_map(|(keyspace, key, value, right)| Op::Swap { keyspace, key, value, right }),
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

/// Draws a run of operations.
pub(crate) fn ops(len: Range<usize>) -> impl Strategy<Value = Ops> {
    prop::collection::vec(op(), len).prop_map(Ops)
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
        prop::sample::select(&[0_usize, 40, 300, 1000, usize::MAX][..]),
    );
    (sizes, switches).prop_map(|(sizes, switches)| {
        let (memtable, block, file, wal, budget) = sizes;
        let (lz4, mmap, filter_bits, threads, eager_tombstones, separate) = switches;
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
            separate,
        }
    })
}
