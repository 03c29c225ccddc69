//! Point reads, summaries and the writer's contract.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::base::compression::Compression;
use crate::base::error::Error;
use crate::base::ids::FileId;
use crate::base::internal_iter::InternalIter;
use crate::base::key::KeyHash;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::lookup::Lookup;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::ValueKind;
use crate::cache::BlockCache;
use crate::sst::SstReader;
use crate::sst::SstSummary;
use crate::sst::tests::support::*;

fn put(seqno: u64) -> Trailer {
    Trailer::new(SeqNo::new(seqno), ValueKind::Put)
}

fn check_lookups(entries: &[Entry], bytes: &Bytes, shape: Shape) {
    let reader = open(bytes, shape);
    for user in probes(entries) {
        let hash = KeyHash::of(&user);
        let known = entries.iter().any(|entry| entry.0 == user);
        assert!(reader.may_contain(&user, hash).unwrap() || !known);
        for seqno in (0..13).chain([u64::MAX]) {
            let seqno = SeqNo::new(seqno);
            let found = get(&reader, &user, seqno).unwrap();
            assert_eq!(found, model_get(entries, &user, seqno), "{user:?} at {seqno}");
        }
    }
}

fn check_many(entries: &[Entry], bytes: &Bytes, shape: Shape) {
    let reader = open(bytes, shape);
    let probes = probes(entries);
    // Twice: the first time nothing is cached.
    for seqno in (0..13).chain([u64::MAX, u64::MAX]).map(SeqNo::new) {
        let mut lookups: Vec<_> = probes.iter().map(|user| Lookup::new(user)).collect();
        let above = Some((put(99), Slice::copy_from(b"found above")));
        for lookup in lookups.iter_mut().step_by(5) {
            lookup.found = above.clone();
        }
        reader.get_many(&mut lookups, seqno).unwrap();
        for (i, lookup) in lookups.into_iter().enumerate() {
            let found = lookup.found.map(|(trailer, value)| (trailer, value.to_vec()));
            if i % 5 == 0 {
                assert_eq!(found, Some((put(99), b"found above".to_vec())));
            } else {
                let wanted = model_get(entries, lookup.key, seqno);
                assert_eq!(found, wanted, "{:?} at {seqno}", lookup.key);
            }
        }
    }
}

fn check_summary(entries: &[Entry], summary: &SstSummary) {
    let (first, last) = (&entries[0], &entries[entries.len() - 1]);
    assert_eq!(summary.smallest.as_ref(), key_of(first));
    assert_eq!(summary.largest.as_ref(), key_of(last));
    assert_eq!(summary.entries, entries.len() as u64);
    let seqnos = || entries.iter().map(|entry| entry.1.seqno());
    assert_eq!(summary.min_seqno, seqnos().min().unwrap());
    assert_eq!(summary.max_seqno, seqnos().max().unwrap());
    let deletes = entries.iter().filter(|entry| entry.1.kind() == Some(ValueKind::Delete));
    assert_eq!(summary.tombstones, deletes.count() as u64);
    let raw: usize = entries.iter().map(|entry| entry.0.len() + entry.2.len()).sum();
    assert_eq!(summary.raw_bytes, raw as u64);
    let oldest = if summary.tombstones == 0 { u64::MAX } else { 1000 };
    assert_eq!(summary.oldest_tombstone_wall_ms, oldest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_version_is_found_at_every_seqno(entries in entries(120), shape in any_shape()) {
        for shape in sources(shape) {
            let (bytes, summary) = write(&entries, shape);
            check_summary(&entries, &summary);
            check_lookups(&entries, &bytes, shape);
            check_many(&entries, &bytes, shape);
            let reader = open(&bytes, shape);
            let seen = reader.verify(&*MemFile::new(&bytes, false)).unwrap();
            prop_assert_eq!(seen.entries, entries.len() as u64);
            prop_assert_eq!(seen.data_blocks, reader.properties().data_blocks);
        }
    }
}

#[test]
fn versions_of_one_key_that_fill_many_blocks_are_all_found() {
    let mut entries: Vec<Entry> = vec![(b"a".to_vec(), put(3), vec![1; 50])];
    for seqno in (1..200).rev() {
        entries.push((b"k".to_vec(), put(seqno), vec![seqno as u8; 50]));
    }
    entries.push((b"l".to_vec(), put(1), vec![2; 50]));
    for shape in sources(SMALL) {
        let (bytes, _) = write(&entries, shape);
        check_many(&entries, &bytes, shape);
        let reader = open(&bytes, shape);
        assert!(reader.verify(&*MemFile::new(&bytes, false)).unwrap().partitions > 5);
        for seqno in 0..205 {
            let seqno = SeqNo::new(seqno);
            for user in [&b"a"[..], b"k", b"l", b"kk"] {
                let found = get(&reader, user, seqno).unwrap();
                assert_eq!(found, model_get(&entries, user, seqno));
            }
            let mut iter = reader.iter();
            iter.seek(KeyRef::seek(b"k", seqno)).unwrap();
            let at = entries.partition_point(|e| key_of(e) < KeyRef::seek(b"k", seqno));
            assert_eq!(iter.key(), key_of(&entries[at]));
            iter.seek_for_prev(KeyRef::seek(b"k", seqno)).unwrap();
            assert_eq!(iter.key(), key_of(&entries[at - 1]));
        }
    }
}

#[test]
fn longest_keys_and_large_values_round_trip() {
    let mut entries: Vec<Entry> = Vec::new();
    entries.push((Vec::new(), put(5), vec![1; 1 << 20]));
    entries.push((Vec::new(), put(4), Vec::new()));
    for last in [0, 1, 255] {
        let mut key = vec![7; 65_535];
        key[65_534] = last;
        entries.push((key.clone(), put(9), vec![last; 1 << 20]));
        entries.push((key, put(2), vec![last; 10]));
    }
    entries.push((vec![8], put(1), vec![3; 2000]));
    for block_bytes in [256, 4096, 1 << 20] {
        for shape in sources(Shape { block_bytes, ..SMALL }) {
            let (bytes, _) = write(&entries, shape);
            let reader = open(&bytes, shape);
            reader.verify(&*MemFile::new(&bytes, false)).unwrap();
            for (user, trailer, value) in &entries {
                let found = get(&reader, user, trailer.seqno()).unwrap();
                assert!(found == Some((*trailer, value.clone())));
            }
            let mut short = vec![7; 65_534];
            assert_eq!(get(&reader, &short, SeqNo::MAX).unwrap(), None);
            short.push(2);
            assert_eq!(get(&reader, &short, SeqNo::MAX).unwrap(), None);
        }
    }
}

#[test]
fn an_empty_file_finds_nothing() {
    for shape in sources(SMALL) {
        let (bytes, summary) = write(&[], shape);
        assert_eq!((summary.entries, summary.min_seqno), (0, SeqNo::ZERO));
        let reader = open(&bytes, shape);
        assert_eq!(get(&reader, b"", SeqNo::MAX).unwrap(), None);
        assert!(!reader.may_contain(b"a", KeyHash::of(b"a")).unwrap());
        let mut iter = reader.iter();
        iter.seek_to_first().unwrap();
        assert!(!iter.valid());
        iter.seek_to_last().unwrap();
        assert!(!iter.valid());
        iter.seek(KeyRef::before_all(b"")).unwrap();
        assert!(!iter.valid());
        iter.seek_for_prev(KeyRef::after_all(b"x")).unwrap();
        assert!(!iter.valid());
        reader.verify(&*MemFile::new(&bytes, false)).unwrap();
    }
}

#[test]
fn a_filter_rules_out_keys_between_those_of_the_file() {
    let entries: Vec<Entry> =
        (0..5000u32).map(|n| (format!("{n:08}").into_bytes(), put(1), vec![1; 20])).collect();
    for (filter_bits, admitted_max) in [(10, 150), (0, 5000)] {
        let shape = Shape { filter_bits, block_bytes: 1024, partition_blocks: 20, ..SMALL };
        let (bytes, _) = write(&entries, shape);
        let reader = open(&bytes, shape);
        let admitted = (0..5000u32)
            .filter(|n| {
                let user = format!("{n:08}x").into_bytes();
                assert_eq!(get(&reader, &user, SeqNo::MAX).unwrap(), None);
                reader.may_contain(&user, KeyHash::of(&user)).unwrap()
            })
            .count();
        assert!(admitted <= admitted_max, "{admitted} of 5000 with {filter_bits} bits");
        assert_eq!(filter_bits == 0, admitted == 5000);
    }
}

#[test]
fn filters_start_at_cache_lines_and_a_file_is_no_longer_than_its_entries() {
    let entries: Vec<Entry> = (0..5000u32)
        .map(|n| (format!("{n:016}").into_bytes(), put(u64::from(n)), vec![1; 100]))
        .collect();
    let shape = Shape { block_bytes: 4096, partition_blocks: 50, ..SMALL };
    let (bytes, summary) = write(&entries, shape);
    let reader = open(&bytes, shape);
    for p in 0..reader.top().len() {
        assert_eq!(reader.top().partition(p).unwrap().filter.offset % 64, 0);
    }
    // What keys share pays for everything else.
    assert!(summary.bytes < summary.raw_bytes, "{} for {}", summary.bytes, summary.raw_bytes);
}

#[test]
fn estimated_bytes_are_close_to_the_size_of_the_file() {
    let (mut writer, disk) = writer(Shape { block_bytes: 4096, partition_blocks: 256, ..SMALL });
    let mut last = 0;
    for n in 0..50_000u32 {
        let user = format!("{n:016}").into_bytes();
        writer.add(KeyRef::new(&user, put(u64::from(n))), &[1; 100]).unwrap();
        assert!(writer.estimated_bytes() + 4096 >= last, "it does not go back");
        last = writer.estimated_bytes();
    }
    let (bytes, _) = finish(writer, &disk);
    let off = last.abs_diff(bytes.len() as u64);
    assert!(off < bytes.len() as u64 / 50, "{last} instead of {}", bytes.len());
}

/// A copy of the file of `from`, and the numbers of its hot blocks.
fn copy(from: &Arc<SstReader>, bytes: &Bytes, shape: Shape) -> (Bytes, Vec<u32>) {
    let (mut writer, disk) = writer(shape);
    let mut from = from.scan_iter(MemFile::new(bytes, false));
    from.seek_to_first().unwrap();
    while from.valid() {
        writer.add(from.key(), from.value()).unwrap();
        if from.is_hot() {
            writer.note_hot();
        }
        from.next().unwrap();
    }
    let (bytes, summary) = finish(writer, &disk);
    (bytes, summary.hot_blocks)
}

/// What readers have in the cache of the inputs of a compaction they have of its outputs as well.
#[test]
fn hot_blocks_stay_in_the_cache_when_they_move() {
    let entries: Vec<Entry> =
        (0..2000u32).map(|n| (format!("{n:08}").into_bytes(), put(1), vec![7; 60])).collect();
    let lz4 = Shape { compression: Compression::Lz4, block_bytes: 1024, ..SMALL };
    let raw = Shape { compression: Compression::None, mapped: false, ..lz4 };
    for shape in [lz4, Shape { mapped: false, ..lz4 }, raw] {
        let (bytes, _) = write(&entries, shape);
        let cache = Arc::new(BlockCache::new(1 << 20));
        let old = open_with(&bytes, shape, Arc::clone(&cache));
        for _ in 0..2 {
            for (user, ..) in &entries[1000..] {
                get(&old, user, SeqNo::MAX).unwrap();
            }
        }
        let before = (cache.used_bytes(), cache.misses());

        let (bytes, hot) = copy(&old, &bytes, shape);
        old.forget_blocks();
        assert_eq!(cache.len(), 0);
        let new = open_as(FileId(8), &bytes, shape, Arc::clone(&cache));
        new.warm(&hot, || true).unwrap();
        assert_eq!((cache.kept(), cache.len() >= hot.len() as u64), (hot.len() as u64, true));
        let used = cache.used_bytes();
        assert!(used > before.0 / 2 && used <= before.0, "{used} of {before:?}");
        for (user, ..) in &entries[1000..] {
            get(&new, user, SeqNo::MAX).unwrap();
        }
        // The first of them shares a block with what was not read; and index and filter of each
        // partition are not kept.
        let missed = cache.misses() - before.1;
        let most = if shape.mapped { 1 } else { 1 + 2 * new.top().len() as u64 };
        assert!(missed <= most, "{missed} misses, {most} at most");

        // Nobody has read it since, but it is as hot as it was.
        let (_, again) = copy(&new, &bytes, shape);
        assert!(again.len() >= hot.len(), "{} of {}", again.len(), hot.len());
        for entry in &entries {
            let found = get(&new, &entry.0, SeqNo::MAX).unwrap();
            assert_eq!(found, Some((entry.1, entry.2.clone())));
        }
        new.verify(&*MemFile::new(&bytes, false)).unwrap();
    }
}

#[test]
fn a_file_is_warmed_only_while_there_is_room() {
    let entries: Vec<Entry> =
        (0..2000u32).map(|n| (format!("{n:08}").into_bytes(), put(1), vec![7; 60])).collect();
    let shape = Shape { compression: Compression::Lz4, block_bytes: 1024, ..SMALL };
    let (bytes, _) = write(&entries, shape);
    let cache = Arc::new(BlockCache::new(64 << 10));
    let hot = open_with(&bytes, shape, Arc::clone(&cache));
    for _ in 0..3 {
        for (user, ..) in &entries[..500] {
            get(&hot, user, SeqNo::MAX).unwrap();
        }
    }
    let (misses, blocks) = (cache.misses(), cache.len());
    let new = open_as(FileId(8), &bytes, shape, Arc::clone(&cache));
    let all: Vec<u32> = (0..new.top().blocks() as u32).collect();
    new.warm(&all, || true).unwrap();
    assert!(cache.kept() > 0 && cache.len() > blocks);
    let kept = cache.kept();
    new.warm(&all, || false).unwrap();
    assert_eq!(cache.kept(), kept);
    for (user, ..) in &entries[..500] {
        get(&hot, user, SeqNo::MAX).unwrap();
    }
    assert_eq!(cache.misses(), misses);
}

#[test]
fn the_oldest_tombstone_can_be_older_than_the_file() {
    let delete = Trailer::new(SeqNo::new(3), ValueKind::Delete);
    for (set, with_tombstone, wanted) in [
        (Some(500), true, 500),
        (Some(5000), true, 1000),
        (None, true, 1000),
        (Some(500), false, u64::MAX),
    ] {
        let (mut writer, disk) = writer(SMALL);
        if let Some(wall_ms) = set {
            writer.set_oldest_tombstone(wall_ms);
        }
        let trailer = if with_tombstone { delete } else { put(3) };
        writer.add(KeyRef::new(b"a", trailer), b"").unwrap();
        let (bytes, summary) = finish(writer, &disk);
        assert_eq!(summary.oldest_tombstone_wall_ms, wanted);
        let properties = open(&bytes, SMALL).properties().clone();
        assert_eq!(properties.oldest_tombstone_wall_ms, wanted);
        assert_eq!(properties.keyspace.0, 3);
        assert_eq!(properties.created_wall_ms, 1000);
    }
}

#[test]
fn entries_out_of_order_are_refused() {
    for second in [KeyRef::new(b"a", put(9)), KeyRef::new(b"b", put(5)), KeyRef::new(b"b", put(6))]
    {
        let (mut writer, _) = writer(SMALL);
        writer.add(KeyRef::new(b"b", put(5)), b"").unwrap();
        let refused = writer.add(second, b"");
        assert!(matches!(refused, Err(Error::Internal { .. })), "{refused:?}");
    }
}

#[test]
fn values_are_pinned_only_if_large() {
    let entries: Vec<Entry> =
        vec![(b"large".to_vec(), put(1), vec![1; 5000]), (b"small".to_vec(), put(1), vec![2; 500])];
    let (bytes, _) = write(&entries, SMALL);
    let reader = open(&bytes, SMALL);
    let inside = bytes.as_ptr_range();
    for (user, pinned) in [(&b"large"[..], true), (b"small", false)] {
        let kept = reader
            .get(user, KeyHash::of(user), SeqNo::MAX, |_, value| value.to_slice())
            .unwrap()
            .unwrap();
        assert_eq!(inside.contains(&kept.as_ptr()), pinned);
        let mut iter = Arc::clone(&reader).iter();
        iter.seek(KeyRef::before_all(user)).unwrap();
        assert_eq!(iter.value_slice(), kept);
        assert_eq!(inside.contains(&iter.value_slice().as_ptr()), pinned);
    }
}

#[test]
fn blocks_are_verified_once_if_mapped_and_cached_if_not() {
    let entries: Vec<Entry> = (0..100u8).map(|n| (vec![n], put(1), vec![n; 30])).collect();
    for shape in sources(SMALL) {
        let (bytes, _) = write(&entries, shape);
        let cache = Arc::new(crate::cache::BlockCache::new(1 << 20));
        let reader = open_with(&bytes, shape, Arc::clone(&cache));
        for _ in 0..2 {
            for entry in &entries {
                assert!(get(&reader, &entry.0, SeqNo::MAX).unwrap().is_some());
            }
        }
        let in_place = shape.mapped && shape.compression == Compression::None;
        assert_eq!(cache.used_bytes() == 0, in_place);
    }
}
