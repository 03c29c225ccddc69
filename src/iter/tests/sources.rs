//! Sources that fail on demand, random walks, and the walk beside a model.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use proptest::prelude::*;

use crate::base::error::Error;
use crate::base::error::Result;
use crate::base::internal_iter::InternalIter;
use crate::base::internal_iter::next_by_trying;
use crate::base::internal_iter::prev_by_trying;
use crate::base::key::InternalKey;
use crate::base::key::KeyRef;
use crate::base::key::Trailer;
use crate::base::seqno::SeqNo;
use crate::base::value::ValueKind;

pub(super) type Entry = (InternalKey, Vec<u8>);

pub(super) fn entry(user: &[u8], seqno: u64, kind: ValueKind, value: &[u8]) -> Entry {
    let trailer = Trailer::new(SeqNo::new(seqno), kind);
    (InternalKey::new(user, trailer), value.to_vec())
}

pub(super) fn sort(entries: &mut [Entry]) {
    entries.sort_by(|a, b| a.0.as_ref().cmp(&b.0.as_ref()));
}

/// How many more operations succeed; shared by all sources of a test.
#[derive(Clone)]
pub(super) struct Fuse(Rc<Cell<u64>>);

impl Fuse {
    pub(super) fn never() -> Fuse {
        Fuse(Rc::new(Cell::new(u64::MAX)))
    }

    /// The operation after the next `n` fails, and that one only.
    pub(super) fn set(&self, n: u64) {
        self.0.set(n);
    }

    /// Operations since it was set to `u64::MAX`.
    pub(super) fn spent(&self) -> u64 {
        u64::MAX - self.0.get()
    }

    /// Does the next operation fail?
    fn is_burnt_out(&self) -> bool {
        self.0.get() == 0
    }

    pub(super) fn burn(&self) -> Result<()> {
        let left = self.0.get();
        self.0.set(left.wrapping_sub(1));
        if left == 0 {
            return Err(Error::corruption(Path::new("test"), 0, "injected"));
        }
        Ok(())
    }
}

/// A cursor over a sorted vector that fails when its fuse burns out.
pub(super) struct VecIter {
    entries: Vec<Entry>,
    at: Option<usize>,
    fuse: Fuse,
}

impl VecIter {
    pub(super) fn new(mut entries: Vec<Entry>, fuse: Fuse) -> VecIter {
        sort(&mut entries);
        VecIter { entries, at: None, fuse }
    }

    fn go(&mut self, to: impl FnOnce(&VecIter) -> Option<usize>) -> Result<()> {
        let to = to(self).filter(|i| *i < self.entries.len());
        self.at = None;
        self.fuse.burn()?;
        self.at = to;
        Ok(())
    }
}

impl VecIter {
    /// If the entry there is one of another user key, and the fuse does not burn out.
    fn try_go(&mut self, to: impl FnOnce(usize) -> Option<usize>) -> Option<Trailer> {
        let to = self.at.and_then(to).filter(|to| *to < self.entries.len())?;
        if self.entries[to].0.user == self.key().user || self.fuse.is_burnt_out() {
            return None;
        }
        self.go(|_| Some(to)).ok()?;
        Some(self.key().trailer)
    }
}

impl InternalIter for VecIter {
    fn seek(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.go(|it| Some(it.entries.partition_point(|e| e.0.as_ref() < target)))
    }

    fn seek_for_prev(&mut self, target: KeyRef<'_>) -> Result<()> {
        self.go(|it| it.entries.partition_point(|e| e.0.as_ref() <= target).checked_sub(1))
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.go(|_| Some(0))
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.go(|it| it.entries.len().checked_sub(1))
    }

    fn next(&mut self) -> Result<()> {
        assert!(self.valid());
        self.go(|it| it.at.map(|i| i + 1))
    }

    fn prev(&mut self) -> Result<()> {
        assert!(self.valid());
        self.go(|it| it.at.and_then(|i| i.checked_sub(1)))
    }

    fn try_next(&mut self) -> Option<Trailer> {
        self.try_go(|i| Some(i + 1))
    }

    fn try_prev(&mut self) -> Option<Trailer> {
        self.try_go(|i| i.checked_sub(1))
    }

    fn pass_versions(&mut self, user: &[u8]) -> Result<()> {
        assert_eq!(self.key().user, user);
        self.go(|it| Some(it.entries.partition_point(|entry| entry.0.user.as_slice() <= user)))
    }

    fn skip_forward(&mut self, to: Option<&[u8]>, below: SeqNo) -> Result<()> {
        if self.entries.iter().any(|entry| entry.0.trailer.seqno() >= below) {
            return self.next();
        }
        self.go(|it| {
            let is_before = |user: &[u8]| to.is_none_or(|to| user < to);
            let end = it.entries.partition_point(|entry| is_before(&entry.0.user));
            it.at.map(|i| end.max(i + 1))
        })
    }

    fn valid(&self) -> bool {
        self.at.is_some()
    }

    fn key(&self) -> KeyRef<'_> {
        self.entries[self.at.unwrap()].0.as_ref()
    }

    fn value(&self) -> &[u8] {
        &self.entries[self.at.unwrap()].1
    }
}

/// A step of a random walk.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Seek(Vec<u8>, Trailer),
    SeekForPrev(Vec<u8>, Trailer),
    First,
    Last,
    Next,
    Prev,
    /// The same, by trying first.
    TryNext,
    TryPrev,
    /// Past all versions of a key.
    PassKey,
}

/// Keys that meet each other often, on both sides of the 16 bytes that heads cover.
pub(super) fn user_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(0..3_u8, 0..3),
        (0..20_u8).prop_map(|n| vec![b'k', n]),
        (0..10_u8).prop_map(|n| [&[b'k'; 17][..], &[n]].concat()),
    ]
}

pub(super) fn trailer() -> impl Strategy<Value = Trailer> {
    (0..40_u64, 0..3_u8).prop_map(|(seqno, kind)| match kind {
        0 => Trailer::seek(SeqNo::new(seqno)),
        1 => Trailer::new(SeqNo::new(seqno), ValueKind::Put),
        _ => Trailer::new(SeqNo::new(seqno), ValueKind::Delete),
    })
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (user_key(), trailer()).prop_map(|(key, trailer)| Step::Seek(key, trailer)),
        2 => (user_key(), trailer()).prop_map(|(key, trailer)| Step::SeekForPrev(key, trailer)),
        1 => Just(Step::First),
        1 => Just(Step::Last),
        6 => Just(Step::Next),
        6 => Just(Step::Prev),
        6 => Just(Step::TryNext),
        6 => Just(Step::TryPrev),
        4 => Just(Step::PassKey),
    ];
    prop::collection::vec(step, 1..60)
}

pub(super) fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

/// Takes one step with a cursor; next and prev are skipped where it stands nowhere.
fn take(iter: &mut impl InternalIter, step: &Step) -> Result<()> {
    match step {
        Step::Seek(key, trailer) => iter.seek(KeyRef::new(key, *trailer)),
        Step::SeekForPrev(key, trailer) => iter.seek_for_prev(KeyRef::new(key, *trailer)),
        Step::First => iter.seek_to_first(),
        Step::Last => iter.seek_to_last(),
        Step::Next if iter.valid() => iter.next(),
        Step::Prev if iter.valid() => iter.prev(),
        Step::TryNext if iter.valid() => next_by_trying(iter),
        Step::TryPrev if iter.valid() => prev_by_trying(iter),
        Step::PassKey if iter.valid() => pass_key(iter),
        Step::Next | Step::Prev | Step::TryNext | Step::TryPrev | Step::PassKey => Ok(()),
    }
}

fn pass_key(iter: &mut impl InternalIter) -> Result<()> {
    let user = iter.key().user.to_vec();
    while iter.valid() && iter.key().user == user {
        iter.pass_versions(&user)?;
    }
    Ok(())
}

/// Walks `iter` beside a cursor over all of `entries`; the operation of its sources after the first
/// `fail_after` fails.
pub(super) fn check_walk(
    mut iter: impl InternalIter,
    entries: Vec<Entry>,
    steps: &[Step],
    fuse: &Fuse,
    fail_after: u64,
) {
    let mut model = VecIter::new(entries, Fuse::never());
    fuse.set(fail_after);
    for step in steps {
        if take(&mut iter, step).is_err() {
            assert!(!iter.valid(), "an error must leave the cursor nowhere");
            model.at = None;
            continue;
        }
        take(&mut model, step).unwrap();
        assert_eq!(iter.valid(), model.valid(), "{step:?}");
        if iter.valid() {
            assert_eq!(iter.key(), model.key(), "{step:?}");
            assert_eq!(iter.value(), model.value(), "{step:?}");
            assert_eq!(iter.value_slice(), model.value());
        }
    }
}
