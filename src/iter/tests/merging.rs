//! Merging walks like one sorted source.

use std::collections::HashSet;

use proptest::prelude::*;

use crate::base::internal_iter::InternalIter as _;
use crate::base::value::ValueKind;
use crate::iter::Merging;
use crate::iter::tests::sources::*;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn walks_like_one_sorted_source(
        keys in prop::collection::vec((user_key(), 0..40_u64, 0..8_usize), 0..80),
        sources in 0..9_usize,
        steps in steps(),
        fail_after in prop_oneof![Just(u64::MAX), 0..200_u64],
    ) {
        // No two entries have the same key and number, as in a sound database.
        let mut seen = HashSet::new();
        let mut parts = vec![Vec::new(); sources];
        for (key, seqno, part) in keys {
            if let Some(entries) = parts.get_mut(part % sources.max(1)) {
                let part = [(part % sources) as u8];
                let entry = entry(&key, seqno, ValueKind::Put, &part);
                if seen.insert((key.clone(), seqno)) {
                    entries.push(entry);
                }
            }
        }
        let entries = parts.concat();
        let fuse = Fuse::never();
        let iters = parts.into_iter().map(|part| VecIter::new(part, fuse.clone()));
        check_walk(Merging::new(iters.collect()), entries, &steps, &fuse, fail_after);
    }
}

#[test]
fn long_runs_of_one_source_stay_in_order() {
    // Sources in runs of many lengths, so that runners-up come and go.
    let mut parts = vec![Vec::new(); 5];
    let mut n = 0_u32;
    for round in 0..200_usize {
        for _ in 0..round * 7 % 11 {
            let key = n.to_be_bytes();
            parts[round * 3 % 5].push(entry(&key, 1, ValueKind::Put, b""));
            n += 1;
        }
    }
    let iters = parts.into_iter().map(|part| VecIter::new(part, Fuse::never()));
    let mut merged = Merging::new(iters.collect());
    merged.seek_to_first().unwrap();
    for i in 0..n {
        assert_eq!(merged.key().user, i.to_be_bytes());
        merged.next().unwrap();
    }
    assert!(!merged.valid());
    merged.seek_to_last().unwrap();
    for i in (0..n).rev() {
        assert_eq!(merged.key().user, i.to_be_bytes());
        merged.prev().unwrap();
    }
    assert!(!merged.valid());
}
