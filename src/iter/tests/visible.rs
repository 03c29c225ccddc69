//! What a reader sees, against a sorted map.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use proptest::prelude::*;

use crate::base::error::Result;
use crate::base::hooks::MergeOperator;
use crate::base::operators::Append;
use crate::base::seqno::SeqNo;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::base::value::with_expiry;
use crate::iter::Fold;
use crate::iter::Merging;
use crate::iter::ReadAt;
use crate::iter::Visible;
use crate::iter::tests::sources::*;

const NOW_MS: u64 = 500;

type Model = Vec<(Vec<u8>, Vec<u8>)>;

fn model(entries: &[Entry], seqno: u64, lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) -> Model {
    let mut sorted: Vec<&Entry> =
        entries.iter().filter(|(key, _)| key.trailer.seqno().get() <= seqno).collect();
    sorted.sort_by_key(|(key, _)| key.trailer);
    let mut map: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (key, value) in sorted {
        match key.trailer.kind() {
            Some(ValueKind::Put) => drop(map.insert(key.user.clone(), value.clone())),
            Some(ValueKind::Expiring) if expiry_of(value) > NOW_MS => {
                drop(map.insert(key.user.clone(), value[8..].to_vec()));
            }
            Some(ValueKind::Merge) => match map.get_mut(&key.user) {
                Some(old) => old.extend([b",", &value[..]].concat()),
                None => drop(map.insert(key.user.clone(), value.clone())),
            },
            _ => drop(map.remove(&key.user)),
        }
    }
    map.into_iter()
        .filter(|(key, _)| match lower {
            Bound::Included(lower) => key >= lower,
            Bound::Excluded(lower) => key > lower,
            Bound::Unbounded => true,
        })
        .filter(|(key, _)| match upper {
            Bound::Included(upper) => key <= upper,
            Bound::Excluded(upper) => key < upper,
            Bound::Unbounded => true,
        })
        .collect()
}

/// Folds as the model does.
fn fold() -> Arc<Fold> {
    let operator: Arc<dyn MergeOperator> = Arc::new(Append::new(","));
    Arc::new(Fold::new("test".to_owned(), operator.name().to_owned(), Some(operator)))
}

fn read_at(seqno: u64) -> ReadAt {
    let fold = Some(fold());
    let seqno = SeqNo::new(seqno);
    ReadAt { seqno, now_ms: NOW_MS, first_expiry: None, fold, dead: None, blobs: None }
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        2 => Just(Bound::Unbounded),
        1 => user_key().prop_map(Bound::Included),
        1 => user_key().prop_map(Bound::Excluded),
    ]
}

/// Versions of few keys with sequence numbers of their own: short and long histories.
fn history() -> impl Strategy<Value = Vec<Entry>> {
    let write = (user_key(), 1..30_usize, any::<u8>());
    (prop::collection::vec(write, 0..40), any::<bool>()).prop_map(|(writes, merges)| {
        let mut entries = Vec::new();
        for (key, versions, byte) in writes {
            // Mostly one version, sometimes more than are stepped over.
            for _ in 0..if versions > 25 { versions } else { 1 } {
                let seqno = entries.len() as u64;
                let len = usize::from(byte) * 5 + entries.len() % 2 * COPY_LEN_MAX;
                entries.push(match (u64::from(byte) + seqno) % 5 {
                    0 => entry(&key, seqno, ValueKind::Delete, b""),
                    1 | 2 if merges => entry(&key, seqno, ValueKind::Merge, &[seqno as u8, byte]),
                    n @ (1 | 2) => {
                        let expiring = with_expiry(NOW_MS - 1 + n, &vec![seqno as u8; len]);
                        entry(&key, seqno, ValueKind::Expiring, &expiring)
                    }
                    // Now and then a row of operands that is a chain.
                    3 if merges && versions > 25 => entry(&key, seqno, ValueKind::Merge, b"chain"),
                    _ => entry(&key, seqno, ValueKind::Put, &vec![seqno as u8; len]),
                });
            }
        }
        entries
    })
}

fn merge(entries: &[Entry], fuse: &Fuse) -> Merging<VecIter> {
    let mut parts = [const { Vec::new() }; 3];
    for (i, entry) in entries.iter().enumerate() {
        parts[i * i % 3].push(entry.clone());
    }
    Merging::new(parts.map(|part| VecIter::new(part, fuse.clone())).into())
}

/// Takes one step; returns where in the model it leads.
fn take(
    iter: &mut Visible<Merging<VecIter>>,
    step: &Step,
    model: &Model,
    at: Option<usize>,
) -> Result<Option<usize>> {
    let to = match step {
        Step::Seek(key, _) => {
            iter.seek(key)?;
            Some(model.partition_point(|entry| entry.0 < *key))
        }
        Step::SeekForPrev(key, _) => {
            iter.seek_for_prev(key)?;
            model.partition_point(|entry| entry.0 <= *key).checked_sub(1)
        }
        Step::First => {
            iter.seek_to_first()?;
            Some(0)
        }
        Step::Last => {
            iter.seek_to_last()?;
            model.len().checked_sub(1)
        }
        Step::Next | Step::Prev | Step::TryNext | Step::TryPrev | Step::PassKey
            if !iter.valid() =>
        {
            None
        }
        Step::Next | Step::TryNext | Step::PassKey => {
            iter.next()?;
            at.map(|i| i + 1)
        }
        Step::Prev | Step::TryPrev => {
            iter.prev()?;
            at.and_then(|i| i.checked_sub(1))
        }
    };
    Ok(to.filter(|i| *i < model.len()))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn walks_like_a_map_as_of_a_seqno(
        entries in history(),
        back in 0..60_u64,
        lower in bound(),
        upper in bound(),
        steps in steps(),
        fail_after in prop_oneof![Just(u64::MAX), 0..200_u64],
    ) {
        let seqno = (entries.len() as u64).saturating_sub(back);
        let model = model(&entries, seqno, &lower, &upper);
        let fuse = Fuse::never();
        let inner = merge(&entries, &fuse);
        fuse.set(fail_after);
        let mut iter = Visible::new(inner, read_at(seqno), lower, upper);
        let mut at = None;
        for step in steps {
            at = take(&mut iter, &step, &model, at).unwrap_or(None);
            let expected = at.map(|i| &model[i]);
            prop_assert_eq!(iter.valid(), expected.is_some(), "{:?}", step);
            if let Some((key, value)) = expected {
                prop_assert_eq!(iter.user_key(), &key[..], "{:?}", step);
                prop_assert_eq!(iter.key_slice(), key);
                prop_assert_eq!(iter.value(), &value[..]);
                prop_assert_eq!(iter.value_slice(), value);
            }
        }
    }
}

#[test]
fn reserved_kinds_are_errors_only_where_they_count() {
    let entries = [
        entry(b"a", 1, ValueKind::DeleteRange, b"end"),
        entry(b"a", 2, ValueKind::Put, b"value"),
        entry(b"b", 3, ValueKind::Put, b"value"),
        entry(b"c", 4, ValueKind::DeleteRange, b"end"),
    ];
    let at = |seqno| {
        let inner = merge(&entries, &Fuse::never());
        Visible::new(inner, read_at(seqno), Bound::Unbounded, Bound::Unbounded)
    };
    let mut iter = at(3);
    iter.seek_to_first().unwrap();
    iter.next().unwrap();
    assert_eq!(iter.user_key(), b"b");
    iter.seek_to_last().unwrap();
    iter.prev().unwrap();
    assert_eq!(iter.user_key(), b"a");
    for result in
        [at(1).seek_to_first(), at(1).seek_to_last(), at(4).seek(b"c"), at(4).seek_to_last()]
    {
        assert!(result.is_err());
    }
}

/// Values that lie apart are not fetched: what there is to give is the handle, without an expiry.
#[test]
fn handles_are_given_for_values_that_lie_apart() {
    let expiring = |expiry| with_expiry(expiry, b"handle");
    let entries = [
        entry(b"a", 1, ValueKind::BlobRef, b"old"),
        entry(b"a", 2, ValueKind::BlobRef, b"handle"),
        entry(b"b", 3, ValueKind::ExpiringBlobRef, &expiring(NOW_MS)),
        entry(b"c", 4, ValueKind::Put, b"value"),
        entry(b"d", 5, ValueKind::ExpiringBlobRef, &expiring(NOW_MS + 1)),
    ];
    let mut sorted = entries.to_vec();
    sort(&mut sorted);
    let expected: [(&[u8], &[u8], bool); 3] =
        [(b"a", b"handle", true), (b"c", b"value", false), (b"d", b"handle", true)];
    let inner = VecIter::new(sorted, Fuse::never());
    let mut iter = Visible::new(inner, read_at(9), Bound::Unbounded, Bound::Unbounded);
    iter.seek_to_first().unwrap();
    for expected in expected {
        assert_eq!((iter.user_key(), iter.value(), iter.is_apart()), expected);
        assert_eq!(iter.value_slice(), expected.1);
        iter.next().unwrap();
    }
    iter.seek_to_last().unwrap();
    for expected in expected.into_iter().rev() {
        assert_eq!((iter.user_key(), iter.value(), iter.is_apart()), expected);
        assert_eq!(iter.value_slice(), expected.1);
        iter.prev().unwrap();
    }
}

/// Thousands of operands, read at every instant, forwards and backwards, by readers that remember
/// for each other.
#[test]
fn long_chains_read_the_same_at_every_instant() {
    let mut entries = vec![entry(b"a", 1, ValueKind::Put, b"x")];
    for seqno in 2..=1000_u64 {
        entries.push(entry(b"a", seqno, ValueKind::Merge, b"y"));
    }
    sort(&mut entries);
    let fold = fold();
    for seqno in [1000, 31, 34, 500, 999, 1, 40, 1000, 700] {
        let at = ReadAt { fold: Some(fold.clone()), ..read_at(seqno) };
        let inner = VecIter::new(entries.clone(), Fuse::never());
        let mut iter = Visible::new(inner, at, Bound::Unbounded, Bound::Unbounded);
        let expected = 2 * seqno as usize - 1;
        iter.seek_to_first().unwrap();
        assert_eq!(iter.value().len(), expected, "at {seqno}");
        iter.seek_to_last().unwrap();
        assert_eq!(iter.value().len(), expected, "backwards at {seqno}");
        iter.prev().unwrap();
        assert!(!iter.valid());
    }
}

/// The second reader of a long chain steps over the newest operands only.
#[test]
fn a_long_chain_is_folded_once() {
    let entries: Vec<Entry> =
        (0..2000).rev().map(|seqno| entry(b"a", seqno, ValueKind::Merge, b"y")).collect();
    let fold = fold();
    let fuse = Fuse::never();
    let read = |steps| {
        let at = ReadAt { fold: Some(fold.clone()), ..read_at(SeqNo::MAX.get()) };
        let inner = VecIter::new(entries.clone(), fuse.clone());
        fuse.set(steps);
        let mut iter = Visible::new(inner, at, Bound::Unbounded, Bound::Unbounded);
        iter.seek_to_first().map(|()| iter.value().len())
    };
    assert!(read(100).is_err(), "the first reader walks over all of them");
    assert_eq!(read(u64::MAX).unwrap(), 3999);
    assert_eq!(read(100).unwrap(), 3999);
}

#[test]
fn long_histories_and_tombstones_cost_few_steps() {
    // Versions that are too new, versions of one key, and a row of tombstones.
    let mut entries = Vec::new();
    for seqno in 0..1000_u64 {
        entries.push(entry(b"a", seqno, ValueKind::Put, &seqno.to_be_bytes()));
        entries.push(entry(b"c", seqno, ValueKind::Put, &seqno.to_be_bytes()));
    }
    for n in 0..1000_u32 {
        let key = [b"b", &n.to_be_bytes()[..]].concat();
        entries.push(entry(&key, 5, ValueKind::Delete, b""));
    }
    let fuse = Fuse::never();
    let inner = VecIter::new(entries, fuse.clone());
    let mut iter = Visible::new(inner, read_at(500), Bound::Unbounded, Bound::Unbounded);
    fuse.set(1100);
    iter.seek_to_first().unwrap();
    assert_eq!((iter.user_key(), iter.value()), (&b"a"[..], &500_u64.to_be_bytes()[..]));
    iter.next().unwrap();
    assert_eq!((iter.user_key(), iter.value()), (&b"c"[..], &500_u64.to_be_bytes()[..]));
    iter.next().unwrap();
    assert!(!iter.valid());
    fuse.set(1100);
    iter.seek_to_last().unwrap();
    assert_eq!((iter.user_key(), iter.value()), (&b"c"[..], &500_u64.to_be_bytes()[..]));
    iter.prev().unwrap();
    assert_eq!((iter.user_key(), iter.value()), (&b"a"[..], &500_u64.to_be_bytes()[..]));
    iter.prev().unwrap();
    assert!(!iter.valid());
}
