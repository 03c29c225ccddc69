//! What a reader sees, against a sorted map.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use crate::base::error::Result;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::slice::COPY_LEN_MAX;
use crate::base::value::ValueKind;
use crate::iter::Merging;
use crate::iter::Visible;
use crate::iter::tests::sources::*;

type Model = Vec<(Vec<u8>, Vec<u8>)>;

fn model(entries: &[Entry], seqno: u64, lower: &Bound<Vec<u8>>, upper: &Bound<Vec<u8>>) -> Model {
    let mut newest: BTreeMap<Vec<u8>, (Trailer, Vec<u8>)> = BTreeMap::new();
    for (key, value) in entries {
        let better = newest.get(&key.user).is_none_or(|old| old.0 < key.trailer);
        if key.trailer.seqno().get() <= seqno && better {
            newest.insert(key.user.clone(), (key.trailer, value.clone()));
        }
    }
    newest
        .into_iter()
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
        .filter(|(_, (trailer, _))| trailer.kind() == Some(ValueKind::Put))
        .map(|(key, (_, value))| (key, value))
        .collect()
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
    prop::collection::vec(write, 0..40).prop_map(|writes| {
        let mut entries = Vec::new();
        for (key, versions, byte) in writes {
            // Mostly one version, sometimes more than are stepped over.
            for _ in 0..if versions > 25 { versions } else { 1 } {
                let seqno = entries.len() as u64;
                let delete = (u64::from(byte) + seqno).is_multiple_of(3);
                let len = usize::from(byte) * 5 + entries.len() % 2 * COPY_LEN_MAX;
                entries.push(if delete {
                    entry(&key, seqno, ValueKind::Delete, b"")
                } else {
                    entry(&key, seqno, ValueKind::Put, &vec![seqno as u8; len])
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
        Step::Next | Step::Prev if !iter.valid() => None,
        Step::Next => {
            iter.next()?;
            at.map(|i| i + 1)
        }
        Step::Prev => {
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
        let mut iter = Visible::new(inner, SeqNo::new(seqno), lower, upper);
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
        entry(b"a", 1, ValueKind::Merge, b"operand"),
        entry(b"a", 2, ValueKind::Put, b"value"),
        entry(b"b", 3, ValueKind::Put, b"value"),
        entry(b"c", 4, ValueKind::Expiring, b"value"),
    ];
    let unbounded = || (Bound::Unbounded, Bound::Unbounded);
    let at = |seqno| {
        let (lower, upper) = unbounded();
        Visible::new(merge(&entries, &Fuse::never()), SeqNo::new(seqno), lower, upper)
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
    let mut iter = Visible::new(inner, SeqNo::new(500), Bound::Unbounded, Bound::Unbounded);
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
