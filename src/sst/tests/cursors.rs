//! Cursors: random walks against a sorted list, and what they ask of the system.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use crate::base::ids::FileId;
use crate::base::internal_iter::InternalIter;
use crate::base::internal_iter::next_by_trying;
use crate::base::internal_iter::prev_by_trying;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::cache::BlockCache;
use crate::sst::SstExpectation;
use crate::sst::SstIter;
use crate::sst::SstReader;
use crate::sst::tests::support::*;

#[derive(Clone, Debug)]
enum Step {
    Seek(usize, u64),
    SeekForPrev(usize, u64),
    First,
    Last,
    Next,
    Prev,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (any::<usize>(), 0u64..14).prop_map(|(n, seqno)| Step::Seek(n, seqno)),
        2 => (any::<usize>(), 0u64..14).prop_map(|(n, seqno)| Step::SeekForPrev(n, seqno)),
        1 => Just(Step::First),
        1 => Just(Step::Last),
        8 => Just(Step::Next),
        8 => Just(Step::Prev),
    ];
    proptest::collection::vec(step, 1..120)
}

/// Walks cursor and model side by side.
fn walk(mut iter: SstIter, entries: &[Entry], probes: &[Vec<u8>], steps: &[Step]) {
    assert!(!iter.valid());
    let mut at: Option<usize> = None;
    for (turn, step) in steps.iter().enumerate() {
        let target = |n: usize, seqno: u64| {
            let user = &probes[n % probes.len()];
            if seqno == 13 {
                KeyRef::after_all(user)
            } else {
                KeyRef::seek(user, SeqNo::new(seqno))
            }
        };
        match *step {
            Step::Seek(n, seqno) => {
                let target = target(n, seqno);
                iter.seek(target).unwrap();
                let first = entries.partition_point(|entry| key_of(entry) < target);
                at = (first < entries.len()).then_some(first);
            }
            Step::SeekForPrev(n, seqno) => {
                let target = target(n, seqno);
                iter.seek_for_prev(target).unwrap();
                let upto = entries.partition_point(|entry| key_of(entry) <= target);
                at = upto.checked_sub(1);
            }
            Step::First => {
                iter.seek_to_first().unwrap();
                at = Some(0);
            }
            Step::Last => {
                iter.seek_to_last().unwrap();
                at = Some(entries.len() - 1);
            }
            Step::Next => {
                let moved = if turn % 2 == 0 { iter.next() } else { next_by_trying(&mut iter) };
                moved.unwrap();
                at = at.map(|at| at + 1).filter(|at| *at < entries.len());
            }
            Step::Prev => {
                let moved = if turn % 2 == 0 { iter.prev() } else { prev_by_trying(&mut iter) };
                moved.unwrap();
                at = at.and_then(|at| at.checked_sub(1));
            }
        }
        assert_eq!(iter.valid(), at.is_some(), "{step:?}");
        if let Some(at) = at {
            assert_eq!(iter.key(), key_of(&entries[at]), "{step:?}");
            assert_eq!(iter.value(), entries[at].2);
            assert_eq!(iter.value_slice(), entries[at].2);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cursors_walk_like_the_model(
        entries in entries(120),
        shape in any_shape(),
        steps in steps(),
    ) {
        let mut probes = probes(&entries);
        // Targets that are in the file, exactly.
        probes.extend(entries.iter().map(|entry| entry.0.clone()));
        for shape in sources(shape) {
            let (bytes, _) = write(&entries, shape);
            let reader = open(&bytes, shape);
            walk(reader.iter(), &entries, &probes, &steps);
            walk(reader.scan_iter(MemFile::new(&bytes, false)), &entries, &probes, &steps);
        }
    }

    #[test]
    fn seeks_to_stored_keys_stand_on_them(entries in entries(120), shape in any_shape()) {
        for shape in sources(shape) {
            let (bytes, _) = write(&entries, shape);
            let reader = open(&bytes, shape);
            let mut iter = reader.iter();
            for entry in entries.iter().rev().chain(&entries) {
                iter.seek(key_of(entry)).unwrap();
                prop_assert_eq!(iter.key(), key_of(entry));
                iter.seek_for_prev(key_of(entry)).unwrap();
                prop_assert_eq!(iter.key(), key_of(entry));
            }
        }
    }
}

fn put(seqno: u64) -> Trailer {
    Trailer::new(SeqNo::new(seqno), ValueKind::Put)
}

fn numbered(count: u32) -> Vec<Entry> {
    (0..count).map(|n| (format!("{n:08}").into_bytes(), put(1), vec![n as u8; 100])).collect()
}

#[test]
fn a_scan_in_chunks_yields_every_entry_and_keeps_pinned_values_whole() {
    let mut entries = numbered(20_000);
    for entry in entries.iter_mut().step_by(1000) {
        entry.2 = vec![entry.0[7]; 3000];
    }
    for shape in sources(Shape { block_bytes: 4096, partition_blocks: 256, ..SMALL }) {
        let (bytes, _) = write(&entries, shape);
        let cache = Arc::new(BlockCache::new(1 << 20));
        let reader = open_with(&bytes, shape, Arc::clone(&cache));
        let mut iter = reader.scan_iter(MemFile::new(&bytes, false));
        let mut kept = Vec::new();
        iter.seek_to_first().unwrap();
        for entry in &entries {
            assert_eq!((iter.key(), iter.value()), (key_of(entry), &entry.2[..]));
            if entry.2.len() > 1024 {
                kept.push((iter.value_slice(), &entry.2));
            }
            iter.next().unwrap();
        }
        assert!(!iter.valid());
        assert!(kept.iter().all(|(slice, value)| slice == *value));
        assert_eq!(cache.used_bytes(), 0);
    }
}

#[test]
fn reads_announce_what_comes_next_the_more_the_longer_they_are() {
    let entries = numbered(40_000);
    let shape = Shape { block_bytes: 4096, partition_blocks: 256, ..SMALL };
    let (bytes, summary) = write(&entries, shape);
    let file = MemFile::new(&bytes, true);
    let expected = SstExpectation { bytes: summary.bytes, uid: UID, ranges: None };
    let cache = Arc::new(BlockCache::new(0));
    let path = PathBuf::from("7.sst");
    let reader = SstReader::open(file.clone(), path, FileId(7), Some(expected), cache).unwrap();
    let mut iter = Arc::new(reader).iter();
    for entry in entries.iter().step_by(777) {
        iter.seek(key_of(entry)).unwrap();
        for _ in 0..10 {
            iter.next().unwrap();
        }
    }
    let told = std::mem::take(&mut *file.told.lock());
    // Some of them enter a second block, of 4 KiB.
    let lens: Vec<u64> = told.iter().map(|range| range.end - range.start).collect();
    assert!(lens.len() > 10 && lens[0] == 16 << 10 && lens[1] < 16 << 10, "{lens:?}");
    assert!((4096..8192).contains(lens.last().unwrap()), "{lens:?}");
    iter.seek_to_first().unwrap();
    while iter.valid() {
        iter.next().unwrap();
    }
    let told = std::mem::take(&mut *file.told.lock());
    let total: u64 = told.iter().map(|range| range.end - range.start).sum();
    assert!(told.len() < 20 && total + 64 * 1024 > summary.bytes, "{told:?}");
    assert!(told.windows(2).all(|pair| pair[0].end == pair[1].start), "{told:?}");
    iter.seek_to_last().unwrap();
    while iter.valid() {
        iter.prev().unwrap();
    }
    let told = file.told.lock();
    let total: u64 = told.iter().map(|range| range.end - range.start).sum();
    assert!(told.len() < 20 && total + 256 * 1024 > summary.bytes, "{told:?}");
    assert!(told.windows(2).all(|pair| pair[0].start == pair[1].end), "{told:?}");
}
