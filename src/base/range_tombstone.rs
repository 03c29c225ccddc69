//! Range tombstones: spans of user keys whose older entries are gone.
//!
//! A range tombstone goes from a key, inclusive, to another, exclusive, or to the end of all keys.
//! An entry in it at sequence number s is hidden from a reader at r if the tombstone has one t with
//! s < t ≤ r.
//!
//! ```text
//! tombstones   [b ──────────9────────── m)        fragments   [b ─9─ e)
//!                    [e ──────4────── k)                      [e ─9,4─ k)
//!                                                             [k ─9─ m)
//! ```
//!
//! Where many overlap they are looked up as [`Fragments`]: cut at each other's ends, so that none
//! overlaps another, each with all numbers that hold in it, or with those that readers can tell apart:
//! where n all overlap each other, all are n². What a reader needs to know about the
//! keys around one is a [`Window`], which each source of tombstones narrows.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use crate::base::error::Result;
use crate::base::key::KEY_LEN_MAX;
use crate::base::range::Bounds;
use crate::base::seqno::SeqNo;
use crate::base::spans::SpanEnd;
use crate::base::spans::successor;

/// What a fragment takes in memory besides its keys and numbers.
const FRAGMENT_BYTES: usize = size_of::<Fragment>();

/// The end of a range as a log or file stores it. Empty stands for the end of all keys: nothing ends
/// at the empty key, since nothing lies before it.
pub(crate) fn stored_end(to: Option<&[u8]>) -> &[u8] {
    to.unwrap_or_default()
}

/// The end of a range that is stored as `end`.
pub(crate) fn end_of(end: &[u8]) -> Option<&[u8]> {
    Some(end).filter(|end| !end.is_empty())
}

/// Does the end `to` lie behind `key`?
#[inline]
pub(crate) fn is_behind(to: Option<&[u8]>, key: &[u8]) -> bool {
    to.is_none_or(|to| key < to)
}

/// The range tombstone that has the keys within `bounds`; none if no key is. Both of its ends are
/// keys that can be stored.
pub(crate) fn range_of(bounds: &Bounds) -> Option<(Vec<u8>, SpanEnd)> {
    let from = match &bounds.0 {
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => end_behind(key)?,
        Bound::Unbounded => Vec::new(),
    };
    let to = match &bounds.1 {
        Bound::Included(key) => end_behind(key),
        Bound::Excluded(key) => Some(key.clone()),
        Bound::Unbounded => None,
    };
    is_behind(to.as_deref(), &from).then_some((from, to))
}

/// Where a range ends that has `key` as its last one: the smallest key after it; none, the end of all
/// keys, if there is none. The longest keys have no successor of their
/// own length and a byte, and no key in between.
pub(crate) fn end_behind(key: &[u8]) -> SpanEnd {
    if key.len() < KEY_LEN_MAX {
        return Some(successor(key));
    }
    let last = key.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut next = key[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

/// Keys around one about which sources of tombstones say the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) from: Vec<u8>,
    pub(crate) to: SpanEnd,
    /// The newest tombstone that covers them; 0 if none does.
    pub(crate) seqno: SeqNo,
}

impl Window {
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && is_behind(self.to.as_deref(), key)
    }

    /// All keys, and no tombstone.
    pub(crate) fn open(&mut self) {
        self.from.clear();
        self.to = None;
        self.seqno = SeqNo::ZERO;
    }

    pub(crate) fn narrow_from(&mut self, from: &[u8]) {
        if self.from.as_slice() < from {
            self.from.clear();
            self.from.extend_from_slice(from);
        }
    }

    pub(crate) fn narrow_to(&mut self, to: Option<&[u8]>) {
        if let Some(to) = to
            && self.to.as_ref().is_none_or(|end| to < end.as_slice())
        {
            self.to = Some(to.to_vec());
        }
    }
}

/// What is known of the range tombstones of a file without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeFacts {
    /// How many numbers all fragments have together, at least 1.
    pub(crate) count: u64,
    /// Where the first one begins and the last one ends.
    pub(crate) from: Vec<u8>,
    pub(crate) to: SpanEnd,
}

/// Where in the order of keys a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot<'a> {
    At(&'a [u8]),
    /// At the keys right before this one.
    Before(&'a [u8]),
}

impl Spot<'_> {
    /// Does what begins at `from` begin at or before the spot?
    pub(crate) fn is_from(self, from: &[u8]) -> bool {
        match self {
            Spot::At(key) => from <= key,
            Spot::Before(key) => from < key,
        }
    }

    /// Does what ends at `to` end behind the spot?
    pub(crate) fn is_until(self, to: Option<&[u8]>) -> bool {
        match self {
            Spot::At(key) => is_behind(to, key),
            Spot::Before(key) => to.is_none_or(|to| key <= to),
        }
    }
}

/// A source of range tombstones.
pub(crate) trait RangeSource: fmt::Debug + Send + Sync {
    /// Narrows `window` to keys around `spot` about which it says one thing to a reader at `at`, and
    /// says it.
    fn narrow(&self, spot: Spot<'_>, at: SeqNo, window: &mut Window) -> Result<()>;
}

/// A piece of the key space, with the tombstones that cover it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) from: Vec<u8>,
    pub(crate) to: SpanEnd,
    /// Newest first, not empty.
    pub(crate) seqnos: Vec<SeqNo>,
}

impl Fragment {
    pub(crate) fn to(&self) -> Option<&[u8]> {
        self.to.as_deref()
    }

    /// The newest tombstone that a reader at `at` sees; 0 if there is none.
    #[inline]
    pub(crate) fn newest(&self, at: SeqNo) -> SeqNo {
        let seen = self.seqnos.iter().find(|seqno| **seqno <= at);
        seen.copied().unwrap_or_default()
    }

    /// The oldest and the newest tombstone.
    pub(crate) fn bounds(&self) -> Option<(SeqNo, SeqNo)> {
        Some((*self.seqnos.last()?, *self.seqnos.first()?))
    }

    /// The oldest tombstone that hides an entry at `seqno`, if any does.
    pub(crate) fn first_above(&self, seqno: SeqNo) -> Option<SeqNo> {
        self.seqnos.iter().rev().find(|tombstone| **tombstone > seqno).copied()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Border {
    Begin,
    End,
}

/// Range tombstones, cut so that no two pieces overlap; ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragments {
    list: Vec<Fragment>,
}

impl Fragments {
    /// Cuts `pieces`, in any order, into fragments with all their numbers. O(n log n) and the size of
    /// the result, which for n pieces that all overlap each other has n² numbers.
    pub(crate) fn cut<'a>(
        mut pieces: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>, SeqNo)>,
    ) -> Fragments {
        Fragments::cut_by(&mut pieces, &|active| active.keys().rev().copied().collect())
    }

    /// The same with those numbers only that readers at `snapshots`, which ascend, and later than all
    /// `pieces` tell apart: between two of them, the newest. O(n log n) for each snapshot.
    pub(crate) fn cut_for<'a>(
        mut pieces: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>, SeqNo)>,
        snapshots: &[SeqNo],
    ) -> Fragments {
        Fragments::cut_by(&mut pieces, &|active| {
            let mut seqnos = Vec::new();
            let mut reader = Some(SeqNo::MAX);
            while let Some(at) = reader
                && let Some((seqno, _)) = active.range(..=at).next_back()
            {
                seqnos.push(*seqno);
                let (older, _) = snapshots.split_at(snapshots.partition_point(|at| at < seqno));
                reader = older.last().copied();
            }
            seqnos
        })
    }

    /// `choose` tells, of the numbers that hold in a fragment, which it gets.
    fn cut_by<'a>(
        pieces: &mut dyn Iterator<Item = (&'a [u8], Option<&'a [u8]>, SeqNo)>,
        choose: &dyn Fn(&BTreeMap<SeqNo, usize>) -> Vec<SeqNo>,
    ) -> Fragments {
        // What begins and what ends, at each key in this order: a piece may end where one with the
        // same number begins. Pieces that come in order are sorted already.
        let mut borders: Vec<(&[u8], Border, SeqNo)> = Vec::new();
        for (from, to, seqno) in pieces.filter(|(from, to, _)| is_behind(*to, from)) {
            borders.push((from, Border::Begin, seqno));
            borders.extend(to.map(|to| (to, Border::End, seqno)));
        }
        borders.sort();
        let mut fragments = Fragments::default();
        let mut active: BTreeMap<SeqNo, usize> = BTreeMap::new();
        let mut borders = borders.chunk_by(|a, b| a.0 == b.0).peekable();
        while let Some(changes @ [(from, ..), ..]) = borders.next() {
            for (_, border, seqno) in changes {
                let count = active.entry(*seqno).or_insert(0);
                match border {
                    Border::Begin => *count += 1,
                    Border::End => *count -= 1,
                }
                if *count == 0 {
                    active.remove(seqno);
                }
            }
            let next = borders.peek().and_then(|changes| changes.first());
            let to = next.map(|(to, ..)| to.to_vec());
            fragments.push(Fragment { from: from.to_vec(), to, seqnos: choose(&active) });
        }
        fragments
    }

    /// Appends a fragment, unless it has no numbers; joins it to the last one where they say the
    /// same. Requires: it begins at or behind the end of the last one.
    pub(crate) fn push(&mut self, fragment: Fragment) {
        if fragment.seqnos.is_empty() {
            return;
        }
        if let Some(last) = self.list.last_mut() {
            debug_assert!(last.to.as_ref().is_some_and(|to| *to <= fragment.from));
            if last.to.as_ref() == Some(&fragment.from) && last.seqnos == fragment.seqnos {
                last.to = fragment.to;
                return;
            }
        }
        self.list.push(fragment);
    }

    /// All of `parts` together, with all numbers.
    pub(crate) fn union<'a>(parts: impl Iterator<Item = &'a Fragments>) -> Fragments {
        Fragments::cut(parts.flat_map(Fragments::pieces))
    }

    /// All of `parts` together, as [`Fragments::cut_for`].
    pub(crate) fn union_for<'a>(
        parts: impl Iterator<Item = &'a Fragments>,
        snapshots: &[SeqNo],
    ) -> Fragments {
        Fragments::cut_for(parts.flat_map(Fragments::pieces), snapshots)
    }

    /// Has any key tombstones of both?
    pub(crate) fn overlap(&self, other: &Fragments) -> bool {
        let mut list = self.list.iter();
        list.any(|fragment| !other.overlapping(&fragment.from, fragment.to()).is_empty())
    }

    /// Each tombstone of each fragment.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>, SeqNo)> {
        self.list.iter().flat_map(|fragment| {
            let seqnos = fragment.seqnos.iter();
            seqnos.map(|seqno| (fragment.from.as_slice(), fragment.to(), *seqno))
        })
    }

    /// What of it lies between `from` and `to`.
    pub(crate) fn clip(&self, from: &[u8], to: Option<&[u8]>) -> Fragments {
        let mut clipped = Fragments::default();
        for fragment in self.overlapping(from, to) {
            let mut part = fragment.clone();
            if part.from.as_slice() < from {
                part.from = from.to_vec();
            }
            if let Some(to) = to
                && is_behind(fragment.to(), to)
            {
                part.to = Some(to.to_vec());
            }
            clipped.push(part);
        }
        clipped
    }

    /// The fragments with a key between `from` and `to`.
    pub(crate) fn overlapping(&self, from: &[u8], to: Option<&[u8]>) -> &[Fragment] {
        let start = self.list.partition_point(|fragment| !is_behind(fragment.to(), from));
        let rest = self.list.get(start..).unwrap_or_default();
        let end = rest.partition_point(|fragment| is_behind(to, &fragment.from));
        rest.get(..end).unwrap_or_default()
    }

    pub(crate) fn list(&self) -> &[Fragment] {
        &self.list
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What a manifest says of them; nothing if there are none.
    pub(crate) fn facts(&self) -> Option<RangeFacts> {
        let (from, to) = self.hull()?;
        let count = self.list.iter().map(|fragment| fragment.seqnos.len() as u64).sum();
        Some(RangeFacts { count, from: from.to_vec(), to: to.map(<[u8]>::to_vec) })
    }

    /// The oldest and the newest number.
    pub(crate) fn seqnos(&self) -> Option<(SeqNo, SeqNo)> {
        let bounds = self.list.iter().filter_map(Fragment::bounds);
        bounds.reduce(|(oldest, newest), (a, b)| (oldest.min(a), newest.max(b)))
    }

    /// Where the first one begins and the last one ends.
    pub(crate) fn hull(&self) -> Option<(&[u8], Option<&[u8]>)> {
        let (first, last) = (self.list.first()?, self.list.last()?);
        Some((&first.from, last.to()))
    }

    /// The fragment that covers `key`.
    pub(crate) fn over(&self, key: &[u8]) -> Option<&Fragment> {
        let behind = self.list.partition_point(|fragment| fragment.from.as_slice() <= key);
        let last = self.list.get(behind.checked_sub(1)?)?;
        is_behind(last.to(), key).then_some(last)
    }

    /// The newest tombstone over `key` that a reader at `at` sees; 0 if there is none.
    pub(crate) fn newest_over(&self, key: &[u8], at: SeqNo) -> SeqNo {
        self.over(key).map_or(SeqNo::ZERO, |fragment| fragment.newest(at))
    }

    /// The newest tombstone with a key between `from` and `to`; 0 if there is none.
    pub(crate) fn newest_within(&self, from: &[u8], to: Option<&[u8]>) -> SeqNo {
        let overlapping = self.overlapping(from, to).iter();
        overlapping
            .filter_map(|fragment| fragment.seqnos.first())
            .max()
            .copied()
            .unwrap_or_default()
    }

    /// Memory in use, about.
    pub(crate) fn bytes(&self) -> usize {
        let of = |fragment: &Fragment| {
            FRAGMENT_BYTES
                + fragment.from.len()
                + fragment.to.as_ref().map_or(0, Vec::len)
                + size_of_val(fragment.seqnos.as_slice())
        };
        self.list.iter().map(of).sum()
    }
}

impl RangeSource for Fragments {
    fn narrow(&self, spot: Spot<'_>, at: SeqNo, window: &mut Window) -> Result<()> {
        let behind = self.list.partition_point(|fragment| spot.is_from(&fragment.from));
        let last = behind.checked_sub(1).and_then(|last| self.list.get(last));
        match last {
            Some(last) if spot.is_until(last.to()) => {
                window.narrow_from(&last.from);
                window.narrow_to(last.to());
                window.seqno = window.seqno.max(last.newest(at));
            }
            last => {
                window.narrow_from(last.and_then(Fragment::to).unwrap_or_default());
                window.narrow_to(self.list.get(behind).map(|next| next.from.as_slice()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..3_u8, 0..4)
    }

    fn piece() -> impl Strategy<Value = (Vec<u8>, SpanEnd, SeqNo)> {
        (key(), prop::option::of(key()), (1..20_u64).prop_map(SeqNo::new))
    }

    fn newest(pieces: &[(Vec<u8>, SpanEnd, SeqNo)], key: &[u8], at: SeqNo) -> SeqNo {
        let over = pieces.iter().filter(|(from, to, seqno)| {
            from.as_slice() <= key && is_behind(to.as_deref(), key) && *seqno <= at
        });
        over.map(|(.., seqno)| *seqno).max().unwrap_or_default()
    }

    fn borrowed(
        pieces: &[(Vec<u8>, SpanEnd, SeqNo)],
    ) -> impl Iterator<Item = (&[u8], Option<&[u8]>, SeqNo)> {
        pieces.iter().map(|(from, to, seqno)| (from.as_slice(), to.as_deref(), *seqno))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn fragments_say_what_the_tombstones_say(
            pieces in prop::collection::vec(piece(), 0..12),
            asked in prop::collection::vec(key(), 1..30),
            at in (0..20_u64).prop_map(SeqNo::new),
            cut in (key(), prop::option::of(key())),
            snapshots in prop::collection::btree_set((0..20_u64).prop_map(SeqNo::new), 0..4),
        ) {
            let fragments = Fragments::cut(borrowed(&pieces));
            for pair in fragments.list().windows(2) {
                prop_assert!(pair[0].to.as_ref().is_some_and(|to| *to <= pair[1].from));
            }
            for fragment in fragments.list() {
                prop_assert!(is_behind(fragment.to(), &fragment.from));
                prop_assert!(fragment.seqnos.windows(2).all(|pair| pair[0] > pair[1]));
            }
            let (from, to) = &cut;
            let clipped = fragments.clip(from, to.as_deref());
            for key in &asked {
                let expected = newest(&pieces, key, at);
                prop_assert_eq!(fragments.newest_over(key, at), expected);
                let inside = from <= key && is_behind(to.as_deref(), key);
                let expected_inside = if inside { expected } else { SeqNo::ZERO };
                prop_assert_eq!(clipped.newest_over(key, at), expected_inside);
                let mut window = Window::default();
                fragments.narrow(Spot::At(key), at, &mut window).unwrap();
                prop_assert!(window.contains(key) && window.seqno == expected);
                for other in asked.iter().filter(|other| window.contains(other)) {
                    prop_assert_eq!(newest(&pieces, other, at), expected);
                }
                let mut before = Window::default();
                fragments.narrow(Spot::Before(key), at, &mut before).unwrap();
                prop_assert!(before.from < *key || key.is_empty());
                prop_assert!(before.to.as_ref().is_none_or(|to| key <= to));
                for other in asked.iter().filter(|other| before.contains(other)) {
                    prop_assert_eq!(newest(&pieces, other, at), before.seqno);
                }
            }
            let halves = pieces.split_at(pieces.len() / 2);
            let halves = [halves.0, halves.1].map(|half| Fragments::cut(borrowed(half)));
            prop_assert_eq!(&Fragments::union(halves.iter()), &fragments);
            prop_assert_eq!(halves[0].overlap(&halves[1]), halves[1].overlap(&halves[0]));

            let snapshots: Vec<_> = snapshots.into_iter().collect();
            let fewer = Fragments::union_for(std::iter::once(&fragments), &snapshots);
            let most = snapshots.len() + 1;
            prop_assert!(fewer.list().iter().all(|fragment| fragment.seqnos.len() <= most));
            for (key, at) in asked.iter().flat_map(|key| {
                snapshots.iter().chain([&SeqNo::MAX]).map(move |at| (key, *at))
            }) {
                prop_assert_eq!(fewer.newest_over(key, at), newest(&pieces, key, at));
            }
        }

        #[test]
        fn ranges_have_the_keys_within_their_bounds(from in key(), to in key(), asked in key()) {
            use crate::base::range::is_above;
            use crate::base::range::is_below;
            let lowers = [Bound::Included(from.clone()), Bound::Excluded(from), Bound::Unbounded];
            for lower in lowers {
                for upper in
                    [Bound::Included(to.clone()), Bound::Excluded(to.clone()), Bound::Unbounded]
                {
                    let bounds = (lower.clone(), upper);
                    let within = !is_below(&asked, &bounds.0) && !is_above(&asked, &bounds.1);
                    let found = range_of(&bounds).is_some_and(|(from, to)| {
                        from <= asked && is_behind(to.as_deref(), &asked)
                    });
                    prop_assert_eq!(found, within, "{:?}", bounds);
                }
            }
        }
    }

    #[test]
    fn the_longest_keys_are_followed_by_shorter_ones() {
        let last = vec![u8::MAX; KEY_LEN_MAX];
        assert_eq!(range_of(&(Bound::Excluded(last.clone()), Bound::Unbounded)), None);
        assert_eq!(
            range_of(&(Bound::Unbounded, Bound::Included(last.clone()))),
            Some((Vec::new(), None))
        );
        let mut long = last;
        long[1] = 7;
        let after = Some((vec![u8::MAX, 8], None));
        assert_eq!(range_of(&(Bound::Excluded(long), Bound::Unbounded)), after);
    }
}
