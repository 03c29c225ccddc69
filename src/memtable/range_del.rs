//! The range tombstones of a memtable.
//!
//! They are kept as [`Fragments`] in lists that are never changed, of which readers load the whole
//! set at once, without a lock. A new tombstone becomes a list of its own; then lists of about the
//! same size are made one, from the newest on, so that n tombstones lie in about log n lists and each
//! was merged about log n times.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::Ordering::Release;

use arc_swap::ArcSwapOption;

use crate::base::range_tombstone::Fragments;
use crate::base::seqno::SeqNo;
use crate::base::sync::Mutex;

/// A list with how many tombstones went into it.
#[derive(Clone, Debug)]
struct Run {
    tombstones: usize,
    fragments: Arc<Fragments>,
}

#[derive(Default)]
pub(super) struct RangeDels {
    /// How many tombstones there are: what readers look at, and nothing else if it is 0.
    len: AtomicUsize,
    bytes: AtomicUsize,
    /// The largest first.
    runs: ArcSwapOption<Vec<Run>>,
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

    /// Adds a tombstone.
    #[cold]
    pub(super) fn add(&self, from: &[u8], to: Option<&[u8]>, seqno: SeqNo) {
        let _adding = self.adding.lock();
        let mut runs = self.runs.load_full().map_or_else(Vec::new, |runs| runs.to_vec());
        let one = std::iter::once((from, to, seqno));
        runs.push(Run { tombstones: 1, fragments: Arc::new(Fragments::cut(one)) });
        while let [.., older, newer] = runs.as_slice()
            && older.tombstones <= newer.tombstones
        {
            let parts = [&*older.fragments, &*newer.fragments];
            let merged = Run {
                tombstones: older.tombstones + newer.tombstones,
                fragments: Arc::new(Fragments::union(parts.into_iter())),
            };
            runs.truncate(runs.len() - 2);
            runs.push(merged);
        }
        self.bytes.store(runs.iter().map(|run| run.fragments.bytes()).sum(), Relaxed);
        self.runs.store(Some(Arc::new(runs)));
        self.len.fetch_add(1, Release);
    }

    /// The lists as they are now.
    #[cold]
    pub(super) fn lists(&self) -> Vec<Arc<Fragments>> {
        let runs = self.runs.load();
        runs.iter().flat_map(|runs| runs.iter()).map(|run| run.fragments.clone()).collect()
    }

    /// The newest number that `ask` gives of any list.
    pub(super) fn newest(&self, ask: impl Fn(&Fragments) -> SeqNo) -> SeqNo {
        if self.len() == 0 {
            return SeqNo::ZERO;
        }
        let runs = self.runs.load();
        let lists = runs.iter().flat_map(|runs| runs.iter());
        lists.map(|run| ask(&run.fragments)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tombstones_lie_in_few_lists() {
        let ranges = RangeDels::default();
        for n in 1..=1000_u64 {
            let (from, to) = (n.to_be_bytes(), (n + 1).to_be_bytes());
            ranges.add(&from, Some(&to), SeqNo::new(n));
            assert!(ranges.lists().len() <= 10);
            for asked in [1, n / 2 + 1, n] {
                let over = |at| {
                    ranges.newest(|list| list.newest_over(&asked.to_be_bytes(), SeqNo::new(at)))
                };
                assert_eq!((over(n), over(asked - 1)), (SeqNo::new(asked), SeqNo::ZERO));
            }
        }
        assert_eq!(ranges.len(), 1000);
        assert!(ranges.bytes() > 16_000 && ranges.bytes() < 200_000);
    }
}
