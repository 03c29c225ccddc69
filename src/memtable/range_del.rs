//! The range tombstones of a memtable.
//!
//! They are kept as [`Fragments`] in runs that are never changed, of which readers load the whole set
//! at once, without a lock. A new tombstone becomes a run of its own; then runs of about the same size
//! are made one, from the newest on, so that n tombstones lie in about log n runs and each was merged
//! about log n times.
//!
//! ```text
//! run of 64   newest numbers only    [a ─64─ c) [c ─60─ f) …
//! parts         ├ run of 32, older   [a ─31─ b) [b ─32─ d) …   in turn with parts
//!               └ run of 32, newer   [a ─64─ c) [c ─60─ e) …
//! ```
//!
//! With all its numbers in each fragment, n tombstones that all overlap each other would take n² of
//! them. So where tombstones of two large runs overlap, the one made of them has the newest number of
//! each fragment and keeps the two as its *parts*. Whoever reads at its newest tombstone or later,
//! nearly always everybody, asks it alone. A reader that is older than a fragment's number asks the
//! parts; but not one whose tombstones are all newer than the reader. The numbers of parts follow each
//! other, but for those that commits at the same time apply out of turn; so of each two, one is for
//! such a reader as good as absent, or whole. Memory and time are O(n log n).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use arc_swap::ArcSwapOption;

use crate::base::error::Result;
use crate::base::range_tombstone::Fragments;
use crate::base::range_tombstone::RangeSource;
use crate::base::range_tombstone::Spot;
use crate::base::range_tombstone::Window;
use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;

/// Fragments of so many tombstones have all their numbers.
const WHOLE_MAX: usize = 16;

/// Some of the range tombstones of a memtable.
#[derive(Debug)]
pub(crate) struct RangeRun {
    /// How many went into it.
    tombstones: usize,
    fragments: Fragments,
    /// The oldest and the newest number.
    oldest: SeqNo,
    newest: SeqNo,
    /// What it was made of, if fragments lack numbers.
    parts: Vec<Arc<RangeRun>>,
    /// Memory in use, with the parts.
    bytes: usize,
}

impl RangeRun {
    fn new(tombstones: usize, fragments: Fragments, parts: Vec<Arc<RangeRun>>) -> RangeRun {
        let (oldest, newest) = fragments.seqnos().unwrap_or_default();
        let oldest = parts.iter().map(|part| part.oldest).fold(oldest, SeqNo::min);
        let in_parts: usize = parts.iter().map(|part| part.bytes).sum();
        let bytes = size_of::<RangeRun>() + fragments.bytes() + in_parts;
        RangeRun { tombstones, fragments, oldest, newest, parts, bytes }
    }

    /// One of both.
    fn merged(older: &Arc<RangeRun>, newer: &Arc<RangeRun>) -> RangeRun {
        let both = [&older.fragments, &newer.fragments].into_iter();
        let tombstones = older.tombstones + newer.tombstones;
        let is_whole = older.parts.is_empty() && newer.parts.is_empty();
        if is_whole && (tombstones <= WHOLE_MAX || !older.fragments.overlap(&newer.fragments)) {
            return RangeRun::new(tombstones, Fragments::union(both), Vec::new());
        }
        let parts = vec![older.clone(), newer.clone()];
        RangeRun::new(tombstones, Fragments::union_for(both, &[]), parts)
    }

    /// The newest tombstone over `key` that a reader at `at` sees; 0 if there is none.
    fn newest_over(&self, key: &[u8], at: SeqNo) -> SeqNo {
        if at < self.oldest {
            return SeqNo::ZERO;
        }
        match self.fragments.over(key).map(|fragment| fragment.newest(at)) {
            None => SeqNo::ZERO,
            Some(SeqNo::ZERO) => {
                let of_parts = self.parts.iter().map(|part| part.newest_over(key, at));
                of_parts.max().unwrap_or_default()
            }
            Some(newest) => newest,
        }
    }

    /// Appends lists to `lists` that together have all numbers.
    fn collect_into<'a>(&'a self, lists: &mut Vec<&'a Fragments>) {
        if self.parts.is_empty() {
            lists.push(&self.fragments);
        }
        self.parts.iter().for_each(|part| part.collect_into(lists));
    }
}

impl RangeSource for Arc<RangeRun> {
    fn narrow(&self, spot: Spot<'_>, at: SeqNo, window: &mut Window) -> Result<()> {
        if at < self.oldest {
            return Ok(());
        }
        if at >= self.newest || self.parts.is_empty() {
            return self.fragments.narrow(spot, at, window);
        }
        self.parts.iter().try_for_each(|part| part.narrow(spot, at, window))
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct RangeDels {
    /// How many tombstones there are: what readers look at, and nothing else if it is 0.
    len: AtomicUsize,
    bytes: AtomicUsize,
    /// The largest first.
    runs: ArcSwapOption<Vec<Arc<RangeRun>>>,
    adding: Mutex<()>,
}

impl fmt::Debug for RangeDels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeDels").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl RangeDels {
    /// How many were added.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len.load(Acquire)
    }

    /// Memory in use, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Adds a tombstone. O(log² n) on the average of n.
    #[cold]
    pub(super) fn add(&self, from: &[u8], to: Option<&[u8]>, seqno: SeqNo) {
        let _adding = self.adding.lock();
        let mut runs = self.runs();
        let one = std::iter::once((from, to, seqno));
        runs.push(Arc::new(RangeRun::new(1, Fragments::cut(one), Vec::new())));
        while let [.., older, newer] = runs.as_slice()
            && older.tombstones <= newer.tombstones
        {
            let merged = RangeRun::merged(older, newer);
            runs.truncate(runs.len() - 2);
            runs.push(Arc::new(merged));
        }
        self.bytes.store(runs.iter().map(|run| run.bytes).sum(), Relaxed);
        self.runs.store(Some(Arc::new(runs)));
        self.len.fetch_add(1, Release);
    }

    /// The runs as they are now.
    #[cold]
    pub(super) fn runs(&self) -> Vec<Arc<RangeRun>> {
        self.runs.load().as_deref().cloned().unwrap_or_default()
    }

    /// Those that readers at `snapshots`, which ascend, and later than all of them tell apart.
    pub(super) fn for_snapshots(&self, snapshots: &[SeqNo]) -> Fragments {
        let runs = self.runs();
        let mut lists = Vec::new();
        runs.iter().for_each(|run| run.collect_into(&mut lists));
        Fragments::union_for(lists.into_iter(), snapshots)
    }

    /// The newest tombstone over `key` that a reader at `at` sees; 0 if there is none.
    pub(super) fn newest_over(&self, key: &[u8], at: SeqNo) -> SeqNo {
        self.newest(|run| run.newest_over(key, at))
    }

    /// The newest tombstone with a key between `from` and `to`; 0 if there is none.
    pub(super) fn newest_within(&self, from: &[u8], to: Option<&[u8]>) -> SeqNo {
        self.newest(|run| run.fragments.newest_within(from, to))
    }

    fn newest(&self, ask: impl Fn(&RangeRun) -> SeqNo) -> SeqNo {
        if self.len() == 0 {
            return SeqNo::ZERO;
        }
        let runs = self.runs.load();
        let runs = runs.iter().flat_map(|runs| runs.iter());
        runs.map(|run| ask(run)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn many_tombstones_lie_in_few_runs() {
        let ranges = RangeDels::default();
        for n in 1..=1000_u64 {
            let (from, to) = (n.to_be_bytes(), (n + 1).to_be_bytes());
            ranges.add(&from, Some(&to), SeqNo::new(n));
            assert!(ranges.runs().len() <= 10);
            for asked in [1, n / 2 + 1, n] {
                let over = |at| ranges.newest_over(&asked.to_be_bytes(), SeqNo::new(at));
                assert_eq!((over(n), over(asked - 1)), (SeqNo::new(asked), SeqNo::ZERO));
            }
        }
        assert_eq!(ranges.len(), 1000);
        assert!(ranges.bytes() > 16_000 && ranges.bytes() < 200_000);
    }

    #[test]
    fn tombstones_that_all_overlap_take_no_square_of_memory() {
        const COUNT: u64 = 5000;
        let ranges = RangeDels::default();
        for n in 1..=COUNT {
            let (from, to) = (n.to_be_bytes(), (n + COUNT).to_be_bytes());
            ranges.add(&from, Some(&to), SeqNo::new(n));
        }
        let each = ranges.bytes() / COUNT as usize;
        assert!(each < 2000, "{each} bytes for each");
        for n in (1..=COUNT).step_by(77) {
            // Covered by all up to the nth one, and by all from the nth one on.
            let (first, last) = (n.to_be_bytes(), (n + COUNT - 1).to_be_bytes());
            for at in (0..=COUNT).step_by(321) {
                let over = |key: [u8; 8]| ranges.newest_over(&key, SeqNo::new(at)).get();
                assert_eq!(over(first), at.min(n));
                assert_eq!(over(last), if at < n { 0 } else { at });
            }
        }
        // What two snapshots and those who come after them can tell apart.
        let snapshots = [SeqNo::new(COUNT / 3), SeqNo::new(COUNT / 2)];
        let fragments = ranges.for_snapshots(&snapshots);
        assert!(fragments.list().iter().all(|fragment| fragment.seqnos.len() <= 3));
        let middle = fragments.over(&COUNT.to_be_bytes()).unwrap();
        assert_eq!(middle.seqnos, [COUNT, COUNT / 2, COUNT / 3].map(SeqNo::new));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn runs_say_what_the_tombstones_say(
            ranges in prop::collection::vec((0..20_u8, prop::option::of(0..20_u8)), 1..150),
            swapped in prop::collection::vec(any::<bool>(), 75),
            asked in prop::collection::vec((0..20_u8, 0..160_u64), 1..40),
        ) {
            // Neighbors may come in either order, as from commits at the same time.
            let mut numbered: Vec<_> = (1..).map(SeqNo::new).zip(ranges).collect();
            for (pair, _) in numbered.chunks_mut(2).zip(swapped).filter(|(_, swap)| *swap) {
                pair.reverse();
            }
            let dels = RangeDels::default();
            for (seqno, (from, to)) in &numbered {
                dels.add(&[*from], to.as_ref().map(std::slice::from_ref), *seqno);
            }
            let over = |key: u8, at: SeqNo| {
                let over = numbered.iter().filter(|(seqno, (from, to))| {
                    *seqno <= at && *from <= key && to.is_none_or(|to| key < to)
                });
                over.map(|(seqno, _)| *seqno).max().unwrap_or_default()
            };
            for (key, at) in asked {
                let at = SeqNo::new(at);
                let expected = over(key, at);
                prop_assert_eq!(dels.newest_over(&[key], at), expected);
                let within = dels.newest_within(&[key], Some(&[key + 1]));
                prop_assert_eq!(within, over(key, SeqNo::MAX));
                let for_reader = dels.for_snapshots(&[at]);
                prop_assert_eq!(for_reader.newest_over(&[key], at), expected);
                for spot in [Spot::At(&[key]), Spot::Before(&[key])] {
                    let mut window = Window::default();
                    dels.runs().iter().try_for_each(|run| run.narrow(spot, at, &mut window)).unwrap();
                    prop_assert!(window.contains(&[key]) || spot != Spot::At(&[key]));
                    prop_assert!(window.from < vec![key] || spot == Spot::At(&[key]));
                    for other in (0..20).filter(|other| window.contains(&[*other])) {
                        prop_assert_eq!(window.seqno, over(other, at));
                    }
                }
            }
        }
    }
}
