//! Tests of data blocks: entries are found where the model has them, and any bytes parse or fail.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::base::value::ValueKind;
use crate::sst::data_block_builder::DataBlockBuilder;

pub(in crate::sst) type Entry = (Vec<u8>, Trailer, Vec<u8>);

pub(in crate::sst) fn builder_of(entries: &[Entry]) -> DataBlockBuilder {
    let mut builder = DataBlockBuilder::default();
    // Twice, to see that nothing is left over from the block before.
    for _ in 0..2 {
        builder.clear();
        assert!(builder.is_empty());
        for (user, trailer, value) in entries {
            let key = KeyRef::new(user, *trailer);
            builder.add(key, KeyHash::of(user), value, builder.extent_with(key, value));
        }
    }
    builder
}

pub(in crate::sst) fn build(entries: &[Entry]) -> Vec<u8> {
    let builder = builder_of(entries);
    let mut out = Vec::new();
    builder.write_to(&mut out);
    let bound = builder.size();
    // Where one entry more decides between short and long offsets, two for each.
    let at_most = out.len() + 8 + (2 + HEAD_LEN + 2) * (entries.len() + 1);
    assert!(out.len() <= bound && bound <= at_most);
    out
}

pub(in crate::sst) fn entries_in_order() -> impl Strategy<Value = Vec<Entry>> {
    let key = prop_oneof![
        proptest::collection::vec(0u8..3, 0..6),
        proptest::collection::vec(any::<u8>(), 0..4).prop_map(|tail| {
            let mut key = b"shared prefix ".to_vec();
            key.extend_from_slice(&tail);
            key
        }),
        proptest::collection::vec(any::<u8>(), 0..300),
    ];
    let seqno = prop_oneof![Just(0u64), 0u64..20, any::<u64>()];
    let value = prop_oneof![
        9 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => Just(vec![7; 40_000]),
    ];
    // Lengths of all keys and values, if they are equally long.
    let uniform = prop::option::of((0usize..20, prop_oneof![0usize..40, Just(40_000)]));
    let raw = proptest::collection::vec((key, seqno, any::<bool>(), value), 1..40);
    (raw, uniform).prop_map(|(raw, uniform)| {
        let mut entries: Vec<Entry> = raw
            .into_iter()
            .map(|(mut key, seqno, put, mut value)| {
                if let Some((key_len, value_len)) = uniform {
                    key.resize(key_len, 7);
                    value.resize(value_len, 8);
                }
                let kind = if put { ValueKind::Put } else { ValueKind::Delete };
                (key, Trailer::new(SeqNo::new(seqno), kind), value)
            })
            .collect();
        entries.sort_by(|a, b| KeyRef::new(&a.0, a.1).cmp(&KeyRef::new(&b.0, b.1)));
        entries.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
        entries
    })
}

proptest! {
    #[test]
    fn entries_are_found_where_the_model_has_them(entries in entries_in_order(), probe: Vec<u8>) {
        let payload = build(&entries);
        let block = DataBlock::parse(&payload).unwrap();
        prop_assert_eq!(block.table().count, entries.len());
        for (i, (user, trailer, value)) in entries.iter().enumerate() {
            let span = block.span(i).unwrap();
            let mut whole = Vec::new();
            prop_assert_eq!(block.key(&span, &mut whole), KeyRef::new(user, *trailer));
            prop_assert_eq!(&payload[span.value_range()], &value[..]);
            prop_assert!(block.entry_is_consistent(i, &span, KeyHash::of(user)));
        }
        let mut probes: Vec<Vec<u8>> = entries.iter().map(|entry| entry.0.clone()).collect();
        probes.push(probe);
        probes.push(b"shared".to_vec());
        probes.push(b"shared prefix".to_vec());
        probes.push(b"shared prefix \xff\xff\xff\xff\xff".to_vec());
        for user in &probes {
            for seqno in [0, 1, 10, 19, u64::MAX] {
                let seqno = SeqNo::new(seqno);
                let found = block.find(user, KeyHash::of(user), seqno).unwrap();
                let wanted = entries
                    .iter()
                    .find(|entry| entry.0 == *user && entry.1.seqno() <= seqno);
                prop_assert_eq!(
                    found.map(|span| (span.trailer, payload[span.value_range()].to_vec())),
                    wanted.map(|entry| (entry.1, entry.2.clone()))
                );
                let target = KeyRef::seek(user, seqno);
                let before = entries.iter().filter(|e| KeyRef::new(&e.0, e.1) < target).count();
                prop_assert_eq!(block.rank(target, false).unwrap(), before);
            }
            let own = entries.iter().filter(|entry| entry.0 == *user);
            for trailer in own.map(|entry| entry.1) {
                let target = KeyRef::new(user, trailer);
                let upto = entries.iter().filter(|e| KeyRef::new(&e.0, e.1) <= target).count();
                prop_assert_eq!(block.rank(target, true).unwrap(), upto);
                prop_assert_eq!(block.rank(target, false).unwrap(), upto - 1);
            }
        }
    }

    #[test]
    fn any_bytes_parse_or_fail(mut bytes: Vec<u8>, count in 1u8..20, flags in 0u8..16) {
        if let Some(header) = bytes.first_chunk_mut::<8>() {
            *header = [count, 0, 0, 0, header[4] % 4, 0, flags, LAYOUT];
        }
        if let Ok(block) = DataBlock::parse(&bytes) {
            for i in 0..=block.table().count {
                let _ = block.span(i).map(|span| block.key(&span, &mut Vec::new()).user.len());
            }
            let key = bytes.get(9..12).unwrap_or_default();
            let _ = block.find(key, KeyHash::of(key), SeqNo::MAX);
            let _ = block.rank(KeyRef::before_all(key), true);
        }
    }
}

#[test]
fn entries_of_one_length_have_no_offsets() {
    let put = |n: u8| {
        let trailer = Trailer::new(SeqNo::new(u64::from(n)), ValueKind::Put);
        ([b"user:00", &[n; 9][..]].concat(), trailer, vec![n; 100])
    };
    let mut entries: Vec<Entry> = (0..30).map(put).collect();
    // Fingerprint and head; what is left of the suffix, trailer, value.
    let each = 1 + 4 + 5 + 4 + 100;
    assert_eq!(build(&entries).len(), HEADER_LEN + 7 + UNIFORM_LEN + 30 * each);
    entries[17].2.push(1);
    assert_eq!(build(&entries).len(), HEADER_LEN + 7 + 2 * 31 + 30 * (each + 1) + 1);
}

#[test]
fn what_all_keys_share_is_stored_once() {
    let put = |user: &[u8]| (user.to_vec(), Trailer::new(SeqNo::ZERO, ValueKind::Put), vec![]);
    let payload = build(&[put(b"user:0017"), put(b"user:00175"), put(b"user:00234")]);
    let prefix = b"user:00";
    assert_eq!(payload.windows(4).filter(|window| *window == b"user").count(), 1);
    let block = DataBlock::parse(&payload).unwrap();
    assert_eq!(block.prefix, prefix);
    assert_eq!(block.table().prefix(&payload), prefix);
    // Lengths of suffixes that are in the heads.
    assert_eq!(payload.get(payload.len() - 3..), Some(&[2, 3, 3][..]));
}

#[test]
fn retired_layouts_are_refused() {
    let put = Trailer::new(SeqNo::ZERO, ValueKind::Put);
    let mut payload = build(&[(b"a".to_vec(), put, b"1".to_vec())]);
    assert!(DataBlock::parse(&payload).is_ok());
    for layout in [0, 1] {
        payload[7] = layout;
        assert!(DataBlock::parse(&payload).unwrap_err().0.contains("retired"));
    }
}

#[test]
fn a_block_whose_whole_keys_no_block_may_hold_is_refused() {
    let parse = |count: u32, shared_len: u16| {
        let header = u64::from(count) | u64::from(shared_len) << 32 | u64::from(LAYOUT) << 56;
        let mut payload = header.to_le_bytes().to_vec();
        payload.resize(16 << 20, 0);
        DataBlock::parse(&payload).map(|block| block.table().count)
    };
    assert_eq!(parse(1024, u16::MAX), Ok(1024));
    assert!(parse(1026, u16::MAX).is_err());
    assert_eq!(parse(1, u16::MAX), Ok(1));
}
