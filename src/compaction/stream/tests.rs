//! What survives, against what readers see: random versions of few keys, random snapshots, random
//! places that hold something older.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::key::InternalKey;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;
use crate::compaction::stream::Survivors;

type Entry = (InternalKey, Vec<u8>);

/// Forwards over a vector.
struct Forward(Vec<Entry>, usize);

impl InternalIter for Forward {
    fn seek(&mut self, _: KeyRef<'_>) -> Result<()> {
        unreachable!("compaction reads from front to back")
    }
    fn seek_for_prev(&mut self, _: KeyRef<'_>) -> Result<()> {
        unreachable!("compaction reads from front to back")
    }
    fn seek_to_first(&mut self) -> Result<()> {
        self.1 = 0;
        Ok(())
    }
    fn seek_to_last(&mut self) -> Result<()> {
        unreachable!("compaction reads from front to back")
    }
    fn next(&mut self) -> Result<()> {
        self.1 += 1;
        Ok(())
    }
    fn prev(&mut self) -> Result<()> {
        unreachable!("compaction reads from front to back")
    }
    fn valid(&self) -> bool {
        self.1 < self.0.len()
    }
    fn key(&self) -> KeyRef<'_> {
        self.0[self.1].0.as_ref()
    }
    fn value(&self) -> &[u8] {
        &self.0[self.1].1
    }
}

/// A stream, what lies beneath it, and who reads.
#[derive(Clone, Debug)]
struct Case {
    entries: Vec<Entry>,
    /// Keys of which an older version lies beneath the output.
    beneath: BTreeSet<Vec<u8>>,
    snapshots: Vec<SeqNo>,
    zero_seqnos: bool,
}

const NEWEST: u64 = 100;

fn cases() -> impl Strategy<Value = Case> {
    // A sequence number is that of one entry.
    let writes = prop::collection::btree_map(1..NEWEST, (0..5_u8, any::<bool>()), 0..40);
    let beneath = prop::collection::btree_set(0..5_u8, 0..5);
    let snapshots = prop::collection::btree_set(0..=NEWEST, 0..6);
    (writes, beneath, snapshots, any::<bool>()).prop_map(
        |(writes, beneath, snapshots, zero_seqnos)| {
            let entry = |(seqno, (user, is_put)): (u64, (u8, bool))| {
                let kind = if is_put { ValueKind::Put } else { ValueKind::Delete };
                let value = if is_put { seqno.to_string().into_bytes() } else { Vec::new() };
                (InternalKey::new([user], Trailer::new(SeqNo::new(seqno), kind)), value)
            };
            let mut entries: Vec<Entry> = writes.into_iter().map(entry).collect();
            entries.sort_by(|a, b| a.0.as_ref().cmp(&b.0.as_ref()));
            Case {
                entries,
                beneath: beneath.into_iter().map(|user| vec![user]).collect(),
                snapshots: snapshots.into_iter().map(SeqNo::new).collect(),
                zero_seqnos,
            }
        },
    )
}

fn survivors(case: &Case, entries: Vec<Entry>) -> Vec<Entry> {
    let mut last_asked: Option<Vec<u8>> = None;
    let is_bottom = |user: &[u8]| {
        assert!(last_asked.as_deref().is_none_or(|last| last <= user), "keys are asked in order");
        last_asked = Some(user.to_vec());
        !case.beneath.contains(user)
    };
    let inner = Forward(entries, 0);
    let mut stream =
        Survivors::new(inner, case.snapshots.clone(), is_bottom, case.zero_seqnos).unwrap();
    let mut out = Vec::new();
    while stream.valid() {
        let (key, value) = stream.entry();
        out.push((InternalKey::from(key), value.to_vec()));
        stream.next().unwrap();
    }
    out
}

/// What a reader at `seqno` sees of the entries and what lies beneath.
fn seen(case: &Case, entries: &[Entry], seqno: SeqNo) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let old = case.beneath.iter().map(|user| (user.clone(), b"from beneath".to_vec()));
    let mut map: BTreeMap<_, _> = old.collect();
    // Of each key the newest comes first: go back, so that it has the last word.
    for (key, value) in entries.iter().rev().filter(|(key, _)| key.trailer.seqno() <= seqno) {
        match key.trailer.kind() {
            Some(ValueKind::Put) => map.insert(key.user.clone(), value.clone()),
            _ => map.remove(&key.user),
        };
    }
    map
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_reader_sees_a_difference(case in cases()) {
        let out = survivors(&case, case.entries.clone());
        for seqno in case.snapshots.iter().copied().chain([SeqNo::new(NEWEST), SeqNo::MAX]) {
            let before = seen(&case, &case.entries, seqno);
            prop_assert_eq!(before, seen(&case, &out, seqno), "at {}", seqno);
        }
    }

    #[test]
    fn what_survives_is_in_order_and_was_there(case in cases()) {
        let out = survivors(&case, case.entries.clone());
        for pair in out.windows(2) {
            prop_assert!(pair[0].0.as_ref() < pair[1].0.as_ref());
        }
        let oldest = case.snapshots.first().copied().unwrap_or(SeqNo::MAX);
        for (key, value) in &out {
            let zeroed = key.trailer == Trailer::new(SeqNo::ZERO, ValueKind::Put);
            let original = case.entries.iter().find(|(other, content)| {
                other.user == key.user
                    && content == value
                    && (other.trailer == key.trailer || zeroed && other.trailer.seqno() <= oldest)
            });
            prop_assert!(original.is_some(), "{:?} comes from nowhere", key);
            if zeroed {
                prop_assert!(case.zero_seqnos && !case.beneath.contains(&key.user));
            }
        }
    }

    #[test]
    fn nothing_survives_that_no_reader_needs(case in cases()) {
        let out = survivors(&case, case.entries.clone());
        let stripe = |key: &InternalKey| {
            case.snapshots.iter().filter(|snapshot| **snapshot < key.trailer.seqno()).count()
        };
        let mut taken = BTreeSet::new();
        for (key, _) in &out {
            let at = (key.user.clone(), stripe(key));
            prop_assert!(taken.insert(at), "two versions of {:?} in one stripe", key.user);
            let in_oldest_stripe = stripe(key) == 0;
            let free = !case.beneath.contains(&key.user);
            if in_oldest_stripe && free {
                prop_assert_eq!(key.trailer.kind(), Some(ValueKind::Put), "a useless tombstone");
                prop_assert!(!case.zero_seqnos || key.trailer.seqno() == SeqNo::ZERO);
            }
        }
        // Once more changes nothing.
        prop_assert_eq!(survivors(&case, out.clone()), out);
    }
}
