//! What survives, against what readers see: random versions of few keys, random snapshots, random
//! places that hold something older.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use crate::base::blob::BlobSource;
use crate::base::error::Result;
use crate::base::hooks::MergeOperator;
use crate::base::hooks::MergeResult;
use crate::base::ids::FileId;
use crate::base::internal_iter::InternalIter;
use crate::base::key::InternalKey;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::slice::Slice;
use crate::base::value::ValueKind;
use crate::base::value::expiry_of;
use crate::base::value::with_expiry;
use crate::cache::BlockCache;
use crate::compaction::beneath::Beneath;
use crate::compaction::ranges;
use crate::compaction::stream::Rules;
use crate::compaction::stream::Survivors;
use crate::fs::MemFs;
use crate::fs::ReadMode;
use crate::iter::Fold;
use crate::manifest::KeyspaceEdit;
use crate::manifest::SstMeta;
use crate::version::LEVELS;
use crate::version::Version;
use crate::version::builder;
use crate::version::sst_file::SstOpener;

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
    ranges: Arc<Fragments>,
    /// Keys of which an older version lies beneath the output.
    beneath: BTreeSet<Vec<u8>>,
    snapshots: Vec<SeqNo>,
    zero_seqnos: bool,
    /// Whether operands can be folded, and combined.
    operator: Able,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Able {
    Fold,
    Combine,
    /// Fails whenever an operand of this sequence number is among those given.
    Fail(u64),
    Unknown,
}

/// Appends with commas, as far as it is able to.
struct Operator(Able);

impl MergeOperator for Operator {
    fn name(&self) -> &'static str {
        "test"
    }

    fn merge(&self, _: &[u8], value: Option<&[u8]>, operands: &[&[u8]]) -> MergeResult<Vec<u8>> {
        if let Able::Fail(seqno) = self.0
            && operands.contains(&seqno.to_string().as_bytes())
        {
            return Err("it is that one".into());
        }
        Ok(value.into_iter().chain(operands.iter().copied()).collect::<Vec<_>>().join(&b","[..]))
    }

    fn combine(&self, key: &[u8], operands: &[&[u8]]) -> MergeResult<Option<Vec<u8>>> {
        if self.0 == Able::Fold { Ok(None) } else { self.merge(key, None, operands).map(Some) }
    }
}

fn fold(able: Able) -> Arc<Fold> {
    let operator: Arc<dyn MergeOperator> = Arc::new(Operator(able));
    let operator = Some(operator).filter(|_| able != Able::Unknown);
    Arc::new(Fold::new("test".to_owned(), "test".to_owned(), operator))
}

const NEWEST: u64 = 100;
const EXPIRED_MS: u64 = 1000;

fn cases() -> impl Strategy<Value = Case> {
    // A sequence number is that of one entry.
    let writes = prop::collection::btree_map(1..NEWEST, (0..5_u8, 0..6_u8), 0..40);
    let ranges = prop::collection::vec((0..5_u8, prop::option::of(0..6_u8), 1..NEWEST), 0..5);
    let ranges = prop_oneof![Just(Vec::new()), ranges];
    // Operands and values that expire are never in one keyspace.
    let kinds = prop_oneof![
        Just([0, 1, 1, 2, 2, 2]),
        Just([0, 1, 3, 3, 4, 4]),
        Just([0, 1, 5, 2, 2, 5]),
        Just([0, 5, 6, 3, 7, 4])
    ];
    let beneath = prop::collection::btree_set(0..5_u8, 0..5);
    let snapshots = prop::collection::btree_set(0..=NEWEST, 0..6);
    let operator = prop_oneof![
        2 => Just(Able::Fold),
        3 => Just(Able::Combine),
        1 => (1..NEWEST).prop_map(Able::Fail),
        1 => Just(Able::Unknown),
    ];
    let rules = (any::<bool>(), operator, kinds);
    (writes, ranges, beneath, snapshots, rules).prop_map(
        |(mut writes, ranges, beneath, snapshots, (zero_seqnos, operator, kinds))| {
            writes.retain(|seqno, _| ranges.iter().all(|(.., other)| other != seqno));
            let entry = |(seqno, (user, kind)): (u64, (u8, u8))| {
                let kind = kinds[usize::from(kind)];
                let value = seqno.to_string().into_bytes();
                let (kind, value) = match kind {
                    0 => (ValueKind::Delete, Vec::new()),
                    3 => (ValueKind::Expiring, with_expiry(EXPIRED_MS - seqno % 2, &value)),
                    4 => (ValueKind::Expiring, with_expiry(EXPIRED_MS + 1, &value)),
                    5 => (ValueKind::BlobRef, value),
                    6 => (ValueKind::ExpiringBlobRef, with_expiry(EXPIRED_MS, &value)),
                    7 => (ValueKind::ExpiringBlobRef, with_expiry(EXPIRED_MS + 1, &value)),
                    kind => (ValueKind::from_byte(kind).unwrap(), value),
                };
                (InternalKey::new([user], Trailer::new(SeqNo::new(seqno), kind)), value)
            };
            let mut entries: Vec<Entry> = writes.into_iter().map(entry).collect();
            entries.sort_by(|a, b| a.0.as_ref().cmp(&b.0.as_ref()));
            let ranges: Vec<_> =
                ranges.into_iter().map(|(from, to, n)| ([from], to.map(|to| [to]), n)).collect();
            let pieces = ranges
                .iter()
                .map(|(from, to, n)| (&from[..], to.as_ref().map(|to| &to[..]), SeqNo::new(*n)));
            Case {
                entries,
                ranges: Arc::new(Fragments::cut(pieces)),
                beneath: beneath.into_iter().map(|user| vec![user]).collect(),
                snapshots: snapshots.into_iter().map(SeqNo::new).collect(),
                zero_seqnos,
                operator,
            }
        },
    )
}

/// Values that lie apart have their handles for values.
#[derive(Debug)]
struct Apart;

impl BlobSource for Apart {
    fn fetch(&self, _: &[u8], handle: &[u8]) -> Result<Slice> {
        Ok(Slice::copy_from(handle))
    }
}

/// The range tombstones as jobs begin with them.
fn newest_of_stripes(case: &Case) -> Fragments {
    Fragments::union_for(std::iter::once(&*case.ranges), &case.snapshots)
}

fn survivors(case: &Case, entries: Vec<Entry>) -> Vec<Entry> {
    let mut last_asked: Option<Vec<u8>> = None;
    let is_bottom = |user: &[u8]| {
        assert!(last_asked.as_deref().is_none_or(|last| last <= user), "keys are asked in order");
        last_asked = Some(user.to_vec());
        !case.beneath.contains(user)
    };
    let inner = Forward(entries, 0);
    let rules = Rules {
        snapshots: case.snapshots.clone(),
        zero_seqnos: case.zero_seqnos,
        fold: Some(fold(case.operator)),
        expired_ms: EXPIRED_MS,
        ranges: Arc::new(newest_of_stripes(case)),
    };
    let mut stream = Survivors::new(inner, is_bottom, rules, &Apart).unwrap();
    let mut out = Vec::new();
    while stream.valid() {
        let (key, value) = stream.entry();
        out.push((InternalKey::from(key), value.to_vec()));
        stream.next().unwrap();
    }
    out
}

/// The range tombstones that are written. What lies beneath does so on the last level.
fn kept(case: &Case) -> Fragments {
    let opener = SstOpener {
        fs: Arc::new(MemFs::new()),
        dir: "/db".into(),
        cache: Arc::new(BlockCache::new(0)),
        mode: ReadMode::Pread,
    };
    let mut edit = KeyspaceEdit::default();
    for (id, user) in (1..).zip(&case.beneath) {
        let key = InternalKey::new(user.as_slice(), Trailer::new(SeqNo::ZERO, ValueKind::Put));
        let (smallest, largest) = (key.clone(), key);
        let meta = SstMeta { id: FileId(id), smallest, largest, ..SstMeta::default() };
        edit.added.push((LEVELS as u8 - 1, meta));
    }
    let version = builder::apply(&Version::default(), &edit, &Arc::new(opener)).unwrap();
    ranges::kept(&newest_of_stripes(case), &case.snapshots, &Beneath::all(&version))
}

/// What a reader at `seqno` sees of the entries and what lies beneath.
fn seen(
    case: &Case,
    entries: &[Entry],
    ranges: &Fragments,
    seqno: SeqNo,
) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let old = case.beneath.iter().map(|user| (user.clone(), b"from beneath".to_vec()));
    let mut map: BTreeMap<_, _> = old.collect();
    let deleted = |user: &[u8]| ranges.newest_over(user, seqno);
    map.retain(|user, _| deleted(user) == SeqNo::ZERO);
    // Of each key the newest comes first: go back, so that it has the last word.
    for (key, value) in entries.iter().rev().filter(|(key, _)| key.trailer.seqno() <= seqno) {
        if key.trailer.seqno() < deleted(&key.user) {
            continue;
        }
        match key.trailer.kind() {
            Some(ValueKind::Put | ValueKind::BlobRef) => {
                map.insert(key.user.clone(), value.clone())
            }
            Some(ValueKind::Merge) => {
                let base = map.get(&key.user).map(|base| [base, &b","[..]].concat());
                let merged = [base.as_deref().unwrap_or_default(), value].concat();
                map.insert(key.user.clone(), merged)
            }
            Some(kind) if kind.expires() && expiry_of(value) > EXPIRED_MS => {
                map.insert(key.user.clone(), value.clone())
            }
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
            let before = seen(&case, &case.entries, &case.ranges, seqno);
            prop_assert_eq!(before, seen(&case, &out, &kept(&case), seqno), "at {}", seqno);
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
            let zeroed = key.trailer.seqno() == SeqNo::ZERO;
            let original = case.entries.iter().find(|(other, content)| {
                // What was folded ends with the newest operand.
                let folded = other.trailer.kind() == Some(ValueKind::Merge)
                    && value.ends_with(content)
                    && other.trailer.seqno() == key.trailer.seqno();
                let expired = other.trailer.kind().is_some_and(ValueKind::expires)
                    && expiry_of(content) <= EXPIRED_MS
                    && key.trailer == Trailer::new(other.trailer.seqno(), ValueKind::Delete);
                other.user == key.user
                    && (expired || value.ends_with(content) && zeroed && other.trailer.seqno() <= oldest
                        || *content == *value && other.trailer == key.trailer
                        || folded)
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
        let is_operand = |key: &InternalKey| key.trailer.kind() == Some(ValueKind::Merge);
        for fragment in kept(&case).list() {
            let stripes: BTreeSet<_> =
                fragment.seqnos.iter().map(|n| ranges::stripe(&case.snapshots, *n)).collect();
            prop_assert_eq!(stripes.len(), fragment.seqnos.len(), "two of one stripe");
            let first = case.beneath.iter().find(|user| **user >= fragment.from);
            prop_assert!(!stripes.contains(&0) || first.is_some(), "a useless range tombstone");
        }
        let mut complete = BTreeSet::new();
        let mut operands = BTreeSet::new();
        for (key, value) in &out {
            let hidden = case.ranges.over(&key.user).and_then(|over| {
                over.first_above(key.trailer.seqno())
            });
            let hidden = hidden.is_some_and(|by| {
                ranges::stripe(&case.snapshots, by) == stripe(key)
            });
            prop_assert!(!hidden, "something beneath a range tombstone of its stripe");
            let has_expired = key.trailer.kind().is_some_and(ValueKind::expires)
                && expiry_of(value) <= EXPIRED_MS;
            prop_assert!(!has_expired, "what has expired is kept");
            let at = (key.user.clone(), stripe(key));
            prop_assert!(!complete.contains(&at), "something beneath a put in its stripe");
            let free = !case.beneath.contains(&key.user);
            let mut others = case.entries.iter().filter(|(other, _)| other.user == key.user);
            let is_last = others.all(|(other, _)| stripe(other) >= stripe(key));
            if is_operand(key) {
                let alone = operands.insert(at);
                prop_assert!(alone || case.operator != Able::Combine, "operands left apart");
                let able = matches!(case.operator, Able::Fold | Able::Combine);
                prop_assert!(!(able && is_last && free), "an operand of nothing is left");
                continue;
            }
            let operands_on_top = operands.contains(&at);
            complete.insert(at);
            let able = matches!(case.operator, Able::Fold | Able::Combine);
            prop_assert!(!(able && operands_on_top), "operands beside what they rest on");
            let in_oldest_stripe = stripe(key) == 0;
            if in_oldest_stripe && free {
                prop_assert!(key.trailer.kind() != Some(ValueKind::Delete), "a useless tombstone");
                let covered = case.ranges.over(&key.user).is_some();
                prop_assert!(!case.zero_seqnos || covered || key.trailer.seqno() == SeqNo::ZERO);
            }
        }
        // Once more changes nothing, but for operands above a tombstone that is gone now.
        let again = survivors(&case, out.clone());
        if !case.entries.iter().any(|(key, _)| is_operand(key)) {
            prop_assert_eq!(&again, &out);
        }
        prop_assert_eq!(survivors(&case, again.clone()), again);
    }
}
